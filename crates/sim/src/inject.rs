//! Failure on demand, around any source of frames. Linux: `fail_page_alloc`.
#![expect(unsafe_code, reason = "implements PageSource")]

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use kmm_host::{AllocError, PageBlock, PageReq, PageSource};

use crate::Rng;

const NEVER: u64 = u64::MAX;

/// Lets one request fail: the n-th from now, counted from 0.
#[derive(Debug)]
pub struct FailNth<A> {
    inner: A,
    left: AtomicU64,
    nr_failed: AtomicU64,
}

impl<A> FailNth<A> {
    /// Fails nothing until told.
    pub const fn new(inner: A) -> Self {
        Self {
            inner,
            left: AtomicU64::new(NEVER),
            nr_failed: AtomicU64::new(0),
        }
    }

    /// Lets the `nth` request from now fail; 0 is the next.
    pub fn fail_at(&self, nth: u64) {
        self.left.store(nth, Ordering::Relaxed);
    }

    /// Lets nothing fail.
    pub fn disarm(&self) {
        self.left.store(NEVER, Ordering::Relaxed);
    }

    /// How many requests were made to fail.
    #[must_use]
    pub fn nr_failed(&self) -> u64 {
        self.nr_failed.load(Ordering::Relaxed)
    }

    /// The source itself.
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    fn is_unlucky(&self) -> bool {
        let step = |left: u64| {
            if left == NEVER {
                None
            } else {
                Some(left.wrapping_sub(1))
            }
        };
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            == Ok(0)
    }
}

// SAFETY: what the inner source guarantees for a block holds; failing breaks nothing.
unsafe impl<A: PageSource> PageSource for FailNth<A> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if self.is_unlucky() {
            self.nr_failed.fetch_add(1, Ordering::Relaxed);
            return Err(AllocError::OutOfMemory);
        }
        self.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }
}

/// Lets requests fail by chance.
#[derive(Debug)]
pub struct FailRandom<A> {
    inner: A,
    rng: Mutex<Rng>,
    per_mille: AtomicU64,
    nr_failed: AtomicU64,
}

impl<A> FailRandom<A> {
    /// Of a thousand requests, `per_mille` fail.
    pub fn new(inner: A, seed: u64, per_mille: u64) -> Self {
        Self {
            inner,
            rng: Mutex::new(Rng::new(seed)),
            per_mille: AtomicU64::new(per_mille),
            nr_failed: AtomicU64::new(0),
        }
    }

    /// From now on, of a thousand requests `per_mille` fail.
    pub fn set_per_mille(&self, per_mille: u64) {
        self.per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// How many requests were made to fail.
    #[must_use]
    pub fn nr_failed(&self) -> u64 {
        self.nr_failed.load(Ordering::Relaxed)
    }

    /// The source itself.
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    fn is_unlucky(&self) -> bool {
        let mut rng = self
            .rng
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        rng.below(1000) < self.per_mille.load(Ordering::Relaxed)
    }
}

// SAFETY: what the inner source guarantees for a block holds; failing breaks nothing.
unsafe impl<A: PageSource> PageSource for FailRandom<A> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if self.is_unlucky() {
            self.nr_failed.fetch_add(1, Ordering::Relaxed);
            return Err(AllocError::OutOfMemory);
        }
        self.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }
}

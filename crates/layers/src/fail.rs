//! Failure on demand. Linux: `fail_page_alloc`, lib/fault-inject.c.
#![expect(unsafe_code, reason = "implements PageSource")]

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_frame::{Gfp, NodeItem, Order, Pfn};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};

const NEVER: u64 = u64::MAX;

/// Lets one request fail: the n-th from now, counted from 0. Linux: /proc/self/fail-nth.
#[derive(Debug)]
pub struct FailNth<S> {
    inner: S,
    left: AtomicU64,
    nr_failed: AtomicU64,
}

impl<S> FailNth<S> {
    /// Fails nothing until told.
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            left: AtomicU64::new(NEVER),
            nr_failed: AtomicU64::new(0),
        }
    }

    /// Lets the `nth` request from now fail; 0 is the next.
    pub fn fail_at(&self, nth: u64) {
        self.left.store(nth, Relaxed);
    }

    /// Lets nothing fail.
    pub fn disarm(&self) {
        self.left.store(NEVER, Relaxed);
    }

    /// How many requests were made to fail.
    #[must_use]
    pub fn nr_failed(&self) -> u64 {
        self.nr_failed.load(Relaxed)
    }

    /// The source itself.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    fn is_unlucky(&self) -> bool {
        let step = |left: u64| (left != NEVER).then(|| left.wrapping_sub(1));
        self.left.fetch_update(Relaxed, Relaxed, step) == Ok(0)
    }
}

// SAFETY: what the inner source guarantees for a block holds; failing breaks nothing.
unsafe impl<S: PageSource> PageSource for FailNth<S> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if self.is_unlucky() {
            self.nr_failed.fetch_add(1, Relaxed);
            return Err(AllocError::OutOfMemory);
        }
        self.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }

    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        self.inner.free_bulk(blocks);
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.inner.count(pfn, item, delta);
    }
}

/// Which requests [`FailRandom`] may let fail, and how often. Linux: the files of /sys/kernel/debug/fail_page_alloc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailAttr {
    /// Of a thousand requests, so many fail. Linux: `probability`, of a hundred.
    pub per_mille: u64,
    /// Only every n-th request may fail; 0 and 1 for each. Linux: `interval`.
    pub interval: u64,
    /// So many fail in all; `None` for no limit. Linux: `times`.
    pub times: Option<u64>,
    /// So many pages are handed out before any request may fail. Linux: `space`.
    pub space_pages: u64,
    /// Smaller blocks never fail. Linux: `min-order`.
    pub min_order: Order,
    /// Requests with any of these flags never fail. Linux: `ignore-gfp-highmem`, `ignore-gfp-wait`.
    pub ignored: Gfp,
}

impl FailAttr {
    /// Of a thousand requests of any kind, `per_mille` fail.
    #[must_use]
    pub const fn per_mille(per_mille: u64) -> Self {
        Self {
            per_mille,
            interval: 1,
            times: None,
            space_pages: 0,
            min_order: Order::ZERO,
            ignored: Gfp::empty(),
        }
    }
}

/// Lets requests fail by chance; those that must not (`Gfp::NOFAIL`) never.
pub struct FailRandom<S> {
    inner: S,
    attr: FailAttr,
    per_mille: AtomicU64,
    state: AtomicU64,
    count: AtomicU64,
    times: AtomicU64,
    space: AtomicU64,
    nr_failed: AtomicU64,
}

impl<S> FailRandom<S> {
    /// Of a thousand requests, `per_mille` fail; which, the seed says.
    pub const fn new(inner: S, seed: u64, per_mille: u64) -> Self {
        Self::with_attr(inner, seed, FailAttr::per_mille(per_mille))
    }

    /// Requests fail as `attr` says; which, the seed says.
    pub const fn with_attr(inner: S, seed: u64, attr: FailAttr) -> Self {
        let times = match attr.times {
            Some(times) => times,
            None => NEVER,
        };
        Self {
            inner,
            attr,
            per_mille: AtomicU64::new(attr.per_mille),
            state: AtomicU64::new(seed),
            count: AtomicU64::new(0),
            times: AtomicU64::new(times),
            space: AtomicU64::new(attr.space_pages),
            nr_failed: AtomicU64::new(0),
        }
    }

    /// From now on, of a thousand requests `per_mille` fail.
    pub fn set_per_mille(&self, per_mille: u64) {
        self.per_mille.store(per_mille, Relaxed);
    }

    /// How many requests were made to fail.
    #[must_use]
    pub fn nr_failed(&self) -> u64 {
        self.nr_failed.load(Relaxed)
    }

    /// The source itself.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Linux: `__should_fail_alloc_page`, then `should_fail`.
    fn is_unlucky(&self, req: PageReq) -> bool {
        let attr = &self.attr;
        if req.order < attr.min_order || req.gfp.intersects(attr.ignored | Gfp::NOFAIL) {
            return false;
        }
        if self.times.load(Relaxed) == 0 || self.has_space(req.order.nr_pages() as u64) {
            return false;
        }
        if attr.interval > 1 && (self.count.fetch_add(1, Relaxed) + 1) % attr.interval != 0 {
            return false;
        }
        if self.random() % 1000 >= self.per_mille.load(Relaxed) {
            return false;
        }
        let step = |times: u64| match times {
            0 => None,
            NEVER => Some(NEVER),
            times => Some(times - 1),
        };
        self.times.fetch_update(Relaxed, Relaxed, step).is_ok()
    }

    /// Whether pages may still be handed out without failure; takes them from the space.
    fn has_space(&self, nr_pages: u64) -> bool {
        let step = |space: u64| (space > nr_pages).then(|| space - nr_pages);
        self.space.fetch_update(Relaxed, Relaxed, step).is_ok()
    }

    /// Sebastiano Vigna's `splitmix64`.
    fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

// SAFETY: what the inner source guarantees for a block holds; failing breaks nothing.
unsafe impl<S: PageSource> PageSource for FailRandom<S> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if self.is_unlucky(req) {
            self.nr_failed.fetch_add(1, Relaxed);
            return Err(AllocError::OutOfMemory);
        }
        self.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }

    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        self.inner.free_bulk(blocks);
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.inner.count(pfn, item, delta);
    }
}

impl<S> fmt::Debug for FailRandom<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailRandom")
            .field("attr", &self.attr)
            .field("nr_failed", &self.nr_failed)
            .finish_non_exhaustive()
    }
}

//! Freed blocks wait before anybody gets them again, so that who still uses them is found out. Linux: KASAN's quarantine,
//! mm/kasan/quarantine.c, which does it for objects.
#![expect(unsafe_code, reason = "implements PageSource")]

use core::fmt;

use kmm_frame::{NodeItem, Pfn};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};
use lock_api::{Mutex, RawMutex};

/// Keeps the blocks that were freed last, and gives them to the source in the order in which they came.
///
/// When the source has nothing for a request, it gets all of them, and is asked again.
pub struct Quarantine<S, L: RawMutex> {
    inner: S,
    ring: Mutex<L, Ring>,
}

struct Ring {
    slots: &'static mut [Option<PageBlock>],
    first: usize,
    count: usize,
    nr_pages: usize,
    most_pages: usize,
}

impl<S, L: RawMutex> Quarantine<S, L> {
    /// Keeps as many blocks as `slots` has room for, and `most_pages` pages in all.
    pub const fn new(inner: S, slots: &'static mut [Option<PageBlock>], most_pages: usize) -> Self {
        Self {
            inner,
            ring: Mutex::from_raw(
                L::INIT,
                Ring {
                    slots,
                    first: 0,
                    count: 0,
                    nr_pages: 0,
                    most_pages,
                },
            ),
        }
    }

    /// The source itself.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// How many pages wait.
    #[must_use]
    pub fn nr_pages(&self) -> usize {
        self.ring.lock().nr_pages
    }
}

impl<S: PageSource, L: RawMutex> Quarantine<S, L> {
    /// Gives every block that waits to the source, the oldest first; how many pages. Linux: `kasan_quarantine_reduce`.
    pub fn drain(&self) -> usize {
        let mut nr_pages = 0;
        loop {
            // The lock is not held while the source works.
            let oldest = self.ring.lock().pop();
            let Some(block) = oldest else {
                return nr_pages;
            };
            nr_pages += block.order().nr_pages();
            self.inner.free(block);
        }
    }
}

impl Ring {
    fn pop(&mut self) -> Option<PageBlock> {
        if self.count == 0 {
            return None;
        }
        let block = self.slots[self.first].take()?;
        self.first = (self.first + 1) % self.slots.len();
        self.count -= 1;
        self.nr_pages -= block.order().nr_pages();
        Some(block)
    }

    /// Whether a block fits into the ring when it is empty.
    fn could_hold(&self, nr_pages: usize) -> bool {
        !self.slots.is_empty() && nr_pages <= self.most_pages
    }

    /// Takes the block in, or gives back what has to leave: the oldest, or the block itself when it never fits.
    fn push(&mut self, slot: &mut Option<PageBlock>) -> Option<PageBlock> {
        let block = slot.take()?;
        let nr_pages = block.order().nr_pages();
        if !self.could_hold(nr_pages) {
            return Some(block);
        }
        if self.count == self.slots.len() || self.nr_pages + nr_pages > self.most_pages {
            *slot = Some(block);
            return self.pop();
        }
        let free = (self.first + self.count) % self.slots.len();
        self.slots[free] = Some(block);
        self.count += 1;
        self.nr_pages += nr_pages;
        None
    }
}

// SAFETY: a block that waits is owned by the ring, so the inner source cannot hand it out; all blocks come from there.
unsafe impl<S: PageSource, L: RawMutex> PageSource for Quarantine<S, L> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        match self.inner.alloc(req) {
            Err(AllocError::OutOfMemory) if self.drain() != 0 => self.inner.alloc(req),
            result => result,
        }
    }

    fn free(&self, block: PageBlock) {
        let mut slot = Some(block);
        while slot.is_some() {
            let leaves = self.ring.lock().push(&mut slot);
            if let Some(leaves) = leaves {
                self.inner.free(leaves);
            }
        }
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.inner.count(pfn, item, delta);
    }
}

impl<S: fmt::Debug, L: RawMutex> fmt::Debug for Quarantine<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantine")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

//! Where a zone is: the frames from its first to its last.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kmm_frame::{Pfn, PfnRange};

/// A range that changes when memory comes or goes.
#[derive(Debug)]
pub(crate) struct Span {
    start: AtomicUsize,
    nr_pages: AtomicUsize,
}

impl Span {
    pub(crate) fn new(range: PfnRange) -> Self {
        Self {
            start: AtomicUsize::new(range.start().index()),
            nr_pages: AtomicUsize::new(range.nr_pages()),
        }
    }

    pub(crate) fn set(&self, range: PfnRange) {
        if self.start.load(Relaxed) != range.start().index() {
            self.nr_pages.store(0, Relaxed);
            self.start.store(range.start().index(), Relaxed);
        }
        self.nr_pages.store(range.nr_pages(), Relaxed);
    }

    pub(crate) fn range(&self) -> PfnRange {
        let start = Pfn::new(self.start.load(Relaxed));
        PfnRange::with_len(start, self.nr_pages.load(Relaxed))
    }

    #[inline]
    pub(crate) fn contains(&self, pfn: Pfn) -> bool {
        let offset = pfn.index().wrapping_sub(self.start.load(Relaxed));
        offset < self.nr_pages.load(Relaxed)
    }
}

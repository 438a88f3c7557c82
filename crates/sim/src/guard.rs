//! Pages that can be hidden.
#![expect(unsafe_code, reason = "implements GuardedPages")]

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kmm_frame::PAGE_SIZE;
use kmm_host::GuardedPages;

/// Memory with pages that are shown or hidden. The host's MMU knows nothing of it: who plays a client asks
/// [`SimGuard::is_shown`] before it touches a byte, and calls the fault handler if not.
#[derive(Debug)]
pub struct SimGuard {
    start: NonNull<u8>,
    shown: Vec<AtomicBool>,
    /// So many calls fail from now on.
    failing: AtomicUsize,
}

// SAFETY: the memory is plain bytes, and its users say who may touch which.
unsafe impl Send for SimGuard {}
// SAFETY: as above.
unsafe impl Sync for SimGuard {}

impl SimGuard {
    /// So many pages, all shown. Never given back.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn new(nr_pages: usize) -> &'static Self {
        assert!(nr_pages > 0, "no pages");
        let layout = Layout::from_size_align(nr_pages * PAGE_SIZE, PAGE_SIZE);
        let layout = layout.unwrap_or_else(|error| panic!("{nr_pages} pages: {error}"));
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) });
        Box::leak(Box::new(Self {
            start: start.unwrap_or_else(|| std::alloc::handle_alloc_error(layout)),
            shown: (0..nr_pages).map(|_| AtomicBool::new(true)).collect(),
            failing: AtomicUsize::new(0),
        }))
    }

    /// Whether a byte may be touched now; all others may that are not of these pages.
    #[must_use]
    pub fn is_shown(&self, address: usize) -> bool {
        let page = address.wrapping_sub(self.start.addr().get()) / PAGE_SIZE;
        let shown = self.shown.get(page);
        shown.is_none_or(|shown| shown.load(Ordering::Relaxed))
    }

    /// So many calls of `show` and `hide` fail from now on.
    pub fn fail(&self, nr_calls: usize) {
        self.failing.store(nr_calls, Ordering::Relaxed);
    }

    fn set(&self, nr: usize, is_shown: bool) -> bool {
        let left = self.failing.load(Ordering::Relaxed);
        self.failing
            .store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 {
            self.shown[nr].store(is_shown, Ordering::Relaxed);
        }
        left == 0
    }
}

// SAFETY: freshly allocated, never freed, and all of it can always be touched.
unsafe impl GuardedPages for SimGuard {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn nr_pages(&self) -> usize {
        self.shown.len()
    }

    fn show(&self, nr: usize) -> bool {
        self.set(nr, true)
    }

    fn hide(&self, nr: usize) -> bool {
        self.set(nr, false)
    }
}

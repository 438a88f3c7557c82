//! Pages that can be hidden: a seam for sampled guard pages.
#![expect(unsafe_code, reason = "an unsafe trait: others write to the pages")]

use core::fmt;
use core::ptr::NonNull;

/// A stretch of memory of which each page can be hidden, so that whoever touches it raises a page fault. Linux: KFENCE's pool,
/// `kfence_protect` and `kfence_unprotect`.
///
/// # Safety
/// Implementors guarantee that the pages lie one behind another from a multiple of the page size on, that nobody else uses them, and
/// that those which are shown can be read and written, by any CPU, until they are hidden.
///
/// # Context
/// Any, interrupts included. Must not allocate.
pub unsafe trait GuardedPages: fmt::Debug {
    /// The first byte.
    fn start(&self) -> NonNull<u8>;

    /// How many pages there are.
    fn nr_pages(&self) -> usize;

    /// Lets every CPU touch a page; whether that worked.
    fn show(&self, nr: usize) -> bool;

    /// Lets no CPU touch a page, none that remembers its translation either; whether that worked.
    fn hide(&self, nr: usize) -> bool;
}

// SAFETY: every call goes to the pages behind the reference, which keep the guarantees.
unsafe impl<G: GuardedPages + ?Sized> GuardedPages for &G {
    fn start(&self) -> NonNull<u8> {
        (**self).start()
    }

    fn nr_pages(&self) -> usize {
        (**self).nr_pages()
    }

    fn show(&self, nr: usize) -> bool {
        (**self).show(nr)
    }

    fn hide(&self, nr: usize) -> bool {
        (**self).hide(nr)
    }
}

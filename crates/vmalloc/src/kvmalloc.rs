//! `kvmalloc`: contiguous memory if it is easy to have, else vmalloc.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use kmm_frame::{Gfp, PAGE_SIZE, VirtAddr};
use kmm_host::{PageSource, PteStore, TlbControl};
use lock_api::RawMutex;

use crate::{Vmalloc, VmallocError};

impl<S: PteStore, A: PageSource, T: TlbControl, L: RawMutex> Vmalloc<'_, S, A, T, L> {
    /// Tries `kmalloc` without trying hard, then vmalloc. Linux: `kvmalloc`, `kvzalloc`.
    ///
    /// `kmalloc` is the host's, given the flags to use: for more than a page, it neither warns nor retries, so that no
    /// program is killed for the sake of contiguity.
    ///
    /// # Context
    /// As [`Vmalloc::vmalloc`].
    ///
    /// # Errors
    /// As [`Vmalloc::vmalloc`]; for up to a page, [`VmallocError::OutOfMemory`] when `kmalloc` fails.
    #[track_caller]
    pub fn kvmalloc(
        &self,
        size_bytes: usize,
        gfp: Gfp,
        kmalloc: impl FnOnce(usize, Gfp) -> Option<VirtAddr>,
    ) -> Result<VirtAddr, VmallocError> {
        if size_bytes <= PAGE_SIZE {
            return kmalloc(size_bytes, gfp).ok_or(VmallocError::OutOfMemory);
        }
        match kmalloc(size_bytes, gfp | Gfp::NORETRY | Gfp::NOWARN) {
            Some(addr) => Ok(addr),
            None => self.vmalloc(size_bytes, gfp),
        }
    }

    /// Frees what [`Vmalloc::kvmalloc`] returned, by its address: `kfree` is the host's. Linux: `kvfree`.
    ///
    /// # Errors
    /// As [`Vmalloc::vfree`].
    ///
    /// # Safety
    /// 1. `addr` came from [`Vmalloc::kvmalloc`].
    /// 2. Nobody uses the memory any more.
    pub unsafe fn kvfree(
        &self,
        addr: VirtAddr,
        kfree: impl FnOnce(VirtAddr),
    ) -> Result<(), VmallocError> {
        if !self.is_vmalloc_addr(addr) {
            kfree(addr);
            return Ok(());
        }
        // SAFETY: obligations 1 and 2.
        unsafe { self.vfree(addr) }
    }
}

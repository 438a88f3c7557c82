//! Memory that stands for RAM: aligned, on huge pages where wanted, as a kernel's direct map would be.
//!
//! Regions on huge pages are touched once and kept for the next user, since clearing a gigabyte for every workload would
//! take longer than the workload.
#![expect(unsafe_code, reason = "maps memory")]

use core::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Which pages a region is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Of 2 MiB, all of them touched: no fault and few TLB misses disturb a time.
    Huge,
    /// Of 4 KiB, none of them touched: the resident ones are those that an allocator used.
    Lazy,
}

/// Anonymous memory of its own.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    mapping: Mapping,
    pages: Pages,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a region owns its memory; whoever has it decides who uses the bytes.
unsafe impl Send for Region {}
// SAFETY: a shared region shows its address only.
unsafe impl Sync for Region {}

static KEPT: Mutex<Vec<Region>> = Mutex::new(Vec::new());

impl Region {
    /// `len` bytes at a multiple of `align`, a power of two. Huge pages may hold what an earlier user left.
    ///
    /// # Panics
    /// When the system has no memory left.
    #[must_use]
    pub fn new(len: usize, align: usize, pages: Pages) -> Self {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |region: &Region| {
            region.len == len && region.pages == pages && region.addr().is_multiple_of(align)
        };
        if let Some(at) = kept.iter().position(fits) {
            return kept.swap_remove(at);
        }
        drop(kept);
        Self::map(len, align, pages)
    }

    /// The first byte.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The address of the first byte.
    #[must_use]
    pub fn addr(&self) -> usize {
        self.base.as_ptr().expose_provenance()
    }

    /// The bytes in it.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no region is empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// All bytes, for the one that manages them.
    ///
    /// # Safety
    /// 1. Nobody uses the slice after the region is dropped.
    /// 2. Nobody else uses the region meanwhile.
    #[must_use]
    pub unsafe fn bytes(&self) -> &'static mut [u8] {
        // SAFETY: mapped, readable and writable; the rest are the caller's obligations.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Gives the kept regions back to the system.
    pub fn unmap_kept() {
        let kept = core::mem::take(&mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner));
        for region in kept {
            region.unmap();
        }
    }

    fn map(len: usize, align: usize, pages: Pages) -> Self {
        let mapped_len = len + align;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the system likes.
        let raw = unsafe { libc::mmap(core::ptr::null_mut(), mapped_len, access, kind, -1, 0) };
        assert_ne!(raw, libc::MAP_FAILED, "no memory for {mapped_len} bytes");
        let raw = raw.cast::<u8>();
        let skip = raw.addr().next_multiple_of(align) - raw.addr();
        // SAFETY: `skip` is below `align`, which the mapping is longer than `len`.
        let base = unsafe { raw.add(skip) };
        let advice = match pages {
            Pages::Huge => libc::MADV_HUGEPAGE,
            Pages::Lazy => libc::MADV_NOHUGEPAGE,
        };
        // SAFETY: within the mapping; advice changes no contents.
        unsafe { libc::madvise(base.cast(), len, advice) };
        if pages == Pages::Huge {
            // SAFETY: ours alone, and `len` bytes long.
            unsafe { base.write_bytes(0, len) };
        }
        let (Some(base), Some(raw)) = (NonNull::new(base), NonNull::new(raw)) else {
            unreachable!("mapped at address 0");
        };
        Self {
            base,
            len,
            mapping: Mapping {
                base: raw,
                len: mapped_len,
            },
            pages,
        }
    }

    fn unmap(self) {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: this mapping is the region's, and nobody has the region any more.
        unsafe { libc::munmap(this.mapping.base.as_ptr().cast(), this.mapping.len) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let again = Self { ..*self };
        if self.pages == Pages::Huge {
            KEPT.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(again);
        } else {
            again.unmap();
        }
    }
}

/// Bytes of this process that are in memory now.
#[must_use]
pub fn resident_bytes() -> usize {
    const PAGE: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.unwrap_or(0) * PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_and_reused() {
        let first = Region::new(1 << 21, 1 << 22, Pages::Huge);
        let addr = first.addr();
        assert_eq!(addr % (1 << 22), 0);
        drop(first);
        assert_eq!(Region::new(1 << 21, 1 << 21, Pages::Huge).addr(), addr);
    }

    #[test]
    fn lazy_regions_take_no_memory_until_touched() {
        let before = resident_bytes();
        let region = Region::new(64 << 20, 4096, Pages::Lazy);
        assert!(resident_bytes() < before + (1 << 20));
        // SAFETY: ours alone, dropped after the last use.
        let bytes = unsafe { region.bytes() };
        bytes[..16 << 20].fill(1);
        assert!(resident_bytes() >= before + (15 << 20));
    }
}

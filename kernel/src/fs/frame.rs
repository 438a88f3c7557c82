//! Frames that hold the contents of files.
#![expect(
    unsafe_code,
    reason = "reaches the bytes of frames that user mode may map too"
)]

use core::sync::atomic::{AtomicUsize, Ordering};

use kmm::frame::{Gfp, NodeItem, PAGE_SIZE, PageFlags, Pfn};
use kmm::host::{PageReq, PageSource as _, PhysMap as _};

use crate::mm;
use crate::syscall::Errno;

static NR_FRAMES: AtomicUsize = AtomicUsize::new(0);

/// How many there are: an audit compares it with the descriptors.
pub fn nr_frames() -> usize {
    NR_FRAMES.load(Ordering::Relaxed)
}

/// A frame with contents of a file, and one reference to it. Others refer to it as well: page tables that map it.
#[derive(Debug)]
pub struct Frame(Pfn);

impl Frame {
    /// A frame of zeros for what is nowhere else. Only half of all memory may be such frames, or there is none to clean up with.
    /// Linux: the size of a tmpfs.
    pub fn new_for_data() -> Result<Self, Errno> {
        let (total_bytes, _) = mm::total_and_free_bytes();
        if nr_frames() as u64 >= total_bytes / PAGE_SIZE as u64 / 2 {
            return Err(Errno::NOSPC);
        }
        Self::new_zeroed()
    }

    /// A frame of zeros.
    pub fn new_zeroed() -> Result<Self, Errno> {
        let block = mm::manager()
            .page_alloc()
            .alloc(PageReq::page(Gfp::HIGHUSER | Gfp::ZERO))
            .map_err(|_| Errno::NOMEM)?;
        let (pfn, _) = block.into_raw();
        let page = mm::mem_map().page(pfn);
        page.set_ref_count(1);
        page.set(PageFlags::FILE | PageFlags::UPTODATE);
        NR_FRAMES.fetch_add(1, Ordering::Relaxed);
        count(pfn, 1);
        Ok(Self(pfn))
    }

    /// Its number, with one more reference taken on it.
    pub fn share(&self) -> Pfn {
        mm::mem_map().page(self.0).get();
        self.0
    }

    /// Copies bytes out, from `at` within the frame.
    pub fn read(&self, at: usize, buf: &mut [u8]) {
        self.with(|bytes| buf.copy_from_slice(&bytes[at..at + buf.len()]));
    }

    /// Copies bytes in, to `at` within the frame.
    pub fn write(&self, at: usize, buf: &[u8]) {
        self.with(|bytes| bytes[at..at + buf.len()].copy_from_slice(buf));
    }

    /// Fills with zeros from `at` to the end.
    pub fn clear_from(&self, at: usize) {
        self.with(|bytes| bytes[at..].fill(0));
    }

    fn with(&self, f: impl FnOnce(&mut [u8; PAGE_SIZE])) {
        // SAFETY: the frame is RAM that we hold a reference to, and its bytes are reached only here and by user mode: the closures
        // above touch nothing but plain kernel memory, so no second call is under way.
        unsafe { mm::phys().with_pfn(self.0, |mut page| f(page.bytes_mut())) }
    }
}

/// Every file lives in memory alone, as in tmpfs.
fn count(pfn: Pfn, nr_pages: isize) {
    for item in [NodeItem::FilePages, NodeItem::Shmem] {
        mm::manager().pages().count(pfn, item, nr_pages);
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        NR_FRAMES.fetch_sub(1, Ordering::Relaxed);
        count(self.0, -1);
        // It may stay mapped, but it is no longer a page of a file.
        mm::mem_map()
            .page(self.0)
            .clear(PageFlags::FILE | PageFlags::UPTODATE | PageFlags::DIRTY);
        // SAFETY: the reference is ours, and spent here; translations have references of their own.
        unsafe { mm::put_page(self.0) };
    }
}

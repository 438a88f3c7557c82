//! Frames before the page allocator exists.
#![expect(unsafe_code, reason = "vouches that memblock hands frames out once")]

use core::ops::Range;

use kmm_frame::memblock::{Memblock, MemblockError};
use kmm_frame::{Gfp, PhysAddr};
use lock_api::{Mutex, RawMutex};

use crate::{AllocError, PageBlock, PageReq, PageSource, PhysMap};

/// A [`Memblock`] as a source of frames, as for the first page tables.
///
/// Zones and nodes of a request are not looked at; `within` bounds all of them. Borrows the memblock, which has its
/// frames and those handed out in its books when the source is dropped.
pub struct MemblockSource<'a, L: RawMutex, P: PhysMap, const N: usize = 256> {
    block: Mutex<L, &'a mut Memblock<N>>,
    phys: P,
    within: Range<PhysAddr>,
}

impl<'a, L: RawMutex, P: PhysMap, const N: usize> MemblockSource<'a, L, P, N> {
    /// Frames of `block` that lie within the bounds, reached through `phys`.
    ///
    /// # Safety
    /// 1. What `block` calls memory within the bounds is RAM that `phys` reaches.
    /// 2. Nobody else uses what `block` calls free, nor frees in it what this source has handed out.
    #[must_use]
    pub const unsafe fn new(block: &'a mut Memblock<N>, phys: P, within: Range<PhysAddr>) -> Self {
        Self {
            block: Mutex::from_raw(L::INIT, block),
            phys,
            within,
        }
    }
}

// SAFETY: memblock reserves what it hands out and hands out nothing reserved, aligned as asked; that it is RAM, reachable
// and nobody else's, `new` was promised; `Gfp::ZERO` is obeyed below.
unsafe impl<L: RawMutex, P: PhysMap, const N: usize> PageSource for MemblockSource<'_, L, P, N> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let size_bytes = req.order.size_bytes() as u64;
        let start = self
            .block
            .lock()
            .alloc(size_bytes, size_bytes, self.within.clone())
            .map_err(|_| AllocError::OutOfMemory)?;
        // SAFETY: RAM and nobody else's by the promises of `new`; aligned to its size.
        let mut block = unsafe { PageBlock::from_raw(start.pfn(), req.order) };
        if req.gfp.contains(Gfp::ZERO) {
            self.phys.clear(&mut block);
        }
        Ok(block)
    }

    /// # Panics
    /// When the block is none of the memblock's allocations.
    fn free(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        match self
            .block
            .lock()
            .free(pfn.phys(), order.size_bytes() as u64)
        {
            // Without room for one more region, the frames stay reserved: lost, but not reused.
            Ok(()) | Err(MemblockError::TooManyRegions) => {}
            Err(error) => panic!("freeing {pfn} to memblock: {error}"),
        }
    }
}

impl<L: RawMutex, P: PhysMap, const N: usize> core::fmt::Debug for MemblockSource<'_, L, P, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MemblockSource")
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

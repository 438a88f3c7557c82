//! Pages by their address, by bytes, by the many, and as folios.

use core::ptr::NonNull;

use kmm_frame::{Folio, Gfp, NodeId, NodeMask, Order, PAGE_SIZE, PfnRange};
use kmm_host::{AllocError, Host, PageBlock, PageReq, PhysMap};
use kmm_zone::Pressure;

use super::places::Request;
use super::{Caller, PageAlloc};

/// Pages in one piece, as many as were asked for. Given back by [`PageAlloc::free_pages_exact`]; one that is dropped is
/// lost.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "pages that are dropped are lost"]
pub struct ExactPages {
    address: NonNull<u8>,
    frames: PfnRange,
}

impl ExactPages {
    /// Where they are.
    #[must_use]
    pub const fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Which they are.
    #[must_use]
    pub const fn frames(&self) -> PfnRange {
        self.frames
    }

    /// Their bytes: at least as many as were asked for.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        self.frames.nr_pages() * PAGE_SIZE
    }
}

impl<H: Host> PageAlloc<H> {
    /// Takes a block out that has an address. None of it is high memory, whatever `gfp` says. Linux: `__get_free_pages`:
    /// `alloc_pages` and `page_address`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn get_free_pages(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        order: Order,
    ) -> Result<NonNull<u8>, AllocError> {
        let block = self.alloc_pages(caller, gfp - Gfp::HIGHMEM, order)?;
        self.give_address(block)
    }

    /// Takes a page out that has an address. Linux: `__get_free_page`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn get_free_page(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
    ) -> Result<NonNull<u8>, AllocError> {
        self.get_free_pages(caller, gfp, Order::ZERO)
    }

    /// Takes a page of zeros out that has an address. Linux: `get_zeroed_page`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn get_zeroed_page(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
    ) -> Result<NonNull<u8>, AllocError> {
        self.get_free_page(caller, gfp | Gfp::ZERO)
    }

    /// Takes as many pages as hold `size_bytes`, in one piece that has an address: a block, whose rest goes back at once.
    /// Linux: `alloc_pages_exact`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// [`AllocError::BadSize`] for nothing, and for more than the largest block; else as for [`PageAlloc::alloc_pages`].
    pub fn alloc_pages_exact(
        &self,
        caller: &mut (impl Caller + ?Sized),
        size_bytes: usize,
        gfp: Gfp,
    ) -> Result<ExactPages, AllocError> {
        let order = Order::for_size(size_bytes)
            .filter(|_| size_bytes > 0)
            .ok_or(AllocError::BadSize)?;
        let nr_pages = size_bytes.div_ceil(PAGE_SIZE);
        let block = self.alloc_pages(caller, gfp - Gfp::COMP - Gfp::HIGHMEM, order)?;
        let Some(address) = self.host.phys().direct(block.pfn()) else {
            self.free_pages(block);
            return Err(AllocError::OutOfMemory);
        };
        let frames = PfnRange::with_len(block.pfn(), nr_pages);
        match self.split_page(block) {
            Ok(parts) => {
                for (nr, part) in parts.enumerate() {
                    if nr < nr_pages {
                        let _ = part.into_raw();
                    } else {
                        self.free_pages(part);
                    }
                }
                Ok(ExactPages { address, frames })
            }
            Err(block) => {
                self.free_pages(block);
                Err(AllocError::OutOfMemory)
            }
        }
    }

    /// Fills the empty places of `out` with single pages; how many places are full. Many pages share a lock. When the
    /// zones have not one, one is waited for, if the caller may. Linux: `alloc_pages_bulk_array`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    pub fn alloc_pages_bulk(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        node: Option<NodeId>,
        out: &mut [Option<PageBlock>],
    ) -> usize {
        let gfp = caller.limit(gfp);
        let mut rest = &mut out[..];
        let mut got_any = false;
        while let Some(first) = rest.iter().position(Option::is_none) {
            let empty = &mut rest[first..];
            let run = empty.iter().take_while(|slot| slot.is_none()).count();
            let (empty, after) = empty.split_at_mut(run);
            let count = if gfp.contains(Gfp::ACCOUNT) || !caller.allowed().is_all() {
                0
            } else {
                self.bulk_from_zones(gfp, node, empty)
            };
            got_any |= count > 0;
            if count < run {
                self.bulk_by_one(caller, gfp, node, &mut empty[count..], got_any);
                break;
            }
            rest = after;
        }
        out.iter().flatten().count()
    }

    fn bulk_from_zones(
        &self,
        gfp: Gfp,
        node: Option<NodeId>,
        out: &mut [Option<PageBlock>],
    ) -> usize {
        let (count, pressure) = self.zones.alloc_pages_bulk(gfp, node, out);
        if pressure == Pressure::WakeKswapd {
            let order = Order::ZERO;
            let req = PageReq { order, gfp, node };
            self.wake_kswapds(&Request::new(req, NodeMask::ALL, NodeMask::ALL));
        }
        for slot in &mut out[..count] {
            *slot = slot.take().and_then(|block| self.finish(block, gfp).ok());
        }
        count
    }

    /// What cannot be done by the many: with an account or a cpuset each page by itself, else one page if there is none yet.
    fn bulk_by_one(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        node: Option<NodeId>,
        out: &mut [Option<PageBlock>],
        has_some: bool,
    ) {
        let is_single = gfp.contains(Gfp::ACCOUNT) || !caller.allowed().is_all();
        if has_some && !is_single {
            return;
        }
        let most = if is_single { out.len() } else { 1 };
        let order = Order::ZERO;
        let req = PageReq { order, gfp, node };
        for slot in &mut out[..most] {
            match self.alloc_pages_nodemask(caller, req, NodeMask::ALL) {
                Ok(block) => *slot = Some(block),
                Err(_) => return,
            }
        }
    }

    /// Takes a folio out, held once: to be given back by [`PageAlloc::put_page`]. Linux: `folio_alloc`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    pub fn folio_alloc(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        order: Order,
    ) -> Result<Folio, AllocError> {
        let block = self.alloc_pages(caller, gfp | Gfp::COMP, order)?;
        match Folio::from_head(&self.zones.map(), block.pfn()) {
            Ok(folio) => {
                let _ = block.into_raw();
                Ok(folio)
            }
            Err(_) => {
                self.free_pages(block);
                Err(AllocError::OutOfMemory)
            }
        }
    }

    /// The address of a block that has one; else the block goes back. Linux: `page_address`.
    #[inline]
    fn give_address(&self, block: PageBlock) -> Result<NonNull<u8>, AllocError> {
        match self.host.phys().direct(block.pfn()) {
            Some(address) => {
                let _ = block.into_raw();
                Ok(address)
            }
            None => {
                self.free_pages(block);
                Err(AllocError::OutOfMemory)
            }
        }
    }
}

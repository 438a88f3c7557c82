//! What a slab has besides its pages: of kinds that keep the numbers of free objects elsewhere.

use core::num::NonZero;

use kmm_frame::{Gfp, NodeId};
use kmm_host::{Cpus, PageBlock, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::SlubError;
use crate::cache::Shape;
use crate::classes::slot_of;
use crate::slab::SlabKind;

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// Gets what a new slab needs besides, and notes it in its head's descriptor. Linux: `alloc_slabmgmt`, mm/slab.c.
    ///
    /// That is an object of a small kmalloc cache, whose own slabs need nothing: so this goes one level deep. It comes past the
    /// arrays: one of those may be what the slab is for.
    pub(super) fn add_index(
        &self,
        shape: &Shape,
        gfp: Gfp,
        block: &PageBlock,
    ) -> Result<(), SlubError> {
        let head = self.map.get(block.pfn()).filter(|_| K::HAS_INDEX);
        let Some(head) = head else {
            return Ok(());
        };
        head.set_index(0);
        let slot = match K::index_bytes(&shape.geometry, block.order()) {
            0 => return Ok(()),
            bytes => slot_of(bytes).ok_or(SlubError::TooLarge)?,
        };
        let plain = gfp - (Gfp::DMA | Gfp::DMA32 | Gfp::RECLAIMABLE | Gfp::THISNODE);
        let node = u8::try_from(self.this_node()).ok().map(NodeId::new);
        let index = self.alloc_in(slot, None, plain, node)?;
        head.set_index(index.addr().get() as u64);
        Ok(())
    }

    /// Gives it back. The slab is nobody's any more.
    pub(super) fn drop_index(&self, block: &PageBlock) {
        if !K::HAS_INDEX {
            return;
        }
        let (head, base) = (self.map.get(block.pfn()), self.phys.direct(block.pfn()));
        if let (Some(head), Some(base)) = (head, base) {
            let addr = usize::try_from(head.index()).ok().and_then(NonZero::new);
            head.set_index(0);
            if let Some(addr) = addr {
                self.free_direct(base.with_addr(addr));
            }
        }
    }
}

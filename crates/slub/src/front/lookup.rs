//! From an address to what it is part of.

use core::ptr::NonNull;

use kmm_frame::{Order, PAGE_SHIFT, PageFlags, Pfn};
use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::SlubBugKind;
use crate::slab::SlabKind;

/// Where an address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the slab with this head, of the cache in this slot, on this node.
    Slab { slot: u8, node: usize, head: Pfn },
    /// In the first page of this large allocation.
    Large { head: Pfn },
}

/// The node and slot of large allocations.
const LARGE: u64 = 0xffff;

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// The slot of the cache that an address is an object of, if one look tells: on machines of one node, whose descriptors are
    /// an array.
    #[inline(always)]
    pub(crate) fn slot_at(&self, ptr: NonNull<u8>) -> Option<u8> {
        self.slot_by_label(ptr, self.key)
    }

    /// The same with another key.
    #[inline(always)]
    pub(crate) fn slot_by_label(&self, ptr: NonNull<u8>, key: u64) -> Option<u8> {
        let nr = ptr.addr().get().wrapping_sub(self.first_addr) >> PAGE_SHIFT;
        let label = self.described.get(nr)?.mapping() ^ key;
        u8::try_from(label).ok()
    }

    /// Where `ptr` lies, as its frame's descriptor says.
    pub(crate) fn locate(&self, ptr: NonNull<u8>) -> Result<Place, SlubBugKind> {
        let pfn = self
            .phys
            .virt_to_pfn(ptr)
            .ok_or(SlubBugKind::OutsideDirectMap)?;
        let page = self.map.get(pfn).ok_or(SlubBugKind::NotAllocated)?;
        let label = page.mapping() ^ self.seal;
        if !page.test(PageFlags::SLAB) {
            return Err(SlubBugKind::NotAllocated);
        }
        if label == LARGE {
            return Ok(Place::Large { head: pfn });
        }
        let slot = usize::try_from(label & 0xff).unwrap_or(usize::MAX);
        let node = usize::try_from(label >> 8).unwrap_or(usize::MAX);
        if slot >= self.slots.len() || node >= kmm_frame::MAX_NODES {
            return Err(SlubBugKind::NotAllocated);
        }
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let slot = slot as u8;
        Ok(Place::Slab {
            slot,
            node,
            head: pfn_from(page.owner_word()),
        })
    }

    /// What the head of a large allocation says in `mapping`.
    pub(crate) fn large_label(&self) -> u64 {
        self.seal ^ LARGE
    }

    /// The order of the large allocation that starts with this frame.
    pub(crate) fn large_order(&self, pfn: Pfn) -> Option<Order> {
        let page = self.map.get(pfn)?;
        let is_large = page.test(PageFlags::SLAB | PageFlags::HEAD)
            && !page.test(PageFlags::TAIL)
            && page.mapping() == self.large_label();
        if !is_large {
            return None;
        }
        u8::try_from(page.private()).ok().and_then(Order::new)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on every supported target"
)]
const fn pfn_from(word: u64) -> Pfn {
    Pfn::new(word as usize)
}

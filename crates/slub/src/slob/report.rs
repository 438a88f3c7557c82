//! What the allocator tells about itself.

use core::ptr::NonNull;

use kmm_frame::{Order, PAGE_SIZE, PageFlags, Pfn, PfnRange};
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use super::caches::SlobCache;
use super::free::Place;
use super::page::{SlobPage, UNIT_BYTES, Want};
use super::{BLOCKS, MAX_SLOTS, NR_RINGS, Slob};
use crate::stats::{Broken, CacheInfo, SlabPages, SlabUse};
use crate::{KMALLOC_MAX_SIZE, ZERO_SIZE_PTR};

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    pub(super) fn room_at(&self, ptr: NonNull<u8>) -> usize {
        if ptr == ZERO_SIZE_PTR {
            return 0;
        }
        if let Some(room) = self.size_of_sampled(ptr) {
            return room;
        }
        let found = self.locate(ptr).and_then(|place| {
            let mut state = self.state.lock();
            let (owner, room) = match place {
                Place::Block(page) => {
                    let used = page.find(ptr)?;
                    let room = match used.head {
                        Some(head) => head.object_size.into(),
                        None => page.size_bytes(used.begin),
                    };
                    (used.owner, room)
                }
                Place::Large(head) => {
                    let room = self.large_order(head).map_or(0, Order::size_bytes);
                    (self.large_owner(head), room)
                }
            };
            let of_cache = owner.and_then(|slot| state.owner_mut(slot));
            Ok(of_cache.map_or(room, |cache| cache.args.size_bytes))
        });
        match found {
            Ok(room) => {
                self.note_requested(ptr, room);
                room
            }
            Err(kind) => {
                self.report(kind, None, ptr.addr().get());
                0
            }
        }
    }

    /// How much room there is for that much at that alignment; 0 for more than there is.
    pub(super) fn room_of(size_bytes: usize, align: usize) -> usize {
        if size_bytes == 0 || size_bytes > KMALLOC_MAX_SIZE {
            return 0;
        }
        match Want::new(size_bytes, align, false) {
            Some(want) => usize::from(want.units) * UNIT_BYTES,
            None => Order::for_size(size_bytes.max(align)).map_or(0, Order::size_bytes),
        }
    }

    /// The figures of each cache.
    pub(super) fn for_each_info(&self, visit: &mut dyn FnMut(&CacheInfo)) {
        for number in 0..=u8::MAX {
            let cache = match self.state.lock().slots.get(usize::from(number)) {
                Some(slot) => slot.cache().copied(),
                None => return,
            };
            let Some(cache) = cache else {
                continue;
            };
            visit(&CacheInfo {
                name: cache.args.name,
                active_objs: cache.nr_objects + self.nr_sampled(number),
                num_objs: cache.nr_objects,
                objsize: self.block_bytes(&cache),
                object_size: cache.args.size_bytes,
                align: cache.align,
                objperslab: 1,
                pagesperslab: cache.args.size_bytes.div_ceil(PAGE_SIZE),
                active_slabs: 0,
                num_slabs: 0,
                nr_pages: 0,
                flags: cache.args.flags,
                slabs_taken: 0,
                slabs_returned: 0,
            });
        }
    }

    /// Bytes of the block that an object of a cache has.
    fn block_bytes(&self, cache: &SlobCache) -> usize {
        let size_bytes = cache.args.size_bytes;
        match self.debugged(size_bytes, cache.align, cache.debug, None) {
            Some((want, _)) => usize::from(want.units) * UNIT_BYTES,
            None => size_bytes.next_multiple_of(UNIT_BYTES) + UNIT_BYTES,
        }
    }

    /// All pages are nobody's in particular.
    pub(super) fn pages_in_use(&self) -> SlabPages {
        SlabPages {
            reclaimable: 0,
            unreclaimable: self.state.lock().nr_pages,
            large: self.large_pages(),
            lists: 0,
        }
    }

    pub(super) fn visit_frames(&self, visit: &mut dyn FnMut(PfnRange, SlabUse)) {
        for pfn in self.map.range().iter() {
            if self.block_page(pfn).is_some() {
                visit(PfnRange::with_len(pfn, 1), SlabUse::Slab("slob"));
            } else if let Some(order) = self.large_order(pfn) {
                visit(PfnRange::with_len(pfn, order.nr_pages()), SlabUse::Large);
            }
        }
    }

    /// Checks every page, ring and count.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let state = self.state.lock();
        let mut nr_objects = [0_usize; MAX_SLOTS];
        let (mut on_ring, mut nr_pages, mut large_pages) = ([0; NR_RINGS], 0, 0);
        for pfn in self.map.range().iter() {
            if let Some(page) = self.block_page(pfn) {
                page.validate().map_err(|_| Broken::Freelist(pfn))?;
                page.for_each_used(|begin| {
                    let owner = match page.head(begin) {
                        Some(head) => head.owner.filter(|_| {
                            let object = page.address(begin + head.units_before());
                            !self.is_waiting(&state, object, head)
                        }),
                        None => page.owner(begin),
                    };
                    if let Some(slot) = owner {
                        nr_objects[usize::from(slot)] += 1;
                    }
                });
                nr_pages += 1;
                let of_page = page.state();
                if of_page.free > 0 {
                    let ring = on_ring.get_mut(usize::from(of_page.ring));
                    *ring.ok_or(Broken::Descriptor(pfn))? += 1;
                }
            } else if let Some(order) = self.large_order(pfn) {
                large_pages += order.nr_pages();
                if let Some(slot) = self.large_owner(pfn) {
                    nr_objects[usize::from(slot)] += 1;
                }
            }
        }
        for (ring, (rings, wanted)) in (0_u8..).zip(state.rings.iter().zip(on_ring)) {
            let mut len = 0;
            for pfn in rings.iter(self.map) {
                let page = self.block_page(pfn).ok_or(Broken::WrongList(pfn))?;
                if page.state().ring != ring || page.state().free == 0 {
                    return Err(Broken::WrongList(pfn));
                }
                len += 1;
            }
            if (len, len) != (wanted, rings.len()) {
                return Err(Broken::Counts("slob"));
            }
        }
        for (slot, nr) in state.slots.iter().zip(nr_objects) {
            if let Some(cache) = slot.cache().filter(|cache| cache.nr_objects != nr) {
                return Err(Broken::Counts(cache.args.name));
            }
        }
        if !self.is_chain_whole(&state) {
            return Err(Broken::Stock("slob"));
        }
        if large_pages != self.large_pages() {
            return Err(Broken::Large);
        }
        let fits = nr_pages == state.nr_pages;
        fits.then_some(()).ok_or(Broken::Counts("slob"))
    }

    pub(super) fn block_page(&self, pfn: Pfn) -> Option<SlobPage> {
        let page = self.page_at(pfn)?;
        let is_ours = page.page.test(PageFlags::SLAB) && page.page.mapping() == self.seal ^ BLOCKS;
        is_ours.then_some(page)
    }
}

//! Past the arrays: objects on their way to depot and slabs, and slabs from and to the page source.
#![expect(
    unsafe_code,
    reason = "memory of internal caches becomes arrays and blocks"
)]

use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId, NodeItem, Order, Pfn};
use kmm_host::{Cpus, PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use super::array::CpuArray;
use super::lookup::Place;
use super::slow::Stowed;
use crate::batch::Batch;
use crate::block::BlockBox;
use crate::cache::Shape;
use crate::classes::BLOCKS;
use crate::geometry::{CacheFlags, Geometry};
use crate::nodes::MORE_ORDER;
use crate::slab::{NewSlab, Shuffle, Slab, SlabKind, reachable};
use crate::{SlubBugKind, SlubError};

/// An object that is to go into its slab.
pub(super) struct Homeward {
    pub(super) slot: u8,
    pub(super) node: usize,
    pub(super) slab: Slab,
    pub(super) geometry: Geometry,
    pub(super) index: u16,
}

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// Takes a batch of an array of this node: into the CPU's stock if there is room, or the depot, else into slabs.
    pub(super) fn send_home(&self, slot: u8, node: usize, batch: &Batch) {
        let mut block = None;
        loop {
            let stowed = self.cpus.with_pin(|pin| {
                let cpu = self.cpu_slots.get(pin.cpu().index());
                let cpu = cpu.filter(|cpu| cpu.node() == node);
                cpu.map_or(Stowed::NoRoom, |cpu| {
                    let stock = &mut cpu.stocks()[usize::from(slot)];
                    if let Some(block) = block.take() {
                        stock.add_spare(block);
                    }
                    let fill = |place: &mut [*mut u8]| batch.copy_to(place);
                    self.stow(stock, slot, node, batch.len(), fill)
                })
            });
            if stowed == Stowed::NoBlock {
                block = self.new_block();
                if block.is_some() {
                    continue;
                }
            }
            if let Some(block) = block {
                self.free_direct(block.into_memory());
            }
            if stowed != Stowed::Yes {
                self.give(batch);
            }
            return;
        }
    }

    /// An empty block, if one can be had at once.
    fn new_block(&self) -> Option<BlockBox> {
        let gentle = Gfp::NOWAIT | Gfp::NOWARN | Gfp::NORETRY;
        let memory = self.alloc_in(BLOCKS, None, gentle, None).ok()?;
        // SAFETY: an object of the cache of blocks, ours alone.
        Some(unsafe { BlockBox::new(memory) })
    }

    /// Puts each object of a batch into its slab.
    pub(super) fn give(&self, batch: &Batch) {
        for object in batch.objects() {
            // What is wrong with it was reported.
            let _ = self.give_one(object);
        }
    }

    /// Takes an object from its owner, past the arrays.
    pub(super) fn free_direct(&self, object: NonNull<u8>) {
        if self.may_go(object) {
            self.put_back(object);
        }
    }

    /// Puts an object into its slab that nobody waits for any more.
    pub(super) fn put_back(&self, object: NonNull<u8>) {
        if let Ok(slot) = self.give_one(object) {
            self.slots[usize::from(slot)].note_direct_free();
        }
    }

    /// Puts an object into its slab, or reports what is wrong with it.
    ///
    /// This is where all mistakes show that can be seen: here every free of a cache without stock comes by.
    fn give_one(&self, object: NonNull<u8>) -> Result<u8, SlubBugKind> {
        let outcome = self.homeward(object).and_then(|home| {
            let Homeward {
                slot,
                slab,
                ref geometry,
                index,
                ..
            } = home;
            if geometry.is_debugged() {
                return self.give_checked(&home).map(|()| slot);
            }
            let is_fine = !K::looks_free(&slab, geometry, index)
                && slab.push::<K>(geometry, index, false).is_some();
            if is_fine {
                return Ok(slot);
            }
            self.give_locked(&home).map(|()| slot)
        });
        outcome.inspect_err(|kind| {
            let name = match self.locate(object) {
                Ok(Place::Slab { slot, .. }) => self.name_of(slot),
                _ => None,
            };
            self.report(*kind, name, object.addr().get());
        })
    }

    pub(super) fn homeward(&self, object: NonNull<u8>) -> Result<Homeward, SlubBugKind> {
        let Place::Slab { slot, node, head } = self.locate(object)? else {
            return Err(SlubBugKind::NotAllocated);
        };
        let of_slot = &self.slots[usize::from(slot)];
        let (geometry, _) = of_slot.geometry(self.config.secret);
        let slab = Slab::at(self.mem(), head).ok_or(SlubBugKind::NotAllocated)?;
        let index = slab
            .index_of(&geometry, object)
            .ok_or(SlubBugKind::Misaligned)?;
        Ok(Homeward {
            slot,
            node,
            slab,
            geometry,
            index,
        })
    }

    /// Under the lock: the slab changes lists, or the object may be free already.
    fn give_locked(&self, home: &Homeward) -> Result<(), SlubBugKind> {
        let Homeward {
            slot,
            node,
            slab,
            ref geometry,
            index,
        } = *home;
        let mut state = self.slots[usize::from(slot)].lock();
        let cache = state.cache.as_mut().ok_or(SlubBugKind::NotAllocated)?;
        if slab.page().mapping() != self.label(node, slot) {
            return Err(SlubBugKind::NotAllocated);
        }
        if slab.state().in_use() == 0 || slab.is_free::<K>(geometry, index) {
            return Err(SlubBugKind::DoubleFree);
        }
        let flags = cache.shape.flags;
        let lists = cache.node_mut(node);
        lists.push::<K, P>(self.mem(), geometry, slab, index);
        let surplus = lists.surplus(self.mem());
        drop(state);
        if let Some(block) = surplus {
            self.free_slab(block, flags);
        }
        Ok(())
    }

    /// Gets a slab for a node, if one is wanted, and takes it in; the node that it is on.
    pub(super) fn grow(
        &self,
        slot: u8,
        generation: Option<u32>,
        shape: &Shape,
        gfp: Gfp,
        node: Option<usize>,
    ) -> Result<usize, SlubError> {
        let new = match self.new_slab(slot, shape, gfp, node) {
            // What lies idle may be what is missing.
            Err(SlubError::OutOfMemory) if self.shrink_for(slot) => {
                self.new_slab(slot, shape, gfp, node)?
            }
            other => other?,
        };
        let node = self.node_of(new.first());
        let mut page = None;
        loop {
            let mut state = self.slots[usize::from(slot)].lock();
            let cache = match state.cache_of(generation) {
                Ok(cache) => cache,
                Err(error) => {
                    drop(state);
                    self.free_slab(new.into_block(self.map), shape.flags);
                    if let Some(page) = page {
                        self.pages.free(page);
                    }
                    return Err(error);
                }
            };
            if cache.nodes.has(node) {
                cache
                    .node_mut(node)
                    .attach(self.mem(), new, self.label(node, slot));
                drop(state);
                if let Some(page) = page {
                    self.pages.free(page);
                }
                return Ok(node);
            }
            if let Some((block, memory)) = page
                .take()
                .and_then(|block| reachable(self.mem(), &block).map(|memory| (block, memory)))
            {
                let (pfn, _) = block.into_raw();
                // SAFETY: a page of ours, given to the cache.
                unsafe { cache.nodes.add_more(memory, pfn) };
                continue;
            }
            drop(state);
            match self
                .pages
                .alloc(PageReq::new(MORE_ORDER, shape.page_gfp(gfp)))
            {
                Ok(block) => page = Some(block),
                Err(error) => {
                    self.free_slab(new.into_block(self.map), shape.flags);
                    return Err(error.into());
                }
            }
        }
    }

    /// Gives the page of the other nodes' lists back.
    pub(super) fn free_more(&self, page: Option<Pfn>) {
        if let Some(pfn) = page {
            // SAFETY: `grow` took the block apart, and the cache that had it is gone.
            self.pages
                .free(unsafe { PageBlock::from_raw(pfn, MORE_ORDER) });
        }
    }

    /// Linux: `allocate_slab`, mm/slub.c: the usual size without trying hard, else the least.
    fn new_slab(
        &self,
        slot: u8,
        shape: &Shape,
        gfp: Gfp,
        node: Option<usize>,
    ) -> Result<NewSlab, SlubError> {
        let Geometry {
            order, min_order, ..
        } = shape.geometry;
        let gfp = shape.page_gfp(gfp);
        let request = |order, gfp| PageReq {
            node: node.and_then(|node| u8::try_from(node).ok().map(NodeId::new)),
            ..PageReq::new(order, gfp)
        };
        let mut block = Err(SlubError::OutOfMemory);
        if order > min_order {
            let easy = (gfp | Gfp::NOWARN | Gfp::NORETRY) - (Gfp::NOFAIL | Gfp::DIRECT_RECLAIM);
            block = self.pages.alloc(request(order, easy)).map_err(Into::into);
        }
        let block = match block {
            Ok(block) => block,
            Err(_) => self.pages.alloc(request(min_order, gfp))?,
        };
        if let Err(error) = self.add_index(shape, gfp, &block) {
            self.pages.free(block);
            return Err(error);
        }
        let nth = self.slots[usize::from(slot)].note_built();
        let debug_colour = shape.geometry.debug_colour();
        let colour = debug_colour.unwrap_or_else(|| K::colour(&shape.geometry, block.order(), nth));
        let shuffle = self.config.random_order;
        let shuffle = shuffle.then(|| Shuffle::new(self.config.secret, nth));
        let built = NewSlab::build::<K, P>(
            self.mem(),
            &shape.geometry,
            shape.ctor,
            colour,
            shuffle,
            block,
        );
        built
            .map_err(|block| {
                let address = block.pfn().phys().as_usize();
                self.drop_index(&block);
                self.pages.free(block);
                self.report(SlubBugKind::ForeignFrame, Some(shape.name), address);
                SlubError::ForeignFrame
            })
            .inspect(|new| {
                self.tell_slab(new.first(), new.order(), Some(shape.name));
                self.count(new.first(), new.order(), shape.flags, 1);
            })
    }

    /// Linux: `__free_slab`, mm/slub.c.
    pub(super) fn free_slab(&self, block: PageBlock, flags: CacheFlags) {
        self.drop_index(&block);
        self.tell_slab(block.pfn(), block.order(), None);
        self.count(block.pfn(), block.order(), flags, -1);
        self.pages.free(block);
    }

    /// Linux: `account_slab`, `unaccount_slab`, mm/slab.h.
    pub(super) fn count(&self, first: Pfn, order: Order, flags: CacheFlags, sign: isize) {
        let item = if flags.contains(CacheFlags::RECLAIM_ACCOUNT) {
            NodeItem::SlabReclaimable
        } else {
            NodeItem::SlabUnreclaimable
        };
        let nr_pages = isize::try_from(order.nr_pages()).unwrap_or(isize::MAX);
        self.pages.count(first, item, sign * nr_pages);
    }
}

/// Fills an object that nobody else has with zeros.
pub(super) fn clear(object: NonNull<u8>, geometry: &Geometry) {
    // SAFETY: an object has that many bytes (INV-1), and is the caller's.
    unsafe { object.write_bytes(0, geometry.object_size) };
}

/// Makes an object of the cache of arrays one.
pub(super) fn place_array(memory: NonNull<u8>, array: CpuArray) -> NonNull<CpuArray> {
    let place = memory.cast::<CpuArray>();
    // SAFETY: an object of that size and alignment, which the caller was given.
    unsafe { place.write(array) };
    place
}

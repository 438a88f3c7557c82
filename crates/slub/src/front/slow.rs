//! What the hot paths cannot do: arrays are filled and emptied, a batch at a time, or made.

use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId};
use kmm_host::{CpuPin, Cpus, PageBlock, PageSource, PhysMap};
use lock_api::RawMutex;

use super::array::{ARRAY_BYTES, ArrayUse, CELLS, CpuArray, Event};
use super::lookup::Place;
use super::sampled::Asked;
use super::{CpuSlot, ObjectCaches};
use crate::batch::Batch;
use crate::block::BLOCK_OBJECTS;
use crate::cache::Shape;
use crate::classes::ARRAYS;
use crate::depot::Stock;
use crate::geometry::{CacheFlags, Geometry};
use crate::node::BrokenSlab;
use crate::slab::SlabKind;
use crate::{KmemCache, SlubBug, SlubBugKind, SlubError, ZERO_SIZE_PTR};

/// No array may have more objects.
#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const MOST: u32 = CELLS as u32;
/// Larger objects are not kept by CPUs.
const LARGEST_IN_STOCK: usize = 16 << 10;

/// How one try to put a batch behind an array ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stowed {
    Yes,
    /// The CPU has what it may have, and the depot, too.
    NoRoom,
    /// There is no empty block.
    NoBlock,
}

/// How one try to get an object ended.
enum Step {
    Got(NonNull<u8>, Option<(PageBlock, Shape)>),
    /// There is no free object on the node.
    NeedsSlab(Shape),
    /// A broken slab was set aside.
    Broken(SlubBug<'static>),
    Refused(SlubError),
}

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// An object of the cache in `slot`, of that generation if one is given, of memory of that node if it has any.
    #[inline(never)]
    pub(crate) fn alloc_in(
        &self,
        slot: u8,
        generation: Option<u32>,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        self.alloc_for(slot, generation, gfp, node, None)
    }

    /// The same for who has asked for so much memory.
    pub(super) fn alloc_for(
        &self,
        slot: u8,
        generation: Option<u32>,
        gfp: Gfp,
        node: Option<NodeId>,
        asked: Asked,
    ) -> Result<NonNull<u8>, SlubError> {
        let of_slot = self.slots.get(usize::from(slot));
        let of_slot = of_slot.ok_or(SlubError::NoSuchCache)?;
        if generation.is_some_and(|generation| !of_slot.is_of(generation)) {
            return Err(SlubError::NoSuchCache);
        }
        let sampled = || match node {
            None => self.sampled(slot, generation, gfp, asked),
            Some(_) => None,
        };
        if !gfp.contains(Gfp::ZERO) {
            return match sampled() {
                Some(object) => Ok(object),
                None => self.alloc_unzeroed(slot, generation, gfp, node),
            };
        }
        let (geometry, _) = of_slot.geometry(0);
        if geometry.is_constructed {
            return Err(SlubError::Constructed);
        }
        let here = if node.is_none() { self.pop(slot) } else { None };
        let object = match here {
            Some(object) => object,
            None => match sampled() {
                Some(object) => return Ok(object),
                None => self.alloc_unzeroed(slot, generation, gfp, node)?,
            },
        };
        super::home::clear(object, &geometry);
        Ok(object)
    }

    fn alloc_unzeroed(
        &self,
        slot: u8,
        generation: Option<u32>,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        // Objects of other nodes come past the array.
        let mut from = node.map(NodeId::index);
        let mut wants_array = false;
        loop {
            let step = match from {
                None => self
                    .cpus
                    .with_pin(|pin| self.alloc_pinned(pin, slot, generation, &mut wants_array)),
                Some(node) => self.alloc_direct(slot, generation, node),
            };
            match step {
                Step::Got(object, surplus) => {
                    if let Some((block, shape)) = surplus {
                        self.free_empty(block, &shape);
                    }
                    if self.debugs() {
                        self.take_checked(slot, object);
                    }
                    // Not before: a request that fails leaves nothing behind.
                    if wants_array {
                        self.make_array(slot, gfp);
                    }
                    self.tell_taken(slot, object);
                    return Ok(object);
                }
                Step::NeedsSlab(shape) => {
                    let wanted = from.or_else(|| self.has_nodes().then(|| self.this_node()));
                    match self.grow(slot, generation, &shape, gfp, wanted) {
                        Ok(got) if from.is_none() && !self.has_nodes() => _ = got,
                        Ok(got) if Some(got) == wanted => {}
                        // Another node has helped out.
                        Ok(got) => from = Some(got),
                        Err(error) => {
                            let other = self.node_with_objects(slot, generation, gfp);
                            from = Some(other.ok_or(error)?);
                        }
                    }
                }
                Step::Broken(bug) => self.report(bug.kind, bug.cache, bug.address),
                Step::Refused(error) => return Err(error),
            }
        }
    }

    fn alloc_pinned(
        &self,
        pin: CpuPin<'_>,
        slot: u8,
        generation: Option<u32>,
        wants_array: &mut bool,
    ) -> Step {
        let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) else {
            return self.alloc_direct(slot, generation, 0);
        };
        let node = cpu.node();
        self.serve_drain(cpu);
        let step = match cpu.array(slot, pin) {
            Some(array) => array.with(|used| self.refill(&used, array, cpu, slot, generation)),
            None => {
                *wants_array = self.keeps_stock(slot);
                None
            }
        };
        step.unwrap_or_else(|| self.alloc_direct(slot, generation, node))
    }

    /// Gets a batch: from the CPU's stock, for which the depot may have a bundle, else from slabs. Linux: `refill_sheaf`,
    /// `___slab_alloc`.
    fn refill(
        &self,
        used: &ArrayUse<'_>,
        array: &CpuArray,
        cpu: &'static CpuSlot<L>,
        slot: u8,
        generation: Option<u32>,
    ) -> Step {
        // An interrupt may have filled it.
        if let Some(object) = used.pop() {
            return Step::Got(object, None);
        }
        let node = cpu.node();
        let mut stocks = cpu.stocks();
        let stock = &mut stocks[usize::from(slot)];
        if stock.take(|batch| used.fill_many(batch)) {
            if let Some(object) = used.pop() {
                array.note(Event::FromDepot);
                array.note(Event::Refill);
                return Step::Got(object, None);
            }
        }
        let mut state = self.slots[usize::from(slot)].lock();
        let cache = match state.cache_of(generation) {
            Ok(cache) => cache,
            Err(error) => return Step::Refused(error),
        };
        let shape = cache.shape;
        if !cache.nodes.has(node) {
            return Step::NeedsSlab(shape);
        }
        let lists = cache.node_mut(node);
        if stock.get_bundle(&mut lists.depot) {
            stock.take(|batch| used.fill_many(batch));
            array.note(Event::FromDepot);
        } else {
            let geometry = &shape.geometry;
            let sink = |object| used.fill(object);
            let taken = lists.take::<K, P>(self.mem(), geometry, array.batch(), sink);
            if let Err(broken) = taken {
                return Step::Broken(bug_of(&shape, broken));
            }
        }
        let Some(object) = used.pop() else {
            return Step::NeedsSlab(shape);
        };
        array.note(Event::Refill);
        let surplus = lists.surplus(self.mem());
        Step::Got(object, surplus.map(|block| (block, shape)))
    }

    /// A single object, past the arrays.
    fn alloc_direct(&self, slot: u8, generation: Option<u32>, node: usize) -> Step {
        let mut state = self.slots[usize::from(slot)].lock();
        let cache = match state.cache_of(generation) {
            Ok(cache) => cache,
            Err(error) => return Step::Refused(error),
        };
        let shape = cache.shape;
        if !cache.nodes.has(node) {
            return Step::NeedsSlab(shape);
        }
        let lists = cache.node_mut(node);
        let mut got = None;
        let taken = lists.take::<K, P>(self.mem(), &shape.geometry, 1, |object| {
            got = Some(object);
        });
        if let Err(broken) = taken {
            return Step::Broken(bug_of(&shape, broken));
        }
        let Some(object) = got.or_else(|| lists.depot.take_one()) else {
            return Step::NeedsSlab(shape);
        };
        lists.counts.direct_allocs += 1;
        let surplus = lists.surplus(self.mem());
        Step::Got(object, surplus.map(|block| (block, shape)))
    }

    /// A node that has an object of the cache, when the page source has nothing left.
    fn node_with_objects(&self, slot: u8, generation: Option<u32>, gfp: Gfp) -> Option<usize> {
        if gfp.contains(Gfp::THISNODE) {
            return None;
        }
        let mut state = self.slots[usize::from(slot)].lock();
        let cache = state.cache_of(generation).ok()?;
        let mem = self.mem();
        let mut nodes = cache.nodes.iter();
        nodes
            .position(|node| node.nr_objects() > node.nr_in_use(mem) || node.depot.nr_objects() > 0)
    }

    /// Frees what the array did not take.
    #[inline(never)]
    pub(super) fn kfree_slow(&self, ptr: NonNull<u8>) {
        if ptr == ZERO_SIZE_PTR || self.free_sampled(ptr, None) {
            return;
        }
        if self.has_nodes() && self.push_near(ptr) {
            return;
        }
        let outcome = match self.locate(ptr) {
            Ok(Place::Slab { slot, node, .. }) => {
                self.free_object(slot, node, ptr);
                Ok(())
            }
            Ok(Place::Large { head }) => self.free_large(head, ptr),
            Err(kind) => Err(kind),
        };
        if let Err(kind) = outcome {
            self.report(kind, None, ptr.addr().get());
        }
    }

    /// Keeps an object of this CPU's node.
    fn push_near(&self, ptr: NonNull<u8>) -> bool {
        self.cpus.with_pin(|pin| {
            let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) else {
                return false;
            };
            let slot = self.slot_by_label(ptr, cpu.key());
            slot.is_some_and(|slot| self.entry(cpu.table(), slot).push(ptr))
        })
    }

    /// Frees what the array of that cache did not take.
    #[inline(never)]
    pub(super) fn free_slow(&self, cache: KmemCache, object: NonNull<u8>) {
        let of_slot = self.slots.get(usize::from(cache.slot));
        if !of_slot.is_some_and(|slot| slot.is_of(cache.generation)) {
            return self.report(SlubBugKind::WrongCache, None, object.addr().get());
        }
        if self.config.kfence.is_some()
            && (self.free_sampled(object, Some(cache.slot))
                || self.push_by_label(cache.slot, object))
        {
            return;
        }
        if !self.has_nodes() && self.push_into_full(cache.slot, object) {
            return;
        }
        match self.locate(object) {
            Ok(Place::Slab { slot, .. }) if slot == cache.slot && self.has_nodes() => {
                self.kfree_slow(object);
            }
            Ok(Place::Slab { slot, node, .. }) if slot == cache.slot => {
                self.free_object(slot, node, object);
            }
            Ok(_) => {
                let name = self.name_of(cache.slot);
                self.report(SlubBugKind::WrongCache, name, object.addr().get());
            }
            Err(kind) => self.report(kind, None, object.addr().get()),
        }
    }

    /// Frees what was not kept where its layout said.
    #[inline(never)]
    pub(super) fn kfree_any(&self, ptr: NonNull<u8>) {
        match self.slot_at(ptr) {
            Some(slot) => self.push_slow(slot, ptr),
            None => self.kfree_slow(ptr),
        }
    }

    /// Frees an object whose label was looked at, which the array did not take: most likely it is full.
    #[inline(never)]
    pub(super) fn push_slow(&self, slot: u8, object: NonNull<u8>) {
        if !self.push_into_full(slot, object) {
            self.kfree_slow(object);
        }
    }

    /// Keeps an object of this CPU's node, if there is an array, after a batch has gone from there into the depot.
    fn push_into_full(&self, slot: u8, object: NonNull<u8>) -> bool {
        self.cpus.with_pin(|pin| {
            let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) else {
                return false;
            };
            self.serve_drain(cpu);
            let array = cpu.array(slot, pin);
            array.is_some_and(|array| {
                let kept = array.with(|used| {
                    if used.room() == 0 {
                        let stock = &mut cpu.stocks()[usize::from(slot)];
                        let coldest = |place: &mut [*mut u8]| used.take_coldest(place);
                        if self.stow(stock, slot, cpu.node(), array.batch(), coldest) == Stowed::Yes
                        {
                            array.note(Event::Flush);
                        }
                    }
                    used.push(object)
                });
                kept == Some(true)
            })
        })
    }

    /// Moves `nr` objects of a full array into the CPU's stock, for which half of that may have to go to the depot: by `fill`.
    /// Linux: `barn_put_full_sheaf`.
    pub(super) fn stow(
        &self,
        stock: &mut Stock,
        slot: u8,
        node: usize,
        nr: usize,
        fill: impl FnOnce(&mut [*mut u8]) -> usize,
    ) -> Stowed {
        let is_too_much = stock.is_full_with(nr);
        if is_too_much || !stock.has_spare() {
            let mut state = self.slots[usize::from(slot)].lock();
            let Some(cache) = state.cache.as_mut() else {
                return Stowed::NoRoom;
            };
            let stride = cache.shape.geometry.stride;
            let depot = &mut cache.node_mut(node).depot;
            let nr_objects = depot.nr_objects() + stock.nr_objects() + nr;
            if is_too_much && nr_objects * stride > self.depot_bytes {
                return Stowed::NoRoom;
            }
            if !stock.has_spare() {
                stock.get_spares(depot);
            }
            if !stock.has_spare() {
                return Stowed::NoBlock;
            }
            stock.put(nr, fill);
            if is_too_much {
                stock.give_half(depot);
            }
        } else {
            stock.put(nr, fill);
        }
        Stowed::Yes
    }

    fn free_object(&self, slot: u8, node: usize, object: NonNull<u8>) {
        if !self.keeps_stock(slot) {
            return self.free_direct(object);
        }
        let mut out = Batch::new();
        let mut has_array = true;
        let mut is_near = true;
        let is_kept = self.cpus.with_pin(|pin| {
            let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) else {
                return false;
            };
            self.serve_drain(cpu);
            is_near = node == cpu.node();
            let array = if is_near {
                cpu.array(slot, pin)
            } else {
                Some(cpu.away())
            };
            has_array = array.is_some();
            array.is_some_and(|array| Self::keep(array, object, &mut out))
        });
        if is_kept {
            if !is_near {
                self.give(&out);
            } else if !out.is_empty() {
                self.send_home(slot, node, &out);
            }
        } else if !has_array && self.make_array(slot, Gfp::NOWAIT | Gfp::NOWARN) {
            self.free_object(slot, node, object);
        } else {
            self.free_direct(object);
        }
    }

    /// Puts an object into an array, for which the coldest half may have to go to `out`; not when it is in use.
    fn keep(array: &CpuArray, object: NonNull<u8>, out: &mut Batch) -> bool {
        let kept = array.with(|used| {
            if used.room() == 0 {
                out.fill(|place| {
                    let most = place.len().min(array.batch());
                    used.take_coldest(&mut place[..most])
                });
                array.note(Event::Flush);
            }
            used.push(object)
        });
        kept == Some(true)
    }

    /// Makes this CPU's array of a cache; whether there is one now. Linux: `alloc_percpu` of `init_kmem_cache_cpus`, later.
    fn make_array(&self, slot: u8, gfp: Gfp) -> bool {
        let gentle = (gfp | Gfp::NOWARN | Gfp::NORETRY)
            - (Gfp::NOFAIL | Gfp::DIRECT_RECLAIM | Gfp::ZERO | Gfp::DMA | Gfp::DMA32);
        let Ok(memory) = self.alloc_in(ARRAYS, None, gentle, None) else {
            return false;
        };
        let (geometry, _) = self.slots[usize::from(slot)].geometry(0);
        let array = super::home::place_array(memory, new_array(&geometry));
        let most = u32::try_from(self.stock_bytes / geometry.stride).unwrap_or(u32::MAX);
        let is_in = self.cpus.with_pin(|pin| {
            let cpu: Option<&CpuSlot<L>> = self.cpu_slots.get(pin.cpu().index());
            cpu.is_some_and(|cpu| cpu.attach(slot, array, most, pin))
        });
        if !is_in {
            self.free_direct(memory);
        }
        true
    }

    /// Whether CPUs have arrays of this cache.
    fn keeps_stock(&self, slot: u8) -> bool {
        let (geometry, flags) = self.slots[usize::from(slot)].geometry(0);
        !flags.contains(CacheFlags::CHECKED) && geometry.stride <= LARGEST_IN_STOCK
    }

    pub(super) fn this_node(&self) -> usize {
        if self.has_nodes() {
            self.cpus.with_pin(|pin| self.node_of_cpu(pin.cpu()))
        } else {
            0
        }
    }
}

/// An empty array: the larger the objects, the fewer.
fn new_array(geometry: &Geometry) -> CpuArray {
    let limit = match geometry.stride {
        0..=256 => MOST,
        257..=1024 => MOST / 2,
        1025..=4096 => MOST / 4,
        _ => MOST / 8,
    };
    CpuArray::new(limit, limit / 2)
}

fn bug_of(shape: &Shape, broken: BrokenSlab) -> SlubBug<'static> {
    let object = broken.slab.object(&shape.geometry, broken.corrupt.0);
    SlubBug {
        kind: SlubBugKind::CorruptFreelist,
        cache: Some(shape.name),
        address: object.addr().get(),
        object: None,
    }
}

const _: () = assert!(ARRAY_BYTES <= 1024);
const _: () = assert!(CELLS / 2 <= BLOCK_OBJECTS);

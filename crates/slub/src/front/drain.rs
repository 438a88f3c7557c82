//! Giving back what lies idle: arrays, depots, empty slabs.
//!
//! A CPU empties its own arrays only; others ask it to (`DrainRequest`). Arrays of a cache that nobody uses any more, and of
//! a CPU that is dead, are emptied by who says so. What is behind arrays is emptied by anybody.
#![expect(unsafe_code, reason = "who calls promises that nobody else is there")]

use core::ptr::NonNull;

use kmm_host::{CpuId, Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::{CpuSlot, ObjectCaches};
use crate::batch::Batch;
use crate::block::BLOCK_OBJECTS;
use crate::classes::ARRAYS;
use crate::slab::SlabKind;
use crate::{KmemCache, SlubError};

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// Returns what a cache has to spare: this CPU's array of it, all CPUs' stock behind theirs, its depot, its empty slabs; how many pages that were. Other
    /// CPUs are asked to give theirs back at their next slow step. Linux: `kmem_cache_shrink`.
    ///
    /// # Errors
    /// [`SlubError::NoSuchCache`].
    pub fn shrink(&self, cache: KmemCache) -> Result<usize, SlubError> {
        let slot = self.slots.get(usize::from(cache.slot));
        let slot = slot.ok_or(SlubError::NoSuchCache)?;
        slot.lock().cache_of(Some(cache.generation))?;
        self.let_all_go();
        self.ask_others();
        Ok(self.shrink_slot(cache.slot))
    }

    /// Returns what all caches have to spare; how many pages that were.
    pub fn shrink_all(&self) -> usize {
        self.let_all_go();
        self.ask_others();
        // Those of the allocator itself last: the others give back to them. What their slabs had besides goes the other way.
        let nr_passes = if K::HAS_INDEX { 2 } else { 1 };
        (0..nr_passes)
            .flat_map(|_| (0..self.slots.len()).rev())
            .filter_map(|slot| u8::try_from(slot).ok())
            .map(|slot| self.shrink_slot(slot))
            .sum()
    }

    /// The same before a request of that cache fails; whether it is worth another try.
    pub(super) fn shrink_for(&self, slot: u8) -> bool {
        // In the middle of it already: what it asks for itself does not count.
        usize::from(slot) >= crate::classes::NR_INTERNAL && self.shrink_all() > 0
    }

    /// Empties this CPU's arrays. Linux: `flush_all_cpus_locked`, its share.
    ///
    /// # Context
    /// For idle CPUs, and whoever was told that [`ObjectCaches::is_drained`] is not.
    pub fn drain_local(&self) {
        self.cpus.with_pin(|pin| {
            if let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) {
                let ticket = cpu.drain_request().pending();
                let is_empty = self.empty_arrays(cpu);
                if let (Some(ticket), true) = (ticket, is_empty) {
                    cpu.drain_request().serve(ticket);
                }
            }
        });
    }

    /// Asks a CPU to empty its arrays at its next slow step.
    pub fn request_drain(&self, cpu: CpuId) {
        if let Some(cpu) = self.cpu_slots.get(cpu.index()) {
            cpu.drain_request().ask();
        }
    }

    /// Whether that CPU has emptied its arrays since it was last asked to, as far as the caller knows.
    pub fn is_drained(&self, cpu: CpuId) -> bool {
        let cpu = self.cpu_slots.get(cpu.index());
        cpu.is_none_or(|cpu| cpu.drain_request().is_served())
    }

    /// Takes a CPU's stock away, arrays and all. Linux: `slub_cpu_dead`.
    ///
    /// # Safety
    /// The CPU does not run, and does not start, while this does.
    pub unsafe fn cpu_dead(&self, cpu: CpuId) {
        let Some(cpu) = self.cpu_slots.get(cpu.index()) else {
            return;
        };
        for slot in (0..self.slots.len()).rev() {
            if let Ok(slot) = u8::try_from(slot) {
                self.remove_array(cpu, slot);
            }
        }
        self.empty_away(cpu);
    }

    /// Gives everything back that is not in use, arrays too; how many pages. For audits and tests.
    ///
    /// # Safety
    /// Nobody else uses the allocator, on any CPU, while this runs.
    pub unsafe fn drain_all(&self) -> usize {
        for nr in 0..self.cpu_slots.len() {
            if let Ok(nr) = u32::try_from(nr) {
                // SAFETY: the caller's promise.
                unsafe { self.cpu_dead(CpuId::new(nr)) };
            }
        }
        self.shrink_all()
    }

    /// Empties this CPU's arrays if somebody has asked for it.
    #[inline]
    pub(super) fn serve_drain(&self, cpu: &'static CpuSlot<L>) {
        if let Some(ticket) = cpu.drain_request().pending() {
            if self.empty_arrays(cpu) {
                cpu.drain_request().serve(ticket);
            }
        }
    }

    /// Takes the arrays of a cache away that nobody uses any more.
    pub(super) fn remove_arrays(&self, slot: u8) {
        for cpu in self.cpu_slots {
            self.remove_array(cpu, slot);
        }
    }

    /// Sends what CPUs have of other nodes home: those of this one, and of CPUs that stand still with regard to a cache that
    /// ends. Others' are left to them.
    pub(super) fn drain_away(&self) {
        self.cpus.with_pin(|pin| {
            if let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) {
                self.empty_away(cpu);
            }
        });
    }

    /// Puts what is in the depots of a cache into its slabs, and gives the blocks up.
    pub(super) fn empty_depots(&self, slot: u8) {
        let slot = &self.slots[usize::from(slot)];
        loop {
            let mut batch = Batch::new();
            let mut blocks = Batch::new();
            let mut state = slot.lock();
            let Some(cache) = state.cache.as_mut() else {
                return;
            };
            for node in 0..cache.nodes.len() {
                let depot = &mut cache.node_mut(node).depot;
                while !batch.is_full() {
                    match depot.take_one() {
                        Some(object) => batch.push(object),
                        None => break,
                    }
                }
                while depot.nr_objects() == 0 && !blocks.is_full() {
                    match depot.remove_spare() {
                        Some(block) => blocks.push(block.into_memory()),
                        None => break,
                    }
                }
            }
            drop(state);
            if batch.is_empty() && blocks.is_empty() {
                return;
            }
            self.give(&batch);
            blocks.objects().for_each(|block| self.free_direct(block));
        }
    }

    fn shrink_slot(&self, slot: u8) -> usize {
        self.cpus.with_pin(|pin| {
            if let Some(cpu) = self.cpu_slots.get(pin.cpu().index()) {
                self.empty_array(cpu, slot);
            }
        });
        self.thin_out(slot, 0);
        self.empty_depots(slot);
        let of_slot = &self.slots[usize::from(slot)];
        let mut nr_pages = 0;
        loop {
            let detached = of_slot.lock().cache.as_mut().and_then(|cache| {
                let shape = cache.shape;
                (0..cache.nodes.len()).find_map(|node| {
                    let block = cache.node_mut(node).detach_empty(self.mem())?;
                    Some((block, shape))
                })
            });
            let Some((block, shape)) = detached else {
                return nr_pages;
            };
            nr_pages += block.order().nr_pages();
            self.free_empty(block, &shape);
        }
    }

    fn ask_others(&self) {
        let this = self.cpus.with_pin(|pin| pin.cpu().index());
        let others = self.cpu_slots.iter().enumerate();
        let others = others.filter(|(nr, _)| *nr != this && *nr < self.cpus.nr_cpus());
        others.for_each(|(_, cpu)| cpu.drain_request().ask());
    }

    /// Empties all arrays of the CPU that runs; whether none was in use.
    fn empty_arrays(&self, cpu: &'static CpuSlot<L>) -> bool {
        let mut are_empty = self.empty_away(cpu);
        for slot in 0..self.slots.len() {
            if let Ok(slot) = u8::try_from(slot) {
                are_empty &= self.empty_array(cpu, slot);
            }
        }
        are_empty
    }

    fn empty_array(&self, cpu: &'static CpuSlot<L>, slot: u8) -> bool {
        let mut batch = Batch::new();
        // Under the lock, so that who ends the cache does not take the array away meanwhile.
        let used = cpu.inspect(slot, |array| {
            array.with(|used| batch.fill(|place| used.take_coldest(place)))
        });
        self.give(&batch);
        self.empty_stock(cpu, slot);
        used != Some(None)
    }

    /// Empties what a CPU has behind an array: any CPU's.
    fn empty_stock(&self, cpu: &'static CpuSlot<L>, slot: u8) {
        loop {
            let mut batch = Batch::new();
            let mut blocks = Batch::new();
            let mut stocks = cpu.stocks();
            let stock = &mut stocks[usize::from(slot)];
            while batch.room() >= BLOCK_OBJECTS {
                let is_there = stock.take(|objects| batch.extend(objects));
                if !is_there {
                    break;
                }
            }
            while stock.nr_objects() == 0 && !blocks.is_full() {
                match stock.remove_spare() {
                    Some(block) => blocks.push(block.into_memory()),
                    None => break,
                }
            }
            drop(stocks);
            if batch.is_empty() && blocks.is_empty() {
                return;
            }
            self.give(&batch);
            blocks.objects().for_each(|block| self.free_direct(block));
        }
    }

    fn empty_away(&self, cpu: &'static CpuSlot<L>) -> bool {
        let mut batch = Batch::new();
        let away = cpu.away();
        let used = away.with(|used| batch.fill(|place| used.take_coldest(place)));
        self.give(&batch);
        used.is_some()
    }

    fn remove_array(&self, cpu: &'static CpuSlot<L>, slot: u8) {
        let array = cpu.detach(slot);
        self.empty_stock(cpu, slot);
        let Some(array) = array else {
            return;
        };
        let mut batch = Batch::new();
        array.objects().for_each(|object| batch.push(object));
        self.give(&batch);
        let mut totals = array.totals();
        totals.batches_put = cpu.stocks()[usize::from(slot)].take_nr_batches_put();
        if let Some(cache) = self.slots[usize::from(slot)].lock().cache.as_mut() {
            cache.retired.add(totals);
        }
        debug_assert_ne!(slot, ARRAYS, "arrays have no array");
        self.free_direct(NonNull::from(array).cast());
    }
}

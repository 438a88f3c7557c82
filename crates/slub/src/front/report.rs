//! What the allocator tells about itself.

use core::sync::atomic::Ordering;

use kmm_frame::PfnRange;
use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::lookup::Place;
use super::{ArrayTotals, Event, ObjectCaches};
use crate::geometry::CacheFlags;
use crate::slab::SlabKind;
use crate::stats::{Broken, CacheInfo, CacheStats, SlabPages, SlabUse};
use crate::{KmemCache, SlubError};

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// The figures of each cache, one locked at a time: the lines of `/proc/slabinfo`. Exact while nobody allocates.
    pub fn cache_infos(&self) -> impl Iterator<Item = CacheInfo> + '_ {
        (0..=u8::MAX)
            .take(self.slots.len())
            .filter_map(|slot| self.info(slot))
    }

    /// How often a cache was used, and how its requests were served. Linux: the files of /sys/kernel/slab/NAME with
    /// `CONFIG_SLUB_STATS`.
    ///
    /// # Errors
    /// [`SlubError::NoSuchCache`].
    pub fn cache_stats(&self, cache: KmemCache) -> Result<CacheStats, SlubError> {
        let slot = self.slots.get(usize::from(cache.slot));
        let slot = slot.ok_or(SlubError::NoSuchCache)?;
        let (_, totals) = self.stock(cache.slot);
        let mut state = slot.lock();
        let live = state.cache_of(Some(cache.generation))?;
        let mut stats = CacheStats::default();
        let mut sums = live.retired;
        sums.add(totals);
        let event = |event: Event| sums.events[event as usize];
        stats.alloc_refill = event(Event::Refill);
        stats.alloc_fastpath = sums.nr_allocs - stats.alloc_refill;
        stats.alloc_from_depot = event(Event::FromDepot);
        stats.free_flush = event(Event::Flush);
        stats.free_fastpath = sums.nr_frees - stats.free_flush;
        stats.free_to_depot = sums.batches_put;
        stats.free_slowpath = slot.direct_frees();
        for node in live.nodes.iter() {
            stats.alloc_slowpath += node.counts.direct_allocs;
            stats.alloc_from_partial += node.counts.from_partial;
            stats.alloc_slab += node.counts.slabs_taken;
            stats.free_slab += node.counts.slabs_returned;
        }
        Ok(stats)
    }

    /// Pages in use for objects: `Slab`, `SReclaimable` and `SUnreclaim` of `/proc/meminfo`.
    pub fn nr_pages(&self) -> SlabPages {
        let mut pages = SlabPages {
            large: self.large_pages.load(Ordering::Relaxed),
            ..SlabPages::default()
        };
        for slot in self.slots {
            if let Some(cache) = slot.lock().cache.as_ref() {
                let nr: usize = cache.nodes.iter().map(|node| node.nr_pages()).sum();
                pages.lists += usize::from(cache.nodes.page().is_some());
                if cache.shape.flags.contains(CacheFlags::RECLAIM_ACCOUNT) {
                    pages.reclaimable += nr;
                } else {
                    pages.unreclaimable += nr;
                }
            }
        }
        pages
    }

    /// Calls `visit` with each block of frames that holds objects. O(frames): for audits.
    ///
    /// # Context
    /// Caches are locked in turn while `visit` runs: it must not allocate. Nobody else allocates meanwhile, or the
    /// picture is blurred.
    pub fn for_each_frame(&self, mut visit: impl FnMut(PfnRange, SlabUse)) {
        for slot in self.slots {
            if let Some(cache) = slot.lock().cache.as_ref() {
                for node in cache.nodes.iter() {
                    node.for_each_slab(self.mem(), |slab| {
                        let frames = PfnRange::with_len(slab.pfn, slab.order().nr_pages());
                        visit(frames, SlabUse::Slab(cache.shape.name));
                    });
                }
                if let Some(page) = cache.nodes.page() {
                    visit(PfnRange::with_len(page, 1), SlabUse::Lists);
                }
            }
        }
        for pfn in self.map.range().iter() {
            if let Some(order) = self.large_order(pfn) {
                let frames = PfnRange::with_len(pfn, order.nr_pages());
                visit(frames, SlabUse::Large);
            }
        }
    }

    /// Checks all lists, counts and descriptors, and that every object in stock is one of its cache. O(frames and objects): for
    /// audits, while nobody allocates.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Broken> {
        for number in (0..=u8::MAX).take(self.slots.len()) {
            let (nr_in_arrays, _) = self.stock(number);
            let mut found = Ok(0);
            for cpu in self.cpu_slots {
                cpu.inspect(number, |array| {
                    for object in array.objects() {
                        found = found.and_then(|nr| self.check_stock(number, object, nr));
                    }
                });
                cpu.stocks()[usize::from(number)].for_each(|object| {
                    found = found.and_then(|nr| self.check_stock(number, object, nr));
                });
            }
            let state = self.slots[usize::from(number)].lock();
            let Some(cache) = state.cache.as_ref() else {
                continue;
            };
            let name = cache.shape.name;
            for (node_number, node) in cache.nodes.iter().enumerate() {
                let label = self.label(node_number, number);
                node.validate::<K, P>(self.mem(), &cache.shape.geometry, label, name)?;
                let mut in_depot = 0;
                node.depot.for_each(|object| {
                    in_depot += 1;
                    found = found.and_then(|nr| self.check_stock(number, object, nr));
                });
                if in_depot != node.depot.nr_objects() {
                    return Err(Broken::Stock(name));
                }
            }
            let in_depots: usize = cache.nodes.iter().map(|node| node.depot.nr_objects()).sum();
            let mem = self.mem();
            let in_use: usize = cache.nodes.iter().map(|node| node.nr_in_use(mem)).sum();
            let mut nr_waiting = 0;
            let find = |address| self.waiting_at(number, address);
            let geometry = &cache.shape.geometry;
            let whole = cache
                .quarantine
                .for_each(|_| Some(*geometry), find, |_| nr_waiting += 1);
            if whole.is_err() || nr_waiting != cache.quarantine.len() {
                return Err(Broken::Stock(name));
            }
            let nr_found = found.map_err(|()| Broken::Stock(name))?;
            if nr_found != in_depots + nr_in_arrays || nr_found + nr_waiting > in_use {
                return Err(Broken::Stock(name));
            }
        }
        let large = self
            .map
            .range()
            .iter()
            .filter_map(|pfn| self.large_order(pfn));
        let large_pages: usize = large.map(|order| order.nr_pages()).sum();
        if large_pages == self.large_pages.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Broken::Large)
        }
    }

    /// One object more, if it is one of that cache.
    fn check_stock(
        &self,
        slot: u8,
        object: core::ptr::NonNull<u8>,
        nr: usize,
    ) -> Result<usize, ()> {
        match self.locate(object) {
            Ok(Place::Slab { slot: found, .. }) if found == slot => Ok(nr + 1),
            _ => Err(()),
        }
    }

    /// How many objects of a cache are in CPUs' arrays and behind them, and what went through those.
    fn stock(&self, slot: u8) -> (usize, ArrayTotals) {
        let (mut nr, mut totals) = (0, ArrayTotals::NONE);
        for cpu in self.cpu_slots {
            cpu.inspect(slot, |array| {
                nr += array.len();
                totals.add(array.totals());
            });
            let stock = &cpu.stocks()[usize::from(slot)];
            nr += stock.nr_objects();
            totals.batches_put += stock.nr_batches_put();
        }
        (nr, totals)
    }

    fn info(&self, slot: u8) -> Option<CacheInfo> {
        let (nr_in_arrays, _) = self.stock(slot);
        let mut in_stock = nr_in_arrays + self.nr_away(slot);
        let state = self.slots[usize::from(slot)].lock();
        let cache = state.cache.as_ref()?;
        let geometry = &cache.shape.geometry;
        let mut info = CacheInfo {
            name: cache.shape.name,
            active_objs: 0,
            num_objs: 0,
            objsize: geometry.stride,
            object_size: geometry.object_size,
            align: geometry.align,
            objperslab: usize::from(geometry.objects(geometry.order)),
            pagesperslab: geometry.order.nr_pages(),
            active_slabs: 0,
            num_slabs: 0,
            nr_pages: 0,
            flags: cache.shape.flags,
            slabs_taken: 0,
            slabs_returned: 0,
        };
        for node in cache.nodes.iter() {
            in_stock += node.depot.nr_objects();
            info.active_objs += node.nr_in_use(self.mem());
            info.num_objs += node.nr_objects();
            info.active_slabs += node.nr_slabs() - node.nr_empty();
            info.num_slabs += node.nr_slabs();
            info.nr_pages += node.nr_pages();
            info.slabs_taken += node.counts.slabs_taken;
            info.slabs_returned += node.counts.slabs_returned;
        }
        in_stock += cache.quarantine.len();
        info.active_objs = info.active_objs.saturating_sub(in_stock) + self.nr_sampled(slot);
        Some(info)
    }

    /// How many objects of a cache are on their way to another node.
    fn nr_away(&self, slot: u8) -> usize {
        if !self.has_nodes() {
            return 0;
        }
        let of_cpu = |cpu: &super::CpuSlot<L>| {
            let objects = cpu.away().objects();
            let ours = objects.filter(|object| self.check_stock(slot, *object, 0).is_ok());
            ours.count()
        };
        self.cpu_slots.iter().map(of_cpu).sum()
    }
}

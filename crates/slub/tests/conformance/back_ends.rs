//! The back ends, a machine for each, and what their users know.

use core::alloc::Layout;
use core::ptr::NonNull;
use std::collections::BTreeMap;

use kmm_frame::PageFlags;
use kmm_host::PageSource;
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, Rng, SimCpus, SimLock, SimPhys};
use kmm_slub::{CacheInfo, Kmem, KmemCache, Slab, Slob, SlobSlot, Slub, SlubConfig, SlubError};

use crate::common::{Source, bugs, config, fast_config, fill, holds, storage};

/// How to make one, and what is its own way.
pub(crate) trait BackEnd: 'static {
    type Kmem<A: PageSource + 'static>: Kmem + 'static;
    /// Whether objects are constructed when their slab is made; else whenever they are handed out.
    const CONSTRUCTS_SLABS: bool;

    fn make<A: PageSource + 'static>(
        machine: &'static Machine,
        source: A,
        config: SlubConfig,
    ) -> Self::Kmem<A>;

    /// Gives back what nobody uses, however fond of it it is.
    fn drain<A: PageSource + 'static>(kmem: &Self::Kmem<A>);
}

pub(crate) struct OfSlub;

impl BackEnd for OfSlub {
    type Kmem<A: PageSource + 'static> = Slub<A, SimPhys, SimLock, SimCpus>;
    const CONSTRUCTS_SLABS: bool = true;

    fn make<A: PageSource + 'static>(
        machine: &'static Machine,
        source: A,
        config: SlubConfig,
    ) -> Self::Kmem<A> {
        let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
        Slub::new(source, phys, map, cpus, storage(machine), config).expect("enough slots")
    }

    fn drain<A: PageSource + 'static>(kmem: &Self::Kmem<A>) {
        // SAFETY: the test is alone.
        unsafe { kmem.drain_all() };
    }
}

pub(crate) struct OfSlab;

impl BackEnd for OfSlab {
    type Kmem<A: PageSource + 'static> = Slab<A, SimPhys, SimLock, SimCpus>;
    const CONSTRUCTS_SLABS: bool = true;

    fn make<A: PageSource + 'static>(
        machine: &'static Machine,
        source: A,
        config: SlubConfig,
    ) -> Self::Kmem<A> {
        let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
        Slab::new(source, phys, map, cpus, storage(machine), config).expect("enough slots")
    }

    fn drain<A: PageSource + 'static>(kmem: &Self::Kmem<A>) {
        // SAFETY: the test is alone.
        unsafe { kmem.drain_all() };
    }
}

pub(crate) struct OfSlob;

impl BackEnd for OfSlob {
    type Kmem<A: PageSource + 'static> = Slob<A, SimPhys, SimLock>;
    const CONSTRUCTS_SLABS: bool = false;

    fn make<A: PageSource + 'static>(
        machine: &'static Machine,
        source: A,
        config: SlubConfig,
    ) -> Self::Kmem<A> {
        let slots: Vec<_> = (0..64).map(|_| SlobSlot::new()).collect();
        let (phys, map) = (*machine.phys(), machine.mem_map());
        Slob::new(source, phys, map, slots.leak(), config).expect("few slots")
    }

    fn drain<A: PageSource + 'static>(kmem: &Self::Kmem<A>) {
        kmem.shrink_all();
    }
}

pub(crate) struct Rig<B: BackEnd, A: PageSource + 'static = &'static Source> {
    pub(crate) machine: &'static Machine,
    pub(crate) source: &'static Source,
    pub(crate) kmem: B::Kmem<A>,
}

pub(crate) fn source_on(machine: &'static Machine) -> &'static Source {
    Box::leak(Box::new(FailRandom::new(
        FreeListSource::new(machine),
        1,
        0,
    )))
}

pub(crate) fn rig_with<B: BackEnd>(config: SlubConfig) -> Rig<B> {
    let machine = Machine::new(Config::with_mib(64));
    let source = source_on(machine);
    Rig {
        machine,
        source,
        kmem: B::make(machine, source, config),
    }
}

/// With all that makes it fast, with all that makes it careful, and with all that looks for mistakes.
pub(crate) fn rigs<B: BackEnd>() -> [Rig<B>; 4] {
    let debugged = |debug| SlubConfig {
        debug,
        ..fast_config()
    };
    [
        rig_with(fast_config()),
        rig_with(config()),
        rig_with(debugged("FZPU")),
        rig_with(debugged("FZPUQ")),
    ]
}

impl<B: BackEnd, A: PageSource + 'static> Rig<B, A> {
    pub(crate) fn outstanding(&self) -> usize {
        self.source.inner().outstanding()
    }

    pub(crate) fn info(&self, name: &str) -> CacheInfo {
        let mut found = None;
        self.kmem.for_each_cache(&mut |info| {
            if info.name == name {
                found = Some(*info);
            }
        });
        found.expect("the cache exists")
    }

    /// Everything came back, nothing was reported, all books are in order.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        self.kmem.validate().unwrap();
        B::drain(&self.kmem);
        self.kmem.validate().unwrap();
        self.kmem
            .for_each_cache(&mut |info| assert_eq!((info.active_objs, info.nr_pages), (0, 0)));
        assert_eq!(self.kmem.nr_pages().total(), 0);
        self.source.inner().assert_nothing_outstanding();
        let marks = PageFlags::SLAB | PageFlags::HEAD | PageFlags::TAIL;
        let map = self.machine.mem_map();
        let mut marked = map
            .range()
            .iter()
            .filter(|pfn| map.page(*pfn).flags().intersects(marks));
        assert_eq!(marked.next(), None, "a mark is left");
        assert_eq!(bugs(), []);
    }

    pub(crate) fn kfree(&self, ptr: NonNull<u8>) {
        // SAFETY: tests free what they were given and do not use it, or what must be refused.
        unsafe { self.kmem.kfree(ptr) };
    }

    pub(crate) fn free(&self, cache: KmemCache, object: NonNull<u8>) {
        // SAFETY: as above.
        unsafe { self.kmem.free(cache, object) };
    }

    pub(crate) fn destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        // SAFETY: only the test uses the cache.
        unsafe { self.kmem.cache_destroy(cache) }
    }
}

/// What is live, by address: where it ends, how much its owner wrote, and what.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) live: BTreeMap<usize, Live>,
}

#[derive(Clone, Copy)]
pub(crate) struct Live {
    pub(crate) ptr: NonNull<u8>,
    pub(crate) size: usize,
    pub(crate) room: usize,
    pub(crate) id: u64,
    pub(crate) cache: Option<usize>,
    pub(crate) layout: Option<Layout>,
}

impl Oracle {
    /// Checks that new memory overlaps nothing, fills it, and remembers it.
    #[track_caller]
    pub(crate) fn add(&mut self, live: Live) {
        let start = live.ptr.addr().get();
        assert!(live.room >= live.size, "{} for {}", live.room, live.size);
        let below = self.live.range(..start + live.room).next_back();
        assert!(
            below.is_none_or(|(at, other)| at + other.room <= start),
            "{start:#x} overlaps"
        );
        fill(live.ptr, live.size, live.id);
        self.live.insert(start, live);
    }

    pub(crate) fn take(&mut self, rng: &mut Rng) -> Option<Live> {
        let (&first, _) = self.live.first_key_value()?;
        let (&last, _) = self.live.last_key_value()?;
        let at = rng.range(first as u64..last as u64 + 1) as usize;
        let (&start, _) = self.live.range(at..).next()?;
        let live = self.live.remove(&start)?;
        assert!(holds(live.ptr, live.size, live.id), "contents changed");
        Some(live)
    }
}

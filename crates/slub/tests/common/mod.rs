//! A machine, a watched source of pages, and a slub on it whose reports are kept.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part of this"
)]

use core::cell::RefCell;
use core::ptr::NonNull;

use kmm_frame::{PageFlags, Pfn};
use kmm_host::CpuId;
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimCpus, SimLock, SimPhys};
use kmm_slub::{
    CacheSlot, CpuSlot, KmemCache, Slub, SlubBug, SlubBugKind, SlubConfig, SlubError, SlubStorage,
};

pub type Source = FailRandom<FreeListSource>;
pub type SimSlub<A = &'static Source> = Slub<A, SimPhys, SimLock, SimCpus>;

pub struct Rig {
    pub machine: &'static Machine,
    pub source: &'static Source,
    pub slub: &'static SimSlub,
}

thread_local! {
    static BUGS: RefCell<Vec<SlubBugKind>> = const { RefCell::new(Vec::new()) };
}

/// The kinds of the bugs that were reported on this thread since the last call.
pub fn bugs() -> Vec<SlubBugKind> {
    BUGS.take()
}

fn keep(bug: &SlubBug) {
    BUGS.with_borrow_mut(|bugs| bugs.push(bug.kind));
}

/// Each operation takes the lock, and mistakes show at once.
pub fn config() -> SlubConfig {
    SlubConfig {
        is_checked: true,
        merges: false,
        ..SlubConfig::new(keep)
    }
}

/// With arrays and depots, as it is used.
pub fn fast_config() -> SlubConfig {
    SlubConfig {
        is_checked: false,
        ..config()
    }
}

pub fn slots(nr: usize) -> &'static [CacheSlot<SimLock>] {
    (0..nr).map(|_| CacheSlot::new()).collect::<Vec<_>>().leak()
}

/// Room for 128 caches and the CPUs of a machine.
pub fn storage(machine: &Machine) -> SlubStorage<SimLock> {
    use kmm_host::Cpus as _;
    let cpus: Vec<_> = (0..machine.cpus().nr_cpus())
        .map(|_| CpuSlot::new())
        .collect();
    SlubStorage {
        caches: slots(128),
        cpus: cpus.leak(),
    }
}

fn rig_on(machine: &'static Machine, config: SlubConfig) -> Rig {
    let source = FailRandom::new(FreeListSource::new(machine), 1, 0);
    let source: &'static _ = Box::leak(Box::new(source));
    Rig {
        machine,
        source,
        slub: slub_with(machine, source, config),
    }
}

pub fn rig() -> Rig {
    rig_on(Machine::new(Config::with_mib(64)), config())
}

pub fn rig_with(config: SlubConfig) -> Rig {
    rig_on(Machine::new(Config::with_mib(64)), config)
}

pub fn fast_rig() -> Rig {
    rig_on(Machine::new(Config::with_mib(64)), fast_config())
}

/// As [`fast_rig`], with several CPUs.
pub fn smp_rig(nr_cpus: usize, config: SlubConfig) -> Rig {
    rig_on(Machine::new(Config::with_mib(64).cpus(nr_cpus)), config)
}

pub fn slub_over<A: kmm_host::PageSource>(
    machine: &'static Machine,
    source: A,
) -> &'static SimSlub<A> {
    slub_with(machine, source, config())
}

pub fn slub_with<A: kmm_host::PageSource>(
    machine: &'static Machine,
    source: A,
    config: SlubConfig,
) -> &'static SimSlub<A> {
    let slub = Slub::new(
        source,
        *machine.phys(),
        machine.mem_map(),
        *machine.cpus(),
        storage(machine),
        config,
    );
    Box::leak(Box::new(slub.expect("enough slots")))
}

/// Ends a cache that only the test uses.
pub fn destroy(
    slub: &SimSlub<impl kmm_host::PageSource>,
    cache: KmemCache,
) -> Result<(), SlubError> {
    // SAFETY: the test is alone.
    unsafe { slub.cache_destroy(cache) }
}

impl Rig {
    pub fn outstanding(&self) -> usize {
        self.source.inner().outstanding()
    }

    /// Everything came back, nothing was reported, all books are in order.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.slub.validate().unwrap();
        // SAFETY: the test is alone, and not within slub.
        unsafe { self.slub.drain_all() };
        self.slub.validate().unwrap();
        for info in self.slub.cache_infos() {
            assert_eq!((info.active_objs, info.num_slabs), (0, 0), "{info:?}");
        }
        assert_eq!(self.slub.nr_pages().total(), 0);
        self.source.inner().assert_nothing_outstanding();
        let marks = PageFlags::SLAB | PageFlags::HEAD | PageFlags::TAIL;
        let map = self.machine.mem_map();
        let marked = |pfn: &Pfn| map.page(*pfn).flags().intersects(marks);
        assert_eq!(map.range().iter().find(marked), None, "a mark is left");
        assert_eq!(bugs(), []);
    }

    /// Plays a CPU.
    pub fn on<R>(&self, cpu: u32, f: impl FnOnce() -> R) -> R {
        self.machine.cpus().run_on(CpuId::new(cpu), f)
    }

    #[track_caller]
    pub fn active(&self, name: &str) -> usize {
        let info = self.slub.cache_infos().find(|info| info.name == name);
        info.expect("the cache exists").active_objs
    }
}

/// Fills memory with a pattern that depends on `id` and the place.
pub fn fill(ptr: NonNull<u8>, len: usize, id: u64) {
    for at in 0..len {
        // SAFETY: the caller was given that many bytes.
        unsafe { ptr.add(at).write(pattern(id, at)) };
    }
}

/// Whether memory holds the pattern still.
pub fn holds(ptr: NonNull<u8>, len: usize, id: u64) -> bool {
    // SAFETY: the caller was given that many bytes, and wrote them.
    (0..len).all(|at| unsafe { ptr.add(at).read() } == pattern(id, at))
}

pub fn is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: the caller was given that many bytes, zeroed.
    (0..len).all(|at| unsafe { ptr.add(at).read() } == 0)
}

fn pattern(id: u64, at: usize) -> u8 {
    (id.wrapping_mul(0x9e37_79b9) >> (8 * (at % 4))) as u8 ^ (at as u8)
}

pub fn kfree(slub: &SimSlub<impl kmm_host::PageSource>, ptr: NonNull<u8>) {
    // SAFETY: tests free what they allocated, or what slub must refuse.
    unsafe { slub.kfree(ptr) };
}

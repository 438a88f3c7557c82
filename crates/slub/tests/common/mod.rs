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
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimLock, SimPhys};
use kmm_slub::{CacheSlot, Slub, SlubBug, SlubBugKind, SlubConfig};

pub type Source = FailRandom<FreeListSource>;
pub type SimSlub<A = &'static Source> = Slub<A, SimPhys, SimLock>;

pub struct Rig {
    pub machine: &'static Machine,
    pub source: &'static Source,
    pub slub: &'static SimSlub,
}

thread_local! {
    static BUGS: RefCell<Vec<SlubBug>> = const { RefCell::new(Vec::new()) };
}

/// The kinds of the bugs that were reported on this thread since the last call.
pub fn bugs() -> Vec<SlubBugKind> {
    BUGS.take().into_iter().map(|bug| bug.kind).collect()
}

fn keep(bug: &SlubBug) {
    BUGS.with_borrow_mut(|bugs| bugs.push(*bug));
}

pub fn config() -> SlubConfig {
    SlubConfig::new(keep)
}

pub fn slots(nr: usize) -> &'static [CacheSlot<SimLock>] {
    (0..nr).map(|_| CacheSlot::new()).collect::<Vec<_>>().leak()
}

pub fn rig_with(mib: u64) -> Rig {
    let machine = Machine::new(Config::with_mib(mib));
    let source: &'static _ = Box::leak(Box::new(FailRandom::new(
        FreeListSource::new(machine),
        1,
        0,
    )));
    Rig {
        machine,
        source,
        slub: slub_over(machine, source),
    }
}

pub fn rig() -> Rig {
    rig_with(64)
}

pub fn slub_over<A: kmm_host::PageSource>(
    machine: &'static Machine,
    source: A,
) -> &'static SimSlub<A> {
    let slub = Slub::new(
        source,
        *machine.phys(),
        machine.mem_map(),
        slots(64),
        config(),
    );
    Box::leak(Box::new(slub.expect("enough slots")))
}

impl Rig {
    pub fn outstanding(&self) -> usize {
        self.source.inner().outstanding()
    }

    /// Everything came back, nothing was reported, all books are in order.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.slub.shrink_all();
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

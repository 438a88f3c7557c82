//! What the tests of the page allocator share: a small machine whose zones are handed in, and somebody who reclaims.
#![allow(
    dead_code,
    unsafe_code,
    missing_docs,
    unreachable_pub,
    reason = "each test uses a part of it, and it stands for a host kernel"
)]

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::sync::{Mutex, OnceLock};

use kmm::frame::{Gfp, NodeId, Order, Pfn, PfnRange, Topology, ZoneType};
use kmm::host::{Backtrace, Context, CpuId, Host, Owners, PageBlock, PageReq, Scope, Sleep};
use kmm::layers::{OwnerSlot, OwnerTable};
use kmm::zone::{NodeLayouts, ZoneLayout, ZoneLimits, ZoneStorage, Zones};
use kmm::{
    AllocBug, AllocHooks, AllocStep, CompactPriority, CompactResult, OomResult, PageAlloc, Pages,
    ReclaimReq, Reclaimer,
};
use kmm_sim::{Config, Machine, SimCpus, SimLock, SimPhys, SimPtes, SimTlb};
pub use kmm_sim::{frames, order};

/// A block that the caller does not have: the allocator has to refuse it.
pub fn forged(pfn: Pfn, n: u8) -> PageBlock {
    // SAFETY: nobody uses it, for who refuses it drops it.
    unsafe { PageBlock::from_raw(pfn, order(n)) }
}

/// DMA below frame 1024, DMA32 below 2048, Normal above.
#[derive(Debug)]
pub struct Small;

impl ZoneLimits for Small {
    const DMA_END: Option<Pfn> = Some(Pfn::new(1024));
    const DMA32_END: Option<Pfn> = Some(Pfn::new(2048));
    const LOWMEM_END: Option<Pfn> = None;
}

/// Everything is Normal.
#[derive(Debug)]
pub struct OneZone;

impl ZoneLimits for OneZone {
    const DMA_END: Option<Pfn> = None;
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = None;
}

/// As [`Small`], with high memory from frame 3072 on.
#[derive(Debug)]
pub struct High;

impl ZoneLimits for High {
    const DMA_END: Option<Pfn> = Some(Pfn::new(1024));
    const DMA32_END: Option<Pfn> = Some(Pfn::new(2048));
    const LOWMEM_END: Option<Pfn> = Some(Pfn::new(3072));
}

thread_local! {
    static CONTEXT: Cell<Context> = const { Cell::new(Context::Process) };
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::empty()) };
    static CALL: Cell<usize> = const { Cell::new(0) };
    static STEPS: RefCell<Vec<AllocStep>> = const { RefCell::new(Vec::new()) };
    static BUGS: RefCell<Vec<AllocBug>> = const { RefCell::new(Vec::new()) };
    static TEXTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` as code of that kind.
pub fn run_in<R>(context: Context, f: impl FnOnce() -> R) -> R {
    let before = CONTEXT.replace(context);
    let result = f();
    CONTEXT.set(before);
    result
}

pub fn take_steps() -> Vec<AllocStep> {
    STEPS.take()
}

pub fn take_bugs() -> Vec<AllocBug> {
    BUGS.take()
}

/// Reports of failed requests and bad frees, as text.
pub fn take_texts() -> Vec<String> {
    TEXTS.take()
}

/// From now on this is where code is.
pub fn call(n: usize) {
    CALL.set(n);
}

/// Says who calls by a number.
#[derive(Debug)]
pub struct Caller;

impl Backtrace for Caller {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        addresses[0] = 0x1000 + CALL.get();
        1
    }

    fn tag(&self) -> u64 {
        CALL.get() as u64
    }
}

pub type Table = OwnerTable<SimLock, Caller, 2>;

/// A machine of `sim` with what this thread says of itself.
#[derive(Debug)]
pub struct TestHost<O> {
    machine: &'static Machine,
    owners: O,
}

impl<O: Owners + Sync + 'static> Host for TestHost<O> {
    type Phys = SimPhys;
    type Ptes = SimPtes;
    type Tlb = SimTlb;
    type Cpus = SimCpus;
    type Lock = SimLock;
    type Owners = O;

    fn phys(&self) -> &SimPhys {
        self.machine.phys()
    }

    fn ptes(&self) -> &SimPtes {
        self.machine.ptes()
    }

    fn tlb(&self) -> &SimTlb {
        self.machine.tlb()
    }

    fn cpus(&self) -> &SimCpus {
        self.machine.cpus()
    }

    fn owners(&self) -> &O {
        &self.owners
    }

    fn context(&self) -> Context {
        CONTEXT.get()
    }

    fn scope(&self) -> Scope {
        SCOPE.get()
    }

    fn swap_scope(&self, scope: Scope) -> Scope {
        SCOPE.replace(scope)
    }
}

/// Remembers what the allocator tells on this thread.
pub const TELL: AllocHooks = AllocHooks {
    on_step: |step| STEPS.with_borrow_mut(|all| all.push(*step)),
    on_bug: |bug| BUGS.with_borrow_mut(|all| all.push(*bug)),
    on_failure: |failure| TEXTS.with_borrow_mut(|all| all.push(failure.of("prog").to_string())),
    on_bad_free: |bad| TEXTS.with_borrow_mut(|all| all.push(bad.to_string())),
    ..AllocHooks::NONE
};

/// A machine, its zones, and the allocator.
pub struct World<O: Owners + Sync + 'static = ()> {
    pub machine: &'static Machine,
    pub host: &'static TestHost<O>,
    pub zones: &'static Pages<TestHost<O>>,
    pub pages: &'static PageAlloc<TestHost<O>>,
}

/// Frames of the machine.
pub const NR_FRAMES: usize = 4096;
/// CPUs of the machine. A thread is CPU 0 until it says otherwise.
pub const NR_CPUS: usize = 4;

/// 4096 frames in three zones with marks of `min` pages in all, and nobody who reclaims.
pub fn world(min: usize) -> World {
    world_with(min, TELL)
}

pub fn world_with(min: usize, hooks: AllocHooks) -> World {
    build::<Small, ()>(min, hooks, &Topology::single(), |_| ())
}

/// The same with records of who has what.
pub fn tracked(min: usize) -> World<Table> {
    tracked_with(min, TELL)
}

pub fn tracked_with(min: usize, hooks: AllocHooks) -> World<Table> {
    let table = |_: &Machine| {
        let slots = Vec::leak(vec![OwnerSlot::EMPTY; NR_FRAMES]);
        OwnerTable::new(frames(0, NR_FRAMES), slots, Caller)
    };
    build::<Small, Table>(min, hooks, &Topology::single(), table)
}

pub fn with_highmem(min: usize) -> World {
    build::<High, ()>(min, TELL, &Topology::single(), |_| ())
}

/// The same frames on two nodes, split in the middle of Normal; CPU 0 is at node 0.
pub fn two_nodes(min: usize, hooks: AllocHooks) -> World {
    let mut topology = Topology::new(2).unwrap();
    topology.add_range(frames(0, 3072), NodeId::new(0)).unwrap();
    topology
        .add_range(frames(3072, NR_FRAMES), NodeId::new(1))
        .unwrap();
    topology.set_cpu_node(0, NodeId::new(0)).unwrap();
    build::<Small, ()>(min, hooks, &topology, |_| ())
}

/// 256 MiB in one zone, of which a hundredth is more than a pageblock.
pub fn large_zone(min: usize, hooks: AllocHooks) -> World {
    let ram = frames(0, 65_536);
    build_on::<OneZone, ()>(ram, min, hooks, &Topology::single(), |_| ())
}

fn build<A: ZoneLimits, O: Owners + Sync + 'static>(
    min: usize,
    hooks: AllocHooks,
    topology: &Topology,
    owners: impl FnOnce(&Machine) -> O,
) -> World<O> {
    build_on::<A, O>(frames(0, NR_FRAMES), min, hooks, topology, owners)
}

fn build_on<A: ZoneLimits, O: Owners + Sync + 'static>(
    ram: PfnRange,
    min: usize,
    hooks: AllocHooks,
    topology: &Topology,
    owners: impl FnOnce(&Machine) -> O,
) -> World<O> {
    let machine = Machine::new(Config::with_ram([ram]).cpus(NR_CPUS));
    let topology: &'static Topology = Box::leak(Box::new(topology.clone()));
    let layouts = if topology.nr_nodes() == 1 {
        NodeLayouts::single(ZoneLayout::new::<A>(ram))
    } else {
        NodeLayouts::new::<A>(topology, [ram])
    };
    let size = ZoneStorage::<SimLock>::layout(&layouts, NR_CPUS).unwrap();
    // SAFETY: zones want some memory.
    let place = NonNull::new(unsafe { std::alloc::alloc_zeroed(size) }).unwrap();
    // SAFETY: as large as they want, and nobody else's.
    let storage = unsafe { ZoneStorage::new_in(&layouts, NR_CPUS, place) };
    let map = machine.mem_map();
    let zones = Zones::new(map, machine.cpus(), machine.phys(), &layouts, storage)
        .unwrap()
        .with_bad_page_hook(|bad| TEXTS.with_borrow_mut(|all| all.push(bad.to_string())));
    let zones: &'static Pages<TestHost<O>> = Box::leak(Box::new(zones));
    zones.add_present(ram);
    zones.free_at_boot(ram).unwrap();
    zones.init_watermarks(min * 4, 10);
    if min == 0 {
        // Every page may go to anybody.
        zones.set_lowmem_reserve_ratio([0; ZoneType::COUNT]);
    }
    let host: &'static TestHost<O> = Box::leak(Box::new(TestHost {
        machine,
        owners: owners(machine),
    }));
    take_texts();
    World {
        machine,
        host,
        zones,
        pages: Box::leak(Box::new(PageAlloc::new(host, zones, hooks))),
    }
}

impl<O: Owners + Sync + 'static> World<O> {
    /// Frames that nobody has.
    pub fn nr_free(&self) -> usize {
        self.zones.accounting().free
    }

    pub fn free_of(&self, kind: ZoneType) -> usize {
        let zones = self.zones.all().filter(|zone| zone.kind() == kind);
        zones
            .map(|zone| zone.stat().free + zone.stat().pcp_pages)
            .sum()
    }

    /// Everything is where it was, and nothing was said.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert_eq!(take_texts(), Vec::<String>::new());
        self.zones.validate().unwrap();
        assert!(self.zones.accounting().adds_up());
        let present = self.zones.accounting().present;
        assert_eq!(self.nr_free(), present, "frames were lost");
        assert_eq!(take_bugs(), []);
    }

    /// Every page that a request without reserves gets, straight from the zones.
    pub fn exhaust(&self, gfp: Gfp) -> Vec<PageBlock> {
        let next = || self.zones.alloc_pages(PageReq::page(gfp)).ok();
        core::iter::from_fn(next).map(|(block, _)| block).collect()
    }

    /// Every page there is.
    pub fn exhaust_all(&self) -> Vec<PageBlock> {
        self.exhaust(Gfp::KERNEL | Gfp::MEMALLOC)
    }

    pub fn give_back(&self, blocks: impl IntoIterator<Item = PageBlock>) {
        use kmm::host::PageSource;
        blocks.into_iter().for_each(|block| self.zones.free(block));
    }
}

/// Frees pages that it holds, when it is asked to; and remembers how it was asked.
#[derive(Debug, Default)]
pub struct Fake {
    zones: OnceLock<&'static Pages<TestHost<()>>>,
    pages: OnceLock<&'static PageAlloc<TestHost<()>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub struct State {
    pub held: Vec<PageBlock>,
    /// So many pages are freed by each reclaim.
    pub per_reclaim: usize,
    /// So many pages are freed by each killing.
    pub per_kill: usize,
    /// So many pages are freed by each moment of waiting.
    pub per_relax: usize,
    /// What reclaim says it has freed, though it did not.
    pub pretended: usize,
    /// What compactions come to, one after the other; `Skipped` afterwards.
    pub compactions: Vec<CompactResult>,
    /// Blocks that a successful compaction makes.
    pub compacted: Vec<PageBlock>,
    /// Whether other CPUs do what is asked of them.
    pub drains: bool,
    pub oom: Option<OomResult>,
    pub reclaimable: usize,
    /// With the so-many-th question for that, everything held is freed.
    pub free_at_look: usize,
    pub nr_looks: usize,
    pub wakes: Vec<(NodeId, Order, ZoneType)>,
    pub reclaims: Vec<(ReclaimReq, Scope)>,
    pub priorities: Vec<CompactPriority>,
    pub kills: Vec<ReclaimReq>,
    pub nr_relaxed: usize,
    /// Runs within reclaim.
    pub within: Option<fn(&Fake, &mut Sleep)>,
    /// Runs while somebody is chosen to end.
    pub within_oom: Option<fn(&Fake)>,
}

impl Fake {
    pub fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    pub fn hooks(&'static self) -> AllocHooks {
        AllocHooks {
            reclaimer: self,
            ..TELL
        }
    }

    pub fn set_zones(&self, world: &World) {
        self.zones.set(world.zones).unwrap();
        self.pages.set(world.pages).unwrap();
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn pages(&self) -> &'static PageAlloc<TestHost<()>> {
        self.pages.get().unwrap()
    }

    /// Frees so many of the pages that it holds; how many it had.
    pub fn free(&self, count: usize) -> usize {
        use kmm::host::PageSource;
        let mut state = self.state();
        let from = state.held.len().saturating_sub(count);
        let blocks = state.held.split_off(from);
        drop(state);
        let zones = self.zones.get().unwrap();
        let count = blocks.len();
        blocks.into_iter().for_each(|block| zones.free(block));
        drain_here(zones);
        count
    }
}

/// What was freed is on the free lists, where watermarks count it.
pub fn drain_here(zones: &Pages<TestHost<()>>) {
    use kmm::host::Cpus;
    zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
}

/// Nothing is free above the min mark; the fake holds `held` pages of what was.
pub fn short(min: usize, held: usize) -> (World, &'static Fake, Vec<PageBlock>) {
    let fake = Fake::new();
    let world = world_with(min, fake.hooks());
    fake.set_zones(&world);
    let mut blocks = world.exhaust(Gfp::KERNEL);
    let from = blocks.len() - held;
    fake.state().held = blocks.split_off(from);
    take_steps();
    (world, fake, blocks)
}

/// Everything goes back, and is there.
#[track_caller]
pub fn finish(world: &World, fake: &Fake, blocks: Vec<PageBlock>) {
    let held = core::mem::take(&mut fake.state().held);
    let compacted = core::mem::take(&mut fake.state().compacted);
    world.give_back(blocks);
    world.give_back(held);
    world.give_back(compacted);
    take_steps();
    world.assert_whole();
}

impl Reclaimer for Fake {
    fn wake_kswapd(&self, node: NodeId, order: Order, highest: ZoneType) {
        self.state().wakes.push((node, order, highest));
    }

    fn drain_cpu(&self, sleep: &mut Sleep, cpu: CpuId) {
        let _ = sleep;
        if self.state().drains {
            let zones = self.zones.get().unwrap();
            zones.cpus().run_on(cpu, || drain_here(zones));
        }
    }

    fn reclaim(&self, sleep: &mut Sleep, req: &ReclaimReq) -> usize {
        let (count, within) = {
            let mut state = self.state();
            state.reclaims.push((*req, sleep.scope()));
            (state.per_reclaim, state.within)
        };
        if let Some(within) = within {
            within(self, sleep);
        }
        let pretended = self.state().pretended;
        self.free(count) + pretended
    }

    fn compact(
        &self,
        sleep: &mut Sleep,
        req: &ReclaimReq,
        priority: CompactPriority,
    ) -> CompactResult {
        let _ = (sleep, req);
        let (result, made) = {
            let mut state = self.state();
            state.priorities.push(priority);
            let result = if state.compactions.is_empty() {
                CompactResult::Skipped
            } else {
                state.compactions.remove(0)
            };
            let made = if result == CompactResult::Success {
                core::mem::take(&mut state.compacted)
            } else {
                Vec::new()
            };
            (result, made)
        };
        use kmm::host::PageSource;
        let zones = self.zones.get().unwrap();
        made.into_iter().for_each(|block| zones.free(block));
        result
    }

    fn out_of_memory(&self, sleep: &mut Sleep, req: &ReclaimReq) -> OomResult {
        let _ = sleep;
        let (result, count, within) = {
            let mut state = self.state();
            state.kills.push(*req);
            let result = state.oom.unwrap_or(OomResult::NoVictim);
            (result, state.per_kill, state.within_oom)
        };
        if let Some(within) = within {
            within(self);
        }
        self.free(count);
        result
    }

    fn has_others(&self) -> bool {
        self.state().per_relax > 0
    }

    fn reclaimable_pages(&self, node: NodeId, zone: ZoneType) -> usize {
        let _ = (node, zone);
        let (reclaimable, frees) = {
            let mut state = self.state();
            state.nr_looks += 1;
            (state.reclaimable, state.nr_looks == state.free_at_look)
        };
        if frees {
            self.free(usize::MAX);
        }
        reclaimable
    }

    fn relax(&self, sleep: &mut Sleep) {
        let _ = sleep;
        let count = {
            let mut state = self.state();
            state.nr_relaxed += 1;
            assert!(state.nr_relaxed < 10_000, "a request waits for ever");
            state.per_relax
        };
        self.free(count);
    }
}

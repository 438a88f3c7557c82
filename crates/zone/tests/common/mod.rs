//! What the tests share: a small machine with three zones, CPUs by thread, seeded random numbers.
#![allow(
    dead_code,
    unsafe_code,
    missing_docs,
    unreachable_pub,
    reason = "each test uses a part of it, and it stands for a host kernel"
)]

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use kmm_frame::{
    Gfp, MemMap, MigrateType, Order, PAGE_SIZE, Page, Pfn, PfnRange, VirtAddr, ZoneType,
};
use kmm_host::{CpuId, CpuPin, Cpus, DirectMap, PageBlock, PageReq};
pub use kmm_sim::{frames, order};
use kmm_zone::{
    BadPage, CpuCounts, FirstPcps, FreeBits, NodeLayouts, Pageblock, Pcp, ZoneLayout, ZoneLimits,
    ZoneStorage, Zones,
};

/// DMA below frame 64, DMA32 below 256, Normal above.
#[derive(Debug)]
pub struct Tiny;

impl ZoneLimits for Tiny {
    const DMA_END: Option<Pfn> = Some(Pfn::new(64));
    const DMA32_END: Option<Pfn> = Some(Pfn::new(256));
    const LOWMEM_END: Option<Pfn> = None;
}

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
    static BAD: RefCell<Vec<BadPage>> = const { RefCell::new(Vec::new()) };
    static INTERRUPT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// From now on this thread runs on `cpu`; no other thread may.
pub fn run_on(cpu: u32) {
    CPU.set(cpu);
}

/// Each thread says on which CPU it runs.
#[derive(Debug)]
pub struct ThreadCpus(pub usize);

// SAFETY: the tests give each CPU to one thread at a time.
unsafe impl Cpus for ThreadCpus {
    fn nr_cpus(&self) -> usize {
        self.0
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: as above.
        f(unsafe { CpuPin::new(CpuId::new(CPU.get())) })
    }
}

/// Remembers what was reported on this thread.
pub fn note_bad(bad: BadPage) {
    BAD.with_borrow_mut(|all| all.push(bad));
}

/// What was reported on this thread since the last call.
pub fn take_bad() -> Vec<BadPage> {
    BAD.take()
}

/// A lock before whose next acquisition an interrupt strikes.
#[derive(Debug)]
pub struct InterruptedLock(spin::Mutex<()>);

/// Runs `f` just before the next lock on this thread.
pub fn interrupt_next_lock(f: impl FnOnce() + 'static) {
    INTERRUPT.set(Some(Box::new(f)));
}

pub fn interrupt_is_pending() -> bool {
    INTERRUPT.with_borrow(Option::is_some)
}

// SAFETY: every call goes to a lock; the interrupt runs before it is held.
unsafe impl lock_api::RawMutex for InterruptedLock {
    const INIT: Self = Self(spin::Mutex::new(()));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        if let Some(interrupt) = INTERRUPT.take() {
            interrupt();
        }
        lock_api::RawMutex::lock(&self.0);
    }

    fn try_lock(&self) -> bool {
        lock_api::RawMutex::try_lock(&self.0)
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        unsafe { lock_api::RawMutex::unlock(&self.0) }
    }
}

pub type TestZones<L = spin::Mutex<()>> = Zones<L, ThreadCpus, DirectMap>;

/// Frames `ram` with RAM behind them, nothing freed yet.
pub fn bare<L: lock_api::RawMutex>(
    layout: ZoneLayout,
    ram: PfnRange,
    nr_cpus: usize,
) -> TestZones<L> {
    let pages: Vec<Page> = ram.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(ram, Box::leak(pages.into_boxed_slice())).unwrap();
    let layouts = NodeLayouts::single(layout);
    let storage = storage_for(&layouts, nr_cpus);
    Zones::new(map, ThreadCpus(nr_cpus), memory(ram), &layouts, storage)
        .unwrap()
        .with_bad_page_hook(note_bad)
}

/// As much as the layouts say.
pub fn storage_for<L>(layouts: &NodeLayouts, nr_cpus: usize) -> ZoneStorage<L> {
    storage(
        layouts.nr_nodes(),
        nr_cpus,
        layouts.nr_pcps(nr_cpus),
        layouts.nr_pageblocks(),
        layouts.nr_free_bits(),
    )
}

/// Fresh room for nodes, pagesets and pageblocks, never given back.
pub fn storage<L>(
    nr_nodes: usize,
    nr_cpus: usize,
    nr_pcps: usize,
    nr_pageblocks: usize,
    nr_free_bits: usize,
) -> ZoneStorage<L> {
    let first_pcps: Vec<FirstPcps> = (0..nr_cpus).map(|_| FirstPcps::new()).collect();
    let cpu_counts: Vec<_> = (0..nr_nodes * nr_cpus).map(|_| CpuCounts::new()).collect();
    let pcps: Vec<Pcp> = (0..nr_pcps).map(|_| Pcp::new()).collect();
    let pageblocks: Vec<Pageblock> = (0..nr_pageblocks).map(|_| Pageblock::new()).collect();
    ZoneStorage {
        nodes: Box::leak(Box::new_uninit_slice(nr_nodes)),
        first_pcps: first_pcps.leak(),
        cpu_counts: cpu_counts.leak(),
        pcps: pcps.leak(),
        pageblocks: pageblocks.leak(),
        free_bits: vec![FreeBits::EMPTY; nr_free_bits].leak(),
    }
}

/// Bytes behind the frames of `ram`, filled with 0xa5.
pub fn memory(ram: PfnRange) -> DirectMap {
    #[repr(align(4096))]
    #[derive(Clone)]
    struct Bytes(#[expect(dead_code, reason = "reached by pointer")] [u8; PAGE_SIZE]);
    let bytes: &'static mut [Bytes] = vec![Bytes([0xa5; PAGE_SIZE]); ram.nr_pages()].leak();
    let first = bytes.as_mut_ptr().expose_provenance() as u64;
    let offset = first - ram.start().phys().as_u64();
    // SAFETY: the frames of `ram` are mapped there for ever, and no others are used.
    unsafe { DirectMap::new(VirtAddr::new(offset), ram.end()) }
}

/// 1024 frames in three zones, all freed but those of `reserved`, with watermarks of `min_free` pages.
pub fn small<L: lock_api::RawMutex>(
    min_free: usize,
    reserved: PfnRange,
    nr_cpus: usize,
) -> TestZones<L> {
    let ram = frames(0, 1024);
    let zones = bare(ZoneLayout::new::<Tiny>(ram), ram, nr_cpus);
    boot(&zones, ram, reserved, min_free);
    zones
}

pub fn boot<L: lock_api::RawMutex>(
    zones: &TestZones<L>,
    ram: PfnRange,
    reserved: PfnRange,
    min_free: usize,
) {
    zones.map().reserve(reserved);
    zones.add_present(ram);
    let low = PfnRange::new(ram.start(), reserved.start());
    let high = PfnRange::new(reserved.end(), ram.end());
    assert_eq!(zones.free_at_boot(low), Ok(low.nr_pages()));
    assert_eq!(zones.free_at_boot(high), Ok(high.nr_pages()));
    zones.init_watermarks(min_free * 4, 10);
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

/// Single pages until there are no more.
pub fn exhaust<L: lock_api::RawMutex>(zones: &TestZones<L>, gfp: Gfp) -> Vec<PageBlock> {
    core::iter::from_fn(|| zones.alloc_pages(PageReq::page(gfp)).ok())
        .map(|(block, _)| block)
        .collect()
}

pub fn free_of<L: lock_api::RawMutex>(zones: &TestZones<L>, kind: ZoneType) -> usize {
    zones.zone(kind).nr_free_pages()
}

pub fn bytes_of(zones: &TestZones, pfn: Pfn) -> Vec<u8> {
    use kmm_host::PhysMap;
    let first: NonNull<u8> = zones.phys().direct(pfn).unwrap();
    // SAFETY: the frame is RAM of this machine, and the test is its only user.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), PAGE_SIZE) }.to_vec()
}

/// Whether a zone has a block for a request that would rather go to the zone below than mix pageblocks: one of its own
/// type, or whole pageblocks.
pub fn fits_without_mixing<L: lock_api::RawMutex>(
    zone: &kmm_zone::Zone<L>,
    order: Order,
    kind: MigrateType,
) -> bool {
    let free = zone.nr_free_by_type();
    let any = |kind: MigrateType, from: Order| {
        free[kind.index()][from.index()..]
            .iter()
            .any(|count| *count > 0)
    };
    let others = [
        MigrateType::Unmovable,
        MigrateType::Movable,
        MigrateType::Reclaimable,
    ];
    any(kind, order)
        || others
            .into_iter()
            .any(|other| any(other, order.max(Order::PAGEBLOCK)))
}

/// xorshift64*: small, seeded, the same everywhere.
pub struct Random(u64);

impl Random {
    /// Seeded by `KMM_SEED` where that is set, else by `seed`; says how to replay.
    pub fn new(test: &str, seed: u64) -> Self {
        let seed = match std::env::var("KMM_SEED") {
            Ok(text) => text.parse().expect("KMM_SEED is a number"),
            Err(_) => seed,
        };
        println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-zone {test}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// Small orders more often than large ones.
    pub fn order(&mut self, most: u8) -> Order {
        let n = self.next().trailing_ones().min(u32::from(most));
        order(u8::try_from(n).unwrap())
    }
}

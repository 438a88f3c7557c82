//! Everything at once on machines of several nodes whose frames lie between each other's: requests, frees on other CPUs,
//! exact ranges, memory that comes and goes, and wrong calls. Nothing is lost, held twice or miscounted.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers that stands for a host kernel"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, TestZones, ThreadCpus, Tiny, frames, note_bad, run_on, take_bad};
use kmm_frame::{
    Gfp, MAX_ORDER, MemMap, MigrateType, NodeId, Page, Pfn, PfnRange, Topology, ZoneType,
};
use kmm_host::{CpuId, CpuPin, PageBlock, PageReq, PageSource};
use kmm_zone::{ContigRange, Migrate, Migrated, NodeLayouts, Zones};

const END: usize = 8192;
const ROOM: usize = 16_384;

/// Stripes of random size, at boot memory below `END`, room for more up to `ROOM`.
fn machine(random: &mut Random) -> (TestZones, usize, usize) {
    let nr_nodes = 1 + random.below(4);
    let nr_cpus = 1 + random.below(8);
    let mut topology = Topology::new(nr_nodes).unwrap();
    let mut start = 0;
    while start < ROOM {
        let len = if start < END {
            64 + random.below(1500)
        } else {
            1024
        };
        let mut end = (start + len).min(ROOM);
        if start < END && end > END {
            end = END;
        }
        let node = NodeId::new(random.below(nr_nodes) as u8);
        topology.add_range(frames(start, end), node).unwrap();
        start = end;
    }
    for cpu in 0..nr_cpus {
        let node = NodeId::new(random.below(nr_nodes) as u8);
        topology.set_cpu_node(cpu, node).unwrap();
    }
    let topology = Box::leak(Box::new(topology));
    let layouts = NodeLayouts::new::<Tiny>(topology, [frames(0, END)])
        .with_hotplug::<Tiny>(frames(END, ROOM));
    let all = frames(0, ROOM);
    let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
    let zones = Zones::new(
        MemMap::new(all, pages.leak()).unwrap(),
        ThreadCpus(nr_cpus),
        common::memory(frames(0, 1)),
        &layouts,
        common::storage_for(&layouts, nr_cpus),
    )
    .unwrap()
    .with_bad_page_hook(note_bad);
    zones.add_present(frames(0, END));
    zones.free_at_boot(frames(0, END)).unwrap();
    zones.init_watermarks(256, 10);
    (zones, nr_nodes, nr_cpus)
}

struct World<'a> {
    zones: &'a TestZones,
    nr_cpus: usize,
    held: BTreeMap<Pfn, (PageBlock, bool)>,
    ranges: Vec<ContigRange>,
    drains: bool,
}

impl World<'_> {
    fn take(&mut self, block: PageBlock, frozen: bool) {
        let range = block.range();
        let before = self.held.range(..range.end()).next_back();
        assert!(
            before.is_none_or(|(_, (other, _))| other.range().end() <= range.start()),
            "{range:?} is held twice"
        );
        assert!(self.ranges.iter().all(|r| !r.range().overlaps(range)));
        self.held.insert(block.pfn(), (block, frozen));
    }

    fn any(&mut self, random: &mut Random) -> Option<(PageBlock, bool)> {
        let at = Pfn::new(random.below(ROOM));
        let pfn = *self
            .held
            .range(at..)
            .next()
            .or_else(|| self.held.iter().next())?
            .0;
        self.held.remove(&pfn)
    }

    fn give(&self, (block, frozen): (PageBlock, bool)) {
        if frozen {
            self.zones.free_frozen_pages(block);
        } else {
            self.zones.free(block);
        }
    }
}

impl Migrate for World<'_> {
    fn migrate(&mut self, run: PfnRange) -> Migrated {
        let mut done = run.start();
        while done < run.end() {
            let block = self.held.range(..=done).next_back().map(|(pfn, _)| *pfn);
            let Some(pfn) = block.filter(|pfn| self.held[pfn].0.range().contains(done)) else {
                return Migrated::Busy;
            };
            let (old, frozen) = self.held.remove(&pfn).unwrap();
            let end = old.range().end();
            let req = PageReq::new(old.order(), Gfp::HIGHUSER_MOVABLE);
            match self.zones.alloc_pages(req) {
                Ok((new, _)) => {
                    self.give((old, frozen));
                    self.take(new, false);
                }
                Err(_) => {
                    self.held.insert(pfn, (old, frozen));
                    return Migrated::Busy;
                }
            }
            done = end;
        }
        Migrated::Moved
    }

    fn drain_others(&mut self) {
        if self.drains {
            for cpu in 0..self.nr_cpus as u32 {
                // SAFETY: all CPUs are this thread.
                self.zones
                    .drain_pcp(unsafe { CpuPin::new(CpuId::new(cpu)) });
            }
        }
    }
}

const GFPS: [Gfp; 7] = [
    Gfp::KERNEL,
    Gfp::ATOMIC,
    Gfp::HIGHUSER_MOVABLE,
    Gfp::NOWAIT.union(Gfp::DMA32),
    Gfp::KERNEL.union(Gfp::RECLAIMABLE),
    Gfp::KERNEL.union(Gfp::MEMALLOC),
    Gfp::KERNEL.union(Gfp::DMA),
];

fn wrong_calls(zones: &TestZones, random: &mut Random, nr_nodes: usize) {
    let far = [
        ROOM,
        ROOM + 512,
        1 << 32,
        1 << 52,
        usize::MAX - 1024,
        usize::MAX - 1023,
    ];
    let start = far[random.below(far.len())];
    let len = [0, 1, 511, 512, 1024, usize::MAX][random.below(6)];
    let range = PfnRange::with_len(Pfn::new(start), len);
    let mut stuck = |_: PfnRange| Migrated::Busy;
    match random.below(8) {
        0 if len > 0 => assert!(zones.free_at_boot(range).is_err()),
        1 if len > 0 => assert!(zones.free_reserved(range).is_err()),
        2 if len > 0 => assert!(zones.free_cma_at_boot(range).is_err()),
        3 => assert!(
            zones
                .alloc_contig_range(range, MigrateType::Movable, &mut stuck)
                .is_err()
        ),
        4 => {
            let kind = ZoneType::ALL[random.below(ZoneType::COUNT)];
            assert!(zones.online(range, kind).is_err());
        }
        5 => assert!(zones.offline(range, &mut stuck).is_err()),
        6 => assert!(zones.add_device(range).is_err()),
        _ => {
            let node = Some(NodeId::new((nr_nodes + random.below(8)).min(15) as u8));
            let req = PageReq {
                node,
                ..PageReq::page(Gfp::KERNEL)
            };
            if nr_nodes < 15 {
                assert!(zones.alloc(req).is_err());
                let mut out = [None, None];
                assert_eq!(zones.alloc_bulk(Gfp::KERNEL, node, &mut out), 0);
            }
        }
    }
    assert!(zones.zone_of(Pfn::new(start)).is_none());
    assert_eq!(take_bad(), []);
    // SAFETY: no such frame: it is refused.
    let block = unsafe { PageBlock::from_raw(Pfn::new(start).align_down(MAX_ORDER), MAX_ORDER) };
    zones.free(block);
    assert_eq!(take_bad().len(), 1);
}

fn run(seed: u64, steps: usize) {
    let mut random = Random::new("everything_at_once", seed);
    let (zones, nr_nodes, nr_cpus) = machine(&mut random);
    let mut world = World {
        zones: &zones,
        nr_cpus,
        held: BTreeMap::new(),
        ranges: Vec::new(),
        drains: true,
    };
    let mut devices = Vec::new();
    for step in 0..steps {
        run_on(random.below(nr_cpus) as u32);
        let node = (random.below(2) == 0).then(|| NodeId::new(random.below(nr_nodes) as u8));
        let gfp = GFPS[random.below(GFPS.len())];
        match random.below(100) {
            0..30 => {
                let order = random.order(10);
                let req = PageReq {
                    node,
                    ..PageReq::new(order, gfp)
                };
                if let Ok((block, _)) = zones.alloc_pages(req) {
                    world.take(block, false);
                }
            }
            30..40 => {
                let req = PageReq::new(random.order(4), gfp);
                if let Ok((block, _)) = zones.alloc_frozen_pages(req) {
                    world.take(block, true);
                }
            }
            40..45 => {
                let mut out: Vec<Option<PageBlock>> = Vec::new();
                out.resize_with(random.below(200), || None);
                let count = zones.alloc_pages_bulk(gfp, node, &mut out).0;
                assert_eq!(out.iter().flatten().count(), count);
                for block in out.into_iter().flatten() {
                    world.take(block, false);
                }
            }
            45..75 => {
                if let Some(block) = world.any(&mut random) {
                    world.give(block);
                }
            }
            75..80 => {
                let mut out = Vec::new();
                for _ in 0..random.below(150) {
                    match world.any(&mut random) {
                        Some((block, false)) => out.push(Some(block)),
                        Some(block) => world.give(block),
                        None => {}
                    }
                }
                zones.free_bulk(&mut out);
                assert!(out.iter().all(Option::is_none));
            }
            80..84 => {
                let start = random.below(ROOM);
                let range = frames(start, start + 1 + random.below(1100));
                world.drains = random.below(3) > 0;
                if let Ok(got) = zones.alloc_contig_range(range, MigrateType::Movable, &mut world) {
                    assert_eq!(got.range(), range);
                    let next = world.held.range(..range.end()).next_back();
                    assert!(next.is_none_or(|(_, (b, _))| b.range().end() <= range.start()));
                    assert!(world.ranges.iter().all(|r| !r.range().overlaps(range)));
                    world.ranges.push(got);
                }
            }
            84..88 if !world.ranges.is_empty() => {
                let nr = random.below(world.ranges.len());
                zones.free_contig_range(world.ranges.swap_remove(nr));
            }
            88..91 => {
                let start = random.below(ROOM / 1024) * 1024;
                let range = frames(start, (start + 1024 * (1 + random.below(3))).min(ROOM));
                let kind = [ZoneType::Normal, ZoneType::Movable][random.below(2)];
                let _ = zones.online(range, kind);
            }
            91..94 => {
                let start = random.below(ROOM / 1024) * 1024;
                let range = frames(start, start + 1024);
                world.drains = random.below(3) > 0;
                if zones.offline(range, &mut world).is_ok() {
                    assert!(zones.free_at_boot(range).is_err());
                }
            }
            94 => {
                let start = END + random.below(8) * 1024;
                devices.extend(zones.add_device(frames(start, start + 1024)));
            }
            95 => {
                if let Some(device) = devices.pop() {
                    zones.remove_device(device).unwrap();
                }
            }
            96 => {
                let cpu = CpuId::new(random.below(nr_cpus) as u32);
                match random.below(4) {
                    0 => zones.request_drain(cpu),
                    // SAFETY: all CPUs are this thread.
                    1 => drop(unsafe { zones.cpu_dead(cpu) }),
                    2 => zones.init_watermarks(random.below(4096), 10 + random.below(1000)),
                    _ => {
                        // SAFETY: as above.
                        unsafe { zones.drain_all() };
                    }
                }
            }
            97 => {
                // Twice.
                if cfg!(debug_assertions) {
                    if let Some((block, frozen)) = world.any(&mut random) {
                        let (pfn, order) = block.into_raw();
                        // SAFETY: as it was.
                        world.give((unsafe { PageBlock::from_raw(pfn, order) }, frozen));
                        assert_eq!(take_bad(), []);
                        run_on(random.below(nr_cpus) as u32);
                        // SAFETY: wrong, and noticed.
                        let again = unsafe { PageBlock::from_raw(pfn, order) };
                        match random.below(3) {
                            0 => zones.free(again),
                            1 => zones.free_frozen_pages(again),
                            _ => zones.free_bulk(&mut [Some(again)]),
                        }
                        assert_eq!(
                            take_bad().len(),
                            1,
                            "step {step}: {pfn} of order {order} twice"
                        );
                    }
                }
            }
            _ => wrong_calls(&zones, &mut random, nr_nodes),
        }
        let bad = take_bad();
        assert!(bad.is_empty(), "step {step}: {}", bad[0]);
        if random.below(50) == 0 {
            if let Err(broken) = zones.validate() {
                panic!("step {step}: {broken}");
            }
            assert!(zones.accounting().adds_up());
        }
    }
    while let Some((_, block)) = world.held.pop_first() {
        run_on(random.below(nr_cpus) as u32);
        world.give(block);
    }
    for range in world.ranges.drain(..) {
        zones.free_contig_range(range);
    }
    // SAFETY: all CPUs are this thread.
    unsafe { zones.drain_all() };
    zones.validate().unwrap();
    assert_eq!(zones.nr_free_pages(), zones.managed_pages());
    assert_eq!(take_bad(), []);
}

#[test]
fn everything_at_once() {
    for seed in 130..140 {
        run(seed, 3000);
    }
}

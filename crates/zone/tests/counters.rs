//! Counts on each CPU and their totals (INV-7): thresholds by Linux's formulas, sums against an oracle, interrupts at
//! every instruction.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    missing_docs,
    reason = "a test of small numbers that pins CPUs"
)]

mod common;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "common/single_step.rs"]
mod single_step;

use common::{Random, TestZones, Tiny, bare, boot, frames, order, run_on, small};
use kmm_frame::{
    Gfp, MemMap, NodeId, NodeItem, NumaItem, Page, Pfn, PfnRange, Topology, VirtAddr, VmEvent,
    VmEventCounts, ZoneCounts, ZoneItem, ZoneType,
};
use kmm_host::{CpuId, CpuPin, Cpus, DirectMap, PageReq, PageSource};
use kmm_zone::{
    Accounting, CountPressure, CpuCounts, LruList, NodeCounters, NodeLayouts, ZoneLayout,
    ZoneLimits, normal_threshold, pressure_threshold,
};

type Lock = spin::Mutex<()>;

/// Stands on `cpu`: tests run everything in one thread.
fn pin(cpu: usize) -> CpuPin<'static> {
    // SAFETY: one thread plays all CPUs, one at a time.
    unsafe { CpuPin::new(CpuId::new(cpu as u32)) }
}

fn shares(nr_cpus: usize) -> &'static [CpuCounts] {
    Vec::leak((0..nr_cpus).map(|_| CpuCounts::new()).collect())
}

#[test]
fn thresholds_are_those_that_linux_shows() {
    // (managed pages, CPUs, `vm stats threshold`): S0's machine with its many CPUs, then what Debian's 6.1 showed with two
    // and with four.
    for (managed, nr_cpus, shown) in [
        (85_546_808, 128, 125),
        (3840, 2, 4),
        (757_817, 2, 24),
        (500_110, 2, 20),
        (3840, 4, 6),
        (745_359, 4, 36),
        (515_475, 4, 30),
    ] {
        assert_eq!(normal_threshold(managed, nr_cpus), shown, "{managed}");
    }
    assert_eq!(normal_threshold(0, 1), 2);
    assert_eq!(normal_threshold(usize::MAX, usize::MAX), 125);
    assert_eq!(pressure_threshold(1250, 1000, 8), 31);
    assert_eq!(pressure_threshold(1001, 1000, 8), 1);
    assert_eq!(pressure_threshold(1_000_000, 1000, 8), 125);
    assert_eq!(pressure_threshold(0, 10, 0), 1);
}

#[test]
fn a_cpu_passes_on_what_leaves_the_threshold() {
    let node = NodeCounters::new(shares(2));
    let item = NodeItem::AnonPages;
    node.set_threshold(4);
    assert_eq!(node.threshold(CpuId::new(1)), 4);
    for _ in 0..4 {
        node.add(pin(0), item, 1);
    }
    assert_eq!((node.total(item), node.snapshot(item)), (0, 4));
    // The fifth goes over: it takes half a threshold of its like along, and the CPU starts at -2.
    node.add(pin(0), item, 1);
    assert_eq!((node.total(item), node.snapshot(item)), (7, 5));
    for _ in 0..6 {
        node.add(pin(0), item, 1);
    }
    assert_eq!((node.total(item), node.snapshot(item)), (7, 11));
    node.add(pin(0), item, 1);
    assert_eq!((node.total(item), node.snapshot(item)), (14, 12));
    // Several at once take none along.
    node.add(pin(1), item, 5);
    assert_eq!((node.total(item), node.snapshot(item)), (19, 17));
    node.add(pin(1), item, -4);
    assert_eq!((node.total(item), node.snapshot(item)), (19, 13));
    node.add(pin(1), item, -1);
    assert_eq!((node.total(item), node.snapshot(item)), (12, 12));
    assert!(node.fold(pin(0)) && node.fold(pin(1)));
    assert_eq!((node.total(item), node.snapshot(item)), (12, 12));
    assert!(!node.fold(pin(0)), "nothing is left");
    // Linux: more than 125 never fit.
    node.set_threshold(1000);
    assert_eq!(node.threshold(CpuId::new(0)), 125);
    node.add(pin(0), item, 125);
    node.add(pin(0), NodeItem::Mapped, isize::MAX);
    assert_eq!((node.total(item), node.snapshot(item)), (12, 137));
    assert_eq!(node.total(NodeItem::Mapped), isize::MAX as u64);
    // Half of what belongs together may be seen: never less than 0.
    node.add_to_total(NodeItem::Dirty, -1);
    assert_eq!(
        (node.total(NodeItem::Dirty), node.snapshot(NodeItem::Dirty)),
        (0, 0)
    );
}

#[test]
fn cpus_without_a_share_count_in_the_total() {
    let node = NodeCounters::new(shares(1));
    node.set_threshold(100);
    node.add(pin(0), NodeItem::Mapped, 1);
    node.add(pin(1), NodeItem::Mapped, 2);
    node.count_event(pin(0), VmEvent::Pgfault, 3);
    node.count_event(pin(7), VmEvent::Pgfault, 4);
    assert_eq!(
        (
            node.total(NodeItem::Mapped),
            node.snapshot(NodeItem::Mapped)
        ),
        (2, 3)
    );
    assert_eq!(node.events()[VmEvent::Pgfault], 7);
    assert_eq!(node.threshold(CpuId::new(1)), 0);
    assert!(!node.fold(pin(1)) && !node.fold_dead(CpuId::new(9)));
}

#[test]
fn counts_of_all_cpus_agree_with_the_oracle() {
    const CPUS: usize = 3;
    let zones = small::<Lock>(96, frames(0, 1), CPUS);
    zones.init_watermarks(64, 10);
    let node = zones.node(NodeId::ZERO).counters();
    let mut random = Random::new("counts_of_all_cpus", 0x5747);
    let free = |kind| zones.zone(kind).nr_free_pages() as u64;
    let kinds = [ZoneType::Dma, ZoneType::Dma32, ZoneType::Normal];
    let mut oracle_node = [0_i64; NodeItem::COUNT];
    let mut oracle_zone = [[0_i64; ZoneItem::COUNT]; 3];
    let mut oracle_numa = [[0_u64; NumaItem::COUNT]; 3];
    let mut oracle_events = VmEventCounts::ZERO;
    let threshold = normal_threshold(768, CPUS) as i64;
    for step in 0..40_000 {
        let cpu = random.below(CPUS);
        run_on(cpu as u32);
        let delta = [1, -1, 1, -1, 3, -7, 200, -150][random.below(8)];
        let zone = random.below(3);
        let here = zones.zone(kinds[zone]);
        match random.below(16) {
            0..4 => {
                let item = NodeItem::ALL[random.below(NodeItem::COUNT)];
                zones.mod_node_count(Pfn::new(random.below(1024)), item, delta);
                oracle_node[item.index()] += delta as i64;
            }
            4..8 => {
                // Without the first and the last, free pages, which the buddy allocator counts.
                let item = ZoneItem::ALL[1 + random.below(ZoneItem::COUNT - 2)];
                zones
                    .cpus()
                    .with_pin(|pin| here.mod_count(pin, item, delta));
                oracle_zone[zone][item.index()] += delta as i64;
            }
            8..10 => {
                let item = ZoneItem::ALL[1 + random.below(ZoneItem::COUNT - 2)];
                here.mod_total(item, delta);
                oracle_zone[zone][item.index()] += delta as i64;
            }
            10..12 => {
                let event = VmEvent::ALL[random.below(VmEvent::COUNT)];
                zones.count_event(event, 2);
                oracle_events[event] += 2;
            }
            12..14 => {
                let item = [NumaItem::Miss, NumaItem::Foreign, NumaItem::Interleave];
                let item = item[random.below(3)];
                zones.cpus().with_pin(|pin| here.count_numa(pin, item, 1));
                oracle_numa[zone][item.index()] += 1;
            }
            14 => {
                zones.cpus().with_pin(|pin| zones.fold_counts(pin));
                assert!(!zones.cpus().with_pin(|pin| zones.fold_counts(pin)));
            }
            _ => zones.fold_dead_counts(CpuId::new(random.below(CPUS) as u32)),
        }
        if step % 16 != 0 {
            continue;
        }
        let at_least_zero = |count: i64| count.max(0) as u64;
        for item in NodeItem::ALL {
            let exact = oracle_node[item.index()];
            assert_eq!(node.snapshot(item), at_least_zero(exact), "{}", item.name());
            let drift = node.total(item).abs_diff(at_least_zero(exact));
            assert!(drift <= (CPUS as i64 * threshold) as u64, "{}", item.name());
        }
        for (zone, kind) in kinds.into_iter().enumerate() {
            let exact = ZoneCounts::from_fn(|item| match item {
                ZoneItem::FreePages => free(kind),
                _ => at_least_zero(oracle_zone[zone][item.index()]),
            });
            assert_eq!(zones.zone(kind).counts(), exact, "{kind}");
            let numa = zones.zone(kind).numa_counts();
            for item in [NumaItem::Miss, NumaItem::Foreign, NumaItem::Interleave] {
                assert_eq!(numa[item], oracle_numa[zone][item.index()]);
            }
        }
        assert_eq!(zones.events(), oracle_events);
    }
    for cpu in 0..CPUS {
        run_on(cpu as u32);
        zones.cpus().with_pin(|pin| zones.fold_counts(pin));
    }
    for item in NodeItem::ALL {
        assert_eq!(node.total(item), node.snapshot(item));
    }
    for kind in kinds {
        for item in ZoneItem::ALL {
            let zone = zones.zone(kind);
            assert_eq!(zone.count_total(item), zone.count(item));
        }
    }
}

#[test]
fn thresholds_follow_the_zones() {
    let ram = frames(0, 1024);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 4);
    let normal = zones.zone(ZoneType::Normal);
    let cpu = CpuId::new(3);
    assert_eq!(
        normal.stat_threshold(cpu),
        0,
        "before the watermarks are there"
    );
    boot(&zones, ram, frames(0, 1), 96);
    assert_eq!(normal.stat_threshold(cpu), 6);
    assert_eq!(normal.pcp_stats().nth(3).unwrap().stat_threshold, 6);
    assert_eq!(zones.node(NodeId::ZERO).counters().threshold(cpu), 6);
    let empty = zones.zone(ZoneType::Movable);
    assert_eq!(empty.stat_threshold(cpu), 0);
    // low - min = 3 pages for four CPUs.
    let marks = normal.watermarks();
    zones.set_pressure_thresholds(CountPressure::Short);
    let short = pressure_threshold(marks.low, marks.min, 4);
    assert!(short < 6);
    assert_eq!(normal.stat_threshold(cpu), short);
    zones.set_pressure_thresholds(CountPressure::Normal);
    assert_eq!(normal.stat_threshold(cpu), 6);
}

#[test]
fn pages_on_lru_lists_are_counted_for_zone_and_node() {
    let zones = small::<Lock>(32, PfnRange::EMPTY, 1);
    let (normal, node) = (zones.zone(ZoneType::Normal), zones.node(NodeId::ZERO));
    let block = zones
        .alloc_pages(kmm_host::PageReq::new(
            kmm_frame::Order::ZERO,
            kmm_frame::Gfp::KERNEL,
        ))
        .unwrap()
        .0;
    node.lruvec().add(block.pfn(), LruList::ActiveAnon).unwrap();
    assert_eq!(normal.count(ZoneItem::ActiveAnon), 1);
    assert_eq!(node.counters().snapshot(NodeItem::ActiveAnon), 1);
    node.lruvec().deactivate(block.pfn()).unwrap();
    assert_eq!(node.counters().snapshot(NodeItem::ActiveAnon), 0);
    assert_eq!(node.counters().snapshot(NodeItem::InactiveAnon), 1);
    node.lruvec().del(block.pfn()).unwrap();
    assert_eq!(node.counters().snapshot(NodeItem::InactiveAnon), 0);
    kmm_host::PageSource::free(&zones, block);
}

#[test]
fn what_a_frame_is_used_for_is_counted_by_its_node() {
    let ram = frames(0, 1024);
    let mut topology = Topology::new(2).unwrap();
    topology.add_range(frames(0, 512), NodeId::new(0)).unwrap();
    topology
        .add_range(frames(512, 1024), NodeId::new(1))
        .unwrap();
    topology.set_cpu_node(1, NodeId::new(1)).unwrap();
    let zones = unbacked::<Tiny>(Box::leak(Box::new(topology)), ram);
    let count = |node: u8, item| zones.node(NodeId::new(node)).counters().snapshot(item);
    for (pfn, cpu, more) in [(511, 1, 3), (512, 0, 5), (512, 1, 7), (1023, 0, 11)] {
        run_on(cpu);
        PageSource::count(&zones, Pfn::new(pfn), NodeItem::PageTablePages, more);
    }
    let tables = NodeItem::PageTablePages;
    assert_eq!((count(0, tables), count(1, tables)), (3, 23));
    // Events are those of the CPU that saw them.
    run_on(1);
    zones.count_event(VmEvent::Pgfault, 2);
    run_on(0);
    zones.count_event(VmEvent::Pgfault, 3);
    let faults = |node: u8| zones.node(NodeId::new(node)).counters().events()[VmEvent::Pgfault];
    assert_eq!((faults(0), faults(1)), (3, 2));
    assert_eq!(zones.events()[VmEvent::Pgfault], 5);
    // Each node has thresholds of its own: the highest of its zones.
    zones.add_present(ram);
    zones.free_at_boot(frames(0, 512)).unwrap();
    zones.init_watermarks(64, 10);
    for node in zones.nodes() {
        let of_zones = node
            .zones()
            .iter()
            .map(|zone| zone.stat_threshold(CpuId::new(1)));
        assert_eq!(
            node.counters().threshold(CpuId::new(1)),
            of_zones.max().unwrap()
        );
        assert_eq!(
            node.counters().threshold(CpuId::new(1)),
            normal_threshold(0, 2)
        );
    }
    // A CPU passes on what it has counted of any node.
    let fold = || zones.cpus().with_pin(|pin| zones.fold_counts(pin));
    run_on(1);
    zones.mod_node_count(Pfn::new(0), tables, 1);
    let total = |node: u8| zones.node(NodeId::new(node)).counters().total(tables);
    assert_eq!((total(0), count(0, tables)), (3, 4));
    run_on(0);
    assert!(!fold());
    run_on(1);
    assert!(fold());
    assert_eq!((total(0), count(0, tables)), (4, 4));
}

/// The middle zone is the largest.
struct Bulge;

impl ZoneLimits for Bulge {
    const DMA_END: Option<Pfn> = Some(Pfn::new(64));
    const DMA32_END: Option<Pfn> = Some(Pfn::new(40_000));
    const LOWMEM_END: Option<Pfn> = None;
}

#[test]
fn a_node_has_the_highest_threshold_of_its_zones() {
    let ram = frames(0, 40_100);
    let zones = unbacked::<Bulge>(const { &Topology::single() }, ram);
    zones.add_present(ram);
    zones.free_at_boot(ram).unwrap();
    zones.init_watermarks(64, 10);
    let cpu = CpuId::new(1);
    let kinds = [ZoneType::Dma, ZoneType::Dma32, ZoneType::Normal];
    assert_eq!(
        kinds.map(|kind| zones.zone(kind).stat_threshold(cpu)),
        [4, 8, 4]
    );
    assert_eq!(zones.node(NodeId::ZERO).counters().threshold(cpu), 8);
}

/// Zones for two CPUs whose frames have no bytes.
fn unbacked<A: ZoneLimits>(topology: &'static Topology, ram: PfnRange) -> TestZones {
    let pages: Vec<Page> = ram.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(ram, pages.leak()).unwrap();
    let layouts = NodeLayouts::new::<A>(topology, [ram]);
    let storage = common::storage_for(&layouts, 2);
    // SAFETY: nobody reaches the bytes of these frames.
    let phys = unsafe { DirectMap::new(VirtAddr::new(0), ram.end()) };
    TestZones::new(map, common::ThreadCpus(2), phys, &layouts, storage).unwrap()
}

#[test]
fn threads_on_several_cpus_lose_nothing() {
    const EACH: usize = 200_000;
    let node = NodeCounters::new(shares(2));
    node.set_threshold(20);
    let work = |cpu: usize| {
        for nr in 0..EACH {
            node.add(
                pin(cpu),
                NodeItem::FilePages,
                if nr % 3 == 0 { -1 } else { 1 },
            );
            node.count_event(pin(cpu), VmEvent::Pgfault, 1);
            if nr % 1000 == 0 {
                node.fold(pin(cpu));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(0));
        scope.spawn(|| work(1));
        // Never more than has been, nor less than nothing.
        for _ in 0..1000 {
            assert!(node.snapshot(NodeItem::FilePages) <= 2 * EACH as u64);
            assert!(node.events()[VmEvent::Pgfault] <= 2 * EACH as u64);
        }
    });
    let one = EACH - 2 * EACH.div_ceil(3);
    assert_eq!(node.snapshot(NodeItem::FilePages), 2 * one as u64);
    assert_eq!(node.events()[VmEvent::Pgfault], 2 * EACH as u64);
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn an_interrupt_at_any_instruction_loses_no_count() {
    let node: &'static NodeCounters = Box::leak(Box::new(NodeCounters::new(shares(1))));
    node.set_threshold(3);
    // What differs little from counting a page, and what takes long, is interrupted at some of its instructions: signals are
    // slow.
    type Work = fn(&NodeCounters);
    let work: [(Work, usize); 4] = [
        (|node| node.add(pin(0), NodeItem::Mapped, 1), 1),
        (|node| node.add(pin(0), NodeItem::Mapped, 4), 3),
        (|node| node.count_event(pin(0), VmEvent::Pgfault, 1), 3),
        (
            |node| assert!(node.fold(pin(0)) || node.snapshot(NodeItem::Mapped) > 0),
            97,
        ),
    ];
    let interrupt = Box::leak(Box::new(|| {
        node.add(pin(0), NodeItem::Mapped, 1);
        node.count_event(pin(0), VmEvent::Pgfault, 1);
        node.add(pin(0), NodeItem::Dirty, 2);
        node.fold(pin(0));
    }));
    let (mut mapped, mut faults, mut interrupts) = (0, 0, 0);
    for (nr, (f, stride)) in work.into_iter().enumerate() {
        single_step::at_any_instruction(
            || f(node),
            interrupt,
            stride,
            |run| {
                let struck = u64::from(run.struck_at.is_some());
                interrupts += struck;
                mapped += struck + [1, 4, 0, 0][nr];
                faults += struck + u64::from(nr == 2);
                let seen = node.snapshot(NodeItem::Mapped);
                assert_eq!(seen, mapped, "work {nr}, {run:?}");
                let seen = node.events()[VmEvent::Pgfault];
                assert_eq!(seen, faults, "work {nr}, {run:?}");
                assert_eq!(node.snapshot(NodeItem::Dirty), 2 * interrupts);
            },
        );
    }
    println!("{interrupts} interrupts");
    assert!(interrupts > 20, "only {interrupts} interrupts came");
}

#[test]
fn pages_that_come_and_go_are_events_of_their_zones() {
    let zones = small::<Lock>(32, PfnRange::EMPTY, 1);
    let take = |gfp| zones.alloc(PageReq::new(order(2), gfp)).unwrap();
    let held = [Gfp::KERNEL, Gfp::KERNEL, Gfp::DMA].map(take);
    let (pgalloc, pgfree) = (VmEvent::pgalloc, VmEvent::Pgfree);
    let events = zones.events();
    assert_eq!(events[pgalloc(ZoneType::Normal)], 8);
    assert_eq!(events[pgalloc(ZoneType::Dma)], 4);
    assert_eq!(events[pgfree], 0);
    held.into_iter().for_each(|block| zones.free(block));
    assert_eq!(zones.events()[pgfree], 12);
}

#[test]
fn what_a_cpu_has_counted_of_nodes_and_zones_is_passed_on_once() {
    let zones = small::<Lock>(32, PfnRange::EMPTY, 2);
    let (zone, node) = (zones.zone(ZoneType::Normal), zones.node(NodeId::ZERO));
    let (of_zone, of_node) = (ZoneItem::Mlock, NodeItem::PageTablePages);
    let cpu = CpuId::new(1);
    let count = || {
        run_on(1);
        node.counters().add(pin(1), of_node, 1);
        zone.mod_count(pin(1), of_zone, 1);
        run_on(0);
    };
    let totals = || (zone.count_total(of_zone), node.counters().total(of_node));
    count();
    assert_eq!(totals(), (0, 0));
    assert_eq!(node.counters().counts()[of_node], 1);
    assert!(zones.fold_counts(pin(1)));
    assert!(!zones.fold_counts(pin(1)));
    assert_eq!(totals(), (1, 1));
    // Of a CPU that does not run any more, by others.
    count();
    zones.fold_dead_counts(cpu);
    assert_eq!(totals(), (2, 2));
    assert!(!zone.fold_dead_counts(cpu) && !node.counters().fold_dead(cpu));
    count();
    assert!(zone.fold_dead_counts(cpu) && node.counters().fold_dead(cpu));
    assert_eq!(totals(), (3, 3));
}

#[test]
fn frames_that_are_nowhere_do_not_add_up() {
    let lost = Accounting {
        present: 4,
        reserved: 1,
        free: 1,
        allocated: 1,
    };
    assert!(!lost.adds_up());
}

//! What /proc says of memory, on a machine with three nodes: the texts against what they tell of (F84 to F87), the counts
//! against a walk over all descriptors.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests of small numbers; their names say what they prove"
)]

use core::ptr::NonNull;
use std::collections::BTreeMap;

use kmm::fault::{FaultCause, FileSource, NoFile};
use kmm::frame::{
    Gfp, MigrateType, NodeId, NodeItem, Order, PAGE_SIZE, PageFlags, Pfn, PfnRange, Topology,
    VirtAddr, VmEvent, ZoneItem,
};
use kmm::host::{CpuId, PageReq, PageSource};
use kmm::vma::{MapFlags, MmapReq, Prot};
use kmm::{AddressSpace, proc};
use kmm_sim::{Config, Fault, Machine};
use kmm_tests::{Booted, MemFile, boot, boot_with_nodes};

const NR_CPUS: usize = 3;

fn node(index: usize) -> NodeId {
    NodeId::new(index as u8)
}

/// 32 MiB: the first 20 of node 0 with CPU 0, the rest of node 2 with CPU 2; node 1 has CPU 1 alone.
fn three_nodes() -> Booted {
    let mut topology = Topology::new(3).unwrap();
    let border = Pfn::new(20 << 8);
    let low = PfnRange::new(Pfn::ZERO, border);
    let high = PfnRange::new(border, Pfn::new(32 << 8));
    topology.add_range(low, node(0)).unwrap();
    topology.add_range(high, node(2)).unwrap();
    for cpu in 0..NR_CPUS {
        topology.set_cpu_node(cpu, node(cpu)).unwrap();
    }
    boot_with_nodes(Config::with_mib(32).cpus(NR_CPUS), topology).unwrap()
}

fn buddyinfo(booted: &Booted) -> String {
    let mut text = String::new();
    proc::write_buddyinfo(booted.manager.pages(), &mut text).unwrap();
    text
}

fn zoneinfo(booted: &Booted) -> String {
    let mut text = String::new();
    proc::write_zoneinfo(booted.manager.pages(), &mut text).unwrap();
    text
}

fn pagetypeinfo(booted: &Booted) -> String {
    let mut text = String::new();
    proc::write_pagetypeinfo(booted.manager.pages(), &mut text).unwrap();
    text
}

/// Every number in the line.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// `Node 0, zone DMA32 ...`: the node, the zone, what follows.
fn zone_of(line: &str) -> (usize, &str, &str) {
    let rest = line.strip_prefix("Node").unwrap();
    let (number, rest) = rest.split_once(", zone").unwrap();
    let rest = rest.trim_start();
    let end = rest.find([' ', ',']).unwrap_or(rest.len());
    (number.trim().parse().unwrap(), &rest[..end], &rest[end..])
}

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn new(test: &str) -> Self {
        let seed = std::env::var("KMM_SEED").map_or(0x57a7, |seed| seed.parse().unwrap());
        println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-tests {test}");
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % end
    }
}

/// Takes and gives back at random on every CPU, and calls `check` now and then.
fn churn(booted: &Booted, test: &str, mut check: impl FnMut()) {
    let mut random = Random::new(test);
    let pages = booted.manager.pages();
    let mut held = Vec::new();
    for step in 0..3000 {
        let cpu = CpuId::new(random.below(NR_CPUS) as u32);
        let kinds = [
            Gfp::KERNEL,
            Gfp::HIGHUSER_MOVABLE,
            Gfp::KERNEL | Gfp::RECLAIMABLE,
        ];
        let gfp = kinds[random.below(3)];
        let order = Order::new([0, 0, 0, 1, 2, 5, 9][random.below(7)]).unwrap();
        booted.machine.cpus().run_on(cpu, || {
            if random.below(5) < 3 {
                let wanted = [None, Some(node(0)), Some(node(2))][random.below(3)];
                let req = PageReq {
                    order,
                    gfp,
                    node: wanted,
                };
                held.extend(pages.alloc(req).ok());
            } else if !held.is_empty() {
                pages.free(held.swap_remove(random.below(held.len())));
            }
        });
        if step % 100 == 0 {
            check();
        }
    }
    held.into_iter().for_each(|block| pages.free(block));
    check();
}

#[test]
fn buddyinfo_has_the_free_lists_of_each_zone_with_memory() {
    let booted = three_nodes();
    let pages = booted.manager.pages();
    churn(&booted, "buddyinfo_has", || {
        let text = buddyinfo(&booted);
        let mut seen = Vec::new();
        for line in text.lines() {
            let (number, name, counts) = zone_of(line);
            let zones = pages.node(node(number)).zones();
            let zone = zones.iter().find(|zone| zone.name() == name).unwrap();
            let counts = numbers(counts);
            assert_eq!(counts.len(), 11);
            assert_eq!(counts, zone.stat().nr_free.map(|count| count as u64));
            let free: u64 = counts.iter().zip(0..).map(|(count, n)| count << n).sum();
            assert_eq!(free, zone.nr_free_pages() as u64);
            seen.push((number, name.to_owned()));
        }
        let expected = [(0, "DMA"), (0, "DMA32"), (2, "DMA32")];
        assert_eq!(
            seen,
            expected.map(|(number, name)| (number, name.to_owned()))
        );
    });
}

#[test]
fn pagetypeinfo_has_the_free_lists_by_type_and_the_pageblocks() {
    let booted = three_nodes();
    let pages = booted.manager.pages();
    churn(&booted, "pagetypeinfo_has", || {
        let text = pagetypeinfo(&booted);
        // One table for each node with memory, and none for the node without.
        assert_eq!(text.matches("Page block order: 9").count(), 2);
        assert_eq!(text.matches("Number of blocks type").count(), 2);
        let mut by_order: BTreeMap<(usize, String), [u64; 11]> = BTreeMap::new();
        let mut types = 0;
        for line in text.lines().filter(|line| line.starts_with("Node ")) {
            let (number, name, rest) = zone_of(line);
            let zones = pages.node(node(number)).zones();
            let zone = zones.iter().find(|zone| zone.name() == name).unwrap();
            if let Some(row) = rest.strip_prefix(", type ") {
                types += 1;
                let row = row.trim_start();
                let kind = match row.split(' ').next().unwrap() {
                    "Unmovable" => MigrateType::Unmovable,
                    "Movable" => MigrateType::Movable,
                    "Reclaimable" => MigrateType::Reclaimable,
                    "HighAtomic" => MigrateType::HighAtomic,
                    "Isolate" => MigrateType::Isolate,
                    other => panic!("a type {other}"),
                };
                let counts = numbers(row);
                let lists = zone.nr_free_by_type()[kind.index()];
                assert_eq!(counts, lists.map(|count| count as u64), "{line}");
                let sum = by_order.entry((number, name.to_owned())).or_default();
                sum.iter_mut()
                    .zip(counts)
                    .for_each(|(sum, count)| *sum += count);
            } else {
                let blocks = zone.nr_pageblocks();
                let [unmovable, movable, reclaimable, atomic, _, isolate] = blocks;
                let blocks = [unmovable, movable, reclaimable, atomic, isolate];
                assert_eq!(numbers(rest), blocks.map(|count| count as u64), "{line}");
                let spanned = zone.range().nr_pages().div_ceil(512);
                assert_eq!(blocks.iter().sum::<usize>(), spanned);
            }
        }
        assert_eq!(types, 5 * 3);
        // The types of an order are all there is of it.
        for line in buddyinfo(&booted).lines() {
            let (number, name, counts) = zone_of(line);
            assert_eq!(numbers(counts), by_order[&(number, name.to_owned())]);
        }
    });
}

#[test]
fn zoneinfo_shows_every_zone_and_the_counts_of_each_node_once() {
    let booted = three_nodes();
    let pages = booted.manager.pages();
    churn(&booted, "zoneinfo_shows", || {
        let text = zoneinfo(&booted);
        let blocks: Vec<&str> = text.split("Node ").skip(1).collect();
        // Five zones on each of three nodes.
        assert_eq!(blocks.len(), 15);
        let mut with_node_stats = Vec::new();
        for (nr, block) in blocks.iter().enumerate() {
            let head = format!("Node {}", block.lines().next().unwrap());
            let (number, name, _) = zone_of(&head);
            assert_eq!(number, nr / 5);
            let zones = pages.node(node(number)).zones();
            let zone = zones.iter().find(|zone| zone.name() == name).unwrap();
            let value = |label: &str| {
                let mut lines = block.lines().map(str::trim_start);
                let line = lines.find(|line| {
                    let rest = line.strip_prefix(label);
                    rest.is_some_and(|rest| rest.starts_with([' ', ':']))
                });
                line.map(|line| *numbers(line).last().unwrap())
            };
            if block.contains("per-node stats") {
                with_node_stats.push((number, name.to_owned()));
                let counters = pages.node(node(number)).counters();
                for item in NodeItem::ALL {
                    assert_eq!(value(item.name()), Some(counters.snapshot(item)));
                }
            }
            let marks = zone.watermarks();
            for (label, shown) in [
                ("pages free", zone.nr_free_pages()),
                ("min", marks.min),
                ("low", marks.low),
                ("high", marks.high),
                ("spanned", zone.range().nr_pages()),
                ("present", zone.present_pages()),
                ("managed", zone.managed_pages()),
            ] {
                assert_eq!(value(label), Some(shown as u64), "{head}: {label}");
            }
            let protection = block.lines().find(|line| line.contains("protection"));
            assert_eq!(numbers(protection.unwrap()).len(), 5);
            if zone.present_pages() == 0 {
                assert!(block.trim_end().ends_with("protection: (0, 0, 0, 0, 0)"));
                continue;
            }
            for item in ZoneItem::ALL {
                assert_eq!(
                    value(item.name()),
                    Some(zone.count(item)),
                    "{}",
                    item.name()
                );
            }
            for (name, count) in zone.numa_counts().iter() {
                assert_eq!(value(name), Some(count), "{name}");
            }
            assert_eq!(block.matches("    cpu: ").count(), NR_CPUS);
            let stocks: Vec<u64> = zone.pcp_stats().map(|pcp| pcp.count as u64).collect();
            let shown = block.lines().filter(|line| line.contains("  count: "));
            assert_eq!(
                shown.map(|line| numbers(line)[0]).collect::<Vec<_>>(),
                stocks
            );
            let threshold = zone.stat_threshold(CpuId::new(2)) as u64;
            assert!(threshold > 0);
            assert_eq!(value("vm stats threshold"), Some(threshold));
            assert_eq!(
                value("start_pfn"),
                Some(zone.range().start().index() as u64)
            );
        }
        let expected = [(0, "DMA"), (2, "DMA32")];
        assert_eq!(
            with_node_stats,
            expected.map(|(nr, name)| (nr, name.to_owned()))
        );
    });
}

#[test]
fn vmstat_sums_zones_nodes_and_cpus() {
    let booted = three_nodes();
    let pages = booted.manager.pages();
    let before = pages.events();
    let mut last = before;
    churn(&booted, "vmstat_sums", || {
        let vmstat = proc::vmstat(pages);
        let free: usize = pages.all().map(|zone| zone.nr_free_pages()).sum();
        assert_eq!(vmstat.zone[ZoneItem::FreePages], free as u64);
        let hits: u64 = pages
            .all()
            .map(|zone| zone.numa_counts().iter().next().unwrap().1)
            .sum();
        assert_eq!(vmstat.numa.iter().next(), Some(("numa_hit", hits)));
        for event in VmEvent::ALL {
            assert!(
                vmstat.events[event] >= last[event],
                "{} went back",
                event.name()
            );
        }
        last = vmstat.events;
    });
    // All that was taken came back.
    let allocated = |event: VmEvent| last[event] - before[event];
    let taken = allocated(VmEvent::PgallocDma) + allocated(VmEvent::PgallocDma32);
    assert!(taken > 1000);
    assert_eq!(taken, allocated(VmEvent::Pgfree));
}

/// Serves faults as they come.
fn write<F: FileSource>(
    booted: &Booted,
    cpu: CpuId,
    space: &mut AddressSpace<Machine, F>,
    at: VirtAddr,
) {
    booted.machine.cpus().run_on(cpu, || {
        loop {
            match booted.machine.write_user(cpu, space.root(), at, b"x") {
                Ok(()) => return,
                Err(Fault::Page(fault)) => {
                    let cause = FaultCause::from_error_code(fault.error_code);
                    space.fault(fault.va, cause).unwrap();
                }
                Err(fault) => panic!("{fault}"),
            }
        }
    });
}

/// Pages by node and use, found by looking at every descriptor. Linux counts as we do; this is the slow way.
fn walk(booted: &Booted) -> BTreeMap<(NodeId, &'static str), u64> {
    let map = booted.manager.mem_map();
    let topology = booted.manager.topology();
    let mut found = BTreeMap::new();
    for pfn in map.range().iter() {
        let Some(page) = map.get(pfn) else { continue };
        let (flags, is_mapped) = (page.flags(), page.map_count() > 0);
        let mut see = |item: NodeItem, seen: bool| {
            let key = (topology.node_of(pfn), item.name());
            *found.entry(key).or_insert(0) += u64::from(seen);
        };
        let is_anon = flags.contains(PageFlags::ANON);
        see(NodeItem::AnonPages, is_mapped && is_anon);
        see(NodeItem::Mapped, is_mapped && !is_anon);
        see(NodeItem::PageTablePages, flags.contains(PageFlags::TABLE));
    }
    found
}

#[expect(unsafe_code, reason = "gives objects back")]
fn free_object(booted: &Booted, object: NonNull<u8>) {
    // SAFETY: the test holds it, and forgets it.
    unsafe { booted.manager.slub().kfree(object) };
}

#[test]
fn counts_of_use_are_those_that_a_walk_finds() {
    let booted = three_nodes();
    let manager = booted.manager;
    // The tables of boot are not the page allocator's.
    let at_boot = walk(&booted);
    let tables = NodeItem::PageTablePages;
    let compare = || {
        let slab = manager.slub().nr_pages();
        let mut slab_pages = 0;
        for (&(node, name), &found) in &walk(&booted) {
            let item = NodeItem::ALL.into_iter().find(|item| item.name() == name);
            let item = item.unwrap();
            let counted = manager.pages().node(node).counters().snapshot(item);
            let early = if item == tables {
                at_boot[&(node, name)]
            } else {
                0
            };
            assert_eq!(counted, found - early, "{name} of node {}", node.index());
        }
        for node in manager.pages().nodes() {
            let counters = node.counters();
            slab_pages += counters.snapshot(NodeItem::SlabUnreclaimable);
            slab_pages += counters.snapshot(NodeItem::SlabReclaimable);
        }
        // Lists hold no objects.
        assert_eq!(slab_pages, (slab.total() - slab.lists) as u64);
    };
    let mut random = Random::new("counts_of_use");
    let file = MemFile::new(manager, 64);
    let rw = Prot::READ | Prot::WRITE;
    let page = PAGE_SIZE as u64;
    let mut spaces: Vec<AddressSpace<Machine, MemFile>> = Vec::new();
    let mut areas: Vec<VirtAddr> = Vec::new();
    let mut objects = Vec::new();
    for step in 0..400 {
        let cpu = CpuId::new(random.below(NR_CPUS) as u32);
        match random.below(10) {
            0 if spaces.len() < 4 => {
                let mut space = AddressSpace::new(manager).unwrap();
                areas.clear();
                for shared in [false, true] {
                    let mut req = MmapReq::anonymous(64 * page, rw);
                    if shared {
                        req.flags = MapFlags::SHARED;
                        req.file = Some((file.clone(), 0));
                    }
                    areas.push(space.mmap(req).unwrap());
                }
                spaces.push(space);
            }
            1 if !spaces.is_empty() && spaces.len() < 4 => {
                let nr = random.below(spaces.len());
                let child = spaces[nr].fork().unwrap();
                spaces.push(child);
            }
            2 if spaces.len() > 1 => drop(spaces.swap_remove(random.below(spaces.len()))),
            3 if !spaces.is_empty() => {
                let nr = random.below(spaces.len());
                let area = areas[random.below(2)] + random.below(32) as u64 * page;
                spaces[nr].discard(area, 8 * page).unwrap();
            }
            4 => booted.machine.cpus().run_on(cpu, || {
                let size = [24, 300, 3000, 20_000][random.below(4)];
                objects.extend(manager.slub().kmalloc(size, Gfp::KERNEL).ok());
            }),
            5 if !objects.is_empty() => {
                let object = objects.swap_remove(random.below(objects.len()));
                free_object(&booted, object);
            }
            _ if !spaces.is_empty() => {
                let nr = random.below(spaces.len());
                let at = areas[random.below(2)] + random.below(64) as u64 * page;
                write(&booted, cpu, &mut spaces[nr], at);
            }
            _ => {}
        }
        if step % 10 == 0 {
            compare();
        }
    }
    compare();
    let counted = |item| {
        let nodes = manager.pages().nodes().iter();
        nodes
            .map(move |node| node.counters().snapshot(item))
            .sum::<u64>()
    };
    assert!(counted(NodeItem::AnonPages) > 0 && counted(NodeItem::Mapped) > 0);
    spaces.clear();
    objects
        .into_iter()
        .for_each(|object| free_object(&booted, object));
    compare();
    for item in [NodeItem::AnonPages, NodeItem::Mapped, tables] {
        assert_eq!(counted(item), 0, "{} after all", item.name());
    }
}

#[test]
fn faults_are_counted_by_the_cpu_that_had_them() {
    let booted = three_nodes();
    let manager = booted.manager;
    let mut space: AddressSpace<Machine, NoFile> = AddressSpace::new(manager).unwrap();
    let rw = Prot::READ | Prot::WRITE;
    let area = space.mmap(MmapReq::anonymous(64 << 12, rw)).unwrap();
    for nr in 0..10 {
        let cpu = CpuId::new(if nr < 7 { 2 } else { 0 });
        write(&booted, cpu, &mut space, area + (nr << 12));
    }
    let of_node = |nr: usize| {
        let counters = manager.pages().node(node(nr)).counters();
        counters.events()[VmEvent::Pgfault]
    };
    assert_eq!([0, 1, 2].map(of_node), [3, 0, 7]);
    assert_eq!(manager.events().pgfault, 10);
    assert_eq!(proc::vmstat(manager.pages()).events[VmEvent::Pgfault], 10);
}

#[test]
fn meminfo_tells_what_the_zones_count() {
    let booted = three_nodes();
    let manager = booted.manager;
    let pages = manager.pages();
    let object = manager.slub().kmalloc(100, Gfp::KERNEL).unwrap();
    let before = proc::meminfo(pages);
    assert_eq!(before.mem_total_kb, pages.managed_pages() as u64 * 4);
    assert_eq!(before.mem_free_kb, pages.nr_free_pages() as u64 * 4);
    assert!(before.mem_available_kb < before.mem_free_kb);
    let mut space: AddressSpace<Machine, NoFile> = AddressSpace::new(manager).unwrap();
    let rw = Prot::READ | Prot::WRITE;
    let area = space.mmap(MmapReq::anonymous(64 << 12, rw)).unwrap();
    for nr in 0..20 {
        write(&booted, CpuId::BOOT, &mut space, area + (nr << 12));
    }
    pages.count(Pfn::new(20 << 8), NodeItem::KernelStack, 32);
    let now = proc::meminfo(pages);
    assert_eq!(now.anon_pages_kb - before.anon_pages_kb, 80);
    assert_eq!(now.page_tables_kb, space.tables().nr_tables() as u64 * 4);
    assert_eq!(now.kernel_stack_kb, 32);
    assert!(now.slab_kb > 0 && now.slab_kb == now.sunreclaim_kb + now.sreclaimable_kb);
    free_object(&booted, object);
}

#[test]
fn one_node_is_shown_as_node_zero() {
    let booted = boot(Config::with_mib(16)).unwrap();
    let text = zoneinfo(&booted);
    assert_eq!(text.matches("Node ").count(), 5);
    assert_eq!(text.matches("per-node stats").count(), 1);
    assert!(
        buddyinfo(&booted)
            .lines()
            .all(|line| line.starts_with("Node 0, "))
    );
    assert_eq!(pagetypeinfo(&booted).matches("Page block order").count(), 1);
}

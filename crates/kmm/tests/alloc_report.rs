//! What is said of a request that failed. `linux-6.1/mem-info` was written by that kernel on a machine of two nodes
//! (`echo m > /proc/sysrq-trigger`).
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{TELL, take_texts, two_nodes, world, world_with};
use kmm::frame::{
    Gfp, MigrateType, NR_ORDERS, NodeCounts, NodeId, NodeItem, NodeMask, Order, ZoneCounts,
    ZoneItem, ZoneType,
};
use kmm::host::{PageReq, Sleep};
use kmm::zone::Watermarks;
use kmm::{MemTotals, NoWait, NodeInfo, RateLimit, ZoneInfo, write_mem_info};
use kmm_sim::seeded;

const GOLDEN: &str = include_str!("linux-6.1/mem-info");

/// The number behind `name` in a line; of pages, where it is in kB.
fn pages(line: &str, name: &str) -> u64 {
    let (_, rest) = line
        .split_once(&format!(" {name}:"))
        .unwrap_or_else(|| panic!("{name} in {line}"));
    let digits: String = rest
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let unit = &rest.trim_start()[digits.len()..];
    let number: u64 = digits.parse().unwrap();
    if unit.to_lowercase().starts_with("kb") {
        number / 4
    } else {
        number
    }
}

fn lines_of(start: &'static str, with: &'static str) -> impl Iterator<Item = &'static str> {
    GOLDEN
        .lines()
        .filter(move |line| line.starts_with(start) && line.contains(with))
}

fn node_of(line: &str) -> NodeId {
    NodeId::new(line.split(' ').nth(1).unwrap().parse().unwrap())
}

fn parse_nodes() -> Vec<NodeInfo> {
    let sums: String = GOLDEN
        .lines()
        .take(9)
        .map(|line| format!(" {line}"))
        .collect();
    let mut nodes: Vec<NodeInfo> = lines_of("Node", "all_unreclaimable")
        .map(|line| {
            let mut counts = NodeCounts::ZERO;
            for (item, name) in [
                (NodeItem::ActiveAnon, "active_anon"),
                (NodeItem::InactiveAnon, "inactive_anon"),
                (NodeItem::ActiveFile, "active_file"),
                (NodeItem::InactiveFile, "inactive_file"),
                (NodeItem::Unevictable, "unevictable"),
                (NodeItem::IsolatedAnon, "isolated(anon)"),
                (NodeItem::IsolatedFile, "isolated(file)"),
                (NodeItem::Mapped, "mapped"),
                (NodeItem::Dirty, "dirty"),
                (NodeItem::Writeback, "writeback"),
                (NodeItem::Shmem, "shmem"),
                (NodeItem::ShmemHugepages, "shmem_thp"),
                (NodeItem::ShmemPmdmapped, "shmem_pmdmapped"),
                (NodeItem::AnonTransparentHugepages, "anon_thp"),
                (NodeItem::WritebackTemp, "writeback_tmp"),
                (NodeItem::PageTablePages, "pagetables"),
                (NodeItem::SecPageTablePages, "sec_pagetables"),
            ] {
                counts[item] = pages(line, name);
            }
            counts[NodeItem::KernelStack] = pages(line, "kernel_stack") * 4;
            NodeInfo {
                node: node_of(line),
                counts,
                is_unreclaimable: line.ends_with("yes"),
            }
        })
        .collect();
    // What only the sums tell is given to the first node.
    nodes[0].counts[NodeItem::SlabReclaimable] = pages(&sums, "slab_reclaimable");
    nodes[0].counts[NodeItem::SlabUnreclaimable] = pages(&sums, "slab_unreclaimable");
    nodes[0].counts[NodeItem::KernelMiscReclaimable] = pages(&sums, "kernel_misc_reclaimable");
    let cached = lines_of("", "total pagecache pages").next().unwrap();
    nodes[0].counts[NodeItem::FilePages] = cached.split(' ').next().unwrap().parse().unwrap();
    nodes
}

fn parse_zones() -> Vec<ZoneInfo> {
    let reserves: Vec<Vec<u64>> = lines_of("lowmem_reserve[]:", "")
        .map(|line| {
            let numbers = line.split(' ').skip(1);
            numbers.map(|number| number.parse().unwrap()).collect()
        })
        .collect();
    let sums: String = GOLDEN
        .lines()
        .take(9)
        .map(|line| format!(" {line}"))
        .collect();
    let mut all_free = pages(&sums, "free");
    let zones: Vec<ZoneInfo> = lines_of("Node", "boost")
        .zip(lines_of("Node", "*4kB"))
        .zip(reserves)
        .map(|((line, blocks), reserve)| {
            let name = match line.split(' ').nth(2).unwrap() {
                "DMA" => "DMA",
                "DMA32" => "DMA32",
                other => panic!("zone {other}"),
            };
            let mut counts = ZoneCounts::ZERO;
            for (item, name) in [
                (ZoneItem::ActiveAnon, "active_anon"),
                (ZoneItem::InactiveAnon, "inactive_anon"),
                (ZoneItem::ActiveFile, "active_file"),
                (ZoneItem::InactiveFile, "inactive_file"),
                (ZoneItem::Unevictable, "unevictable"),
                (ZoneItem::WritePending, "writepending"),
                (ZoneItem::Mlock, "mlocked"),
                (ZoneItem::Bounce, "bounce"),
                (ZoneItem::FreeCma, "free_cma"),
            ] {
                counts[item] = pages(line, name);
            }
            let free = pages(line, "free");
            counts[ZoneItem::FreePages] = free;
            all_free -= free;
            // x86-64 has no high memory.
            let mut reserve = reserve.into_iter();
            let protection = ZoneType::ALL.map(|kind| {
                if kind == ZoneType::HighMem {
                    None
                } else {
                    reserve.next()
                }
            });
            let mut nr_free = [0; NR_ORDERS];
            let mut types = [[false; MigrateType::COUNT]; NR_ORDERS];
            let (_, tokens) = blocks.split_once(": ").unwrap();
            let mut order = 0;
            for token in tokens.split(' ') {
                if let Some((count, _)) = token.split_once('*') {
                    nr_free[order] = count.parse().unwrap();
                    order += 1;
                } else if token.starts_with('(') {
                    for (letter, kind) in
                        [('U', 0), ('M', 1), ('E', 2), ('H', 3), ('C', 4), ('I', 5)]
                    {
                        types[order - 1][kind] = token.contains(letter);
                    }
                }
            }
            ZoneInfo {
                node: node_of(line),
                name,
                free,
                boost: pages(line, "boost"),
                watermarks: Watermarks {
                    min: pages(line, "min") as usize,
                    low: pages(line, "low") as usize,
                    high: pages(line, "high") as usize,
                },
                reserved_highatomic: pages(line, "reserved_highatomic"),
                counts,
                present: pages(line, "present"),
                managed: pages(line, "managed"),
                free_pcp: pages(line, "free_pcp"),
                local_pcp: pages(line, "local_pcp"),
                protection,
                nr_free,
                types,
                is_highmem: false,
            }
        })
        .collect();
    assert_eq!(all_free, 0, "the zones have all that is free");
    zones
}

#[test]
fn mem_info_is_that_of_linux() {
    let (nodes, zones) = (parse_nodes(), parse_zones());
    assert_eq!((nodes.len(), zones.len()), (2, 3));
    let mut text = String::new();
    write_mem_info(
        &mut text,
        |n| nodes.get(n).cloned(),
        |n| zones.get(n).cloned(),
        MemTotals::default(),
    )
    .unwrap();
    for (ours, linux) in text.lines().zip(GOLDEN.lines()) {
        assert_eq!(ours, linux);
    }
    assert_eq!(text, GOLDEN);
}

#[test]
fn a_failure_begins_with_linux_s_line() {
    let world = world(64);
    let blocks = world.exhaust(Gfp::KERNEL);
    let sleep = &mut Sleep::grant();
    assert!(world.pages.alloc_page(sleep, Gfp::KERNEL).is_err());
    let text = take_texts().remove(0);
    let first = text.lines().next().unwrap();
    assert_eq!(
        first,
        "prog: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL), nodemask=(null),cpuset=/,mems_allowed=0"
    );
    assert_eq!(text.lines().nth(1), Some("Mem-Info:"));
    world.give_back(blocks);

    let world = two_nodes(64, TELL);
    let blocks = world.exhaust_all();
    let req = PageReq::new(Order::new(2).unwrap(), Gfp::USER | Gfp::ZERO);
    let mask: NodeMask = [NodeId::new(0), NodeId::new(1)].into_iter().collect();
    assert!(
        world
            .pages
            .alloc_pages_nodemask(&mut NoWait, req, mask)
            .is_err()
    );
    let text = take_texts().remove(0);
    let flags = "GFP_NOWAIT|__GFP_IO|__GFP_FS|__GFP_ZERO|__GFP_HARDWALL";
    let line = format!(
        "prog: page allocation failure: order:2, mode:0x1009c0({flags}), nodemask=0-1,cpuset=/,mems_allowed=0-1"
    );
    assert_eq!(text.lines().next(), Some(&*line));
    world.give_back(blocks);
    world.assert_whole();
}

#[test]
fn mem_info_tells_how_the_machine_is_now() {
    let world = world_with(64, TELL);
    let order5 = Order::new(5).unwrap();
    let gfp = Gfp::KERNEL | Gfp::DMA;
    let block = world.pages.alloc_pages(&mut NoWait, gfp, order5).unwrap();
    let text = world.pages.mem_info().to_string();
    let zone = |name: &str, with: &str| {
        let start = format!("Node 0 {name}");
        let line = text
            .lines()
            .find(|line| line.starts_with(&start) && line.contains(with));
        line.unwrap_or_else(|| panic!("{name} with {with} in\n{text}"))
    };
    let dma = zone("DMA ", "present");
    assert_eq!(pages(dma, "free"), 1024 - 32);
    assert_eq!(pages(dma, "present"), 1024);
    assert_eq!(pages(dma, "managed"), 1024);
    let marks = world.zones.zone(ZoneType::Dma).watermarks();
    assert_eq!(pages(dma, "min"), marks.min as u64);
    assert_eq!(pages(dma, "low"), marks.low as u64);
    assert_eq!(pages(dma, "high"), marks.high as u64);
    // 32 pages of a block of 1024 are gone.
    let blocks = zone("DMA:", "kB");
    assert!(
        blocks.starts_with("Node 0 DMA: 0*4kB 0*8kB 0*16kB 0*32kB 0*64kB 1*128kB ("),
        "{blocks}"
    );
    assert!(blocks.ends_with("0*4096kB = 3968kB"), "{blocks}");
    assert!(zone("Normal:", "kB").ends_with("2*4096kB (M) = 8192kB"));
    assert!(text.contains("4096 pages RAM\n0 pages HighMem/MovableOnly\n0 pages reserved\n"));
    // High memory is none of this machine's zones.
    let reserve = text
        .lines()
        .find(|line| line.starts_with("lowmem_reserve[]:"));
    assert_eq!(reserve.unwrap().split(' ').count(), 6);
    world.pages.free_pages(block);
    world.assert_whole();
}

#[test]
fn who_asks_not_to_be_warned_is_not() {
    let world = world(64);
    let blocks = world.exhaust_all();
    assert!(world.pages.alloc_page(&mut NoWait, Gfp::DMA).is_err());
    assert_eq!(take_texts().len(), 1);
    assert!(
        world
            .pages
            .alloc_page(&mut NoWait, Gfp::DMA | Gfp::NOWARN)
            .is_err()
    );
    assert_eq!(take_texts().len(), 0);
    world.give_back(blocks);
}

#[test]
fn reports_come_at_the_rate_of_linux() {
    seeded(0x7a7e, |rng| {
        for _ in 0..50 {
            let (interval, burst) = (rng.below(20), rng.below(5));
            let limit = RateLimit::new(interval, burst);
            // `___ratelimit`, by its description: a window opens with the first event at or after the end of the last.
            let (mut window, mut shown, mut missed): (Option<u64>, u64, u64) = (None, 0, 0);
            let mut now = 0;
            for _ in 0..200 {
                now += rng.below(4);
                let mut suppressed = 0;
                if window.is_none_or(|start| now >= start + interval) {
                    suppressed = missed;
                    (window, shown, missed) = (Some(now), 0, 0);
                }
                let expected = if shown < burst {
                    shown += 1;
                    Some(suppressed)
                } else {
                    missed += suppressed + 1;
                    None
                };
                assert_eq!(limit.allow(now), expected);
            }
        }
    });
    let limit = RateLimit::new(RateLimit::INTERVAL_NS, RateLimit::BURST);
    assert_eq!((0..100).filter(|_| limit.allow(1).is_some()).count(), 10);
    assert_eq!(limit.allow(5_000_000_001), Some(90));
}

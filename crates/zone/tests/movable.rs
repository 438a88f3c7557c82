//! `kernelcore=` and `movablecore=`: how much of each node the kernel gets, and who gets the rest.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use common::{Random, ThreadCpus, Tiny, frames, run_on};
use kmm_frame::{Gfp, MemMap, NodeId, Page, PfnRange, Topology, ZoneType};
use kmm_host::{PageReq, PageSource};
use kmm_zone::{Amount, NodeLayouts, NotAnAmount, Zones};

type Lock = spin::Mutex<()>;

fn topology(ranges: &[PfnRange]) -> &'static Topology {
    let mut topology = Topology::new(ranges.len()).unwrap();
    for (nr, &range) in ranges.iter().enumerate() {
        let node = NodeId::new(nr as u8);
        topology.add_range(range, node).unwrap();
        topology.set_cpu_node(nr, node).unwrap();
    }
    Box::leak(Box::new(topology))
}

/// The layouts of nodes that have these frames, node by node.
fn layouts(ranges: &[PfnRange], kernelcore: Amount, movablecore: Amount) -> NodeLayouts {
    NodeLayouts::new::<Tiny>(topology(ranges), ranges.iter().copied()).with_movable(
        ranges.iter().copied(),
        kernelcore,
        movablecore,
    )
}

fn movable(layouts: &NodeLayouts) -> Vec<PfnRange> {
    let nodes = layouts.nodes().iter();
    nodes
        .map(|layout| layout.range(ZoneType::Movable))
        .collect()
}

#[test]
fn amounts_are_read_as_linux_reads_them() {
    assert_eq!(Amount::parse("512M"), Ok(Amount::Pages(131_072)));
    assert_eq!(Amount::parse("2g"), Ok(Amount::Pages(524_288)));
    assert_eq!(Amount::parse("8192"), Ok(Amount::Pages(2)));
    assert_eq!(Amount::parse("30%"), Ok(Amount::Percent(30)));
    for bad in [
        "",
        "%",
        "101%",
        "M",
        "12X",
        "-1",
        "12MM",
        "99999999999999999999G",
        "9999999999T",
    ] {
        assert_eq!(Amount::parse(bad), Err(NotAnAmount), "{bad:?}");
    }
}

#[test]
fn one_node_gives_the_kernel_its_lowest_frames() {
    let ram = [frames(0, 16_384)];
    let by = |kernel, movable_| movable(&layouts(&ram, kernel, movable_))[0];
    assert_eq!(by(Amount::Pages(4096), Amount::NONE), frames(4096, 16_384));
    // Up to a block of the highest order.
    assert_eq!(by(Amount::Pages(4097), Amount::NONE), frames(5120, 16_384));
    assert_eq!(by(Amount::Percent(50), Amount::NONE), frames(8192, 16_384));
    assert_eq!(
        by(Amount::NONE, Amount::Pages(4096)),
        frames(12_288, 16_384)
    );
    assert_eq!(
        by(Amount::NONE, Amount::Percent(25)),
        frames(12_288, 16_384)
    );
    // Both: the kernel gets whichever is more.
    assert_eq!(
        by(Amount::Pages(8192), Amount::Pages(4096)),
        frames(12_288, 16_384)
    );
    // All below the highest zone is the kernel's; the first frames of that are below 256.
    assert_eq!(by(Amount::Pages(100), Amount::NONE), frames(1024, 16_384));
    // Nothing, and everything.
    for kernel in [
        Amount::NONE,
        Amount::Percent(100),
        Amount::Pages(usize::MAX),
    ] {
        assert_eq!(by(kernel, Amount::NONE), PfnRange::EMPTY);
    }
    assert_eq!(by(Amount::NONE, Amount::Percent(100)), PfnRange::EMPTY);
}

#[test]
fn nodes_share_what_the_kernel_gets() {
    let half = [frames(0, 8192), frames(8192, 16_384)];
    let each = movable(&layouts(&half, Amount::Pages(8192), Amount::NONE));
    assert_eq!(each, [frames(4096, 8192), frames(12_288, 16_384)]);
    // A small node gives all; the others make up for it.
    let small = [frames(0, 1024), frames(1024, 9216), frames(9216, 17_408)];
    let each = movable(&layouts(&small, Amount::Pages(9216), Amount::NONE));
    assert_eq!(
        each,
        [PfnRange::EMPTY, frames(5120, 9216), frames(13_312, 17_408)]
    );
    // Nodes without memory count for nothing.
    let none = [frames(0, 8192), PfnRange::EMPTY];
    let each = movable(&layouts(&none, Amount::Pages(4096), Amount::NONE));
    assert_eq!(each[0], frames(4096, 8192));
}

#[test]
fn whatever_is_asked_for_the_kernel_gets_enough() {
    let mut random = Random::new("whatever_is_asked_for", 0x26);
    for _ in 0..400 {
        let mut start = 0;
        let ranges: Vec<PfnRange> = (0..=random.below(4))
            .map(|_| {
                let end = start + [0, 700, 1024, 5000, 20_000][random.below(5)];
                let range = frames(start, end);
                start = end + [0, 300][random.below(2)];
                range
            })
            .collect();
        let total: usize = ranges.iter().map(|range| range.nr_pages()).sum();
        let wanted = random.below(total + 1);
        let made = layouts(&ranges, Amount::Pages(wanted), Amount::NONE);
        let plain = NodeLayouts::new::<Tiny>(made.topology(), ranges.iter().copied());
        let movable = movable(&made);
        let kernel = total - movable.iter().map(|range| range.nr_pages()).sum::<usize>();
        assert!(
            kernel >= wanted.saturating_sub(ranges.len()),
            "{kernel} of {wanted}"
        );
        for (nr, range) in movable.iter().enumerate() {
            assert!(range.is_empty() || range.start().index() % 1024 == 0);
            // What is not movable is what it was.
            for kind in [ZoneType::Dma, ZoneType::Dma32, ZoneType::Normal] {
                let (before, after) = (plain.nodes()[nr].range(kind), made.nodes()[nr].range(kind));
                assert!(before.contains_range(after));
                let lost = before.nr_pages() - after.nr_pages();
                assert_eq!(lost, before.intersect(*range).nr_pages());
            }
        }
    }
}

#[test]
fn only_movable_requests_get_there_on_any_node() {
    let ram = [frames(0, 8192), frames(8192, 16_384)];
    let layouts = layouts(&ram, Amount::Percent(50), Amount::NONE);
    let all = frames(0, 16_384);
    let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
    let zones = Zones::<Lock, _, _>::new(
        MemMap::new(all, pages.leak()).unwrap(),
        ThreadCpus(2),
        common::memory(all),
        &layouts,
        common::storage_for(&layouts, 2),
    )
    .unwrap();
    zones.add_present(all);
    zones.free_at_boot(all).unwrap();
    zones.init_watermarks(256, 10);
    for cpu in [0, 1] {
        run_on(cpu);
        let node = NodeId::new(cpu as u8);
        let zone_of = |gfp| {
            let block = zones.alloc(PageReq::page(gfp)).unwrap();
            let zone = zones.zone_of(block.pfn()).unwrap().id();
            zones.free(block);
            (zone.node, zone.kind)
        };
        assert_eq!(zone_of(Gfp::HIGHUSER_MOVABLE), (node, ZoneType::Movable));
        assert_eq!(zone_of(Gfp::KERNEL), (node, ZoneType::Normal));
        assert_eq!(zone_of(Gfp::HIGHUSER), (node, ZoneType::Normal));
    }
    // Whatever happens: what cannot be moved stays out.
    let gfp = Gfp::KERNEL | Gfp::MEMALLOC;
    while let Ok(block) = zones.alloc(PageReq::page(gfp)) {
        let kind = zones.zone_of(block.pfn()).unwrap().kind();
        assert_ne!(kind, ZoneType::Movable);
    }
    let left = zones.node(NodeId::ZERO).zone(ZoneType::Movable).stat();
    assert_eq!(left.free + left.pcp_pages, left.managed);
}

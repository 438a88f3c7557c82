//! What the other tests have no occasion to look at: amounts to the frame, shares of nodes by the book, errors translated.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use common::{Random, TestZones, ThreadCpus, Tiny, frames, run_on};
use kmm_buddy::ContigError;
use kmm_frame::{MemMap, MigrateType, NodeId, Page, PfnRange, Topology, ZoneType};
use kmm_zone::{Amount, ContigFailed, Migrated, NodeLayouts, Zones};

#[test]
fn amounts_have_all_suffixes() {
    let bytes = [
        ("4096", 1),
        ("4k", 1),
        ("8K", 2),
        ("1m", 256),
        ("1M", 256),
        ("1g", 1 << 18),
        ("1G", 1 << 18),
        ("2t", 1 << 29),
        ("2T", 1 << 29),
    ];
    for (text, pages) in bytes {
        assert_eq!(Amount::parse(text), Ok(Amount::Pages(pages)), "{text}");
    }
    assert_eq!(Amount::parse("100%"), Ok(Amount::Percent(100)));
    assert_eq!(Amount::parse("0%"), Ok(Amount::Percent(0)));
}

/// Nodes that have these frames, by number, and all of them.
fn machine(nodes: &[Vec<PfnRange>]) -> (&'static Topology, Vec<PfnRange>) {
    let mut topology = Topology::new(nodes.len()).unwrap();
    for (nr, ranges) in nodes.iter().enumerate() {
        for range in ranges {
            topology.add_range(*range, NodeId::new(nr as u8)).unwrap();
        }
    }
    (
        Box::leak(Box::new(topology)),
        nodes.iter().flatten().copied().collect(),
    )
}

fn movable(nodes: &[Vec<PfnRange>], kernel: Amount, movable: Amount) -> Vec<PfnRange> {
    let (topology, memory) = machine(nodes);
    let layouts = NodeLayouts::new::<Tiny>(topology, memory.iter().copied());
    let layouts = layouts.with_movable(memory.iter().copied(), kernel, movable);
    let of = |nr: usize| layouts.nodes()[nr].range(ZoneType::Movable);
    (0..nodes.len()).map(of).collect()
}

#[test]
fn a_percentage_is_exact_to_the_frame() {
    let of = |total: usize| {
        let node = vec![frames(0, total)];
        movable(&[node], Amount::Percent(7), Amount::NONE)[0].start()
    };
    // 1022 and 2 are 1024; 1022 and 3 are more, so that the next block is the kernel's too.
    assert_eq!(of(14_629), frames(1024, 1024).start());
    assert_eq!(of(14_650), frames(2048, 2048).start());
}

/// Where the movable zone of each node begins, frame by frame, as Linux's `find_zone_movable_pfns_for_nodes` has it.
fn starts(nodes: &[Vec<PfnRange>], lowest: usize, mut wanted: usize) -> Vec<usize> {
    let mut starts = vec![0; nodes.len()];
    let with_memory = nodes.iter().filter(|ranges| !ranges.is_empty());
    for sharing in (1..=with_memory.count()).rev() {
        let mut share = wanted / sharing;
        for (start, ranges) in starts.iter_mut().zip(nodes) {
            if wanted < share {
                share = wanted / sharing;
            }
            let mut left = share;
            for range in ranges {
                let mut is_above = false;
                for pfn in (*start).max(range.start().index())..range.end().index() {
                    is_above = pfn >= lowest;
                    *start = pfn;
                    if is_above && left == 0 {
                        break;
                    }
                    *start = pfn + 1;
                    left = left.saturating_sub(1);
                    wanted = wanted.saturating_sub(1);
                }
                if is_above && left == 0 {
                    break;
                }
            }
        }
        if wanted < sharing {
            break;
        }
    }
    starts
}

#[test]
fn nodes_share_what_the_kernel_gets_to_the_frame() {
    let mut random = Random::new("to_the_frame", 0x31);
    for _ in 0..3000 {
        let mut start = [0, 100, 1024][random.below(3)];
        let nodes: Vec<Vec<PfnRange>> = (0..=random.below(4))
            .map(|_| {
                let ranges = (0..random.below(4)).map(|_| {
                    let end = start + [40, 150, 1000, 1024, 2048, 3072][random.below(6)];
                    let range = frames(start, end);
                    start = end + [0, 24, 200][random.below(3)];
                    range
                });
                ranges.collect()
            })
            .collect();
        let ranges = || nodes.iter().flatten();
        let total: usize = ranges().map(|range| range.nr_pages()).sum();
        let Some(last) = ranges().map(|range| range.end().index()).max() else {
            continue;
        };
        // Just at, below and above what makes a difference.
        let about = nodes.len() * 1024 * random.below(5) + random.below(9);
        let wanted = about.saturating_sub(4);
        let found = movable(&nodes, Amount::Pages(wanted), Amount::NONE);
        // The highest zone with memory gives, from where it begins on any node.
        let donor = [256, 64, 0]
            .into_iter()
            .find(|donor| last > *donor)
            .unwrap();
        let first = ranges().filter(|range| range.end().index() > donor);
        let spans = nodes.iter().filter_map(|own| {
            let end = own.last()?.end().index();
            (end > donor).then(|| own[0].start().index().max(donor))
        });
        assert!(first.count() > 0);
        let lowest = spans.min().unwrap();
        for (nr, own) in nodes.iter().enumerate() {
            let begin = starts(&nodes, lowest, wanted)[nr].next_multiple_of(1024);
            let end = own.last().map_or(0, |range| range.end().index());
            let is_any = wanted > 0
                && wanted < total
                && begin < end
                && end > donor
                && starts(&nodes, lowest, wanted)[nr] > 0;
            let expected = if is_any {
                frames(begin.max(own[0].start().index()).max(donor), end)
            } else {
                PfnRange::EMPTY
            };
            let (is_empty, found) = (expected.is_empty(), found[nr]);
            assert!(
                found == expected || is_empty && found.is_empty(),
                "{nodes:?} {wanted}: node {nr} has {found:?}, not {expected:?}"
            );
        }
    }
}

#[test]
fn a_node_of_which_the_kernel_gets_nothing_gives_nothing() {
    let nodes = [vec![frames(0, 30)], vec![frames(30, 64)]];
    let found = movable(&nodes, Amount::Pages(1), Amount::NONE);
    assert!(found.iter().all(|range| range.is_empty()));
}

#[test]
fn errors_of_the_buddy_allocator_keep_their_meaning() {
    let failed = |error: ContigError| ContigFailed::from(error);
    assert_eq!(failed(ContigError::Empty), ContigFailed::Empty);
    assert_eq!(failed(ContigError::Busy), ContigFailed::Contended);
    assert_eq!(failed(ContigError::OutsideZone), ContigFailed::OutsideZone);
}

#[test]
fn ranges_of_devices_and_of_memory_that_may_come_cannot_be_had() {
    let (topology, _) = machine(&[vec![frames(0, 16_384)]]);
    let layouts = NodeLayouts::new::<Tiny>(topology, [frames(0, 4096)])
        .with_hotplug::<Tiny>(frames(4096, 16_384));
    let all = frames(0, 16_384);
    let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
    let zones: TestZones = Zones::new(
        MemMap::new(all, pages.leak()).unwrap(),
        ThreadCpus(1),
        common::memory(all),
        &layouts,
        common::storage_for(&layouts, 1),
    )
    .unwrap();
    run_on(0);
    zones.add_present(frames(0, 4096));
    zones.free_at_boot(frames(0, 4096)).unwrap();
    let device = zones.add_device(frames(8192, 9216)).unwrap();
    let mut nobody = |_: PfnRange| -> Migrated { panic!("nothing is in use") };
    for (start, end) in [
        (8192, 9216),
        (8200, 8201),
        (4000, 4097),
        (4096, 5120),
        (9000, 9300),
        (20, 100),
    ] {
        let range = frames(start, end);
        let found = zones.alloc_contig_range(range, MigrateType::Movable, &mut nobody);
        assert_eq!(found, Err(ContigFailed::OutsideZone), "{range:?}");
    }
    let range = frames(4000, 4096);
    let taken = zones.alloc_contig_range(range, MigrateType::Movable, &mut nobody);
    zones.free_contig_range(taken.unwrap());
    zones.remove_device(device).unwrap();
    zones.validate().unwrap();
}

#[test]
fn who_comes_after_a_node_that_gave_more_than_its_share_gives_less() {
    // The kernel has the 256 lowest frames anyway, of 400 and of a share of 200: 144 are left, 72 for each.
    let of = |first: usize| {
        let nodes = [vec![frames(0, first)], vec![frames(first, 5000)]];
        movable(&nodes, Amount::Pages(400), Amount::NONE)[1]
    };
    assert_eq!(of(900), frames(1024, 5000));
    assert_eq!(of(1000), frames(2048, 5000));
}

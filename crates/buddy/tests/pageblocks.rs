//! The map of pageblock types against a list of frames.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{Random, frames, map_of, pageblocks_of};
use kmm_buddy::{Buddy, FreeBits, Pageblock, Pageblocks};
use kmm_frame::{MigrateType, NR_ORDERS, Order, Pfn, PfnRange};

/// Pageblocks, and the allocator that may change their types.
fn zone_of(range: PfnRange) -> (Pageblocks, Buddy) {
    let blocks = pageblocks_of(range);
    let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range)].leak();
    let buddy = Buddy::new(range, map_of(range), storage, blocks).unwrap();
    (blocks, buddy)
}

const fn only_movable(count: usize) -> [usize; MigrateType::COUNT] {
    let mut counts = [0; MigrateType::COUNT];
    counts[MigrateType::Movable.index()] = count;
    counts
}

/// The oracle: a type and a mark for each frame.
struct Oracle {
    range: PfnRange,
    kinds: Vec<MigrateType>,
    present: Vec<bool>,
}

impl Oracle {
    fn new(range: PfnRange, end: usize) -> Self {
        Self {
            range,
            kinds: vec![MigrateType::Movable; end],
            present: vec![false; end],
        }
    }

    /// Frames of the zone that share the pageblock of `pfn`, by comparing quotients.
    fn mates(&self, pfn: usize) -> Vec<usize> {
        let same = |other: &usize| other / 512 == pfn / 512;
        self.range.iter().map(Pfn::index).filter(same).collect()
    }

    fn counts(&self) -> [usize; MigrateType::COUNT] {
        let mut counts = [0; MigrateType::COUNT];
        let mut seen = usize::MAX;
        for pfn in self.range.iter().map(Pfn::index) {
            if pfn / 512 == seen {
                continue;
            }
            seen = pfn / 512;
            if self.mates(pfn).iter().any(|&mate| self.present[mate]) {
                counts[self.kinds[pfn].index()] += 1;
            }
        }
        counts
    }
}

#[test]
fn types_match_the_oracle_whatever_the_alignment() {
    const END: usize = 4096;
    let mut random = Random::new("types_match_the_oracle_whatever_the_alignment", 0x9b);
    for round in 0..40 {
        let bound = |random: &mut Random| match random.below(3) {
            0 => random.below(END),
            1 => random.below(8) * 512,
            _ => (random.below(8) * 512 + random.below(3)).saturating_sub(1),
        };
        let (a, b) = (bound(&mut random), bound(&mut random));
        let range = if round == 0 {
            PfnRange::EMPTY
        } else {
            frames(a.min(b), a.max(b))
        };
        let (blocks, mut buddy) = zone_of(range);
        let mut oracle = Oracle::new(range, END);
        for _ in 0..150 {
            let pfn = random.below(END);
            match random.below(3) {
                0 => {
                    let len = [1, 3, 512, 700][random.below(4)];
                    let given = PfnRange::with_len(Pfn::new(pfn), len);
                    blocks.add_present(given);
                    for frame in given.intersect(range).iter() {
                        oracle.present[frame.index()] = true;
                    }
                }
                1 => {
                    let kind = MigrateType::ALL[random.below(MigrateType::COUNT)];
                    let inside = range.contains(Pfn::new(pfn));
                    let before = inside.then(|| oracle.kinds[pfn]);
                    assert_eq!(buddy.set_type(Pfn::new(pfn), kind), before);
                    if inside {
                        for mate in oracle.mates(pfn) {
                            oracle.kinds[mate] = kind;
                        }
                    }
                }
                _ => {
                    let inside = range.contains(Pfn::new(pfn));
                    let kind = inside.then(|| oracle.kinds[pfn]);
                    assert_eq!(blocks.type_of(Pfn::new(pfn)), kind);
                    assert_eq!(buddy.type_of(Pfn::new(pfn)), kind);
                }
            }
            assert_eq!(blocks.nr_blocks(), oracle.counts());
        }
    }
}

#[test]
fn every_block_with_ram_is_movable_at_first() {
    let blocks = pageblocks_of(frames(1, 4096));
    assert_eq!(blocks.nr_blocks(), only_movable(0));
    blocks.add_present(frames(1, 4096));
    blocks.add_present(frames(1, 4096));
    assert_eq!(blocks.nr_blocks(), only_movable(8));
    assert_eq!(
        Pageblocks::count_for(frames(511, 513)),
        2,
        "two blocks, touched in part"
    );
    assert_eq!(Pageblocks::count_for(frames(512, 1024)), 1);
    assert_eq!(Pageblocks::count_for(PfnRange::EMPTY), 0);
    // A byte for 2 MiB.
    assert_eq!(size_of::<Pageblock>(), 1);
}

#[test]
fn too_few_blocks_are_refused() {
    static TWO: [Pageblock; 2] = [const { Pageblock::new() }; 2];
    assert!(Pageblocks::new(frames(0, 1025), &TWO).is_none());
    assert!(Pageblocks::new(frames(0, 1024), &TWO).is_some());
}

#[test]
fn free_blocks_count_under_the_pageblock_they_start_in() {
    let mut random = Random::new("free_blocks_count_under_the_pageblock_they_start_in", 0x5c);
    let range = frames(100, 3500);
    let (blocks, mut buddy) = zone_of(range);
    buddy.add_free_range(range).unwrap();
    blocks.add_present(range);
    let mut held = Vec::new();
    for _ in 0..400 {
        match random.below(3) {
            0 => held.extend(buddy.take(random.order(9), MigrateType::Movable)),
            1 if !held.is_empty() => {
                let pfn: Pfn = held.swap_remove(random.below(held.len()));
                buddy.put(pfn, Order::ZERO).unwrap();
            }
            _ => {
                let (nr, kind) = (random.below(7), MigrateType::ALL[random.below(6)]);
                let pfn = (nr * 512).clamp(100, 3499);
                let before = blocks.type_of(Pfn::new(pfn));
                assert_eq!(buddy.set_type(Pfn::new(pfn), kind), before);
            }
        }
        let mut expected = [[0; NR_ORDERS]; MigrateType::COUNT];
        for block in buddy.free_blocks() {
            let kind = blocks.type_of(block.pfn).unwrap();
            expected[kind.index()][block.order.index()] += 1;
        }
        let counted = buddy.nr_free_by_type();
        assert_eq!(counted, expected);
        for order in Order::all() {
            let of_order: usize = counted.iter().map(|row| row[order.index()]).sum();
            assert_eq!(of_order, buddy.nr_free(order));
        }
    }
}

#[test]
fn twins_merge_across_types_only_where_both_may() {
    let may = |kind: MigrateType| kind.index() < MigrateType::HighAtomic.index();
    for (kind, other) in MigrateType::ALL
        .into_iter()
        .flat_map(|a| MigrateType::ALL.map(|b| (a, b)))
    {
        for (freed, twin) in [(0, 512), (512, 0)] {
            let (_, mut buddy) = zone_of(frames(0, 1024));
            buddy.set_type(Pfn::new(freed), kind);
            buddy.set_type(Pfn::new(twin), other);
            buddy.put(Pfn::new(twin), Order::PAGEBLOCK).unwrap();
            let merges = kind == other || may(kind) && may(other);
            buddy.put(Pfn::new(freed), Order::PAGEBLOCK).unwrap();
            let blocks = buddy.free_blocks().count();
            assert_eq!(blocks, if merges { 1 } else { 2 }, "{kind:?} {other:?}");
            // the one that came last decides.
            let expected = if merges { kind } else { other };
            assert_eq!(buddy.type_of(Pfn::new(twin)), Some(expected));
            assert_eq!(buddy.type_of(Pfn::new(freed)), Some(kind));
            buddy.validate().unwrap();
        }
    }
}

#[test]
fn pageblocks_that_are_alone_go_before_halves() {
    let (_, mut buddy) = zone_of(frames(0, 4096));
    buddy.add_free_range(frames(0, 4096)).unwrap();
    let movable = MigrateType::Movable;
    assert_eq!(buddy.take(Order::PAGEBLOCK, movable), Ok(Pfn::ZERO));
    let mut blocks = Vec::new();
    let count = buddy.take_blocks(Order::PAGEBLOCK, 4, movable, |pfn| blocks.push(pfn.index()));
    assert_eq!((count, blocks), (4, vec![512, 1024, 1536, 2048]));
    assert_eq!(buddy.nr_free(Order::PAGEBLOCK), 1);
    buddy.validate().unwrap();
}

/// of 51 200 frames a hundredth is a pageblock, so that there may be two in the reserve.
#[test]
fn the_reserve_has_a_limit() {
    let (_, mut buddy) = zone_of(frames(0, 4096));
    let order = Order::new(3).unwrap();
    let mut reserve =
        |nr: usize, managed| buddy.reserve_highatomic(Pfn::new(nr * 512), order, managed);
    assert!(!reserve(0, 51_199), "a small zone has none");
    assert!(reserve(0, 51_200));
    assert!(!reserve(0, 51_200), "it is there already");
    assert!(reserve(3, 51_200));
    assert!(!reserve(5, 51_200));
    assert!(reserve(5, 51_300), "the limit is not met yet");
    assert!(!reserve(8, 100_000), "foreign frames");
    assert_eq!(buddy.nr_reserved_highatomic(), 3 * 512);
    // Nothing of it is free, so nothing goes back.
    assert!(!buddy.unreserve_highatomic(MigrateType::Movable));
    buddy.put(Pfn::new(3 * 512), Order::ZERO).unwrap();
    assert_eq!(buddy.nr_free_highatomic(), 1);
    assert!(!buddy.has_free(Order::ZERO, MigrateType::Unmovable));
    assert!(buddy.unreserve_highatomic(MigrateType::Movable));
    assert_eq!(buddy.nr_reserved_highatomic(), 2 * 512);
    assert_eq!(
        buddy.take(Order::ZERO, MigrateType::Movable),
        Ok(Pfn::new(3 * 512))
    );
}

#[test]
fn a_mark_stays_whatever_becomes_of_a_pageblock() {
    let range = frames(100, 5 * 512 + 7);
    let (blocks, mut buddy) = zone_of(range);
    let routes = |blocks: &Pageblocks| -> Vec<usize> {
        blocks.entries().iter().map(Pageblock::route).collect()
    };
    let before = routes(&blocks);
    // Marked twice, it is near all the same.
    blocks.set_near(frames(600, 800), true);
    blocks.set_near(frames(600, 1030), true);
    let near = |nr: usize| usize::from((1..=2).contains(&nr)) * Pageblock::NEAR_ROUTE;
    let marked: Vec<_> = before
        .iter()
        .zip(0..)
        .map(|(route, nr)| route + near(nr))
        .collect();
    assert_eq!(routes(&blocks), marked);
    // Isolated and back, and RAM in between.
    let pfn = Pfn::new(700);
    blocks.add_present(range);
    buddy.set_type(pfn, MigrateType::Reclaimable);
    buddy.set_type(pfn, MigrateType::Isolate);
    assert_eq!(blocks.type_of(pfn), Some(MigrateType::Isolate));
    buddy.set_type(pfn, MigrateType::Unmovable);
    let of = Pageblock::route_of;
    assert_eq!(
        blocks.entries()[1].route(),
        of(MigrateType::Unmovable) + Pageblock::NEAR_ROUTE
    );
    assert_eq!(blocks.entries()[3].route(), of(MigrateType::Movable));
    // Frames of others, and none.
    blocks.set_near(frames(0, 50), true);
    blocks.set_near(PfnRange::EMPTY, true);
    assert_eq!(blocks.entries()[0].route(), of(MigrateType::Movable));
    blocks.set_near(frames(0, 9000), false);
    let is_far = |block: &Pageblock| block.route() < Pageblock::NEAR_ROUTE;
    assert!(blocks.entries().iter().all(is_far));
}

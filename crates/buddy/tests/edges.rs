//! What the other tests have no occasion to look at: sizes of tables, blocks of an order in batches, ranges asked about.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{empty, frames, full, map_of, order, pageblocks_of, sorted};
use kmm_buddy::{Buddy, FreeBits, FreeError, Pageblock, Request};
use kmm_frame::{MAX_ORDER, MigrateType, Order, PageFlags, Pfn, PfnRange};

#[test]
fn what_a_zone_wants_to_keep_does_not_depend_on_where_it_lies() {
    let low = Buddy::storage_for(frames(0, 1 << 14));
    assert_eq!(
        low,
        Buddy::storage_for(frames(1 << 30, (1 << 30) + (1 << 14)))
    );
    // A map for each two pageblocks, states of sixteen, and a row of bits for each type.
    assert_eq!(low, 16 + 2 + MigrateType::COUNT);
    // Above 64 words of 64 pageblocks each tree has a second level.
    let nr_blocks = 3 * 64;
    let range = frames(0, nr_blocks << Order::PAGEBLOCK.get());
    assert_eq!(
        Buddy::storage_for(range),
        nr_blocks / 2 + nr_blocks / 16 + MigrateType::COUNT * (3 + 1)
    );
    assert_eq!(Buddy::storage_for(frames(5, 5)), 0);
    // Half a block of the highest order at either end counts as one.
    let ends = frames(1023, 1025);
    assert_eq!(Buddy::storage_for(ends), 2 + 1 + MigrateType::COUNT);
}

#[test]
fn a_zone_has_all_that_it_asks_for_and_no_less_will_do() {
    let range = frames(0, 1 << 12);
    let want = Buddy::storage_for(range);
    let storage = |count: usize| vec![FreeBits::EMPTY; count].leak();
    let make = |count: usize| {
        Buddy::new(range, map_of(range), storage(count), pageblocks_of(range)).is_some()
    };
    assert!(make(want));
    assert!(make(want + 1));
    assert!(!make(want - 1));
    let narrow = pageblocks_of(frames(0, (1 << 12) - 1));
    assert!(Buddy::new(range, map_of(range), storage(want), narrow).is_none());
}

#[test]
fn routes_of_pageblocks_are_all_values_of_five_bits() {
    assert_eq!(Pageblock::NR_ROUTES, 32);
    assert_eq!(Pageblock::NEAR_ROUTE, 16);
    let routes = MigrateType::ALL.map(Pageblock::route_of);
    for (nr, route) in routes.iter().enumerate() {
        assert!(*route < Pageblock::NEAR_ROUTE);
        assert!(!routes[..nr].contains(route));
    }
    let range = frames(0, 1024);
    let blocks = pageblocks_of(range);
    let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range)].leak();
    let mut buddy = Buddy::new(range, map_of(range), storage, blocks).unwrap();
    for kind in MigrateType::ALL {
        buddy.set_type(Pfn::new(0), kind);
        let [block, other] = blocks.entries() else {
            panic!("two pageblocks");
        };
        blocks.remove_present(range);
        assert_ne!(block.route(), Pageblock::route_of(kind));
        blocks.add_present(frames(0, 512));
        assert_eq!(block.route(), Pageblock::route_of(kind));
        // What an isolated pageblock was is no part of the route; nor does the next pageblock matter.
        assert_eq!(other.route(), Pageblock::new().route());
    }
}

#[test]
fn blocks_of_an_order_come_back_together() {
    for n in [0, 3, 6, 8, 9, 10] {
        let range = frames(0, 4096);
        let mut buddy = full(range);
        let before = sorted(buddy.free_blocks());
        let mut taken = Vec::new();
        let count = buddy.take_blocks(order(n), 3, MigrateType::Movable, |pfn| taken.push(pfn));
        assert_eq!((count, taken.len()), (3, 3));
        assert_eq!(buddy.nr_free_pages(), 4096 - (3 << n));
        let outside = Pfn::new(4096);
        let batch = [taken[0], outside, taken[1], taken[0], taken[2]];
        let mut refused = Vec::new();
        buddy.put_blocks(order(n), batch, |pfn, why| refused.push((pfn, why)));
        assert_eq!(
            refused,
            [
                (outside, FreeError::OutsideZone),
                (taken[0], FreeError::AlreadyFree)
            ]
        );
        assert_eq!(sorted(buddy.free_blocks()), before);
        buddy.validate().unwrap();
    }
}

#[test]
fn a_range_has_something_free_if_one_frame_of_it_is() {
    let range = frames(1000, 5000);
    for at in [1000, 1001, 1023, 1024, 2047, 2048, 3000, 4608, 4999] {
        let mut buddy = empty(range, map_of(range));
        assert!(!buddy.has_free_in(range));
        buddy.add_free_range(frames(at, at + 1)).unwrap();
        assert!(buddy.has_free_in(range));
        assert!(buddy.has_free_in(frames(at, at + 1)));
        assert!(buddy.has_free_in(frames(0, at + 1)));
        assert!(buddy.has_free_in(frames(at, 9000)));
        assert!(!buddy.has_free_in(frames(0, at)));
        assert!(!buddy.has_free_in(frames(at + 1, 9000)));
        assert!(!buddy.has_free_in(frames(at, at)));
    }
    // Blocks of the highest order, and what is around them.
    let mut buddy = empty(range, map_of(range));
    let block = frames(2048, 2048 + MAX_ORDER.nr_pages());
    buddy.add_free_range(block).unwrap();
    assert!(buddy.has_free_in(frames(2048 + 512, 2048 + 513)));
    assert!(!buddy.has_free_in(frames(1024, 2048)));
    assert!(!buddy.has_free_in(frames(3072, 4096)));
}

#[test]
fn pages_of_a_batch_are_refused_one_by_one() {
    let range = frames(512, 2048);
    let mut buddy = full(range);
    let mut held = Vec::new();
    buddy.take_pages(200, MigrateType::Movable, |pfn| held.push(pfn.index()));
    assert_eq!(held, (512..712).collect::<Vec<_>>());
    let page = |pfn: &usize| Pfn::new(*pfn);
    let put = |buddy: &mut Buddy, batch: &[usize]| {
        let mut refused = Vec::new();
        buddy.put_pages(batch.iter().map(page), |pfn, why| {
            refused.push((pfn.index(), why));
        });
        buddy.validate().unwrap();
        refused
    };
    let (outside, twice) = (FreeError::OutsideZone, FreeError::AlreadyFree);
    assert_eq!(put(&mut buddy, &[]), []);
    assert_eq!(
        put(&mut buddy, &[511, 2048, 0, 520]),
        [(511, outside), (2048, outside), (0, outside)]
    );
    // One that is free, of a word with others; several that are; one twice in the batch.
    assert_eq!(put(&mut buddy, &[519, 520, 521]), [(520, twice)]);
    assert_eq!(
        put(&mut buddy, &[519, 530, 521, 520]),
        [(519, twice), (520, twice), (521, twice)]
    );
    assert_eq!(put(&mut buddy, &[540, 541, 540, 542]), [(540, twice)]);
    assert_eq!(put(&mut buddy, &[540]), [(540, twice)]);
    // One of a pageblock that is free as a whole.
    assert_eq!(
        put(&mut buddy, &[1024, 600, 1500, 1501]),
        [(1024, twice), (1500, twice), (1501, twice)]
    );
    assert_eq!(buddy.nr_free_pages(), 1536 - 200 + 8);
    let rest: Vec<usize> = (512..712)
        .filter(|pfn| !matches!(pfn, 519..=521 | 530 | 540..=542 | 600))
        .collect();
    assert_eq!(put(&mut buddy, &rest), []);
    assert_eq!(sorted(buddy.free_blocks()), [(512, 9), (1024, 10)]);
}

#[test]
fn a_range_that_is_taken_is_missing_and_nothing_else() {
    let range = frames(300, 5000);
    let whole = sorted(full(range).free_blocks());
    for (start, end) in [
        (512, 1024),
        (512, 513),
        (513, 514),
        (1023, 1024),
        (1000, 1100),
        (1024, 2048),
        (1536, 2560),
        (300, 5000),
        (300, 301),
        (4999, 5000),
        (2050, 4095),
        (1025, 1537),
    ] {
        let mut buddy = full(range);
        let asked = frames(start, end);
        let contig = buddy.start_contig(asked).unwrap();
        assert_eq!(contig.range(), asked);
        assert_eq!(buddy.in_use(&contig).next(), None);
        let isolated =
            |buddy: &Buddy, pfn: usize| buddy.type_of(Pfn::new(pfn)) == Some(MigrateType::Isolate);
        assert!(isolated(&buddy, start) && isolated(&buddy, end - 1));
        assert_eq!(buddy.finish_contig(contig).unwrap(), asked);
        assert!(!isolated(&buddy, start) && !isolated(&buddy, end - 1));
        buddy.validate().unwrap();
        let mut other = empty(range, map_of(range));
        other.add_free_range(frames(300, start)).unwrap();
        other.add_free_range(frames(end, 5000)).unwrap();
        assert_eq!(
            sorted(buddy.free_blocks()),
            sorted(other.free_blocks()),
            "{start}..{end}"
        );
        assert_eq!(buddy.nr_free_pages(), 4700 - (end - start));
        buddy.add_free_range(asked).unwrap();
        assert_eq!(sorted(buddy.free_blocks()), whole);
    }
}

#[test]
fn what_is_in_use_is_named_and_stays() {
    let range = frames(0, 2048);
    let mut buddy = full(range);
    let mut held = Vec::new();
    buddy.take_pages(2048, MigrateType::Movable, |pfn| held.push(pfn));
    for pfn in [0, 1, 5, 6, 1023, 1024, 1030] {
        buddy.put(Pfn::new(pfn), Order::ZERO).unwrap();
    }
    let contig = buddy.start_contig(frames(1, 1030)).unwrap();
    // Nothing of these pageblocks counts as free meanwhile, nor may anybody else begin.
    assert_eq!(buddy.nr_free_pages(), 0);
    assert!(buddy.start_contig(frames(511, 512)).is_err());
    assert!(buddy.take(Order::ZERO, MigrateType::Movable).is_err());
    let busy = [frames(2, 5), frames(7, 1023), frames(1025, 1030)];
    assert_eq!(buddy.in_use(&contig).collect::<Vec<_>>(), busy);
    let (contig, first) = buddy.finish_contig(contig).unwrap_err();
    assert_eq!(first, busy[0]);
    for pfn in busy.into_iter().flat_map(|run| run.iter()) {
        buddy.put(pfn, Order::ZERO).unwrap();
    }
    assert_eq!(buddy.in_use(&contig).next(), None);
    buddy.undo_contig(contig);
    assert_eq!(buddy.nr_free_pages(), 1031);
    assert_eq!(buddy.type_of(Pfn::new(0)), Some(MigrateType::Movable));
    buddy.validate().unwrap();
}

#[test]
fn a_frame_that_is_free_twice_is_that_whatever_its_descriptor_says() {
    let range = frames(0, 1024);
    let map = map_of(range);
    let mut buddy = empty(range, map);
    buddy.add_free_range(range).unwrap();
    map.page(Pfn::new(8)).set(PageFlags::RESERVED);
    assert_eq!(
        buddy.put(Pfn::new(8), Order::ZERO),
        Err(FreeError::AlreadyFree)
    );
}

#[test]
fn ram_is_known_by_pageblock() {
    // A part of pageblock 1, 2 to 8, and a part of 9.
    let range = frames(700, 4700);
    let blocks = pageblocks_of(range);
    let of = |first: usize, last: usize| frames(first * 512, last * 512 + 512);
    assert!(!blocks.has_present_in(range) && !blocks.has_all_present_in(range));
    assert_eq!(blocks.present_span(), PfnRange::EMPTY);
    blocks.add_present(frames(1100, 1101));
    blocks.add_present(frames(2047, 2049));
    // 2, 3 and 4.
    assert!(blocks.has_present_in(of(2, 2)) && blocks.has_all_present_in(of(2, 4)));
    assert!(blocks.has_present_in(range) && !blocks.has_all_present_in(range));
    assert!(blocks.has_present_in(frames(1024, 1025)));
    assert!(!blocks.has_present_in(frames(1023, 1024)));
    assert!(!blocks.has_present_in(of(5, 9)));
    assert!(blocks.has_present_in(of(4, 5)) && !blocks.has_all_present_in(of(4, 5)));
    assert_eq!(blocks.present_span(), of(2, 4));
    // What is outside does not count.
    assert!(!blocks.has_present_in(frames(0, 700)) && !blocks.has_present_in(frames(4700, 9000)));
    blocks.add_present(frames(0, 9000));
    assert_eq!(blocks.present_span(), range);
    assert!(blocks.has_all_present_in(range));
    assert_eq!(blocks.nr_blocks(), only_movable(9));
    blocks.remove_present(of(0, 1));
    blocks.remove_present(of(9, 9));
    assert_eq!(blocks.present_span(), of(2, 8));
    blocks.remove_present(of(4, 5));
    assert_eq!(blocks.present_span(), of(2, 8));
    assert!(!blocks.has_present_in(of(4, 5)) && blocks.has_all_present_in(of(6, 8)));
    assert_eq!(blocks.nr_blocks(), only_movable(5));
    blocks.remove_present(of(2, 8));
    assert_eq!(blocks.present_span(), PfnRange::EMPTY);
}

const fn only_movable(count: usize) -> [usize; MigrateType::COUNT] {
    let mut counts = [0; MigrateType::COUNT];
    counts[MigrateType::Movable.index()] = count;
    counts
}

#[test]
fn the_reserve_and_what_is_lent_are_counted() {
    let range = frames(0, 64 << 10);
    let mut buddy = empty(range, map_of(range));
    buddy.add_free_range(frames(0, 32 << 10)).unwrap();
    let managed = 64 << 10;
    assert_eq!(
        (buddy.nr_reserved_highatomic(), buddy.nr_free_highatomic()),
        (0, 0)
    );
    assert!(buddy.reserve_highatomic(Pfn::new(512), order(3), managed));
    assert!(!buddy.reserve_highatomic(Pfn::new(1000), order(3), managed));
    assert_eq!(
        (buddy.nr_reserved_highatomic(), buddy.nr_free_highatomic()),
        (512, 512)
    );
    // A hundredth is 655 frames: a second pageblock is within it and one more, and so is a third; a fourth is not.
    assert!(buddy.reserve_highatomic(Pfn::new(1024), order(0), managed));
    assert!(buddy.reserve_highatomic(Pfn::new(1536), order(0), managed));
    assert!(!buddy.reserve_highatomic(Pfn::new(2048), order(0), managed));
    assert_eq!(buddy.nr_reserved_highatomic(), 3 * 512);
    let pfn = buddy.take(order(2), MigrateType::HighAtomic).unwrap();
    assert_eq!(buddy.type_of(pfn), Some(MigrateType::HighAtomic));
    assert_eq!(buddy.nr_free_highatomic(), 3 * 512 - 4);
    assert!(buddy.unreserve_highatomic(MigrateType::Unmovable));
    assert_eq!(buddy.nr_reserved_highatomic(), 2 * 512);
    assert_eq!(buddy.nr_free_cma(), 0);
    buddy
        .add_cma_range(frames(40 << 10, (40 << 10) + 1024))
        .unwrap();
    assert_eq!(buddy.nr_free_cma(), 1024);
    // A hundredth must be a pageblock.
    assert!(buddy.unreserve_highatomic(MigrateType::Movable));
    assert!(!buddy.reserve_highatomic(Pfn::new(4096), order(0), 51_199));
    assert!(buddy.reserve_highatomic(Pfn::new(4096), order(0), 51_200));
    buddy.validate().unwrap();
}

#[test]
fn what_would_be_found_is_said_before() {
    use MigrateType::{Cma, HighAtomic, Isolate, Movable, Reclaimable, Unmovable};
    let range = frames(0, 4096);
    for kind in MigrateType::ALL {
        for n in [0, 3, 8, 9, 10] {
            let mut buddy = empty(range, map_of(range));
            for slot in 0..8 {
                buddy.set_type(Pfn::new(slot * 512), kind);
            }
            let block = frames(2048, 2048 + (1 << n));
            buddy.add_free_range(block).unwrap();
            for asked in MigrateType::ALL {
                let own = kind == asked && kind != Isolate;
                let main = |kind| matches!(kind, Unmovable | Movable | Reclaimable);
                let is_fallback = main(kind) && main(asked) && kind != asked;
                for wish in 0..=10 {
                    let has = |request: Request| buddy.has_free(order(wish), request);
                    let request = Request::new(asked);
                    let fits = n >= wish;
                    assert_eq!(has(request), fits && (own || is_fallback));
                    let lent = kind == Cma && fits;
                    assert_eq!(has(request.with_cma()), has(request) || lent);
                    let unmixed = request.without_fragmenting();
                    assert_eq!(has(unmixed), fits && (own || is_fallback && n >= 9));
                }
            }
            assert!(matches!(kind, HighAtomic | Isolate) || buddy.has_free(order(n), kind));
        }
    }
}

#[test]
fn pageblocks_in_batches_are_those_that_single_requests_get() {
    use MigrateType::{Cma, Isolate, Movable, Unmovable};
    let range = frames(0, 16 * 512);
    let make = || {
        let mut buddy = empty(range, map_of(range));
        for slot in 8..14 {
            buddy.set_type(Pfn::new(slot * 512), Cma);
        }
        buddy.set_type(Pfn::new(14 * 512), Unmovable);
        for (first, end) in [(0, 1), (2, 4), (5, 6), (8, 13), (14, 15)] {
            buddy
                .add_free_range(frames(first * 512, end * 512))
                .unwrap();
        }
        buddy.isolate(frames(5 * 512, 6 * 512)).unwrap();
        buddy
    };
    let movable = Request::new(Movable);
    for request in [
        movable,
        movable.with_cma(),
        movable.without_fragmenting(),
        Request::new(Unmovable),
        Request::new(Cma),
        Request::new(Isolate),
    ] {
        for most in 0..12 {
            let (mut one, mut other) = (make(), make());
            let mut batch = Vec::new();
            let count = one.take_blocks(Order::PAGEBLOCK, most, request, |pfn| batch.push(pfn));
            let single = || other.take(Order::PAGEBLOCK, request).ok();
            let singles: Vec<Pfn> = core::iter::from_fn(single).take(most).collect();
            assert_eq!(batch, singles, "{request:?} {most}");
            assert_eq!(count, singles.len());
            assert_eq!(sorted(one.free_blocks()), sorted(other.free_blocks()));
            one.validate().unwrap();
        }
    }
}

#[test]
fn the_largest_blocks_come_back_only_if_neither_half_is_free() {
    let range = frames(0, 4096);
    for (free, n) in [(2048, 9), (2560, 9), (2048, 0), (3071, 0), (2560, 3)] {
        let mut buddy = empty(range, map_of(range));
        buddy.put(Pfn::new(free), order(n)).unwrap();
        let before = sorted(buddy.free_blocks());
        let refused = buddy.put(Pfn::new(2048), MAX_ORDER);
        assert_eq!(refused, Err(FreeError::AlreadyFree));
        assert_eq!(sorted(buddy.free_blocks()), before);
        buddy.validate().unwrap();
    }
}

#[test]
fn halves_of_different_types_join_if_both_may() {
    use MigrateType::{Cma, Isolate, Movable, Unmovable};
    let range = frames(0, 4096);
    for (lower, upper, joins) in [
        (Movable, Movable, true),
        (Cma, Cma, true),
        (Unmovable, Movable, true),
        (Movable, Unmovable, true),
        (Movable, Cma, false),
        (Cma, Movable, false),
        (Isolate, Movable, false),
    ] {
        for at in [0, 2048] {
            let mut buddy = empty(range, map_of(range));
            buddy.set_type(Pfn::new(at), lower);
            buddy.set_type(Pfn::new(at + 512), upper);
            buddy.put(Pfn::new(at), MAX_ORDER).unwrap();
            let halves = [(at, 9), (at + 512, 9)];
            let expected = if joins { &[(at, 10)][..] } else { &halves };
            assert_eq!(sorted(buddy.free_blocks()), expected);
            // The one that comes last, here the upper, says of which type both are.
            let first = if joins { upper } else { lower };
            assert_eq!(buddy.type_of(Pfn::new(at)), Some(first));
            assert_eq!(buddy.type_of(Pfn::new(at + 512)), Some(upper));
            buddy.validate().unwrap();
        }
    }
}

#[test]
fn the_largest_blocks_of_other_types_are_taken_whole() {
    let range = frames(0, 8192);
    let mut buddy = empty(range, map_of(range));
    buddy.add_free_range(frames(4096, 6144)).unwrap();
    assert_eq!(
        buddy.take(MAX_ORDER, MigrateType::Unmovable),
        Ok(Pfn::new(4096))
    );
    for pfn in [4096, 4608] {
        assert_eq!(buddy.type_of(Pfn::new(pfn)), Some(MigrateType::Unmovable));
    }
    assert_eq!(buddy.type_of(Pfn::new(5120)), Some(MigrateType::Movable));
    assert_eq!(sorted(buddy.free_blocks()), [(5120, 10)]);
    buddy.validate().unwrap();
    buddy.put(Pfn::new(4608), order(9)).unwrap();
    buddy.put(Pfn::new(0), order(9)).unwrap();
    assert_eq!(sorted(buddy.free_blocks()), [(0, 9), (4608, 9), (5120, 10)]);
    buddy.validate().unwrap();
}

#[test]
fn a_pageblock_goes_in_single_pages_to_the_last() {
    let range = frames(0, 4096);
    for most in [511, 512, 513, 1024, 4096] {
        let mut buddy = full(range);
        let mut next = 0;
        let count = buddy.take_pages(most, MigrateType::Movable, |pfn| {
            assert_eq!(pfn.index(), next);
            next += 1;
        });
        assert_eq!((count, next), (most, most));
        assert_eq!(buddy.nr_free_pages(), 4096 - most);
        buddy.validate().unwrap();
        for pfn in 0..most {
            buddy.put(Pfn::new(pfn), Order::ZERO).unwrap();
        }
        assert_eq!(
            sorted(buddy.free_blocks()),
            sorted(full(range).free_blocks())
        );
    }
}

//! Arguments that no caller should have: an answer, and nothing has changed.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "names of tests say what they prove; numbers are of 64 bits"
)]

mod common;

use common::{Random, empty, frames, full, map_of, order, pageblocks_of, sorted};
use kmm_buddy::{Buddy, FreeBits, FreeError, Request};
use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn, PfnRange};

/// A zone of these frames, if there can be one.
fn try_zone(range: PfnRange) -> Option<Buddy> {
    let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range)];
    Buddy::new(range, map_of(range), storage.leak(), pageblocks_of(range))
}

#[test]
fn zones_end_where_physical_addresses_do() {
    let end = Pfn::END.index();
    for (start, len) in [
        (usize::MAX - 2048, 2048),
        (end - 1, 2),
        (end, 1),
        (1 << 52, 1024),
    ] {
        let beyond = PfnRange::with_len(Pfn::new(start), len);
        assert!(try_zone(beyond).is_none(), "{beyond:?}");
    }
    let mut last = try_zone(frames(end - 2048, end)).unwrap();
    last.add_free_range(last.range()).unwrap();
    let block = last.take(MAX_ORDER, MigrateType::Movable).unwrap();
    last.put(block, MAX_ORDER).unwrap();
    let contig = last.start_contig(frames(end - 1, end)).unwrap();
    assert_eq!(last.finish_contig(contig).unwrap(), frames(end - 1, end));
    assert_eq!(last.put(Pfn::END, Order::ZERO), Err(FreeError::OutsideZone));
    last.put(Pfn::new(end - 1), Order::ZERO).unwrap();
    last.validate().unwrap();
    assert_eq!(
        sorted(last.free_blocks()),
        [(end - 2048, 10), (end - 1024, 10)]
    );
    assert_eq!(last.nr_free_pages(), 2048);
}

#[test]
fn zones_of_one_frame_and_of_none() {
    let mut none = empty(PfnRange::EMPTY, map_of(PfnRange::EMPTY));
    assert!(none.take(Order::ZERO, MigrateType::Movable).is_err());
    assert_eq!(
        none.put(Pfn::ZERO, Order::ZERO),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(none.add_free_range(PfnRange::EMPTY), Ok(()));
    assert!(none.start_contig(frames(0, 1)).is_err());
    none.validate().unwrap();
    for at in [0, 511, 512, 1023, 1025] {
        let mut one = full(frames(at, at + 1));
        assert!(one.take(order(1), MigrateType::Movable).is_err());
        assert_eq!(
            one.take(Order::ZERO, MigrateType::Unmovable),
            Ok(Pfn::new(at))
        );
        assert!(one.take(Order::ZERO, MigrateType::Movable).is_err());
        one.put(Pfn::new(at), Order::ZERO).unwrap();
        one.validate().unwrap();
    }
}

#[test]
fn ranges_that_another_zone_has_isolated_are_not_taken() {
    let (mut here, mut there) = (full(frames(1024, 2048)), full(frames(4096, 8192)));
    for range in [frames(1024, 1100), frames(2047, 2048)] {
        let contig = here.start_contig(range).unwrap();
        assert_eq!(there.in_use(&contig).next(), Some(range));
        let (contig, busy) = there.finish_contig(contig).unwrap_err();
        assert_eq!(busy, range);
        there.undo_contig(contig);
        there.validate().unwrap();
        assert_eq!(there.nr_free_pages(), 4096);
        here.undo_isolate(range);
    }
    here.validate().unwrap();
    assert_eq!(here.nr_free_pages(), 1024);
}

/// What is told of a zone by a debugger or a log is a line, not all of its bits.
#[test]
fn a_zone_prints_in_one_line() {
    let buddy = full(frames(0, 1 << 15));
    let text = format!("{buddy:?}");
    assert_eq!(
        text,
        "Buddy { range: Pfn(0x0..0x8000), nr_free_pages: 32768, .. }"
    );
}

/// Every call with every kind of nonsense: the zone stays sound, what is free and what was handed out stay apart, and who
/// holds frames alone gives them back.
#[test]
fn random_nonsense_does_no_harm() {
    let mut random = Random::new("random_nonsense_does_no_harm", 0x6ad1);
    for turn in 0..6 {
        let start = [0, 1, 700, 3 << 20, (1 << 40) - 5000, 4096][turn];
        let zone = frames(start, start + [5000, 1, 513, 4096, 5000, 2049][turn]);
        let mut buddy = full(zone);
        let mut held: Vec<(Pfn, Order)> = Vec::new();
        for step in 0..4000 {
            let places = [
                0,
                start.wrapping_sub(1),
                start + random.below(zone.nr_pages()),
                zone.end().index(),
                usize::MAX,
                1 << 52,
                random.next() as usize,
            ];
            let pfn = Pfn::new(places[random.below(places.len())]);
            let lens = [0, 1, 2, 511, 512, 1024, 1 << 32, usize::MAX];
            let range = PfnRange::with_len(pfn, lens[random.below(lens.len())]);
            let size = order(u8::try_from(random.below(11)).unwrap());
            let kind = MigrateType::ALL[random.below(MigrateType::COUNT)];
            let is_held = |range: PfnRange| {
                let mut blocks = held.iter();
                blocks
                    .any(|&(pfn, order)| PfnRange::with_len(pfn, order.nr_pages()).overlaps(range))
            };
            match random.below(12) {
                0..=2 => {
                    let mut request = Request::new(kind);
                    if random.below(2) == 0 {
                        request = request.with_cma();
                    }
                    if random.below(3) == 0 {
                        request = request.without_fragmenting().up_to(pfn);
                    }
                    if let Ok(pfn) = buddy.take(size, request) {
                        let block = PfnRange::with_len(pfn, size.nr_pages());
                        assert!(zone.contains_range(block) && !is_held(block));
                        held.push((pfn, size));
                    }
                }
                3..=4 if !held.is_empty() => {
                    let (pfn, order) = held.swap_remove(random.below(held.len()));
                    buddy.put(pfn, order).unwrap();
                }
                5 => {
                    let block = PfnRange::with_len(pfn, size.nr_pages());
                    let before = buddy.nr_free_by_type();
                    if !is_held(block) {
                        buddy.put(pfn, size).unwrap_err();
                        assert_eq!(buddy.nr_free_by_type(), before);
                    }
                }
                6 => {
                    let before = buddy.nr_free_by_type();
                    if !is_held(range) && !range.is_empty() {
                        buddy.add_free_range(range).unwrap_err();
                        buddy.add_cma_range(range).unwrap_err();
                        assert_eq!(buddy.nr_free_by_type(), before);
                    }
                }
                7 => assert_eq!(buddy.set_type(pfn, kind).is_some(), zone.contains(pfn)),
                8 => {
                    if let Ok(contig) = buddy.start_contig(range) {
                        match buddy.finish_contig(contig) {
                            Ok(range) => range.iter().for_each(|pfn| held.push((pfn, Order::ZERO))),
                            Err((contig, busy)) => {
                                assert!(range.contains_range(busy));
                                buddy.undo_contig(contig);
                            }
                        }
                    }
                }
                9 => {
                    buddy.reserve_highatomic(pfn, size, random.next() as usize);
                    let _ = buddy.isolate(range);
                    buddy.undo_isolate(PfnRange::new(Pfn::ZERO, Pfn::new(usize::MAX)));
                    buddy.unreserve_highatomic(kind);
                }
                10 => {
                    let mut refused = 0;
                    let frames = [pfn, pfn, zone.end(), Pfn::new(usize::MAX)];
                    if !is_held(PfnRange::with_len(pfn, 1)) {
                        buddy.put_pages(frames, |_, _| refused += 1);
                        assert_eq!(refused, frames.len());
                    }
                }
                _ => {
                    let _ = buddy.free_block_of(pfn);
                    let _ = buddy.has_free_in(range);
                    let _ = buddy.has_free(size, kind);
                    let _ = buddy.type_of(pfn);
                }
            }
            if step % 200 == 0 {
                buddy.validate().unwrap();
            }
        }
        buddy.undo_isolate(zone);
        for (pfn, order) in held {
            buddy.put(pfn, order).unwrap();
        }
        buddy.validate().unwrap();
        let isolated = buddy.nr_free_pages_of(MigrateType::Isolate);
        assert_eq!(buddy.nr_free_pages() + isolated, zone.nr_pages());
    }
}

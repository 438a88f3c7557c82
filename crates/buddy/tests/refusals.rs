//! What is refused, and what `validate` finds.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{empty, frames, full, map_of, order, pageblocks_of, sorted};
use kmm_buddy::{Buddy, ContigError, FreeBits, FreeError, Pageblocks, Request};
use kmm_frame::{MAX_ORDER, MigrateType, Order, PageFlags, Pfn, PfnRange};
use kmm_host::AllocError;

#[test]
fn double_free_is_refused() {
    let mut buddy = full(frames(0, 64));
    let pfn = buddy.take(order(2), MigrateType::Movable).unwrap();
    buddy.put(pfn, order(2)).unwrap();
    let before = sorted(buddy.free_blocks());
    // It has merged: the free block that it is in begins elsewhere.
    assert_eq!(buddy.put(pfn, order(2)), Err(FreeError::AlreadyFree));
    assert_eq!(buddy.put(pfn + 3, Order::ZERO), Err(FreeError::AlreadyFree));
    assert_eq!(
        buddy.put(Pfn::new(0), order(6)),
        Err(FreeError::AlreadyFree)
    );
    assert_eq!(sorted(buddy.free_blocks()), before);
}

/// A block with one frame free, or with one frame that is not: of every size, wherever the frame lies.
#[test]
fn blocks_that_are_free_in_part_are_refused_whatever_their_size() {
    let range = frames(0, 2048);
    for at in [0, 1, 63, 64, 127, 300, 511, 512, 1023, 1024, 1600, 2047] {
        let (mut one, mut others) = (empty(range, map_of(range)), full(range));
        one.put(Pfn::new(at), Order::ZERO).unwrap();
        others.take_pages(2048, MigrateType::Movable, |_| {});
        others.add_free_range(frames(0, at)).unwrap();
        others.add_free_range(frames(at + 1, 2048)).unwrap();
        for buddy in [&mut one, &mut others] {
            let before = sorted(buddy.free_blocks());
            for o in Order::all() {
                let pfn = Pfn::new(at).align_down(o);
                for pfn in [pfn, pfn.buddy(o)] {
                    if !buddy.has_free_in(PfnRange::with_len(pfn, o.nr_pages())) {
                        continue;
                    }
                    assert_eq!(buddy.put(pfn, o), Err(FreeError::AlreadyFree), "{at} {o}");
                    assert_eq!(sorted(buddy.free_blocks()), before, "{at}: {pfn} {o}");
                }
            }
            buddy.validate().unwrap();
        }
    }
}

#[test]
fn foreign_and_misaligned_frames_are_refused() {
    let mut buddy = full(frames(5, 61));
    let nr_free = buddy.nr_free_pages();
    assert_eq!(
        buddy.put(Pfn::new(4), Order::ZERO),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(
        buddy.put(Pfn::new(61), Order::ZERO),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(
        buddy.put(Pfn::new(4), order(1)),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(
        buddy.put(Pfn::new(60), order(1)),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(buddy.put(Pfn::new(9), order(1)), Err(FreeError::NotAligned));
    let top = Pfn::new(usize::MAX).align_down(MAX_ORDER);
    assert_eq!(buddy.put(top, MAX_ORDER), Err(FreeError::OutsideZone));
    assert_eq!(
        buddy.add_free_range(frames(50, 62)),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(buddy.nr_free_pages(), nr_free);
    buddy.validate().unwrap();
}

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "release builds read no descriptor (A-4)"
)]
fn reserved_frames_are_refused() {
    let map = map_of(frames(0, 32));
    map.page(Pfn::new(17)).set(PageFlags::RESERVED);
    let mut buddy = empty(frames(0, 32), map);
    assert_eq!(
        buddy.add_free_range(frames(0, 32)),
        Err(FreeError::Reserved)
    );
    assert_eq!(buddy.nr_free_pages(), 0);
    buddy.add_free_range(frames(0, 17)).unwrap();
    buddy.add_free_range(frames(18, 32)).unwrap();
    // Release builds do not look at descriptors here.
    if cfg!(debug_assertions) {
        assert_eq!(
            buddy.put(Pfn::new(17), Order::ZERO),
            Err(FreeError::Reserved)
        );
    }
    assert_eq!(buddy.nr_free_pages(), 31);
}

#[test]
fn empty_ranges_change_nothing() {
    let mut buddy = full(frames(0, 8));
    buddy.add_free_range(frames(3, 3)).unwrap();
    buddy.add_free_range(PfnRange::EMPTY).unwrap();
    assert_eq!(buddy.nr_free_pages(), 8);
    let mut none = empty(PfnRange::EMPTY, map_of(frames(0, 8)));
    assert_eq!(
        none.take(Order::ZERO, MigrateType::Movable),
        Err(AllocError::OutOfMemory)
    );
    assert_eq!(
        none.put(Pfn::ZERO, Order::ZERO),
        Err(FreeError::OutsideZone)
    );
    none.validate().unwrap();
}

#[test]
fn zones_end_where_descriptors_end() {
    let mut buddy = empty(frames(0, 1 << 40), map_of(frames(16, 48)));
    assert_eq!(buddy.range(), frames(16, 48));
    buddy.add_free_range(frames(16, 48)).unwrap();
    assert_eq!(sorted(buddy.free_blocks()), [(16, 4), (32, 4)]);
    assert_eq!(
        buddy.put(Pfn::new(0), order(4)),
        Err(FreeError::OutsideZone)
    );
}

#[test]
fn blocks_never_merge_across_two_zones_of_one_map() {
    let map = map_of(frames(0, 64));
    let mut low = empty(frames(0, 32), map);
    let mut high = empty(frames(32, 64), map);
    low.add_free_range(frames(0, 32)).unwrap();
    high.add_free_range(frames(32, 64)).unwrap();
    assert_eq!(sorted(low.free_blocks()), [(0, 5)]);
    assert_eq!(sorted(high.free_blocks()), [(32, 5)]);
    low.validate().unwrap();
    high.validate().unwrap();
}

#[test]
fn ranges_that_no_device_can_lend_are_refused() {
    let mut buddy = empty(frames(512, 2000), map_of(frames(512, 2000)));
    let add = |buddy: &mut Buddy, start, end| buddy.add_cma_range(frames(start, end));
    assert_eq!(add(&mut buddy, 520, 1024), Err(FreeError::NotAligned));
    assert_eq!(add(&mut buddy, 512, 1000), Err(FreeError::NotAligned));
    assert_eq!(add(&mut buddy, 1536, 2048), Err(FreeError::OutsideZone));
    assert_eq!(add(&mut buddy, 0, 1024), Err(FreeError::OutsideZone));
    assert_eq!(add(&mut buddy, 1024, 1024), Ok(()));
    assert_eq!(add(&mut buddy, 1024, 1536), Ok(()));
    assert_eq!(add(&mut buddy, 1024, 1536), Err(FreeError::AlreadyFree));
    assert_eq!(buddy.nr_free_cma(), 512);
    assert_eq!(buddy.type_of(Pfn::new(512)), Some(MigrateType::Movable));
    // Nobody else gets it.
    assert!(!buddy.has_free(Order::ZERO, MigrateType::Movable));
    let request = Request::new(MigrateType::Movable).with_cma();
    assert_eq!(buddy.take(Order::PAGEBLOCK, request), Ok(Pfn::new(1024)));
}

#[test]
fn ranges_that_cannot_be_isolated_are_refused() {
    let mut buddy = full(frames(100, 3000));
    let start = |buddy: &mut Buddy, start, end| buddy.start_contig(frames(start, end)).map(drop);
    assert_eq!(start(&mut buddy, 600, 600), Err(ContigError::Empty));
    assert_eq!(start(&mut buddy, 99, 600), Err(ContigError::OutsideZone));
    assert_eq!(start(&mut buddy, 600, 3001), Err(ContigError::OutsideZone));
    let top = PfnRange::with_len(Pfn::new(usize::MAX), 2);
    assert!(buddy.start_contig(top).is_err());
    let contig = buddy.start_contig(frames(600, 700)).unwrap();
    assert_eq!(start(&mut buddy, 1000, 1100), Err(ContigError::Busy));
    assert_eq!(start(&mut buddy, 100, 513), Err(ContigError::Busy));
    assert_eq!(buddy.nr_free_pages(), 2900 - 512);
    buddy.undo_contig(contig);
    assert_eq!(buddy.nr_free_pages(), 2900);
    assert_eq!(buddy.set_type(Pfn::new(99), MigrateType::Cma), None);
    assert_eq!(buddy.set_type(Pfn::new(3000), MigrateType::Cma), None);
    buddy.undo_isolate(PfnRange::new(Pfn::ZERO, Pfn::new(usize::MAX)));
    buddy.validate().unwrap();
}

#[test]
fn pageblocks_of_other_frames_are_refused() {
    let range = frames(512, 2048);
    let make = |blocks| {
        let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range)];
        Buddy::new(range, map_of(range), storage.leak(), blocks)
    };
    assert!(make(Pageblocks::EMPTY).is_none());
    assert!(make(pageblocks_of(frames(512, 2047))).is_none());
    assert!(make(pageblocks_of(frames(513, 2048))).is_none());
    assert!(make(pageblocks_of(frames(0, 4096))).is_some());
}

#[test]
fn splitting_keeps_the_low_half() {
    let mut buddy = full(frames(0, 1024));
    assert_eq!(buddy.take(Order::ZERO, MigrateType::Movable), Ok(Pfn::ZERO));
    let halves: Vec<(usize, u8)> = (0..10).map(|n| (1 << n, n)).collect();
    assert_eq!(sorted(buddy.free_blocks()), halves);
}

#[test]
fn the_largest_blocks_do_not_merge() {
    let mut buddy = full(frames(0, 4096));
    assert_eq!(buddy.nr_free(MAX_ORDER), 4);
    let pfn = buddy.take(MAX_ORDER, MigrateType::Movable).unwrap();
    buddy.put(pfn, MAX_ORDER).unwrap();
    assert_eq!(buddy.nr_free(MAX_ORDER), 4);
}

#[test]
fn free_block_of_finds_the_block_around_a_frame() {
    let mut buddy = full(frames(3, 40));
    let held = buddy.take(order(2), MigrateType::Movable).unwrap();
    for pfn in (0..48).map(Pfn::new) {
        let around = buddy.free_blocks().find(|b| b.range().contains(pfn));
        assert_eq!(buddy.free_block_of(pfn), around, "{pfn}");
    }
    assert_eq!(buddy.free_block_of(held), None);
}

#[test]
fn too_little_storage_is_refused() {
    let make = |range, len| {
        let storage = vec![FreeBits::EMPTY; len];
        Buddy::new(range, map_of(range), storage.leak(), pageblocks_of(range))
    };
    for range in [frames(0, 1), frames(1023, 1025), frames(500, 200_000)] {
        let enough = Buddy::storage_for(range);
        assert!(make(range, enough - 1).is_none());
        assert!(make(range, enough).is_some());
    }
    assert_eq!(Buddy::storage_for(PfnRange::EMPTY), 0);
    assert!(make(PfnRange::EMPTY, 0).is_some());
    // For a pageblock 64 bytes and its state, and 12 bytes for the trees: 0.004 % of the memory.
    assert_eq!(size_of::<FreeBits>(), 128);
    assert_eq!(
        Buddy::storage_for(frames(0, 1 << 18)),
        256 + 32 + 6 * (8 + 1)
    );
}

//! What is refused, and what `validate` finds.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{empty, frames, full, map_of, order, pageblocks_of, sorted};
use kmm_buddy::{Buddy, FreeBits, FreeError};
use kmm_frame::{MAX_ORDER, MigrateType, Order, PageFlags, Pfn, PfnRange};
use kmm_host::AllocError;

#[test]
fn double_free_is_refused() {
    let mut buddy = full(frames(0, 64));
    let pfn = buddy.take(order(2), MigrateType::Movable).unwrap();
    buddy.put(pfn, order(2)).unwrap();
    let before = sorted(buddy.free_blocks());
    // It has merged: its own descriptor no longer says that it is free.
    assert_eq!(buddy.put(pfn, order(2)), Err(FreeError::AlreadyFree));
    assert_eq!(buddy.put(pfn + 3, Order::ZERO), Err(FreeError::AlreadyFree));
    assert_eq!(
        buddy.put(Pfn::new(0), order(6)),
        Err(FreeError::AlreadyFree)
    );
    assert_eq!(sorted(buddy.free_blocks()), before);
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

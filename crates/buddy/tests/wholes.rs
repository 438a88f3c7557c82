//! Several pageblocks at once.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{frames, full, order};
use kmm_buddy::{Buddy, FreeError, Request};
use kmm_frame::{MigrateType, Order, Pfn};

use MigrateType::{Cma, Isolate, Movable, Reclaimable, Unmovable};

fn take(buddy: &mut Buddy, most: usize, request: impl Into<Request>) -> Vec<usize> {
    let mut blocks = Vec::new();
    let count = buddy.take_pageblocks(most, request, |pfn| {
        assert!(pfn.is_aligned(Order::PAGEBLOCK));
        blocks.push(pfn.index() / 512);
    });
    assert_eq!(count, blocks.len());
    buddy.validate().unwrap();
    blocks
}

fn put(buddy: &mut Buddy, block: usize) {
    buddy.put(Pfn::new(block * 512), Order::PAGEBLOCK).unwrap();
}

#[test]
fn pageblocks_alone_come_before_twins() {
    let mut buddy = full(frames(0, 64 * 512));
    assert_eq!(take(&mut buddy, 0, Movable), []);
    assert_eq!(take(&mut buddy, 8, Movable), [0, 1, 2, 3, 4, 5, 6, 7]);
    put(&mut buddy, 1);
    put(&mut buddy, 6);
    assert_eq!(take(&mut buddy, 5, Movable), [1, 6, 8, 9, 10]);
    // The twin of the last is alone.
    assert_eq!(take(&mut buddy, 1, Movable), [11]);
    assert_eq!(take(&mut buddy, 1, Movable), [12]);
    assert_eq!(buddy.nr_free_pages(), 51 * 512);
    let blocks = [0, 5, 12, 11].map(|block| Pfn::new(block * 512));
    let refuse = |pfn, why| panic!("{pfn:?} {why}");
    buddy.put_blocks(Order::PAGEBLOCK, blocks, refuse);
    assert_eq!(buddy.nr_free_pages(), 55 * 512);
    assert_eq!(buddy.nr_free(order(10)), 25 + 1);
    buddy.validate().unwrap();
}

#[test]
fn one_at_a_time_once_few_are_whole() {
    // Four of 64 are few.
    let mut buddy = full(frames(0, 64 * 512));
    assert_eq!(take(&mut buddy, 56, Movable).len(), 56);
    assert_eq!(take(&mut buddy, 8, Movable), [56, 57, 58, 59]);
    for block in 60..64 {
        assert_eq!(take(&mut buddy, 8, Movable), [block]);
    }
    assert_eq!(take(&mut buddy, 8, Movable), []);
}

#[test]
fn pageblocks_of_other_types_come_one_at_a_time() {
    let mut buddy = full(frames(0, 64 * 512));
    for block in [4, 9] {
        buddy.set_type(Pfn::new(block * 512), Unmovable);
    }
    assert_eq!(take(&mut buddy, 4, Unmovable), [4, 9]);
    assert_eq!(take(&mut buddy, 4, Isolate), []);
    let changes = buddy.nr_type_changes();
    assert_eq!(take(&mut buddy, 4, Reclaimable), [0]);
    assert_eq!(buddy.nr_type_changes(), changes + 2, "and its twin");
    assert_eq!(take(&mut buddy, 4, Reclaimable), [1]);
}

#[test]
fn pageblocks_that_a_device_lends_come_one_at_a_time_while_they_are_most() {
    let mut buddy = common::empty(frames(0, 64 * 512), common::map_of(frames(0, 64 * 512)));
    buddy.add_free_range(frames(0, 31 * 512)).unwrap();
    buddy.add_cma_range(frames(31 * 512, 64 * 512)).unwrap();
    let request = Request::new(Movable).with_cma();
    // 33 of 64 are lent.
    assert_eq!(take(&mut buddy, 4, request), [31]);
    // As many as not, and one more: only without these.
    assert_eq!(buddy.nr_free_pages_of(Cma), 32 * 512);
    assert_eq!(take(&mut buddy, 4, request), [32]);
    assert_eq!(take(&mut buddy, 4, request), [30, 0, 1, 2]);
    assert_eq!(take(&mut buddy, 4, Movable), [3, 4, 5, 6]);
}

#[test]
fn a_pageblock_that_is_free_already_is_refused_in_a_batch() {
    let mut buddy = full(frames(0, 64 * 512));
    assert_eq!(take(&mut buddy, 2, Movable), [0, 1]);
    let mut refused = Vec::new();
    let blocks = [0, 0, 1, 2, 64].map(|block| Pfn::new(block * 512));
    let unaligned = Pfn::new(256);
    buddy.put_blocks(
        Order::PAGEBLOCK,
        blocks.into_iter().chain([unaligned]),
        |pfn, why| refused.push((pfn.index(), why)),
    );
    let expected = [
        (0, FreeError::AlreadyFree),
        (1024, FreeError::AlreadyFree),
        (64 * 512, FreeError::OutsideZone),
        (256, FreeError::NotAligned),
    ];
    assert_eq!(refused, expected);
    buddy.validate().unwrap();
}

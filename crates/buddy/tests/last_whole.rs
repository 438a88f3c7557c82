//! When few pageblocks are whole: who takes what instead.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{frames, full, order};
use kmm_buddy::{Buddy, Request};
use kmm_frame::{MigrateType, Order, Pfn};
use kmm_host::AllocError;

use MigrateType::{Movable, Reclaimable, Unmovable};

/// Of so many pageblocks two are few.
const NR_PAGEBLOCKS: usize = 32;
const NR_FRAMES: usize = NR_PAGEBLOCKS * 512;
const FEW: usize = 2;

/// Movable requests have taken whole pageblocks until this many are left.
fn with_whole(count: usize) -> Buddy {
    let mut buddy = full(frames(0, NR_FRAMES));
    while nr_whole(&buddy) > count {
        buddy.take(Order::PAGEBLOCK, Movable).unwrap();
    }
    buddy
}

fn nr_whole(buddy: &Buddy) -> usize {
    buddy.nr_free(Order::PAGEBLOCK) + 2 * buddy.nr_free(order(10))
}

/// Gives back the first frames of a pageblock that was taken.
fn free_some(buddy: &mut Buddy, pageblock: usize, count: usize) {
    for nr in 0..count {
        let pfn = Pfn::new(pageblock * 512 + nr);
        buddy.put(pfn, Order::ZERO).unwrap();
    }
}

fn pageblock_of(taken: Result<Pfn, AllocError>) -> usize {
    taken.unwrap().index() / 512
}

#[test]
fn movable_pages_go_among_others_before_the_last_whole_pageblocks_go() {
    for (whole, goes_among_others) in [(FEW + 1, false), (FEW, true), (1, true)] {
        let mut buddy = with_whole(whole);
        buddy.set_type(Pfn::new(4 * 512), Unmovable);
        buddy.set_type(Pfn::new(6 * 512), Reclaimable);
        free_some(&mut buddy, 4, 1);
        free_some(&mut buddy, 6, 1);
        let mut pages = Vec::new();
        assert_eq!(buddy.take_pages(2, Movable, |pfn| pages.push(pfn)), 2);
        pages.sort_unstable();
        let among_others = pages == [Pfn::new(4 * 512), Pfn::new(6 * 512)];
        assert_eq!(among_others, goes_among_others, "{whole} whole");
        let left = whole - usize::from(!goes_among_others);
        assert_eq!(nr_whole(&buddy), left);
        assert_eq!(buddy.type_of(Pfn::new(4 * 512)), Some(Unmovable));
        assert_eq!(buddy.type_of(Pfn::new(6 * 512)), Some(Reclaimable));
        // Nothing else is left then.
        assert!(pageblock_of(buddy.take(Order::ZERO, Movable)) >= NR_PAGEBLOCKS - whole);
        buddy.validate().unwrap();
    }
}

#[test]
fn pages_that_stay_claim_the_emptiest_movable_pageblock() {
    for kind in [Unmovable, Reclaimable] {
        let mut buddy = with_whole(FEW);
        for (pageblock, count) in [(3, 100), (5, 200), (9, 150)] {
            free_some(&mut buddy, pageblock, count);
        }
        assert_eq!(pageblock_of(buddy.take(order(1), kind)), 5);
        assert_eq!(buddy.type_of(Pfn::new(5 * 512)), Some(kind));
        assert_eq!(nr_whole(&buddy), FEW);
        // One that has enough, but not for a block so large, stays as it is.
        assert!(pageblock_of(buddy.take(order(8), kind)) >= NR_PAGEBLOCKS - FEW);
        assert_eq!(buddy.type_of(Pfn::new(3 * 512)), Some(Movable));
        buddy.validate().unwrap();
    }
}

#[test]
fn a_pageblock_with_hardly_anything_free_is_not_claimed() {
    for (count, is_claimed) in [(63, false), (64, true)] {
        let mut buddy = with_whole(FEW);
        free_some(&mut buddy, 3, count);
        let pageblock = pageblock_of(buddy.take(Order::ZERO, Unmovable));
        assert_eq!(pageblock == 3, is_claimed, "{count} free");
    }
}

#[test]
fn of_a_large_zone_the_pageblocks_at_its_end_come_first() {
    const MANY: usize = 200;
    let mut buddy = full(frames(0, MANY * 512));
    while nr_whole(&buddy) > 0 {
        buddy.take(Order::PAGEBLOCK, Movable).unwrap();
    }
    for (pageblock, count) in [(10, 255), (100, 254), (190, 140), (199, 130)] {
        free_some(&mut buddy, pageblock, count);
    }
    // Of those whose largest block is as large, the last of 64 aligned ones are looked at.
    for expected in [199, 190, 100, 10] {
        let block = buddy.take(order(7), Unmovable);
        assert_eq!(pageblock_of(block), expected);
    }
    buddy.validate().unwrap();
}

#[test]
fn who_is_sparing_gets_fragments_only_while_few_are_whole() {
    let request = Request::new(Movable).sparing();
    let mut buddy = with_whole(FEW);
    assert_eq!(
        buddy.take(Order::ZERO, request),
        Err(AllocError::OutOfMemory)
    );
    assert_eq!(buddy.take_pages(3, request, |_| {}), 0);
    assert_eq!(nr_whole(&buddy), FEW);
    let mut buddy = with_whole(FEW + 1);
    assert_eq!(buddy.take_pages(3, request, |_| {}), 3);
    // Huge pages are what they are kept for.
    let mut buddy = with_whole(FEW);
    buddy.take(Order::PAGEBLOCK, request).unwrap();
}

#[test]
fn a_batch_ends_in_front_of_what_lies_too_far_up() {
    let take = |buddy: &mut Buddy, end: usize| {
        let mut pages = Vec::new();
        let request = Request::new(Movable).up_to(Pfn::new(end));
        buddy.take_pages(8, request, |pfn| pages.push(pfn.index() / 512));
        pages
    };
    for (end, expected) in [
        (3 * 512, vec![3]),
        (5 * 512, vec![3]),
        (5 * 512 + 1, vec![3, 5, 5]),
        (NR_FRAMES, vec![3, 5, 5, 28, 28, 28, 28, 28]),
    ] {
        let mut buddy = with_whole(4);
        free_some(&mut buddy, 3, 1);
        free_some(&mut buddy, 5, 2);
        assert_eq!(take(&mut buddy, end), expected, "up to {end}");
    }
    // Where there is nothing in front of it, a batch is one like others.
    let mut buddy = with_whole(4);
    assert_eq!(take(&mut buddy, 512).len(), 8);
}

#[test]
fn blocks_in_a_row_spare_the_last_whole_pageblocks_as_one_by_one() {
    // So many are whole, the lowest of them for whom it may be; others have fragments.
    let make = |whole: usize, lowest: MigrateType| {
        let mut buddy = with_whole(whole);
        buddy.set_type(Pfn::new((NR_PAGEBLOCKS - whole) * 512), lowest);
        for (pageblock, kind) in [(4, Unmovable), (6, Reclaimable)] {
            buddy.set_type(Pfn::new(pageblock * 512), kind);
            free_some(&mut buddy, pageblock, 300);
        }
        buddy
    };
    for (whole, n, nr_frames) in (1..=5).flat_map(|whole| {
        let orders = [1, 4, 8, 9].into_iter();
        orders.flat_map(move |n| [512, 1024, 2048].map(|frames| (whole, n, frames)))
    }) {
        for lowest in [Movable, Unmovable] {
            let (mut at_once, mut alone) = (make(whole, lowest), make(whole, lowest));
            let mut blocks = Vec::new();
            at_once.take_blocks(order(n), nr_frames >> n, Movable, |pfn| blocks.push(pfn));
            let expected = (0..nr_frames >> n).map_while(|_| alone.take(order(n), Movable).ok());
            let expected: Vec<Pfn> = expected.collect();
            assert_eq!(blocks, expected, "order {n}, {whole} whole");
            assert_eq!(nr_whole(&at_once), nr_whole(&alone));
            at_once.validate().unwrap();
        }
    }
}

#[test]
fn a_sparing_request_for_a_huge_page_gets_that_of_another_type() {
    let mut buddy = with_whole(FEW);
    for nr in 1..=FEW {
        buddy.set_type(Pfn::new((NR_PAGEBLOCKS - nr) * 512), Unmovable);
    }
    let taken = buddy.take(Order::PAGEBLOCK, Request::new(Movable).sparing());
    assert_eq!(pageblock_of(taken), NR_PAGEBLOCKS - FEW);
}

#[test]
fn a_batch_of_lent_frames_is_as_long_as_asked_for() {
    let mut buddy = full(frames(0, 4 * 512));
    for nr in 0..4 {
        buddy.set_type(Pfn::new(nr * 512), MigrateType::Cma);
    }
    let mut pages = Vec::new();
    let request = Request::new(Movable).with_cma();
    assert_eq!(buddy.take_pages(1300, request, |pfn| pages.push(pfn)), 1300);
    pages.dedup();
    assert_eq!(pages.len(), 1300);
    assert_eq!(buddy.nr_free_cma(), 4 * 512 - 1300);
}

//! Owners that leave the mark of free blocks on pages of their own.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::{Random, frames, full, map_of, sorted};
use kmm_buddy::{Broken, Buddy, FreeError};
use kmm_frame::{Order, PageFlags, Pfn, PfnRange};

#[test]
fn a_marked_page_of_an_owner_is_not_merged() {
    let range = frames(0, 16);
    let map = map_of(range);
    let mut buddy = Buddy::new(range, map);
    buddy.add_free_range(range).unwrap();
    let (low, high) = (
        buddy.take(Order::ZERO).unwrap(),
        buddy.take(Order::ZERO).unwrap(),
    );
    assert_eq!((low, high), (Pfn::new(0), Pfn::new(1)));
    // As the free block 1 of order 0 would look, down to links that lead into the list of another.
    map.page(high).set(PageFlags::BUDDY);
    map.page(high).set_private(0);
    for prev in [
        None,
        Some(Pfn::new(8)),
        Some(Pfn::new(2)),
        Some(Pfn::new(usize::MAX)),
    ] {
        map.page(high).set_lru_prev(prev);
        buddy.put(low, Order::ZERO).unwrap();
        assert_eq!(
            sorted(buddy.free_blocks()),
            [(0, 0), (2, 1), (4, 2), (8, 3)]
        );
        assert_eq!(buddy.free_block_of(high), None);
        assert_eq!(buddy.validate(), Err(Broken::Unlisted(high)));
        // It is not taken back with the mark on it.
        assert_eq!(buddy.put(high, Order::ZERO), Err(FreeError::AlreadyFree));
        assert_eq!(buddy.take(Order::ZERO), Ok(low));
    }
    // The owner chains pages of its own: the one before does know it, but is on no list either.
    let chained = buddy.take(Order::ZERO).unwrap();
    map.page(chained).set_lru_next(Some(high));
    map.page(high).set_lru_prev(Some(chained));
    buddy.put(low, Order::ZERO).unwrap();
    assert_eq!(buddy.free_block_of(high), None);
    buddy.put(chained, Order::ZERO).unwrap();
    map.page(high).clear(PageFlags::BUDDY);
    map.page(high).set_lru_prev(None);
    buddy.put(high, Order::ZERO).unwrap();
    assert_eq!(sorted(buddy.free_blocks()), [(0, 4)]);
    buddy.validate().unwrap();
}

/// Owners mark pages at random while others come and go: no frame is ever held twice, none is lost.
#[test]
fn forged_marks_hand_out_no_frame_twice() {
    let mut random = Random::new("forged_marks_hand_out_no_frame_twice", 0x77);
    for _ in 0..40 {
        let range = frames(3, 150);
        let map = map_of(range);
        let mut buddy = Buddy::new(range, map);
        buddy.add_free_range(range).unwrap();
        let mut held: BTreeMap<Pfn, Order> = BTreeMap::new();
        let inside = |pfn: Pfn, order: Order| PfnRange::with_len(pfn, order.nr_pages());
        for _ in 0..2_000 {
            if random.below(2) == 0 {
                let order = random.order(4);
                if let Ok(pfn) = buddy.take(order) {
                    let taken = inside(pfn, order);
                    assert!(!held.iter().any(|(&p, &o)| inside(p, o).overlaps(taken)));
                    held.insert(pfn, order);
                    // Any frame of it, with any order on it and any links.
                    if random.below(3) == 0 {
                        let page = map.page(pfn + random.below(order.nr_pages()));
                        page.set(PageFlags::BUDDY);
                        page.set_private(random.next() % 5);
                        page.set_lru_prev(
                            (random.below(2) == 0).then(|| Pfn::new(random.below(160))),
                        );
                        page.set_lru_next(
                            (random.below(2) == 0).then(|| Pfn::new(random.below(160))),
                        );
                    }
                }
            } else if let Some((&pfn, &order)) = held.iter().nth(random.below(held.len().max(1))) {
                for frame in inside(pfn, order).iter() {
                    map.page(frame).clear(PageFlags::BUDDY);
                }
                assert_eq!(buddy.put(pfn, order), Ok(()));
                held.remove(&pfn);
            }
            let out: usize = held.values().map(|order| order.nr_pages()).sum();
            assert_eq!(buddy.nr_free_pages() + out, range.nr_pages());
            let listed: usize = buddy.free_blocks().map(|b| b.range().nr_pages()).sum();
            assert_eq!(listed, buddy.nr_free_pages());
        }
        for (pfn, order) in held {
            for frame in inside(pfn, order).iter() {
                map.page(frame).clear(PageFlags::BUDDY);
            }
            buddy.put(pfn, order).unwrap();
        }
        buddy.validate().unwrap();
        assert_eq!(
            sorted(buddy.free_blocks()),
            sorted(full(range).free_blocks())
        );
    }
}

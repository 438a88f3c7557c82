//! What owners write into descriptors, and what the allocator makes of it: nothing.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::{Random, empty, frames, full, map_of, sorted};
use kmm_frame::{MemMap, MigrateType, Order, PageFlags, Pfn, PfnRange};

/// Every word of a descriptor but the reserved flag, which the allocator reads.
fn words(map: MemMap, pfn: Pfn) -> (PageFlags, u64, u64, i32, Option<Pfn>, Option<Pfn>) {
    let page = map.page(pfn);
    (
        page.flags(),
        page.private(),
        page.mapping(),
        page.ref_count(),
        page.lru_prev(),
        page.lru_next(),
    )
}

#[test]
fn descriptors_are_left_alone() {
    let range = frames(0, 2048);
    let map = map_of(range);
    let mut buddy = empty(range, map);
    for pfn in range.iter() {
        let page = map.page(pfn);
        page.set(PageFlags::DIRTY | PageFlags::BUDDY);
        page.set_private(pfn.index() as u64);
        page.set_lru_next(Some(pfn));
        page.set_ref_count(3);
    }
    let before: Vec<_> = range.iter().map(|pfn| words(map, pfn)).collect();
    buddy.add_free_range(range).unwrap();
    let order = Order::new(3).unwrap();
    let held: Vec<Pfn> = (0..100)
        .map(|_| buddy.take(order, MigrateType::Movable).unwrap())
        .collect();
    let mut pages = Vec::new();
    assert_eq!(
        buddy.take_pages(700, MigrateType::Movable, |pfn| pages.push(pfn)),
        700
    );
    held.iter().for_each(|&pfn| buddy.put(pfn, order).unwrap());
    pages
        .iter()
        .for_each(|&pfn| buddy.put(pfn, Order::ZERO).unwrap());
    assert_eq!(sorted(buddy.free_blocks()), [(0, 10), (1024, 10)]);
    assert_eq!(
        before,
        range.iter().map(|pfn| words(map, pfn)).collect::<Vec<_>>()
    );
}

/// Owners mark pages at random while others come and go: no frame is ever held twice, none is lost.
#[test]
fn forged_marks_hand_out_no_frame_twice() {
    let mut random = Random::new("forged_marks_hand_out_no_frame_twice", 0x77);
    for _ in 0..40 {
        let range = frames(3, 150);
        let map = map_of(range);
        let mut buddy = empty(range, map);
        buddy.add_free_range(range).unwrap();
        let mut held: BTreeMap<Pfn, Order> = BTreeMap::new();
        let inside = |pfn: Pfn, order: Order| PfnRange::with_len(pfn, order.nr_pages());
        for _ in 0..2_000 {
            if random.below(2) == 0 {
                let order = random.order(4);
                if let Ok(pfn) = buddy.take(order, MigrateType::Movable) {
                    let taken = inside(pfn, order);
                    assert!(!held.iter().any(|(&p, &o)| inside(p, o).overlaps(taken)));
                    held.insert(pfn, order);
                    // Any frame of it, with any order on it and any links.
                    if random.below(3) == 0 {
                        let page = map.page(pfn + random.below(order.nr_pages()));
                        page.set(PageFlags::BUDDY);
                        page.set_private(random.next() % 5);
                        let link = (random.below(2) == 0).then(|| Pfn::new(random.below(160)));
                        page.set_lru_prev(link);
                        page.set_lru_next(link);
                    }
                }
            } else if let Some((&pfn, &order)) = held.iter().nth(random.below(held.len().max(1))) {
                assert_eq!(buddy.put(pfn, order), Ok(()));
                held.remove(&pfn);
            }
            let out: usize = held.values().map(|order| order.nr_pages()).sum();
            assert_eq!(buddy.nr_free_pages() + out, range.nr_pages());
            let free: usize = buddy.free_blocks().map(|b| b.range().nr_pages()).sum();
            assert_eq!(free, buddy.nr_free_pages());
        }
        for (pfn, order) in held {
            buddy.put(pfn, order).unwrap();
        }
        buddy.validate().unwrap();
        assert_eq!(
            sorted(buddy.free_blocks()),
            sorted(full(range).free_blocks())
        );
    }
}

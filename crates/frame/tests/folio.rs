//! Compound pages and folios, against an oracle that remembers which block each frame is in.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "small numbers of a test"
)]

mod common;

use common::Random;
use kmm_frame::{
    CompoundError, Folio, Lost, MAX_ORDER, MemMap, NotAFolio, Order, Page, PageFlags, Pfn,
    PfnRange, SplitError,
};

fn map(start: usize, nr_pages: usize) -> MemMap {
    let pages: Vec<Page> = (0..nr_pages).map(|_| Page::new()).collect();
    MemMap::new(PfnRange::with_len(Pfn::new(start), nr_pages), pages.leak()).unwrap()
}

fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

/// What the allocator does for `__GFP_COMP`, with one reference.
fn compound(map: &MemMap, pfn: usize, n: u8) -> Folio {
    let pfn = Pfn::new(pfn);
    map.prep_compound_page(pfn, order(n));
    map.page(pfn).set_ref_count(1);
    map.folio(pfn).unwrap()
}

/// The words of a descriptor.
#[expect(unsafe_code, reason = "a descriptor is eight words")]
fn words(page: &Page) -> [u64; 8] {
    // SAFETY: nobody writes them now.
    unsafe { core::ptr::from_ref(page).cast::<[u64; 8]>().read() }
}

#[test]
fn a_block_has_one_head_and_its_tails_are_never_written() {
    for n in 1..=10 {
        let map = map(1024, 4096);
        let folio = compound(&map, 2048, n);
        assert_eq!((folio.order(), folio.nr_pages()), (order(n), 1 << n));
        assert_eq!(folio.size_bytes(), 4096 << n);
        assert_eq!(folio.range(), PfnRange::with_len(Pfn::new(2048), 1 << n));
        assert!(folio.is_large() && folio.is_head());
        for pfn in map.range().iter() {
            let is_in = folio.range().contains(pfn);
            let is_tail = is_in && pfn != folio.pfn();
            assert_eq!(map.is_tail(pfn), is_tail, "{pfn} of order {n}");
            assert_eq!(map.folio(pfn) == Some(folio), is_in);
            let expected = if is_in { folio.pfn() } else { pfn };
            assert_eq!(map.compound_head(pfn), expected);
            assert_eq!(map.page(pfn).is_head(), pfn == folio.pfn());
            if pfn != folio.pfn() {
                assert_eq!(words(map.page(pfn)), [0; 8], "{pfn} was written");
            }
        }
        assert!(folio.put_and_test());
        assert_eq!(map.destroy_compound_page(folio.pfn(), order(n)), Ok(()));
        let untouched = map.range().iter().all(|pfn| words(map.page(pfn)) == [0; 8]);
        assert!(untouched, "order {n} left something");
    }
}

#[test]
fn no_folio_is_made_of_a_tail() {
    let map = map(0, 64);
    let folio = compound(&map, 16, 3);
    for pfn in 17..24 {
        assert_eq!(Folio::from_head(&map, Pfn::new(pfn)), Err(NotAFolio));
    }
    assert_eq!(Folio::from_head(&map, Pfn::new(16)), Ok(folio));
    let single = Folio::from_head(&map, Pfn::new(24)).unwrap();
    assert_eq!((single.order(), single.is_large()), (Order::ZERO, false));
    assert_eq!(
        single.page() as *const _,
        map.page(Pfn::new(24)) as *const _
    );
    assert_eq!(Folio::from_head(&map, Pfn::new(64)), Err(NotAFolio));
    assert_eq!(map.folio(Pfn::new(usize::MAX)), None);
}

#[test]
fn flags_and_counts_of_any_page_are_the_heads() {
    let map = map(0, 64);
    let folio = compound(&map, 32, 4);
    let (tail, other) = (Pfn::new(45), Pfn::new(33));
    map.folio(tail).unwrap().set_dirty();
    assert!(map.folio(other).unwrap().is_dirty() && map.page(Pfn::new(32)).is_dirty());
    assert!(!map.page(tail).is_dirty(), "a tail has no flags");
    assert!(map.folio(tail).unwrap().try_lock());
    assert!(!map.folio(other).unwrap().try_lock());
    assert_eq!(
        folio.flags(),
        PageFlags::HEAD | PageFlags::DIRTY | PageFlags::LOCKED
    );
    map.get_page(tail);
    map.get_page(other);
    assert_eq!((map.page_count(tail), folio.ref_count()), (3, 3));
    assert_eq!(map.page(tail).ref_count(), 0);
    assert_eq!(map.put_page(other), None);
    assert_eq!(map.put_page(Pfn::new(32)), None);
    assert_eq!(
        map.put_page(tail),
        Some(folio),
        "the last user gets the whole"
    );
    assert_eq!(map.page_count(tail), 0);
}

#[test]
fn a_single_page_counts_for_itself() {
    let map = map(0, 8);
    let pfn = Pfn::new(5);
    map.page(pfn).set_ref_count(1);
    map.get_page(pfn);
    assert_eq!((map.page_count(pfn), map.page_count(Pfn::new(4))), (2, 0));
    assert_eq!(map.put_page(pfn), None);
    assert_eq!(map.put_page(pfn).map(|folio| folio.pfn()), Some(pfn));
}

#[test]
fn entries_of_a_page_and_of_the_whole_are_counted_apart() {
    let map = map(0, 64);
    let folio = compound(&map, 0, 5);
    map.page(Pfn::new(7)).inc_map_count();
    folio.inc_entire_mapcount(&map);
    folio.inc_entire_mapcount(&map);
    assert_eq!(folio.entire_mapcount(&map), 2);
    assert_eq!(folio.owner_word(), 0, "the head's words are its owner's");
    assert_eq!(map.page_mapcount(Pfn::new(7)), 3);
    assert_eq!(map.page_mapcount(Pfn::new(8)), 2);
    assert_eq!(map.page_mapcount(Pfn::new(40)), 0);
    assert_eq!(folio.mapcount(&map), 3);
    assert!(!folio.dec_entire_mapcount(&map));
    assert!(folio.dec_entire_mapcount(&map));
    assert!(map.page(Pfn::new(7)).dec_map_count());
    assert_eq!(folio.mapcount(&map), 0);
    assert_eq!(
        words(map.page(Pfn::new(1))),
        [0; 8],
        "the second page is as it was"
    );
}

#[test]
fn wrong_orders_are_told() {
    let map = map(0, 64);
    compound(&map, 8, 3);
    let destroy = |pfn, n| map.destroy_compound_page(Pfn::new(pfn), order(n));
    assert_eq!(destroy(8, 2), Err(CompoundError::WrongOrder(order(3))));
    assert_eq!(destroy(8, 0), Err(CompoundError::WrongOrder(order(3))));
    assert_eq!(destroy(12, 2), Err(CompoundError::NotAHead));
    assert_eq!(destroy(16, 4), Err(CompoundError::NotAHead));
    assert_eq!(destroy(64, 0), Err(CompoundError::NotAHead));
    assert_eq!(destroy(16, 0), Ok(()), "a single page is no compound page");
    assert_eq!(map.folio(Pfn::new(12)).unwrap().order(), order(3));
    assert_eq!(destroy(8, 3), Ok(()));
    assert!(!map.is_tail(Pfn::new(12)));
    map.prep_compound_page(Pfn::new(5), Order::ZERO);
    assert!(!map.page(Pfn::new(5)).is_head());
}

#[test]
fn a_block_that_is_not_compound_becomes_single_pages() {
    let map = map(0, 64);
    map.page(Pfn::new(8)).set_ref_count(1);
    assert_eq!(map.split_page(Pfn::new(8), order(3)), Ok(()));
    for pfn in 0..64 {
        let expected = i32::from((8..16).contains(&pfn));
        assert_eq!(map.page_count(Pfn::new(pfn)), expected, "{pfn}");
    }
    compound(&map, 32, 2);
    let split = |pfn, n| map.split_page(Pfn::new(pfn), order(n));
    assert_eq!(split(32, 2), Err(CompoundError::IsCompound));
    assert_eq!(split(34, 1), Err(CompoundError::IsCompound));
    assert_eq!(split(48, 2), Err(CompoundError::NotHeldOnce));
    map.page(Pfn::new(48)).set_ref_count(2);
    assert_eq!(split(48, 2), Err(CompoundError::NotHeldOnce));
}

/// A locked folio of a file, with a reference of the cache for each page.
fn cached(map: &MemMap, pfn: usize, n: u8) -> Folio {
    let folio = compound(map, pfn, n);
    folio.set(PageFlags::FILE | PageFlags::UPTODATE | PageFlags::DIRTY);
    folio.set_mapping(0xffff_8880_0000_1000);
    folio.set_index(1000);
    folio.get_many(1 << n);
    assert!(folio.try_lock());
    folio
}

#[test]
fn parts_inherit_contents_references_and_index() {
    for (n, parts_order) in [(4, 0), (4, 1), (4, 3), (9, 0), (10, 9)] {
        let map = map(0, 2048);
        let folio = cached(&map, 1024, n);
        let parts: Vec<_> = folio.split(&map, order(parts_order), 1).unwrap().collect();
        assert_eq!(parts.len(), 1 << (n - parts_order));
        for (nr, part) in parts.iter().enumerate() {
            let offset = nr << parts_order;
            assert_eq!(part.pfn(), Pfn::new(1024 + offset));
            assert_eq!(part.order(), order(parts_order));
            assert_eq!(part.is_head(), parts_order > 0);
            assert_eq!(part.ref_count(), 1 + (1 << parts_order));
            assert_eq!(
                (part.mapping(), part.index()),
                (0xffff_8880_0000_1000, 1000 + offset as u64)
            );
            let last = part.range().end() - 1;
            assert_eq!(
                part.index_of(last),
                Some(1000 + (last - Pfn::new(1024)) as u64)
            );
            assert_eq!(part.index_of(part.range().end()), None);
            let flags =
                PageFlags::FILE | PageFlags::UPTODATE | PageFlags::DIRTY | PageFlags::LOCKED;
            assert_eq!(part.flags() - PageFlags::HEAD, flags);
            for pfn in part.range().iter() {
                assert_eq!(map.folio(pfn), Some(*part));
            }
        }
    }
}

#[test]
fn parts_of_the_swap_cache_have_entries_of_their_own() {
    let map = map(0, 64);
    let folio = compound(&map, 32, 2);
    folio.set(PageFlags::ANON | PageFlags::SWAPBACKED | PageFlags::SWAPCACHE);
    folio.set_private(700);
    folio.get_many(4);
    assert!(folio.try_lock());
    let parts = folio.split(&map, order(0), 1).unwrap();
    let entries: Vec<_> = parts.map(|part| part.private()).collect();
    assert_eq!(entries, [700, 701, 702, 703]);
}

#[test]
fn a_folio_that_others_use_stays_whole() {
    let map = map(0, 64);
    let folio = cached(&map, 16, 4);
    let split = |n, cache_refs| folio.split(&map, order(n), cache_refs).map(|_| ());
    let before = words(&folio);
    assert_eq!(split(4, 1), Err(SplitError::NotSmaller));
    assert_eq!(split(10, 1), Err(SplitError::NotSmaller));
    assert_eq!(
        split(0, 0),
        Err(SplitError::Busy),
        "the cache was forgotten"
    );
    folio.get();
    assert_eq!(split(0, 1), Err(SplitError::Busy));
    assert!(!folio.put_and_test());
    map.page(Pfn::new(19)).inc_map_count();
    assert_eq!(split(0, 1), Err(SplitError::Mapped));
    assert!(map.page(Pfn::new(19)).dec_map_count());
    folio.inc_entire_mapcount(&map);
    assert_eq!(split(0, 1), Err(SplitError::Mapped));
    assert!(folio.dec_entire_mapcount(&map));
    for flag in [
        PageFlags::LRU,
        PageFlags::WRITEBACK,
        PageFlags::PRIVATE,
        PageFlags::SLAB,
    ] {
        folio.set(flag);
        assert_eq!(split(0, 1), Err(SplitError::InUse(flag)));
        folio.clear(flag);
    }
    folio.clear(PageFlags::LOCKED);
    assert_eq!(split(0, 1), Err(SplitError::NotLocked));
    folio.set(PageFlags::LOCKED);
    assert_eq!(words(&folio), before, "nothing changed");
    assert!((17..32).all(|pfn| words(map.page(Pfn::new(pfn))) == [0; 8]));
    assert_eq!(split(0, 1), Ok(()));
}

#[test]
fn a_reference_is_found_only_on_what_is_held() {
    let map = map(0, 64);
    assert!(matches!(
        map.try_get_folio(Pfn::new(64)),
        Err(Lost::NoDescriptor)
    ));
    assert!(matches!(map.try_get_folio(Pfn::new(20)), Err(Lost::Unheld)));
    let folio = compound(&map, 16, 3);
    assert_eq!(map.try_get_folio(Pfn::new(20)).unwrap(), folio);
    assert_eq!(folio.ref_count(), 2);
    assert!(folio.freeze(2));
    assert!(matches!(map.try_get_folio(Pfn::new(20)), Err(Lost::Unheld)));
    folio.unfreeze(1);
}

/// Which block each frame is in: first frame and order.
type Blocks = Vec<Option<(usize, u8)>>;

fn check(map: &MemMap, first: usize, blocks: &Blocks, references: &[i32]) {
    for (nr, block) in blocks.iter().enumerate() {
        let pfn = Pfn::new(first + nr);
        let (head, n) = block.unwrap_or((first + nr, 0));
        let folio = map.folio(pfn).unwrap();
        assert_eq!(
            (folio.pfn(), folio.order()),
            (Pfn::new(head), order(n)),
            "{pfn}"
        );
        assert_eq!(map.is_tail(pfn), head != pfn.index());
        assert_eq!(map.page_count(pfn), references[head - first], "{pfn}");
    }
}

#[test]
fn blocks_of_all_orders_come_go_and_split_as_in_the_oracle() {
    // The map begins and ends in the middle of blocks of the largest order.
    const FIRST: usize = 1024 + 300;
    const NR: usize = 2600;
    let mut random = Random::new("folio", 0xf0110);
    let map = map(FIRST, NR);
    let mut blocks: Blocks = vec![None; NR];
    let mut references = vec![0; NR];
    let (mut made, mut split) = (0, 0);
    for _ in 0..3_000 {
        let nr = random.below(NR as u64) as usize;
        match (blocks[nr], random.below(5)) {
            (None, _) => {
                let n = (random.below(u64::from(MAX_ORDER.get())) + 1) as u8;
                let start = (FIRST + nr) >> n << n;
                let Some(offset) = start.checked_sub(FIRST) else {
                    continue;
                };
                let range = offset..offset + (1 << n);
                let is_free = |slots: &[Option<_>]| slots.iter().all(Option::is_none);
                if !blocks.get(range.clone()).is_some_and(is_free) {
                    continue;
                }
                compound(&map, start, n);
                references[range.start] = 1;
                blocks[range].fill(Some((start, n)));
                made += 1;
            }
            (Some((head, n)), 0) => {
                let pfn = Pfn::new(head);
                let count = references[head - FIRST];
                assert!(map.page(pfn).put_many_and_test(count));
                let wrong = order((n + 1) % 11);
                assert!(map.destroy_compound_page(pfn, wrong).is_err());
                assert_eq!(map.destroy_compound_page(pfn, order(n)), Ok(()));
                map.page(pfn).reset_flags(PageFlags::empty());
                references[head - FIRST] = 0;
                blocks[head - FIRST..][..1 << n].fill(None);
            }
            (Some((head, n)), 1) if n > 0 => {
                let to = random.below(u64::from(n)) as u8;
                let folio = map.folio(Pfn::new(FIRST + nr)).unwrap();
                let is_alone = references[head - FIRST] == 1;
                let was_locked = folio.is_locked() || folio.try_lock();
                assert!(was_locked);
                match folio.split(&map, order(to), 0) {
                    Err(why) => assert!(!is_alone && why == SplitError::Busy),
                    Ok(parts) => {
                        assert!(is_alone);
                        split += 1;
                        for part in parts {
                            let start = part.pfn().index() - FIRST;
                            blocks[start..][..1 << to].fill(Some((part.pfn().index(), to)));
                            references[start] = 1;
                        }
                    }
                }
            }
            (Some((head, _)), 2) if references[head - FIRST] > 1 => {
                assert_eq!(map.put_page(Pfn::new(FIRST + nr)), None);
                references[head - FIRST] -= 1;
            }
            (Some((head, _)), _) => {
                map.get_page(Pfn::new(FIRST + nr));
                references[head - FIRST] += 1;
            }
        }
        check(&map, FIRST, &blocks, &references);
    }
    assert!(made > 100 && split > 50, "{made} made, {split} split");
}

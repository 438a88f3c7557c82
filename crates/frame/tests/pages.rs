//! Descriptors and the map that finds them. Not under loom, whose atomics are larger.
#![cfg(not(loom))]
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests lay out their own storage"
)]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::{MemMap, MemMapError, Order, Page, PageFlags, Pfn, PfnRange, PhysAddr};

fn map(start: usize, nr_pages: usize) -> MemMap {
    let pages: Vec<Page> = (0..nr_pages).map(|_| Page::new()).collect();
    MemMap::new(PfnRange::with_len(Pfn::new(start), nr_pages), pages.leak()).unwrap()
}

#[test]
fn a_descriptor_is_one_cache_line() {
    const { assert!(size_of::<Page>() == 64 && align_of::<Page>() == 64) };
}

#[test]
fn frames_and_descriptors_round_trip() {
    let map = map(0x100, 500);
    for pfn in map.range().iter() {
        let page = map.page(pfn);
        assert_eq!(map.pfn(page), Some(pfn));
        assert!(core::ptr::eq(map.get(pfn).unwrap(), page));
        assert_eq!(pfn.phys().pfn(), pfn);
    }
    assert!(map.get(Pfn::new(0xff)).is_none());
    assert!(map.get(Pfn::new(0x100 + 500)).is_none());
    assert!(map.get(Pfn::new(usize::MAX)).is_none());
    assert_eq!(map.pfn(&Page::new()), None);
    // Constant time: an index, whatever the distance.
    let distance = core::ptr::from_ref(map.page(Pfn::new(0x2f3))).addr()
        - core::ptr::from_ref(map.page(Pfn::new(0x100))).addr();
    assert_eq!(distance, 0x1f3 * 64);
}

#[test]
fn descriptors_beside_the_map_are_foreign() {
    let pages: Vec<Page> = (0..5).map(|_| Page::new()).collect();
    let pages: &'static [Page] = pages.leak();
    let range = PfnRange::with_len(Pfn::new(8), 3);
    let map = MemMap::new(range, &pages[1..4]).unwrap();
    let found: Vec<_> = pages.iter().map(|page| map.pfn(page)).collect();
    let expected = [None, Some(8), Some(9), Some(10), None];
    assert_eq!(found, expected.map(|pfn| pfn.map(Pfn::new)));
}

#[test]
#[should_panic(expected = "frame 0x3 has no descriptor: Pfn(0x0..0x3)")]
fn a_frame_without_descriptor_is_refused() {
    let _ = map(0, 3).page(Pfn::new(3));
}

#[test]
fn a_map_wants_a_descriptor_for_each_frame() {
    let range = PfnRange::with_len(Pfn::new(0), 3);
    let pages: &'static [Page] = vec![Page::new(), Page::new()].leak();
    assert_eq!(
        MemMap::new(range, pages).err(),
        Some(MemMapError::WrongLength)
    );
    assert_eq!(MemMap::layout(range).unwrap().size(), 192);
    let absurd = PfnRange::with_len(Pfn::ZERO, usize::MAX);
    assert_eq!(MemMap::layout(absurd), None);
}

#[test]
fn a_map_laid_into_storage_has_fresh_descriptors() {
    let range = PfnRange::with_len(Pfn::new(7), 33);
    let layout = MemMap::layout(range).unwrap();
    // SAFETY: the layout has a size.
    let storage = unsafe { std::alloc::alloc(layout) };
    // SAFETY: that many bytes are there.
    unsafe { storage.write_bytes(0xff, layout.size()) };
    // SAFETY: just as large and aligned as asked, and never freed.
    let map = unsafe { MemMap::new_in(range, NonNull::new(storage).unwrap()) };
    for pfn in range.iter() {
        let page = map.page(pfn);
        assert_eq!(page.flags(), PageFlags::empty());
        assert_eq!((page.ref_count(), page.map_count()), (0, 0));
        assert_eq!((page.lru_next(), page.lru_prev()), (None, None));
    }
}

#[test]
fn zero_bytes_are_a_fresh_descriptor() {
    // SAFETY: as large, and made of integers.
    let bytes: [u64; 8] = unsafe { core::mem::transmute(Page::new()) };
    assert_eq!(bytes, [0; 8]);
    // Nor does anything else than zero come out of a page that was used and given back.
    let map = map(0, 2);
    let page = map.page(Pfn::ZERO);
    page.set_lru_next(Some(Pfn::ZERO));
    page.set_lru_prev(Some(Pfn::new(1)));
    assert_eq!(page.lru_next(), Some(Pfn::ZERO));
    page.inc_map_count();
    page.set_lru_next(None);
    page.set_lru_prev(None);
    assert!(page.dec_map_count());
    // SAFETY: a descriptor is eight words, and nobody writes them now.
    let words = unsafe { core::ptr::from_ref(page).cast::<[u64; 8]>().read() };
    assert_eq!(words, [0; 8]);
}

#[test]
fn zeroed_storage_is_not_touched() {
    // 1 TiB of frames: 16 GiB of descriptors, of which this machine gets a few pages.
    let range = PfnRange::with_len(Pfn::ZERO, 1 << 28);
    let layout = MemMap::layout(range).unwrap();
    assert_eq!(layout.size(), 16 << 30);
    // Zeroed memory comes untouched only where nobody asks for more alignment than words have.
    let room = Layout::array::<u64>(layout.size() / 8 + 8).unwrap();
    // SAFETY: the layout has a size.
    let storage = NonNull::new(unsafe { std::alloc::alloc_zeroed(room) }).unwrap();
    let skipped = storage.align_offset(layout.align());
    // SAFETY: at most the alignment, which there is room for.
    let storage = unsafe { storage.add(skipped) };
    let before = resident_kib();
    // SAFETY: just as large and aligned as asked, zeroed, and never freed.
    let map = unsafe { MemMap::new_zeroed_in(range, storage) };
    map.page(Pfn::new((1 << 28) - 1)).set_ref_count(1);
    map.page(Pfn::new(1 << 20)).set_ref_count(1);
    assert_eq!(map.page(Pfn::new(1 << 21)).flags(), PageFlags::empty());
    assert!(
        resident_kib() - before < 16 << 10,
        "descriptors were touched"
    );
}

/// Linux's own count of what this process has; 0 where there is none.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn reserved_is_what_was_reserved() {
    let map = map(10, 20);
    map.page(Pfn::new(12)).set(PageFlags::TABLE);
    map.reserve(PfnRange::new(Pfn::new(5), Pfn::new(13)));
    map.reserve(PfnRange::new(Pfn::new(29), Pfn::new(1000)));
    map.reserve(PfnRange::new(Pfn::new(500), Pfn::new(501)));
    for pfn in map.range().iter() {
        let is_reserved = matches!(pfn.index(), ..13 | 29);
        assert_eq!(
            map.page(pfn).test(PageFlags::RESERVED),
            is_reserved,
            "{pfn}"
        );
    }
    let page = map.page(Pfn::new(12));
    assert!(page.test(PageFlags::TABLE | PageFlags::RESERVED));
}

#[test]
fn overhead_is_one_and_a_half_percent() {
    let overhead = map(0, 2048).overhead();
    assert_eq!((overhead.map_bytes, overhead.nr_pages), (128 << 10, 2048));
    assert_eq!(overhead.basis_points(), 156);
    assert_eq!(
        overhead.to_string(),
        "128 KiB of descriptors for 2048 frames, 1.56 % of them"
    );
    assert_eq!(map(0, 0).overhead().basis_points(), 0);
}

#[test]
fn every_field_keeps_what_it_is_given() {
    let map = map(0, 2);
    let (page, other) = (map.page(Pfn::new(0)), map.page(Pfn::new(1)));
    map.prep_compound_page(Pfn::ZERO, Order::new(1).unwrap());
    page.set(PageFlags::RESERVED);
    page.set_private(11);
    page.set_mapping(0xffff_8880_0000_1000);
    page.set_index(u64::MAX);
    page.set_owner_word(5);
    page.set_lru_next(Some(Pfn::new(9)));
    page.set_lru_prev(Some(Pfn::ZERO));
    assert_eq!(page.flags(), PageFlags::RESERVED | PageFlags::HEAD);
    assert_eq!(
        page.compound_order(),
        Order::new(1),
        "order and flags share a word"
    );
    page.reset_flags(PageFlags::HEAD);
    assert_eq!(page.compound_order(), Some(Order::ZERO), "and go together");
    assert_eq!(page.add_private(-3), 11);
    assert_eq!((page.private(), page.mapping()), (8, 0xffff_8880_0000_1000));
    assert_eq!((page.index(), page.owner_word()), (u64::MAX, 5));
    assert_eq!(page.lru_next(), Some(Pfn::new(9)));
    assert_eq!(page.lru_prev(), Some(Pfn::ZERO));
    page.set_lru_next(None);
    assert_eq!(page.lru_next(), None);
    assert_eq!((other.private(), other.mapping(), other.index()), (0, 0, 0));
}

#[test]
fn flags_are_tested_set_and_cleared_each_for_itself() {
    let map = map(0, 1);
    let page = map.page(Pfn::ZERO);
    page.reset_flags(PageFlags::empty());
    for flag in PageFlags::all().iter() {
        assert!(!page.test_and_set(flag), "{flag:?}");
        assert!(page.test_and_set(flag) && page.test(flag), "{flag:?}");
        assert_eq!(page.flags(), flag);
        assert!(page.test_and_clear(flag), "{flag:?}");
        assert!(!page.test_and_clear(flag) && !page.test(flag), "{flag:?}");
    }
    page.set(PageFlags::DIRTY | PageFlags::UPTODATE);
    page.clear(PageFlags::DIRTY);
    assert_eq!(page.flags(), PageFlags::UPTODATE);
}

#[test]
fn the_last_reference_and_the_last_mapping_are_told() {
    let map = map(0, 1);
    let page = map.page(Pfn::ZERO);
    page.set_ref_count(1);
    page.get();
    assert_eq!((page.put_and_test(), page.ref_count()), (false, 1));
    assert_eq!((page.put_and_test(), page.ref_count()), (true, 0));
    page.inc_map_count();
    page.inc_map_count();
    assert_eq!((page.map_count(), page.dec_map_count()), (2, false));
    assert_eq!((page.dec_map_count(), page.map_count()), (true, 0));
    page.inc_map_count();
    page.reset_map_count();
    assert_eq!(page.map_count(), 0);
}

#[test]
fn references_are_counted_across_threads() {
    let map = map(0, 1);
    map.page(Pfn::ZERO).set_ref_count(1);
    let last: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                map.page(Pfn::ZERO).get();
                scope.spawn(move || {
                    let page = map.page(Pfn::ZERO);
                    for _ in 0..10_000 {
                        page.get();
                        assert!(!page.put_and_test(), "this thread holds one");
                    }
                    usize::from(page.put_and_test())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(last, 0, "the main thread's reference is the last");
    assert!(map.page(Pfn::ZERO).put_and_test());
}

#[test]
fn physical_addresses_find_their_descriptor() {
    let map = map(0x100, 16);
    let addr = PhysAddr::new(0x10_5abc);
    assert_eq!(map.pfn(map.page(addr.pfn())), Some(Pfn::new(0x105)));
}

//! What the allocator asks of a page that comes back, against each word by itself.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; nobody else writes its pages"
)]

use kmm_frame::{MemMap, Page, PageFlags, Pfn, PfnRange};

fn page() -> &'static Page {
    let range = PfnRange::new(Pfn::new(7), Pfn::new(8));
    let map = MemMap::new(range, vec![Page::new()].leak()).unwrap();
    assert_eq!(map.flat().map(<[Page]>::len), Some(1));
    map.page(Pfn::new(7))
}

#[test]
fn a_page_is_free_to_go_by_its_counts() {
    for refs in -2..4 {
        for maps in -2..3 {
            let page = page();
            page.set_ref_count(refs);
            match maps {
                1 | 2 => (0..maps).for_each(|_| assert!(page.inc_map_count() || maps == 2)),
                _ => page.reset_map_count(),
            }
            let maps = page.map_count();
            for held in 0..3 {
                let expected = i64::from(refs) == i64::from(held) && maps == 0;
                // SAFETY: nobody else has the page.
                let is_free = unsafe { page.is_free_to_go(held) };
                assert_eq!(is_free, expected, "{refs} {maps}");
            }
            // SAFETY: as above.
            assert_eq!(unsafe { page.is_unused() }, maps == 0);
        }
    }
}

#[test]
fn a_page_is_free_to_go_by_its_flags() {
    for flag in PageFlags::all().iter() {
        let page = page();
        page.set_ref_count(1);
        page.set(flag);
        let expected = !PageFlags::CHECK_AT_FREE.contains(flag);
        // SAFETY: nobody else has the page.
        assert_eq!(unsafe { page.is_free_to_go(1) }, expected, "{flag:?}");
        // SAFETY: as above.
        assert_eq!(unsafe { page.is_unused() }, expected, "{flag:?}");
    }
}

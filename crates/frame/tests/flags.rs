//! Flags one by one, as Linux names them; counts; ages.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::{Access, Fate, IoStatus, Page, PageFlags, References, Wake};

type Ask = fn(&Page) -> bool;
type Change = fn(&Page);

/// Flag, test, set, clear, test-and-set, test-and-clear.
type Accessors = (PageFlags, Ask, Change, Change, Ask, Ask);

#[rustfmt::skip]
const ALL: [Accessors; 13] = [
    (PageFlags::REFERENCED, Page::is_referenced, Page::set_referenced, Page::clear_referenced, Page::test_set_referenced, Page::test_clear_referenced),
    (PageFlags::DIRTY, Page::is_dirty, Page::set_dirty, Page::clear_dirty, Page::test_set_dirty, Page::test_clear_dirty),
    (PageFlags::LRU, Page::is_lru, Page::set_lru, Page::clear_lru, Page::test_set_lru, Page::test_clear_lru),
    (PageFlags::ACTIVE, Page::is_active, Page::set_active, Page::clear_active, Page::test_set_active, Page::test_clear_active),
    (PageFlags::ERROR, Page::is_error, Page::set_error, Page::clear_error, Page::test_set_error, Page::test_clear_error),
    (PageFlags::SLAB, Page::is_slab, Page::set_slab, Page::clear_slab, Page::test_set_slab, Page::test_clear_slab),
    (PageFlags::RESERVED, Page::is_reserved, Page::set_reserved, Page::clear_reserved, Page::test_set_reserved, Page::test_clear_reserved),
    (PageFlags::PRIVATE, Page::has_private, Page::set_has_private, Page::clear_has_private, Page::test_set_has_private, Page::test_clear_has_private),
    (PageFlags::SWAPBACKED, Page::is_swap_backed, Page::set_swap_backed, Page::clear_swap_backed, Page::test_set_swap_backed, Page::test_clear_swap_backed),
    (PageFlags::SWAPCACHE, Page::is_swap_cache, Page::set_swap_cache, Page::clear_swap_cache, Page::test_set_swap_cache, Page::test_clear_swap_cache),
    (PageFlags::RECLAIM, Page::is_reclaim, Page::set_reclaim, Page::clear_reclaim, Page::test_set_reclaim, Page::test_clear_reclaim),
    (PageFlags::UNEVICTABLE, Page::is_unevictable, Page::set_unevictable, Page::clear_unevictable, Page::test_set_unevictable, Page::test_clear_unevictable),
    (PageFlags::MLOCKED, Page::is_mlocked, Page::set_mlocked, Page::clear_mlocked, Page::test_set_mlocked, Page::test_clear_mlocked),
];

#[test]
fn each_accessor_is_for_its_own_flag() {
    // Among no other flags, and among all of them.
    for others in [PageFlags::empty(), PageFlags::all()] {
        for (flag, test, set, clear, test_and_set, test_and_clear) in ALL {
            let page = Page::new();
            page.set(others - flag);
            let is = |on: bool| {
                let expected = if on { others | flag } else { others - flag };
                assert_eq!((page.flags(), test(&page)), (expected, on), "{flag:?}");
            };
            is(false);
            set(&page);
            is(true);
            clear(&page);
            is(false);
            assert!(!test_and_set(&page) && test_and_set(&page), "{flag:?}");
            is(true);
            assert!(test_and_clear(&page) && !test_and_clear(&page), "{flag:?}");
            is(false);
        }
    }
}

#[test]
fn flags_with_a_protocol_are_told() {
    let page = Page::new();
    let asked: [(PageFlags, Ask); 5] = [
        (PageFlags::LOCKED, Page::is_locked),
        (PageFlags::WAITERS, Page::has_waiters),
        (PageFlags::WRITEBACK, Page::is_writeback),
        (PageFlags::HEAD, Page::is_head),
        (PageFlags::UPTODATE, Page::is_uptodate),
    ];
    for (flag, test) in asked {
        assert!(!test(&page));
        page.set(PageFlags::all() - flag);
        assert!(!test(&page));
        page.reset_flags(flag);
        assert!(test(&page), "{flag:?}");
        page.reset_flags(PageFlags::empty());
    }
}

#[test]
fn what_forbids_to_free_is_what_linux_says() {
    // PAGE_FLAGS_CHECK_AT_FREE of 6.1; the page types and the account, which Linux checks in other words of the page.
    let linux = PageFlags::LRU
        | PageFlags::LOCKED
        | PageFlags::PRIVATE
        | PageFlags::WRITEBACK
        | PageFlags::RESERVED
        | PageFlags::SLAB
        | PageFlags::ACTIVE
        | PageFlags::UNEVICTABLE
        | PageFlags::MLOCKED;
    let types = PageFlags::BUDDY | PageFlags::TABLE | PageFlags::ACCOUNTED | PageFlags::IMAGE;
    assert_eq!(PageFlags::CHECK_AT_FREE, linux | types);
    assert_eq!(PageFlags::CHECK_AT_PREP, PageFlags::all());
    for flag in PageFlags::all().iter() {
        let page = Page::new();
        page.set(flag | PageFlags::DIRTY);
        let forbidden = (flag | PageFlags::DIRTY) & (linux | types);
        assert_eq!(page.forbidden_at_free(), forbidden, "{flag:?}");
    }
}

#[test]
fn the_lock_brackets_reading() {
    let page = Page::new();
    assert!(page.try_lock());
    assert!(!page.try_lock());
    assert_eq!(page.end_read(IoStatus::Failed), Wake::Nobody);
    assert_eq!(page.flags(), PageFlags::ERROR);
    assert!(page.try_lock());
    page.clear_error();
    assert!(!page.try_lock_or_announce(), "somebody has it");
    assert_eq!(page.end_read(IoStatus::Done), Wake::Waiters);
    assert_eq!(page.flags(), PageFlags::UPTODATE);
    assert!(page.try_lock_or_announce());
    // A second read that fails takes the first one's word back.
    assert_eq!(page.end_read(IoStatus::Failed), Wake::Nobody);
    assert_eq!(page.flags(), PageFlags::ERROR);
}

#[test]
fn writeback_outlasts_the_lock() {
    let page = Page::new();
    assert!(page.try_lock());
    assert!(page.start_writeback() && !page.start_writeback());
    assert_eq!(page.unlock(), Wake::Nobody);
    assert!(page.is_clear_or_announce(PageFlags::LOCKED));
    assert_eq!(page.flags(), PageFlags::WRITEBACK, "nobody was announced");
    assert!(!page.is_clear_or_announce(PageFlags::WRITEBACK));
    page.set_reclaim();
    let written = page.end_writeback(IoStatus::Done);
    assert_eq!((written.wake, written.is_to_rotate), (Wake::Waiters, true));
    assert_eq!(page.flags(), PageFlags::empty());
    assert!(page.try_lock() && page.start_writeback());
    let written = page.end_writeback(IoStatus::Failed);
    assert_eq!((written.wake, written.is_to_rotate), (Wake::Nobody, false));
    assert_eq!(page.flags(), PageFlags::LOCKED | PageFlags::ERROR);
}

#[test]
#[should_panic(expected = "a page that is not locked was unlocked")]
fn unlocking_twice_is_a_bug() {
    let page = Page::new();
    assert!(page.try_lock());
    let _ = page.unlock();
    let _ = page.unlock();
}

#[test]
fn references_come_only_from_references() {
    let page = Page::new();
    assert!(!page.get_unless_zero());
    assert_eq!(page.ref_count(), 0, "a free page stays free");
    page.set_ref_count(1);
    assert!(page.get_unless_zero());
    page.get_many(3);
    assert_eq!(page.ref_count(), 5);
    assert!(!page.freeze(4));
    assert_eq!(page.ref_count(), 5, "somebody else holds it");
    assert!(page.freeze(5));
    assert!(!page.get_unless_zero(), "frozen");
    page.unfreeze(2);
    assert!(!page.put_many_and_test(1));
    assert!(page.put_many_and_test(1));
    page.set_ref_count(-1);
    assert!(!page.get_unless_zero(), "spoiled");
}

#[test]
fn map_counts_begin_at_none() {
    let page = Page::new();
    assert_eq!((page.map_count(), page.is_mapped()), (0, false));
    page.inc_map_count();
    assert_eq!((page.map_count(), page.is_mapped()), (1, true));
    assert!(page.dec_map_count() && !page.is_mapped());
}

#[test]
fn a_second_use_activates() {
    let page = Page::new();
    assert_eq!(page.mark_accessed(), Access::Noted);
    assert_eq!(page.flags(), PageFlags::REFERENCED);
    assert_eq!(page.mark_accessed(), Access::Activate);
    assert_eq!(page.flags(), PageFlags::empty());
    page.set_active();
    assert_eq!(page.mark_accessed(), Access::Noted);
    assert_eq!(page.mark_accessed(), Access::Noted, "it is active already");
    assert_eq!(page.flags(), PageFlags::ACTIVE | PageFlags::REFERENCED);
    let page = Page::new();
    page.set(PageFlags::UNEVICTABLE | PageFlags::REFERENCED);
    assert_eq!(
        page.mark_accessed(),
        Access::Noted,
        "on no list that could be left"
    );
}

#[test]
fn a_scan_decides_as_linux_does() {
    let no = References::default();
    let one = References { nr_ptes: 1, ..no };
    let two = References { nr_ptes: 2, ..no };
    let code = References {
        has_code: true,
        ..one
    };
    let locked = References {
        has_locked: true,
        ..no
    };
    let (none, marked) = (PageFlags::empty(), PageFlags::REFERENCED);
    let anon = PageFlags::SWAPBACKED;
    // Flags before, who used it, what becomes of it, whether it is marked afterwards. Linux: folio_check_references.
    for (flags, references, fate, is_marked) in [
        (none, no, Fate::Reclaim, false),
        (marked, no, Fate::ReclaimClean, false),
        (anon, no, Fate::Reclaim, false),
        (anon | marked, no, Fate::Reclaim, false),
        (none, one, Fate::Keep, true),
        (marked, one, Fate::Activate, true),
        (none, two, Fate::Activate, true),
        (anon, one, Fate::Keep, true),
        (anon | marked, one, Fate::Activate, true),
        (none, code, Fate::Activate, true),
        (anon, code, Fate::Keep, true),
        (marked, locked, Fate::Activate, false),
    ] {
        let page = Page::new();
        page.set(flags);
        let case = (flags, references);
        assert_eq!(page.check_references(references), fate, "{case:?}");
        assert_eq!(page.is_referenced(), is_marked, "{case:?}");
        assert_eq!(page.flags() - marked, flags - marked, "{case:?}");
    }
}

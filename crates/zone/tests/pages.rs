//! What a page is like when it comes, and what happens when it goes.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; bad frees need forged blocks"
)]

mod common;

use common::{Tiny, bare, bytes_of, frames, order, small, take_bad};
use kmm_frame::{Gfp, Order, PAGE_SIZE, PageFlags, Pfn, PfnRange};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_zone::{BadPage, BadReason, ZoneLayout};

type Lock = spin::Mutex<()>;

#[test]
fn a_new_page_is_held_once_and_clean() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    for n in [0, 3] {
        let block = zones.alloc(PageReq::new(order(n), Gfp::KERNEL)).unwrap();
        let pfn = block.pfn();
        let page = zones.map().page(pfn);
        page.set(PageFlags::DIRTY | PageFlags::REFERENCED | PageFlags::ANON);
        page.set_private(7);
        page.set_mapping(9);
        zones.free(block);
        assert_eq!(page.ref_count(), 0);
        let again = zones.alloc(PageReq::new(order(n), Gfp::KERNEL)).unwrap();
        assert_eq!(again.pfn(), pfn, "the page that is warm comes first");
        assert_eq!(page.flags(), PageFlags::empty());
        assert_eq!((page.ref_count(), page.map_count()), (1, 0));
        assert_eq!((page.private(), page.mapping()), (0, 0));
        zones.free(again);
    }
    assert_eq!(take_bad(), []);
}

#[test]
fn zeroed_pages_are_zero_to_the_last_byte() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    for n in [0, 2] {
        let block = zones
            .alloc(PageReq::new(order(n), Gfp::KERNEL | Gfp::ZERO))
            .unwrap();
        for pfn in block.range().iter() {
            assert_eq!(bytes_of(&zones, pfn), [0; PAGE_SIZE]);
        }
        assert_eq!(bytes_of(&zones, block.range().end()), [0xa5; PAGE_SIZE]);
        zones.free(block);
    }
    let block = zones.alloc(PageReq::new(order(5), Gfp::KERNEL)).unwrap();
    let last = block.range().end() - 1;
    assert_eq!(
        bytes_of(&zones, last),
        [0xa5; PAGE_SIZE],
        "nobody asked for zeros"
    );
    zones.free(block);
}

#[test]
fn the_last_reference_frees_the_page_once() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let before = zones.accounting();
    let (pfn, _) = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap().into_raw();
    zones.map().page(pfn).get();
    zones.map().page(pfn).get();
    for left in [2, 1] {
        // SAFETY: three references are held, and nobody uses the frame.
        unsafe { zones.put_page(pfn) };
        assert_eq!(zones.map().page(pfn).ref_count(), left);
        assert_eq!(zones.accounting().allocated, 1);
    }
    // SAFETY: as above: the third.
    unsafe { zones.put_page(pfn) };
    assert_eq!(zones.accounting(), before);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

/// Allocates a block, spoils its page, frees it; what was reported. The block must be gone.
fn spoiled(n: u8, spoil: impl Fn(&kmm_frame::Page), tail: usize) -> Vec<BadPage> {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let block = zones.alloc(PageReq::new(order(n), Gfp::KERNEL)).unwrap();
    spoil(zones.map().page(block.pfn() + tail));
    let range = block.range();
    zones.free(block);
    // `validate` would miss the page on the lists that these flags speak of.
    zones
        .map()
        .page(range.start() + tail)
        .clear(PageFlags::BUDDY | PageFlags::LRU);
    let mut free = Vec::new();
    zones.for_each_free(|pfn, order, _| free.push(PfnRange::with_len(pfn, order.nr_pages())));
    assert!(
        !free.iter().any(|other| other.overlaps(range)),
        "a bad page was put back"
    );
    assert_eq!(zones.accounting().allocated, range.nr_pages());
    assert!(zones.accounting().adds_up());
    zones.validate().unwrap();
    let bad = take_bad();
    assert!(
        bad.iter()
            .all(|bad| bad.pfn == range.start() + tail && bad.order == order(n))
    );
    bad
}

#[test]
fn every_forbidden_flag_is_reported_and_the_page_dropped() {
    for flag in PageFlags::CHECK_AT_FREE.iter() {
        let reason = match flag {
            PageFlags::BUDDY => BadReason::DoubleFree,
            flag => BadReason::Flags(flag),
        };
        for n in [0, 2] {
            let bad = spoiled(n, |page| page.set(flag), 0);
            assert_eq!(
                bad.iter().map(|b| b.reason).collect::<Vec<_>>(),
                [reason],
                "{flag:?}"
            );
        }
    }
    assert!(spoiled_is_fine(PageFlags::all() - PageFlags::CHECK_AT_FREE));
}

/// Whether a page with these flags goes back without a word.
fn spoiled_is_fine(flags: PageFlags) -> bool {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let block = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    zones.map().page(block.pfn()).set(flags);
    zones.free(block);
    take_bad().is_empty() && zones.accounting().allocated == 0
}

#[test]
fn pages_in_use_are_reported_and_dropped() {
    let reasons = |bad: Vec<BadPage>| bad.iter().map(|b| b.reason).collect::<Vec<_>>();
    let bad = spoiled(0, |page| page.get(), 0);
    assert_eq!(reasons(bad), [BadReason::RefCount(2)]);
    let bad = spoiled(0, |page| page.set_ref_count(-1), 0);
    assert_eq!(reasons(bad), [BadReason::RefCount(-1)]);
    let bad = spoiled(1, |page| _ = page.inc_map_count(), 0);
    assert_eq!(reasons(bad), [BadReason::MapCount(1)]);
    // Later frames of a block are looked at in debug builds.
    if cfg!(debug_assertions) {
        let bad = spoiled(2, |page| page.set(PageFlags::SLAB), 3);
        assert_eq!(reasons(bad), [BadReason::Flags(PageFlags::SLAB)]);
        let bad = spoiled(2, |page| page.set_ref_count(1), 1);
        assert_eq!(reasons(bad), [BadReason::RefCount(1)]);
    }
}

/// Frees a block that nobody owns; what was reported.
fn forged(zones: &common::TestZones, pfn: Pfn, order: Order) -> Vec<BadReason> {
    // SAFETY: not so, on purpose; the block is only freed, which checks it.
    zones.free(unsafe { PageBlock::from_raw(pfn, order) });
    take_bad().iter().map(|bad| bad.reason).collect()
}

#[test]
fn double_free_is_reported() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let block = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    let pfn = block.pfn();
    zones.free(block);
    // Once in the pageset, once on a free list.
    assert_eq!(forged(&zones, pfn, Order::ZERO), [BadReason::DoubleFree]);
    // SAFETY: this is the only thread.
    assert!(unsafe { zones.drain_all() } > 0);
    if cfg!(debug_assertions) {
        assert_eq!(forged(&zones, pfn, Order::ZERO), [BadReason::DoubleFree]);
    }
    let block = zones.alloc(PageReq::new(order(3), Gfp::KERNEL)).unwrap();
    let pfn = block.pfn();
    zones.free(block);
    assert_eq!(forged(&zones, pfn, order(3)), [BadReason::DoubleFree]);
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 1024);
}

#[test]
#[cfg(debug_assertions)]
fn a_page_in_stock_that_somebody_holds_is_not_freed_again() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let block = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    let pfn = block.pfn();
    zones.free(block);
    zones.map().page(pfn).set_ref_count(1);
    assert_eq!(forged(&zones, pfn, Order::ZERO), [BadReason::DoubleFree]);
    zones.map().page(pfn).set_ref_count(0);
    zones.validate().unwrap();
}

#[test]
fn foreign_frames_are_reported() {
    let zones = small::<Lock>(64, frames(100, 110), 1);
    assert_eq!(
        forged(&zones, Pfn::new(1024), Order::ZERO),
        [BadReason::Foreign]
    );
    assert_eq!(
        forged(&zones, Pfn::new(usize::MAX), Order::ZERO),
        [BadReason::Foreign]
    );
    let reserved = BadReason::Flags(PageFlags::RESERVED);
    assert_eq!(forged(&zones, Pfn::new(105), Order::ZERO), [reserved]);
    let block = zones.alloc(PageReq::new(order(1), Gfp::KERNEL)).unwrap();
    let odd = block.pfn() + 1;
    assert_eq!(forged(&zones, odd, order(1)), [BadReason::NotAligned]);
    zones.free(block);
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

#[test]
fn a_frozen_block_that_is_not_aligned_is_reported_where_nothing_is_kept() {
    let ram = frames(0, 1024);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 1);
    zones.add_present(ram);
    zones.free_at_boot(ram).unwrap();
    let req = PageReq::new(order(1), Gfp::KERNEL);
    let (block, _) = zones.alloc_frozen_pages(req).unwrap();
    // SAFETY: not so, on purpose; the block is only freed.
    let odd = unsafe { PageBlock::from_raw(block.pfn() + 1, order(1)) };
    zones.free_frozen_pages(odd);
    let reasons: Vec<_> = take_bad().iter().map(|bad| bad.reason).collect();
    assert_eq!(reasons, [BadReason::NotAligned]);
    zones.free_frozen_pages(block);
    zones.validate().unwrap();
}

#[test]
fn reports_say_what_is_wrong() {
    let text = |reason| {
        let pfn = Pfn::new(0x123);
        BadPage {
            pfn,
            order: order(2),
            reason,
        }
        .to_string()
    };
    assert_eq!(
        text(BadReason::DoubleFree),
        "bad page: pfn 0x123 order 2: double free"
    );
    assert!(text(BadReason::RefCount(3)).ends_with("reference count 3"));
    assert!(text(BadReason::Flags(PageFlags::SLAB)).contains("SLAB"));
}

#[test]
fn frozen_pages_leave_their_descriptors_alone() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    for n in [0, 3] {
        let req = PageReq::new(order(n), Gfp::KERNEL);
        let (block, _) = zones.alloc_frozen_pages(req).unwrap();
        let page = zones.map().page(block.pfn());
        page.set(PageFlags::REFERENCED);
        page.set_mapping(9);
        // Debug builds mark there what is free.
        let is_marked = cfg!(debug_assertions);
        page.set_private(if is_marked { 0 } else { 17 });
        assert_eq!(page.ref_count(), 0, "nobody counts");
        let pfn = block.pfn();
        zones.free_frozen_pages(block);
        let (again, _) = zones.alloc_frozen_pages(req).unwrap();
        assert_eq!(again.pfn(), pfn, "the page that is warm comes first");
        assert_eq!((page.flags(), page.mapping()), (PageFlags::REFERENCED, 9));
        assert!(is_marked || page.private() == 17);
        zones.set_page_refcounted(&again);
        assert_eq!((page.flags(), page.mapping()), (PageFlags::empty(), 0));
        assert_eq!(page.ref_count(), 1);
        zones.free(again);
    }
    let zeroed = PageReq::new(Order::ZERO, Gfp::KERNEL | Gfp::ZERO);
    let (block, _) = zones.alloc_frozen_pages(zeroed).unwrap();
    assert_eq!(bytes_of(&zones, block.pfn()), vec![0; PAGE_SIZE]);
    zones.free_frozen_pages(block);
    assert!(zones.accounting().adds_up());
    assert_eq!(zones.accounting().allocated, 0);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn frozen_and_counted_pages_share_one_memory() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let mut seen = std::collections::HashSet::new();
    let mut blocks = Vec::new();
    loop {
        let req = PageReq::new(Order::ZERO, Gfp::KERNEL | Gfp::MEMALLOC);
        let block = match blocks.len() % 2 {
            0 => zones.alloc_frozen_pages(req).map(|(block, _)| block),
            _ => zones.alloc(req),
        };
        let Ok(block) = block else { break };
        assert!(seen.insert(block.pfn()), "{:?} twice", block.pfn());
        blocks.push(block);
    }
    assert_eq!(zones.accounting().free, 0);
    for (n, block) in blocks.into_iter().enumerate() {
        match n % 2 {
            0 => zones.free_frozen_pages(block),
            _ => zones.free(block),
        }
    }
    assert_eq!(zones.accounting().allocated, 0);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

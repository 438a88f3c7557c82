//! What is freed wrongly is found, with who has it (F21); records cost nothing where nobody keeps them.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "tests; some break rules on purpose"
)]

mod common;

use std::collections::BTreeMap;

use common::{NR_FRAMES, Table, TestHost, World, call, forged, order, take_texts, tracked, world};
use kmm::NoWait;
use kmm::frame::{Gfp, Order, Pfn};
use kmm::host::{Host, Owners, Sleep};
use kmm_sim::seeded;

/// The only text.
fn text() -> String {
    let mut texts = take_texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts.remove(0)
}

#[test]
fn a_double_free_is_told_with_who_took_and_who_freed() {
    let world = tracked(0);
    call(3);
    let sleep = &mut Sleep::grant();
    let block = world.pages.alloc_page(sleep, Gfp::KERNEL).unwrap();
    let pfn = block.pfn();
    call(4);
    world.pages.free_page(block);
    call(5);
    world.pages.free_pages(forged(pfn, 0));
    let text = text();
    assert!(text.starts_with(&format!("bad page: pfn {pfn} order 0: double free\n")));
    assert!(text.contains("page_owner tracks the page as freed\n"));
    assert!(text.contains("order 0, migratetype Unmovable, gfp_mask 0xcc0(GFP_KERNEL), pid 3"));
    assert!(
        text.contains(" 0x0000000000001003\n"),
        "who took it: {text}"
    );
    assert!(text.ends_with("page last free pid 4 stack trace:\n 0x0000000000001004\n"));
    world.assert_whole();
}

#[test]
fn a_wrong_order_is_told_with_who_has_it() {
    let world = tracked(0);
    call(7);
    let block = world
        .pages
        .alloc_pages(&mut NoWait, Gfp::KERNEL, order(3))
        .unwrap();
    let pfn = block.pfn();
    for bad in [forged(pfn, 2), forged(pfn, 0), forged(pfn + 4, 2)] {
        let frames = bad.range();
        world.pages.free_pages(bad);
        let text = text();
        assert!(
            text.contains(&format!("part of the block of order 3 at pfn {pfn}")),
            "{frames:?}: {text}"
        );
        assert!(text.contains("pid 7"));
        assert_eq!(world.nr_free(), NR_FRAMES - 8, "nothing was freed");
    }
    world.pages.free_pages(block);
    world.assert_whole();
}

#[test]
fn a_page_of_nobody_is_told() {
    let world = tracked(0);
    world.pages.free_pages(forged(Pfn::new(77), 0));
    assert_eq!(
        text(),
        "bad page: pfn 0x4d order 0: nobody has had it\npage_owner info is not present (never set?)\n"
    );
    world.pages.free_pages(forged(Pfn::new(1 << 30), 0));
    assert!(text().contains("nobody has had it"));
    let address = world.machine.phys();
    let direct = kmm::host::PhysMap::direct(address, Pfn::new(78)).unwrap();
    // SAFETY: it is refused, as nobody has the page.
    unsafe { world.pages.free_pages_at(direct, Order::ZERO) };
    assert!(text().contains("pfn 0x4e"));
    world.assert_whole();
}

#[test]
fn what_the_zones_find_is_explained() {
    let world = tracked(0);
    call(9);
    let block = world.pages.alloc_page(&mut NoWait, Gfp::KERNEL).unwrap();
    let bad = kmm::zone::BadPage {
        pfn: block.pfn(),
        order: Order::ZERO,
        reason: kmm::zone::BadReason::RefCount(3),
    };
    let text = world.pages.explain(bad).to_string();
    assert!(
        text.starts_with(&bad.to_string()) && text.contains("pid 9"),
        "{text}"
    );
    world.pages.free_page(block);
    world.assert_whole();
}

#[test]
fn records_follow_splits_references_and_exact_sizes() {
    let world = tracked(0);
    let pages = world.pages;
    let owners = |pfn: Pfn| {
        let mut text = String::new();
        Table::describe(table(&world), pfn, &mut text).unwrap();
        text
    };
    call(1);
    let block = pages
        .alloc_pages(&mut NoWait, Gfp::KERNEL, order(2))
        .unwrap();
    let first = block.pfn();
    for part in pages.split_page(block).unwrap() {
        assert!(owners(part.pfn()).contains("order 0"));
        pages.free_page(part);
    }
    assert!(owners(first + 3).contains("tracks the page as freed"));
    let exact = pages
        .alloc_pages_exact(&mut NoWait, 3 * 4096, Gfp::KERNEL)
        .unwrap();
    pages.free_pages_exact(exact);
    let folio = pages
        .folio_alloc(&mut NoWait, Gfp::KERNEL, order(2))
        .unwrap();
    pages.get_page(folio.pfn() + 1);
    for _ in 0..2 {
        // SAFETY: one of the two references, of this test.
        unsafe { pages.put_page(folio.pfn()) };
    }
    let mut slots = [const { None }; 9];
    pages.alloc_pages_bulk(&mut NoWait, Gfp::KERNEL, None, &mut slots);
    pages.free_pages_bulk(&mut slots);
    world.assert_whole();
}

/// The records, which the host has.
fn table(world: &World<Table>) -> &'static Table {
    world.host.owners()
}

#[test]
fn of_random_frees_the_right_ones_go_through() {
    seeded(0x0bad, |rng| {
        let world = tracked(0);
        let pages = world.pages;
        let mut live: BTreeMap<Pfn, u8> = BTreeMap::new();
        for step in 0..3000 {
            call(step);
            let n = rng.below(4) as u8;
            if rng.one_in(2) {
                if let Ok(block) =
                    pages.alloc_pages(&mut NoWait, Gfp::KERNEL | Gfp::NOWARN, order(n))
                {
                    assert_eq!(live.insert(block.into_raw().0, n), None);
                }
            } else {
                // From a dense window, so that frees hit what others have.
                let pfn = match rng.below(3) {
                    0 if !live.is_empty() => *live.keys().nth(rng.index(live.len())).unwrap(),
                    _ => Pfn::new(2048 + rng.index(256)).align_down(order(n)),
                };
                let is_right = live.get(&pfn) == Some(&n);
                let free = world.nr_free();
                pages.free_pages(forged(pfn.align_down(order(n)), n));
                let is_head = pfn.is_aligned(order(n));
                if is_right && is_head {
                    live.remove(&pfn);
                    assert_eq!(take_texts(), Vec::<String>::new());
                    assert_eq!(world.nr_free(), free + order(n).nr_pages());
                } else if live.get(&pfn.align_down(order(n))) == Some(&n) {
                    live.remove(&pfn.align_down(order(n)));
                } else {
                    assert_eq!(take_texts().len(), 1);
                    assert_eq!(world.nr_free(), free);
                }
            }
        }
        for (pfn, n) in live {
            pages.free_pages(forged(pfn, n));
        }
        world.assert_whole();
    });
}

#[test]
fn without_records_the_zones_find_double_frees_in_debug_builds() {
    let world = world(0);
    let block = world.pages.alloc_page(&mut NoWait, Gfp::KERNEL).unwrap();
    let pfn = block.pfn();
    world.pages.free_page(block);
    if cfg!(debug_assertions) {
        world.pages.free_pages(forged(pfn, 0));
        let text = text();
        assert!(text.contains("double free"), "{text}");
    }
    assert!(world.pages.owner_of(pfn).to_string().is_empty());
    world.assert_whole();
}

#[test]
fn no_records_take_no_room() {
    const { assert!(!<() as Owners>::ENABLED && <Table as Owners>::ENABLED) };
    assert_eq!(
        size_of::<<TestHost<()> as Host>::Owners>(),
        0,
        "nothing is kept"
    );
    assert_eq!(().took(Pfn::new(1), Order::ZERO, Gfp::KERNEL), Ok(()));
    assert_eq!(().gave(Pfn::new(1), Order::ZERO), Ok(()));
}

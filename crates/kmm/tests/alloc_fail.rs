//! Every function of the API, with the first, the second, … page that it needs not there: nothing is lost, and nothing has
//! changed.
#![allow(missing_docs, unsafe_code, reason = "tests")]

mod common;

use common::{NR_FRAMES, World, order, take_bugs, take_steps, take_texts, world};
use kmm::NoWait;
use kmm::frame::{Gfp, NodeId, NodeMask, Order, PAGE_SIZE};
use kmm::host::{AllocError, PageBlock, PageReq, PageSource, Sleep};

/// What a call comes to: how many pages it got, and how they go back.
type Call = fn(&World, &mut Sleep) -> Result<usize, AllocError>;

const GFP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

fn blocks(world: &World, result: Result<PageBlock, AllocError>) -> Result<usize, AllocError> {
    let block = result?;
    let count = block.order().nr_pages();
    world.pages.free_pages(block);
    Ok(count)
}

/// By name, what it needs, and the call.
const CALLS: &[(&str, usize, Call)] = &[
    ("alloc_page", 1, |w, s| {
        blocks(w, w.pages.alloc_page(s, GFP))
    }),
    ("alloc_pages", 4, |w, s| {
        blocks(w, w.pages.alloc_pages(s, GFP, order(2)))
    }),
    ("alloc_pages, zeroed and compound", 8, |w, s| {
        blocks(
            w,
            w.pages
                .alloc_pages(s, GFP | Gfp::ZERO | Gfp::COMP, order(3)),
        )
    }),
    ("alloc_pages_nowait", 2, |w, _| {
        blocks(w, w.pages.alloc_pages_nowait(GFP, order(1)))
    }),
    ("alloc_pages_node", 2, |w, s| {
        blocks(w, w.pages.alloc_pages_node(s, NodeId::ZERO, GFP, order(1)))
    }),
    ("alloc_pages_nodemask", 4, |w, s| {
        let req = PageReq::new(order(2), GFP);
        blocks(
            w,
            w.pages
                .alloc_pages_nodemask(s, req, NodeMask::of(NodeId::ZERO)),
        )
    }),
    ("get_free_pages", 8, |w, s| {
        let address = w.pages.get_free_pages(s, GFP, order(3))?;
        // SAFETY: ours.
        unsafe { w.pages.free_pages_at(address, order(3)) };
        Ok(8)
    }),
    ("get_free_page", 1, |w, s| {
        let address = w.pages.get_free_page(s, GFP)?;
        // SAFETY: ours.
        unsafe { w.pages.free_page_at(address) };
        Ok(1)
    }),
    ("get_zeroed_page", 1, |w, s| {
        let address = w.pages.get_zeroed_page(s, GFP)?;
        // SAFETY: ours.
        unsafe { w.pages.free_page_at(address) };
        Ok(1)
    }),
    ("alloc_pages_exact", 8, |w, s| {
        let exact = w.pages.alloc_pages_exact(s, 5 * PAGE_SIZE, GFP)?;
        w.pages.free_pages_exact(exact);
        Ok(8)
    }),
    ("folio_alloc", 4, |w, s| {
        let folio = w.pages.folio_alloc(s, GFP, order(2))?;
        // SAFETY: the one reference.
        unsafe { w.pages.put_page(folio.pfn()) };
        Ok(4)
    }),
    ("PageSource::alloc", 2, |w, _| {
        blocks(w, w.pages.alloc(PageReq::new(order(1), GFP)))
    }),
];

/// A world in which exactly the first `left` frames of DMA are free, so that a request for more than one page finds them
/// in one piece if they are enough.
fn with_left(left: usize) -> (World, Vec<PageBlock>) {
    let world = world(0);
    let mut all = world.exhaust_all();
    assert_eq!(world.nr_free(), 0);
    all.sort_by_key(|block| core::cmp::Reverse(block.pfn()));
    let back = all.split_off(all.len() - left);
    world.give_back(back);
    drain(&world);
    take_steps();
    (world, all)
}

fn drain(world: &World) {
    use kmm::host::Cpus;
    world
        .zones
        .cpus()
        .with_pin(|pin| world.zones.drain_pcp(pin));
}

#[test]
fn a_call_gets_all_it_needs_or_nothing() {
    for (name, needs, call) in CALLS {
        for left in 0..=needs + 1 {
            let (world, all) = with_left(left);
            let result = call(&world, &mut Sleep::grant());
            if left < *needs {
                assert_eq!(
                    result,
                    Err(AllocError::OutOfMemory),
                    "{name} with {left} pages"
                );
            } else {
                assert_eq!(result, Ok(*needs), "{name} with {left} pages");
            }
            drain(&world);
            assert_eq!(world.nr_free(), left, "{name} with {left} pages");
            world.zones.validate().unwrap();
            world.give_back(all);
            take_steps();
            world.assert_whole();
        }
    }
}

#[test]
fn a_bulk_call_gets_as_many_as_there_are() {
    for left in 0..20 {
        for through_the_seam in [false, true] {
            let (world, all) = with_left(left);
            let mut out: Vec<Option<PageBlock>> = (0..16).map(|_| None).collect();
            let count = if through_the_seam {
                world.pages.alloc_bulk(GFP, None, &mut out)
            } else {
                world
                    .pages
                    .alloc_pages_bulk(&mut NoWait, GFP, None, &mut out)
            };
            assert_eq!(count, left.min(16));
            assert_eq!(out.iter().flatten().count(), count);
            assert_eq!(world.nr_free(), left - count);
            world.pages.free_pages_bulk(&mut out);
            world.give_back(all);
            take_steps();
            world.assert_whole();
        }
    }
}

#[test]
fn failing_leaves_flags_and_counts_alone() {
    let (world, all) = with_left(3);
    let map = world.zones.map();
    let state = || -> Vec<(u64, i32)> {
        (0..NR_FRAMES)
            .map(|n| map.page(kmm::frame::Pfn::new(n)))
            .map(|page| (page.flags().bits(), page.ref_count()))
            .collect()
    };
    let before = state();
    for gfp in [GFP | Gfp::COMP, GFP | Gfp::ACCOUNT, GFP | Gfp::ZERO] {
        let sleep = &mut Sleep::grant();
        assert!(world.pages.alloc_pages(sleep, gfp, order(2)).is_err());
        assert!(world.pages.folio_alloc(sleep, gfp, order(3)).is_err());
        assert!(
            world
                .pages
                .alloc_pages_exact(sleep, 4 * PAGE_SIZE, gfp)
                .is_err()
        );
    }
    assert!(before == state());
    assert_eq!((take_texts(), take_bugs()), (vec![], vec![]));
    let _ = Order::ZERO;
    world.give_back(all);
    take_steps();
    world.assert_whole();
}

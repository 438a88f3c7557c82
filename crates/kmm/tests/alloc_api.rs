//! The whole API: what S3 says is the same is the same, and every way in has its way out.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;

use common::{NR_FRAMES, World, frames, order, take_texts, with_highmem, world};
use kmm::frame::{Gfp, NodeId, NodeMask, Order, PAGE_SIZE, PageFlags, Pfn, PfnRange, ZoneType};
use kmm::host::{AllocError, PageBlock, PageReq, PageSource, PhysMap, Sleep};
use kmm::{ExactPages, NoWait};
use kmm_sim::seeded;

fn bytes(world: &World, pfn: Pfn) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    world.machine.read_phys(pfn.phys(), &mut bytes);
    bytes
}

/// Rubbish in every frame.
fn soil(world: &World) {
    for pfn in frames(0, NR_FRAMES).iter() {
        world.machine.fill_frame(pfn, 0x77);
    }
}

#[test]
fn alloc_page_is_alloc_pages_of_order_0() {
    let world = world(64);
    let pages = world.pages;
    let sleep = &mut Sleep::grant();
    // Of a fresh pair of machines, both take the same frame.
    let other = common::world(64);
    let one = pages.alloc_page(sleep, Gfp::KERNEL).unwrap();
    let two = other
        .pages
        .alloc_pages(sleep, Gfp::KERNEL, Order::ZERO)
        .unwrap();
    assert_eq!((one.pfn(), one.order()), (two.pfn(), Order::ZERO));
    assert_eq!(world.zones.map().page(one.pfn()).ref_count(), 1);
    pages.free_page(one);
    other.pages.free_pages(two);
    world.assert_whole();
    other.assert_whole();
}

#[test]
fn get_free_pages_is_alloc_pages_and_page_address() {
    let (world, other) = (world(64), common::world(64));
    let sleep = &mut Sleep::grant();
    for n in 0..=10 {
        let address = world
            .pages
            .get_free_pages(sleep, Gfp::KERNEL, order(n))
            .unwrap();
        let block = other
            .pages
            .alloc_pages(sleep, Gfp::KERNEL, order(n))
            .unwrap();
        let pfn = world.machine.phys().virt_to_pfn(address).unwrap();
        assert_eq!(pfn, block.pfn());
        assert_eq!(world.machine.phys().direct(pfn), Some(address));
        // SAFETY: the pages are ours.
        unsafe { world.pages.free_pages_at(address, order(n)) };
        other.pages.free_pages(block);
    }
    let address = world.pages.get_free_page(sleep, Gfp::KERNEL).unwrap();
    assert_eq!(world.nr_free(), NR_FRAMES - 1);
    // SAFETY: the page is ours.
    unsafe { world.pages.free_page_at(address) };
    world.assert_whole();
}

#[test]
fn get_zeroed_page_is_get_free_page_with_zeros() {
    let world = world(64);
    soil(&world);
    let sleep = &mut Sleep::grant();
    let dirty = world.pages.get_free_page(sleep, Gfp::KERNEL).unwrap();
    let clean = world.pages.get_zeroed_page(sleep, Gfp::KERNEL).unwrap();
    let pfn = |address| world.machine.phys().virt_to_pfn(address).unwrap();
    assert!(bytes(&world, pfn(dirty)).iter().all(|byte| *byte == 0x77));
    assert!(bytes(&world, pfn(clean)).iter().all(|byte| *byte == 0));
    for address in [dirty, clean] {
        // SAFETY: the page is ours.
        unsafe { world.pages.free_page_at(address) };
    }
    world.assert_whole();
}

#[test]
fn addresses_are_never_of_high_memory() {
    let world = with_highmem(0);
    let sleep = &mut Sleep::grant();
    let high = world.pages.alloc_page(sleep, Gfp::HIGHUSER).unwrap();
    assert!(frames(3072, NR_FRAMES).contains(high.pfn()));
    let address = world.pages.get_free_page(sleep, Gfp::HIGHUSER).unwrap();
    let pfn = world.machine.phys().virt_to_pfn(address).unwrap();
    assert!(!frames(3072, NR_FRAMES).contains(pfn));
    let exact = world
        .pages
        .alloc_pages_exact(sleep, 3 * PAGE_SIZE, Gfp::HIGHUSER)
        .unwrap();
    assert!(!frames(3072, NR_FRAMES).overlaps(exact.frames()));
    world.pages.free_pages_exact(exact);
    world.pages.free_page(high);
    // SAFETY: the page is ours.
    unsafe { world.pages.free_page_at(address) };
    world.assert_whole();
}

#[test]
fn a_node_that_does_not_exist_is_refused() {
    let world = world(64);
    let pages = world.pages;
    let none = NodeId::new(7);
    let refused = Err(AllocError::NoSuchNode);
    assert_eq!(
        pages.alloc_pages_node(&mut NoWait, none, Gfp::KERNEL, Order::ZERO),
        refused
    );
    let here = NodeId::ZERO;
    let block = pages
        .alloc_pages_node(&mut NoWait, here, Gfp::KERNEL, order(2))
        .unwrap();
    pages.free_pages(block);
    let req = PageReq::page(Gfp::KERNEL | Gfp::NOWARN);
    assert_eq!(
        pages.alloc_pages_nodemask(&mut NoWait, req, NodeMask::of(none)),
        Err(AllocError::OutOfMemory)
    );
    world.assert_whole();
}

#[test]
fn exact_pages_are_as_many_as_asked_for() {
    let world = world(0);
    let sleep = &mut Sleep::grant();
    let sizes = [
        1,
        4095,
        4096,
        4097,
        5 * 4096,
        100_000,
        1 << 20,
        (1 << 22) - 1,
        1 << 22,
    ];
    for size in sizes {
        let exact = world
            .pages
            .alloc_pages_exact(sleep, size, Gfp::KERNEL)
            .unwrap();
        let nr_pages = size.div_ceil(PAGE_SIZE);
        assert_eq!(exact.frames().nr_pages(), nr_pages);
        assert_eq!(exact.size_bytes(), nr_pages * PAGE_SIZE);
        assert_eq!(
            world.machine.phys().virt_to_pfn(exact.address()),
            Some(exact.frames().start())
        );
        assert_eq!(world.nr_free(), NR_FRAMES - nr_pages, "the rest went back");
        for pfn in exact.frames().iter() {
            assert_eq!(world.zones.map().page(pfn).ref_count(), 1);
        }
        world.pages.free_pages_exact(exact);
        world.assert_whole();
    }
    for size in [0, (1 << 22) + 1, usize::MAX] {
        assert_eq!(
            world.pages.alloc_pages_exact(sleep, size, Gfp::KERNEL),
            Err(AllocError::BadSize)
        );
    }
    let exact = world
        .pages
        .alloc_pages_exact(sleep, 9000, Gfp::KERNEL | Gfp::COMP | Gfp::ZERO)
        .unwrap();
    for pfn in exact.frames().iter() {
        assert!(!world.zones.map().page(pfn).test(PageFlags::HEAD));
        assert!(bytes(&world, pfn).iter().all(|byte| *byte == 0));
    }
    world.pages.free_pages_exact(exact);
    world.assert_whole();
}

#[test]
fn bulk_requests_fill_the_empty_places() {
    let world = world(0);
    let pages = world.pages;
    let mut slots: Vec<Option<PageBlock>> = (0..200).map(|_| None).collect();
    let kept = pages.alloc_page(&mut NoWait, Gfp::KERNEL).unwrap();
    let pfn = kept.pfn();
    slots[3] = Some(kept);
    assert_eq!(
        pages.alloc_pages_bulk(&mut NoWait, Gfp::KERNEL, None, &mut slots),
        200
    );
    assert_eq!(slots[3].as_ref().unwrap().pfn(), pfn);
    let mut pfns: Vec<_> = slots.iter().flatten().map(PageBlock::pfn).collect();
    pfns.sort();
    pfns.dedup();
    assert_eq!(pfns.len(), 200);
    assert_eq!(world.nr_free(), NR_FRAMES - 200);
    // All full: nothing to do.
    assert_eq!(
        pages.alloc_pages_bulk(&mut NoWait, Gfp::KERNEL, None, &mut slots),
        200
    );
    assert_eq!(world.nr_free(), NR_FRAMES - 200);
    pages.free_pages_bulk(&mut slots);
    assert!(slots.iter().all(Option::is_none));
    assert_eq!(
        pages.alloc_pages_bulk(&mut NoWait, Gfp::KERNEL, None, &mut []),
        0
    );
    world.assert_whole();
}

#[test]
fn a_folio_is_one_page_to_its_holders() {
    let world = world(0);
    let pages = world.pages;
    let sleep = &mut Sleep::grant();
    for n in 0..=10 {
        let folio = pages.folio_alloc(sleep, Gfp::KERNEL, order(n)).unwrap();
        assert_eq!((folio.order(), folio.ref_count()), (order(n), 1));
        assert_eq!(folio.is_large(), n > 0);
        let last = folio.range().end() - 1;
        assert_eq!(world.zones.map().folio(last), Some(folio));
        pages.get_page(last);
        assert_eq!(folio.ref_count(), 2);
        // SAFETY: the reference that was just taken.
        unsafe { pages.put_page(folio.pfn()) };
        assert_eq!(world.nr_free(), NR_FRAMES - order(n).nr_pages());
        // SAFETY: the first reference.
        unsafe { pages.put_page(last) };
        world.assert_whole();
        assert!(!world.zones.map().page(folio.pfn()).test(PageFlags::HEAD));
    }
}

#[test]
fn a_compound_page_is_freed_whole_or_not_at_all() {
    let world = world(0);
    let pages = world.pages;
    let block = pages
        .alloc_pages(&mut NoWait, Gfp::KERNEL | Gfp::COMP, order(3))
        .unwrap();
    let pfn = block.pfn();
    let block = pages.split_page(block).unwrap_err();
    let _ = block.into_raw();
    // SAFETY: it is refused.
    pages.free_pages(unsafe { PageBlock::from_raw(pfn, order(1)) });
    assert_eq!(take_texts().len(), 1);
    assert_eq!(world.nr_free(), NR_FRAMES - 8);
    // SAFETY: ours again, as nothing was freed.
    pages.free_pages(unsafe { PageBlock::from_raw(pfn, order(3)) });
    world.assert_whole();
}

#[test]
fn a_split_block_is_freed_page_by_page() {
    let world = world(0);
    let pages = world.pages;
    let block = pages
        .alloc_pages(&mut NoWait, Gfp::KERNEL, order(4))
        .unwrap();
    let range = block.range();
    let parts = pages.split_page(block).unwrap();
    assert_eq!(parts.len(), 16);
    let parts: Vec<_> = parts.collect();
    assert_eq!(
        parts.iter().map(PageBlock::pfn).collect::<Vec<_>>(),
        range.iter().collect::<Vec<_>>()
    );
    for (n, part) in parts.into_iter().enumerate() {
        assert_eq!(world.nr_free(), NR_FRAMES - 16 + n);
        pages.free_page(part);
    }
    world.assert_whole();
}

#[test]
fn put_page_frees_with_the_last_reference() {
    let world = world(0);
    let pages = world.pages;
    let (pfn, _) = pages
        .alloc_page(&mut NoWait, Gfp::KERNEL)
        .unwrap()
        .into_raw();
    pages.get_page(pfn);
    pages.get_page(pfn);
    for _ in 0..3 {
        assert_eq!(world.nr_free(), NR_FRAMES - 1);
        // SAFETY: one of the three references.
        unsafe { pages.put_page(pfn) };
    }
    world.assert_whole();
}

#[test]
fn pages_of_nobody_are_not_freed() {
    let world = world(0);
    let pages = world.pages;
    let outside = core::ptr::NonNull::from(&world).cast();
    // SAFETY: the address is none of the allocator's.
    unsafe { pages.free_pages_at(outside, Order::ZERO) };
    let address = world.machine.phys().direct(Pfn::new(5)).unwrap();
    // SAFETY: it is refused: no block of that order begins there.
    unsafe { pages.free_pages_at(address, order(1)) };
    assert_eq!(take_texts().len(), 2);
    world.assert_whole();
}

/// What somebody has.
enum Held {
    Block(PageBlock),
    Exact(ExactPages),
    /// Folios and their references.
    Folio(Pfn, usize),
}

#[test]
fn every_way_in_has_its_way_out() {
    seeded(0xa110c, |rng| {
        for _ in 0..6 {
            let world = world(0);
            soil(&world);
            let pages = world.pages;
            let sleep = &mut Sleep::grant();
            let mut taken: BTreeMap<Pfn, ()> = BTreeMap::new();
            let mut held: Vec<(Held, PfnRange)> = Vec::new();
            for _ in 0..400 {
                let n = rng.below(5) as u8;
                let zero = if rng.one_in(3) {
                    Gfp::ZERO
                } else {
                    Gfp::empty()
                };
                let gfp = *rng.pick(&[Gfp::KERNEL, Gfp::HIGHUSER_MOVABLE, Gfp::DMA32])
                    | zero
                    | Gfp::NOWARN;
                let got: Vec<(Held, PfnRange)> = match rng.below(10) {
                    0 => pages
                        .alloc_page(sleep, gfp)
                        .ok()
                        .into_iter()
                        .map(owned)
                        .collect(),
                    1 => pages
                        .alloc_pages(sleep, gfp, order(n))
                        .ok()
                        .into_iter()
                        .map(owned)
                        .collect(),
                    2 => pages
                        .alloc_pages_nowait(gfp, order(n))
                        .ok()
                        .into_iter()
                        .map(owned)
                        .collect(),
                    3 => pages
                        .alloc_pages_exact(sleep, rng.index(20 * PAGE_SIZE), gfp)
                        .ok()
                        .map(|exact| {
                            let range = exact.frames();
                            (Held::Exact(exact), range)
                        })
                        .into_iter()
                        .collect(),
                    4 => pages
                        .folio_alloc(sleep, gfp, order(n))
                        .ok()
                        .map(|folio| (Held::Folio(folio.pfn(), 1), folio.range()))
                        .into_iter()
                        .collect(),
                    5 => {
                        let mut slots: Vec<_> = (0..rng.index(20)).map(|_| None).collect();
                        let count = pages.alloc_pages_bulk(sleep, gfp, None, &mut slots);
                        assert_eq!(count, slots.iter().flatten().count());
                        slots.into_iter().flatten().map(owned).collect()
                    }
                    6 if !held.is_empty() => {
                        let at = rng.index(held.len());
                        match held.swap_remove(at) {
                            (Held::Folio(pfn, references), range) => {
                                pages.get_page(pfn + rng.index(range.nr_pages()));
                                held.push((Held::Folio(pfn, references + 1), range));
                            }
                            (Held::Block(block), _) => match pages.split_page(block) {
                                Ok(parts) => held.extend(parts.map(owned)),
                                Err(block) => panic!("{block:?} is not split"),
                            },
                            exact => held.push(exact),
                        }
                        continue;
                    }
                    _ => {
                        if held.is_empty() {
                            continue;
                        }
                        let (what, range) = held.swap_remove(rng.index(held.len()));
                        match what {
                            Held::Block(block) => pages.free_pages(block),
                            Held::Exact(exact) => pages.free_pages_exact(exact),
                            Held::Folio(pfn, references) => {
                                for _ in 0..references {
                                    let free = world.nr_free();
                                    assert_eq!(free, NR_FRAMES - taken.len());
                                    // SAFETY: one of the references that this test has.
                                    unsafe { pages.put_page(pfn + rng.index(range.nr_pages())) };
                                }
                            }
                        }
                        for pfn in range.iter() {
                            taken.remove(&pfn).unwrap();
                            world.machine.fill_frame(pfn, 0x77);
                        }
                        Vec::new()
                    }
                };
                for (what, range) in got {
                    for pfn in range.iter() {
                        assert_eq!(taken.insert(pfn, ()), None, "{pfn} was handed out twice");
                        let clean = bytes(&world, pfn).iter().all(|byte| *byte == 0);
                        assert!(clean || !gfp.contains(Gfp::ZERO));
                        if gfp.contains(Gfp::DMA32) {
                            assert!(pfn < Pfn::new(2048));
                        }
                    }
                    held.push((what, range));
                }
                assert_eq!(world.nr_free(), NR_FRAMES - taken.len());
            }
            world.zones.validate().unwrap();
            for (what, _) in held {
                match what {
                    Held::Block(block) => PageSource::free(pages, block),
                    Held::Exact(exact) => pages.free_pages_exact(exact),
                    Held::Folio(pfn, references) => {
                        for _ in 0..references {
                            // SAFETY: one of the references that this test has.
                            unsafe { pages.put_page(pfn) };
                        }
                    }
                }
            }
            world.assert_whole();
        }
    });
}

fn owned(block: PageBlock) -> (Held, PfnRange) {
    let range = block.range();
    (Held::Block(block), range)
}

#[test]
fn everybody_below_gets_the_same_through_the_seam() {
    fn user<A: PageSource>(pages: &A) -> Vec<PageBlock> {
        let mut out: Vec<_> = (0..5).map(|_| None).collect();
        pages.alloc_bulk(Gfp::KERNEL, None, &mut out);
        out.push(
            pages
                .alloc(PageReq::new(order(2), Gfp::KERNEL | Gfp::ZERO))
                .ok(),
        );
        out.push(pages.alloc(PageReq::page(Gfp::ATOMIC)).ok());
        out.into_iter().flatten().collect()
    }
    let world = world(0);
    let mut blocks: Vec<_> = user(world.pages).into_iter().map(Some).collect();
    assert_eq!(blocks.len(), 7);
    assert_eq!(world.nr_free(), NR_FRAMES - 10);
    world.pages.free_bulk(&mut blocks);
    world.assert_whole();
    assert_eq!(world.free_of(ZoneType::Dma), 1024);
}

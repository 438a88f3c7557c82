//! Memblock as a source of frames.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "tests own the memory they use"
)]

mod common;

use std::collections::BTreeMap;

use common::{SpinLock, ram};
use kmm_frame::memblock::{Memblock, Reserved};
use kmm_frame::{Gfp, Order, PAGE_SIZE, PhysAddr};
use kmm_host::{AllocError, MemblockSource, PageReq, PageSource, PhysMap};

const MIB: u64 = 1 << 20;

fn memory() -> Memblock {
    let mut block = Memblock::new();
    block.add(PhysAddr::ZERO, 8 * MIB).unwrap();
    let image = PhysAddr::new(5 * MIB);
    block.reserve(image, MIB, Reserved::KernelImage).unwrap();
    block
}

#[test]
fn blocks_are_apart_and_come_back() {
    let map = ram(2048);
    let mut block = memory();
    let before = block.accounting();
    let bounds = PhysAddr::new(2 * MIB)..PhysAddr::new(8 * MIB);
    // SAFETY: the frames of `map` are RAM, and only this source hands them out.
    let source: MemblockSource<'_, SpinLock, _> =
        unsafe { MemblockSource::new(&mut block, map, bounds) };

    let seed = std::env::var("KMM_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-host --test memblock_source");
    let mut random = seed;
    let mut next = move |below: u64| {
        random = u64::wrapping_mul(random ^ (random >> 29), 0x9e37_79b9_7f4a_7c15) + 1;
        (random >> 33) % below
    };
    let mut held = BTreeMap::new();
    for _ in 0..3000 {
        if next(2) == 0 || held.is_empty() {
            let order = Order::new(next(6) as u8).unwrap();
            let zero = if next(2) == 0 {
                Gfp::ZERO
            } else {
                Gfp::empty()
            };
            let Ok(mut new) = source.alloc(PageReq::new(order, Gfp::ATOMIC | zero)) else {
                continue;
            };
            assert!(new.pfn().is_aligned(order));
            assert!(new.range().start().phys() >= PhysAddr::new(2 * MIB));
            assert!(new.range().end().phys() <= PhysAddr::new(8 * MIB));
            for nr in 0..order.nr_pages() {
                map.with_page(&mut new, nr, |mut page| {
                    if zero == Gfp::ZERO {
                        assert!(page.bytes().iter().all(|&byte| byte == 0));
                    }
                    page.bytes_mut().fill(0xCC);
                });
                let fresh = held.insert(new.pfn() + nr, None::<kmm_host::PageBlock>);
                assert!(fresh.is_none(), "{} handed out twice", new.pfn() + nr);
            }
            held.insert(new.pfn(), Some(new));
        } else {
            let heads: Vec<_> = held
                .iter()
                .filter(|(_, b)| b.is_some())
                .map(|(p, _)| *p)
                .collect();
            let pfn = heads[next(heads.len() as u64) as usize];
            let old = held.get_mut(&pfn).unwrap().take().unwrap();
            for frame in old.range().iter() {
                held.remove(&frame);
            }
            source.free(old);
        }
    }
    for old in held.into_values().flatten() {
        source.free(old);
    }
    assert_eq!(block.accounting(), before);
}

#[test]
fn what_is_held_stays_in_the_books() {
    let map = ram(2048);
    let mut block = memory();
    let bounds = PhysAddr::new(6 * MIB)..PhysAddr::new(6 * MIB + 3 * PAGE_SIZE as u64);
    // SAFETY: the frames of `map` are RAM, and only this source hands them out.
    let source: MemblockSource<'_, SpinLock, _> =
        unsafe { MemblockSource::new(&mut block, map, bounds) };
    let req = PageReq::page(Gfp::KERNEL);
    let held: Vec<_> = core::iter::from_fn(|| source.alloc(req).ok()).collect();
    assert_eq!(held.len(), 3);
    assert_eq!(source.alloc(req), Err(AllocError::OutOfMemory));
    assert_eq!(block.accounting().nr_reserved(Reserved::BootAllocation), 3);
}

#[test]
#[should_panic(expected = "range is not allocated")]
fn a_foreign_block_is_refused() {
    let map = ram(2048);
    let mut block = memory();
    let bounds = PhysAddr::ZERO..PhysAddr::new(8 * MIB);
    // SAFETY: the frames of `map` are RAM, and only this source hands them out.
    let source: MemblockSource<'_, SpinLock, _> =
        unsafe { MemblockSource::new(&mut block, map, bounds) };
    source.free(common::block(1024, 0));
}

//! Per-CPU pagesets: batches, limits, the in-use mark, draining.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; drain_all wants a promise"
)]

mod common;

use core::cell::RefCell;
use std::rc::Rc;

use common::{
    InterruptedLock, TestZones, bare, boot, frames, free_of, interrupt_is_pending,
    interrupt_next_lock, order, run_on, small, take_bad,
};
use kmm_frame::{Gfp, Pfn, PfnRange, ZoneType};
use kmm_host::{CpuId, Cpus, PageBlock, PageReq, PageSource};
use kmm_zone::{FreeAt, X86_64, ZoneLayout, ZonesBroken};

type Lock = spin::Mutex<()>;
const PAGE: PageReq = PageReq::page(Gfp::DMA.union(Gfp::MOVABLE_PAGE));

/// One zone of 16,384 frames: batch 3, high 12 with four CPUs and hardly any watermark.
fn larger<L: lock_api::RawMutex>() -> TestZones<L> {
    let ram = frames(0, 4096);
    let zones = bare(ZoneLayout::new::<X86_64>(ram), ram, 4);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    let limits = zones.zone(ZoneType::Dma).pcp_limits();
    assert_eq!((limits.batch, limits.high), (1, 4));
    zones
}

/// As [`larger`], with the limits of a zone of 64 MiB.
fn batched<L: lock_api::RawMutex>() -> TestZones<L> {
    let ram = frames(0, 16_384);
    let zones = bare(ZoneLayout::new::<Wide>(ram), ram, 4);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    let limits = zones.zone(ZoneType::Dma).pcp_limits();
    assert_eq!((limits.batch, limits.high), (3, 12));
    zones
}

#[derive(Debug)]
struct Wide;

impl kmm_zone::ZoneLimits for Wide {
    const DMA_END: Option<Pfn> = Some(Pfn::new(1 << 20));
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = None;
}

fn stock<L: lock_api::RawMutex>(zones: &TestZones<L>) -> Vec<usize> {
    zones
        .zone(ZoneType::Dma)
        .pcp_stats()
        .map(|pcp| pcp.count)
        .collect()
}

#[test]
fn pages_move_in_batches() {
    let zones = batched::<Lock>();
    let nr_free = || free_of(&zones, ZoneType::Dma);
    let mut held = Vec::new();
    for (stock_left, free) in [(2, 16_381), (1, 16_381), (0, 16_381), (2, 16_378)] {
        held.push(zones.alloc(PAGE).unwrap());
        assert_eq!((stock(&zones)[0], nr_free()), (stock_left, free));
    }
    // Pages come in the order of memory, and the last one freed is the next one out.
    let pfns: Vec<_> = held.iter().map(|block| block.pfn().index()).collect();
    let first = pfns[0];
    assert_eq!(pfns, [first, first + 1, first + 2, first + 3]);
    zones.free(held.pop().unwrap());
    held.push(zones.alloc(PAGE).unwrap());
    assert_eq!(held[3].pfn(), Pfn::new(first + 3));

    while held.len() < 40 {
        held.push(zones.alloc(PAGE).unwrap());
    }
    let before = nr_free();
    let mut most = 0;
    for block in held {
        zones.free(block);
        most = most.max(stock(&zones)[0]);
        assert!(stock(&zones)[0] < 12, "at high a batch goes back");
        zones.validate().unwrap();
    }
    assert_eq!(most, 9);
    assert_eq!((nr_free() - before) % 3, 0);
    assert_eq!(nr_free() + stock(&zones)[0], 16_384);
}

#[test]
fn small_sizes_are_kept_and_others_are_not() {
    let zones = batched::<Lock>();
    for nr in 0..=10 {
        let block = zones.alloc(PageReq::new(order(nr), Gfp::DMA)).unwrap();
        let (pfn, before) = (block.pfn(), stock(&zones)[0]);
        zones.free(block);
        let nr_pages = order(nr).nr_pages();
        // Nine pages fit, and no huge page in a zone so small.
        let is_kept = nr <= 3;
        assert_eq!(stock(&zones)[0] == before + nr_pages, is_kept, "{nr}");
        let again = zones.alloc(PageReq::new(order(nr), Gfp::DMA)).unwrap();
        assert_eq!(again.pfn(), pfn, "the block that came last goes first");
        zones.free(again);
        zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        assert_eq!(stock(&zones), [0; 4]);
        assert_eq!(free_of(&zones, ZoneType::Dma), 16_384);
        zones.validate().unwrap();
    }
    let stat = zones.zone(ZoneType::Dma).stat();
    assert_eq!((stat.pgalloc, stat.pgfree), (2 * 2047, 2 * 2047));
}

#[test]
fn cpus_have_stocks_of_their_own() {
    let zones = larger::<Lock>();
    let mut blocks: Vec<_> = (0..4).map(|_| zones.alloc(PAGE).unwrap()).collect();
    for cpu in 1..4 {
        run_on(cpu);
        zones.free(blocks.pop().unwrap());
    }
    assert_eq!(stock(&zones), [0, 1, 1, 1]);
    let mut seen = Vec::new();
    zones.for_each_free(|_, _, at| {
        if let FreeAt::Pcp(cpu) = at {
            seen.push(cpu.index());
        }
    });
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(zones.cpus().with_pin(|pin| zones.drain_pcp(pin)), 1);
    assert_eq!(stock(&zones), [0, 1, 1, 0]);
    // SAFETY: this is the only thread.
    assert_eq!(unsafe { zones.drain_all() }, 2);
    assert_eq!(stock(&zones), [0; 4]);
    run_on(0);
    zones.free(blocks.pop().unwrap());
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 4096);
}

#[test]
fn a_cpu_gives_its_stock_back_when_another_asks() {
    let zones = batched::<Lock>();
    let blocks: Vec<_> = (0..6).map(|_| zones.alloc(PAGE).unwrap()).collect();
    run_on(1);
    blocks.into_iter().for_each(|block| zones.free(block));
    assert!(stock(&zones)[1] > 0);
    run_on(0);
    assert!(zones.is_drained(CpuId::new(1)), "nobody has asked");
    let mut kicked = Vec::new();
    let own = stock(&zones)[0];
    let drained = zones
        .cpus()
        .with_pin(|pin| zones.drain_all_cpus(pin, |cpu| kicked.push(cpu.index())));
    assert_eq!((drained, kicked), (own, vec![1]));
    assert!(!zones.is_drained(CpuId::new(1)));
    assert!(stock(&zones)[1] > 0, "it is the other CPU's");
    // Its next slow step serves the request: here one that takes more than the stock has.
    run_on(1);
    let held: Vec<_> = (0..10).map(|_| zones.alloc(PAGE).unwrap()).collect();
    assert!(zones.is_drained(CpuId::new(1)));
    held.into_iter().for_each(|block| zones.free(block));
    // An interrupt of the host does so at once.
    run_on(0);
    zones.request_drain(CpuId::new(1));
    run_on(1);
    assert!(zones.cpus().with_pin(|pin| zones.drain_pcp(pin)) > 0);
    assert!(zones.is_drained(CpuId::new(1)));
    assert_eq!(stock(&zones)[1], 0);
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 16_384);
}

#[test]
fn a_cpu_that_never_leaves_its_stock_knows_where_memory_is_in_use() {
    let zones = batched::<Lock>();
    let mut held: Vec<_> = (0..8192).map(|_| zones.alloc(PAGE).unwrap()).collect();
    let far = held.pop().unwrap();
    run_on(1);
    let page = zones.alloc(PAGE).unwrap();
    zones.free(page);
    // It lies among the first frames, as many as are in use.
    let pfn = far.pfn();
    zones.free(far);
    let far = zones.alloc(PAGE).unwrap();
    assert_eq!(far.pfn(), pfn);
    // Another CPU gives nearly everything back, and it does so no more.
    run_on(2);
    held.into_iter().for_each(|block| zones.free(block));
    run_on(1);
    let before = (stock(&zones)[1], free_of(&zones, ZoneType::Dma));
    zones.free(far);
    let kept = (stock(&zones)[1], free_of(&zones, ZoneType::Dma));
    assert_eq!(kept, (before.0 + 1, before.1), "no step to the free lists");
    let near = zones.alloc(PAGE).unwrap();
    assert_ne!(near.pfn(), pfn, "it waits to go home");
    zones.free(near);
    zones.validate().unwrap();
    // SAFETY: this is the only thread.
    unsafe { zones.drain_all() };
    assert_eq!(free_of(&zones, ZoneType::Dma), 16_384);
    let stat = zones.zone(ZoneType::Dma).stat();
    assert_eq!(stat.pgalloc, stat.pgfree);
}

#[test]
fn a_dead_cpu_keeps_nothing() {
    let zones = batched::<Lock>();
    run_on(2);
    let held: Vec<_> = (0..5).map(|_| zones.alloc(PAGE).unwrap()).collect();
    run_on(0);
    let had = stock(&zones)[2];
    assert!(had > 0);
    // SAFETY: this thread was that CPU, and is another now.
    assert_eq!(unsafe { zones.cpu_dead(CpuId::new(2)) }, had);
    assert_eq!(stock(&zones), [0; 4]);
    // What it had handed out is still somebody's.
    held.into_iter().for_each(|block| zones.free(block));
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 16_384);
}

#[test]
fn a_large_request_gets_what_the_stock_splits() {
    let zones = small::<Lock>(0, PfnRange::EMPTY, 1);
    zones.set_lowmem_reserve_ratio([0; 6]);
    // All frames out and back, so that some lie in the stock and the largest blocks do not merge.
    let held = common::exhaust(&zones, Gfp::KERNEL);
    held.into_iter().for_each(|block| zones.free(block));
    let in_stock: usize = zones.stats().map(|stat| stat.pcp_pages).sum();
    assert!(in_stock > 0);
    let mut nr = 0;
    while zones
        .alloc(PageReq::new(order(6), Gfp::KERNEL))
        .map(|b| b.into_raw())
        .is_ok()
    {
        nr += 1;
    }
    assert_eq!(nr, 1024 >> 6, "no failure with memory free");
}

#[test]
fn interrupts_find_the_mark_and_take_the_lock() {
    let zones: &'static TestZones<InterruptedLock> = Box::leak(Box::new(batched()));
    let inner = Rc::new(RefCell::new(Vec::new()));
    // The first allocation stocks up: mark held, lock about to be taken. Then an interrupt allocates and frees.
    let seen = Rc::clone(&inner);
    interrupt_next_lock(move || {
        let one = zones.alloc(PAGE).unwrap();
        let two = zones.alloc(PAGE).unwrap();
        assert_eq!(stock(zones), [0; 4], "the interrupt left the stock alone");
        zones.free(one);
        assert_eq!(stock(zones), [0; 4]);
        seen.borrow_mut().push(two);
    });
    let outer = zones.alloc(PAGE).unwrap();
    assert!(!interrupt_is_pending());
    let two = inner.borrow_mut().pop().unwrap();
    assert_ne!(outer.pfn(), two.pfn());
    assert_eq!(stock(zones)[0], 2);
    zones.validate().unwrap();

    // The same in the middle of a drain.
    let held: Vec<_> = (0..11).map(|_| zones.alloc(PAGE).unwrap()).collect();
    let seen = Rc::clone(&inner);
    let mut frees = held.into_iter();
    while stock(zones)[0] < 9 {
        zones.free(frees.next().unwrap());
    }
    // Debug builds look into the free lists before the stock is used: let that lock pass.
    let interrupt = move || {
        let page = zones.alloc(PAGE).unwrap();
        seen.borrow_mut().push(page);
    };
    if cfg!(debug_assertions) {
        interrupt_next_lock(move || interrupt_next_lock(interrupt));
    } else {
        interrupt_next_lock(interrupt);
    }
    zones.free(outer);
    assert!(!interrupt_is_pending());
    let third = inner.borrow_mut().pop().unwrap();
    assert_eq!(stock(zones)[0], 9 - 3 + 1);
    zones.validate().unwrap();
    frees
        .chain([two, third])
        .for_each(|block| zones.free(block));
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 16_384);
    let stat = zones.zone(ZoneType::Dma).stat();
    assert_eq!(stat.pgalloc, stat.pgfree);
    assert_eq!(take_bad(), []);
}

#[test]
fn validate_finds_spoiled_stock() {
    let zones = batched::<Lock>();
    let block = zones.alloc(PAGE).unwrap();
    zones.validate().unwrap();
    // A page in the stock that somebody holds.
    let next = block.pfn() + 1;
    zones.map().page(next).set_ref_count(1);
    let found = zones.validate();
    let spoiled = ZonesBroken::Pcp(zones.zone(ZoneType::Dma).id(), CpuId::BOOT, next);
    assert_eq!(found, Err(spoiled));
    zones.map().page(next).set_ref_count(0);
    zones.validate().unwrap();
    // Debug builds mark it as free.
    if cfg!(debug_assertions) {
        let mark = zones.map().page(next).private();
        zones.map().page(next).set_private(0);
        assert_eq!(zones.validate(), Err(spoiled));
        zones.map().page(next).set_private(mark);
    }
    zones.free(block);
    zones.validate().unwrap();
}

#[test]
fn validate_finds_a_frame_in_stock_twice() {
    let zones = batched::<Lock>();
    let block = zones.alloc(PAGE).unwrap();
    let twin = block.pfn();
    zones.free(block);
    // An owner that was told a wrong frame number: what one owner holds is freed by another.
    zones.map().page(twin).set_private(0);
    zones.map().page(twin).set_ref_count(1);
    // SAFETY: not so, on purpose; the block is only freed.
    zones.free(unsafe { PageBlock::from_raw(twin, order(0)) });
    assert_eq!(
        zones.validate(),
        Err(ZonesBroken::Accounting(zones.zone(ZoneType::Dma).id()))
    );
}

#[test]
fn a_stock_is_filled_up_to_high_and_no_further() {
    let of = |nr, gfp: Gfp| PageReq::new(order(nr), Gfp::DMA | gfp);
    let movable = Gfp::MOVABLE_PAGE;
    // Pages in stock beside a block of eight, and how many of a batch of three come: one goes out at once.
    for (nr_pages, nr_home, nr_filled) in [(0, 0, 3), (0, 1, 2), (2, 0, 1)] {
        let zones = batched::<Lock>();
        let drain = || zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        let mut near: Vec<_> = (0..500)
            .map(|_| zones.alloc(of(0, movable)).unwrap())
            .collect();
        let _others: Vec<_> = (0..600)
            .map(|_| zones.alloc(of(0, Gfp::empty())).unwrap())
            .collect();
        let mut far: Vec<_> = (0..2048)
            .map(|_| zones.alloc(of(0, movable)).unwrap())
            .collect();
        let last = far.split_off(2040);
        far.into_iter().for_each(|page| zones.free(page));
        drain();
        zones.free(zones.alloc(of(3, movable)).unwrap());
        assert_eq!(stock(&zones)[0], 8);
        if nr_pages > 0 {
            near.push(zones.alloc(of(0, movable)).unwrap());
        }
        last.into_iter()
            .take(nr_home)
            .for_each(|page| zones.free(page));
        let before = stock(&zones)[0];
        assert_eq!(before, 8 + nr_pages + nr_home);
        let _page = zones.alloc(of(0, Gfp::empty())).unwrap();
        assert_eq!(stock(&zones)[0], before - nr_home + nr_filled - 1);
    }
}

#[test]
fn where_pages_are_scattered_a_batch_is_small() {
    let ram = frames(0, 65_536);
    let zones = bare::<Lock>(ZoneLayout::new::<Wide>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    assert_eq!(zones.zone(ZoneType::Dma).pcp_limits().batch, 15);
    let drain = || zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    let mut held: Vec<_> = (0..1024).map(|_| zones.alloc(PAGE).unwrap()).collect();
    drain();
    let batch = || {
        drain();
        let _ = zones.alloc(PAGE).unwrap().into_raw();
        stock(&zones)[0] + 1
    };
    assert_eq!(batch(), 15);
    // Every other page is free.
    held.retain(|page| page.pfn().index() % 2 == 0);
    let other: Vec<_> = held.drain(..300).collect();
    other.into_iter().for_each(|page| zones.free(page));
    assert_eq!(batch(), 15, "it is noticed with the first");
    assert_eq!(batch(), 8);
}

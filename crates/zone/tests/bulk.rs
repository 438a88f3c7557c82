//! Many pages at once against the same oracle as one by one: who holds which frame.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; it counts locks, and bad frees need forged blocks"
)]

mod common;

use core::cell::Cell;
use std::collections::BTreeMap;

use common::{Random, TestZones, bare, boot, bytes_of, frames, order, run_on, small, take_bad};
use kmm_frame::{Gfp, NodeId, NumaItem, Order, PAGE_SIZE, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_zone::{BadReason, FreeAt, Pressure, X86_64, ZoneLayout};

type Lock = spin::Mutex<()>;

thread_local! {
    static LOCKS: Cell<usize> = const { Cell::new(0) };
}

/// Counts how often it is taken.
#[derive(Debug)]
struct Counting(Lock);

// SAFETY: every call goes to a lock.
unsafe impl lock_api::RawMutex for Counting {
    const INIT: Self = Self(Lock::new(()));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        LOCKS.set(LOCKS.get() + 1);
        lock_api::RawMutex::lock(&self.0);
    }

    fn try_lock(&self) -> bool {
        lock_api::RawMutex::try_lock(&self.0)
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        unsafe { lock_api::RawMutex::unlock(&self.0) }
    }
}

fn empty(len: usize) -> Vec<Option<PageBlock>> {
    (0..len).map(|_| None).collect()
}

fn top(gfp: Gfp) -> usize {
    match gfp.zone() {
        ZoneType::Dma => 0,
        ZoneType::Dma32 => 1,
        _ => 2,
    }
}

/// Every frame is held, free on a list, or in stock; the counts say so.
fn compare(zones: &TestZones, held: &BTreeMap<Pfn, PageBlock>) {
    let mut owners = vec![0; 1024];
    for block in held.values() {
        block
            .range()
            .iter()
            .for_each(|pfn| owners[pfn.index()] += 1);
    }
    let mut lists = [[0; 2]; 3];
    zones.for_each_free(|pfn, order, at| {
        let range = PfnRange::with_len(pfn, order.nr_pages());
        range.iter().for_each(|pfn| owners[pfn.index()] += 1);
        let zone = usize::from(pfn.index() >= 64) + usize::from(pfn.index() >= 256);
        lists[zone][usize::from(at != FreeAt::Buddy)] += order.nr_pages();
    });
    assert_eq!(owners, vec![1; 1024], "a frame is lost or held twice");
    for (stat, [free, stock]) in zones.stats().zip(lists) {
        assert_eq!((stat.free, stat.pcp_pages), (free, stock));
        let inside = held
            .values()
            .filter(|block| zones.zone(stat.kind).range().contains(block.pfn()));
        let out: usize = inside.map(|block| block.range().nr_pages()).sum();
        assert_eq!(stat.pgalloc - stat.pgfree, out as u64);
    }
}

#[test]
fn random_batches_match_the_oracle() {
    let mut random = Random::new("random_batches_match_the_oracle", 0xb1);
    for round in 0..12 {
        let zones = small::<Lock>([0, 48, 96][round % 3], PfnRange::EMPTY, 2);
        zones.set_lowmem_reserve_ratio([16, 16, 0, 0, 0, 0]);
        let mut held: BTreeMap<Pfn, PageBlock> = BTreeMap::new();
        let mut served = 0;
        for op in 0..700 {
            run_on(u32::try_from(random.below(2)).unwrap());
            match random.below(5) {
                0..2 => {
                    let gfp = [
                        Gfp::KERNEL,
                        Gfp::KERNEL | Gfp::DMA,
                        Gfp::ATOMIC | Gfp::DMA32,
                        Gfp::MEMALLOC,
                    ][random.below(4)];
                    served += batch(&zones, &mut held, gfp, random.below(200));
                }
                2 => {
                    let req = PageReq::new(random.order(5), Gfp::KERNEL);
                    if let Ok(block) = zones.alloc(req) {
                        held.insert(block.pfn(), block);
                        served += 1;
                    }
                }
                3 => {
                    if let Some((_, block)) = held.pop_first() {
                        zones.free(block);
                    }
                }
                _ => {
                    let wanted = random.below(150);
                    let mut blocks = Vec::new();
                    for _ in 0..wanted.min(held.len()) {
                        let nth = random.below(held.len());
                        let pfn = *held.keys().nth(nth).unwrap();
                        blocks.push(held.remove(&pfn));
                        if random.below(8) == 0 {
                            blocks.push(None);
                        }
                    }
                    zones.free_bulk(&mut blocks);
                    assert!(blocks.iter().all(Option::is_none));
                    // Nothing that a batch puts into a stock fills it.
                    for zone in zones.all() {
                        let high = zone.pcp_limits().high.max(1);
                        assert!(zone.pcp_stats().all(|pcp| pcp.count < high));
                    }
                }
            }
            compare(&zones, &held);
            let hits: u64 = zones.stats().map(|stat| stat.numa[NumaItem::Hit]).sum();
            assert_eq!(hits, served as u64);
            if op % 32 == 0 {
                zones.validate().unwrap();
            }
        }
        let mut all: Vec<_> = held.into_values().map(Some).collect();
        zones.free_bulk(&mut all);
        // SAFETY: this is the only thread.
        unsafe { zones.drain_all() };
        zones.validate().unwrap();
        assert_eq!(zones.nr_free_pages(), 1024);
        assert_eq!(take_bad(), []);
    }
}

/// One batch, and whether it is as much as single requests would have got.
fn batch(zones: &TestZones, held: &mut BTreeMap<Pfn, PageBlock>, gfp: Gfp, len: usize) -> usize {
    let mut out = empty(len);
    let mut free_before: Vec<_> = zones.stats().map(|stat| stat.free).collect();
    let before = free_before.clone();
    let in_stock: Vec<_> = zones.stats().map(|stat| stat.pcp_pages).collect();
    let (count, pressure) = zones.alloc_pages_bulk(gfp, None, &mut out);
    let is_calm = pressure == Pressure::None && gfp.contains(Gfp::KSWAPD_RECLAIM);
    assert!(out[..count].iter().all(Option::is_some));
    assert!(out[count..].iter().all(Option::is_none));
    let stats: Vec<_> = zones.stats().take(3).collect();
    let highest = gfp.zone().index();
    let low = |zone: usize| stats[zone].watermarks.low + stats[zone].protection[highest];
    let above_low = |zone: usize| stats[zone].free > low(zone);
    for block in out.into_iter().flatten() {
        let pfn = block.pfn();
        assert_eq!(block.order(), Order::ZERO);
        let page = zones.map().page(pfn);
        assert_eq!(page.flags(), PageFlags::empty());
        assert_eq!(
            (page.ref_count(), page.private(), page.mapping()),
            (1, 0, 0)
        );
        let zone = usize::from(pfn.index() >= 64) + usize::from(pfn.index() >= 256);
        assert!(zone <= top(gfp));
        free_before[zone] = free_before[zone].saturating_sub(1);
        let in_stock = zone == top(gfp) && in_stock[zone] > 0;
        assert!(
            !is_calm || before[zone] > low(zone) || in_stock,
            "from below low"
        );
        if pressure == Pressure::None {
            assert!(
                (zone + 1..=top(gfp)).all(|above| !above_low(above)),
                "skipped a zone"
            );
        }
        assert!(held.insert(pfn, block).is_none());
    }
    for (zone, stat) in stats.iter().enumerate().filter(|_| is_calm) {
        assert!(stat.free >= before[zone].min(low(zone)), "below low");
    }
    if pressure == Pressure::WakeKswapd {
        // At the end this CPU's stock went back, so the lists may have more by now than when the page was refused.
        for (zone, &left) in free_before.iter().enumerate().take(top(gfp) + 1) {
            assert!(left <= low(zone), "pressure with memory free");
        }
    }
    if count < len {
        let next = zones.alloc(PageReq::page(gfp));
        assert!(next.is_err(), "short with memory free");
        let wakes = gfp.contains(Gfp::KSWAPD_RECLAIM);
        assert_eq!(pressure == Pressure::WakeKswapd, wakes);
    }
    count
}

/// A zone of 16 MiB with pagesets of at most four pages.
fn counted() -> TestZones<Counting> {
    let ram = frames(0, 4096);
    let zones = bare::<Counting>(ZoneLayout::new::<X86_64>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    assert_eq!(zones.zone(ZoneType::Dma).pcp_limits().high, 4);
    LOCKS.set(0);
    zones
}

#[test]
fn a_batch_takes_the_lock_once() {
    let zones = counted();
    let mut out = empty(64);
    assert_eq!(zones.alloc_bulk(Gfp::DMA, None, &mut out), 64);
    assert_eq!(LOCKS.replace(0), 1);
    // Three of them go to the stock, the others back to the lists.
    zones.free_bulk(&mut out);
    let stock: usize = zones
        .zone(ZoneType::Dma)
        .pcp_stats()
        .map(|pcp| pcp.count)
        .sum();
    assert_eq!(stock, 3);
    let looked = if cfg!(debug_assertions) { 3 } else { 0 };
    assert_eq!(LOCKS.replace(0), 1 + looked);
    // What fits the stock takes none.
    let mut few = empty(3);
    assert_eq!(zones.alloc_bulk(Gfp::DMA, None, &mut few), 3);
    assert_eq!(LOCKS.replace(0), 0);
    // A thousand pages: a lock for each 256 that go out, and for each 128 that come back.
    let mut many = empty(1000);
    assert_eq!(zones.alloc_bulk(Gfp::DMA, None, &mut many), 1000);
    assert_eq!(LOCKS.replace(0), 1000_usize.div_ceil(256));
    zones.free_bulk(&mut many);
    assert!(LOCKS.replace(0) <= 1000_usize.div_ceil(128) + looked);
    zones.free_bulk(&mut few);
    assert_eq!(zones.accounting().free, 4096);
    zones.validate().unwrap();
}

/// Pages that somebody wrote to after they were freed look as if they were his, but are on the free lists.
#[test]
#[cfg(not(debug_assertions))]
fn free_pages_whose_descriptor_was_spoiled_are_reported() {
    let zones = counted();
    let mut out = empty(200);
    assert_eq!(zones.alloc_bulk(Gfp::DMA, None, &mut out), 200);
    let mut pfns: Vec<Pfn> = out.iter().flatten().map(PageBlock::pfn).collect();
    zones.free_bulk(&mut out);
    let mut free = Vec::new();
    zones.for_each_free(|pfn, order, at| {
        if at == FreeAt::Buddy {
            free.extend(PfnRange::with_len(pfn, order.nr_pages()).iter());
        }
    });
    pfns.retain(|pfn| free.contains(pfn));
    pfns.truncate(3);
    for &pfn in &pfns {
        zones.map().page(pfn).set_ref_count(1);
    }
    // SAFETY: they belong to the zones: the very mistake that is to be found.
    let again = pfns
        .iter()
        .map(|&pfn| unsafe { PageBlock::from_raw(pfn, Order::ZERO) });
    let mut again: Vec<_> = again.map(Some).collect();
    // The stock is full: all of them go to the free lists.
    zones.free_bulk(&mut again);
    let reported: Vec<_> = take_bad().iter().map(|bad| (bad.pfn, bad.reason)).collect();
    let expected: Vec<_> = pfns
        .iter()
        .map(|&pfn| (pfn, BadReason::DoubleFree))
        .collect();
    assert_eq!(reported, expected);
    assert_eq!(zones.accounting().free, 4096);
    zones.validate().unwrap();
}

#[test]
fn larger_blocks_and_several_zones_go_back_in_one_batch() {
    let zones = small::<Lock>(0, PfnRange::EMPTY, 1);
    let mut blocks: Vec<_> = [
        (Gfp::DMA, 3),
        (Gfp::KERNEL, 0),
        (Gfp::DMA32, 1),
        (Gfp::KERNEL, 8),
    ]
    .into_iter()
    .map(|(gfp, n)| Some(zones.alloc(PageReq::new(order(n), gfp)).unwrap()))
    .collect();
    blocks.insert(1, None);
    assert_eq!(zones.accounting().allocated, 8 + 1 + 2 + 256);
    zones.free_bulk(&mut blocks);
    assert!(blocks.iter().all(Option::is_none));
    assert_eq!(zones.accounting().allocated, 0);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn zeroed_batches_are_zero_and_other_nodes_refused() {
    let zones = small::<Lock>(0, PfnRange::EMPTY, 1);
    let mut out = empty(70);
    let other = zones.alloc_pages_bulk(Gfp::KERNEL, Some(NodeId::new(1)), &mut out);
    assert_eq!(other, (0, Pressure::None));
    assert!(out.iter().all(Option::is_none));
    let node = Some(NodeId::ZERO);
    let zeroed = zones.alloc_pages_bulk(Gfp::KERNEL | Gfp::ZERO, node, &mut out);
    assert_eq!(zeroed, (70, Pressure::None));
    for block in out.iter().flatten() {
        assert_eq!(bytes_of(&zones, block.pfn()), [0; PAGE_SIZE]);
    }
    zones.free_bulk(&mut out);
    assert_eq!(zones.alloc_bulk(Gfp::KERNEL, None, &mut []), 0);
    zones.free_bulk(&mut []);
    zones.validate().unwrap();
}

#[test]
fn bad_blocks_of_a_batch_are_reported_and_the_others_go_back() {
    let zones = small::<Lock>(0, PfnRange::EMPTY, 1);
    let mut out = empty(20);
    assert_eq!(zones.alloc_bulk(Gfp::KERNEL, None, &mut out), 20);
    let pfns: Vec<Pfn> = out.iter().flatten().map(PageBlock::pfn).collect();
    let spoil = |nr: usize| zones.map().page(pfns[nr]);
    spoil(2).set(PageFlags::SLAB);
    spoil(7).get();
    spoil(11).inc_map_count();
    // One twice in the batch, on the lists by then or in the stock; one that is reserved or foreign.
    for nr in [0, 15, 16, 17] {
        // SAFETY: not so, on purpose; the block is only freed, which checks it.
        out.push(Some(unsafe { PageBlock::from_raw(pfns[nr], Order::ZERO) }));
    }
    // SAFETY: as above.
    out.push(Some(unsafe {
        PageBlock::from_raw(Pfn::new(9999), Order::ZERO)
    }));
    zones.free_bulk(&mut out);
    assert!(out.iter().all(Option::is_none));
    let mut bad: Vec<_> = take_bad().iter().map(|bad| (bad.pfn, bad.reason)).collect();
    bad.sort_by_key(|(pfn, _)| *pfn);
    let mut expected = vec![
        (pfns[2], BadReason::Flags(PageFlags::SLAB)),
        (pfns[7], BadReason::RefCount(2)),
        (pfns[11], BadReason::MapCount(1)),
        (pfns[0], BadReason::DoubleFree),
        (pfns[15], BadReason::DoubleFree),
        (pfns[16], BadReason::DoubleFree),
        (pfns[17], BadReason::DoubleFree),
        (Pfn::new(9999), BadReason::Foreign),
    ];
    expected.sort_by_key(|(pfn, _)| *pfn);
    assert_eq!(bad, expected);
    assert_eq!(zones.accounting().allocated, 3);
    assert_eq!(zones.accounting().free, 1021);
    assert!(zones.accounting().adds_up());
    zones.map().page(pfns[2]).clear(PageFlags::SLAB);
    zones.validate().unwrap();
}

/// Debug builds look into the free lists between the question whether there is room and the answer.
#[test]
#[cfg(debug_assertions)]
fn an_interrupt_that_fills_the_stock_leaves_no_room() {
    use common::{InterruptedLock, interrupt_is_pending, interrupt_next_lock};
    let ram = frames(0, 4096);
    let layout = ZoneLayout::new::<X86_64>(ram);
    let zones: &'static TestZones<InterruptedLock> = Box::leak(Box::new(bare(layout, ram, 1)));
    boot(zones, ram, PfnRange::EMPTY, 0);
    let stock = || -> usize {
        let mut pcps = zones.zone(ZoneType::Dma).pcp_stats();
        pcps.next().map(|pcp| pcp.count).unwrap()
    };
    let mut held = empty(6);
    assert_eq!(zones.alloc_bulk(Gfp::DMA, None, &mut held), 6);
    zones.free_bulk(&mut held[..2]);
    assert_eq!(stock(), 2, "one more is below high");
    let other = held[5].take().unwrap();
    interrupt_next_lock(move || zones.free_bulk(&mut [Some(other)]));
    zones.free_bulk(&mut held[2..3]);
    assert!(!interrupt_is_pending());
    assert_eq!(stock(), 3, "the interrupt's page took the room");
    zones.free_bulk(&mut held);
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 4096);
}

#[test]
fn two_cpus_move_batches() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 2);
    let taken: Vec<_> = (0..1024)
        .map(|_| core::sync::atomic::AtomicBool::new(false))
        .collect();
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (zones, taken) = (&zones, &taken);
            scope.spawn(move || {
                run_on(cpu);
                let mut random = Random::new("two_cpus_move_batches", u64::from(cpu) + 9);
                for _ in 0..5_000 {
                    let mut out = empty(random.below(100));
                    let count = zones.alloc_bulk(Gfp::KERNEL, None, &mut out);
                    for block in out[..count].iter().flatten() {
                        let flag = &taken[block.pfn().index()];
                        assert!(!flag.swap(true, core::sync::atomic::Ordering::AcqRel));
                    }
                    for block in out[..count].iter().flatten() {
                        let flag = &taken[block.pfn().index()];
                        assert!(flag.swap(false, core::sync::atomic::Ordering::AcqRel));
                    }
                    zones.free_bulk(&mut out);
                }
                assert_eq!(take_bad(), []);
            });
        }
    });
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 1024);
}

#[test]
fn a_batch_that_ends_early_has_no_gaps() {
    let zones = small::<Lock>(96, PfnRange::EMPTY, 1);
    let mut out: Vec<Option<PageBlock>> = (0..3000).map(|_| None).collect();
    let count = zones.alloc_bulk(Gfp::KERNEL, None, &mut out);
    assert!(0 < count && count < 1024);
    assert!(out[..count].iter().all(Option::is_some));
    assert!(out[count..].iter().all(Option::is_none));
    zones.free_bulk(&mut out);
    zones.validate().unwrap();
}

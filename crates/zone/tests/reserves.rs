//! Who may reach how deep, and what comes back with the page.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{Tiny, bare, exhaust, frames, free_of, order, small};
use kmm_frame::{Gfp, NodeId, Order, PfnRange, ZoneType};
use kmm_host::{AllocError, Cpus, PageReq, PageSource};
use kmm_zone::{Mark, Pressure, Watermarks, ZoneLayout};

type Zones = common::TestZones;

/// Normal has min 72, low 90, high 108, and nothing but Normal is tried: the other zones are held by the test.
fn normal_only() -> Zones {
    let zones = small(96, PfnRange::EMPTY, 1);
    for block in exhaust(&zones, Gfp::DMA32 | Gfp::MEMALLOC) {
        let _ = block.into_raw();
    }
    assert_eq!(
        free_of(&zones, ZoneType::Dma) + free_of(&zones, ZoneType::Dma32),
        0
    );
    let marks = zones.zone(ZoneType::Normal).watermarks();
    assert_eq!((marks.min, marks.low, marks.high), (72, 90, 108));
    zones
}

/// What is left of Normal when a request of these flags fails.
fn left_after(gfp: Gfp) -> usize {
    let zones = normal_only();
    let held = exhaust(&zones, gfp);
    assert_eq!(
        zones.alloc(PageReq::page(gfp)),
        Err(AllocError::OutOfMemory)
    );
    zones.validate().unwrap();
    let left = free_of(&zones, ZoneType::Normal);
    assert_eq!(held.len() + left, 768);
    left
}

#[test]
fn ordinary_requests_stop_at_min() {
    assert_eq!(left_after(Gfp::KERNEL), 72);
    assert_eq!(left_after(Gfp::NOWAIT), 72);
    assert_eq!(left_after(Gfp::HIGHUSER_MOVABLE), 72);
}

#[test]
fn urgent_requests_dip_below_min() {
    // min - min/2; then a quarter of that less.
    assert_eq!(left_after(Gfp::KERNEL | Gfp::HIGH), 36);
    assert_eq!(left_after(Gfp::ATOMIC), 27);
    assert_eq!(left_after(Gfp::ATOMIC | Gfp::NOMEMALLOC), 36);
    assert_eq!(left_after(Gfp::ATOMIC_CALLER), 54);
}

#[test]
fn requests_that_free_memory_soon_get_everything() {
    assert_eq!(left_after(Gfp::KERNEL | Gfp::MEMALLOC), 0);
    assert_eq!(left_after(Gfp::MEMALLOC), 0);
    assert_eq!(
        left_after(Gfp::KERNEL | Gfp::MEMALLOC | Gfp::NOMEMALLOC),
        72
    );
}

#[test]
fn pressure_begins_at_low() {
    let zones = normal_only();
    let mut calm = 0;
    loop {
        let (block, pressure) = zones.alloc_pages(PageReq::page(Gfp::KERNEL)).unwrap();
        let _ = block.into_raw();
        if pressure == Pressure::WakeKswapd {
            break;
        }
        calm += 1;
    }
    // Batches of one: the page that found the zone at low was the first to be served under pressure.
    assert_eq!(calm, 768 - 90);
    assert!(
        !zones
            .zone(ZoneType::Normal)
            .watermark_ok(Order::ZERO, Mark::Low, ZoneType::Normal)
    );
    assert!(
        zones
            .zone(ZoneType::Normal)
            .watermark_ok(Order::ZERO, Mark::Min, ZoneType::Normal)
    );
    // Who does not ask for kswapd does not wake it.
    let (_, pressure) = zones
        .alloc_pages(PageReq::page(Gfp::DIRECT_RECLAIM))
        .unwrap();
    assert_eq!(pressure, Pressure::None);
}

#[test]
fn balance_is_reached_at_high() {
    let zones = normal_only();
    let mut held = exhaust(&zones, Gfp::KERNEL);
    let balanced = |zones: &Zones| {
        zones
            .zone(ZoneType::Normal)
            .watermark_ok(Order::ZERO, Mark::High, ZoneType::Normal)
    };
    let mut freed = 0;
    while !balanced(&zones) {
        zones.free(held.pop().unwrap());
        zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        freed += 1;
    }
    assert_eq!(freed, 108 + 1 - 72);
}

#[test]
fn who_reclaims_may_stop_at_high() {
    let zones = normal_only();
    let node = zones.node(NodeId::ZERO);
    let balanced = |order, highest| node.is_balanced(order, highest);
    assert!(balanced(Order::ZERO, ZoneType::Normal));
    // Crossing low is what begins it, and low is not where it ends.
    let mut held = Vec::new();
    let mut wake = Pressure::None;
    while wake == Pressure::None {
        let (block, pressure) = zones.alloc_pages(PageReq::page(Gfp::KERNEL)).unwrap();
        wake = pressure;
        held.push(block);
    }
    assert!(!balanced(Order::ZERO, ZoneType::Normal));
    while !balanced(Order::ZERO, ZoneType::Normal) {
        zones.free(held.pop().unwrap());
        zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    }
    assert_eq!(free_of(&zones, ZoneType::Normal), 108 + 1);
    // There are pages enough, and no block.
    assert!(!balanced(Order::PAGEBLOCK, ZoneType::Normal));
    // Zones below have nothing; one that is above the request's highest does not count.
    assert!(!balanced(Order::ZERO, ZoneType::Dma32));
    // Reserves count: what is kept from requests that another zone could serve is not theirs.
    let zones = small::<spin::Mutex<()>>(96, PfnRange::EMPTY, 1);
    zones.set_lowmem_reserve_ratio([0, 1, 0, 0, 0, 0]);
    let node = zones.node(NodeId::ZERO);
    let _held = exhaust(&zones, Gfp::KERNEL);
    assert!(free_of(&zones, ZoneType::Dma32) > zones.zone(ZoneType::Dma32).watermarks().high);
    assert!(!node.is_balanced(Order::ZERO, ZoneType::Normal));
    assert!(node.is_balanced(Order::ZERO, ZoneType::Dma32));
    // Nobody reclaims where there is no memory.
    let none = bare::<spin::Mutex<()>>(ZoneLayout::new::<Tiny>(frames(0, 64)), frames(0, 64), 1);
    assert!(
        none.node(NodeId::ZERO)
            .is_balanced(Order::ZERO, ZoneType::Normal)
    );
}

#[test]
fn large_requests_leave_the_mark_as_well() {
    let zones = normal_only();
    let marks = zones.zone(ZoneType::Normal).watermarks();
    let mut nr = 0;
    while zones
        .alloc(PageReq::new(order(4), Gfp::KERNEL))
        .map(|b| b.into_raw())
        .is_ok()
    {
        nr += 1;
    }
    let left = free_of(&zones, ZoneType::Normal);
    assert_eq!(left, 768 - 16 * nr);
    // free - 15 <= min refuses.
    assert!(
        left - 15 <= marks.min && left + 16 - 15 > marks.min,
        "{left}"
    );
}

#[test]
fn lower_zones_keep_their_reserve_from_higher_requests() {
    let zones = small::<spin::Mutex<()>>(96, PfnRange::EMPTY, 1);
    zones.set_lowmem_reserve_ratio([16, 16, 0, 0, 0, 0]);
    let dma32 = zones.zone(ZoneType::Dma32);
    let min = |kind| zones.zone(kind).watermarks().min;
    assert_eq!(dma32.protection()[ZoneType::Normal.index()], 48);
    let held = exhaust(&zones, Gfp::KERNEL);
    assert_eq!(free_of(&zones, ZoneType::Normal), min(ZoneType::Normal));
    assert_eq!(free_of(&zones, ZoneType::Dma32), min(ZoneType::Dma32) + 48);
    // (192 + 768) / 16 of DMA; with its mark that is more than it has.
    assert_eq!(free_of(&zones, ZoneType::Dma), 64);
    // Requests that cannot be served higher up get it.
    let more = exhaust(&zones, Gfp::KERNEL | Gfp::DMA32);
    assert_eq!(free_of(&zones, ZoneType::Dma32), min(ZoneType::Dma32));
    assert_eq!(free_of(&zones, ZoneType::Dma), min(ZoneType::Dma) + 12);
    let last = exhaust(&zones, Gfp::KERNEL | Gfp::DMA);
    assert_eq!(free_of(&zones, ZoneType::Dma), min(ZoneType::Dma));
    assert_eq!(last.len(), 12);
    for block in held.into_iter().chain(more).chain(last) {
        zones.free(block);
    }
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 1024);
}

#[test]
fn failure_changes_nothing() {
    let zones = normal_only();
    let _held = exhaust(&zones, Gfp::KERNEL);
    let before: Vec<_> = zones.stats().collect();
    for gfp in [Gfp::KERNEL, Gfp::NOWAIT, Gfp::KERNEL | Gfp::DMA] {
        for n in 0..=10 {
            let req = PageReq::new(order(n), gfp);
            assert_eq!(zones.alloc(req), Err(AllocError::OutOfMemory));
        }
    }
    assert_eq!(zones.stats().collect::<Vec<_>>(), before);
}

#[test]
fn other_nodes_do_not_exist() {
    let zones = small::<spin::Mutex<()>>(96, PfnRange::EMPTY, 1);
    let req = |node| PageReq {
        order: Order::ZERO,
        gfp: Gfp::KERNEL | Gfp::THISNODE,
        node: Some(NodeId::new(node)),
    };
    assert_eq!(zones.alloc(req(1)), Err(AllocError::NoSuchNode));
    zones.free(zones.alloc(req(0)).unwrap());
}

#[test]
fn marks_can_be_changed_while_pages_are_out() {
    let zones = normal_only();
    let held = exhaust(&zones, Gfp::KERNEL);
    zones.init_watermarks(0, 0);
    assert_eq!(
        zones.zone(ZoneType::Normal).watermarks(),
        Watermarks::default()
    );
    let more = exhaust(&zones, Gfp::KERNEL);
    assert_eq!(more.len(), 72);
    for block in held.into_iter().chain(more) {
        zones.free(block);
    }
    zones.validate().unwrap();
}

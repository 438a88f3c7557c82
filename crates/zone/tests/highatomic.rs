//! What is kept back for urgent requests, what devices lend, and what is not mixed.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use common::{Tiny, bare, boot, exhaust, frames, order, take_bad};
use kmm_frame::{Gfp, MigrateType, NodeId, NodeMask, Order, Pfn, PfnRange, ZoneType};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};
use kmm_zone::{Mark, Pressure, Unreserve, ZoneLayout, ZoneLimits};

type Lock = spin::Mutex<()>;
type Zones = common::TestZones<Lock>;

/// Everything is Normal.
#[derive(Debug)]
struct OneZone;

impl ZoneLimits for OneZone {
    const DMA_END: Option<Pfn> = None;
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = None;
}

/// 64 Ki frames: a hundredth is more than a pageblock. min 1024, low 1280.
fn large() -> Zones {
    let ram = frames(0, 65_536);
    let zones = bare::<Lock>(ZoneLayout::new::<OneZone>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 1024);
    let marks = zones.zone(ZoneType::Normal).watermarks();
    assert_eq!((marks.min, marks.low), (1024, 1280));
    zones
}

fn normal(zones: &Zones) -> &kmm_zone::Zone<Lock> {
    zones.zone(ZoneType::Normal)
}

/// Pages that nobody gives back, until only the low mark is free.
fn down_to_low(zones: &Zones) {
    loop {
        let (block, pressure) = zones
            .alloc_pages(PageReq::new(order(3), Gfp::NOWAIT))
            .unwrap();
        let _ = block.into_raw();
        if pressure == Pressure::WakeKswapd {
            return;
        }
    }
}

fn order3(gfp: Gfp) -> PageReq {
    PageReq::new(order(3), gfp)
}

#[test]
fn urgent_requests_of_higher_order_keep_a_pageblock_back() {
    let zones = large();
    let zone = normal(&zones);
    // Above the low mark they are as any other.
    zones.free(zones.alloc(order3(Gfp::ATOMIC)).unwrap());
    assert_eq!(zone.nr_reserved_highatomic(), 0);
    down_to_low(&zones);
    let urgent = zones.alloc(order3(Gfp::ATOMIC)).unwrap();
    assert_eq!(zone.nr_reserved_highatomic(), 512);
    assert_eq!(
        zone.pageblock_type(urgent.pfn()),
        Some(MigrateType::HighAtomic)
    );
    // The next one finds it first.
    let next = zones.alloc(order3(Gfp::ATOMIC)).unwrap();
    assert_eq!(
        zone.pageblock_type(next.pfn()),
        Some(MigrateType::HighAtomic)
    );
    assert_eq!(zone.nr_reserved_highatomic(), 512);
    // Single pages, however urgent, keep nothing back.
    let page = zones.alloc(PageReq::page(Gfp::ATOMIC)).unwrap();
    assert_ne!(
        zone.pageblock_type(page.pfn()),
        Some(MigrateType::HighAtomic)
    );
    for block in [urgent, next, page] {
        zones.free(block);
    }
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn what_is_kept_back_is_not_free_for_others() {
    let zones = large();
    let zone = normal(&zones);
    down_to_low(&zones);
    let urgent = zones.alloc(order3(Gfp::ATOMIC)).unwrap();
    let reserved = zone.nr_free_by_type()[MigrateType::HighAtomic.index()];
    let reserved: usize = (0..11).map(|n| reserved[n] << n).sum();
    assert!(reserved > 0 && reserved < 512, "{reserved}");
    // Others stop at min of what is theirs.
    let held = exhaust(&zones, Gfp::NOWAIT);
    assert_eq!(zone.nr_free_pages(), 1024 + reserved);
    assert!(!zone.watermark_ok(Order::ZERO, Mark::Min, ZoneType::Normal));
    // Urgent ones go on: half of min, and a quarter less, and the reserve counts.
    let urgent_pages = exhaust(&zones, Gfp::ATOMIC);
    assert_eq!(zone.nr_free_pages(), 384);
    for block in held.into_iter().chain(urgent_pages).chain([urgent]) {
        zones.free(block);
    }
    zones.validate().unwrap();
}

#[test]
fn the_reserve_is_given_back_before_a_request_fails() {
    let zones = large();
    let zone = normal(&zones);
    down_to_low(&zones);
    // Two pageblocks kept back, and freed: a third half does not fit into the first.
    let half = PageReq::new(order(8), Gfp::ATOMIC);
    let urgent: Vec<PageBlock> = (0..3).map(|_| zones.alloc(half).unwrap()).collect();
    let nr_reserved = zone.nr_reserved_highatomic();
    assert_eq!(nr_reserved, 2 * 512);
    urgent.into_iter().for_each(|block| zones.free(block));
    // Who cannot wait does not touch it.
    let nowait = exhaust(&zones, Gfp::NOWAIT);
    assert_eq!(zone.nr_reserved_highatomic(), nr_reserved);
    // Who can leaves one pageblock.
    let _waiting = exhaust(&zones, Gfp::KERNEL);
    assert_eq!(zone.nr_reserved_highatomic(), 512);
    // The last goes by force only, then there are pages again.
    let list = || zones.zonelist(NodeId::ZERO, NodeMask::ALL, ZoneType::Normal);
    let give = |how| zones.unreserve_highatomic(list(), MigrateType::Unmovable, how);
    assert!(!give(Unreserve::ButOne));
    assert_eq!(
        zones.alloc(PageReq::page(Gfp::KERNEL)),
        Err(AllocError::OutOfMemory)
    );
    assert!(give(Unreserve::All));
    assert_eq!(zone.nr_reserved_highatomic(), 0);
    assert!(!give(Unreserve::All));
    assert!(zones.alloc(PageReq::page(Gfp::KERNEL)).is_ok());
    drop(nowait);
    zones.validate().unwrap();
}

#[test]
fn frames_that_a_device_lends_are_for_movable_pages_only() {
    let ram = frames(0, 8192);
    let zones = bare::<Lock>(ZoneLayout::new::<OneZone>(ram), ram, 1);
    zones.add_present(ram);
    assert_eq!(zones.free_at_boot(frames(0, 4096)), Ok(4096));
    assert_eq!(zones.free_cma_at_boot(frames(4096, 8192)), Ok(4096));
    assert!(zones.free_cma_at_boot(frames(4096, 4608)).is_err());
    zones.init_watermarks(0, 0);
    let zone = normal(&zones);
    assert_eq!(zone.count(kmm_frame::ZoneItem::FreeCma), 4096);
    let is_lent = |block: &PageBlock| zone.pageblock_type(block.pfn()) == Some(MigrateType::Cma);
    let unmovable = exhaust(&zones, Gfp::KERNEL);
    assert_eq!(unmovable.len(), 4096);
    assert!(!unmovable.iter().any(is_lent));
    let movable = exhaust(&zones, Gfp::HIGHUSER_MOVABLE);
    assert!(movable.len() >= 4096);
    assert_eq!(movable.iter().filter(|block| is_lent(block)).count(), 4096);
    for block in unmovable.into_iter().chain(movable) {
        zones.free(block);
    }
    zones.validate().unwrap();
    assert_eq!(zone.count(kmm_frame::ZoneItem::FreeCma), 4096);
}

#[test]
fn the_zone_below_comes_before_a_mixed_pageblock() {
    // DMA32 has whole pageblocks here; Normal's are in use but for a few movable pages.
    #[derive(Debug)]
    struct Two;
    impl ZoneLimits for Two {
        const DMA_END: Option<Pfn> = None;
        const DMA32_END: Option<Pfn> = Some(Pfn::new(4096));
        const LOWMEM_END: Option<Pfn> = None;
    }
    let ram = frames(0, 8192);
    let zones = bare::<Lock>(ZoneLayout::new::<Two>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    zones.init_watermarks(0, 0);
    zones.set_lowmem_reserve_ratio([0; 6]);
    let zone_of = |block: &PageBlock| zones.zone_of(block.pfn()).unwrap().kind();
    // All of Normal as movable blocks, and a hole of half a pageblock in each.
    let mut holes = Vec::new();
    for _ in 0..8 {
        let movable = PageReq::new(order(8), Gfp::HIGHUSER_MOVABLE);
        let [one, two] = [zones.alloc(movable).unwrap(), zones.alloc(movable).unwrap()];
        assert_eq!(
            (zone_of(&one), zone_of(&two)),
            (ZoneType::Normal, ZoneType::Normal)
        );
        let _ = one.into_raw();
        holes.push(two);
    }
    holes.into_iter().for_each(|block| zones.free(block));
    let unmovable = zones.alloc(PageReq::new(order(4), Gfp::KERNEL)).unwrap();
    assert_eq!(zone_of(&unmovable), ZoneType::Dma32);
    let movable = zones
        .alloc(PageReq::new(order(4), Gfp::HIGHUSER_MOVABLE))
        .unwrap();
    assert_eq!(zone_of(&movable), ZoneType::Normal);
    // Where the zone below has nothing either, the first zone has it.
    let gfp = Gfp::KERNEL | Gfp::DMA32;
    while zones.alloc(PageReq::new(order(4), gfp)).is_ok() {}
    let unmovable = zones.alloc(PageReq::new(order(4), Gfp::KERNEL)).unwrap();
    assert_eq!(zone_of(&unmovable), ZoneType::Normal);
}

#[test]
fn a_large_request_needs_a_block_not_only_pages() {
    let ram = frames(0, 1024);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    let zone = normal(&zones);
    assert!(zone.watermark_ok(order(3), Mark::High, ZoneType::Normal));
    let all = exhaust(&zones, Gfp::HIGHUSER_MOVABLE);
    let (even, odd): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|block| block.pfn().index() % 2 == 0);
    even.into_iter().for_each(|block| zones.free(block));
    // SAFETY: this is the only thread.
    #[allow(unsafe_code, reason = "stocks go home")]
    unsafe {
        zones.drain_all()
    };
    assert!(zone.watermark_ok(Order::ZERO, Mark::High, ZoneType::Normal));
    assert!(zone.nr_free_pages() > 100);
    assert!(!zone.watermark_ok(order(1), Mark::Min, ZoneType::Normal));
    odd.into_iter().for_each(|block| zones.free(block));
}

#[test]
fn who_may_take_everything_keeps_nothing_back() {
    let zones = large();
    let zone = normal(&zones);
    down_to_low(&zones);
    exhaust(&zones, Gfp::NOWAIT).into_iter().for_each(|page| {
        let _ = page.into_raw();
    });
    let all = order3(Gfp::KERNEL | Gfp::MEMALLOC);
    let taken: Vec<_> = core::iter::from_fn(|| zones.alloc(all).ok()).collect();
    assert!(taken.len() > 1024 / 8 / 2);
    assert_eq!(zone.nr_reserved_highatomic(), 0);
    zones.validate().unwrap();
}

#[test]
fn who_may_not_leave_dma32_upwards_mixes_its_pageblocks_before_going_to_dma() {
    #[derive(Debug)]
    struct Three;
    impl ZoneLimits for Three {
        const DMA_END: Option<Pfn> = Some(Pfn::new(1024));
        const DMA32_END: Option<Pfn> = Some(Pfn::new(4096));
        const LOWMEM_END: Option<Pfn> = None;
    }
    let ram = frames(0, 8192);
    let zones = bare::<Lock>(ZoneLayout::new::<Three>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    zones.init_watermarks(0, 0);
    zones.set_lowmem_reserve_ratio([0; 6]);
    let zone_of = |block: &PageBlock| zones.zone_of(block.pfn()).unwrap().kind();
    // All of DMA32 as movable blocks, and a hole of half a pageblock in each.
    let movable = PageReq::new(order(8), Gfp::DMA32 | Gfp::MOVABLE_PAGE);
    let blocks: Vec<_> = (0..12).map(|_| zones.alloc(movable).unwrap()).collect();
    assert!(blocks.iter().all(|block| zone_of(block) == ZoneType::Dma32));
    let (holes, _kept): (Vec<_>, Vec<_>) = blocks
        .into_iter()
        .partition(|block| block.pfn().index() % 512 == 0);
    holes.into_iter().for_each(|block| zones.free(block));
    let unmovable = PageReq::new(order(4), Gfp::KERNEL | Gfp::DMA32);
    let unmovable = zones.alloc(unmovable).unwrap();
    assert_eq!(zone_of(&unmovable), ZoneType::Dma32);
}

#[test]
fn a_stock_is_not_filled_from_below_the_low_mark() {
    let zones = large();
    let zone = normal(&zones);
    loop {
        let pair = PageReq::new(order(1), Gfp::NOWAIT);
        let (block, pressure) = zones.alloc_pages(pair).unwrap();
        let _ = block.into_raw();
        if pressure == Pressure::WakeKswapd {
            break;
        }
        assert!(zone.nr_free_pages() >= zone.watermarks().low);
    }
    assert_eq!(zone.nr_free_pages(), zone.watermarks().low - 2);
}

#[test]
fn movable_pages_mix_with_others_in_normal_before_they_go_to_dma32() {
    #[derive(Debug)]
    struct Two;
    impl ZoneLimits for Two {
        const DMA_END: Option<Pfn> = None;
        const DMA32_END: Option<Pfn> = Some(Pfn::new(4096));
        const LOWMEM_END: Option<Pfn> = None;
    }
    let ram = frames(0, 8192);
    let layout = ZoneLayout::new::<Two>(ram).with_movable_from(Pfn::new(7168));
    let zones = bare::<Lock>(layout, ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    zones.init_watermarks(0, 0);
    zones.set_lowmem_reserve_ratio([0; 6]);
    let zone_of = |block: &PageBlock| zones.zone_of(block.pfn()).unwrap().kind();
    // All of Normal as unmovable blocks, and a hole of half a pageblock in each.
    let unmovable = PageReq::new(order(8), Gfp::KERNEL);
    let blocks: Vec<_> = (0..12).map(|_| zones.alloc(unmovable).unwrap()).collect();
    assert!(blocks.iter().all(|it| zone_of(it) == ZoneType::Normal));
    let (holes, _kept): (Vec<_>, Vec<_>) = blocks
        .into_iter()
        .partition(|block| block.pfn().index() % 512 == 0);
    holes.into_iter().for_each(|block| zones.free(block));
    let movable = |n| zones.alloc(PageReq::new(order(n), Gfp::HIGHUSER_MOVABLE));
    let own = [movable(9).unwrap(), movable(9).unwrap()];
    assert!(own.iter().all(|it| zone_of(it) == ZoneType::Movable));
    assert_eq!(zone_of(&movable(4).unwrap()), ZoneType::Normal);
}

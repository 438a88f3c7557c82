//! Where zones begin and end, and what empty ones do.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{Tiny, bare, boot, frames, free_of, small};
use kmm_frame::{Gfp, MemMap, NumaItem, Order, Page, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{PageReq, PageSource};
use kmm_zone::{
    FreeError, LayoutError, NodeLayouts, X86, X86_64, ZoneLayout, ZoneLimits, Zones, ZonesError,
};

type Lock = spin::Mutex<()>;

const MIB: usize = 256;

#[test]
fn x86_64_has_dma_dma32_and_normal() {
    let layout = ZoneLayout::new::<X86_64>(frames(1, 8192 * MIB));
    assert_eq!(layout.range(ZoneType::Dma), frames(1, 16 * MIB));
    assert_eq!(layout.range(ZoneType::Dma32), frames(16 * MIB, 4096 * MIB));
    // As in /proc/zoneinfo of a large machine: Normal starts at pfn 1048576.
    assert_eq!(
        layout.range(ZoneType::Normal),
        frames(1_048_576, 8192 * MIB)
    );
    assert!(layout.range(ZoneType::HighMem).is_empty());
    assert!(!layout.is_configured(ZoneType::HighMem));
    assert!(layout.is_configured(ZoneType::Movable));
    assert_eq!(layout.nr_pcps(4), 12);
}

#[test]
fn zones_without_frames_are_legal() {
    let layout = ZoneLayout::new::<X86_64>(frames(1, 64 * MIB));
    assert!(layout.range(ZoneType::Normal).is_empty());
    assert!(layout.is_configured(ZoneType::Normal));
    assert_eq!(layout.zone_of(Pfn::new(64 * MIB)), None);
    assert_eq!(layout.zone_of(Pfn::new(0)), None);
    assert_eq!(layout.nr_pcps(2), 4);
    let high = ZoneLayout::new::<X86_64>(frames(5000 * MIB, 6000 * MIB));
    assert_eq!(high.nr_pcps(1), 1);
    assert_eq!(ZoneLayout::new::<X86_64>(PfnRange::EMPTY).nr_pcps(1), 0);
}

#[test]
fn without_limits_for_devices_there_is_no_dma_zone() {
    struct FullDma;
    impl ZoneLimits for FullDma {
        const DMA_END: Option<Pfn> = None;
        const DMA32_END: Option<Pfn> = None;
        const LOWMEM_END: Option<Pfn> = None;
    }
    let ram = frames(0, 8192 * MIB);
    let layout = ZoneLayout::new::<FullDma>(ram);
    assert_eq!(layout.range(ZoneType::Normal), ram);
    for none in [ZoneType::Dma, ZoneType::Dma32, ZoneType::HighMem] {
        assert!(!layout.is_configured(none), "{none}");
        assert!(layout.range(none).is_empty(), "{none}");
    }
    assert_eq!(layout.nr_pcps(1), 1);
}

#[test]
fn x86_has_highmem_above_896_mib() {
    let layout = ZoneLayout::new::<X86>(frames(0, 2048 * MIB));
    assert_eq!(layout.range(ZoneType::Normal), frames(16 * MIB, 896 * MIB));
    assert_eq!(
        layout.range(ZoneType::HighMem),
        frames(896 * MIB, 2048 * MIB)
    );
    assert!(!layout.is_configured(ZoneType::Dma32));
    let small = ZoneLayout::new::<X86>(frames(0, 128 * MIB));
    assert_eq!(small.range(ZoneType::Normal), frames(16 * MIB, 128 * MIB));
    assert!(small.range(ZoneType::HighMem).is_empty());
}

#[test]
fn movable_frames_come_from_the_highest_zone() {
    let layout = ZoneLayout::new::<Tiny>(frames(0, 1024)).with_movable_from(Pfn::new(512));
    assert_eq!(layout.range(ZoneType::Normal), frames(256, 512));
    assert_eq!(layout.range(ZoneType::Movable), frames(512, 1024));
    let all = ZoneLayout::new::<Tiny>(frames(0, 1024)).with_movable_from(Pfn::new(8));
    assert!(all.range(ZoneType::Normal).is_empty());
    assert_eq!(all.range(ZoneType::Movable), frames(256, 1024));
    assert_eq!(all.range(ZoneType::Dma32), frames(64, 256));
    let none = ZoneLayout::new::<Tiny>(frames(0, 1024)).with_movable_from(Pfn::new(4096));
    assert!(none.range(ZoneType::Movable).is_empty());
    assert_eq!(none.range(ZoneType::Normal), frames(256, 1024));
}

#[test]
fn only_movable_requests_reach_the_movable_zone() {
    let ram = frames(0, 1024);
    let layout = ZoneLayout::new::<Tiny>(ram).with_movable_from(Pfn::new(512));
    let zones = bare::<Lock>(layout, ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 64);
    let zone_of = |gfp| {
        let block = zones.alloc(PageReq::page(gfp)).unwrap();
        let kind = zones.zone_of(block.pfn()).unwrap().kind();
        zones.free(block);
        kind
    };
    assert_eq!(zone_of(Gfp::HIGHUSER_MOVABLE), ZoneType::Movable);
    assert_eq!(zone_of(Gfp::KERNEL | Gfp::MOVABLE_PAGE), ZoneType::Normal);
    assert_eq!(zone_of(Gfp::HIGHUSER), ZoneType::Normal);
    assert_eq!(zone_of(Gfp::KERNEL), ZoneType::Normal);
}

#[test]
fn device_frames_never_enter_the_allocator() {
    let layout = ZoneLayout::new::<Tiny>(frames(0, 512));
    assert_eq!(
        layout.with_device(frames(500, 600)),
        Err(LayoutError::Overlap)
    );
    let layout = layout.with_device(frames(512, 600)).unwrap();
    let zones = bare::<Lock>(layout, frames(0, 600), 1);
    zones.add_present(frames(0, 600));
    assert_eq!(zones.zone(ZoneType::Device).present_pages(), 88);
    assert_eq!(
        zones.free_at_boot(frames(500, 513)),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(zones.nr_free_pages(), 0);
    let zone = zones.zone_of(Pfn::new(513)).unwrap();
    assert_eq!(zone.kind(), ZoneType::Device);
}

#[test]
fn requests_fall_back_to_lower_zones_only() {
    let zones = small::<Lock>(0, PfnRange::EMPTY, 1);
    zones.set_lowmem_reserve_ratio([0; 6]);
    let mut seen = Vec::new();
    while let Ok(block) = zones.alloc(PageReq::page(Gfp::KERNEL)) {
        seen.push(zones.zone_of(block.pfn()).unwrap().kind());
    }
    let count = |kind| seen.iter().filter(|other| **other == kind).count();
    assert_eq!(count(ZoneType::Normal), 768);
    assert_eq!(count(ZoneType::Dma32), 192);
    assert_eq!(count(ZoneType::Dma), 64);
    seen.dedup();
    assert_eq!(seen, [ZoneType::Normal, ZoneType::Dma32, ZoneType::Dma]);

    let zones = small::<Lock>(0, PfnRange::EMPTY, 1);
    let dma = common::exhaust(&zones, Gfp::KERNEL | Gfp::DMA);
    assert_eq!(dma.len(), 64);
    assert!(dma.iter().all(|block| block.pfn() < Pfn::new(64)));
    let dma32 = common::exhaust(&zones, Gfp::KERNEL | Gfp::DMA32);
    assert!(dma32.iter().all(|block| block.pfn() < Pfn::new(256)));
    assert_eq!(free_of(&zones, ZoneType::Normal), 768);
}

#[test]
fn holes_are_spanned_but_not_present() {
    let ram = frames(0, 1024);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 1);
    zones.add_present(frames(0, 40));
    zones.add_present(frames(50, 300));
    zones.add_present(frames(900, 5000));
    let dma = zones.zone(ZoneType::Dma).stat();
    assert_eq!((dma.spanned, dma.present, dma.managed), (64, 54, 0));
    let normal = zones.zone(ZoneType::Normal).stat();
    assert_eq!((normal.spanned, normal.present), (768, 44 + 124));
    assert_eq!(normal.start_pfn, Pfn::new(256));
    assert_eq!(zones.free_at_boot(frames(60, 70)), Ok(10));
    assert_eq!(zones.zone(ZoneType::Dma).managed_pages(), 4);
    assert_eq!(zones.zone(ZoneType::Dma32).managed_pages(), 6);
    assert_eq!(zones.managed_pages(), 10);
    assert!(zones.accounting().adds_up());
    assert_eq!(zones.accounting().reserved, 40 + 250 + 124 - 10);
}

#[test]
fn frames_are_given_to_the_allocator_once() {
    let zones = small::<Lock>(64, frames(100, 110), 1);
    let before = zones.accounting();
    assert_eq!(before.reserved, 10);
    assert_eq!(
        zones.free_at_boot(frames(95, 105)),
        Err(FreeError::AlreadyFree)
    );
    assert_eq!(
        zones.free_at_boot(frames(1024, 1030)),
        Err(FreeError::OutsideZone)
    );
    let held = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    let range = held.range();
    assert_eq!(zones.free_at_boot(range), Err(FreeError::AlreadyFree));
    zones.free(held);
    assert_eq!(zones.accounting(), before);
    assert!(zones.map().page(Pfn::new(103)).test(PageFlags::RESERVED));
    // What only boot needed comes later.
    if cfg!(debug_assertions) {
        // Others do not look at descriptors here.
        assert_eq!(
            zones.free_at_boot(frames(100, 110)),
            Err(FreeError::Reserved)
        );
    }
    assert_eq!(zones.free_reserved(frames(100, 110)), Ok(10));
    assert_eq!(
        zones.free_reserved(frames(100, 110)),
        Err(FreeError::AlreadyFree)
    );
    assert_eq!(zones.accounting().reserved, 0);
    zones.validate().unwrap();
}

#[test]
#[cfg(debug_assertions)]
fn frames_that_somebody_has_are_not_given_to_the_allocator() {
    let ram = frames(0, 1024);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 1);
    zones.add_present(ram);
    let page = zones.map().page(Pfn::new(300));
    page.set_ref_count(1);
    assert_eq!(zones.free_at_boot(ram), Err(FreeError::AlreadyFree));
    page.set_ref_count(0);
    page.set_private(7);
    assert_eq!(zones.free_at_boot(ram), Err(FreeError::AlreadyFree));
    assert_eq!(zones.managed_pages(), 0);
    page.set_private(0);
    assert_eq!(zones.free_at_boot(ram), Ok(1024));
}

#[test]
fn the_zone_tells_what_is_highmem() {
    use kmm_zone::{X86, X86_64};
    let first_high = (896 << 20) >> 12;
    let ram = frames(0, 1 << 18);
    for movable_from in [
        None,
        Some(first_high - 5),
        Some(first_high + 1000),
        Some(first_high),
    ] {
        let layout = ZoneLayout::new::<X86>(ram);
        let layout = movable_from.map_or(layout, |pfn| layout.with_movable_from(Pfn::new(pfn)));
        for pfn in [0, 4096, first_high - 6, first_high - 1] {
            assert!(!layout.is_highmem(Pfn::new(pfn)), "{pfn} {movable_from:?}");
        }
        for pfn in [first_high, first_high + 2000, (1 << 18) - 1] {
            assert!(layout.is_highmem(Pfn::new(pfn)), "{pfn} {movable_from:?}");
        }
        assert!(!layout.is_highmem(ram.end()), "no RAM");
    }
    // Of a machine with less memory, the movable zone is taken from below.
    let low = ZoneLayout::new::<X86>(frames(0, 65_536)).with_movable_from(Pfn::new(60_000));
    assert!((0..65_536).all(|pfn| !low.is_highmem(Pfn::new(pfn))));
    // With 64 bits there is none.
    let wide = ZoneLayout::new::<X86_64>(frames(0, 1 << 21)).with_movable_from(Pfn::new(1 << 20));
    assert!(
        ram.iter()
            .chain(frames(1 << 20, 1 << 21).iter())
            .all(|pfn| !wide.is_highmem(pfn))
    );
}

#[test]
fn zones_want_descriptors_and_pagesets() {
    let pages: Vec<Page> = (0..600).map(|_| Page::new()).collect();
    let map = MemMap::new(frames(0, 600), pages.leak()).unwrap();
    let make_with = |nr_nodes, nr_cpus, end, nr_pcps, nr_pageblocks, nr_free_bits| {
        let zones: common::TestZones = Zones::new(
            map,
            common::ThreadCpus(2),
            *small::<Lock>(0, PfnRange::EMPTY, 1).phys(),
            &NodeLayouts::single(ZoneLayout::new::<Tiny>(frames(0, end))),
            common::storage(nr_nodes, nr_cpus, nr_pcps, nr_pageblocks, nr_free_bits),
        )?;
        Ok(zones.managed_pages())
    };
    let make = |end, nr_pcps, nr_pageblocks, nr_free_bits| {
        make_with(1, 2, end, nr_pcps, nr_pageblocks, nr_free_bits)
    };
    // The first pageblock is in three zones; each has the bits and states of a pair, and a row above for each type.
    assert_eq!(make(600, 6, 4, 24), Ok(0));
    assert_eq!(make(600, 5, 4, 24), Err(ZonesError::TooFewPcps));
    assert_eq!(make(600, 6, 3, 24), Err(ZonesError::TooFewPageblocks));
    assert_eq!(make(600, 6, 4, 23), Err(ZonesError::TooFewFreeBits));
    assert_eq!(make(601, 6, 4, 24), Err(ZonesError::NoDescriptors));
    assert_eq!(make(200, 4, 2, 16), Ok(0));
    let too_few_nodes = make_with(0, 2, 600, 6, 4, 24);
    assert_eq!(too_few_nodes, Err(ZonesError::TooFewNodes));
    let too_few_cpus = make_with(1, 1, 600, 6, 4, 24);
    assert_eq!(too_few_cpus, Err(ZonesError::TooFewFirstPcps));
    // What is left over stays unused.
    assert_eq!(make_with(2, 3, 600, 7, 5, 25), Ok(0));
}

#[test]
fn every_configured_zone_has_a_snapshot() {
    let zones = small::<Lock>(96, frames(0, 1), 2);
    let held = zones.alloc(PageReq::new(Order::ZERO, Gfp::KERNEL)).unwrap();
    let stats: Vec<_> = zones.stats().collect();
    let kinds: Vec<_> = stats.iter().map(|stat| stat.kind.name()).collect();
    assert_eq!(kinds, ["DMA", "DMA32", "Normal", "Movable", "Device"]);
    let normal = stats[2];
    assert_eq!(normal.managed, 768);
    assert_eq!(normal.free + normal.pcp_pages + 1, 768);
    assert_eq!((normal.pgalloc, normal.pgfree), (1, 0));
    assert_eq!(
        NumaItem::ALL.map(|item| normal.numa[item]),
        [1, 0, 0, 0, 1, 0]
    );
    let in_lists: usize = normal
        .nr_free
        .iter()
        .enumerate()
        .map(|(n, count)| count << n)
        .sum();
    assert_eq!(in_lists, normal.free);
    assert_eq!(stats[0].present, 64);
    assert_eq!(stats[0].managed, 63);
    assert_eq!(zones.zone(ZoneType::Normal).pcp_stats().count(), 2);
    zones.free(held);
    assert_eq!(zones.zone(ZoneType::Normal).stat().pgfree, 1);
}

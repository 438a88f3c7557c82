//! What a zone knows of itself: the fields of Linux's `struct zone`.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; storage is laid into raw memory"
)]

mod common;

use core::ptr::NonNull;

use common::{Random, Tiny, bare, boot, frames, order, small, take_bad};
use kmm_frame::{Gfp, MigrateType, NR_ORDERS, NodeId, Order, Pfn, PfnRange, ZoneItem, ZoneType};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_zone::{FreeAt, LruList, NodeLayouts, X86_64, ZoneLayout, ZoneStorage, Zones};

type Lock = spin::Mutex<()>;

fn counts(of: &[(MigrateType, usize)]) -> [usize; MigrateType::COUNT] {
    let mut counts = [0; MigrateType::COUNT];
    for &(kind, count) in of {
        counts[kind.index()] = count;
    }
    counts
}

#[test]
fn a_zone_carries_what_linux_has_in_it() {
    let ram = frames(1, 6000);
    let zones = bare::<Lock>(ZoneLayout::new::<X86_64>(ram), ram, 2);
    // A hole from 640 KiB to 1 MiB, and one of 4 MiB that holds two whole pageblocks.
    for part in [frames(1, 160), frames(256, 2000), frames(3072, 6000)] {
        zones.add_present(part);
    }
    // 100 frames stay reserved.
    for part in [frames(1, 160), frames(356, 2000), frames(3072, 6000)] {
        zones.free_at_boot(part).unwrap();
    }
    zones.init_watermarks(256, 10);
    let dma = zones.zone(ZoneType::Dma);
    let stat = dma.stat();
    assert_eq!((stat.kind, dma.name()), (ZoneType::Dma, "DMA"));
    assert_eq!(stat.start_pfn, Pfn::new(1));
    assert_eq!(stat.spanned, 4095);
    assert_eq!(stat.present, 159 + 1744 + 1024);
    assert_eq!(stat.managed, stat.present - 100);
    assert_eq!(stat.free, stat.managed);
    let in_areas: usize = (0..NR_ORDERS).map(|n| stat.nr_free[n] << n).sum();
    assert_eq!(in_areas, stat.free);
    // 64 pages of watermark, shared by the size of the zones.
    assert_eq!(stat.watermarks.min, 64 * 2827 / (2827 + 1904));
    assert!(stat.watermarks.min < stat.watermarks.low);
    assert!(stat.watermarks.low < stat.watermarks.high);
    assert_eq!(stat.protection[ZoneType::Dma32.index()], 1904 / 256);
    assert_eq!(dma.pcp_stats().count(), 2);
    assert_eq!(stat.pcp.high, dma.pcp_limits().high);
    // Eight pageblocks are spanned; those from frame 2048 to 3071 have no RAM.
    let movable = counts(&[(MigrateType::Movable, 6)]);
    assert_eq!(dma.nr_pageblocks(), movable);
    assert_eq!(dma.pageblock_type(Pfn::new(0)), None);
    assert_eq!(dma.pageblock_type(Pfn::new(1)), Some(MigrateType::Movable));
    assert_eq!(dma.pageblock_type(Pfn::new(4096)), None);
    for item in ZoneItem::ALL.into_iter().skip(1) {
        assert_eq!(stat.counts[item], 0, "{}", item.name());
    }
    for list in LruList::ALL {
        assert_eq!(zones.node(NodeId::ZERO).lruvec().nr_pages(list), 0);
    }
    let second = zones.zone(ZoneType::Dma32).stat();
    assert_eq!((second.spanned, second.present), (1904, 1904));
    zones.validate().unwrap();
}

#[test]
fn right_after_boot_almost_everything_is_movable_and_of_the_largest_order() {
    let ram = frames(0, 16 << 10);
    let zones = bare::<Lock>(ZoneLayout::new::<X86_64>(ram), ram, 1);
    boot(&zones, ram, frames(300, 700), 64);
    for kind in [ZoneType::Dma, ZoneType::Dma32] {
        let by_type = zones.zone(kind).nr_free_by_type();
        let pages_of = |kind: MigrateType, first: usize| -> usize {
            (first..NR_ORDERS)
                .map(|order| by_type[kind.index()][order] << order)
                .sum()
        };
        let all: usize = MigrateType::ALL.map(|kind| pages_of(kind, 0)).iter().sum();
        let largest = pages_of(MigrateType::Movable, NR_ORDERS - 1);
        assert_eq!(all, zones.zone(kind).nr_free_pages());
        assert!(largest * 100 >= all * 75, "{kind}: {largest} of {all}");
    }
}

#[test]
fn two_zones_keep_types_of_the_block_that_they_share() {
    // Frames below 64 are DMA, below 256 DMA32, the rest Normal: all three have a part of the first block.
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let [dma, dma32, normal] = [0, 1, 2].map(|nr| &zones.node(NodeId::ZERO).zones()[nr]);
    assert_eq!(
        dma32.set_pageblock_type(Pfn::new(100), MigrateType::Unmovable),
        Some(MigrateType::Movable)
    );
    assert_eq!(
        dma32.set_pageblock_type(Pfn::new(63), MigrateType::Cma),
        None
    );
    let unmovable = counts(&[(MigrateType::Unmovable, 1)]);
    assert_eq!(dma32.nr_pageblocks(), unmovable);
    assert_eq!(dma.nr_pageblocks(), counts(&[(MigrateType::Movable, 1)]));
    assert_eq!(normal.nr_pageblocks(), counts(&[(MigrateType::Movable, 2)]));
    let at = |pfn| {
        let pfn = Pfn::new(pfn);
        zones.zone_of(pfn).and_then(|zone| zone.pageblock_type(pfn))
    };
    assert_eq!(at(63), Some(MigrateType::Movable));
    assert_eq!(at(64), Some(MigrateType::Unmovable));
    assert_eq!(at(255), Some(MigrateType::Unmovable));
    assert_eq!(at(256), Some(MigrateType::Movable));
    // Pages come and go all the same.
    let block = zones.alloc(PageReq::new(order(7), Gfp::DMA32)).unwrap();
    let free = zones.zone(ZoneType::Dma32).nr_free_by_type();
    assert_eq!(free[MigrateType::Movable.index()], [0; NR_ORDERS]);
    zones.free(block);
    zones.validate().unwrap();
}

#[test]
fn changes_of_type_are_counted() {
    let ram = frames(0, 4096);
    let zones = bare::<Lock>(ZoneLayout::new::<X86_64>(ram), ram, 1);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    let dma = zones.zone(ZoneType::Dma);
    assert_eq!(dma.nr_type_changes(), 0);
    // All is movable: the first request of another type takes a pageblock, with its twin, over.
    let req = |gfp| PageReq::new(order(4), gfp | Gfp::DMA);
    let block = zones.alloc(req(Gfp::KERNEL)).unwrap();
    assert_eq!(
        dma.pageblock_type(block.pfn()),
        Some(MigrateType::Unmovable)
    );
    assert_eq!(dma.nr_type_changes(), 2);
    // What is its own by now changes nothing.
    let second = zones.alloc(req(Gfp::KERNEL)).unwrap();
    let movable = zones.alloc(req(Gfp::MOVABLE_PAGE)).unwrap();
    assert_eq!(dma.nr_type_changes(), 2);
    let other = zones.alloc(req(Gfp::RECLAIMABLE)).unwrap();
    assert_eq!(dma.nr_type_changes(), 4);
    dma.set_pageblock_type(other.pfn(), MigrateType::Movable);
    assert_eq!(dma.nr_type_changes(), 5);
    for block in [block, second, movable, other] {
        zones.free(block);
    }
    zones.validate().unwrap();
}

#[test]
fn pagetypeinfo_matches_what_is_free() {
    let mut random = Random::new("pagetypeinfo_matches_what_is_free", 0x18);
    let ram = frames(0, 5000);
    let zones = bare::<Lock>(ZoneLayout::new::<X86_64>(ram), ram, 1);
    boot(&zones, ram, frames(1030, 1060), 64);
    // Requests may change types as well.
    let kind_of = |pfn: Pfn| zones.zone_of(pfn).and_then(|zone| zone.pageblock_type(pfn));
    let mut held: Vec<PageBlock> = Vec::new();
    for _ in 0..600 {
        match random.below(5) {
            0..2 => held.extend(
                zones
                    .alloc(PageReq::new(random.order(10), Gfp::KERNEL))
                    .ok(),
            ),
            2 if !held.is_empty() => zones.free(held.swap_remove(random.below(held.len()))),
            _ => {
                let pfn = random.below(5000);
                let kind = MigrateType::ALL[random.below(MigrateType::COUNT)];
                let zone = zones.zone_of(Pfn::new(pfn)).unwrap();
                let before = kind_of(Pfn::new(pfn));
                assert_eq!(zone.set_pageblock_type(Pfn::new(pfn), kind), before);
                assert_eq!(kind_of(Pfn::new(pfn / 512 * 512)), Some(kind));
            }
        }
        let mut expected = [[[0; NR_ORDERS]; MigrateType::COUNT]; 2];
        zones.for_each_free(|pfn, order, at| {
            if at == FreeAt::Buddy {
                let zone = usize::from(pfn.index() >= 4096);
                let kind = kind_of(pfn).unwrap();
                expected[zone][kind.index()][order.index()] += 1;
            }
        });
        for (kind, expected) in [ZoneType::Dma, ZoneType::Dma32].into_iter().zip(expected) {
            let zone = zones.zone(kind);
            assert_eq!(zone.nr_free_by_type(), expected);
            let mut blocks = [0; MigrateType::COUNT];
            for start in (0..5000)
                .step_by(512)
                .filter(|&pfn| zone.range().contains(Pfn::new(pfn)))
            {
                blocks[kind_of(Pfn::new(start)).unwrap().index()] += 1;
            }
            assert_eq!(zone.nr_pageblocks(), blocks);
        }
    }
    held.into_iter().for_each(|block| zones.free(block));
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn counts_of_a_zone_are_its_own() {
    let zones = small::<Lock>(64, PfnRange::EMPTY, 1);
    let normal = zones.zone(ZoneType::Normal);
    for (nr, item) in (5..).zip([
        ZoneItem::WritePending,
        ZoneItem::Mlock,
        ZoneItem::Bounce,
        ZoneItem::Zspages,
        ZoneItem::FreeCma,
    ]) {
        normal.mod_total(item, nr);
        normal.mod_total(item, -2);
    }
    let counts = zones.stats().nth(2).unwrap().counts;
    let read = ZoneItem::ALL.map(|item| counts[item]);
    // What devices lend is counted by the free lists.
    assert_eq!(read, [768, 0, 0, 0, 0, 0, 3, 4, 5, 6, 0]);
    let dma = zones.zone(ZoneType::Dma).counts();
    let counted = ZoneItem::ALL.into_iter().skip(1);
    assert!(counted.into_iter().all(|item| dma[item] == 0));
    // Half of a change may be seen: never as a number below 0.
    normal.mod_total(ZoneItem::Bounce, -6);
    assert_eq!(normal.count(ZoneItem::Bounce), 0);
    normal.mod_total(ZoneItem::Bounce, 6);
    assert_eq!(normal.count(ZoneItem::Bounce), 5);
}

#[test]
fn storage_is_laid_into_the_memory_that_it_asks_for() {
    let ram = frames(0, 1024);
    let layout = NodeLayouts::single(ZoneLayout::new::<Tiny>(ram));
    let room = ZoneStorage::<Lock>::layout(&layout, 2).unwrap();
    // SAFETY: the layout has a size.
    let memory = NonNull::new(unsafe { std::alloc::alloc(room) }).unwrap();
    // SAFETY: 1: allocated with the layout. 2: never given back.
    let storage = unsafe { ZoneStorage::new_in(&layout, 2, memory) };
    assert_eq!(storage.pcps.len(), layout.nr_pcps(2));
    assert_eq!(storage.pageblocks.len(), layout.nr_pageblocks());
    let end = storage.pageblocks.as_ptr_range().end.addr();
    assert_eq!(storage.free_bits.len(), layout.nr_free_bits());
    assert_eq!(storage.free_bits.as_ptr().addr(), memory.addr().get());
    assert_eq!(
        storage.free_bits.as_ptr_range().end.addr(),
        storage.pcps.as_ptr().addr()
    );
    assert!(end <= memory.addr().get() + room.size());
    let parts = [
        storage.pcps.as_ptr_range().end.addr()..=storage.nodes.as_ptr().addr(),
        storage.nodes.as_ptr_range().end.addr()..=storage.cpu_counts.as_ptr().addr(),
        storage.cpu_counts.as_ptr_range().end.addr()..=storage.first_pcps.as_ptr().addr(),
        storage.first_pcps.as_ptr_range().end.addr()..=storage.pageblocks.as_ptr().addr(),
    ];
    assert!(parts.iter().all(|gap| !gap.is_empty()), "{parts:?}");
    assert_eq!((storage.nodes.len(), storage.first_pcps.len()), (1, 2));
    let model = small::<Lock>(0, PfnRange::EMPTY, 2);
    let zones: common::TestZones = Zones::new(
        *bare_map(ram),
        common::ThreadCpus(2),
        *model.phys(),
        &layout,
        storage,
    )
    .unwrap();
    boot(&zones, ram, PfnRange::EMPTY, 16);
    let block = zones.alloc(PageReq::new(Order::ZERO, Gfp::KERNEL)).unwrap();
    zones.free(block);
    let blocks: usize = zones
        .all()
        .map(|zone| zone.nr_pageblocks().iter().sum::<usize>())
        .sum();
    assert_eq!(blocks, 4);
    let none = NodeLayouts::single(ZoneLayout::EMPTY);
    let size_bytes = ZoneStorage::<Lock>::layout(&none, 0).unwrap().size();
    assert!(size_bytes < 16_384, "an empty node of {size_bytes} bytes");
}

fn bare_map(ram: PfnRange) -> &'static kmm_frame::MemMap {
    let pages: Vec<_> = ram.iter().map(|_| kmm_frame::Page::new()).collect();
    Box::leak(Box::new(kmm_frame::MemMap::new(ram, pages.leak()).unwrap()))
}

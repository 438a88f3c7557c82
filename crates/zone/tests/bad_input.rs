//! Arguments that no caller should have: an error, a report or the panic that is documented, and nothing has changed.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers that stands for a host kernel"
)]

mod common;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use common::{
    Random, ThreadCpus, Tiny, bare, boot, exhaust, frames, order, run_on, small, storage_for,
    take_bad,
};
use kmm_frame::{Gfp, MAX_ORDER, MemMap, NodeId, NodeMask, Order, Page, Pfn, PfnRange, ZoneType};
use kmm_host::{AllocError, CpuId, Cpus, PageBlock, PageReq, PageSource};
use kmm_zone::{
    AllowedNodes, Amount, BadReason, FreeError, HotplugError, NodeLayouts, WATERMARK_SCALE_FACTOR,
    Watermarks, X86_64, ZoneLayout, ZoneStorage, Zones, ZonesError, lowmem_reserve,
};

type Lock = spin::Mutex<()>;

/// Storage as large as no machine: told before somebody lays it out.
#[test]
fn storage_for_more_cpus_than_there_can_be() {
    let nodes = NodeLayouts::single(ZoneLayout::new::<X86_64>(frames(0, 1 << 21)));
    for nr_cpus in [
        usize::MAX,
        usize::MAX / 2,
        usize::MAX / 3 + 1,
        1 << 60,
        1 << 55,
    ] {
        assert_eq!(
            ZoneStorage::<Lock>::layout(&nodes, nr_cpus),
            None,
            "{nr_cpus:#x}"
        );
        assert!(nodes.nr_pcps(nr_cpus) >= nr_cpus);
    }
    assert!(ZoneStorage::<Lock>::layout(&nodes, 4096).is_some());
}

#[test]
fn zones_end_where_physical_addresses_do() {
    let end = Pfn::END.index();
    let zones = |ram: PfnRange| {
        let layouts = NodeLayouts::single(ZoneLayout::new::<X86_64>(ram));
        let pages: Vec<Page> = ram.iter().take(4096).map(|_| Page::new()).collect();
        let map = MemMap::new(PfnRange::with_len(ram.start(), pages.len()), pages.leak()).unwrap();
        let storage = storage_for::<Lock>(&NodeLayouts::single(ZoneLayout::EMPTY), 1);
        let phys = common::memory(PfnRange::EMPTY);
        Zones::new(map, ThreadCpus(1), phys, &layouts, storage).map(drop)
    };
    for ram in [
        frames(end - 1, end + 1),
        frames(end, end + 1),
        frames(0, usize::MAX),
        frames(usize::MAX - 1, usize::MAX),
        frames(1 << 20, (1 << 32) + (1 << 20)),
    ] {
        assert_eq!(zones(ram), Err(ZonesError::TooLarge), "{ram:?}");
    }
    // The last memory that there can be; no byte of it is reached.
    let ram = frames(end - 2048, end);
    let layouts = NodeLayouts::single(ZoneLayout::new::<X86_64>(ram));
    let pages: Vec<Page> = ram.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(ram, pages.leak()).unwrap();
    let storage = storage_for::<Lock>(&layouts, 1);
    let phys = common::memory(PfnRange::EMPTY);
    let zones = Zones::new(map, ThreadCpus(1), phys, &layouts, storage).unwrap();
    zones.add_present(ram);
    zones.free_at_boot(ram).unwrap();
    zones.init_watermarks(64, WATERMARK_SCALE_FACTOR);
    let mut held = Vec::new();
    for turn in 0..4000_u32 {
        let req = PageReq::new(order((turn % 11) as u8), Gfp::ATOMIC | Gfp::MEMALLOC);
        match zones.alloc(req) {
            Ok(block) if turn % 3 == 0 => held.push(block),
            Ok(block) => zones.free(block),
            Err(_) => held.drain(..).for_each(|block| zones.free(block)),
        }
    }
    held.drain(..).for_each(|block| zones.free(block));
    zones.validate().unwrap();
    assert_eq!(zones.accounting().free, 2048);
}

#[test]
fn machines_without_memory_and_with_one_page() {
    let none = bare::<Lock>(ZoneLayout::new::<Tiny>(PfnRange::EMPTY), PfnRange::EMPTY, 1);
    none.add_present(frames(0, 10));
    assert_eq!(none.free_at_boot(frames(0, 1)), Err(FreeError::OutsideZone));
    assert_eq!(none.free_at_boot(PfnRange::EMPTY), Ok(0));
    none.init_watermarks(none.default_min_free_kbytes(), 10);
    let gfp = Gfp::KERNEL | Gfp::MEMALLOC;
    assert_eq!(none.alloc(PageReq::page(gfp)), Err(AllocError::OutOfMemory));
    assert_eq!(none.alloc_bulk(gfp, None, &mut [None, None]), 0);
    none.validate().unwrap();
    assert!(none.accounting().adds_up());
    for at in [0, 63, 511, 700] {
        let ram = frames(at, at + 1);
        let one = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 1);
        boot(&one, ram, PfnRange::new(ram.end(), ram.end()), 0);
        assert!(one.alloc(PageReq::new(order(1), gfp)).is_err());
        let page = one.alloc(PageReq::page(gfp)).unwrap();
        assert_eq!(page.pfn(), ram.start());
        assert!(one.alloc(PageReq::page(gfp)).is_err());
        one.free(page);
        one.validate().unwrap();
        assert_eq!(one.accounting().free, 1);
    }
    assert_eq!(take_bad(), []);
}

/// Marks above all memory: only who may use everything gets something. Sums do not wrap to marks below it.
#[test]
fn marks_above_all_memory() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 2);
    for (min_free_kbytes, factor) in [
        (usize::MAX, 10),
        (0, usize::MAX),
        (usize::MAX, usize::MAX),
        (usize::MAX / 2, 3),
        (1 << 50, 10_000),
    ] {
        zones.init_watermarks(min_free_kbytes, factor);
        for zone in zones.all() {
            let Watermarks { min, low, high } = zone.watermarks();
            assert!(min <= low && low <= high && high <= Watermarks::MOST);
        }
        // What is in stock may go without a look at the marks.
        zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        if min_free_kbytes > 0 {
            let plain = zones.alloc(PageReq::page(Gfp::ATOMIC));
            assert_eq!(plain, Err(AllocError::OutOfMemory), "{min_free_kbytes}");
        }
        let all = exhaust(&zones, Gfp::KERNEL | Gfp::MEMALLOC);
        assert_eq!(all.len(), 1024);
        all.into_iter().for_each(|block| zones.free(block));
    }
    let most = [usize::MAX; ZoneType::COUNT];
    for ratio in [most, [0; ZoneType::COUNT], [1; ZoneType::COUNT]] {
        zones.set_lowmem_reserve_ratio(ratio);
        let reserve = lowmem_reserve(most, ratio);
        assert_eq!(reserve[5], [0; ZoneType::COUNT], "nothing is above");
    }
    zones.init_watermarks(64, 10);
    zones.free(zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap());
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

/// Memory of any order, overlapping, as large as numbers go, and amounts that there are not.
#[test]
fn movable_memory_of_impossible_machines() {
    let mut random = Random::new("movable_memory_of_impossible_machines", 77);
    let edge = |random: &mut Random| {
        let places = [
            0,
            1,
            1024,
            1 << 20,
            Pfn::END.index(),
            usize::MAX - 1,
            usize::MAX,
        ];
        places[random.below(places.len())].wrapping_add(random.below(3))
    };
    for _ in 0..2000 {
        let ram: Vec<PfnRange> = (0..random.below(4))
            .map(|_| frames(edge(&mut random), edge(&mut random)))
            .collect();
        let hull = ram.iter().copied().fold(PfnRange::EMPTY, PfnRange::hull);
        let amounts = [
            Amount::NONE,
            Amount::Pages(edge(&mut random)),
            Amount::Percent(edge(&mut random)),
            Amount::Percent(50),
        ];
        let (core, movable) = (amounts[random.below(4)], amounts[random.below(4)]);
        let layouts = NodeLayouts::single(ZoneLayout::new::<X86_64>(hull))
            .with_movable(ram, core, movable)
            .with_hotplug::<X86_64>(frames(edge(&mut random), edge(&mut random)));
        let layout = &layouts.nodes()[0];
        for (nr, kind) in ZoneType::ALL.into_iter().enumerate() {
            let range = layout.range(kind);
            assert!(hull.contains_range(range));
            let others = &ZoneType::ALL[..nr];
            assert!(
                !others
                    .iter()
                    .any(|other| layout.range(*other).overlaps(range))
            );
        }
        let _ = (layouts.nr_free_bits(), layouts.nr_pageblocks());
        let _ = ZoneStorage::<Lock>::layout(&layouts, 3);
    }
}

/// A pageblock without RAM, within a zone: nobody can have had a frame of it.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "others do not look")]
fn frames_of_holes_are_foreign_in_debug_builds() {
    let all = frames(0, 4096);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(all), all, 1);
    for ram in [frames(0, 1024), frames(2048, 4096)] {
        zones.add_present(ram);
        zones.free_at_boot(ram).unwrap();
    }
    zones.init_watermarks(64, 10);
    for (at, n) in [(1024, 0), (1024, 10), (1536, 9), (2047, 0)] {
        // SAFETY: forged, and refused.
        let block = unsafe { PageBlock::from_raw(Pfn::new(at), order(n)) };
        zones.free(block);
        assert_eq!(take_bad()[0].reason, BadReason::Foreign, "{at}");
        // SAFETY: as above.
        let block = unsafe { PageBlock::from_raw(Pfn::new(at), order(n)) };
        zones.free_bulk(&mut [Some(block)]);
        assert_eq!(take_bad()[0].reason, BadReason::Foreign, "{at}");
    }
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

#[test]
fn memory_of_another_machines_device_stays_its_own() {
    let machine = || {
        let layout = ZoneLayout::new::<Tiny>(frames(0, 1024));
        let layout = layout.with_room(ZoneType::Device, frames(1024, 4096));
        bare::<Lock>(layout, frames(0, 4096), 1)
    };
    let (here, there) = (machine(), machine());
    let device = here.add_device(frames(2048, 3072)).unwrap();
    let (device, why) = there.remove_device(device).unwrap_err();
    assert_eq!(why, HotplugError::NotOnline);
    let small = small::<Lock>(16, PfnRange::EMPTY, 1);
    let (device, why) = small.remove_device(device).unwrap_err();
    assert_eq!(why, HotplugError::NotOnline);
    here.remove_device(device).unwrap();
    let again = here.add_device(frames(1024, 4096)).unwrap();
    here.remove_device(again).unwrap();
}

/// Flags that contradict each other, and bits that are none.
#[test]
fn any_flags_get_a_page_of_their_zone_or_an_error() {
    let mut random = Random::new("any_flags_get_a_page_of_their_zone_or_an_error", 3);
    let zones = small::<Lock>(32, frames(700, 720), 2);
    let mut held: Vec<PageBlock> = Vec::new();
    for _ in 0..20_000 {
        run_on(random.below(2) as u32);
        let bits = random.next() as u32;
        let gfp = match random.below(3) {
            0 => Gfp::from_bits_retain(bits),
            1 => Gfp::from_bits_truncate(bits & random.next() as u32),
            _ => Gfp::DMA | Gfp::DMA32 | Gfp::HIGHMEM | Gfp::MOVABLE_PAGE | Gfp::RECLAIMABLE,
        };
        let req = PageReq {
            order: order(random.below(11) as u8),
            gfp,
            node: [None, Some(NodeId::ZERO), Some(NodeId::new(bits as u8))][random.below(3)],
        };
        let got = match random.below(3) {
            0 => zones.alloc(req),
            1 => {
                let nodes = [NodeMask::NONE, NodeMask::ALL, NodeMask::of(NodeId::new(3))];
                let allowed = AllowedNodes {
                    nodemask: nodes[random.below(3)],
                    mems_allowed: nodes[random.below(3)],
                };
                let got = zones.alloc_pages_allowed(req, allowed);
                assert!(got.is_err() || allowed.nodemask.contains(NodeId::ZERO));
                got.map(|(block, _)| block)
            }
            _ => {
                let mut out = [None, None, None];
                let count = zones.alloc_bulk(gfp, req.node, &mut out);
                assert_eq!(out.iter().flatten().count(), count);
                held.extend(out.into_iter().flatten());
                continue;
            }
        };
        match got {
            Ok(block) => {
                let zone = zones.zone_of(block.pfn()).unwrap();
                assert!(zone.kind() <= gfp.zone() && zone.owns_range(block.range()));
                assert_eq!(req.node.unwrap_or_default(), NodeId::ZERO);
                held.push(block);
            }
            Err(AllocError::NoSuchNode) => assert_ne!(req.node, Some(NodeId::ZERO)),
            Err(_) => held.drain(..).for_each(|block| zones.free(block)),
        }
    }
    held.drain(..).for_each(|block| zones.free(block));
    assert_eq!(take_bad(), []);
    zones.validate().unwrap();
    assert_eq!(
        (zones.accounting().allocated, zones.accounting().adds_up()),
        (0, true)
    );
}

#[test]
fn cpus_and_nodes_that_do_not_exist() {
    let zones = small::<Lock>(32, PfnRange::EMPTY, 2);
    let block = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    zones.free(block);
    for cpu in [2, 3, 255, 256, u32::MAX].map(CpuId::new) {
        zones.request_drain(cpu);
        assert!(zones.is_drained(cpu));
        // SAFETY: there is no such CPU, so it does nothing.
        assert_eq!(unsafe { zones.cpu_dead(cpu) }, 0);
        zones.fold_dead_counts(cpu);
    }
    for node in [1, 15, 16, 63, 64, 255].map(NodeId::new) {
        let panics = |f: &dyn Fn()| catch_unwind(AssertUnwindSafe(f)).is_err();
        assert!(panics(&|| drop(zones.node(node).id().index().to_string())));
        assert!(panics(&|| drop(zones.zonelist(
            node,
            NodeMask::ALL,
            ZoneType::Normal
        ))));
        let req = PageReq {
            node: Some(node),
            ..PageReq::page(Gfp::KERNEL | Gfp::THISNODE)
        };
        assert_eq!(zones.alloc(req), Err(AllocError::NoSuchNode));
        let frozen = zones.alloc_frozen_pages(req).map(drop);
        assert_eq!(frozen, Err(AllocError::NoSuchNode));
        let allowed = zones.alloc_pages_allowed(req, AllowedNodes::ALL).map(drop);
        assert_eq!(allowed, Err(AllocError::NoSuchNode));
    }
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

/// Blocks that come back in another size than they went, in debug builds.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "others do not look")]
fn blocks_of_another_size_are_found_in_debug_builds() {
    let zones = small::<Lock>(32, PfnRange::EMPTY, 1);
    let alloc = |n| zones.alloc(PageReq::new(order(n), Gfp::KERNEL)).unwrap();
    let (block, neighbour) = (alloc(0), alloc(0));
    let (low, high) = (
        block.pfn().min(neighbour.pfn()),
        block.pfn().max(neighbour.pfn()),
    );
    assert_eq!(low.buddy(Order::ZERO), high);
    // SAFETY: forged, and refused: the other half is somebody else's.
    zones.free(unsafe { PageBlock::from_raw(low, order(1)) });
    let bad = take_bad();
    assert_eq!((bad.len(), bad[0].pfn), (1, high));
    assert_eq!(bad[0].reason, BadReason::RefCount(1));
    zones.free(block);
    zones.free(neighbour);
    assert_eq!(take_bad(), []);
    let large = alloc(9);
    // SAFETY: forged, and refused: it reaches beyond its zone, or into what is free.
    zones.free(unsafe { PageBlock::from_raw(large.pfn().align_down(MAX_ORDER), MAX_ORDER) });
    assert_eq!(take_bad().len(), 1);
    zones.free(large);
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

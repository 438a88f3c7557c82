//! Memory that comes and goes, and memory of devices: spans, counts, marks and lists right after each step.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers that stands for a host kernel"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, ThreadCpus, Tiny, frames, run_on, take_bad};
use kmm_frame::{
    Gfp, MemMap, NodeId, PAGES_PER_SECTION, Page, PageFlags, Pfn, PfnRange, Section, Topology,
    VirtAddr, ZoneType,
};
use kmm_host::{AllocError, Cpus, DirectMap, PageBlock, PageReq, PageSource};
use kmm_sim::{Config, Machine};
use kmm_zone::{
    ContigFailed, FreeError, HotplugError, Migrate, Migrated, NodeLayouts, Watermarks, Zones,
};

type Lock = spin::Mutex<()>;
type TestZones = Zones<Lock, ThreadCpus, DirectMap>;

fn nowhere(_: PfnRange) -> Migrated {
    Migrated::Busy
}

/// Two nodes: 0 has frames below 4096 at boot, 1 nothing; room up to 16384, from 12288 on in node 1.
fn machine() -> TestZones {
    let zones = unmarked();
    zones.init_watermarks(zones.default_min_free_kbytes(), 10);
    zones
}

/// The same before it has watermarks.
fn unmarked() -> TestZones {
    let mut topology = Topology::new(2).unwrap();
    topology.add_range(frames(0, 12_288), NodeId::ZERO).unwrap();
    topology
        .add_range(frames(12_288, 16_384), NodeId::new(1))
        .unwrap();
    topology.set_cpu_node(1, NodeId::new(1)).unwrap();
    let topology = Box::leak(Box::new(topology));
    let layouts = NodeLayouts::new::<Tiny>(topology, [frames(0, 4096)])
        .with_hotplug::<Tiny>(frames(4096, 16_384));
    let all = frames(0, 16_384);
    let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
    let zones = Zones::new(
        MemMap::new(all, pages.leak()).unwrap(),
        ThreadCpus(2),
        common::memory(all),
        &layouts,
        common::storage_for(&layouts, 2),
    )
    .unwrap()
    .with_bad_page_hook(common::note_bad);
    zones.add_present(frames(0, 4096));
    zones.free_at_boot(frames(0, 4096)).unwrap();
    zones
}

fn kinds_of(zones: &TestZones, gfp: Gfp) -> (usize, ZoneType) {
    let block = zones.alloc(PageReq::page(gfp)).unwrap();
    let zone = zones.zone_of(block.pfn()).unwrap();
    zones.free(block);
    (zone.node().index(), zone.kind())
}

/// Everything that follows from what zones have.
fn check_marks(zones: &TestZones) {
    check_marks_of(zones, zones.default_min_free_kbytes());
}

fn check_marks_of(zones: &TestZones, min_free: usize) {
    let lowmem = zones.managed_pages();
    for zone in zones.all() {
        let managed = zone.managed_pages();
        let expected = Watermarks::for_zone(zone.kind(), managed, lowmem, min_free, 10);
        assert_eq!(zone.watermarks(), expected, "{}", zone.id());
        assert_eq!(zone.stat().spanned, zone.range().nr_pages());
    }
    assert!(zones.accounting().adds_up());
    zones.validate().unwrap();
}

#[test]
fn memory_comes_into_use_and_goes_again() {
    let zones = machine();
    run_on(0);
    let normal = zones.zone(ZoneType::Normal);
    let before: Vec<_> = zones.stats().collect();
    let range = frames(4096, 8192);
    assert_eq!(normal.range(), frames(256, 4096));
    assert!(zones.zone_of(Pfn::new(5000)).is_none());
    zones.online(range, ZoneType::Normal).unwrap();
    assert_eq!(normal.range(), frames(256, 8192));
    assert_eq!(zones.zone_of(Pfn::new(5000)).unwrap().id(), normal.id());
    assert_eq!(
        (normal.present_pages(), normal.managed_pages()),
        (7936, 7936)
    );
    assert_eq!(zones.accounting().free, 8192);
    assert_eq!(normal.nr_pageblocks().iter().sum::<usize>(), 16);
    check_marks(&zones);
    // All of it is to be had.
    let held = common::exhaust(&zones, Gfp::HIGHUSER_MOVABLE | Gfp::MEMALLOC);
    assert_eq!(held.len(), 8192);
    let is_new = |block: &PageBlock| range.contains(block.pfn());
    assert_eq!(held.iter().filter(|block| is_new(block)).count(), 4096);
    assert!(matches!(
        zones.offline(range, &mut nowhere),
        Err(HotplugError::Busy(_))
    ));
    held.into_iter().for_each(|block| zones.free(block));
    assert_eq!(zones.offline(range, &mut nowhere), Ok(()));
    let after: Vec<_> = zones.stats().collect();
    for (before, after) in before.into_iter().zip(after) {
        assert_eq!(
            (after.spanned, after.present),
            (before.spanned, before.present)
        );
        assert_eq!(
            (after.managed, after.free + after.pcp_pages),
            (before.managed, before.free)
        );
        assert_eq!(after.watermarks, before.watermarks);
    }
    assert!(zones.zone_of(Pfn::new(5000)).is_none());
    check_marks(&zones);
    // And once more, in another zone.
    zones.online(range, ZoneType::Movable).unwrap();
    assert_eq!(
        zones.zone_of(Pfn::new(5000)).unwrap().kind(),
        ZoneType::Movable
    );
    check_marks(&zones);
    assert_eq!(take_bad(), []);
}

#[test]
fn memory_that_comes_before_there_are_marks_sets_none() {
    let zones = unmarked();
    zones.online(frames(4096, 8192), ZoneType::Normal).unwrap();
    for zone in zones.all() {
        let marks = zone.watermarks();
        assert_eq!((marks.min, marks.low, marks.high), (0, 0, 0));
    }
    zones.init_watermarks(zones.default_min_free_kbytes(), 10);
    check_marks(&zones);
}

#[test]
fn what_was_asked_to_be_kept_free_stays_when_memory_comes() {
    let zones = machine();
    let min_free = 3 * zones.default_min_free_kbytes();
    zones.init_watermarks(min_free, 10);
    zones.online(frames(4096, 8192), ZoneType::Normal).unwrap();
    check_marks_of(&zones, min_free);
}

#[test]
fn stocks_go_on_when_memory_comes_above() {
    let zones = machine();
    run_on(0);
    let normal = zones.zone(ZoneType::Normal);
    let in_stock = || {
        let page = zones.alloc(PageReq::page(Gfp::HIGHUSER_MOVABLE)).unwrap();
        zones.free(page);
        normal.stat().pcp_pages
    };
    assert_eq!(in_stock(), 1);
    zones.online(frames(4096, 8192), ZoneType::Normal).unwrap();
    zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    assert_eq!(in_stock(), 1);
}

#[test]
fn a_zone_whose_beginning_has_gone_has_no_stock_until_memory_comes() {
    let all = frames(0, 36_864);
    let mut topology = Topology::new(1).unwrap();
    topology.add_range(all, NodeId::ZERO).unwrap();
    let layouts = NodeLayouts::new::<Tiny>(Box::leak(Box::new(topology)), [frames(0, 4096)])
        .with_hotplug::<Tiny>(frames(4096, 36_864));
    let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(all, pages.leak()).unwrap();
    // SAFETY: nobody reaches the bytes of these frames.
    let phys = unsafe { DirectMap::new(VirtAddr::new(0), all.end()) };
    let storage = common::storage_for(&layouts, 1);
    let zones = TestZones::new(map, ThreadCpus(1), phys, &layouts, storage).unwrap();
    zones.add_present(frames(0, 4096));
    zones.free_at_boot(frames(0, 4096)).unwrap();
    zones.init_watermarks(64, 10);
    let movable = zones.zone(ZoneType::Movable);
    zones
        .online(frames(4096, 32_768), ZoneType::Movable)
        .unwrap();
    zones.offline(frames(4096, 8192), &mut nowhere).unwrap();
    assert_eq!(movable.pcp_limits().batch, 7);
    let left_in_stock = || {
        let page = zones.alloc(PageReq::page(Gfp::HIGHUSER_MOVABLE)).unwrap();
        assert!(movable.owns(page.pfn()));
        zones.free(page);
        movable.stat().pcp_pages
    };
    assert_eq!(left_in_stock(), 0);
    zones
        .online(frames(32_768, 36_864), ZoneType::Movable)
        .unwrap();
    assert_eq!(left_in_stock(), 7);
    zones.validate().unwrap();
}

#[test]
fn movable_memory_is_for_movable_pages_and_can_go_any_time() {
    let zones = machine();
    run_on(0);
    let range = frames(8192, 12_288);
    zones.online(range, ZoneType::Movable).unwrap();
    assert_eq!(
        kinds_of(&zones, Gfp::HIGHUSER_MOVABLE),
        (0, ZoneType::Movable)
    );
    assert_eq!(kinds_of(&zones, Gfp::KERNEL), (0, ZoneType::Normal));
    assert_eq!(zones.online(frames(4096, 8192), ZoneType::Normal), Ok(()));
    check_marks(&zones);
    let movable = zones.zone(ZoneType::Movable);
    let mut owners = Owners {
        zones: &zones,
        held: BTreeMap::new(),
    };
    for _ in 0..3000 {
        let block = zones.alloc(PageReq::page(Gfp::HIGHUSER_MOVABLE)).unwrap();
        owners.held.insert(block.pfn(), block);
    }
    assert_eq!(zones.offline(range, &mut owners), Ok(()));
    assert!(!movable.is_populated() && movable.range().is_empty());
    assert!(owners.held.keys().all(|pfn| *pfn < Pfn::new(8192)));
    assert_eq!(
        kinds_of(&zones, Gfp::HIGHUSER_MOVABLE),
        (0, ZoneType::Normal)
    );
    check_marks(&zones);
}

#[test]
fn a_node_gets_its_first_memory_and_loses_its_last() {
    let zones = machine();
    run_on(1);
    let fallback = |nr| -> Vec<usize> {
        let nodes = zones.node(NodeId::new(nr)).fallback_nodes();
        nodes.map(NodeId::index).collect()
    };
    assert_eq!((fallback(0), fallback(1)), (vec![0], vec![1, 0]));
    assert_eq!(kinds_of(&zones, Gfp::KERNEL), (0, ZoneType::Normal));
    let here = PageReq {
        node: Some(NodeId::new(1)),
        ..PageReq::page(Gfp::KERNEL | Gfp::THISNODE)
    };
    assert_eq!(zones.alloc(here), Err(AllocError::OutOfMemory));
    let range = frames(12_288, 16_384);
    zones.online(range, ZoneType::Normal).unwrap();
    assert_eq!((fallback(0), fallback(1)), (vec![0, 1], vec![1, 0]));
    assert_eq!(kinds_of(&zones, Gfp::KERNEL), (1, ZoneType::Normal));
    zones.free(zones.alloc(here).unwrap());
    check_marks(&zones);
    zones.offline(range, &mut nowhere).unwrap();
    assert_eq!((fallback(0), fallback(1)), (vec![0], vec![1, 0]));
    assert_eq!(kinds_of(&zones, Gfp::KERNEL), (0, ZoneType::Normal));
    assert_eq!(zones.alloc(here), Err(AllocError::OutOfMemory));
    check_marks(&zones);
}

#[test]
fn what_cannot_come_or_go_changes_nothing() {
    let zones = machine();
    run_on(0);
    zones
        .online(frames(8192, 12_288), ZoneType::Movable)
        .unwrap();
    let before: Vec<_> = zones.stats().collect();
    let on = |range, kind| zones.online(range, kind);
    let normal = ZoneType::Normal;
    assert_eq!(on(PfnRange::EMPTY, normal), Err(HotplugError::Empty));
    assert_eq!(
        on(frames(4097, 8192), normal),
        Err(HotplugError::NotAligned)
    );
    assert_eq!(
        on(frames(4096, 8191), normal),
        Err(HotplugError::NotAligned)
    );
    assert_eq!(
        on(frames(4096, 5120), ZoneType::Device),
        Err(HotplugError::NoRoom)
    );
    assert_eq!(
        on(frames(4096, 5120), ZoneType::Dma),
        Err(HotplugError::NoRoom)
    );
    assert_eq!(
        on(frames(16_384, 17_408), normal),
        Err(HotplugError::NoRoom)
    );
    assert_eq!(
        on(frames(1 << 40, 1 << 41), normal),
        Err(HotplugError::NoRoom)
    );
    assert_eq!(
        on(frames(11_264, 13_312), normal),
        Err(HotplugError::SeveralNodes)
    );
    assert_eq!(
        on(frames(3072, 5120), normal),
        Err(HotplugError::AlreadyOnline)
    );
    assert_eq!(
        on(frames(8192, 9216), normal),
        Err(HotplugError::AlreadyOnline)
    );
    assert_eq!(
        on(frames(8192, 9216), ZoneType::Movable),
        Err(HotplugError::AlreadyOnline)
    );
    let off = |range| zones.offline(range, &mut nowhere);
    assert_eq!(off(PfnRange::EMPTY), Err(HotplugError::Empty));
    assert_eq!(off(frames(8192, 9000)), Err(HotplugError::NotAligned));
    assert_eq!(off(frames(4096, 8192)), Err(HotplugError::NotOnline));
    assert_eq!(off(frames(7168, 9216)), Err(HotplugError::NotOnline));
    assert_eq!(off(frames(1 << 40, 1 << 41)), Err(HotplugError::NotOnline));
    let taken = zones.alloc_contig_range(
        PfnRange::EMPTY,
        kmm_frame::MigrateType::Movable,
        &mut nowhere,
    );
    assert_eq!(taken, Err(ContigFailed::Empty));
    // Above the movable zone the kernel gets nothing.
    zones.offline(frames(8192, 9216), &mut nowhere).unwrap();
    zones.offline(frames(11_264, 12_288), &mut nowhere).unwrap();
    assert_eq!(zones.zone(ZoneType::Movable).range(), frames(9216, 11_264));
    assert_eq!(
        on(frames(11_264, 12_288), normal),
        Err(HotplugError::Overlap)
    );
    assert_eq!(on(frames(8192, 9216), normal), Ok(()));
    assert_eq!(on(frames(11_264, 12_288), ZoneType::Movable), Ok(()));
    assert_eq!(zones.offline(frames(8192, 9216), &mut nowhere), Ok(()));
    assert_eq!(on(frames(8192, 9216), ZoneType::Movable), Ok(()));
    let after: Vec<_> = zones.stats().collect();
    for (before, after) in before.into_iter().zip(after) {
        assert_eq!(
            (after.spanned, after.present),
            (before.spanned, before.present)
        );
        assert_eq!(after.free, before.free);
    }
    check_marks(&zones);
}

#[test]
fn pages_of_devices_are_counted_but_never_given_away() {
    let zones = machine();
    run_on(0);
    let range = frames(8192, 9216);
    let device = zones.add_device(range).unwrap();
    let zone = zones.zone(ZoneType::Device);
    assert_eq!(
        (zone.range(), zone.present_pages(), zone.managed_pages()),
        (range, 1024, 0)
    );
    assert_eq!(
        zones.zone_of(Pfn::new(8200)).unwrap().kind(),
        ZoneType::Device
    );
    assert_eq!(zones.free_at_boot(range), Err(FreeError::OutsideZone));
    assert_eq!(zones.free_reserved(range), Err(FreeError::OutsideZone));
    assert_eq!(
        zones.online(range, ZoneType::Movable),
        Err(HotplugError::AlreadyOnline)
    );
    let held = common::exhaust(&zones, Gfp::HIGHUSER_MOVABLE | Gfp::MEMALLOC);
    assert_eq!(held.len(), 4096);
    assert!(held.iter().all(|block| !range.contains(block.pfn())));
    held.into_iter().for_each(|block| zones.free(block));
    // The device holds each page once; users come and go.
    let pfn = Pfn::new(8200);
    let page = zones.map().page(pfn);
    assert_eq!(
        (page.ref_count(), page.test(PageFlags::RESERVED)),
        (1, true)
    );
    page.get();
    let (device, why) = zones.remove_device(device).unwrap_err();
    assert_eq!(why, HotplugError::Busy(pfn));
    // SAFETY: the reference of just now; nobody uses the frame.
    unsafe { zones.put_page(pfn) };
    assert_eq!((page.ref_count(), zones.accounting().free), (1, 4096));
    assert_eq!(take_bad(), []);
    // Freeing it is a mistake that is told.
    // SAFETY: nobody uses the frame.
    zones.free(unsafe { PageBlock::from_raw(pfn, kmm_frame::Order::ZERO) });
    assert_eq!(take_bad().len(), 1);
    assert_eq!(zones.remove_device(device), Ok(()));
    assert!(zone.range().is_empty() && !zone.is_populated());
    assert_eq!((page.ref_count(), page.flags()), (0, PageFlags::empty()));
    zones.online(range, ZoneType::Movable).unwrap();
    check_marks(&zones);
}

/// Who has which pages; all can be moved.
struct Owners<'a> {
    zones: &'a TestZones,
    held: BTreeMap<Pfn, PageBlock>,
}

impl Migrate for Owners<'_> {
    fn migrate(&mut self, run: PfnRange) -> Migrated {
        let overlaps = |block: &PageBlock| block.range().overlaps(run);
        let blocks = self.held.iter().filter(|(_, block)| overlaps(block));
        for pfn in blocks.map(|(pfn, _)| *pfn).collect::<Vec<_>>() {
            self.drain_others();
            let order = self.held[&pfn].order();
            let Ok(to) = self.zones.alloc(PageReq::new(order, Gfp::HIGHUSER_MOVABLE)) else {
                return Migrated::Busy;
            };
            let from = self.held.remove(&pfn).unwrap();
            self.zones.free(from);
            self.held.insert(to.pfn(), to);
        }
        Migrated::Moved
    }

    fn drain_others(&mut self) {
        // SAFETY: this is the only thread.
        unsafe { self.zones.drain_all() };
    }
}

#[test]
fn ordinary_memory_is_no_device_of_another_machine() {
    let (here, there) = (machine(), machine());
    let range = frames(8192, 12_288);
    let device = here.add_device(range).unwrap();
    there.online(range, ZoneType::Movable).unwrap();
    let (device, why) = there.remove_device(device).unwrap_err();
    assert_eq!(why, HotplugError::NotOnline);
    assert_eq!(there.zone(ZoneType::Movable).present_pages(), 4096);
    here.remove_device(device).unwrap();
    there.validate().unwrap();
}

#[test]
fn sections_come_and_go_with_their_descriptors() {
    const SECTIONS: usize = 6;
    let section = |nr: usize| Section::new(nr).range();
    let mut random = Random::new("sections_come_and_go", 0x19);
    let ram = frames(0, SECTIONS * PAGES_PER_SECTION);
    let machine = Machine::new(Config::with_ram([ram]));
    let sparse = machine.sections();
    // SAFETY: memory of the machine, zero, and nobody else adds sections.
    unsafe { sparse.add_zeroed_section(Section::new(0)) }.unwrap();
    let layouts = NodeLayouts::new::<Tiny>(Box::leak(Box::new(Topology::single())), [section(0)])
        .with_hotplug::<Tiny>(ram);
    // SAFETY: no byte of a frame is touched.
    let phys = unsafe { DirectMap::new(kmm_frame::VirtAddr::new(1 << 40), ram.end()) };
    let zones: TestZones = Zones::new(
        MemMap::sparse(sparse),
        ThreadCpus(1),
        phys,
        &layouts,
        common::storage_for(&layouts, 1),
    )
    .unwrap();
    run_on(0);
    zones.add_present(section(0));
    zones.free_at_boot(section(0)).unwrap();
    zones.init_watermarks(zones.default_min_free_kbytes(), 10);
    let mut owners = Owners {
        zones: &zones,
        held: BTreeMap::new(),
    };
    // The oracle: which section is in which zone.
    let mut online: [Option<ZoneType>; SECTIONS] = [None; SECTIONS];
    online[0] = Some(ZoneType::Normal);
    for _ in 0..200 {
        let nr = 1 + random.below(SECTIONS - 1);
        match online[nr] {
            None => {
                assert!(zones.map().get(section(nr).start()).is_none());
                let kind = [ZoneType::Normal, ZoneType::Movable][random.below(2)];
                let without = zones.online(section(nr), kind);
                assert_eq!(without, Err(HotplugError::NoDescriptors));
                // SAFETY: as above.
                unsafe { sparse.add_section(Section::new(nr)) }.unwrap();
                let all_of = |kind| (0..SECTIONS).filter(move |nr| online[*nr] == Some(kind));
                let other = if kind == ZoneType::Normal {
                    ZoneType::Movable
                } else {
                    ZoneType::Normal
                };
                let between = |one: usize, two: usize| {
                    let (low, high) = (one.min(two), one.max(two));
                    all_of(other).any(|nr| low < nr && nr < high)
                };
                let spans_other = all_of(kind).any(|mine| between(mine, nr));
                let fits_other = all_of(other).min().zip(all_of(other).max());
                let inside = fits_other.is_some_and(|(low, high)| low < nr && nr < high);
                match zones.online(section(nr), kind) {
                    Ok(()) => {
                        assert!(!spans_other && !inside, "{nr} {kind} {online:?}");
                        online[nr] = Some(kind);
                    }
                    Err(why) => {
                        assert_eq!(why, HotplugError::Overlap);
                        assert!(spans_other || inside, "{nr} {kind} {online:?}");
                        // SAFETY: nobody knows of the section.
                        unsafe { sparse.remove_section(Section::new(nr)) }.unwrap();
                    }
                }
            }
            Some(_) => {
                zones.offline(section(nr), &mut owners).unwrap();
                // SAFETY: nobody has a page of it.
                unsafe { sparse.remove_section(Section::new(nr)) }.unwrap();
                online[nr] = None;
            }
        }
        for _ in 0..random.below(60) {
            if random.below(3) > 0 {
                let req = PageReq::new(random.order(9), Gfp::HIGHUSER_MOVABLE);
                if let Ok(block) = zones.alloc(req) {
                    let nr = Section::of(block.pfn()).index();
                    assert!(online[nr].is_some(), "a page of a section that is gone");
                    owners.held.insert(block.pfn(), block);
                }
            } else if let Some((_, block)) = owners.held.pop_last() {
                zones.free(block);
            }
        }
        let count = |kind| online.iter().filter(|state| **state == Some(kind)).count();
        let present = |kind| zones.zone(kind).present_pages();
        let normal = PAGES_PER_SECTION * count(ZoneType::Normal);
        assert_eq!(present(ZoneType::Normal) + 256, normal);
        let movable = PAGES_PER_SECTION * count(ZoneType::Movable);
        assert_eq!(present(ZoneType::Movable), movable);
        let ends = |kind| {
            let mut of = (0..SECTIONS).filter(|nr| online[*nr] == Some(kind));
            let first = of.next()?;
            Some((
                section(first).start(),
                section(of.next_back().unwrap_or(first)).end(),
            ))
        };
        let range = zones.zone(ZoneType::Movable).range();
        let span = ends(ZoneType::Movable).map_or(PfnRange::EMPTY, |(a, b)| PfnRange::new(a, b));
        assert!(range == span || range.is_empty() && span.is_empty());
        let held: usize = owners
            .held
            .values()
            .map(|block| block.order().nr_pages())
            .sum();
        assert_eq!(zones.accounting().allocated, held);
        assert!(zones.accounting().adds_up());
    }
    for (_, block) in core::mem::take(&mut owners.held) {
        zones.free(block);
    }
    zones.validate().unwrap();
    assert_eq!(zones.accounting().allocated, 0);
}

#[test]
fn stocks_keep_what_comes_back_wherever_the_zone_begins_in_its_room() {
    let mut topology = Topology::new(1).unwrap();
    topology.add_range(frames(0, 8192), NodeId::ZERO).unwrap();
    let topology = Box::leak(Box::new(topology));
    let layouts = NodeLayouts::new::<Tiny>(topology, [frames(4096, 6144)])
        .with_hotplug::<Tiny>(frames(0, 4096))
        .with_hotplug::<Tiny>(frames(6144, 8192));
    let all = frames(0, 8192);
    let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
    let zones: TestZones = Zones::new(
        MemMap::new(all, pages.leak()).unwrap(),
        ThreadCpus(1),
        common::memory(all),
        &layouts,
        common::storage_for(&layouts, 1),
    )
    .unwrap();
    run_on(0);
    zones.add_present(frames(4096, 6144));
    zones.free_at_boot(frames(4096, 6144)).unwrap();
    zones.init_watermarks(zones.default_min_free_kbytes(), 10);
    zones.online(frames(6144, 8192), ZoneType::Movable).unwrap();
    for (gfp, kind) in [
        (Gfp::KERNEL, ZoneType::Normal),
        (Gfp::HIGHUSER_MOVABLE, ZoneType::Movable),
    ] {
        let block = zones.alloc(PageReq::page(gfp)).unwrap();
        // SAFETY: there is one CPU.
        unsafe { zones.drain_all() };
        let again = zones.alloc(PageReq::page(gfp)).unwrap();
        let stocked = zones.zone(kind).stat().pcp_pages;
        zones.free(block);
        assert_eq!(zones.zone(kind).stat().pcp_pages, stocked + 1, "{kind}");
        zones.free(again);
    }
    check_marks(&zones);
}

#[test]
fn pages_below_the_window_of_a_stock_that_learns_of_it_late_come_home() {
    let zones = machine();
    let (low, high) = (frames(8192, 9216), frames(9216, 10_240));
    let page = PageReq::page(Gfp::HIGHUSER_MOVABLE);
    zones.online(low, ZoneType::Movable).unwrap();
    // CPU 1's stock counts from there, and hears of nothing that follows.
    run_on(1);
    let near = PageReq {
        node: Some(NodeId::ZERO),
        ..page
    };
    zones.free(zones.alloc(near).unwrap());
    // SAFETY: both CPUs are this thread.
    unsafe { zones.drain_all() };
    run_on(0);
    zones.offline(low, &mut nowhere).unwrap();
    zones.online(high, ZoneType::Movable).unwrap();
    zones.online(low, ZoneType::Movable).unwrap();
    let held = common::exhaust(&zones, Gfp::HIGHUSER_MOVABLE | Gfp::MEMALLOC);
    assert!(held.iter().any(|block| low.contains(block.pfn())));
    run_on(1);
    held.into_iter().for_each(|block| zones.free(block));
    assert_eq!(take_bad(), []);
    check_marks(&zones);
    // SAFETY: as above.
    unsafe { zones.drain_all() };
    assert_eq!(zones.nr_free_pages(), zones.managed_pages());
    check_marks(&zones);
}

//! Linux's layout of the address space.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_pagetable_walker::layout::{Layout, RegionKind};
use kmm_sim::{Config, Machine};

const BOTH: [Layout; 2] = [Layout::FOUR, Layout::FIVE];
const TIB: u64 = 1 << 40;

/// `PAGE_OFFSET` as a constant: conversions are const fns.
const PAGE_OFFSET: VirtAddr = Layout::FOUR.va(PhysAddr::ZERO);

#[test]
fn every_address_lies_in_exactly_one_region() {
    for layout in BOTH {
        let mut next = Some(0);
        for region in layout.regions() {
            assert_eq!(next, Some(region.first.as_u64()), "{}", region.kind);
            next = region.last.as_u64().checked_add(1);
            for va in [region.first, region.last] {
                assert_eq!(layout.find(va), *region);
                let canonical = va.is_canonical(layout.levels.va_bits());
                assert_eq!(canonical, region.kind != RegionKind::NonCanonical);
            }
        }
        assert_eq!(next, None);
    }
}

#[test]
fn sizes_are_those_of_linux() {
    let size = |layout: Layout, kind| layout.region(kind).size_minus_one() + 1;
    let four = |kind| size(Layout::FOUR, kind);
    assert_eq!(four(RegionKind::User), 128 * TIB);
    assert_eq!(four(RegionKind::GuardHole), 8 * TIB);
    assert_eq!(four(RegionKind::DirectMap), 64 * TIB);
    assert_eq!(four(RegionKind::Vmalloc), 32 * TIB);
    assert_eq!(four(RegionKind::Vmemmap), TIB);
    assert_eq!(four(RegionKind::KasanShadow), 16 * TIB);
    assert_eq!(four(RegionKind::KernelText), 512 << 20);
    assert_eq!(four(RegionKind::Modules), 1520 << 20);
    assert_eq!(four(RegionKind::Vsyscall), 4096);
    let five = |kind| size(Layout::FIVE, kind);
    assert_eq!(five(RegionKind::User), 64 * 1024 * TIB);
    assert_eq!(five(RegionKind::DirectMap), 32 * 1024 * TIB);
    assert_eq!(five(RegionKind::Vmalloc), 12 * 1024 * TIB + 512 * TIB);
    assert_eq!(Layout::FOUR.task_size().as_u64(), 0x7fff_ffff_f000);
    for layout in BOTH {
        assert_eq!(
            layout.region(RegionKind::KernelText).first.as_u64(),
            0xffff_ffff_8000_0000
        );
        assert_eq!(layout.regions().last().unwrap().kind, RegionKind::Hole);
    }
}

#[test]
fn conversions_round_trip_for_every_frame_of_ram() {
    assert_eq!(PAGE_OFFSET.as_u64(), 0xffff_8880_0000_0000);
    let machine = Machine::new(Config::with_mib(8));
    for layout in BOTH {
        for pfn in machine.ram().iter().flat_map(|range| range.iter()) {
            let va = layout.va(pfn.phys());
            assert_eq!(layout.pa(va), pfn.phys());
            assert_eq!(layout.checked_pa(va), Some(pfn.phys()));
            assert_eq!(layout.find(va).kind, RegionKind::DirectMap);
        }
        let direct = layout.region(RegionKind::DirectMap);
        assert_eq!(layout.checked_pa(direct.first - 1), None);
        assert_eq!(layout.checked_pa(direct.last + 1), None);
        assert_eq!(layout.checked_pa(VirtAddr::ZERO), None);
        let top = Pfn::new((64 << 40 >> 12) - 1);
        assert_eq!(layout.pa(layout.va(top.phys())), top.phys());
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "no address of the direct map")]
fn an_address_outside_the_direct_map_is_rejected_in_debug_builds() {
    let _ = Layout::FOUR.pa(VirtAddr::new(0xffff_ffff_8000_0000));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "beyond the direct map")]
fn a_physical_address_beyond_the_direct_map_is_rejected_in_debug_builds() {
    let _ = Layout::FOUR.va(PhysAddr::new(64 * TIB));
}

#[test]
fn it_prints_as_a_table() {
    let text = Layout::FOUR.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "0000000000000000-00007fffffffffff    128 TiB user space"
    );
    assert!(lines.contains(&"ffff888000000000-ffffc87fffffffff     64 TiB direct map"));
    assert!(lines.contains(&"ffffffff80000000-ffffffff9fffffff    512 MiB kernel text"));
    assert!(lines.contains(&"ffffffffff600000-ffffffffff600fff      4 KiB vsyscall"));
    assert_eq!(lines.len(), Layout::FOUR.regions().len());
}

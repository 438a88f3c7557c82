//! Real maps and bad ones, from `fixtures`, in any order.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests of known numbers"
)]

mod common;

use common::Random;
use kmm_frame::memblock::{
    FirmwareKind, FirmwareRegion, FirstMegabyte, Memblock, MemblockError, Reserved,
};
use kmm_frame::{PAGE_SIZE, PfnRange, PhysAddr};

const MIB: u64 = 1 << 20;
const EVERYWHERE: core::ops::Range<PhysAddr> = PhysAddr::ZERO..PhysAddr::new(u64::MAX);

struct Fixture {
    name: String,
    regions: Vec<FirmwareRegion>,
    /// Frames of memory, and free ones with the first megabyte skipped; counted by a program of no common ancestry.
    memory: usize,
    free: usize,
}

fn fixtures() -> Vec<Fixture> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut fixtures: Vec<Fixture> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| parse(&entry.unwrap().path()))
        .collect();
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(fixtures.len() >= 11);
    fixtures
}

fn parse(path: &std::path::Path) -> Fixture {
    let mut fixture = Fixture {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        regions: Vec::new(),
        memory: 0,
        free: 0,
    };
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x").unwrap(), 16).unwrap();
    let mut kind_of: fn(u32) -> FirmwareKind = FirmwareKind::from_e820;
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", ..] => {}
            ["format", "uefi"] => kind_of = FirmwareKind::from_uefi,
            ["format", "e820" | "pvh"] => {}
            ["memory", pages] => fixture.memory = pages.parse().unwrap(),
            ["free", pages] => fixture.free = pages.parse().unwrap(),
            [start, end, kind] => fixture.regions.push(FirmwareRegion::new(
                hex(start),
                hex(end),
                kind_of(kind.parse().unwrap()),
            )),
            _ => panic!("{}: {line}", fixture.name),
        }
    }
    fixture
}

fn boot(regions: &[FirmwareRegion]) -> Memblock {
    let mut block = Memblock::new();
    let map = regions.iter().copied();
    let report = block.add_firmware_map(map, FirstMegabyte::Skip).unwrap();
    assert_eq!(report.nr_dropped, 0);
    block
}

#[test]
fn every_map_has_its_frames() {
    for fixture in fixtures() {
        let block = boot(&fixture.regions);
        let accounting = block.accounting();
        println!("{}: {accounting}", fixture.name);
        assert_eq!(accounting.nr_pages(), fixture.memory, "{}", fixture.name);
        assert_eq!(accounting.nr_free(), fixture.free, "{}", fixture.name);
        let held: usize = Reserved::ALL
            .map(|kind| accounting.nr_reserved(kind))
            .iter()
            .sum();
        assert_eq!(held + accounting.nr_free(), accounting.nr_pages());
    }
}

#[test]
fn no_reserved_byte_is_ever_allocated_or_handed_over() {
    for fixture in fixtures() {
        let mut block = boot(&fixture.regions);
        let mut given = Vec::new();
        // A large piece, many small ones, low ones, and the rest.
        for (size_bytes, align_bytes, end) in [
            (4 * MIB, 2 * MIB, u64::MAX),
            (4096, 1, u64::MAX),
            (70_000, 8, 16 * MIB),
        ] {
            for _ in 0..40 {
                let within = PhysAddr::ZERO..PhysAddr::new(end);
                if let Ok(at) = block.alloc(size_bytes, align_bytes, within) {
                    assert!(at.is_aligned(align_bytes.max(4096)));
                    assert!(at.as_u64() + size_bytes <= end);
                    let end = PhysAddr::new(at.as_u64() + size_bytes);
                    given.push(PfnRange::covering(at, end));
                }
            }
        }
        let allocated: usize = given.iter().map(|range| range.nr_pages()).sum();
        let accounting = block.accounting();
        assert_eq!(accounting.nr_reserved(Reserved::BootAllocation), allocated);
        given.extend(block.hand_over().unwrap());
        assert!(block.hand_over().is_err(), "once");

        given.sort_by_key(|range| range.start());
        for pair in given.windows(2) {
            assert!(
                pair[0].end() <= pair[1].start(),
                "{}: {pair:?}",
                fixture.name
            );
        }
        let total: usize = given.iter().map(|range| range.nr_pages()).sum();
        assert_eq!(total, fixture.free, "{}: every frame once", fixture.name);
        for range in given {
            assert!(range.start().phys().as_u64() >= MIB);
            let (start, end) = (range.start().phys().as_u64(), range.end().phys().as_u64());
            for region in &fixture.regions {
                let wraps = region.end < region.start;
                let region_end = if wraps { u64::MAX } else { region.end };
                let apart =
                    end <= region.start || region_end <= start || region.start == region.end;
                let usable = region.kind == FirmwareKind::Usable;
                assert!(
                    usable || apart,
                    "{}: {range:?} in {region:x?}",
                    fixture.name
                );
            }
        }
    }
}

#[test]
fn the_order_of_the_regions_does_not_matter() {
    let mut random = Random::new("the_order_of_the_regions_does_not_matter", 7);
    for mut fixture in fixtures() {
        let describe = |block: &Memblock| {
            let memory: Vec<_> = block.memory().collect();
            let reserved: Vec<_> = block.reserved().collect();
            (memory, reserved, block.free_ranges().collect::<Vec<_>>())
        };
        let first = describe(&boot(&fixture.regions));
        for _ in 0..5 {
            let regions = &mut fixture.regions;
            for i in (1..regions.len()).rev() {
                regions.swap(i, random.below(i as u64 + 1) as usize);
            }
            assert_eq!(describe(&boot(regions)), first, "{}", fixture.name);
        }
    }
}

#[test]
fn acpi_kinds_stay_apart_and_tables_can_be_freed() {
    let fixture = fixtures()
        .into_iter()
        .find(|f| f.name == "qemu-ovmf-512m")
        .unwrap();
    let mut block = boot(&fixture.regions);
    let before = block.accounting();
    assert_eq!(before.nr_reserved(Reserved::AcpiReclaimable), 18);
    let nvs: Vec<_> = block
        .reserved()
        .filter(|r| r.kind == Reserved::AcpiNvs)
        .collect();
    assert_eq!(nvs.len(), 5);
    assert_eq!(before.nr_reserved(Reserved::AcpiNvs), 0, "it is not memory");

    let all = 1 << 52;
    block
        .release(PhysAddr::ZERO, all, Reserved::AcpiReclaimable)
        .unwrap();
    block
        .release(PhysAddr::ZERO, all, Reserved::Bootloader)
        .unwrap();
    let after = block.accounting();
    let given_back = 18 + before.nr_reserved(Reserved::Bootloader);
    assert_eq!(after.nr_free(), before.nr_free() + given_back);
    assert_eq!(
        block
            .reserved()
            .filter(|r| r.kind == Reserved::AcpiNvs)
            .count(),
        5
    );
}

#[test]
fn static_and_dynamic_memory_make_up_the_whole() {
    let fixture = fixtures()
        .into_iter()
        .find(|f| f.name == "qemu-pc-512m")
        .unwrap();
    let mut block = boot(&fixture.regions);
    let image = PhysAddr::new(MIB);
    block
        .reserve(image, 3 * MIB + 5, Reserved::KernelImage)
        .unwrap();
    block
        .reserve(PhysAddr::new(32 * MIB), MIB, Reserved::Module)
        .unwrap();
    block.alloc(100 << 10, 4096, EVERYWHERE).unwrap();
    let accounting = block.accounting();
    assert_eq!(accounting.nr_static(), 769);
    let first_megabyte = accounting.nr_reserved(Reserved::FirstMegabyte);
    assert_eq!(first_megabyte, 159);
    assert_eq!(
        accounting.nr_static() + accounting.nr_dynamic() + first_megabyte,
        accounting.nr_pages()
    );
    assert_eq!(
        accounting.to_string(),
        "memory 523772K = kernel image 3076K | boot allocations 100K | modules 1024K | first megabyte 636K \
         | firmware 0K | free 518936K"
    );
}

#[test]
fn the_first_megabyte_is_a_policy() {
    let fixture = fixtures()
        .into_iter()
        .find(|f| f.name == "qemu-pc-512m")
        .unwrap();
    let mut block = Memblock::new();
    let map = fixture.regions.iter().copied();
    block.add_firmware_map(map, FirstMegabyte::Use).unwrap();
    let low: Vec<_> = block.free_ranges().take(2).collect();
    assert_eq!((low[0].start().index(), low[0].end().index()), (1, 0x9f));
    assert_eq!(low[1].start().phys().as_u64(), MIB);
    // Even so, nothing is allocated there; the page allocator gets it.
    let low = PhysAddr::ZERO..PhysAddr::new(MIB);
    assert_eq!(block.alloc(1, 1, low), Err(MemblockError::OutOfMemory));
    assert_eq!(
        block.hand_over().unwrap().next().unwrap().start().index(),
        1
    );
}

#[test]
fn more_regions_than_room_are_told_of() {
    let island = |nr: u64, kind| {
        let start = 4 * MIB + nr * 3 * 4096;
        FirmwareRegion::with_size(start, 4096 * (1 + nr % 2), kind)
    };
    // 300 islands of memory, of one page and of two: the smallest 44 go.
    let mut block = Memblock::new();
    let map = (0..300).map(|nr| island(nr, FirmwareKind::Usable));
    let report = block.add_firmware_map(map, FirstMegabyte::Skip).unwrap();
    assert_eq!((report.nr_regions, report.nr_dropped), (300, 44));
    assert_eq!(report.dropped_bytes, 44 * 4096);
    assert_eq!(block.accounting().nr_free(), 450 - 44);

    // 300 reserved ones cannot be dropped.
    let mut block = Memblock::new();
    let memory = FirmwareRegion::new(0, 64 * MIB, FirmwareKind::Usable);
    let map = core::iter::once(memory).chain((0..300).map(|nr| island(nr, FirmwareKind::Mmio)));
    let result = block.add_firmware_map(map, FirstMegabyte::Skip);
    assert_eq!(result, Err(MemblockError::TooManyRegions));
    assert_eq!(
        block.alloc(1, 1, EVERYWHERE),
        Err(MemblockError::OutOfMemory)
    );

    // 1000 that are one, after merging, fit.
    let mut block = Memblock::<2>::with_room();
    let pieces = (0..1000_u64).map(|nr| (nr * 617) % 1000); // in disorder
    let map = pieces.map(|nr| {
        let kind = if nr < 500 {
            FirmwareKind::Usable
        } else {
            FirmwareKind::Reserved
        };
        FirmwareRegion::with_size(2 * MIB + nr * 8, 8, kind)
    });
    block.add_firmware_map(map, FirstMegabyte::Skip).unwrap();
    assert_eq!(block.memory().count(), 1);
    assert_eq!(block.reserved().count(), 2);
    let total: u64 = block.memory().map(|range| range.end - range.start).sum();
    assert_eq!(total, 4000);
}

#[test]
fn ranges_beyond_the_address_space_are_refused() {
    let mut block = Memblock::new();
    let high = PhysAddr::new((1 << 52) - 4096);
    for size_bytes in [4097, 1 << 60, u64::MAX] {
        assert_eq!(block.add(high, size_bytes), Err(MemblockError::Wraps));
        assert_eq!(block.remove(high, size_bytes), Err(MemblockError::Wraps));
        let kind = Reserved::Firmware;
        assert_eq!(
            block.reserve(high, size_bytes, kind),
            Err(MemblockError::Wraps)
        );
        assert_eq!(
            block.release(high, size_bytes, kind),
            Err(MemblockError::Wraps)
        );
        assert_eq!(block.free(high, size_bytes), Err(MemblockError::Wraps));
    }
    block.add(high, 4096).unwrap();
    assert_eq!(block.accounting().nr_pages(), 1);
    let at = block.alloc(1, 1, EVERYWHERE);
    assert_eq!(at, Ok(high));
    block.free(high, 1).unwrap();
    assert_eq!(block.alloc(1, 3, EVERYWHERE), Err(MemblockError::BadAlign));
    assert_eq!(
        block.alloc(u64::MAX, 1, EVERYWHERE),
        Err(MemblockError::OutOfMemory)
    );
    assert_eq!(
        block.alloc(4097, 1, EVERYWHERE),
        Err(MemblockError::OutOfMemory)
    );
    assert_eq!(
        block.alloc(1, 1 << 63, EVERYWHERE),
        Err(MemblockError::OutOfMemory)
    );
}

#[test]
fn far_memory_is_given_up_for_the_sake_of_its_descriptors() {
    let tib = 1_u64 << 40;
    let mut block = Memblock::new();
    block.add(PhysAddr::ZERO, 640 << 10).unwrap();
    block.add(PhysAddr::new(MIB), 63 * MIB).unwrap();
    block.add(PhysAddr::new(tib), 2 * MIB).unwrap();
    block.add(PhysAddr::new(3 * tib), MIB).unwrap();
    assert_eq!(block.trim_span(8), Ok(3 * MIB));
    assert_eq!(block.spanned().end().phys().as_u64(), 64 * MIB);
    assert_eq!(block.memory().count(), 2);

    let mut high = Memblock::new();
    high.add(PhysAddr::new(MIB), MIB).unwrap();
    high.add(PhysAddr::new(tib), 64 * MIB).unwrap();
    assert_eq!(high.trim_span(8), Ok(MIB));
    assert_eq!(high.spanned().start().phys().as_u64(), tib);
    // Descriptors never take less than a 64th, so no smaller share can be asked for.
    assert_eq!(high.trim_span(1000), Ok(0));

    for fixture in fixtures() {
        let mut block = boot(&fixture.regions);
        assert_eq!(block.trim_span(8), Ok(0), "{}", fixture.name);
    }
    assert_eq!(Memblock::new().trim_span(8), Ok(0));
}

#[test]
fn modules_that_share_a_page_do_not_free_each_other() {
    let mut block = Memblock::new();
    block.add(PhysAddr::new(MIB), 16 * MIB).unwrap();
    let (first, second) = (PhysAddr::new(2 * MIB), PhysAddr::new(2 * MIB + 6144));
    block.reserve(first, 6144, Reserved::Module).unwrap();
    block.reserve(second, 6144, Reserved::Module).unwrap();
    assert_eq!(block.accounting().nr_reserved(Reserved::Module), 3);
    block.release(first, 6144, Reserved::Module).unwrap();
    assert_eq!(block.accounting().nr_reserved(Reserved::Module), 2);
    assert!(
        !block
            .free_ranges()
            .any(|range| range.contains(second.pfn()))
    );
}

#[test]
fn kinds_by_number() {
    assert_eq!(FirmwareKind::from_e820(1), FirmwareKind::Usable);
    assert_eq!(FirmwareKind::from_e820(3), FirmwareKind::AcpiReclaimable);
    assert_eq!(FirmwareKind::from_e820(4), FirmwareKind::AcpiNvs);
    assert_eq!(FirmwareKind::from_uefi(7), FirmwareKind::Usable);
    assert_eq!(FirmwareKind::from_uefi(2), FirmwareKind::Bootloader);
    assert_eq!(FirmwareKind::from_uefi(5), FirmwareKind::Runtime);
    for unknown in [0, 2, 6, 8, 12, 99, u32::MAX] {
        assert_eq!(FirmwareKind::from_e820(unknown), FirmwareKind::Reserved);
    }
    for unknown in [0, 13, 15, 16, 0x7000_0000, u32::MAX] {
        assert_eq!(FirmwareKind::from_uefi(unknown), FirmwareKind::Reserved);
    }
    let size = size_of::<Memblock>();
    assert!(size <= 48 * 256 + 4 * PAGE_SIZE / 16, "{size} bytes");
}

//! From a firmware map to a running manager, on machines of many shapes.
#![allow(missing_docs, reason = "names of tests say what they prove")]

use kmm::check::{TableFault, kernel_tables};
use kmm::fault::NoFile;
use kmm::frame::memblock::{FirmwareKind, FirmwareRegion};
use kmm::frame::{Gfp, Order, PageFlags, Pfn, PfnRange, PhysAddr, VirtAddr};
use kmm::host::{Host, PhysMap};
use kmm::pagetable_walker::{Level, PteFlags};
use kmm::{AddressSpace, Owner};
use kmm_sim::{Config, Machine, Rng, seeded};
use kmm_tests::{Booted, KERNEL_IMAGE, boot, image_parts};

fn booted(config: Config) -> Booted {
    boot(config).unwrap_or_else(|error| panic!("{error}"))
}

fn no_spaces() -> core::iter::Empty<&'static AddressSpace<Machine, NoFile>> {
    core::iter::empty()
}

fn audit(booted: &Booted) -> kmm::AuditReport {
    let report = booted.manager.audit(no_spaces(), |_| {});
    report.unwrap_or_else(|error| panic!("{error}"))
}

fn memory(machine: &Machine) -> Vec<PfnRange> {
    // What memblock makes of the machine's RAM: the firmware told the truth.
    machine.ram().to_vec()
}

#[test]
fn every_frame_is_accounted_for_at_boot() {
    for mib in [8, 64, 512, 5 << 10] {
        let booted = booted(Config::with_mib(mib));
        let sum = booted.manager.pages().accounting();
        assert!(sum.adds_up(), "{mib} MiB: {sum:?}");
        let ram: usize = booted
            .machine
            .ram()
            .iter()
            .map(|range| range.nr_pages())
            .sum();
        assert_eq!(sum.present, ram, "{mib} MiB");
        assert_eq!(sum.allocated, 0, "{mib} MiB");
        assert_eq!(
            sum.free,
            booted.manager.boot_accounting().nr_free(),
            "{mib} MiB: handed over exactly once"
        );
        let report = audit(&booted);
        assert_eq!(report.nr_pages(Owner::Free), sum.free);
    }
}

#[test]
fn final_tables_map_all_ram_and_nothing_else() {
    for config in [
        Config::with_mib(64),
        Config::with_mib(5 << 10),
        Config::with_mib(64).five_levels(),
    ] {
        let booted = booted(config);
        let memory = memory(booted.machine);
        let report = booted.manager.vmalloc().with_root(|root, mapper| {
            kernel_tables(
                &mapper,
                root,
                booted.space,
                &memory,
                PfnRange::default(),
                image_parts(),
            )
        });
        let report = report.unwrap_or_else(|fault| panic!("{fault}"));
        let ram: usize = memory.iter().map(|range| range.nr_pages()).sum();
        assert_eq!(report.direct_pages, ram);
        // The machine's own MMU agrees, frame by frame.
        let root = booted.manager.kernel_half().pfn();
        for pfn in memory.iter().flat_map(|range| range.iter().step_by(97)) {
            let va = booted.space.direct_map + pfn.phys().as_u64();
            let seen = booted.machine.translation(root, va).map(|seen| {
                (
                    seen.phys + (va - seen.va),
                    seen.writable,
                    seen.executable,
                    seen.user,
                )
            });
            assert_eq!(seen, Some((pfn.phys(), true, false, false)));
            assert!(
                booted
                    .machine
                    .translation(root, VirtAddr::new(pfn.phys().as_u64()))
                    .is_none(),
                "identity map"
            );
        }
    }
}

#[test]
fn the_walk_notices_each_kind_of_wrong_table() {
    type Wrong = (VirtAddr, Pfn, PteFlags, fn(VirtAddr) -> TableFault);
    let booted = booted(Config::with_mib(64));
    let memory = memory(booted.machine);
    let free = booted.space.vmalloc.start + 0x1000;
    let hole = booted.space.direct_map + (1 << 33);
    let cases: [Wrong; 5] = [
        (
            VirtAddr::new(0x10_0000),
            Pfn::new(256),
            PteFlags::KERNEL,
            TableFault::LowHalf,
        ),
        (
            free,
            Pfn::new(256),
            PteFlags::KERNEL - PteFlags::NX,
            TableFault::WritableCode,
        ),
        (
            free,
            Pfn::new(256),
            PteFlags::KERNEL | PteFlags::US,
            TableFault::UserReachable,
        ),
        (
            free,
            Pfn::new(256),
            PteFlags::KERNEL - PteFlags::G,
            TableFault::NotGlobal,
        ),
        (
            hole,
            PhysAddr::new(1 << 33).pfn(),
            PteFlags::KERNEL,
            TableFault::NotRam,
        ),
    ];
    booted.manager.vmalloc().with_root(|root, mapper| {
        for (va, pfn, flags, fault) in cases {
            mapper
                .map_page(root, va, pfn, Level::Pte, flags)
                .unwrap_or_else(|error| panic!("{error}"));
            let found = kernel_tables(
                &mapper,
                root,
                booted.space,
                &memory,
                PfnRange::default(),
                image_parts(),
            );
            assert_eq!(found, Err(fault(va)));
            let target = kmm::host::TlbTarget::Kernel;
            let mut gather = mapper.gather(target, booted.machine.tlb());
            let unmapped = mapper.unmap_range(root, va..va + 4096, &mut gather, |_, _| {});
            assert_eq!(unmapped, Ok(()));
            gather.finish();
        }
        // A frame of RAM that the direct map lacks.
        let short = [PfnRange::new(Pfn::new(0), Pfn::new(1 << 20))];
        let found = kernel_tables(
            &mapper,
            root,
            booted.space,
            &short,
            PfnRange::default(),
            image_parts(),
        );
        assert!(matches!(found, Err(TableFault::Missing(_))), "{found:?}");
    });
}

/// No reserved frame is ever handed out, whatever the firmware says, and nothing is lost.
#[test]
fn hostile_firmware_maps_boot_or_are_refused() {
    let mut nr_booted = 0;
    for round in 0..60 {
        seeded(0xf1 + round, |rng| {
            nr_booted += usize::from(hostile_round(rng))
        });
    }
    assert!(
        nr_booted > 20,
        "only {nr_booted} of 60 maps could be booted"
    );
}

fn hostile_round(rng: &mut Rng) -> bool {
    let mib = 1 << 20;
    let mut firmware = vec![FirmwareRegion::new(0, 32 * mib, FirmwareKind::Usable)];
    let mut taboo = Vec::new();
    for _ in 0..rng.below(40) {
        let start = rng.below(40 * mib);
        let end = match rng.below(8) {
            0 => start,
            1 => rng.below(start + 1),
            _ => start + rng.below(2 * mib),
        };
        let kind = *rng.pick(&[
            FirmwareKind::Usable,
            FirmwareKind::Reserved,
            FirmwareKind::AcpiReclaimable,
            FirmwareKind::AcpiNvs,
            FirmwareKind::Bad,
            FirmwareKind::Mmio,
        ]);
        if kind != FirmwareKind::Usable {
            let end = if end < start { u64::MAX } else { end };
            taboo.push(start..end);
        }
        firmware.push(FirmwareRegion::new(start, end, kind));
    }
    rng.shuffle(&mut firmware);
    // The machine has RAM all over, so that only the firmware's story decides.
    let ram = [PfnRange::new(Pfn::new(0), Pfn::new(42 * 256))];
    let Ok(booted) = boot(Config::with_ram(ram).told_by(firmware)) else {
        return false;
    };
    audit(&booted);
    let mut blocks = Vec::new();
    while let Ok(block) = booted
        .manager
        .page_alloc()
        .alloc_pages_nowait(Gfp::KERNEL | Gfp::MEMALLOC, Order::ZERO)
    {
        let frame = block.pfn().phys().as_u64()..block.pfn().phys().as_u64() + 4096;
        let image = KERNEL_IMAGE;
        assert!(frame.start >= mib, "first megabyte: {frame:x?}");
        assert!(
            frame.end <= image.start || frame.start >= image.end,
            "kernel image: {frame:x?}"
        );
        for bad in &taboo {
            assert!(
                frame.end <= bad.start || frame.start >= bad.end || bad.is_empty(),
                "{frame:x?} of {bad:x?}"
            );
        }
        assert!(
            !booted
                .manager
                .mem_map()
                .page(block.pfn())
                .test(PageFlags::RESERVED)
        );
        blocks.push(block);
    }
    assert_eq!(booted.manager.pages().accounting().free, 0);
    for block in blocks {
        booted.manager.page_alloc().free_pages(block);
    }
    audit(&booted);
    true
}

#[test]
fn bootloader_regions_become_firmware_regions() {
    use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
    use kmm::adapt::memory_map::from_bootloader;
    let region = |kind| MemoryRegion {
        start: 0x1000,
        end: 0x5000,
        kind,
    };
    for (kind, expected) in [
        (MemoryRegionKind::Usable, FirmwareKind::Usable),
        (MemoryRegionKind::Bootloader, FirmwareKind::Bootloader),
        (
            MemoryRegionKind::UnknownUefi(9),
            FirmwareKind::AcpiReclaimable,
        ),
        (MemoryRegionKind::UnknownUefi(10), FirmwareKind::AcpiNvs),
        (
            MemoryRegionKind::UnknownBios(3),
            FirmwareKind::AcpiReclaimable,
        ),
        (MemoryRegionKind::UnknownBios(2), FirmwareKind::Reserved),
    ] {
        assert_eq!(
            from_bootloader(&region(kind)),
            FirmwareRegion::new(0x1000, 0x5000, expected)
        );
    }
}

/// Page address and descriptor, both ways, for every frame of RAM.
#[test]
fn addresses_and_descriptors_convert_both_ways() {
    let booted = booted(Config::with_mib(64));
    let map = booted.manager.mem_map();
    for pfn in booted.machine.ram().iter().flat_map(|range| range.iter()) {
        let page = map.page(pfn);
        assert_eq!(map.pfn(page), Some(pfn));
        let ptr = Host::phys(booted.machine).direct(pfn);
        assert_eq!(
            ptr.and_then(|ptr| Host::phys(booted.machine).virt_to_pfn(ptr)),
            Some(pfn)
        );
    }
}

#[test]
fn too_little_memory_is_an_error() {
    let tiny = [PfnRange::new(Pfn::new(0x100), Pfn::new(0x210))];
    assert!(boot(Config::with_ram(tiny)).is_err());
}

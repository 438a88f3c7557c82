//! A sanitizer knows of each byte of the range whether it belongs to an area.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use core::sync::atomic::AtomicU8;
use std::collections::BTreeMap;

use common::{RANGE, START, iounmap, rig_watched, vfree, vunmap};
use kmm_frame::{Gfp, PAGE_SIZE, PhysAddr, VirtAddr};
use kmm_host::Sanitizer;
use kmm_kasan::{Kasan, KasanConfig, KasanStorage, Poison, Report, Shadow, SliceShadow};
use kmm_pagetable_walker::{Levels, PteFlags};
use kmm_sim::{Config, SimLock, seeded};
use kmm_vmalloc::{CacheMode, VmallocError};

/// What areas are for.
#[derive(Clone, Copy)]
enum Kind {
    Memory,
    Frames,
    Device,
}

type Watcher = Kasan<SliceShadow<'static>, SimLock, (), fn(&Report)>;

fn watcher() -> &'static Watcher {
    let size_bytes = (RANGE.end - RANGE.start) as usize;
    let bytes: Vec<AtomicU8> = (0..size_bytes / 8).map(|_| AtomicU8::new(0)).collect();
    let shadow = SliceShadow::new(START, bytes.leak());
    shadow.poison(START, size_bytes, Poison::VMALLOC_INVALID);
    let storage = KasanStorage {
        records: &mut [],
        waiting: &mut [],
    };
    let on_bug: fn(&Report) = |report| panic!("{report}");
    Box::leak(Box::new(Kasan::new(
        shadow,
        (),
        storage,
        KasanConfig::new(on_bug),
    )))
}

#[test]
fn exactly_the_bytes_of_areas_may_be_touched() {
    seeded(0xa5ea, |rng| {
        let kasan = watcher();
        let rig = rig_watched(Config::with_mib(32).cpus(2), Levels::Four, kasan);
        // The end of what may be touched, by the start.
        let mut areas: BTreeMap<VirtAddr, (VirtAddr, Kind)> = BTreeMap::new();
        let frame = rig.machine.ram()[0].start();
        let device = PhysAddr::new(0xfe00_0000);
        for _ in 0..400 {
            let size_bytes = 1 + rng.index(5 * PAGE_SIZE);
            let nr_pages = size_bytes.div_ceil(PAGE_SIZE);
            let whole = (nr_pages * PAGE_SIZE) as u64;
            let made: Result<_, VmallocError> = match rng.below(6) {
                0 => rig
                    .vm
                    .vmalloc(size_bytes, Gfp::KERNEL)
                    .map(|addr| (addr, size_bytes as u64, Kind::Memory)),
                1 => rig
                    .vm
                    .vmap(&vec![frame; nr_pages], PteFlags::RW | PteFlags::NX)
                    .map(|addr| (addr, whole, Kind::Frames)),
                2 => rig
                    .vm
                    .ioremap(device, size_bytes, CacheMode::Uncached)
                    .map(|addr| (addr, whole, Kind::Device)),
                _ => {
                    let nr = rng.index(areas.len().max(1));
                    let Some((&addr, &(_, kind))) = areas.iter().nth(nr) else {
                        continue;
                    };
                    areas.remove(&addr);
                    match kind {
                        Kind::Memory => vfree(rig.vm, addr),
                        Kind::Frames => vunmap(rig.vm, addr),
                        Kind::Device => iounmap(rig.vm, addr),
                    }
                    .unwrap();
                    continue;
                }
            };
            let (addr, len, kind) = made.unwrap();
            areas.insert(addr, (addr + len, kind));
            let probe = START + rng.below(64 * PAGE_SIZE as u64);
            let (_, &(end, _)) = areas.range(..=addr).next_back().unwrap();
            for at in [addr, end - 1, end, addr + whole, probe] {
                let area = areas.range(..=at).next_back();
                let belongs = area.is_some_and(|(_, (end, _))| at < *end);
                assert_eq!(kasan.may_touch(at), belongs, "{at}");
            }
        }
    });
}

#[test]
fn what_could_not_be_made_may_not_be_touched() {
    let kasan = watcher();
    let rig = rig_watched(Config::with_mib(32).cpus(2), Levels::Four, kasan);
    rig.source
        .left
        .store(3, core::sync::atomic::Ordering::Relaxed);
    let refused = rig.vm.vmalloc(8 * PAGE_SIZE, Gfp::KERNEL);
    assert_eq!(refused, Err(VmallocError::OutOfMemory));
    assert!((0..8).all(|nr| !kasan.may_touch(START + nr * PAGE_SIZE as u64)));
}

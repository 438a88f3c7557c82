//! Temporary mappings of high frames: contents, order, leaks, stale pointers.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests own the memory they use"
)]

mod common;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use common::{CopyWindows, LOW_PAGES, Machine, NR_PAGES, OneThread, POISON, WINDOWS, machine, ram};
use kmm_frame::{Order, PAGE_SIZE, Pfn, ZoneType};
use kmm_highmem::{WindowMap, clear_highpage, copy_highpage};
use kmm_host::{CpuId, DirectMap, PageBlock, PhysMap};

fn fill(map: &impl PhysMap, pfn: usize, byte: u8) {
    // SAFETY: the test's RAM, in one thread, no page twice at a time.
    unsafe { map.with_pfn(Pfn::new(pfn), |mut page| page.bytes_mut().fill(byte)) }
}

fn open(map: &Machine<'_>) -> usize {
    map.open_windows(CpuId::new(0)) + map.open_windows(CpuId::new(1))
}

#[test]
fn low_frames_need_no_window_and_high_ones_have_no_address() {
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    for pfn in 0..NR_PAGES {
        let address = map.direct(Pfn::new(pfn));
        assert_eq!(address.is_some(), pfn < LOW_PAGES);
        assert_eq!(
            address.and_then(|ptr| map.virt_to_pfn(ptr)),
            address.map(|_| Pfn::new(pfn))
        );
        let there = ram.0.direct(Pfn::new(pfn)).unwrap();
        assert_eq!(map.virt_to_pfn(there).is_some(), pfn < LOW_PAGES);
    }
    // SAFETY: as in `fill`.
    unsafe { map.with_pfn(Pfn::new(LOW_PAGES - 1), |_| assert_eq!(open(&map), 0)) };
    // SAFETY: as in `fill`.
    unsafe { map.with_pfn(Pfn::new(LOW_PAGES), |_| assert_eq!(open(&map), 1)) };
    assert_eq!((open(&map), windows.leaked()), (0, 0));
    assert_eq!(map.high_memory(), Pfn::new(LOW_PAGES).phys());
}

#[test]
fn highmem_is_a_matter_of_type() {
    type Map32<'a> = WindowMap<DirectMap, &'a CopyWindows, &'a OneThread>;
    const { assert!(!DirectMap::HIGHMEM && Map32::HIGHMEM) };
    const { assert!(!core::mem::needs_drop::<DirectMap>()) };
    assert_eq!(DirectMap::OPT_ZONE_HIGHMEM, ZoneType::Normal);
    assert_eq!(Map32::OPT_ZONE_HIGHMEM, ZoneType::HighMem);
}

/// INV-1, INV-2.
#[test]
fn random_nests_of_copies_match_a_plain_array() {
    let seed = std::env::var("KMM_SEED").map_or(0x32b1, |seed| seed.parse().unwrap());
    println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-highmem --test windows");
    let mut random = u64::max(seed, 1);
    let mut below = |end: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % end) as usize
    };
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    let mut model = vec![vec![0_u8; PAGE_SIZE]; NR_PAGES];
    for step in 0..3000 {
        cpus.0.set(below(2) as u32);
        let (a, b, at) = (below(NR_PAGES as u64), below(NR_PAGES as u64), below(4096));
        match below(4) {
            0 => {
                fill(&map, a, step as u8);
                model[a].fill(step as u8);
            }
            1 => {
                // SAFETY: as in `fill`.
                unsafe { clear_highpage(&map, Pfn::new(a)) };
                model[a].fill(0);
            }
            2 if a != b => {
                // SAFETY: as in `fill`; two different frames.
                unsafe { copy_highpage(&map, Pfn::new(a), Pfn::new(b)) };
                model[a] = model[b].clone();
            }
            _ if a != b => {
                // One window within the other, both written.
                // SAFETY: as in `fill`; two different frames.
                unsafe {
                    map.with_pfn(Pfn::new(a), |mut outer| {
                        outer.bytes_mut()[at] = 1;
                        map.with_pfn(Pfn::new(b), |mut inner| {
                            inner.bytes_mut()[at] = outer.bytes()[at] + 1;
                            outer.bytes_mut()[at] = 3;
                        });
                    });
                }
                (model[a][at], model[b][at]) = (3, 2);
            }
            _ => {}
        }
        assert_eq!((open(&map), windows.leaked()), (0, 0), "leaked a window");
        assert_eq!(ram.read(a), model[a]);
        assert_eq!(ram.read(b), model[b]);
    }
    for (pfn, bytes) in model.iter().enumerate() {
        assert_eq!(&ram.read(pfn), bytes);
    }
}

#[test]
fn a_block_that_straddles_the_boundary_is_cleared() {
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    (0..NR_PAGES).for_each(|pfn| fill(&map, pfn, 9));
    // SAFETY: the frames are the test's. Order 4 from frame 0: eight low ones and eight high ones.
    let mut block = unsafe { PageBlock::from_raw(Pfn::ZERO, Order::new(4).unwrap()) };
    map.clear(&mut block);
    for pfn in 0..NR_PAGES {
        let byte = if pfn < 16 { 0 } else { 9 };
        assert!(ram.read(pfn).iter().all(|&b| b == byte), "frame {pfn}");
    }
}

#[test]
fn a_panic_closes_the_windows() {
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    let nested = || {
        // SAFETY: as in `fill`.
        unsafe {
            map.with_pfn(Pfn::new(10), |mut page| {
                page.bytes_mut()[0] = 5;
                map.with_pfn(Pfn::new(11), |_| panic!("in the inner window"));
            });
        }
    };
    assert!(catch_unwind(AssertUnwindSafe(nested)).is_err());
    assert_eq!((open(&map), windows.leaked()), (0, 0));
    assert_eq!(ram.read(10)[0], 5);
}

#[test]
fn a_pointer_kept_too_long_reads_poison() {
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    fill(&map, 12, 1);
    // SAFETY: as in `fill`.
    let kept = unsafe { map.with_pfn(Pfn::new(12), |page| page.as_ptr()) };
    // SAFETY: the windows of this machine stay readable, which is what makes the mistake visible.
    assert_eq!(unsafe { kept.read() }, POISON);
}

#[test]
fn more_windows_than_there_are_is_a_bug() {
    fn nest(map: &Machine<'_>, pfn: usize) {
        // SAFETY: as in `fill`; each level has a frame of its own.
        unsafe { map.with_pfn(Pfn::new(pfn), |_| nest(map, pfn + 1)) }
    }
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    let panic = catch_unwind(AssertUnwindSafe(|| nest(&map, LOW_PAGES))).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert_eq!(*message, format!("all {WINDOWS} windows are open"));
    assert_eq!((open(&map), windows.leaked()), (0, 0));
}

#[test]
fn each_cpu_has_its_own_windows() {
    let (ram, cpus) = (ram(), OneThread::default());
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    cpus.0.set(1);
    // SAFETY: as in `fill`.
    unsafe {
        map.with_pfn(Pfn::new(20), |_| {
            assert_eq!(map.open_windows(CpuId::new(0)), 0);
            assert_eq!(map.open_windows(CpuId::new(1)), 1);
        });
    }
}

//! RAM, CPUs, locks, sources of frames, and chance.
#![allow(missing_docs, unsafe_code, reason = "tests break what they test")]

use core::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kmm_frame::memblock::{FirmwareKind, FirmwareRegion, FirstMegabyte, Memblock};
use kmm_frame::{Gfp, Order, PageFlags, Pfn, PfnRange};
use kmm_host::{AllocError, CpuId, Cpus, Host, PageBlock, PageReq, PageSource, PhysMap};
use kmm_sim::{
    BumpSource, Config, FailNth, FailRandom, FreeListSource, Machine, Rng, SimLock, seeded,
};
use lock_api::{Mutex, RawMutex};

fn frames(start: usize, nr_pages: usize) -> PfnRange {
    PfnRange::with_len(Pfn::new(start), nr_pages)
}

#[test]
fn ram_has_holes_that_nobody_reaches() {
    let machine = Machine::new(Config::with_ram([frames(16, 4), frames(2, 3)]));
    let seen: Vec<_> = machine
        .spanned()
        .iter()
        .filter(|pfn| machine.phys().direct(*pfn).is_some())
        .collect();
    let ram: Vec<_> = [2, 3, 4, 16, 17, 18, 19].map(Pfn::new).into();
    assert_eq!(seen, ram);
    assert_eq!(machine.phys().direct(Pfn::new(20)), None);
    for pfn in ram {
        let page = machine.phys().direct(pfn).unwrap();
        assert_eq!(page.addr().get() % 4096, 0);
        // SAFETY: within the page.
        let last = unsafe { page.add(4095) };
        assert_eq!(machine.phys().virt_to_pfn(last), Some(pfn));
        machine.fill_frame(pfn, pfn.index().to_le_bytes()[0]);
    }
    let mut byte = [0];
    machine.read_phys(Pfn::new(17).phys() + 4095, &mut byte);
    assert_eq!(byte, [17]);
    let outside = core::ptr::NonNull::from(&mut byte).cast();
    assert_eq!(machine.phys().virt_to_pfn(outside), None);
}

#[test]
fn a_large_machine_costs_only_what_is_touched() {
    let machine = Machine::new(Config::with_mib(4 << 10));
    let last = machine.ram()[2].end() - 1;
    assert_eq!(last.phys().as_u64() >> 30, 4, "above the hole below 4 GiB");
    machine.fill_frame(last, 1);
    assert!(!machine.is_ram(Pfn::new(0xc_0000)));
}

#[test]
fn firmware_tells_the_truth_unless_told_otherwise() {
    let machine = Machine::new(Config::with_mib(16));
    let mut memblock: Memblock = Memblock::new();
    let told = machine.firmware_map().iter().copied();
    memblock.add_firmware_map(told, FirstMegabyte::Use).unwrap();
    let memory: Vec<_> = memblock.memory_frames().collect();
    assert_eq!(memory, machine.ram());
    let lie = vec![FirmwareRegion::new(5, 3, FirmwareKind::Usable)];
    let machine = Machine::new(Config::with_mib(16).told_by(lie.clone()));
    assert_eq!(machine.firmware_map(), lie);
}

#[test]
fn high_frames_are_reached_only_through_a_window() {
    let machine = Machine::new(Config::with_mib(16).highmem_from(Pfn::new(0x800)));
    let phys = machine.phys_with_highmem();
    assert!(phys.direct(Pfn::new(0x7ff)).is_some());
    assert_eq!(phys.direct(Pfn::new(0x800)), None);
    let frames = FreeListSource::with_range(machine, frames(0x900, 16));
    let mut block = frames.alloc(PageReq::page(Gfp::HIGHUSER)).unwrap();
    phys.with_page(&mut block, 0, |mut page| page.bytes_mut()[7] = 9);
    let mut byte = [0];
    machine.read_phys(block.pfn().phys() + 7, &mut byte);
    assert_eq!(byte, [9]);
    frames.free(block);
}

#[test]
fn a_thread_plays_any_cpu_and_a_cpu_is_pinned_by_one_thread() {
    let machine = Machine::new(Config::with_mib(2).cpus(3));
    let cpus = machine.cpus();
    assert_eq!(cpus.nr_cpus(), 3);
    assert_eq!(cpus.with_pin(|pin| pin.cpu()), CpuId::BOOT);
    let inner = cpus.run_on(CpuId::new(2), || {
        cpus.with_pin(|pin| {
            let nested = cpus.with_pin(|pin| pin.cpu());
            let other = cpus.run_on(CpuId::new(1), || cpus.with_pin(|pin| pin.cpu()));
            (pin.cpu(), nested, other)
        })
    });
    assert_eq!(inner, (CpuId::new(2), CpuId::new(2), CpuId::new(1)));
    assert_eq!(cpus.current(), CpuId::BOOT);

    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    cpus.run_on(CpuId::new(1), || {
                        cpus.with_pin(|_| {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    });
                }
            });
        }
    });
}

#[test]
fn the_lock_excludes() {
    let counter: Mutex<SimLock, u64> = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| *counter.lock() += 1));
        }
    });
    assert_eq!(counter.into_inner(), 4000);
}

#[test]
#[should_panic(expected = "deadlock: the thread that has the lock")]
fn the_lock_notices_that_its_thread_has_it() {
    let lock = SimLock::INIT;
    lock.lock();
    lock.lock();
}

#[test]
fn the_bundle_is_complete() {
    fn pages_of<H: Host>(host: &H) -> usize {
        (0..64)
            .filter(|pfn| host.phys().direct(Pfn::new(*pfn)).is_some())
            .count()
    }
    let machine = Machine::new(Config::with_ram([frames(0, 20)]));
    assert_eq!(pages_of(machine), 20);
}

#[test]
fn the_free_list_gives_aligned_blocks_that_do_not_overlap() {
    seeded(5, |rng| {
        let machine = Machine::new(Config::with_ram([frames(3, 200)]));
        let source = FreeListSource::new(machine);
        let mut held: Vec<PageBlock> = Vec::new();
        for _ in 0..2000 {
            let order = Order::new(rng.below(5).to_le_bytes()[0]).unwrap();
            let gfp = *rng.pick(&[Gfp::KERNEL, Gfp::KERNEL | Gfp::ZERO]);
            if rng.one_in(2) {
                let Ok(block) = source.alloc(PageReq::new(order, gfp)) else {
                    continue;
                };
                assert!(block.pfn().is_aligned(order));
                assert!(frames(3, 200).contains_range(block.range()));
                assert!(
                    held.iter()
                        .all(|other| !other.range().overlaps(block.range()))
                );
                let mut bytes = [0x11; 4096];
                machine.read_phys(block.range().end().phys() - 4096, &mut bytes);
                let expected = if gfp.contains(Gfp::ZERO) { 0 } else { 0xa5 };
                assert!(bytes.iter().all(|byte| *byte == expected));
                let page = machine.mem_map().page(block.pfn());
                assert_eq!((page.ref_count(), page.flags()), (1, PageFlags::empty()));
                held.push(block);
            } else if !held.is_empty() {
                let block = held.swap_remove(rng.index(held.len()));
                source.free(block);
            }
            let nr_held: usize = held.iter().map(|block| block.order().nr_pages()).sum();
            assert_eq!(source.outstanding(), nr_held);
            assert_eq!(source.nr_free(), 200 - nr_held);
        }
        held.into_iter().for_each(|block| source.free(block));
        source.assert_nothing_outstanding();
    });
}

fn twice(source: &FreeListSource, order: Order) -> [PageBlock; 2] {
    let (pfn, _) = source
        .alloc(PageReq::new(Order::ZERO, Gfp::KERNEL))
        .unwrap()
        .into_raw();
    // SAFETY: wrong on purpose; the source panics first.
    [Order::ZERO, order].map(|order| unsafe { PageBlock::from_raw(pfn, order) })
}

#[test]
#[should_panic(expected = "was not handed out")]
fn a_double_free_is_noticed() {
    let source = FreeListSource::new(Machine::new(Config::with_mib(2)));
    twice(&source, Order::ZERO)
        .into_iter()
        .for_each(|block| source.free(block));
}

#[test]
#[should_panic(expected = "with another order")]
fn a_free_with_another_order_is_noticed() {
    let source = FreeListSource::new(Machine::new(Config::with_mib(2)));
    let [_, wrong] = twice(&source, Order::new(1).unwrap());
    source.free(wrong);
}

#[test]
#[should_panic(expected = "is freed with PageFlags(LOCKED)")]
fn a_free_of_a_page_in_use_is_noticed() {
    let machine = Machine::new(Config::with_mib(2));
    let source = FreeListSource::new(machine);
    let block = source.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    machine.mem_map().page(block.pfn()).set(PageFlags::LOCKED);
    source.free(block);
}

#[test]
#[should_panic(expected = "frames were leaked")]
fn a_leak_is_noticed() {
    let source = FreeListSource::new(Machine::new(Config::with_mib(2)));
    let _leaked = source.alloc(PageReq::page(Gfp::KERNEL)).unwrap().into_raw();
    source.assert_nothing_outstanding();
}

#[test]
fn the_bump_source_ends() {
    let machine = Machine::new(Config::with_ram([frames(1, 10)]));
    let source = BumpSource::new(machine);
    let order = Order::new(2).unwrap();
    let starts = [4, 8].map(|pfn| {
        source
            .alloc(PageReq::new(order, Gfp::KERNEL))
            .map(|block| block.pfn() == Pfn::new(pfn))
    });
    assert_eq!(starts, [Ok(true), Err(AllocError::OutOfMemory)]);
    assert_eq!(source.nr_left(), 3);
}

#[test]
fn failures_come_when_they_are_ordered() {
    let source = FailNth::new(FreeListSource::new(Machine::new(Config::with_mib(2))));
    let alloc = || {
        source
            .alloc(PageReq::page(Gfp::KERNEL))
            .map(|block| source.free(block))
            .is_ok()
    };
    assert!(alloc());
    source.fail_at(2);
    assert_eq!(
        [alloc(), alloc(), alloc(), alloc(), alloc()],
        [true, true, false, true, true]
    );
    source.fail_at(0);
    source.disarm();
    assert!(alloc());
    assert_eq!(source.nr_failed(), 1);
    source.inner().assert_nothing_outstanding();

    let source = FailRandom::new(
        FreeListSource::new(Machine::new(Config::with_mib(2))),
        1,
        250,
    );
    let nr_failed = (0..1000)
        .filter(|_| {
            source
                .alloc(PageReq::page(Gfp::KERNEL))
                .map(|block| source.free(block))
                .is_err()
        })
        .count();
    assert_eq!(source.nr_failed(), nr_failed as u64);
    assert!((150..350).contains(&nr_failed), "{nr_failed} of 1000");
    source.set_per_mille(0);
    assert!(
        source
            .alloc(PageReq::page(Gfp::KERNEL))
            .map(|block| source.free(block))
            .is_ok()
    );
}

#[test]
fn chance_comes_again() {
    let numbers = |seed| {
        let mut rng = Rng::new(seed);
        [
            rng.next_u64(),
            rng.below(10),
            rng.range(5..7),
            *rng.pick(&[1, 2, 3]),
        ]
    };
    assert_eq!(numbers(3), numbers(3));
    assert_ne!(numbers(3), numbers(4));
    // The first numbers of splitmix64 for seed 0, from its author's C code.
    let mut rng = Rng::new(0);
    assert_eq!(
        [rng.next_u64(), rng.next_u64()],
        [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]
    );
    let mut items: Vec<_> = (0..50).collect();
    Rng::new(1).shuffle(&mut items);
    assert_ne!(items, (0..50).collect::<Vec<_>>());
    items.sort_unstable();
    assert_eq!(items, (0..50).collect::<Vec<_>>());
}

#[test]
fn memory_comes_and_goes_by_section() {
    use kmm_frame::{MemMap, MemMapError, PAGES_PER_SECTION, Section};
    let section = |nr| Section::new(nr).range();
    let machine = Machine::new(Config::with_ram([section(0), section(2)]));
    let sections = machine.sections();
    let map = MemMap::sparse(sections);
    assert_eq!(sections.sections().count(), 0);
    assert_eq!(
        map.range(),
        PfnRange::with_len(Pfn::ZERO, 3 * PAGES_PER_SECTION)
    );
    for ram in machine.ram() {
        // SAFETY: the machine's memory for descriptors is there, and zero; nobody else adds any.
        unsafe { sections.add_zeroed_section(Section::of(ram.start())) }.unwrap();
    }
    assert!(map.described().eq(machine.ram().iter().copied()));
    assert!(!map.is_valid(section(1).start()));
    let pfn = section(2).start() + 5;
    map.page(pfn).set_ref_count(1);
    assert_eq!(map.put_page(pfn).map(|folio| folio.pfn()), Some(pfn));
    // SAFETY: nobody holds a descriptor.
    unsafe { sections.remove_section(Section::new(2)) }.unwrap();
    assert!(!map.is_valid(pfn) && map.is_valid(pfn - 2 * PAGES_PER_SECTION));
    // SAFETY: refused.
    let beyond = unsafe { sections.add_section(Section::new(3)) };
    assert_eq!(beyond, Err(MemMapError::OutsideMap));
    assert_eq!(machine.sections().sections().count(), 0, "another table");
}

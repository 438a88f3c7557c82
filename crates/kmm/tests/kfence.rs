//! KFENCE behind the facade: the frames of its pool, and what the kernel's tables say of them.
#![expect(unsafe_code, reason = "vouches for a simulated machine, frees objects")]
#![allow(missing_docs, reason = "names of tests say what they prove")]

use std::sync::Mutex;

use kmm::check::{TableFault, kernel_tables};
use kmm::fault::NoFile;
use kmm::frame::memblock::{FirstMegabyte, Memblock};
use kmm::frame::{Gfp, PAGE_SIZE, PageFlags, PfnRange, VirtAddr};
use kmm::host::PhysMap as _;
use kmm::pagetable_walker::{Level, Levels, TableCounter};
use kmm::slub::SlubBugKind;
use kmm::{AddressSpace, BuildError, Early, Hooks, KernelSpace, MAX_KFENCE_OBJECTS, Manager};
use kmm_sim::{Config, Machine};

/// What was reported: one test alone makes mistakes.
static BUGS: Mutex<Vec<(SlubBugKind, Option<&'static str>)>> = Mutex::new(Vec::new());

struct Booted {
    manager: &'static Manager<Machine>,
    space: KernelSpace,
    memory: Vec<PfnRange>,
}

fn boot(
    prepare: impl FnOnce(Early<Machine>) -> Result<Early<Machine>, BuildError>,
) -> Result<Booted, BuildError> {
    let machine = Machine::new(Config::with_mib(64));
    let reachable = machine.spanned().end().phys();
    let mut memblock = Memblock::new();
    memblock.add_firmware_map(machine.firmware_map().iter().copied(), FirstMegabyte::Skip)?;
    let space = KernelSpace {
        levels: Levels::Four,
        direct_map: VirtAddr::new(0xffff_8880_0000_0000),
        largest: Level::Pud,
        vmalloc: VirtAddr::new(0xffff_c900_0000_0000)..VirtAddr::new(0xffff_c900_4000_0000),
    };
    let tables: &'static TableCounter = Box::leak(Box::new(TableCounter::new()));
    // SAFETY: memblock tells what is free RAM, and the machine reaches all of it.
    let early = prepare(unsafe { Early::new(machine, memblock, reachable) }?)?;
    let memory = early.memory().to_vec();
    let root = early.kernel_tables(&space, [], tables)?;
    let hooks = Hooks {
        on_slub_bug: |bug| {
            BUGS.lock()
                .unwrap()
                .push((bug.kind, bug.object.map(|object| object.cache)))
        },
        ..Hooks::default()
    };
    let manager = Manager::build(early, root, tables, &space, hooks)?;
    Ok(Booted {
        manager,
        space,
        memory,
    })
}

impl Booted {
    fn is_mapped(&self, nr: usize) -> bool {
        let pfn = self.manager.kfence_frames().start() + nr;
        let va = self.space.direct_map + pfn.phys().as_u64();
        let vmalloc = self.manager.vmalloc();
        vmalloc.with_root(|root, mapper| mapper.walk(root, va).leaf().is_some())
    }

    fn prove(&self, hidden: PfnRange) -> Result<usize, TableFault> {
        let check = |root: &_, mapper: kmm::pagetable_walker::Mapper<'_, _, _>| {
            kernel_tables(&mapper, root, &self.space, &self.memory, hidden, [])
        };
        let report = self
            .manager
            .vmalloc()
            .with_root(|root, mapper| check(root, mapper));
        report.map(|report| report.direct_pages)
    }
}

/// INV-12: one page is shown for each object in use, and one after a fault; all are hidden again; every frame stays accounted for.
#[test]
fn pages_of_the_pool_are_hidden_but_for_objects_in_use() {
    let booted = boot(|early| early.with_kfence(3, 1)).unwrap();
    let (manager, frames) = (booted.manager, booted.manager.kfence_frames());
    let slub = manager.slub();
    assert_eq!(frames.nr_pages(), 7);
    let reserved = |pfn| manager.mem_map().page(pfn).test(PageFlags::RESERVED);
    assert!(frames.iter().all(reserved));
    let mapped = || {
        (0..7)
            .filter(|&nr| booted.is_mapped(nr))
            .collect::<Vec<_>>()
    };
    assert_eq!(mapped(), []);
    assert_eq!(booted.prove(PfnRange::default()).map(drop), {
        let first = booted.space.direct_map + frames.start().phys().as_u64();
        Err(TableFault::WrongRights(first))
    });
    booted.prove(frames).unwrap();

    let objects: Vec<_> = (0..1000)
        .map(|_| slub.kmalloc(104, Gfp::KERNEL).unwrap())
        .collect();
    let nr_of = |object| {
        let pfn = manager.host().phys().virt_to_pfn(object).unwrap();
        frames.contains(pfn).then(|| pfn - frames.start())
    };
    let sampled: Vec<_> = objects
        .iter()
        .filter_map(|&object| Some((nr_of(object)?, object)))
        .collect();
    assert_eq!(
        sampled.iter().map(|(nr, _)| *nr).collect::<Vec<_>>(),
        [1, 3, 5]
    );
    assert_eq!(mapped(), [1, 3, 5]);

    let behind = sampled[0].1.addr().get().next_multiple_of(PAGE_SIZE);
    assert!(slub.kfence_fault(behind, true));
    assert_eq!(mapped(), [1, 2, 3, 5]);
    for &object in &objects {
        // SAFETY: it came from there, and nobody uses it.
        unsafe { slub.kfree(object) };
    }
    assert_eq!(mapped(), []);
    assert!(slub.kfence_fault(sampled[1].1.addr().get(), false));
    assert_eq!(mapped(), [3]);
    assert!(
        !slub.kfence_fault(
            objects
                .iter()
                .find(|&&object| nr_of(object).is_none())
                .unwrap()
                .addr()
                .get(),
            false
        )
    );

    let bugs = BUGS.lock().unwrap().clone();
    let cache = Some("kmalloc-112");
    assert_eq!(
        bugs,
        [
            (SlubBugKind::OutOfBounds, cache),
            (SlubBugKind::AccessAfterFree, cache)
        ]
    );
    booted.prove(frames).unwrap();
    let nobody: [&AddressSpace<Machine, NoFile>; 0] = [];
    manager.audit(nobody.into_iter(), |_| {}).unwrap();
}

#[test]
fn without_a_pool_there_is_none() {
    let booted = boot(Ok).unwrap();
    assert!(booted.manager.kfence_frames().is_empty());
    let start = usize::try_from(booted.space.direct_map.as_u64()).unwrap();
    assert!(!booted.manager.slub().kfence_fault(start, true));
    booted.prove(PfnRange::default()).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (nr_objects, interval) in [(0, 1), (1, 0), (MAX_KFENCE_OBJECTS + 1, 1)] {
        let error = boot(|early| early.with_kfence(nr_objects, interval)).map(|_| ());
        assert_eq!(error, Err(BuildError::Kfence), "{nr_objects} {interval}");
    }
    let largest = boot(|early| early.with_kfence(MAX_KFENCE_OBJECTS, 1)).unwrap();
    assert_eq!(largest.manager.kfence_frames().nr_pages(), 511);
    largest.prove(largest.manager.kfence_frames()).unwrap();
}

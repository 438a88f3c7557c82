//! What is refused, for want of a right, an area or memory, and changes nothing.

mod common;

use common::{ACCERR, File, MAPERR, MINOR, Process, RW, World, va};
use kmm_fault::{FaultCause, FaultError, FileSource, Usage};
use kmm_frame::VirtAddr;
use kmm_sim::{Access, Mode};
use kmm_vma::{Prot, VmFlags};

#[test]
fn what_is_not_mapped_or_not_allowed_is_refused() {
    let world = World::new();
    let file = File::new(world, 10, 2);
    let mut process = world.process(0);
    process.map(100..101, Prot::READ);
    process.map(101..102, Prot::empty());
    process.map(102..103, Prot::READ | Prot::EXEC);
    process.map_file(200..202, Prot::READ, file, true);
    let before = process.picture();
    for (page, access, error) in [
        (0, Access::Read, MAPERR),
        (99, Access::Write, MAPERR),
        (103, Access::Execute, MAPERR),
        ((1 << 35) - 1, Access::Read, MAPERR),
        (100, Access::Write, ACCERR),
        (100, Access::Execute, ACCERR),
        (101, Access::Read, ACCERR),
        (101, Access::Write, ACCERR),
        (101, Access::Execute, ACCERR),
        (102, Access::Write, ACCERR),
        (200, Access::Write, ACCERR),
        (200, Access::Execute, ACCERR),
    ] {
        assert_eq!(process.touch(page, access), Err(error), "{page} {access:?}");
        let by_kernel = process.access(va(page), access, Mode::Kernel);
        let expected = if access == Access::Execute {
            FaultError::KernelExec
        } else {
            error
        };
        assert_eq!(by_kernel.map(|_| ()), Err(expected), "{page} {access:?}");
    }
    assert_eq!(process.picture(), before);
    assert_eq!(process.touch(102, Access::Execute), Ok(MINOR.into()));
    // The same, with the pages in memory.
    for page in [100, 102, 200] {
        assert!(process.read(va(page)).is_ok());
    }
    for (page, access) in [
        (100, Access::Write),
        (100, Access::Execute),
        (102, Access::Write),
        (200, Access::Write),
    ] {
        assert_eq!(
            process.touch(page, access),
            Err(ACCERR),
            "{page} {access:?}"
        );
    }
    let reserved =
        u64::from((FaultCause::RESERVED | FaultCause::USER | FaultCause::PRESENT).bits());
    assert_eq!(process.fault(va(100), reserved), Err(FaultError::Corrupt));
    world.audit(&[&process], &[file]);
}

#[test]
fn device_memory_is_never_filled_in_or_copied() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..102, RW);
    let device = VmFlags::IO | VmFlags::PFNMAP | VmFlags::DONTEXPAND;
    assert_eq!(process.mm.set_flags(va(100)..va(102), device), Ok(()));
    for access in [Access::Read, Access::Write] {
        assert_eq!(process.touch(100, access), Err(FaultError::Bus));
    }
    assert_eq!(process.usage, Usage::default());
    assert_eq!(process.read(VirtAddr::new(0)), Err(MAPERR));
}

/// Every page that a fault takes is missing once: nothing has changed then, and the next try succeeds.
#[test]
fn a_fault_without_memory_changes_nothing() {
    type Prepare = fn(&mut Process, File);
    let cases: [(&str, u64, Access, Prepare); 8] = [
        ("zero page", 100, Access::Read, |_, _| {}),
        ("anonymous", 100, Access::Write, |_, _| {}),
        ("over the page of zeros", 100, Access::Write, |p, _| {
            assert_eq!(p.read(va(100)), Ok(0));
        }),
        ("file read", 200, Access::Read, |_, _| {}),
        ("file copy", 200, Access::Write, |_, _| {}),
        ("file copy of what was read", 200, Access::Write, |p, _| {
            assert_eq!(p.read(va(200)), Ok(10));
        }),
        ("file shared", 300, Access::Write, |_, _| {}),
        ("file in memory", 300, Access::Read, |process, file| {
            let page = file.page(0).expect("memory");
            let page = process.world.machine.mem_map().page(page.pfn);
            assert!(!page.put_and_test(), "the file has it");
        }),
    ];
    for (name, page, access, prepare) in cases {
        let mut nr_failed = 0;
        for nth in 0.. {
            let world = World::new();
            let file = File::new(world, 10, 4);
            let mut process = world.process(0);
            process.map(100..104, RW);
            process.map_file(200..204, RW, file, false);
            process.map_file(300..304, RW, file, true);
            prepare(&mut process, file);
            let before = process.picture();
            world.pages.fail_at(nth);
            let result = process.touch(page, access);
            world.pages.disarm();
            if result.is_ok() {
                break;
            }
            nr_failed += 1;
            assert_eq!(result, Err(FaultError::OutOfMemory), "{name} {nth}");
            assert_eq!(process.picture(), before, "{name} {nth}");
            world.audit(&[&process], &[file]);
            assert!(
                process.touch(page, access).is_ok(),
                "{name} {nth}, with memory"
            );
            world.audit(&[&process], &[file]);
            process.exit();
            file.close();
            world.audit(&[], &[]);
        }
        println!("{name}: failed at each of {nr_failed} allocations");
        let at_least = if name.contains("over") || name.contains("was read") {
            1
        } else {
            3
        };
        assert!(nr_failed >= at_least, "{name} allocated {nr_failed} times");
    }
}

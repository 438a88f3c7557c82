//! Faults of programs on the simulated machine: what comes into memory, what it counts, what is refused.

#![allow(unsafe_code, reason = "a reference that the test took is given back")]

mod common;

use core::cell::Cell;
use core::ops::Range;

use common::{File, PAGE, Process, RW, World, va};
use kmm_fault::{
    FaultCause, FaultError, FaultKind, FileError, FileSource, PteState, SegvCode, Usage, put_page,
    state_of,
};
use kmm_frame::{PageFlags, VirtAddr};
use kmm_host::{TlbControl, TlbTarget};
use kmm_pagetable_walker::{Levels, PteFlags};
use kmm_sim::{Access, Mode};
use kmm_vma::{Limits, Mm, MmLayout, Prot, VmFlags};

const MAPERR: FaultError = FaultError::Segv(SegvCode::MapErr);
const ACCERR: FaultError = FaultError::Segv(SegvCode::AccErr);
const MINOR: [FaultKind; 1] = [FaultKind::Minor];

fn touch(process: &mut Process, page: u64, access: Access) -> Result<Vec<FaultKind>, FaultError> {
    let touched = process.access(va(page), access, Mode::User);
    touched.map(|(_, faults)| faults)
}

fn all_zero(process: &mut Process, page: u64) -> bool {
    (0..PAGE)
        .step_by(8)
        .all(|offset| process.read(va(page) + offset) == Ok(0))
}

#[test]
fn missing_tables_come_during_the_fault() {
    for (levels, wanted) in [(Levels::Four, 4), (Levels::Five, 5)] {
        let world = World::with_levels(levels);
        let mut process = world.process(0);
        process.map(100..104, RW);
        process.map(0x4000_0000..0x4000_0001, RW);
        assert_eq!(process.tables.nr_tables(), 1, "mmap makes no tables");
        assert_eq!(touch(&mut process, 100, Access::Read), Ok(MINOR.into()));
        assert_eq!(process.tables.nr_tables(), wanted);
        assert_eq!(touch(&mut process, 103, Access::Write), Ok(MINOR.into()));
        assert_eq!(
            process.tables.nr_tables(),
            wanted,
            "the tables are there already"
        );
        assert_eq!(
            touch(&mut process, 0x4000_0000, Access::Write),
            Ok(MINOR.into())
        );
        assert!(process.tables.nr_tables() > wanted);
        world.audit(&[&process], &[]);
        process.exit();
        world.audit(&[], &[]);
    }
}

#[test]
fn anonymous_memory_reads_back_zero() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..104, RW);
    // Frames are handed out full of rubbish here, unless zeros are asked for.
    assert!(all_zero(&mut process, 100), "read first");
    assert_eq!(process.write(va(101) + 5, 0), Ok(()));
    assert!(all_zero(&mut process, 101), "written first");
    assert_eq!(process.write(va(100) + 9, 7), Ok(()));
    assert_eq!(process.read(va(100) + 9), Ok(7));
    assert_eq!(process.write(va(100) + 9, 0), Ok(()));
    assert!(all_zero(&mut process, 100), "read, then written");
    world.audit(&[&process], &[]);
}

#[test]
fn reads_share_the_page_of_zeros_until_a_write() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..104, RW);
    for page in 100..104 {
        assert_eq!(touch(&mut process, page, Access::Read), Ok(MINOR.into()));
        assert_eq!(process.frame(page), Some(world.zero_page));
    }
    let expected = Usage {
        min_flt: 4,
        ..Usage::default()
    };
    assert_eq!(
        process.usage, expected,
        "the page of zeros is nobody's memory"
    );
    assert_eq!(
        touch(&mut process, 101, Access::Read),
        Ok(vec![]),
        "no second fault"
    );
    assert_eq!(touch(&mut process, 101, Access::Write), Ok(MINOR.into()));
    let own = process.frame(101);
    assert!(own.is_some_and(|pfn| pfn != world.zero_page));
    assert_eq!(process.usage.anon_pages, 1);
    assert_eq!(touch(&mut process, 101, Access::Write), Ok(vec![]));
    assert_eq!(process.frame(101), own);
    assert_eq!(process.frame(102), Some(world.zero_page));
    world.audit(&[&process], &[]);
}

#[test]
fn entries_are_marked_accessed_and_dirty_as_used() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let mut process = world.process(0);
    process.map(100..102, RW);
    process.map_file(200..204, RW, file, true);
    assert_eq!(process.write(va(100), 1), Ok(()));
    assert_eq!(process.read(va(101)), Ok(0));
    assert_eq!(process.read(va(200)), Ok(10));
    assert_eq!(process.write(va(201), 1), Ok(()));
    let mut flags = Vec::new();
    process.for_each(|page, pte| flags.push((page, pte.has(PteFlags::A), pte.has(PteFlags::D))));
    let expected = [
        (100, true, true),
        (101, true, false),
        (200, true, false),
        (201, true, true),
    ];
    assert_eq!(flags, expected);
    let map = world.machine.mem_map();
    let is_dirty = |pgoff| {
        file.frame(pgoff)
            .map(|pfn| map.page(pfn).test(PageFlags::DIRTY))
    };
    assert_eq!((is_dirty(0), is_dirty(1)), (Some(false), Some(true)));
    assert_eq!(process.write(va(200), 1), Ok(()), "read before");
    assert_eq!(is_dirty(0), Some(true));
    // Written back, and written again without a fault: only the entry knows, until it goes.
    for pgoff in 0..2 {
        map.page(file.frame(pgoff).expect("in memory"))
            .clear(PageFlags::DIRTY);
    }
    assert_eq!(touch(&mut process, 201, Access::Write), Ok(vec![]));
    process.unmap(201..202);
    assert_eq!((is_dirty(0), is_dirty(1)), (Some(false), Some(true)));
    process.exit();
    file.close();
    world.audit(&[], &[]);
}

#[test]
fn a_shared_file_is_read_and_written_in_place() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let (mut a, mut b) = (world.process(0), world.process(1));
    a.map_file(200..204, RW, file, true);
    b.map_file(300..304, RW, file, true);
    assert_eq!(
        touch(&mut a, 200, Access::Read),
        Ok(vec![FaultKind::Major]),
        "from the device"
    );
    assert_eq!(
        touch(&mut b, 300, Access::Read),
        Ok(MINOR.into()),
        "in memory by now"
    );
    assert_eq!((a.usage.maj_flt, a.usage.min_flt), (1, 0));
    assert_eq!((b.usage.maj_flt, b.usage.min_flt), (0, 1));
    assert_eq!(a.frame(200), b.frame(300));
    assert_eq!(a.read(va(200) + 99), Ok(10));
    // A write to what was read: the same page, and the other one sees it.
    assert_eq!(touch(&mut a, 200, Access::Write), Ok(MINOR.into()));
    assert_eq!(a.write(va(200) + 99, 77), Ok(()));
    assert_eq!(b.read(va(300) + 99), Ok(77));
    assert_eq!(a.frame(200), file.frame(0));
    // A write at once.
    assert_eq!(
        touch(&mut b, 302, Access::Write),
        Ok(vec![FaultKind::Major])
    );
    assert_eq!(b.write(va(302), 88), Ok(()));
    assert_eq!(a.read(va(202)), Ok(88));
    assert_eq!((a.usage.file_pages, a.usage.anon_pages), (2, 0));
    world.audit(&[&a, &b], &[file]);
    a.exit();
    world.audit(&[&b], &[file]);
}

#[test]
fn a_private_file_is_copied_when_written() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let mut process = world.process(0);
    process.map_file(200..204, RW, file, false);
    // Read, then written: the file's page is replaced by a copy.
    assert_eq!(process.read(va(200) + 50), Ok(10));
    assert_eq!((process.usage.file_pages, process.usage.anon_pages), (1, 0));
    assert_eq!(touch(&mut process, 200, Access::Write), Ok(MINOR.into()));
    assert_eq!((process.usage.file_pages, process.usage.anon_pages), (0, 1));
    assert_ne!(process.frame(200), file.frame(0));
    assert_eq!(
        process.read(va(200) + 50),
        Ok(10),
        "a copy of what was there"
    );
    // Written at once.
    assert_eq!(
        touch(&mut process, 201, Access::Write),
        Ok(vec![FaultKind::Major])
    );
    assert_eq!(process.write(va(201) + 1, 99), Ok(()));
    assert_eq!(process.read(va(201) + 2), Ok(11));
    let frames: Vec<_> = (0..2).filter_map(|pgoff| file.frame(pgoff)).collect();
    for (pfn, byte) in frames.into_iter().zip(10..) {
        assert_eq!(world.byte(pfn.phys() + 1), byte, "the file was written");
        assert_eq!(world.machine.mem_map().page(pfn).ref_count(), 1);
    }
    world.audit(&[&process], &[file]);
}

#[test]
fn a_page_that_the_file_does_not_have_is_a_bus_error() {
    let world = World::new();
    let file = File::new(world, 10, 2);
    let mut process = world.process(0);
    process.map_file(200..204, RW, file, true);
    process.map_file(300..304, RW, file, false);
    let before = process.picture();
    for page in [202, 303] {
        for access in [Access::Read, Access::Write] {
            assert_eq!(touch(&mut process, page, access), Err(FaultError::Bus));
        }
    }
    for (error, expected) in [
        (FileError::Io, FaultError::Bus),
        (FileError::OutOfMemory, FaultError::OutOfMemory),
    ] {
        file.breaks(Some(error));
        for page in [200, 300] {
            assert_eq!(touch(&mut process, page, Access::Read), Err(expected));
            assert_eq!(touch(&mut process, page, Access::Write), Err(expected));
        }
    }
    assert_eq!(process.picture(), before);
    file.breaks(None);
    assert_eq!(process.read(va(301)), Ok(11));
    world.audit(&[&process], &[file]);
}

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
        assert_eq!(
            touch(&mut process, page, access),
            Err(error),
            "{page} {access:?}"
        );
        let by_kernel = process.access(va(page), access, Mode::Kernel);
        let expected = if access == Access::Execute {
            FaultError::KernelExec
        } else {
            error
        };
        assert_eq!(by_kernel.map(|_| ()), Err(expected), "{page} {access:?}");
    }
    assert_eq!(process.picture(), before);
    assert_eq!(touch(&mut process, 102, Access::Execute), Ok(MINOR.into()));
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
            touch(&mut process, page, access),
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
fn the_kernel_faults_pages_in_for_a_program() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..104, RW);
    let write = process.access(va(100) + 3, Access::Write, Mode::Kernel);
    assert_eq!(write.map(|(_, faults)| faults), Ok(MINOR.into()));
    assert_eq!(process.read(va(100) + 3), Ok(0));
    let mut child = process.fork(1);
    let frame = child.frame(100);
    // Write protection holds for the kernel, too (CR0.WP).
    let write = child.access(va(100), Access::Write, Mode::Kernel);
    assert_eq!(write.map(|(_, faults)| faults), Ok(MINOR.into()));
    assert_ne!(child.frame(100), frame);
    world.audit(&[&process, &child], &[]);
}

#[test]
fn the_last_owner_keeps_the_page() {
    let world = World::new();
    let mut parent = world.process(0);
    parent.map(100..102, RW);
    assert_eq!(parent.write(va(100), 1), Ok(()));
    assert_eq!(parent.write(va(101), 2), Ok(()));
    let frames = [parent.frame(100), parent.frame(101)];
    let mut child = parent.fork(1);
    assert_eq!([child.frame(100), child.frame(101)], frames, "shared");
    // The child copies one page, and the parent is the last owner of that.
    assert_eq!(child.write(va(100), 10), Ok(()));
    assert_ne!(child.frame(100), frames[0]);
    assert_eq!(touch(&mut parent, 100, Access::Write), Ok(MINOR.into()));
    assert_eq!(parent.frame(100), frames[0]);
    assert_eq!(parent.read(va(100)), Ok(1));
    // The child exits, and the parent is the last owner of the other.
    child.exit();
    assert_eq!(touch(&mut parent, 101, Access::Write), Ok(MINOR.into()));
    assert_eq!(parent.frame(101), frames[1]);
    assert_eq!(touch(&mut parent, 101, Access::Write), Ok(vec![]));
    world.audit(&[&parent], &[]);
}

#[test]
fn a_page_that_somebody_else_holds_is_copied() {
    let world = World::new();
    let file = File::new(world, 10, 2);
    let map = world.machine.mem_map();
    let mut process = world.process(0);
    process.map(100..101, RW);
    process.map_file(200..201, RW, file, false);
    assert_eq!(process.write(va(100), 1), Ok(()));
    process.protect(100..101, Prot::READ);
    process.protect(100..101, RW);
    // A device reads from the page: it holds a reference, and no entry.
    let held = process.frame(100).expect("mapped");
    map.page(held).get();
    assert_eq!(process.write(va(100), 2), Ok(()));
    assert_ne!(process.frame(100), Some(held));
    assert_eq!(
        world.byte(held.phys()),
        1,
        "the device still reads what was there"
    );
    // SAFETY: the device's reference.
    unsafe { put_page(&map, &world.pages, held) };
    // The page of a file is never taken over, even when the file has forgotten it.
    assert_eq!(process.read(va(200)), Ok(10));
    let cached = process.frame(200);
    file.close();
    assert_eq!(process.write(va(200), 3), Ok(()));
    assert_ne!(process.frame(200), cached);
    assert_eq!((process.usage.anon_pages, process.usage.file_pages), (2, 0));
    world.audit(&[&process], &[]);
}

/// nanvix issue 2512: a forks b, b forks c; b's pages, which b had not written, lost their mark.
#[test]
fn chained_forks_keep_their_writes_apart() {
    let world = World::new();
    let mut a = world.process(0);
    a.map(100..103, RW);
    for (page, byte) in (100..103).zip(1..) {
        assert_eq!(a.write(va(page), byte), Ok(()));
    }
    let mut b = a.fork(1);
    assert_eq!(b.write(va(101), 20), Ok(()));
    let mut c = b.fork(2);
    let mut d = c.fork(3);
    world.audit(&[&a, &b, &c, &d], &[]);
    // In an order in which each is now writer, now last owner.
    for (process, byte) in [(&mut b, 50), (&mut d, 70), (&mut a, 40), (&mut c, 60)] {
        for page in 100..103 {
            assert!(process.read(va(page)).is_ok());
            assert_eq!(process.write(va(page) + 1, byte), Ok(()));
        }
    }
    for (process, byte, old) in [
        (&mut a, 40, 2),
        (&mut b, 50, 20),
        (&mut c, 60, 20),
        (&mut d, 70, 20),
    ] {
        for page in 100..103 {
            assert_eq!(process.read(va(page) + 1), Ok(byte));
        }
        assert_eq!(process.read(va(101)), Ok(old));
        assert_eq!(process.read(va(102)), Ok(3));
    }
    let mut frames: Vec<_> = [&a, &b, &c, &d].iter().map(|p| p.frame(100)).collect();
    frames.sort_unstable();
    frames.dedup();
    assert_eq!(frames.len(), 4, "each has its own page by now");
    world.audit(&[&a, &b, &c, &d], &[]);
    for process in [a, b, c, d] {
        process.exit();
    }
    world.audit(&[], &[]);
}

#[test]
fn fork_shares_what_is_shared() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let mut parent = world.process(0);
    parent.map_file(200..204, RW, file, true);
    assert_eq!(parent.write(va(200), 1), Ok(()));
    let mut child = parent.fork(1);
    assert_eq!(
        touch(&mut child, 200, Access::Write),
        Ok(vec![]),
        "no fault: it is not copied"
    );
    assert_eq!(child.write(va(200), 2), Ok(()));
    assert_eq!(parent.read(va(200)), Ok(2));
    assert_eq!(
        child.write(va(203), 3),
        Ok(()),
        "also what nobody had touched"
    );
    assert_eq!(parent.read(va(203)), Ok(3));
    world.audit(&[&parent, &child], &[file]);
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
            let result = touch(&mut process, page, access);
            world.pages.disarm();
            if result.is_ok() {
                break;
            }
            nr_failed += 1;
            assert_eq!(result, Err(FaultError::OutOfMemory), "{name} {nth}");
            assert_eq!(process.picture(), before, "{name} {nth}");
            world.audit(&[&process], &[file]);
            assert!(
                touch(&mut process, page, access).is_ok(),
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

#[test]
fn a_stack_grows_with_its_faults_up_to_its_limit() {
    let world = World::new();
    let limits = Limits {
        stack_bytes: 16 * PAGE,
        ..Limits::default()
    };
    let mut process = world.process_with(0, Mm::new(MmLayout::default(), limits));
    process.map_stack(1000..1002);
    assert_eq!(process.write(va(999) + 4000, 1), Ok(()));
    assert_eq!(
        process.write(va(990), 2),
        Ok(()),
        "it may grow by more than a page"
    );
    assert_eq!(process.mm.counts().stack_pages, 12);
    assert_eq!(process.usage.anon_pages, 2, "only what was touched");
    assert_eq!(process.read(va(985)), Err(MAPERR), "RLIMIT_STACK");
    assert_eq!(
        touch(&mut process, 988, Access::Execute),
        Err(ACCERR),
        "no code on the stack"
    );
    assert_eq!(
        process.mm.find(va(0)).map(|(area, _)| area.start),
        Some(va(988))
    );
    assert_eq!(process.write(va(986), 3), Ok(()));
    process.mm.set_limits(Limits::default());
    // The guard gap: 256 pages above what can be reached.
    process.map(600..601, RW);
    assert_eq!(process.write(va(856), 1), Err(MAPERR));
    assert_eq!(process.write(va(857), 1), Ok(()));
    assert_eq!(process.read(va(600)), Ok(0));
    world.audit(&[&process], &[]);
}

#[test]
fn a_stack_that_gets_no_page_has_grown_all_the_same() {
    let world = World::new();
    let mut process = world.process(0);
    process.map_stack(1000..1001);
    world.pages.fail_at(0);
    assert_eq!(process.write(va(995), 1), Err(FaultError::OutOfMemory));
    assert_eq!(process.mm.total_vm_pages(), 6);
    assert_eq!(process.usage, Usage::default());
    let corrupt = u64::from(FaultCause::RESERVED.bits());
    assert_eq!(process.fault(va(900), corrupt), Err(FaultError::Corrupt));
    assert_eq!(
        process.mm.total_vm_pages(),
        6,
        "a corrupt table grows no stack"
    );
    assert_eq!(process.write(va(995), 1), Ok(()));
}

#[test]
fn what_mprotect_takes_is_gone_at_once_and_comes_back_with_a_fault() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let mut process = world.process(0);
    process.map(100..101, RW);
    process.map_file(200..201, RW, file, true);
    process.map_file(300..301, RW, file, false);
    process.map(400..401, RW);
    let pages = [100, 200, 300, 400];
    for page in pages {
        assert!(process.write(va(page) + 7, 5).is_ok());
    }
    let frames = pages.map(|page| process.frame(page));
    for prot in [
        Prot::empty(),
        Prot::READ,
        Prot::READ | Prot::EXEC,
        RW | Prot::EXEC,
    ] {
        for page in pages {
            process.protect(page..page + 1, prot);
            let read = process.read(va(page) + 7);
            let by_kernel = process.access(va(page), Access::Read, Mode::Kernel);
            if prot.is_empty() {
                assert_eq!(read, Err(ACCERR));
                assert_eq!(
                    by_kernel.map(|_| ()),
                    Err(ACCERR),
                    "out of the kernel's reach, too"
                );
            } else {
                assert_eq!(read, Ok(5), "{prot:?}");
                assert!(by_kernel.is_ok());
            }
            let write = touch(&mut process, page, Access::Write);
            assert_eq!(write.is_ok(), prot.contains(Prot::WRITE), "{prot:?}");
            let exec = touch(&mut process, page, Access::Execute);
            assert_eq!(exec.is_ok(), prot.contains(Prot::EXEC), "{prot:?}");
        }
        world.audit(&[&process], &[file]);
        assert_eq!(
            pages.map(|page| process.frame(page)),
            frames,
            "the same pages"
        );
        for page in pages {
            process.protect(page..page + 1, Prot::empty());
        }
    }
    assert_eq!((process.usage.anon_pages, process.usage.file_pages), (3, 1));
    process.protect(100..101, RW);
    assert_eq!(process.read(va(100) + 7), Ok(5));
    process.exit();
    file.close();
    world.audit(&[], &[]);
}

#[test]
fn a_right_that_comes_takes_no_other_away() {
    let world = World::new();
    let file = File::new(world, 10, 2);
    let mut process = world.process(0);
    process.map(100..101, RW);
    process.map_file(200..201, RW, file, true);
    for page in [100, 200] {
        assert!(process.write(va(page), 1).is_ok());
        process.protect(page..page + 1, RW | Prot::EXEC);
        assert_eq!(touch(&mut process, page, Access::Execute), Ok(MINOR.into()));
        for access in [Access::Write, Access::Read, Access::Execute] {
            assert_eq!(touch(&mut process, page, access), Ok(vec![]), "{access:?}");
        }
    }
    world.audit(&[&process], &[file]);
}

/// Flushes, and looks whether the page that is flushed is still mapped.
struct Watch {
    world: &'static World,
    still_mapped: Cell<u32>,
    gone: Cell<u32>,
}

impl TlbControl for Watch {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        let TlbTarget::User { root } = target else {
            panic!("the kernel's translations are none of this");
        };
        let counter = match self.world.machine.translation(root, range.start) {
            Some(_) => &self.still_mapped,
            None => &self.gone,
        };
        counter.set(counter.get() + 1);
        self.world.machine.tlb().flush_range(target, range);
    }

    fn flush_all(&self, target: TlbTarget) {
        self.world.machine.tlb().flush_all(target);
    }
}

/// INV-5: no CPU may write the new page while another still reads the old one.
#[test]
fn the_old_page_is_gone_everywhere_before_the_new_one_comes() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..102, RW);
    assert_eq!(process.write(va(100), 1), Ok(()));
    assert_eq!(process.read(va(101)), Ok(0));
    let child = process.fork(1);
    let watch = Watch {
        world,
        still_mapped: Cell::new(0),
        gone: Cell::new(0),
    };
    let write = FaultCause::USER | FaultCause::WRITE | FaultCause::PRESENT;
    for page in [100, 101] {
        let served = process.fault_with(&watch, va(page), u64::from(write.bits()));
        assert_eq!(served, Ok(FaultKind::Minor));
    }
    assert_eq!((watch.gone.get(), watch.still_mapped.get()), (2, 0));
    world.audit(&[&process, &child], &[]);
}

/// Rights that come back must not let a page be written that is shared by now.
#[test]
fn what_was_out_of_reach_during_a_fork_is_copied_afterwards() {
    let world = World::new();
    let mut parent = world.process(0);
    parent.map(100..102, RW);
    assert_eq!(parent.write(va(100), 1), Ok(()));
    assert_eq!(parent.read(va(101)), Ok(0));
    parent.protect(100..102, Prot::empty());
    let mut child = parent.fork(1);
    world.audit(&[&parent, &child], &[]);
    for process in [&mut parent, &mut child] {
        process.protect(100..102, RW);
        let pte = |p: &Process| {
            let mut state = PteState::None;
            p.for_each(|page, pte| {
                if page == 100 {
                    state = state_of(pte);
                }
            });
            state
        };
        let kept = PteState::Present {
            reachable: false,
            writable: false,
            executable: false,
        };
        assert_eq!(pte(process), kept);
    }
    assert_eq!(child.write(va(100), 2), Ok(()));
    assert_eq!(child.write(va(101), 3), Ok(()));
    assert_eq!(parent.read(va(100)), Ok(1));
    assert_eq!(parent.read(va(101)), Ok(0));
    assert_eq!(parent.write(va(100), 4), Ok(()));
    assert_eq!(child.read(va(100)), Ok(2));
    world.audit(&[&parent, &child], &[]);
}

/// Another CPU remembers less than the tables allow by now.
#[test]
fn a_spurious_fault_returns_and_is_not_counted() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..101, RW);
    assert_eq!(process.write(va(100), 1), Ok(()));
    let before = process.picture();
    let code = u64::from((FaultCause::USER | FaultCause::WRITE | FaultCause::PRESENT).bits());
    assert_eq!(process.fault(va(100), code), Ok(FaultKind::Spurious));
    assert_eq!(process.picture(), before);
}

#[test]
fn a_second_thread_sees_the_copy_and_never_the_old_page() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..101, RW);
    assert_eq!(process.write(va(100), 1), Ok(()));
    let child = process.fork(3);
    let root = process.root_pfn();
    let on_cpu_1 = |access| {
        world
            .machine
            .access(kmm_host::CpuId::new(1), root, va(100), access, Mode::User)
    };
    let shared = on_cpu_1(Access::Read).expect("mapped");
    assert_eq!(process.write(va(100), 2), Ok(()), "copied, on CPU 0");
    // The machine panics when CPU 1 uses what it remembers of the old page.
    let copy = on_cpu_1(Access::Read).expect("mapped");
    assert_ne!(copy, shared);
    assert_eq!(world.byte(copy), 2);
    assert!(on_cpu_1(Access::Write).is_ok());
    drop(child);
    world.audit(&[&process], &[]);
}

#[test]
fn device_memory_is_never_filled_in_or_copied() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..102, RW);
    let device = VmFlags::IO | VmFlags::PFNMAP | VmFlags::DONTEXPAND;
    assert_eq!(process.mm.set_flags(va(100)..va(102), device), Ok(()));
    for access in [Access::Read, Access::Write] {
        assert_eq!(touch(&mut process, 100, access), Err(FaultError::Bus));
    }
    assert_eq!(process.usage, Usage::default());
    assert_eq!(process.read(VirtAddr::new(0)), Err(MAPERR));
}

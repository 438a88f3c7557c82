//! Pages of files: shared, private, marked as they are used, missing.

mod common;

use common::{File, MINOR, RW, World, va};
use kmm_fault::{FaultError, FaultKind, FileError};
use kmm_frame::PageFlags;
use kmm_pagetable_walker::PteFlags;
use kmm_sim::Access;

#[test]
fn a_shared_file_is_read_and_written_in_place() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let (mut a, mut b) = (world.process(0), world.process(1));
    a.map_file(200..204, RW, file, true);
    b.map_file(300..304, RW, file, true);
    assert_eq!(
        a.touch(200, Access::Read),
        Ok(vec![FaultKind::Major]),
        "from the device"
    );
    assert_eq!(
        b.touch(300, Access::Read),
        Ok(MINOR.into()),
        "in memory by now"
    );
    assert_eq!((a.usage.maj_flt, a.usage.min_flt), (1, 0));
    assert_eq!((b.usage.maj_flt, b.usage.min_flt), (0, 1));
    assert_eq!(a.frame(200), b.frame(300));
    assert_eq!(a.read(va(200) + 99), Ok(10));
    // A write to what was read: the same page, and the other one sees it.
    assert_eq!(a.touch(200, Access::Write), Ok(MINOR.into()));
    assert_eq!(a.write(va(200) + 99, 77), Ok(()));
    assert_eq!(b.read(va(300) + 99), Ok(77));
    assert_eq!(a.frame(200), file.frame(0));
    // A write at once.
    assert_eq!(b.touch(302, Access::Write), Ok(vec![FaultKind::Major]));
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
    assert_eq!(process.touch(200, Access::Write), Ok(MINOR.into()));
    assert_eq!((process.usage.file_pages, process.usage.anon_pages), (0, 1));
    assert_ne!(process.frame(200), file.frame(0));
    assert_eq!(
        process.read(va(200) + 50),
        Ok(10),
        "a copy of what was there"
    );
    // Written at once.
    assert_eq!(
        process.touch(201, Access::Write),
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
    assert_eq!(process.touch(201, Access::Write), Ok(vec![]));
    process.unmap(201..202);
    assert_eq!((is_dirty(0), is_dirty(1)), (Some(false), Some(true)));
    process.exit();
    file.close();
    world.audit(&[], &[]);
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
            assert_eq!(process.touch(page, access), Err(FaultError::Bus));
        }
    }
    for (error, expected) in [
        (FileError::Io, FaultError::Bus),
        (FileError::OutOfMemory, FaultError::OutOfMemory),
    ] {
        file.breaks(Some(error));
        for page in [200, 300] {
            assert_eq!(process.touch(page, Access::Read), Err(expected));
            assert_eq!(process.touch(page, Access::Write), Err(expected));
        }
    }
    assert_eq!(process.picture(), before);
    file.breaks(None);
    assert_eq!(process.read(va(301)), Ok(11));
    world.audit(&[&process], &[file]);
}

//! What mprotect and mremap refuse, and how: the cases of their manual pages, as Linux 6.1 answers them. After each, nothing
//! may have changed.

mod common;

use common::{LOWEST, MAY_ALL, PAGE, RW, file, fixed, linux, picture, task_size, va};
use kmm_frame::VirtAddr;
use kmm_vma::{MapFlags, Prot, RemapFlags, RemapReq, VmFlags, VmaError};

#[test]
fn mprotect_refuses_holes_and_what_the_file_forbids() {
    let mut mm = linux();
    assert!(mm.mmap(fixed(LOWEST, 4 * PAGE)).is_ok());
    let mut read_only = file(MAY_ALL - VmFlags::MAYWRITE, Prot::READ, MapFlags::SHARED);
    read_only = read_only.fixed_at(va(20));
    read_only.len_bytes = 2 * PAGE;
    assert!(mm.mmap(read_only).is_ok());
    let before = picture(&mm);
    let end = task_size();
    for (addr, len, prot, error) in [
        (LOWEST + 8, PAGE, RW, VmaError::Invalid),
        (LOWEST, u64::MAX, RW, VmaError::NoMemory),
        (LOWEST, end, RW, VmaError::NoMemory),
        (end, PAGE, RW, VmaError::NoMemory),
        (22 * PAGE, PAGE, RW, VmaError::NoMemory),
        (15 * PAGE, 2 * PAGE, RW, VmaError::NoMemory),
        (21 * PAGE, 2 * PAGE, Prot::READ, VmaError::NoMemory),
        (20 * PAGE, PAGE, RW, VmaError::Access),
        (LOWEST, 6 * PAGE, RW, VmaError::Access),
        // The first obstacle counts: the file comes before the hole.
        (LOWEST, 7 * PAGE, RW, VmaError::Access),
    ] {
        let result = mm.mprotect(VirtAddr::new(addr), len, prot);
        assert_eq!(result, Err(error), "{addr:#x} {len:#x}");
        assert_eq!(picture(&mm), before);
    }
    let nothing = mm.mprotect(VirtAddr::new(LOWEST), 0, Prot::READ);
    assert!(nothing.is_ok_and(|done| done.range.is_empty()));
    let same = mm.mprotect(VirtAddr::new(LOWEST), PAGE, RW);
    assert!(
        same.is_ok_and(|done| done.range.is_empty()),
        "flushed in vain"
    );
    let both = mm.mprotect(VirtAddr::new(LOWEST), 6 * PAGE, Prot::READ | Prot::EXEC);
    assert_eq!(both.map(|done| done.range), Ok(va(16)..va(22)));
}

#[test]
fn mremap_refuses_bad_requests() {
    let mut mm = linux();
    assert!(mm.mmap(fixed(LOWEST, 4 * PAGE)).is_ok());
    assert!(mm.mmap(fixed(LOWEST + 4 * PAGE, PAGE)).is_ok());
    assert!(mm.mprotect(va(20), PAGE, Prot::READ).is_ok());
    assert_eq!(mm.set_flags(va(20)..va(21), VmFlags::DONTEXPAND), Ok(()));
    let before = picture(&mm);
    let none = RemapFlags::empty();
    let to = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    let end = task_size();
    for (old, old_len, new_len, flags, new, error) in [
        (LOWEST + 1, PAGE, PAGE, none, 0, VmaError::Invalid),
        (LOWEST, PAGE, 0, none, 0, VmaError::Invalid),
        (LOWEST, PAGE, u64::MAX, none, 0, VmaError::Invalid),
        (
            LOWEST,
            PAGE,
            PAGE,
            RemapFlags::FIXED,
            30 * PAGE,
            VmaError::Invalid,
        ),
        (LOWEST, PAGE, PAGE, to, 30 * PAGE + 1, VmaError::Invalid),
        (LOWEST, PAGE, PAGE, to, LOWEST, VmaError::Invalid),
        (
            LOWEST,
            2 * PAGE,
            2 * PAGE,
            to,
            LOWEST + PAGE,
            VmaError::Invalid,
        ),
        (LOWEST, PAGE, PAGE, to, end, VmaError::Invalid),
        (LOWEST, PAGE, PAGE, to, 0, VmaError::NotPermitted),
        (8 * PAGE, PAGE, PAGE, none, 0, VmaError::NotMapped),
        (21 * PAGE, PAGE, 2 * PAGE, none, 0, VmaError::NotMapped),
        (
            LOWEST,
            5 * PAGE,
            6 * PAGE,
            RemapFlags::MAYMOVE,
            0,
            VmaError::NotMapped,
        ),
        (LOWEST, 0, PAGE, RemapFlags::MAYMOVE, 0, VmaError::Invalid),
        (LOWEST, 4 * PAGE, 5 * PAGE, none, 0, VmaError::NoMemory),
        (LOWEST, PAGE, 2 * PAGE, none, 0, VmaError::NoMemory),
        (
            LOWEST,
            PAGE,
            end,
            RemapFlags::MAYMOVE,
            0,
            VmaError::NoMemory,
        ),
        (
            20 * PAGE,
            PAGE,
            2 * PAGE,
            RemapFlags::MAYMOVE,
            0,
            VmaError::NotMapped,
        ),
    ] {
        let req = RemapReq {
            old_addr: VirtAddr::new(old),
            old_len_bytes: old_len,
            new_len_bytes: new_len,
            flags,
            new_addr: VirtAddr::new(new),
        };
        assert_eq!(mm.remap_target(&req), Err(error), "{req:x?}");
        assert_eq!(mm.mremap(&req), Err(error), "{req:x?}");
        assert_eq!(picture(&mm), before);
    }
}

#[test]
fn a_second_mapping_of_shared_memory() {
    let mut mm = linux();
    let mut shared = file(MAY_ALL, RW, MapFlags::SHARED).fixed_at(va(20));
    shared.len_bytes = 2 * PAGE;
    shared.file = Some((7, 3));
    assert!(mm.mmap(shared).is_ok());
    let req = RemapReq {
        old_addr: va(21),
        old_len_bytes: 0,
        new_len_bytes: PAGE,
        flags: RemapFlags::MAYMOVE | RemapFlags::FIXED,
        new_addr: va(30),
    };
    assert_eq!(mm.remap_target(&req), Ok(None), "no page moves");
    let remap = mm.mremap(&req).expect("shared");
    assert_eq!((remap.range, remap.moved_from), (va(30)..va(31), None));
    let (_, second) = mm.lookup(va(30)).expect("mapped");
    assert_eq!((second.file, second.pgoff), (Some(7), 4));
    assert_eq!(mm.total_vm_pages(), 3);
    // In place of itself: nothing would be left to map a second time.
    let before = picture(&mm);
    let itself = RemapReq {
        new_addr: va(21),
        ..req
    };
    assert_eq!(mm.mremap(&itself), Err(VmaError::NotMapped));
    assert_eq!(picture(&mm), before);
    mm.validate();
}

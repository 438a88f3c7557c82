//! What mmap and munmap refuse, and how: the cases of their manual pages, as Linux 6.1 answers them. After each, nothing may
//! have changed.

mod common;

use common::{LOWEST, MAY_ALL, PAGE, RW, TOP, file, fixed, linux, picture, refused, task_size, va};
use kmm_frame::VirtAddr;
use kmm_vma::{MapFlags, MmapReq, Prot, VmFlags, VmaError};

#[test]
fn mmap_refuses_bad_lengths_and_places() {
    let mut mm = linux();
    let end = task_size();
    for (req, error) in [
        (MmapReq::anonymous(0, RW), VmaError::Invalid),
        (MmapReq::anonymous(u64::MAX, RW), VmaError::NoMemory),
        (MmapReq::anonymous(end + 1, RW), VmaError::NoMemory),
        (fixed(LOWEST + 1, PAGE), VmaError::Invalid),
        (fixed(LOWEST - PAGE, PAGE), VmaError::NotPermitted),
        (fixed(0, PAGE), VmaError::NotPermitted),
        (fixed(end, PAGE), VmaError::NoMemory),
        (fixed(end - PAGE, 2 * PAGE), VmaError::NoMemory),
        (fixed(TOP, PAGE), VmaError::NoMemory),
        (fixed(TOP, 2 * PAGE), VmaError::NoMemory),
    ] {
        assert_eq!(refused(&mut mm, req.clone()), error, "{req:x?}");
    }
    assert!(mm.mmap(fixed(end - PAGE, PAGE)).is_ok(), "the last page");
    assert!(mm.mmap(fixed(LOWEST, 1)).is_ok(), "the first page");
}

#[test]
fn mmap_refuses_contradictions() {
    let mut mm = linux();
    let anon = |flags| MmapReq {
        flags,
        ..MmapReq::anonymous(PAGE, RW)
    };
    for (flags, error) in [
        (MapFlags::ANONYMOUS, VmaError::Invalid),
        (
            MapFlags::ANONYMOUS | MapFlags::SHARED_VALIDATE,
            VmaError::Invalid,
        ),
        (
            MapFlags::ANONYMOUS | MapFlags::SHARED | MapFlags::GROWSDOWN,
            VmaError::Invalid,
        ),
        (
            MapFlags::ANONYMOUS | MapFlags::SHARED,
            VmaError::NotSupported,
        ),
        (
            MapFlags::ANONYMOUS | MapFlags::PRIVATE | MapFlags::HUGETLB,
            VmaError::NoMemory,
        ),
    ] {
        assert_eq!(refused(&mut mm, anon(flags)), error, "{flags:?}");
    }
    for (may, prot, flags, error) in [
        (MAY_ALL, RW, MapFlags::empty(), VmaError::Invalid),
        (
            MAY_ALL,
            RW,
            MapFlags::from_bits_retain(4),
            VmaError::Invalid,
        ),
        (
            MAY_ALL,
            RW,
            MapFlags::PRIVATE | MapFlags::GROWSDOWN,
            VmaError::Invalid,
        ),
        (
            MAY_ALL,
            RW,
            MapFlags::PRIVATE | MapFlags::HUGETLB,
            VmaError::Invalid,
        ),
        (
            MAY_ALL,
            RW,
            MapFlags::SHARED_VALIDATE | MapFlags::SYNC,
            VmaError::NotSupported,
        ),
        (
            MAY_ALL - VmFlags::MAYWRITE,
            RW,
            MapFlags::SHARED,
            VmaError::Access,
        ),
        (
            VmFlags::MAYWRITE,
            Prot::WRITE,
            MapFlags::SHARED,
            VmaError::Access,
        ),
        (
            VmFlags::MAYWRITE,
            Prot::empty(),
            MapFlags::PRIVATE,
            VmaError::Access,
        ),
        (
            MAY_ALL - VmFlags::MAYEXEC,
            Prot::EXEC,
            MapFlags::PRIVATE,
            VmaError::NotPermitted,
        ),
    ] {
        assert_eq!(
            refused(&mut mm, file(may, prot, flags)),
            error,
            "{may:?} {prot:?} {flags:?}"
        );
    }
    // Allowed: a private writable mapping of what may only be read.
    let private = file(VmFlags::MAYREAD, RW, MapFlags::PRIVATE);
    assert!(mm.mmap(private).is_ok());
}

#[test]
fn mmap_refuses_offsets_beyond_the_largest_file() {
    let mut mm = linux();
    let last = (1 << 51) - 2;
    for (pgoff, nr, fits) in [
        (u64::MAX, 1, false),
        (1 << 51, 1, false),
        (last + 1, 1, false),
        (last, 2, false),
        (last, 1, true),
    ] {
        let req = MmapReq {
            len_bytes: nr * PAGE,
            file: Some((1, pgoff)),
            ..file(MAY_ALL, RW, MapFlags::SHARED)
        };
        if fits {
            assert!(mm.mmap(req).is_ok());
        } else {
            assert_eq!(refused(&mut mm, req), VmaError::Overflow, "{pgoff:#x}");
        }
    }
}

#[test]
fn fixed_noreplace_meets_what_is_there() {
    let mut mm = linux();
    assert!(mm.mmap(fixed(LOWEST, 4 * PAGE)).is_ok());
    for (first, nr) in [(16, 1), (15, 2), (19, 1), (10, 20), (17, 1)] {
        let mut req = fixed(first * PAGE, nr * PAGE);
        if first >= 16 {
            req.flags |= MapFlags::FIXED_NOREPLACE;
            assert_eq!(refused(&mut mm, req), VmaError::Exists);
        } else {
            assert_eq!(refused(&mut mm, req), VmaError::NotPermitted);
        }
    }
    let mut beside = fixed(20 * PAGE, PAGE);
    beside.flags = (beside.flags - MapFlags::FIXED) | MapFlags::FIXED_NOREPLACE;
    let mapped = mm.mmap(beside).expect("free");
    assert_eq!(mapped.range, va(20)..va(21));
    assert!(!mapped.replaced);
}

#[test]
fn munmap_refuses_what_is_no_range() {
    let mut mm = linux();
    assert!(mm.mmap(fixed(LOWEST, 4 * PAGE)).is_ok());
    let end = task_size();
    let before = picture(&mm);
    for (addr, len) in [
        (LOWEST, 0),
        (LOWEST + 1, PAGE),
        (LOWEST, u64::MAX),
        (LOWEST, u64::MAX - LOWEST - 4000),
        (end, PAGE),
        (end - PAGE, PAGE + 1),
        (1 << 63, PAGE),
        (TOP, PAGE),
    ] {
        let result = mm.munmap(VirtAddr::new(addr), len);
        assert_eq!(result, Err(VmaError::Invalid), "{addr:#x} {len:#x}");
    }
    assert_eq!(picture(&mm), before);
    let all = mm.munmap(VirtAddr::ZERO, end).expect("holes do not matter");
    assert_eq!(all, VirtAddr::ZERO..VirtAddr::new(end));
    assert_eq!(mm.map_count(), 0);
}

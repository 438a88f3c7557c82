//! What is refused, and how: the cases of the manual pages of mmap, munmap, mprotect, mremap and brk, as Linux 6.1
//! answers them. After each, nothing may have changed.

mod common;

use common::{PAGE, failing, va};
use kmm_frame::VirtAddr;
use kmm_vma::{
    Limits, MapFlags, Mm, MmLayout, MmapReq, Prot, RemapFlags, RemapReq, VmFlags, VmaError,
};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const MAY_ALL: VmFlags = VmFlags::MAYREAD
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC);
/// Where Linux has its default lowest address.
const LOWEST: u64 = 0x1_0000;
/// The last page there could be.
const TOP: u64 = u64::MAX - PAGE + 1;

fn linux() -> Mm<u32> {
    Mm::new(MmLayout::default(), Limits::default())
}

fn task_size() -> u64 {
    MmLayout::default().task_size.as_u64()
}

/// A picture of everything that can be seen.
fn picture(mm: &Mm<u32>) -> String {
    let areas: Vec<_> = mm.iter().collect();
    format!("{areas:x?} {:?} {:?}", mm.counts(), mm.current_brk())
}

fn refused(mm: &mut Mm<u32>, req: MmapReq<u32>) -> VmaError {
    let before = picture(mm);
    let error = mm.mmap(req).expect_err("allowed");
    assert_eq!(picture(mm), before);
    mm.validate();
    error
}

fn fixed(addr: u64, len_bytes: u64) -> MmapReq<u32> {
    MmapReq::anonymous(len_bytes, RW).fixed_at(VirtAddr::new(addr))
}

fn file(may: VmFlags, prot: Prot, flags: MapFlags) -> MmapReq<u32> {
    MmapReq {
        addr: VirtAddr::ZERO,
        len_bytes: PAGE,
        prot,
        flags,
        file: Some((1, 0)),
        may,
    }
}

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

#[test]
fn the_break_is_exact_to_the_byte() {
    let mut mm = linux();
    let start = 100 * PAGE + 24;
    mm.set_brk_start(VirtAddr::new(start));
    let brk = |mm: &mut Mm<u32>, to: u64| {
        let (end, dropped) = mm.brk(VirtAddr::new(to));
        mm.validate();
        (end.as_u64(), dropped)
    };
    assert_eq!(brk(&mut mm, 0), (start, None), "a question");
    assert_eq!(
        brk(&mut mm, start + 1),
        (start + 1, None),
        "within the page"
    );
    assert_eq!(mm.total_vm_pages(), 0, "that page is the program's own");
    assert_eq!(brk(&mut mm, start + PAGE), (start + PAGE, None));
    assert_eq!(mm.total_vm_pages(), 1);
    assert_eq!(brk(&mut mm, 110 * PAGE), (110 * PAGE, None));
    assert_eq!(mm.total_vm_pages(), 9);
    let (_, heap) = mm.lookup(va(105)).expect("the heap");
    assert_eq!(heap.flags & VmFlags::ACCESS, VmFlags::READ | VmFlags::WRITE);
    // Down: what is dropped is whole pages.
    assert_eq!(brk(&mut mm, 109 * PAGE + 1), (109 * PAGE + 1, None));
    assert_eq!(
        brk(&mut mm, 105 * PAGE + 1),
        (105 * PAGE + 1, Some(va(106)..va(110)))
    );
    assert_eq!(mm.total_vm_pages(), 5);
    assert_eq!(brk(&mut mm, start), (start, Some(va(101)..va(106))));
    assert_eq!(mm.map_count(), 0);
    assert_eq!(brk(&mut mm, start - 1), (start, None), "below the start");
}

#[test]
fn a_refused_break_stays_where_it_was() {
    let mut mm = linux();
    let mut limits = Limits {
        data_bytes: 8 * PAGE,
        ..Limits::default()
    };
    mm.set_limits(limits);
    mm.set_brk_start(va(100));
    mm.set_data_segment(2 * PAGE);
    let at = va(103);
    assert_eq!(mm.brk(at), (at, None));
    let refuse = |mm: &mut Mm<u32>, to: VirtAddr, why: &str| {
        let before = picture(mm);
        assert_eq!(mm.brk(to), (at, None), "{why}");
        assert_eq!(picture(mm), before, "{why}");
    };
    refuse(
        &mut mm,
        va(106) + 1,
        "RLIMIT_DATA counts the program's data, to the byte",
    );
    limits.data_bytes = u64::MAX;
    limits.address_space_bytes = 6 * PAGE;
    mm.set_limits(limits);
    refuse(&mut mm, va(107), "RLIMIT_AS");
    mm.set_limits(Limits::default());
    refuse(&mut mm, VirtAddr::new(u64::MAX), "wraps");
    refuse(
        &mut mm,
        VirtAddr::new(task_size() + 1),
        "beyond the task size",
    );
    assert!(mm.mmap(fixed(110 * PAGE, PAGE)).is_ok());
    refuse(&mut mm, va(110), "one page stays free below a mapping");
    refuse(&mut mm, va(112), "a mapping is in the way");
    assert_eq!(mm.brk(va(109)), (va(109), None));
    let mut stack = fixed(1000 * PAGE, PAGE);
    stack.flags |= MapFlags::GROWSDOWN;
    assert!(mm.munmap(va(110), PAGE).is_ok());
    assert!(mm.mmap(stack).is_ok());
    assert_eq!(
        mm.brk(va(1000 - 256)),
        (va(109), None),
        "the guard gap and a page"
    );
    assert_eq!(mm.brk(va(1000 - 257)), (va(1000 - 257), None));
}

#[test]
fn a_heap_below_the_lowest_address_does_not_grow() {
    let mut mm = linux();
    mm.set_brk_start(va(14));
    assert_eq!(mm.brk(va(20)), (va(14), None));
    mm.set_brk_start(va(16));
    assert_eq!(mm.brk(va(20)), (va(20), None));
}

#[test]
fn a_child_has_its_parents_heap_and_limits() {
    let mut mm = linux();
    mm.set_limits(Limits {
        data_bytes: 8 * PAGE,
        ..Limits::default()
    });
    mm.set_brk_start(va(100));
    mm.set_data_segment(2 * PAGE);
    assert_eq!(mm.brk(va(103)), (va(103), None));
    let mut child = mm.fork().expect("memory");
    assert_eq!((child.start_brk(), child.current_brk()), (va(100), va(103)));
    assert_eq!(child.brk(va(106) + 1), (va(103), None), "the data counts");
    assert_eq!(child.brk(va(106)), (va(106), None));
    assert_eq!(mm.current_brk(), va(103));
}

#[test]
fn rlimit_data_counts_private_writable_memory() {
    let mut mm = linux();
    let limits = Limits {
        data_bytes: 4 * PAGE,
        ..Limits::default()
    };
    mm.set_limits(limits);
    assert!(mm.mmap(MmapReq::anonymous(3 * PAGE, RW)).is_ok());
    assert_eq!(
        refused(&mut mm, MmapReq::anonymous(2 * PAGE, RW)),
        VmaError::NoMemory
    );
    let constant = mm.mmap(MmapReq::anonymous(2 * PAGE, Prot::READ));
    let constant = constant.expect("not data").range.start;
    let refused = mm.mprotect(constant, 2 * PAGE, RW);
    assert_eq!(refused, Err(VmaError::NoMemory), "turns into data");
    assert!(mm.mprotect(constant, PAGE, RW).is_ok());
    assert_eq!(mm.counts().data_pages, 4);
    // A limit that was passed before it was set forbids only what needs more.
    mm.set_limits(Limits {
        data_bytes: PAGE,
        ..limits
    });
    assert!(mm.mprotect(constant, PAGE, Prot::READ).is_ok());
    assert_eq!(mm.counts().data_pages, 3);
    assert!(mm.mprotect(constant, PAGE, RW).is_err());
    let shared = file(MAY_ALL, RW, MapFlags::SHARED);
    assert!(mm.mmap(shared).is_ok(), "shared memory is no data");
}

#[test]
fn locked_memory_has_a_limit() {
    let mut mm = linux();
    let limits = Limits {
        locked_bytes: 4 * PAGE,
        ..Limits::default()
    };
    mm.set_limits(limits);
    let locked = |nr| {
        let mut req = MmapReq::anonymous(nr * PAGE, RW);
        req.flags |= MapFlags::LOCKED;
        req
    };
    let at = mm.mmap(locked(4)).expect("within the limit").range.start;
    assert_eq!(mm.locked_vm_pages(), 4);
    assert_eq!(refused(&mut mm, locked(1)), VmaError::LockLimit);
    let grow = RemapReq {
        old_addr: at,
        old_len_bytes: 4 * PAGE,
        new_len_bytes: 5 * PAGE,
        flags: RemapFlags::MAYMOVE,
        new_addr: VirtAddr::ZERO,
    };
    assert_eq!(mm.mremap(&grow), Err(VmaError::LockLimit));
    assert_eq!(
        mm.fork().expect("memory").locked_vm_pages(),
        0,
        "a child locks nothing"
    );
    assert!(mm.munmap(at, PAGE).is_ok());
    assert_eq!(mm.locked_vm_pages(), 3);
}

#[test]
fn a_stack_grows_to_its_limit_and_keeps_its_distance() {
    let mut mm = linux();
    let limits = Limits {
        stack_bytes: 16 * PAGE,
        ..Limits::default()
    };
    mm.set_limits(limits);
    let mut stack = fixed(1000 * PAGE, 2 * PAGE);
    stack.flags |= MapFlags::GROWSDOWN;
    assert!(mm.mmap(stack).is_ok());
    assert_eq!(mm.expand_stack(va(1001)), Ok(()), "inside");
    assert_eq!(mm.map_count(), 1);
    assert_eq!(mm.expand_stack(va(990) + 123), Ok(()));
    assert_eq!(
        mm.lookup(va(990)).map(|(range, _)| range),
        Some(va(990)..va(1002))
    );
    assert_eq!(mm.counts().stack_pages, 12);
    assert_eq!(
        mm.expand_stack(va(985)),
        Err(VmaError::NoMemory),
        "17 pages"
    );
    assert_eq!(mm.expand_stack(va(986)), Ok(()), "16 pages");
    assert_eq!(
        mm.expand_stack(va(1002)),
        Err(VmaError::NotMapped),
        "above it"
    );
    mm.set_limits(Limits::default());
    // 256 pages stay free above what can be reached; a guard page without access may come close.
    assert!(mm.mmap(fixed(600 * PAGE, PAGE)).is_ok());
    assert_eq!(mm.expand_stack(va(856)), Err(VmaError::NoMemory));
    assert_eq!(mm.expand_stack(va(857)), Ok(()));
    assert!(mm.mprotect(va(600), PAGE, Prot::empty()).is_ok());
    assert_eq!(mm.expand_stack(va(856)), Ok(()));
    assert_eq!(mm.expand_stack(va(601)), Ok(()));
    assert!(mm.munmap(va(600), PAGE).is_ok());
    // Another stack may come close, too.
    let mut other = fixed(400 * PAGE, PAGE);
    other.flags |= MapFlags::GROWSDOWN;
    assert!(mm.mmap(other).is_ok());
    assert_eq!(mm.expand_stack(va(401)), Ok(()));
    assert!(mm.munmap(va(400), PAGE).is_ok());
    assert_eq!(
        mm.expand_stack(VirtAddr::new(LOWEST - 1)),
        Err(VmaError::NotPermitted)
    );
    mm.validate();
    assert_eq!(mm.counts().stack_pages, mm.total_vm_pages());
}

/// Each operation that needs memory, with an allocation that fails at each point it can fail at.
#[test]
fn a_failed_allocation_changes_nothing() {
    let remap = RemapReq {
        old_addr: va(1041),
        old_len_bytes: PAGE,
        new_len_bytes: PAGE,
        flags: RemapFlags::MAYMOVE | RemapFlags::FIXED,
        new_addr: va(1061),
    };
    type Op = fn(&mut Mm<u32>, &RemapReq) -> Result<(), VmaError>;
    let ops: [(&str, Op); 6] = [
        ("mmap", |mm, _| {
            mm.mmap(fixed(9000 * PAGE, PAGE)).map(|_| ())
        }),
        ("mmap over", |mm, _| {
            mm.mmap(fixed(1041 * PAGE, PAGE)).map(|_| ())
        }),
        ("munmap", |mm, _| mm.munmap(va(1041), PAGE).map(|_| ())),
        ("mprotect", |mm, _| {
            mm.mprotect(va(1041), PAGE, Prot::READ).map(|_| ())
        }),
        ("mremap", |mm, req| mm.mremap(req).map(|_| ())),
        ("brk", |mm, _| match mm.brk(va(900)) {
            (end, _) if end == va(900) => Ok(()),
            _ => Err(VmaError::NoMemory),
        }),
    ];
    for (name, op) in ops {
        let mut failures = 0;
        // Trees of different sizes, so that some have a full node where the operation works.
        let smallest = if name == "brk" { 0 } else { 4 };
        for nr in smallest..90 {
            for allowed in 0.. {
                let mut mm = linux();
                mm.set_brk_start(va(800));
                for at in 0..nr {
                    let prot = if at % 2 == 0 { RW } else { Prot::READ };
                    let req = MmapReq::<u32>::anonymous(10 * PAGE, prot);
                    assert!(mm.mmap(req.fixed_at(va(1000 + 20 * at))).is_ok());
                }
                let before = picture(&mm);
                let result = failing::after(allowed, || op(&mut mm, &remap));
                mm.validate();
                if result.is_ok() {
                    break;
                }
                failures += 1;
                assert_eq!(result, Err(VmaError::NoMemory), "{name}");
                assert_eq!(picture(&mm), before, "{name}");
                assert_eq!(op(&mut mm, &remap), Ok(()), "{name}, with memory");
            }
        }
        assert!(failures > 0, "{name} never allocated");
    }
    let mut parent = linux();
    assert!(parent.mmap(fixed(LOWEST, PAGE)).is_ok());
    let child = failing::after(0, || parent.fork().map(|_| ()));
    assert_eq!(child, Err(VmaError::NoMemory));
}

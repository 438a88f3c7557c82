//! Limits of a process, and of memory for areas.

mod common;

use common::{LOWEST, MAY_ALL, PAGE, RW, file, fixed, linux, picture, refused, va};
use kmm_frame::VirtAddr;
use kmm_sim::FailingHeap;
use kmm_vma::{Limits, MapFlags, Mm, MmapReq, Prot, RemapFlags, RemapReq, VmaError};

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
                let result = FailingHeap::after(allowed, || op(&mut mm, &remap));
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
    let child = FailingHeap::after(0, || parent.fork().map(|_| ()));
    assert_eq!(child, Err(VmaError::NoMemory));
}

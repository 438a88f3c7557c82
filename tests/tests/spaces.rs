//! Address spaces on the whole manager: what processes rely on.
#![allow(missing_docs, reason = "names of tests say what they prove")]

use kmm::fault::{FaultCause, FaultError, FaultKind, NoFile, SegvCode};
use kmm::frame::{Gfp, VirtAddr};
use kmm::host::CpuId;
use kmm::vma::{Limits, MmLayout, MmapReq, Prot, RemapFlags, RemapReq};
use kmm::{AddressSpace, MmError};
use kmm_sim::{Config, Fault, Machine, Mode};
use kmm_tests::{Booted, MemFile, boot};

type Space = AddressSpace<Machine, NoFile>;

const PAGE: u64 = 4096;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn booted() -> Booted {
    boot(Config::with_mib(16).cpus(2)).unwrap_or_else(|error| panic!("{error}"))
}

fn space(booted: &Booted) -> Space {
    AddressSpace::new(booted.manager).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes as a program does, faults included.
fn write<F: kmm::fault::FileSource>(
    booted: &Booted,
    space: &mut AddressSpace<Machine, F>,
    at: VirtAddr,
    bytes: &[u8],
) -> Result<(), FaultError> {
    loop {
        match booted
            .machine
            .write_user(CpuId::BOOT, space.root(), at, bytes)
        {
            Ok(()) => return Ok(()),
            Err(Fault::Page(fault)) => {
                space.fault(fault.va, FaultCause::from_error_code(fault.error_code))?;
            }
            Err(fault) => panic!("{fault}"),
        }
    }
}

fn read<F: kmm::fault::FileSource>(
    booted: &Booted,
    space: &mut AddressSpace<Machine, F>,
    at: VirtAddr,
    bytes: &mut [u8],
) -> Result<(), FaultError> {
    loop {
        match booted
            .machine
            .read_user(CpuId::BOOT, space.root(), at, bytes)
        {
            Ok(()) => return Ok(()),
            Err(Fault::Page(fault)) => {
                space.fault(fault.va, FaultCause::from_error_code(fault.error_code))?;
            }
            Err(fault) => panic!("{fault}"),
        }
    }
}

fn audit(booted: &Booted, spaces: &[&Space]) {
    let report = booted.manager.audit(spaces.iter().copied(), |_| {});
    report.unwrap_or_else(|error| panic!("{error}"));
}

/// F62: to the byte, zero-filled growth, pages given back, the old break on failure, `RLIMIT_DATA`.
#[test]
fn the_heap_follows_brk_to_the_byte() {
    let booted = booted();
    let limits = Limits {
        data_bytes: 64 * PAGE,
        ..Limits::default()
    };
    let mut space = Space::with_layout(booted.manager, MmLayout::default(), limits)
        .unwrap_or_else(|error| panic!("{error}"));
    let start = VirtAddr::new(0x60_0000);
    space.set_brk_start(start);
    assert_eq!(space.brk(start + 5), start + 5);
    let mut page = [1; 16];
    assert_eq!(read(&booted, &mut space, start, &mut page), Ok(()));
    assert_eq!(page, [0; 16]);
    let free_small = booted.manager.pages().accounting().free;
    assert_eq!(space.brk(start + 10 * PAGE + 1), start + 10 * PAGE + 1);
    assert_eq!(
        write(&booted, &mut space, start + 9 * PAGE, b"heap"),
        Ok(())
    );
    assert_eq!(
        write(&booted, &mut space, start + 10 * PAGE + 4000, b"same page"),
        Ok(())
    );
    assert_eq!(space.stat().total_vm_pages, 11);
    assert_eq!(
        space.brk(start + 65 * PAGE),
        start + 10 * PAGE + 1,
        "beyond the limit"
    );
    assert_eq!(
        space.brk(start - 1),
        start + 10 * PAGE + 1,
        "below the start"
    );
    assert_eq!(space.brk(start + 5), start + 5);
    assert_eq!(
        booted.manager.pages().accounting().free,
        free_small,
        "shrinking gives pages back"
    );
    let beyond = write(&booted, &mut space, start + 9 * PAGE, b"gone");
    assert_eq!(beyond, Err(FaultError::Segv(SegvCode::MapErr)));
    assert_eq!(space.brk(start + 10 * PAGE), start + 10 * PAGE);
    assert_eq!(
        read(&booted, &mut space, start + 9 * PAGE, &mut page),
        Ok(())
    );
    assert_eq!(page, [0; 16], "grown again, it is zero again");
    audit(&booted, &[&space]);
}

/// F47: the kernel half is one for all; what is mapped there later is seen through every root, and outlives the first.
#[test]
fn kernel_mappings_are_one_for_all_processes() {
    let booted = booted();
    let parent = space(&booted);
    let addr = booted
        .manager
        .vmalloc()
        .vzalloc(4096, Gfp::KERNEL)
        .unwrap_or_else(|error| panic!("{error}"));
    let mut older = parent;
    let child = older.fork().unwrap_or_else(|error| panic!("{error}"));
    let kernel = booted.manager.kernel_half().pfn();
    let write = booted
        .machine
        .write(CpuId::BOOT, older.root(), addr, Mode::Kernel, b"seen");
    assert_eq!(write, Ok(()));
    drop(older);
    for root in [child.root(), kernel, space(&booted).root()] {
        let mut bytes = [0; 4];
        assert_eq!(
            booted
                .machine
                .read(CpuId::new(1), root, addr, Mode::Kernel, &mut bytes),
            Ok(())
        );
        assert_eq!(&bytes, b"seen");
    }
    // SAFETY: nobody uses the area any more.
    #[expect(unsafe_code, reason = "frees what was allocated")]
    unsafe { booted.manager.vmalloc().vfree(addr) }.unwrap_or_else(|error| panic!("{error}"));
    let mut bytes = [0; 4];
    let gone = booted
        .machine
        .read(CpuId::new(1), child.root(), addr, Mode::Kernel, &mut bytes);
    assert!(gone.is_err(), "vfree is seen by the child too");
    audit(&booted, &[&child]);
}

#[test]
fn programs_cannot_reach_the_kernel() {
    let booted = booted();
    let mut space = space(&booted);
    for at in [
        booted.space.direct_map + 0x10_0000,
        VirtAddr::new(0xffff_ffff_8010_0000),
    ] {
        let result = write(&booted, &mut space, at, b"x");
        assert_eq!(result, Err(FaultError::Segv(SegvCode::MapErr)), "{at}");
    }
}

#[test]
fn pages_come_one_by_one_and_are_counted() {
    let booted = booted();
    let mut space = space(&booted);
    let at = space
        .mmap(MmapReq::anonymous(64 * PAGE, RW))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(space.stat().usage.rss_pages(), 0);
    let faults = booted.manager.events().pgfault;
    for nr in 0..16 {
        assert_eq!(write(&booted, &mut space, at + nr * 4 * PAGE, &[1]), Ok(()));
    }
    let usage = space.stat().usage;
    assert_eq!(
        (usage.anon_pages, usage.min_flt, usage.maj_flt),
        (16, 16, 0)
    );
    assert_eq!(booted.manager.events().pgfault - faults, 16);
    audit(&booted, &[&space]);
}

/// A hole takes neither time nor tables, however large: 16 TiB have 8 million tables that nobody needs.
#[test]
fn holes_are_moved_as_such() {
    const SIZE: u64 = 16 << 40;
    let booted = booted();
    let mut space = space(&booted);
    // Mappings go downwards: this one is in the way of the next one's growth.
    space.mmap(MmapReq::anonymous(PAGE, Prot::READ)).unwrap();
    let at = space.mmap(MmapReq::anonymous(SIZE, RW)).unwrap();
    let offsets = [0, 511 * PAGE, 512 * PAGE, SIZE / 2 + 7 * PAGE, SIZE - PAGE];
    for offset in offsets {
        write(&booted, &mut space, at + offset, &offset.to_le_bytes()).unwrap();
    }
    let before = space.stat();
    let frames_at = |space: &Space, at: VirtAddr| {
        offsets.map(|offset| space.translate(at + offset).map(|page| page.pfn()))
    };
    let frames = frames_at(&space, at);
    let moved = space
        .mremap(&RemapReq {
            old_addr: at,
            old_len_bytes: SIZE,
            new_len_bytes: SIZE + 3 * PAGE,
            flags: RemapFlags::MAYMOVE,
            new_addr: VirtAddr::ZERO,
        })
        .unwrap();
    assert_ne!(moved, at);
    for offset in offsets {
        let mut bytes = [0; 8];
        read(&booted, &mut space, moved + offset, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), offset);
    }
    assert_eq!(
        frames_at(&space, moved),
        frames,
        "the pages move, not what is in them"
    );
    assert!(
        space.translate(at).is_none(),
        "the old entry is there still"
    );
    let after = space.stat();
    assert_eq!(after.usage.anon_pages, before.usage.anon_pages);
    assert!(
        after.nr_tables <= before.nr_tables + offsets.len() + 3,
        "{} tables, {} before",
        after.nr_tables,
        before.nr_tables
    );
    audit(&booted, &[&space]);
}

#[test]
fn the_first_touch_of_a_file_page_is_a_major_fault() {
    let booted = booted();
    let file = MemFile::new(booted.manager, 4);
    let mut space = AddressSpace::<Machine, MemFile>::new(booted.manager)
        .unwrap_or_else(|error| panic!("{error}"));
    let mut req = MmapReq::anonymous(8 * PAGE, Prot::READ);
    req.flags -= kmm::vma::MapFlags::ANONYMOUS;
    req.file = Some((file, 0));
    let at = space
        .mmap(req.clone())
        .unwrap_or_else(|error| panic!("{error}"));
    let again = space.mmap(req).unwrap_or_else(|error| panic!("{error}"));
    let user = FaultCause::USER;
    assert_eq!(space.fault(at, user), Ok(FaultKind::Major));
    assert_eq!(space.fault(again, user), Ok(FaultKind::Minor));
    assert_eq!(
        space.fault(at + 4 * PAGE, user),
        Err(FaultError::Bus),
        "behind the end of the file"
    );
    assert_eq!(booted.manager.events().pgmajfault, 1);
}

#[test]
fn errors_have_linuxs_numbers() {
    let booted = booted();
    let mut space = space(&booted);
    let errno = |result: Result<VirtAddr, MmError>| result.map_err(MmError::errno).err();
    let at = VirtAddr::new(0x10_0000);
    assert_eq!(errno(space.mmap(MmapReq::anonymous(0, RW))), Some(22));
    assert_eq!(
        errno(space.mmap(MmapReq::anonymous(PAGE, RW).fixed_at(at + 1))),
        Some(22)
    );
    assert_eq!(
        errno(space.mmap(MmapReq::anonymous(PAGE, RW).fixed_at(VirtAddr::ZERO))),
        Some(1)
    );
    assert_eq!(errno(space.mmap(MmapReq::anonymous(1 << 62, RW))), Some(12));
    assert_eq!(
        space.mprotect(at, PAGE, RW).map_err(MmError::errno),
        Err(12)
    );
    assert_eq!(space.munmap(at, 0).map_err(MmError::errno), Err(22));
}

#[test]
fn a_page_source_serves_the_x86_64_crate() {
    use kmm::adapt::paging::Frames;
    use x86_64::structures::paging::{
        FrameAllocator, FrameDeallocator, PhysFrame, Size2MiB, Size4KiB,
    };
    let booted = booted();
    let free = booted.manager.pages().accounting().free;
    let mut frames = Frames::new(booted.manager.pages(), Gfp::KERNEL);
    let small: Option<PhysFrame<Size4KiB>> = frames.allocate_frame();
    let large: Option<PhysFrame<Size2MiB>> = frames.allocate_frame();
    let (Some(small), Some(large)) = (small, large) else {
        panic!("{small:?} {large:?}")
    };
    assert_eq!(booted.manager.pages().accounting().free, free - 513);
    #[expect(unsafe_code, reason = "frees what was allocated")]
    // SAFETY: it came from there, and nobody uses it.
    unsafe {
        frames.deallocate_frame(small);
    };
    #[expect(unsafe_code, reason = "frees what was allocated")]
    // SAFETY: it came from there, and nobody uses it.
    unsafe {
        frames.deallocate_frame(large);
    };
    audit(&booted, &[]);
    assert_eq!(booted.manager.pages().accounting().free, free);
}

//! vmalloc, as the machine sees it.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use common::{CPUS, RANGE, START, iounmap, kvfree, rig, rig_with, vfree, vunmap};
use kmm_frame::{Gfp, PAGE_SIZE, PhysAddr, VirtAddr};
use kmm_host::{PageReq, PageSource};
use kmm_pagetable_walker::Levels;
use kmm_sim::{Access, Config, Mode};
use kmm_vmalloc::{AreaFlags, VmStruct, VmallocError};

const PAGE: u64 = PAGE_SIZE as u64;

#[test]
fn memory_holds_what_is_written_and_ends_with_a_guard_page() {
    for (config, levels) in [
        (Config::with_mib(32).cpus(2), Levels::Four),
        (Config::with_mib(32).cpus(2).five_levels(), Levels::Five),
    ] {
        let rig = rig_with(config, levels);
        let first = rig.vm.vmalloc(3 * PAGE_SIZE - 100, Gfp::KERNEL).unwrap();
        let second = rig.vm.vmalloc(PAGE_SIZE, Gfp::KERNEL).unwrap();
        assert_eq!(first, START);
        assert_eq!(second, first + 4 * PAGE, "one page apart");
        rig.fill(first, 3 * PAGE_SIZE, 1);
        rig.fill(second, PAGE_SIZE, 2);
        assert!(rig.holds(first, 3 * PAGE_SIZE, 1));
        assert!(rig.holds(second, PAGE_SIZE, 2));
        assert!(rig.faults(first + 3 * PAGE), "the first byte after it");
        assert!(rig.faults(second - 1), "the last byte before it");
        assert!(rig.faults(second + PAGE));
        rig.vm.validate().unwrap();
        vfree(rig.vm, first).unwrap();
        assert!(rig.faults(first));
        assert!(rig.holds(second, PAGE_SIZE, 2));
        vfree(rig.vm, second).unwrap();
        rig.assert_at_rest();
    }
}

#[test]
fn memory_is_for_the_kernel_to_read_and_write_only() {
    let rig = rig();
    let addr = rig.vm.vmalloc(1, Gfp::KERNEL).unwrap();
    let access = |access, mode| {
        let done = rig.machine.access(CPUS[0], rig.root, addr, access, mode);
        done.is_ok()
    };
    assert!(access(Access::Read, Mode::Kernel) && access(Access::Write, Mode::Kernel));
    assert!(!access(Access::Execute, Mode::Kernel), "never executed");
    assert!(!access(Access::Read, Mode::User), "not open to programs");
    let page = rig.machine.translation(rig.root, addr).unwrap();
    assert!(page.global, "kept when another program runs");
    vfree(rig.vm, addr).unwrap();
    rig.assert_at_rest();
}

#[test]
fn vzalloc_is_zero_and_vmalloc_need_not_be() {
    let rig = rig();
    for _ in 0..2 {
        let addr = rig.vm.vzalloc(5 * PAGE_SIZE, Gfp::KERNEL).unwrap();
        assert!(rig.read(addr, 5 * PAGE_SIZE).iter().all(|&byte| byte == 0));
        rig.fill(addr, 5 * PAGE_SIZE, 3);
        vfree(rig.vm, addr).unwrap();
    }
    rig.assert_at_rest();
}

/// Every other frame is taken: not two lie side by side.
#[test]
fn scattered_frames_make_contiguous_addresses() {
    let rig = rig();
    let mut taken: Vec<_> =
        core::iter::from_fn(|| rig.source.alloc(PageReq::page(Gfp::KERNEL)).ok()).collect();
    taken.sort_by_key(|block| block.pfn());
    let (even, odd): (Vec<_>, Vec<_>) = taken
        .into_iter()
        .partition(|block| block.pfn().index() % 2 == 0);
    odd.into_iter().for_each(|block| rig.source.free(block));
    let size = 1000 * PAGE_SIZE;
    let addr = rig.vm.vmalloc(size, Gfp::KERNEL).unwrap();
    rig.fill(addr, size, 4);
    assert!(rig.holds(addr, size, 4));
    vfree(rig.vm, addr).unwrap();
    even.into_iter().for_each(|block| rig.source.free(block));
    rig.assert_at_rest();
}

/// The source panics when a frame is freed that a CPU remembers; here both remember all of them.
#[test]
fn vfree_flushes_once_and_before_it_frees() {
    let rig = rig();
    let nr_pages = 1500;
    let addr = rig.vm.vmalloc(nr_pages * PAGE_SIZE, Gfp::KERNEL).unwrap();
    rig.fill(addr, nr_pages * PAGE_SIZE, 5);
    assert!(rig.holds(addr, nr_pages * PAGE_SIZE, 5));
    let flushes = rig.machine.tlb().nr_flushes();
    vfree(rig.vm, addr).unwrap();
    assert_eq!(rig.machine.tlb().nr_flushes() - flushes, 1);
    for nr in 0..nr_pages as u64 {
        assert!(rig.faults(addr + nr * PAGE));
    }
    rig.assert_at_rest();
}

/// No address space needs to be told: they share the tables below the top one.
#[test]
fn every_address_space_sees_an_area_at_once() {
    let rig = rig();
    let process = rig.mapper.alloc_user_root(rig.kernel).unwrap();
    let addr = rig.vm.vmalloc(PAGE_SIZE, Gfp::KERNEL).unwrap();
    rig.fill(addr, PAGE_SIZE, 6);
    let mut bytes = [0; 16];
    let read = rig
        .machine
        .read(CPUS[1], process.pfn(), addr, Mode::Kernel, &mut bytes);
    read.unwrap();
    assert_eq!(bytes[..], rig.read(addr, 16));
    vfree(rig.vm, addr).unwrap();
    let gone = rig
        .machine
        .access(CPUS[1], process.pfn(), addr, Access::Read, Mode::Kernel);
    assert!(gone.is_err());
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let rig = rig();
    let refuse = |size| rig.vm.vmalloc(size, Gfp::KERNEL).unwrap_err();
    assert_eq!(refuse(0), VmallocError::InvalidSize);
    assert_eq!(refuse(usize::MAX), VmallocError::InvalidSize);
    assert_eq!(refuse(33 << 20), VmallocError::InvalidSize, "more than RAM");
    assert_eq!(refuse(32 << 20), VmallocError::OutOfMemory, "all of RAM");
    rig.assert_at_rest();

    let roomy = rig_with(Config::with_mib(128), Levels::Four);
    let refuse = |size| roomy.vm.vmalloc(size, Gfp::KERNEL).unwrap_err();
    assert_eq!(
        refuse(64 << 20),
        VmallocError::NoSpace,
        "no room for a guard"
    );
    roomy.assert_at_rest();
    let all = roomy
        .vm
        .vmalloc((64 << 20) - PAGE_SIZE, Gfp::KERNEL)
        .unwrap();
    assert_eq!(refuse(1), VmallocError::NoSpace);
    vfree(roomy.vm, all).unwrap();
    roomy.assert_at_rest();
}

#[test]
fn an_address_that_is_no_area_is_refused() {
    let rig = rig();
    let addr = rig.vm.vmalloc(2 * PAGE_SIZE, Gfp::KERNEL).unwrap();
    let refuse = |addr| assert_eq!(vfree(rig.vm, addr), Err(VmallocError::NoSuchArea));
    refuse(addr + PAGE);
    refuse(addr + 1);
    refuse(addr + 2 * PAGE);
    refuse(VirtAddr::ZERO);
    assert_eq!(vunmap(rig.vm, addr), Err(VmallocError::NoSuchArea));
    assert_eq!(iounmap(rig.vm, addr), Err(VmallocError::NoSuchArea));
    rig.vm.validate().unwrap();
    vfree(rig.vm, addr).unwrap();
    refuse(addr);
    rig.assert_at_rest();
}

#[test]
fn areas_are_listed_with_who_asked_for_them() {
    let rig = rig();
    let sizes = [1, 5000, 1 << 20];
    let line = line!() + 1;
    let addrs = sizes.map(|size| rig.vm.vmalloc(size, Gfp::KERNEL).unwrap());
    let listed: Vec<_> = rig.vm.areas().collect();
    assert_eq!(listed.len(), 3);
    for ((vm, size), addr) in listed.iter().zip(sizes).zip(addrs) {
        assert_eq!(vm.addr, addr);
        assert_eq!(vm.nr_pages, size.div_ceil(PAGE_SIZE));
        assert_eq!(vm.size_bytes, (vm.nr_pages as u64 + 1) * PAGE);
        assert_eq!(vm.flags, AreaFlags::ALLOC);
        assert_eq!((vm.caller.file(), vm.caller.line()), (file!(), line));
        assert_eq!(rig.vm.find_vm_area(addr + 1), Some(*vm));
        assert_eq!(rig.vm.find_vm_area(addr + vm.size_bytes - 1), Some(*vm));
    }
    assert_eq!(rig.vm.nr_pages(), 1 + 2 + 256);
    assert_eq!(rig.vm.used_bytes(), (1 + 2 + 256 + 3) * PAGE);
    assert_eq!(rig.vm.total_bytes(), RANGE.end - RANGE.start);
    let mut frames = Vec::new();
    rig.vm
        .for_each_frame(|pfn, va| frames.push((pfn, va)))
        .unwrap();
    assert_eq!(frames.len(), rig.vm.nr_pages());
    for (pfn, va) in frames {
        let page = rig.machine.translation(rig.root, va).unwrap();
        assert_eq!(page.phys, pfn.phys());
    }
    for addr in addrs {
        vfree(rig.vm, addr).unwrap();
    }
    rig.assert_at_rest();
}

#[test]
fn early_areas_keep_their_addresses() {
    let rig = rig();
    let caller = core::panic::Location::caller();
    let early = |addr, pages: u64| VmStruct {
        addr,
        size_bytes: (pages + 1) * PAGE,
        flags: AreaFlags::IOREMAP,
        nr_pages: 0,
        phys_addr: PhysAddr::new(0xfee0_0000),
        caller,
    };
    rig.vm.add_early(early(START + PAGE, 1)).unwrap();
    let clash = rig.vm.add_early(early(START, 1));
    assert_eq!(clash, Err(VmallocError::Occupied));
    let outside = rig.vm.add_early(early(RANGE.end - PAGE, 1));
    assert_eq!(outside, Err(VmallocError::Occupied));
    let crooked = rig.vm.add_early(early(START + 0x8001, 1));
    assert_eq!(crooked, Err(VmallocError::InvalidSize));
    assert!(
        rig.vm.validate().is_err(),
        "it is said to be mapped, but is not"
    );
    let addr = rig.vm.vmalloc(1, Gfp::KERNEL).unwrap();
    assert_eq!(addr, START + 3 * PAGE, "two pages do not fit below it");
    assert_eq!(rig.vm.areas().count(), 2);
    iounmap(rig.vm, START + PAGE).unwrap();
    vfree(rig.vm, addr).unwrap();
    rig.assert_at_rest();
}

#[test]
fn kvmalloc_tries_contiguous_memory_without_trying_hard() {
    let rig = rig();
    let direct = VirtAddr::new(0xffff_8880_0123_4000);
    let mut asked = None;
    let got = rig
        .vm
        .kvmalloc(1 << 20, Gfp::KERNEL | Gfp::ZERO, |size, gfp| {
            asked = Some((size, gfp));
            Some(direct)
        });
    assert_eq!(got, Ok(direct));
    let (size, gfp) = asked.unwrap();
    assert_eq!(size, 1 << 20);
    assert!(gfp.contains(Gfp::NORETRY | Gfp::NOWARN | Gfp::ZERO));
    let mut freed = None;
    kvfree(rig.vm, direct, |addr| freed = Some(addr)).unwrap();
    assert_eq!(freed, Some(direct));

    let addr = rig.vm.kvmalloc(1 << 20, Gfp::KERNEL, |_, _| None).unwrap();
    assert!(rig.vm.is_vmalloc_addr(addr));
    kvfree(rig.vm, addr, |_| panic!("not from kmalloc")).unwrap();

    let small = rig.vm.kvmalloc(PAGE_SIZE, Gfp::KERNEL, |_, gfp| {
        assert_eq!(gfp, Gfp::KERNEL);
        None
    });
    assert_eq!(
        small,
        Err(VmallocError::OutOfMemory),
        "no fallback for a page"
    );
    rig.assert_at_rest();
}

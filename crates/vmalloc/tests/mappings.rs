//! vmap and ioremap: memory that vmalloc maps but does not own.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use common::{CPUS, START, iounmap, rig, vfree, vunmap};
use kmm_frame::{Gfp, PAGE_SIZE, Pfn, PhysAddr};
use kmm_host::{PageReq, PageSource};
use kmm_pagetable_walker::PteFlags;
use kmm_sim::Access;
use kmm_vmalloc::{AreaFlags, CacheMode, PAT_MSR, VmallocError};

const PAGE: u64 = PAGE_SIZE as u64;
/// Above the RAM of the machine.
const MMIO: PhysAddr = PhysAddr::new(0xfee0_0000);

#[test]
fn vmap_shows_the_callers_frames_and_leaves_them_to_him() {
    let rig = rig();
    let blocks: Vec<_> = (0..700)
        .map(|_| rig.source.alloc(PageReq::page(Gfp::KERNEL)).unwrap())
        .collect();
    let mut frames: Vec<Pfn> = blocks.iter().map(|block| block.pfn()).collect();
    frames.reverse();
    for (nr, pfn) in frames.iter().enumerate() {
        rig.machine.fill_frame(*pfn, (nr % 251) as u8);
    }
    let before = rig.outstanding();
    let addr = rig.vm.vmap(&frames, PteFlags::RW | PteFlags::NX).unwrap();
    for nr in 0..frames.len() {
        let bytes = rig.read(addr + nr as u64 * PAGE, 2);
        assert_eq!(bytes, [(nr % 251) as u8; 2]);
    }
    rig.fill(addr, PAGE_SIZE, 9);
    let again = rig.vm.vmap(&frames[..1], PteFlags::NX).unwrap();
    assert!(rig.holds(again, PAGE_SIZE, 9), "one frame, two addresses");
    assert!(
        rig.try_access(CPUS[0], again, Access::Write).is_err(),
        "read-only"
    );
    assert!(rig.faults(addr + frames.len() as u64 * PAGE), "guard page");
    rig.vm.validate().unwrap();
    let flags: Vec<_> = rig.vm.areas().map(|vm| (vm.flags, vm.nr_pages)).collect();
    assert_eq!(flags, [(AreaFlags::MAP, 700), (AreaFlags::MAP, 1)]);
    assert_eq!(rig.vm.nr_pages(), 0, "none of them is vmalloc's");

    assert_eq!(vfree(rig.vm, addr), Err(VmallocError::NoSuchArea));
    vunmap(rig.vm, addr).unwrap();
    vunmap(rig.vm, again).unwrap();
    assert!(rig.faults(addr) && rig.faults(again));
    assert_eq!(rig.outstanding(), before);
    blocks.into_iter().for_each(|block| rig.source.free(block));
    rig.assert_at_rest();
}

#[test]
fn vmap_refuses_what_is_no_sane_mapping() {
    let rig = rig();
    let frames = [Pfn::new(0x200)];
    let refuse = |frames: &[Pfn], flags| rig.vm.vmap(frames, flags).unwrap_err();
    assert_eq!(refuse(&[], PteFlags::NX), VmallocError::InvalidSize);
    assert_eq!(refuse(&frames, PteFlags::RW), VmallocError::InvalidFlags);
    assert_eq!(
        refuse(&frames, PteFlags::US | PteFlags::NX),
        VmallocError::InvalidFlags
    );
    let code = rig.vm.vmap(&frames, PteFlags::empty()).unwrap();
    assert!(rig.try_access(CPUS[0], code, Access::Execute).is_ok());
    assert!(rig.try_access(CPUS[0], code, Access::Write).is_err());
    vunmap(rig.vm, code).unwrap();
    rig.assert_at_rest();
}

#[test]
fn ioremap_maps_registers_wherever_they_begin() {
    let rig = rig();
    let before = rig.outstanding();
    let addr = rig
        .vm
        .ioremap(MMIO + 0xf0, 0x20, CacheMode::Uncached)
        .unwrap();
    assert_eq!(addr, START + 0xf0);
    let page = rig.machine.translation(rig.root, addr).unwrap();
    assert_eq!(page.phys, MMIO);
    assert!(page.writable && !page.executable && !page.user && page.global);
    let across = rig
        .vm
        .ioremap(MMIO + 0xff0, 0x20, CacheMode::UncachedMinus)
        .unwrap();
    let second = rig.machine.translation(rig.root, across + 0x1f).unwrap();
    assert_eq!(second.phys, MMIO + PAGE, "it takes two pages");
    assert!(rig.faults(across.align_down(PAGE) + 2 * PAGE));
    let listed: Vec<_> = rig.vm.areas().collect();
    assert!(
        listed
            .iter()
            .all(|vm| vm.flags == AreaFlags::IOREMAP && vm.phys_addr == MMIO && vm.nr_pages == 0)
    );
    rig.vm.validate().unwrap();
    iounmap(rig.vm, addr).unwrap();
    iounmap(rig.vm, across).unwrap();
    assert!(rig.faults(addr) && rig.faults(across));
    assert_eq!(rig.outstanding(), before);
    rig.assert_at_rest();
}

/// Each mode selects the PAT entry that means it (SDM 3A, table "Memory Types That Can Be Encoded With PAT").
#[test]
fn ioremap_selects_the_memory_type() {
    let rig = rig();
    let types = [
        (CacheMode::WriteBack, 6),
        (CacheMode::WriteCombining, 1),
        (CacheMode::UncachedMinus, 7),
        (CacheMode::Uncached, 0),
        (CacheMode::WriteThrough, 4),
    ];
    for (mode, memory_type) in types {
        for (size, shift) in [(PAGE_SIZE, 12), (2 << 20, 21)] {
            let addr = rig.vm.ioremap(MMIO, size, mode).unwrap();
            let page = rig.machine.translation(rig.root, addr).unwrap();
            assert_eq!(page.shift, shift);
            let pat_bit = if shift == 12 { 7 } else { 12 };
            let index = (page.entry >> 3 & 3) | (page.entry >> pat_bit & 1) << 2;
            assert_eq!(PAT_MSR >> (8 * index) & 0xff, memory_type, "{mode:?}");
            iounmap(rig.vm, addr).unwrap();
        }
    }
    rig.assert_at_rest();
}

#[test]
fn large_device_memory_is_mapped_with_large_pages() {
    let rig = rig();
    let small = rig.vm.ioremap(MMIO, 1, CacheMode::Uncached).unwrap();
    let size = (5 << 20) + 1;
    let addr = rig
        .vm
        .ioremap(PhysAddr::new(0xe000_0000), size, CacheMode::WriteCombining)
        .unwrap();
    assert!(addr.is_aligned(2 << 20));
    for (offset, shift) in [(0, 21), (3 << 20, 21), (4 << 20, 12), (5 << 20, 12)] {
        let page = rig.machine.translation(rig.root, addr + offset).unwrap();
        assert_eq!(page.shift, shift, "at {offset:#x}");
        let phys = page.phys + (addr + offset - page.va);
        assert_eq!(phys, PhysAddr::new(0xe000_0000) + offset);
    }
    assert!(rig.faults(addr + (5 << 20) + PAGE));
    rig.vm.validate().unwrap();
    iounmap(rig.vm, addr).unwrap();
    iounmap(rig.vm, small).unwrap();
    rig.assert_at_rest();
}

#[test]
fn ioremap_refuses_ram_and_nonsense() {
    let rig = rig();
    let refuse = |phys, size| {
        rig.vm
            .ioremap(PhysAddr::new(phys), size, CacheMode::Uncached)
            .unwrap_err()
    };
    let end_of_ram = rig.machine.spanned().end().phys().as_u64();
    assert_eq!(refuse(0x10_0000, PAGE_SIZE), VmallocError::IsRam);
    assert_eq!(
        refuse(end_of_ram - 1, 2),
        VmallocError::IsRam,
        "the first byte"
    );
    assert_eq!(refuse(0xf_ffff, 2), VmallocError::IsRam, "the last byte");
    assert_eq!(refuse(end_of_ram, 0), VmallocError::InvalidSize);
    assert_eq!(refuse(u64::MAX, 1), VmallocError::InvalidSize);
    assert_eq!(refuse(u64::MAX - 10, 20), VmallocError::InvalidSize);
    assert_eq!(refuse((1 << 52) - 1, 2), VmallocError::InvalidSize);
    assert_eq!(refuse(1 << 40, 1 << 30), VmallocError::NoSpace);
    let legacy = rig
        .vm
        .ioremap(PhysAddr::new(0xa_0000), 0x1000, CacheMode::Uncached);
    iounmap(rig.vm, legacy.unwrap()).unwrap();
    let last = rig.vm.ioremap(
        PhysAddr::new((1 << 52) - PAGE),
        PAGE_SIZE,
        CacheMode::Uncached,
    );
    iounmap(rig.vm, last.unwrap()).unwrap();
    rig.assert_at_rest();
}

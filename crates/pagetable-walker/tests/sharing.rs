//! The kernel half that all roots share.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{GIB, MIB_2, PAGE, World, va};
use kmm_frame::{Pfn, PhysAddr};
use kmm_host::CpuId;
use kmm_pagetable_walker::{Level, Levels, MapError, PteFlags, Root};
use kmm_sim::{Access, Fault, Mode};

fn kernel_sees(world: &World, root: &Root, at: kmm_frame::VirtAddr) -> Result<PhysAddr, Fault> {
    world
        .machine
        .access(CpuId::BOOT, root.pfn(), at, Access::Read, Mode::Kernel)
}

#[test]
fn a_change_below_the_top_is_seen_through_every_root_at_once() {
    for levels in [Levels::Four, Levels::Five] {
        let world = World::new(levels);
        let (mut kernel, half) = world.kernel();
        let mapper = world.mapper();
        let parent = mapper.alloc_user_root(half).unwrap();
        let child = mapper.alloc_user_root(half).unwrap();
        let at = levels.kernel_start() + levels.top().size_bytes() + 5 * GIB;
        mapper
            .map_page(&mut kernel, at, Pfn::new(77), Level::Pte, PteFlags::KERNEL)
            .unwrap();
        for root in [&kernel, &parent, &child] {
            assert_eq!(kernel_sees(&world, root, at), Ok(Pfn::new(77).phys()));
        }
        // A page that is not global is remembered with the tables of the root through which it was reached.
        let local = PteFlags::KERNEL - PteFlags::G;
        let beside = at + PAGE;
        mapper
            .map_page(&mut kernel, beside, Pfn::new(79), Level::Pte, local)
            .unwrap();
        assert_eq!(
            kernel_sees(&world, &parent, beside),
            Ok(Pfn::new(79).phys())
        );
        // The parent dies first: what the kernel mapped survives it.
        let mut gather = world.gather(&parent);
        mapper.free_root(parent, &mut gather);
        gather.finish();
        for root in [&kernel, &child] {
            assert_eq!(kernel_sees(&world, root, at), Ok(Pfn::new(77).phys()));
        }
        // Global entries are remembered for all roots, and one flush of the kernel's drops them all.
        let mut gather = world.kernel_gather();
        mapper
            .unmap_range(&mut kernel, at..at + PAGE, &mut gather, |_, _| {})
            .unwrap();
        gather.finish();
        for root in [&kernel, &child] {
            assert!(kernel_sees(&world, root, at).is_err());
        }
        mapper
            .map_page(&mut kernel, at, Pfn::new(78), Level::Pte, PteFlags::KERNEL)
            .unwrap();
        assert_eq!(kernel_sees(&world, &child, at), Ok(Pfn::new(78).phys()));
    }
}

#[test]
fn tables_of_the_shared_half_outlive_their_pages() {
    let world = World::new(Levels::Four);
    let (mut kernel, half) = world.kernel();
    let mapper = world.mapper();
    let child = mapper.alloc_user_root(half).unwrap();
    let at = world.levels.kernel_start();
    let before = world.tables.nr_tables();
    mapper
        .map_page(&mut kernel, at, Pfn::new(512), Level::Pmd, PteFlags::KERNEL)
        .unwrap();
    assert_eq!(world.tables.nr_tables(), before + 1);
    let mut gather = world.kernel_gather();
    mapper
        .unmap_range(&mut kernel, at..at + MIB_2, &mut gather, |_, _| {})
        .unwrap();
    gather.finish();
    assert_eq!(
        world.tables.nr_tables(),
        before,
        "the preallocated table stays, the one below goes"
    );
    let slot = mapper.walk(&child, at);
    assert_eq!((slot.level, slot.pte.is_none()), (Level::Pud, true));
}

#[test]
fn what_was_mapped_before_is_shared_too() {
    let world = World::new(Levels::Four);
    let mapper = world.mapper();
    let mut kernel = mapper.alloc_root().unwrap();
    let text = va(0xffff_ffff_8000_0000);
    mapper
        .map_page(
            &mut kernel,
            text,
            Pfn::new(512),
            Level::Pmd,
            PteFlags::KERNEL_ROX,
        )
        .unwrap();
    let vmalloc = va(0xffff_c900_0000_0000);
    let range = vmalloc..vmalloc + (1 << 40);
    world.pages.fail_at(1);
    assert!(
        mapper
            .prealloc_kernel_pgds(&mut kernel, range.clone())
            .is_err()
    );
    assert_eq!(world.tables.nr_tables(), 3, "nothing has changed");
    let half = mapper
        .prealloc_kernel_pgds(&mut kernel, range.clone())
        .unwrap();
    assert_eq!(world.tables.nr_tables(), 5);
    let child = mapper.alloc_user_root(half).unwrap();
    let seen = world.machine.translation(child.pfn(), text).unwrap();
    assert_eq!(
        (seen.phys.as_u64(), seen.executable, seen.writable),
        (MIB_2, true, false)
    );
    // The same again is the same half; more is refused.
    assert_eq!(mapper.prealloc_kernel_pgds(&mut kernel, range), Ok(half));
    let more = vmalloc..vmalloc + (2 << 40);
    assert_eq!(
        mapper.prealloc_kernel_pgds(&mut kernel, more),
        Err(MapError::NotPreallocated)
    );
    let user = va(0)..va(PAGE);
    assert_eq!(
        mapper.prealloc_kernel_pgds(&mut kernel, user),
        Err(MapError::BadRange)
    );
    // Unmapping all of the image leaves the table that others have an entry for.
    let mut gather = world.kernel_gather();
    mapper
        .unmap_range(&mut kernel, text..text + MIB_2, &mut gather, |_, _| {})
        .unwrap();
    gather.finish();
    mapper
        .map_page(
            &mut kernel,
            text,
            Pfn::new(1024),
            Level::Pmd,
            PteFlags::KERNEL_ROX,
        )
        .unwrap();
    assert_eq!(
        mapper.translate(&child, text),
        Some(PhysAddr::new(2 * MIB_2))
    );
}

#[test]
fn a_process_cannot_change_the_kernel_half() {
    let world = World::new(Levels::Four);
    let (_kernel, half) = world.kernel();
    let mapper = world.mapper();
    let mut user = mapper.alloc_user_root(half).unwrap();
    let at = world.levels.kernel_start();
    let mut gather = world.gather(&user);
    let unmapped = mapper.unmap_range(&mut user, at..at + PAGE, &mut gather, |_, _| {});
    assert_eq!(unmapped, Err(MapError::WrongHalf));
    gather.finish();
    assert_eq!(
        mapper.leaf_slot(&mut user, at).unwrap_err(),
        MapError::WrongHalf
    );
    assert!(mapper.find_slot(&mut user, at).is_none());
}

#[test]
#[should_panic(expected = "is freed with pages in it")]
fn a_root_with_pages_is_not_freed() {
    let world = World::new(Levels::Four);
    let (_kernel, half) = world.kernel();
    let mapper = world.mapper();
    let mut user = mapper.alloc_user_root(half).unwrap();
    mapper
        .map_page(&mut user, va(0), Pfn::new(1), Level::Pte, PteFlags::USER_RO)
        .unwrap();
    let mut gather = world.gather(&user);
    mapper.free_root(user, &mut gather);
}

#[test]
#[should_panic(expected = "the kernel's root")]
fn the_kernels_root_is_not_freed() {
    let world = World::new(Levels::Four);
    let (kernel, _half) = world.kernel();
    let mut gather = world.kernel_gather();
    world.mapper().free_root(kernel, &mut gather);
}

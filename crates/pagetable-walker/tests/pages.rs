//! Pages of several sizes in one address space: chosen, refused, split, joined.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{GIB, MIB_2, PAGE, World, range, va};
use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_host::{AllocError, CpuId};
use kmm_pagetable_walker::{Leaf, Level, Levels, MapError, Pte, PteFlags, Root, Span};
use kmm_sim::{Access, Mode};

fn user_root(world: &World) -> Root {
    let (_kernel, half) = world.kernel();
    world.mapper().alloc_user_root(half).unwrap()
}

fn leaves(world: &World, root: &Root, start: u64, size_bytes: u64) -> Vec<Leaf> {
    let spans = world.spans(root, range(start, size_bytes)).into_iter();
    let leaf = |span| match span {
        Span::Mapped(leaf) => Some(leaf),
        _ => None,
    };
    spans.filter_map(leaf).collect()
}

#[test]
fn the_largest_page_that_fits_is_chosen() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    // 4 KiB, 2 MiB … up to 1 GiB, one whole GiB, then down again.
    let (start, size) = (GIB - MIB_2 - PAGE, GIB + 2 * (MIB_2 + PAGE));
    let phys = PhysAddr::new(5 * GIB - MIB_2 - PAGE);
    let mapper = world.mapper();
    let needed = mapper
        .nr_tables_needed(&root, range(start, size), Level::Pud)
        .unwrap();
    let before = world.tables.nr_tables();
    mapper
        .map_range(
            &mut root,
            range(start, size),
            phys,
            PteFlags::USER_RW,
            Level::Pud,
        )
        .unwrap();
    let levels: Vec<_> = leaves(&world, &root, start, size)
        .iter()
        .map(|leaf| leaf.level)
        .collect();
    assert_eq!(
        levels,
        [Level::Pte, Level::Pmd, Level::Pud, Level::Pmd, Level::Pte]
    );
    assert_eq!(world.tables.nr_tables() - before, needed);
    for offset in [0, PAGE, PAGE + MIB_2 + 12345, size - 1] {
        let seen = mapper.translate(&root, va(start + offset));
        assert_eq!(seen, Some(phys + offset));
    }

    world.unmap(&mut root, range(start, size));
    mapper
        .map_range(
            &mut root,
            range(start, size),
            phys,
            PteFlags::USER_RW,
            Level::Pmd,
        )
        .unwrap();
    let nr_pages = leaves(&world, &root, start, size).len();
    assert_eq!(nr_pages, 2 + 512 + 2, "no gigantic page unless allowed");
}

#[test]
fn frames_that_are_not_aligned_as_their_addresses_get_base_pages() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let phys = PhysAddr::new(GIB + PAGE);
    world
        .mapper()
        .map_range(
            &mut root,
            range(GIB, MIB_2),
            phys,
            PteFlags::USER_RW,
            Level::Pud,
        )
        .unwrap();
    assert_eq!(leaves(&world, &root, GIB, MIB_2).len(), 512);
}

#[test]
fn requests_that_make_no_sense_get_a_precise_error() {
    let world = World::new(Levels::Four);
    let (mut kernel, half) = world.kernel();
    let mapper = world.mapper();
    let mut user = mapper.alloc_user_root(half).unwrap();
    let flags = PteFlags::USER_RW;
    let before = world.tables.nr_tables();
    let mut page =
        |va, pfn, level| mapper.map_page(&mut user, VirtAddr::new(va), Pfn::new(pfn), level, flags);
    assert_eq!(page(GIB + 1, 0, Level::Pte), Err(MapError::NotAligned));
    assert_eq!(page(GIB + PAGE, 512, Level::Pmd), Err(MapError::NotAligned));
    assert_eq!(page(GIB, 511, Level::Pmd), Err(MapError::NotAligned));
    assert_eq!(page(GIB, 512, Level::Pud), Err(MapError::NotAligned));
    assert_eq!(page(0, 0, Level::P4d), Err(MapError::BadLevel));
    assert_eq!(page(1 << 47, 0, Level::Pte), Err(MapError::BadRange));
    assert_eq!(page(u64::MAX << 12, 0, Level::Pte), Err(MapError::BadRange));
    assert_eq!(
        page(u64::MAX << 47, 0, Level::Pte),
        Err(MapError::WrongHalf)
    );

    let mut map =
        |range, phys| mapper.map_range(&mut user, range, PhysAddr::new(phys), flags, Level::Pte);
    assert_eq!(map(va(2 * PAGE)..va(PAGE), 0), Err(MapError::BadRange));
    assert_eq!(map(va(PAGE)..va(PAGE), 0), Ok(()));
    assert_eq!(map(range(0, PAGE), 12), Err(MapError::NotAligned));
    assert_eq!(
        map(range(0, 2 * PAGE), (1 << 52) - PAGE),
        Err(MapError::BadRange)
    );
    assert_eq!(
        map(va((1 << 47) - PAGE)..va((1 << 47) + PAGE), 0),
        Err(MapError::BadRange)
    );
    assert_eq!(map(va(0)..va(u64::MAX << 12), 0), Err(MapError::BadRange));

    // Beyond what was preallocated, the kernel's top table stays as it is.
    let far = va(0xffff_f000_0000_0000);
    let done = mapper.map_page(&mut kernel, far, Pfn::ZERO, Level::Pte, PteFlags::KERNEL);
    assert_eq!(done, Err(MapError::NotPreallocated));
    assert_eq!(
        mapper.leaf_slot(&mut kernel, far).unwrap_err(),
        MapError::NotPreallocated
    );
    assert_eq!(world.tables.nr_tables(), before);
}

#[test]
fn what_is_mapped_is_not_mapped_over() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    mapper
        .map_page(
            &mut root,
            va(GIB + 5 * PAGE),
            Pfn::new(7),
            Level::Pte,
            PteFlags::USER_RO,
        )
        .unwrap();
    let before = world.tables.nr_tables();
    let huge = mapper.map_page(&mut root, va(GIB), Pfn::ZERO, Level::Pmd, PteFlags::USER_RO);
    assert_eq!(huge, Err(MapError::Occupied));
    let wide = range(0, 2 * GIB);
    let wide = mapper.map_range(
        &mut root,
        wide,
        PhysAddr::ZERO,
        PteFlags::USER_RO,
        Level::Pud,
    );
    assert_eq!(wide, Err(MapError::Occupied));
    assert_eq!(world.tables.nr_tables(), before);
    assert_eq!(leaves(&world, &root, 0, 2 * GIB).len(), 1);
}

#[test]
fn a_walk_says_where_it_stopped() {
    for levels in [Levels::Four, Levels::Five] {
        let world = World::new(levels);
        let mut root = user_root(&world);
        let mapper = world.mapper();
        assert_eq!(mapper.walk(&root, va(GIB)).level, levels.top());
        mapper
            .map_page(
                &mut root,
                va(GIB),
                Pfn::new(512),
                Level::Pmd,
                PteFlags::USER_ROX,
            )
            .unwrap();
        mapper
            .map_page(
                &mut root,
                va(GIB + MIB_2),
                Pfn::new(9),
                Level::Pte,
                PteFlags::USER_RW,
            )
            .unwrap();

        mapper
            .map_page(
                &mut root,
                va(4 * GIB),
                Pfn::new(1 << 18),
                Level::Pud,
                PteFlags::USER_RW,
            )
            .unwrap();

        let giant = mapper.walk(&root, va(4 * GIB + 0x1234_5678));
        assert_eq!(
            (giant.level, giant.phys()),
            (Level::Pud, Some(PhysAddr::new(GIB + 0x1234_5678)))
        );
        let huge = mapper.walk(&root, va(GIB + 0x1_2345));
        assert_eq!(
            (huge.level, huge.phys()),
            (Level::Pmd, Some(PhysAddr::new(MIB_2 + 0x1_2345)))
        );
        assert_eq!(huge.granted, PteFlags::P | PteFlags::US);
        let base = mapper.walk(&root, va(GIB + MIB_2 + 5));
        assert_eq!(
            (base.level, base.phys()),
            (Level::Pte, Some(PhysAddr::new(9 * PAGE + 5)))
        );
        assert_eq!(
            base.granted,
            PteFlags::P | PteFlags::US | PteFlags::RW | PteFlags::NX
        );
        let beside = mapper.walk(&root, va(GIB + MIB_2 + PAGE));
        assert_eq!((beside.level, beside.phys()), (Level::Pte, None));
        let hole = mapper.walk(&root, va(2 * GIB));
        assert_eq!((hole.level, hole.leaf()), (Level::Pud, None));
        let nowhere = mapper.walk(&root, VirtAddr::new(1 << 60));
        assert_eq!((nowhere.level, nowhere.pte), (levels.top(), Pte::NONE));
    }
}

#[test]
fn a_range_walk_tells_pages_holes_and_what_software_left() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    mapper
        .map_page(
            &mut root,
            va(GIB),
            Pfn::new(512),
            Level::Pmd,
            PteFlags::USER_RW,
        )
        .unwrap();
    let swapped = Pte::from_raw(0x1234_5600);
    mapper
        .leaf_slot(&mut root, va(3 * GIB + PAGE))
        .unwrap()
        .set(swapped);
    let page = GIB + PAGE..3 * GIB + 4 * PAGE;
    let spans = world.spans(&root, va(page.start)..va(page.end));
    let leaf = mapper.walk(&root, va(GIB)).leaf().unwrap();
    let left = Leaf {
        va: va(3 * GIB + PAGE),
        level: Level::Pte,
        pte: swapped,
    };
    let expected = [
        Span::Mapped(leaf),
        Span::Hole(va(GIB + MIB_2)..left.va),
        Span::NotPresent(left),
        Span::Hole(left.va + PAGE..va(page.end)),
    ];
    assert_eq!(spans, expected);
    let mut told = 0;
    let stopped = mapper.try_for_each(&root, va(page.start)..va(page.end), |span| {
        told += 1;
        match span {
            Span::NotPresent(leaf) => core::ops::ControlFlow::Break(leaf.pte),
            _ => core::ops::ControlFlow::Continue(()),
        }
    });
    assert_eq!(
        (stopped, told),
        (Ok(core::ops::ControlFlow::Break(swapped)), 3)
    );
}

#[test]
fn splitting_keeps_frames_flags_and_dirty_bits() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    let flags = PteFlags::USER_RW | PteFlags::PAT | PteFlags::SW57;
    mapper
        .map_page(&mut root, va(GIB), Pfn::new(1 << 18), Level::Pud, flags)
        .unwrap();
    let cpu = CpuId::BOOT;
    let touched = va(GIB + 7 * MIB_2);
    world
        .machine
        .access(cpu, root.pfn(), touched, Access::Write, Mode::User)
        .unwrap();
    let mut gather = world.gather(&root);
    mapper
        .split_at(&mut root, va(GIB + 3 * MIB_2 + PAGE), &mut gather)
        .unwrap();
    gather.finish();
    let pages = leaves(&world, &root, GIB, GIB);
    assert_eq!(pages.len(), 511 + 512);
    let mut next = GIB;
    for leaf in pages {
        assert_eq!(leaf.va, va(next));
        assert_eq!(leaf.pfn().phys().as_u64(), next);
        assert_eq!(leaf.flags() - PteFlags::PS, flags | PteFlags::D);
        next += leaf.level.size_bytes();
    }
    assert_eq!(world.tables.nr_tables(), world.machine.ptes().nr_tables());

    let mut gather = world.gather(&root);
    mapper
        .collapse(&mut root, va(GIB + 3 * MIB_2), Level::Pmd, &mut gather)
        .unwrap();
    mapper
        .collapse(&mut root, va(GIB), Level::Pud, &mut gather)
        .unwrap();
    gather.finish();
    let joined = mapper.walk(&root, touched).leaf().unwrap();
    assert_eq!(joined.level, Level::Pud);
    assert_eq!(joined.flags() - PteFlags::PS, flags | PteFlags::D);
    assert_eq!(
        world
            .machine
            .access(cpu, root.pfn(), touched, Access::Write, Mode::User)
            .unwrap()
            .as_u64(),
        touched.as_u64()
    );
}

#[test]
fn pages_that_differ_are_not_joined() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    let refuse = |root: &mut Root| {
        let mut gather = world.gather(root);
        let done = mapper.collapse(root, va(GIB), Level::Pmd, &mut gather);
        gather.finish();
        done
    };
    assert_eq!(refuse(&mut root), Err(MapError::NotUniform));
    mapper
        .map_range(
            &mut root,
            range(GIB, MIB_2),
            PhysAddr::new(GIB),
            PteFlags::USER_RW,
            Level::Pte,
        )
        .unwrap();
    let last = va(GIB + MIB_2 - PAGE);
    let good = mapper.walk(&root, last).pte;
    for bad in [
        Pte::NONE,
        Pte::from_raw(0x5500),
        Pte::new(good.pfn(), PteFlags::USER_RO),
        Pte::new(good.pfn() + 1, PteFlags::USER_RW),
    ] {
        mapper.find_slot(&mut root, last).unwrap().set(bad);
        assert_eq!(refuse(&mut root), Err(MapError::NotUniform));
        assert_eq!(mapper.walk(&root, last).pte, bad);
    }
    mapper.find_slot(&mut root, last).unwrap().set(good);
    assert_eq!(refuse(&mut root), Ok(()));
    assert_eq!(leaves(&world, &root, GIB, MIB_2).len(), 1);
}

#[test]
fn a_split_that_gets_no_memory_changes_nothing() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    mapper
        .map_page(
            &mut root,
            va(GIB),
            Pfn::new(1 << 18),
            Level::Pud,
            PteFlags::USER_RW,
        )
        .unwrap();
    // One table for the whole page, one for each end of the range.
    for nth in 0..3 {
        let mut gather = world.gather(&root);
        world.pages.fail_at(nth);
        let hole = va(GIB + PAGE)..va(GIB + 9 * MIB_2 + PAGE);
        let done = mapper.unmap_range(&mut root, hole, &mut gather, |_, _| {
            panic!("told of a page")
        });
        assert_eq!(
            done,
            Err(MapError::Alloc(AllocError::OutOfMemory)),
            "failure {nth}"
        );
        assert!(gather.is_clean());
        gather.finish();
        assert_eq!(leaves(&world, &root, GIB, GIB).len(), 1);
        assert_eq!(world.tables.nr_tables(), 1 + 3 + 2);
    }
    world.pages.disarm();
    world.unmap(&mut root, va(GIB + PAGE)..va(GIB + 9 * MIB_2 + PAGE));
    let left: usize = leaves(&world, &root, GIB, GIB)
        .iter()
        .map(Leaf::nr_pages)
        .sum();
    assert_eq!(left, 512 * 512 - 9 * 512);
}

#[test]
fn a_split_asks_for_no_more_tables_than_it_needs() {
    // Ends of a hole in a page of 1 GiB: the page itself is split once, and each page of 2 MiB that an end cuts.
    let holes = [
        (0, GIB, 0),
        (0, MIB_2, 1),
        (MIB_2, 2 * MIB_2, 1),
        (0, PAGE, 2),
        (PAGE, 2 * PAGE, 2),
        (PAGE, MIB_2, 2),
        (PAGE, MIB_2 + PAGE, 3),
        (MIB_2, GIB - PAGE, 2),
    ];
    for (start, end, nr_tables) in holes {
        let world = World::new(Levels::Four);
        let mut root = user_root(&world);
        let mapper = world.mapper();
        mapper
            .map_page(
                &mut root,
                va(GIB),
                Pfn::new(1 << 18),
                Level::Pud,
                PteFlags::USER_RW,
            )
            .unwrap();
        world.pages.fail_at(nr_tables);
        world.unmap(&mut root, va(GIB + start)..va(GIB + end));
        assert_eq!(world.pages.nr_failed(), 0, "{start:#x}..{end:#x}");
        let left: usize = leaves(&world, &root, GIB, GIB)
            .iter()
            .map(Leaf::nr_pages)
            .sum();
        assert_eq!(left as u64, (GIB - (end - start)) / PAGE);
        world.pages.disarm();
        world.unmap(&mut root, range(GIB, GIB));
        mapper
            .map_page(
                &mut root,
                va(GIB),
                Pfn::new(1 << 18),
                Level::Pud,
                PteFlags::USER_RW,
            )
            .unwrap();
        for nth in 0..nr_tables {
            world.pages.fail_at(nth);
            let mut gather = world.gather(&root);
            let hole = va(GIB + start)..va(GIB + end);
            let done = mapper.unmap_range(&mut root, hole, &mut gather, |_, _| {});
            assert!(done.is_err(), "no fewer than {nr_tables}");
        }
    }
}

#[test]
fn an_entry_of_all_zeros_is_a_hole_and_is_not_counted() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let before = world.tables.nr_tables();
    let none = PteFlags::empty();
    world
        .mapper()
        .map_page(&mut root, va(GIB), Pfn::ZERO, Level::Pte, none)
        .unwrap();
    assert_eq!(
        world.spans(&root, range(GIB, PAGE)),
        [Span::Hole(range(GIB, PAGE))]
    );
    world.unmap(&mut root, range(GIB, PAGE));
    assert_eq!(world.tables.nr_tables(), before);
}

#[test]
fn a_live_table_is_on_no_list_and_says_that_it_is_one() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    let around = range(GIB - MIB_2, 2 * MIB_2);
    mapper
        .map_range(
            &mut root,
            around,
            PhysAddr::ZERO,
            PteFlags::USER_RW,
            Level::Pte,
        )
        .unwrap();
    let map = world.machine.mem_map();
    let is_table = |pfn: &Pfn| map.page(*pfn).test(kmm_frame::PageFlags::TABLE);
    let tables: Vec<_> = map.range().iter().filter(is_table).collect();
    assert_eq!(tables.len(), world.tables.nr_tables());
    for pfn in tables {
        assert!(world.machine.ptes().is_table(pfn));
        assert_eq!(map.page(pfn).lru_next(), None);
    }
    let full = mapper.walk(&root, va(GIB)).table;
    assert_eq!(map.page(full).private(), 512);
}

#[test]
fn a_slot_is_one_descent_for_reading_and_writing() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper = world.mapper();
    let at = va(5 * GIB + 3 * PAGE);
    assert!(mapper.find_slot(&mut root, at).is_none());
    let before = world.tables.nr_tables();
    for nth in 0..3 {
        world.pages.fail_at(nth);
        assert!(mapper.leaf_slot(&mut root, at).is_err());
        assert_eq!(world.tables.nr_tables(), before, "failure {nth}");
    }
    let mut slot = mapper.leaf_slot(&mut root, at + 77).unwrap();
    assert_eq!(
        (slot.va(), slot.level(), slot.get()),
        (at, Level::Pte, Pte::NONE)
    );
    let pte = Pte::new(Pfn::new(0x1_0063), PteFlags::USER_RW);
    assert_eq!(slot.set(pte), Pte::NONE);
    let cpu = CpuId::BOOT;
    world
        .machine
        .access(cpu, root.pfn(), at, Access::Write, Mode::User)
        .unwrap();
    // The dirty bit that hardware set survives an update that does not know of it, and a set tells it.
    let mut slot = mapper.find_slot(&mut root, at).unwrap();
    let read_only = Pte::new(Pfn::new(0x1_0063), PteFlags::USER_RO);
    assert!(slot.update(read_only).has(PteFlags::D));
    assert_eq!(slot.get().flags(), PteFlags::USER_RO | PteFlags::D);
    assert!(slot.set(Pte::NONE).has(PteFlags::D));
    // An empty table goes with its range, and is in the way of a large page until then.
    let huge = va(5 * GIB);
    let done = mapper.map_page(
        &mut root,
        huge,
        Pfn::new(1 << 18),
        Level::Pmd,
        PteFlags::USER_RW,
    );
    assert_eq!(done, Err(MapError::Occupied));
    assert_eq!(world.tables.nr_tables(), before + 3);
    world.unmap(&mut root, range(5 * GIB, GIB));
    assert_eq!(world.tables.nr_tables(), before);
}

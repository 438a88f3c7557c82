//! One address space's entries into another.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::{GIB, MIB_2, PAGE, World, range, va};
use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_host::CpuId;
use kmm_pagetable_walker::{
    Leaf, Level, Levels, MapError, Pte, PteFlags, Root, Span, TableCounter,
};
use kmm_sim::{Access, Mode, seeded};

/// Every entry of a root's user half.
fn entries(world: &World, root: &Root) -> BTreeMap<VirtAddr, Leaf> {
    let all = VirtAddr::ZERO..world.levels.user_end();
    let spans = world.spans(root, all).into_iter();
    let leaf = |span| match span {
        Span::Mapped(leaf) | Span::NotPresent(leaf) => Some((leaf.va, leaf)),
        _ => None,
    };
    spans.filter_map(leaf).collect()
}

/// Private pages lose `RW` in both; shared ones (software bit 9) stay; what software left is not copied.
fn decide(leaf: Leaf, parent: &mut Pte) -> Pte {
    if !leaf.pte.is_present() {
        return Pte::NONE;
    }
    if !leaf.flags().contains(PteFlags::SW9) {
        *parent = leaf.pte.with_flags(leaf.flags() - PteFlags::RW, leaf.level);
    }
    parent.with_flags(parent.flags_at(leaf.level) - PteFlags::AD, leaf.level)
}

#[test]
fn the_child_gets_what_the_decision_says_or_nothing_at_all() {
    seeded(0x6b6d_6dff, |rng| {
        for levels in [Levels::Four, Levels::Five] {
            let world = World::new(levels);
            let (_kernel, half) = world.kernel();
            let mapper = world.mapper();
            let mut parent = mapper.alloc_user_root(half).unwrap();
            for nth in 0..60 {
                let at = rng.below(3) * (levels.user_end().as_u64() / 4) + rng.below(3) * GIB;
                let at = va(at + rng.below(4) * MIB_2 + rng.below(512) * PAGE);
                let flags = *rng.pick(&[PteFlags::USER_RW, PteFlags::USER_RW | PteFlags::SW9]);
                let pte = if rng.one_in(4) {
                    Pte::from_raw(0x100 << nth)
                } else {
                    Pte::new(Pfn::new(0x1_0000 + nth), flags)
                };
                let _ = mapper.leaf_slot(&mut parent, at).unwrap().set(pte);
            }
            let huge = va(7 * GIB);
            mapper
                .map_page(
                    &mut parent,
                    huge,
                    Pfn::new(1 << 20),
                    Level::Pmd,
                    PteFlags::USER_RW,
                )
                .unwrap();
            for at in entries(&world, &parent).into_keys() {
                let _ =
                    world
                        .machine
                        .access(CpuId::BOOT, parent.pfn(), at, Access::Write, Mode::User);
            }
            let parents = entries(&world, &parent);

            let all = VirtAddr::ZERO..levels.user_end();
            let before = (world.tables.nr_tables(), world.machine.ptes().nr_tables());
            let childs = TableCounter::new();
            let mut child = mapper.with_tables(&childs).alloc_user_root(half).unwrap();
            for nth in 0.. {
                world.pages.fail_at(nth);
                let failed = world.pages.nr_failed();
                let mut gather = world.gather(&parent);
                let for_child = mapper.with_tables(&childs);
                let done = for_child.copy_user_range(
                    &mut parent,
                    &mut child,
                    all.clone(),
                    &mut gather,
                    decide,
                );
                gather.finish();
                if world.pages.nr_failed() == failed {
                    done.unwrap();
                    break;
                }
                assert!(matches!(done, Err(MapError::Alloc(_))));
                assert_eq!(entries(&world, &parent), parents);
                assert_eq!(entries(&world, &child), BTreeMap::new());
                assert_eq!(childs.nr_tables(), 1);
            }
            world.pages.disarm();
            assert!(world.pages.nr_failed() > 5);
            assert_eq!(world.tables.nr_tables(), before.0);
            assert_eq!(childs.nr_tables(), 1 + world.tables_wanted(&child));
            assert_eq!(
                world.machine.ptes().nr_tables(),
                before.1 + childs.nr_tables()
            );

            let (after, copied) = (entries(&world, &parent), entries(&world, &child));
            assert_eq!(after.len(), parents.len());
            for (at, leaf) in parents {
                let is_private = !leaf.flags().contains(PteFlags::SW9);
                let (now, copy) = (after[&at], copied.get(&at));
                if !leaf.pte.is_present() {
                    assert_eq!((now, copy), (leaf, None));
                    continue;
                }
                let lost = if is_private {
                    PteFlags::RW
                } else {
                    PteFlags::empty()
                };
                assert_eq!(now.flags(), leaf.flags() - lost);
                let copy = copy.unwrap();
                assert_eq!((copy.pfn(), copy.level), (leaf.pfn(), leaf.level));
                assert_eq!(copy.flags(), leaf.flags() - lost - PteFlags::AD);
                // The parent's right to write was flushed, not only taken out of the tables.
                let write =
                    world
                        .machine
                        .access(CpuId::BOOT, parent.pfn(), at, Access::Write, Mode::User);
                assert_eq!(write.is_ok(), !is_private);
            }
        }
    });
}

#[test]
fn a_child_that_has_pages_there_is_left_alone() {
    let world = World::new(Levels::Four);
    let (_kernel, half) = world.kernel();
    let mapper = world.mapper();
    let mut parent = mapper.alloc_user_root(half).unwrap();
    let mut child = mapper.alloc_user_root(half).unwrap();
    let flags = PteFlags::USER_RW;
    mapper
        .map_range(
            &mut parent,
            range(GIB, 4 * PAGE),
            PhysAddr::ZERO,
            flags,
            Level::Pte,
        )
        .unwrap();
    mapper
        .map_page(
            &mut parent,
            va(2 * GIB),
            Pfn::new(1 << 20),
            Level::Pmd,
            flags,
        )
        .unwrap();
    mapper
        .map_page(
            &mut child,
            va(GIB + 3 * PAGE),
            Pfn::new(9),
            Level::Pte,
            flags,
        )
        .unwrap();
    let mut copy = |range| {
        let mut gather = world.gather(&parent);
        mapper.copy_user_range(&mut parent, &mut child, range, &mut gather, decide)
    };
    assert_eq!(copy(range(GIB, MIB_2)), Err(MapError::Occupied));
    assert_eq!(copy(range(2 * GIB, PAGE)), Err(MapError::NotAligned));
    let kernel = world.levels.kernel_start();
    assert_eq!(copy(kernel..kernel + PAGE), Err(MapError::WrongHalf));
    // Beside the child's own page, into the table that it has: no table is asked for.
    world.pages.fail_at(0);
    assert_eq!(copy(range(GIB, 3 * PAGE)), Ok(()));
    assert_eq!(entries(&world, &child).len(), 4);
}

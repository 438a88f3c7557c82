//! Frames and tables are freed only after every CPU forgot them.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{GIB, MIB_2, PAGE, World, range, va};
use kmm_frame::{Gfp, Pfn, VirtAddr};
use kmm_host::{CpuId, NoTlb, PageBlock, PageReq, PageSource, TlbTarget};
use kmm_pagetable_walker::{Leaf, Level, Levels, Mapper, Pte, PteFlags, Root};
use kmm_sim::{Access, Mode, PageFault};

/// Maps `nr_pages` fresh frames at `start` and lets both CPUs remember them.
fn fill(world: &World, root: &mut Root, start: u64, nr_pages: u64) {
    for nth in 0..nr_pages {
        let (pfn, _) = world
            .pages
            .alloc(PageReq::page(Gfp::HIGHUSER))
            .unwrap()
            .into_raw();
        let at = va(start + nth * PAGE);
        world
            .mapper()
            .map_page(root, at, pfn, Level::Pte, PteFlags::USER_RW)
            .unwrap();
        touch(world, root, at);
    }
}

fn touch(world: &World, root: &Root, at: VirtAddr) {
    for cpu in [0, 1].map(CpuId::new) {
        world
            .machine
            .access(cpu, root.pfn(), at, Access::Write, Mode::User)
            .unwrap();
    }
}

#[expect(unsafe_code, reason = "takes a page back from an entry")]
fn block(leaf: Leaf) -> PageBlock {
    // SAFETY: `fill` gave the frame up to this entry, which is gone.
    unsafe { PageBlock::from_raw(leaf.pfn(), kmm_frame::Order::ZERO) }
}

fn user_root(world: &World) -> Root {
    let (_kernel, half) = world.kernel();
    world.mapper().alloc_user_root(half).unwrap()
}

#[test]
fn many_pages_cost_one_flush_for_each_batch() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let before = world.pages.inner().outstanding();
    for (nr_pages, nr_flushes) in [(1, 1), (64, 1), (65, 2), (200, 4)] {
        fill(&world, &mut root, GIB, nr_pages);
        let flushed = world.machine.tlb().nr_flushes();
        let mut gather = world.gather(&root);
        // The source panics when a frame comes back that a CPU remembers, the store when a table does.
        world
            .mapper()
            .unmap_range(&mut root, range(GIB, GIB), &mut gather, |leaf, gather| {
                gather.push(block(leaf))
            })
            .unwrap();
        gather.finish();
        assert_eq!(
            world.machine.tlb().nr_flushes() - flushed,
            nr_flushes,
            "{nr_pages} pages"
        );
        assert_eq!(world.pages.inner().outstanding(), before);
    }
}

#[test]
fn nothing_changed_means_no_flush() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    fill(&world, &mut root, GIB, 3);
    let flushed = world.machine.tlb().nr_flushes();
    let mut gather = world.gather(&root);
    let mapper = world.mapper();
    mapper
        .unmap_range(&mut root, range(2 * GIB, GIB), &mut gather, |_, _| {})
        .unwrap();
    mapper
        .protect_range(&mut root, range(GIB, GIB), &mut gather, |leaf| leaf.pte)
        .unwrap();
    // Rights are only widened: the worst that can happen is one fault more.
    mapper
        .protect_range(&mut root, range(GIB, GIB), &mut gather, |leaf| {
            leaf.pte.with_flags(leaf.flags() - PteFlags::NX, leaf.level)
        })
        .unwrap();
    gather.finish();
    assert_eq!(world.machine.tlb().nr_flushes(), flushed);
    let machine = world.machine;
    let execute = || {
        machine.access(
            CpuId::BOOT,
            root.pfn(),
            va(GIB),
            Access::Execute,
            Mode::User,
        )
    };
    let spurious = PageFault::PRESENT | PageFault::USER | PageFault::EXECUTE;
    let fault = PageFault {
        va: va(GIB),
        error_code: spurious,
    };
    assert_eq!(execute(), Err(kmm_sim::Fault::Page(fault)));
    assert!(execute().is_ok());
}

#[test]
fn every_narrowing_is_flushed() {
    let world = World::new(Levels::Four);
    let all = PteFlags::USER_RW - PteFlags::NX;
    let narrowed = [
        Pte::new(Pfn::new(0x1_0005), all - PteFlags::RW),
        Pte::new(Pfn::new(0x1_0005), all - PteFlags::US),
        Pte::new(Pfn::new(0x1_0005), all | PteFlags::NX),
        Pte::new(Pfn::new(0x1_0005), all | PteFlags::PCD),
        Pte::new(Pfn::new(0x1_0006), all),
        Pte::new(Pfn::new(0x1_0005), all - PteFlags::P),
    ];
    let mut root = user_root(&world);
    let mapper = world.mapper();
    for pte in narrowed {
        mapper
            .map_page(&mut root, va(GIB), Pfn::new(0x1_0005), Level::Pte, all)
            .unwrap();
        touch(&world, &root, va(GIB));
        let flushed = world.machine.tlb().nr_flushes();
        let mut gather = world.gather(&root);
        mapper
            .protect_range(&mut root, range(GIB, PAGE), &mut gather, |_| pte)
            .unwrap();
        gather.finish();
        assert_eq!(world.machine.tlb().nr_flushes(), flushed + 1, "{pte:?}");
        world.unmap(&mut root, range(GIB, PAGE));
    }
}

#[test]
fn a_gather_that_is_dropped_flushes_and_frees() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let before = (world.pages.inner().outstanding(), world.tables.nr_tables());
    fill(&world, &mut root, GIB, 10);
    {
        let mut gather = world.gather(&root);
        let push = |leaf, gather: &mut common::SimGather<'_>| gather.push(block(leaf));
        world
            .mapper()
            .unmap_range(&mut root, range(GIB, MIB_2), &mut gather, push)
            .unwrap();
    }
    assert_eq!(
        (world.pages.inner().outstanding(), world.tables.nr_tables()),
        before
    );
}

#[test]
#[should_panic(expected = "was not told to forget it")]
fn without_a_flush_the_machine_notices_a_freed_table() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    world
        .mapper()
        .map_page(
            &mut root,
            va(GIB),
            Pfn::new(0x1_0005),
            Level::Pte,
            PteFlags::USER_RW,
        )
        .unwrap();
    touch(&world, &root, va(GIB));
    let mut gather = world
        .mapper()
        .gather(TlbTarget::User { root: root.pfn() }, &NoTlb);
    world
        .mapper()
        .unmap_range(&mut root, range(GIB, PAGE), &mut gather, |_, _| {})
        .unwrap();
    gather.finish();
}

#[test]
#[should_panic(expected = "stale translation")]
fn without_a_flush_the_machine_notices_the_use_of_what_is_gone() {
    let world = World::new(Levels::Four);
    let mut root = user_root(&world);
    let mapper: Mapper<'_, _, _> = world.mapper();
    mapper
        .map_range(
            &mut root,
            range(GIB, 2 * PAGE),
            kmm_frame::PhysAddr::new(GIB),
            PteFlags::USER_RW,
            Level::Pte,
        )
        .unwrap();
    touch(&world, &root, va(GIB));
    mapper.find_slot(&mut root, va(GIB)).unwrap().set(Pte::NONE);
    touch(&world, &root, va(GIB));
}

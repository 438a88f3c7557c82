//! Hardware that sets accessed and dirty bits at the worst moment: none may be lost.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "tests put themselves between the mapper and its host"
)]

mod common;

use core::ops::Range;

use common::{GIB, MIB_2, PAGE, World, range, va};
use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_host::{NoTlb, PteIndex, PteStore, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Level, Levels, Mapper, Pte, PteFlags, Root};
use kmm_sim::SimPtes;

const A: u64 = PteFlags::A.bits();
const D: u64 = PteFlags::D.bits();

/// Just before an entry is swapped, another CPU writes to its page.
struct RacyPtes<'a>(&'a SimPtes);

// SAFETY: what it adds is what hardware may do at any time.
unsafe impl PteStore for RacyPtes<'_> {
    unsafe fn read(&self, table: Pfn, index: PteIndex) -> u64 {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.0.read(table, index) }
    }

    unsafe fn write(&self, table: Pfn, index: PteIndex, entry: u64) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.0.write(table, index, entry) };
    }

    unsafe fn swap(&self, table: Pfn, index: PteIndex, entry: u64) -> u64 {
        // SAFETY: the caller's obligations are the same.
        let now = unsafe { self.0.read(table, index) };
        if now & 1 != 0 {
            // SAFETY: only bits that hardware may set.
            unsafe { self.0.write(table, index, now | A | D) };
        }
        // SAFETY: the caller's obligations are the same.
        unsafe { self.0.swap(table, index, entry) }
    }

    unsafe fn init_table(&self, table: Pfn) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.0.init_table(table) };
    }

    unsafe fn retire_table(&self, table: Pfn) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.0.retire_table(table) };
    }
}

const CLEAN: PteFlags = PteFlags::USER_RW.difference(PteFlags::A);

fn with_racy_mapper(f: impl FnOnce(&World, Mapper<'_, RacyPtes<'_>, common::Source>, &mut Root)) {
    let world = World::new(Levels::Four);
    let racy = RacyPtes(world.machine.ptes());
    let map = world.machine.mem_map();
    // SAFETY: as for the world's own mapper.
    let mapper = unsafe { Mapper::new(&racy, &world.pages, map, Levels::Four, &world.tables) };
    let mut root = mapper.alloc_root().unwrap();
    f(&world, mapper, &mut root);
}

#[test]
fn protecting_and_unmapping_lose_no_dirty_bit() {
    with_racy_mapper(|_, mapper, root| {
        let phys = PhysAddr::new(GIB);
        mapper
            .map_range(root, range(GIB, 3 * PAGE), phys, CLEAN, Level::Pte)
            .unwrap();
        let user = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(user, &NoTlb);
        let read_only = |leaf: kmm_pagetable_walker::Leaf| {
            leaf.pte.with_flags(leaf.flags() - PteFlags::RW, leaf.level)
        };
        mapper
            .protect_range(root, range(GIB, PAGE), &mut gather, read_only)
            .unwrap();
        let dirty = CLEAN | PteFlags::AD;
        assert_eq!(mapper.walk(root, va(GIB)).pte.flags(), dirty - PteFlags::RW);
        let mut told = Vec::new();
        let tail = range(GIB + PAGE, PAGE);
        mapper
            .unmap_range(root, tail, &mut gather, |leaf, _| told.push(leaf.flags()))
            .unwrap();
        assert_eq!(told, [dirty]);
        let clean = Pte::new(Pfn::new(1 << 18), CLEAN);
        mapper
            .find_slot(root, va(GIB + 2 * PAGE))
            .unwrap()
            .update(clean);
        assert_eq!(mapper.walk(root, va(GIB + 2 * PAGE)).pte.flags(), dirty);
    });
}

#[test]
fn a_page_that_is_written_while_it_is_split_is_dirty_in_all_parts() {
    with_racy_mapper(|_, mapper, root| {
        mapper
            .map_page(root, va(GIB), Pfn::new(1 << 18), Level::Pmd, CLEAN)
            .unwrap();
        let user = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(user, &NoTlb);
        mapper.split_at(root, va(GIB + PAGE), &mut gather).unwrap();
        assert!(
            !gather.is_clean(),
            "what is remembered of the large page is flushed"
        );
        let mut nr_dirty = 0;
        mapper
            .for_each(root, range(GIB, MIB_2), |span| {
                let kmm_pagetable_walker::Span::Mapped(leaf) = span else {
                    panic!("{span:?}");
                };
                nr_dirty += usize::from(leaf.flags() == CLEAN | PteFlags::AD);
            })
            .unwrap();
        assert_eq!(nr_dirty, 512);
    });
}

/// Until a CPU has seen the flush, it marks the old entries.
struct LateTlb<'a> {
    ptes: &'a SimPtes,
    table: Pfn,
}

impl TlbControl for LateTlb<'_> {
    fn flush_range(&self, _target: TlbTarget, _range: Range<VirtAddr>) {
        let index = PteIndex::truncate(9);
        // SAFETY: the table that is being replaced, which is freed only after this flush; or already was, and then the
        // machine says so.
        let entry = unsafe { self.ptes.read(self.table, index) };
        // SAFETY: only a bit that hardware may set.
        unsafe { self.ptes.write(self.table, index, entry | D) };
    }

    fn flush_all(&self, _target: TlbTarget) {}
}

#[test]
fn a_page_that_is_written_while_it_is_joined_stays_dirty() {
    let world = World::new(Levels::Four);
    let mapper = world.mapper();
    let mut root = mapper.alloc_root().unwrap();
    let phys = PhysAddr::new(GIB);
    mapper
        .map_range(&mut root, range(GIB, MIB_2), phys, CLEAN, Level::Pte)
        .unwrap();
    let tlb = LateTlb {
        ptes: world.machine.ptes(),
        table: mapper.walk(&root, va(GIB)).table,
    };
    let user = TlbTarget::User { root: root.pfn() };
    let mut gather = mapper.gather(user, &tlb);
    mapper
        .collapse(&mut root, va(GIB), Level::Pmd, &mut gather)
        .unwrap();
    let joined = mapper.walk(&root, va(GIB)).leaf().unwrap();
    assert_eq!(joined.level, Level::Pmd);
    assert_eq!(joined.flags() - PteFlags::PS, CLEAN | PteFlags::D);
    gather.finish();
}

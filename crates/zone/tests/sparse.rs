//! Zones over descriptors by section: holes have none, and a section that comes later is allocated from like the others.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "tests; descriptors are laid into memory"
)]

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::collections::BTreeSet;

use common::{TestZones, ThreadCpus, frames, note_bad, run_on, storage_for, take_bad};
use kmm_frame::{Gfp, MAX_ORDER, MemMap, PAGES_PER_SECTION, Pfn, PfnRange, Section, SparseMap};
use kmm_host::{PageReq, PageSource};
use kmm_zone::{FreeError, NodeLayouts, X86_64, ZoneLayout, Zones};

/// Room for the sections of `span`, none present; its memory is taken when it is written.
fn table(span: PfnRange) -> &'static SparseMap {
    let layout = SparseMap::layout(span).unwrap();
    let room = Layout::array::<u64>((layout.size() + layout.align()) / 8).unwrap();
    // SAFETY: it has a size.
    let storage = NonNull::new(unsafe { std::alloc::alloc_zeroed(room) }).unwrap();
    let skipped = storage.align_offset(layout.align());
    // SAFETY: at most the alignment, which there is room for.
    let storage = unsafe { storage.add(skipped) };
    let words: Vec<_> = (0..SparseMap::table_words(span))
        .map(|_| AtomicU64::new(0))
        .collect();
    // SAFETY: as large and aligned as asked, nobody else's, never given back.
    let map = unsafe { SparseMap::new(span, storage, words.leak()) };
    Box::leak(Box::new(map.unwrap()))
}

/// Makes a section RAM, and gives it to the zones.
fn plug(zones: &TestZones, table: &SparseMap, section: Section) {
    // SAFETY: the memory is there and zero; nobody else adds any.
    unsafe { table.add_zeroed_section(section) }.unwrap();
    zones.add_present(section.range());
    assert_eq!(zones.free_at_boot(section.range()), Ok(PAGES_PER_SECTION));
    zones.init_watermarks(64, 10);
    zones.validate().unwrap();
}

/// Takes all there is, in large blocks and then in pages; checks that it is `sections`, and gives it back.
fn take_all(zones: &TestZones, sections: &[usize]) {
    let mut held = Vec::new();
    for order in [MAX_ORDER, kmm_frame::Order::ZERO] {
        let req = PageReq::new(order, Gfp::KERNEL | Gfp::MEMALLOC);
        held.extend(core::iter::from_fn(|| zones.alloc(req).ok()));
    }
    let taken: BTreeSet<usize> = held
        .iter()
        .flat_map(|block| block.range().iter())
        .map(Pfn::index)
        .collect();
    let expected = sections
        .iter()
        .flat_map(|&nr| Section::new(nr).range().iter())
        .map(Pfn::index);
    assert!(taken.iter().copied().eq(expected), "{} frames", taken.len());
    for block in held {
        zones.free(block);
    }
    assert_eq!(take_bad(), []);
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
}

#[test]
fn frames_come_from_sections_that_exist() {
    run_on(0);
    let span = frames(0, 4 * PAGES_PER_SECTION);
    let table = table(span);
    let layouts = NodeLayouts::single(ZoneLayout::new::<X86_64>(span));
    let storage = storage_for(&layouts, 1);
    // No byte of a frame is touched.
    let phys = common::memory(frames(0, 1));
    let map = MemMap::sparse(table);
    let zones: TestZones = Zones::new(map, ThreadCpus(1), phys, &layouts, storage)
        .unwrap()
        .with_bad_page_hook(note_bad);
    plug(&zones, table, Section::new(0));
    plug(&zones, table, Section::new(2));
    take_all(&zones, &[0, 2]);
    let hole = Section::new(1).range();
    assert!(zones.free_at_boot(hole).is_err(), "there is nothing");
    // Memory comes, next to both.
    plug(&zones, table, Section::new(1));
    take_all(&zones, &[0, 1, 2]);
    assert_eq!(map.overhead().nr_pages, 3 * PAGES_PER_SECTION);
    assert!(!map.is_valid(Section::new(3).range().start()));
}

#[test]
fn holes_are_not_free_even_when_there_is_ram_that_was_not_given_yet() {
    run_on(0);
    let span = frames(0, 4 * PAGES_PER_SECTION);
    let table = table(span);
    let layouts = NodeLayouts::single(ZoneLayout::new::<X86_64>(span));
    let phys = common::memory(frames(0, 1));
    let storage = storage_for(&layouts, 1);
    let zones: TestZones = Zones::new(
        MemMap::sparse(table),
        ThreadCpus(1),
        phys,
        &layouts,
        storage,
    )
    .unwrap();
    let (ram, hole) = (Section::new(0).range(), Section::new(1).range());
    // SAFETY: the memory is there and zero; nobody else adds any.
    unsafe { table.add_zeroed_section(Section::new(0)) }.unwrap();
    zones.add_present(ram);
    let few = PfnRange::with_len(hole.start(), 1);
    for range in [few, hole, PfnRange::new(ram.end() - 1, ram.end() + 1)] {
        assert_eq!(zones.free_at_boot(range), Err(FreeError::OutsideZone));
    }
    let lent = PfnRange::with_len(hole.start(), 1024);
    assert_eq!(zones.free_cma_at_boot(lent), Err(FreeError::OutsideZone));
    assert_eq!(zones.nr_free_pages(), 0);
    assert_eq!(zones.free_at_boot(ram), Ok(PAGES_PER_SECTION));
    zones.validate().unwrap();
}

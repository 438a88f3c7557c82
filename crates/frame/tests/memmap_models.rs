//! Flat and sparse maps: one suite for both, then what only sections can do.
#![allow(unsafe_code, missing_docs, reason = "tests lay out their own storage")]

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::collections::BTreeSet;

use kmm_frame::{
    MemMap, MemMapError, PAGE_SIZE, PAGES_PER_SECTION, Page, PageFlags, Pfn, PfnRange,
    SECTION_SIZE_BITS, Section, SparseMap,
};

fn frames(start: usize, end: usize) -> PfnRange {
    PfnRange::new(Pfn::new(start), Pfn::new(end))
}

/// Zeroed memory, never given back, that takes none of the machine's until it is written.
fn zeroed(layout: Layout) -> NonNull<u8> {
    // Untouched only where nobody asks for more alignment than words have.
    let room = Layout::array::<u64>((layout.size() + layout.align()) / 8).unwrap();
    // SAFETY: it has a size.
    let storage = NonNull::new(unsafe { std::alloc::alloc_zeroed(room) }).unwrap();
    let skipped = storage.align_offset(layout.align());
    // SAFETY: at most the alignment, which there is room for.
    unsafe { storage.add(skipped) }
}

fn flat(range: PfnRange) -> MemMap {
    let storage = zeroed(MemMap::layout(range).unwrap());
    // SAFETY: as large and aligned as asked, zeroed, nobody else's, never given back.
    unsafe { MemMap::new_zeroed_in(range, storage) }
}

fn table(span: PfnRange) -> &'static SparseMap {
    let words: Vec<AtomicU64> = (0..SparseMap::table_words(span))
        .map(|_| AtomicU64::new(u64::MAX))
        .collect();
    let storage = zeroed(SparseMap::layout(span).unwrap());
    // SAFETY: as large and aligned as asked, nobody else's, never given back.
    let map = unsafe { SparseMap::new(span, storage, words.leak()) };
    Box::leak(Box::new(map.unwrap()))
}

/// With every section of `span`.
fn sparse(span: PfnRange) -> MemMap {
    let table = table(span);
    let first = Section::of(table.span().start()).index();
    for nr in first..Section::of(table.span().end()).index() {
        // SAFETY: the memory is there and zero; nobody else adds any.
        unsafe { table.add_zeroed_section(Section::new(nr)) }.unwrap();
    }
    MemMap::sparse(table)
}

/// Two sections, the second and the third.
const BOTH: PfnRange = Section::new(1).range();
const SPAN: PfnRange = PfnRange::with_len(BOTH.start(), 2 * PAGES_PER_SECTION);

fn for_both(check: impl Fn(MemMap)) {
    check(flat(SPAN));
    check(sparse(SPAN));
}

#[test]
fn sections_are_128_mib_with_2_mib_of_descriptors() {
    assert_eq!((SECTION_SIZE_BITS, PAGES_PER_SECTION), (27, 32_768));
    assert_eq!(PAGES_PER_SECTION * PAGE_SIZE, 128 << 20);
    assert_eq!(PAGES_PER_SECTION * size_of::<Page>(), 2 << 20);
    assert_eq!(Section::of(Pfn::new(32_767)), Section::new(0));
    assert_eq!(Section::of(Pfn::new(32_768)).index(), 1);
    assert_eq!(Section::new(2).range(), frames(65_536, 98_304));
    assert!(Section::new(usize::MAX).range().is_empty());
}

#[test]
fn frames_and_descriptors_round_trip() {
    for_both(|map| {
        assert_eq!(map.range(), SPAN);
        for pfn in SPAN.iter() {
            let page = map.page(pfn);
            assert_eq!(map.pfn(page), Some(pfn));
            assert!(core::ptr::eq(map.get(pfn).unwrap(), page));
            assert!(map.is_valid(pfn));
        }
        let (first, end) = (SPAN.start().index(), SPAN.end().index());
        for outside in [0, first - 1, end, end + 1, usize::MAX] {
            assert!(!map.is_valid(Pfn::new(outside)), "{outside}");
        }
        assert_eq!(map.pfn(&Page::new()), None);
        let step = core::ptr::from_ref(map.page(SPAN.start() + 1)).addr()
            - core::ptr::from_ref(map.page(SPAN.start())).addr();
        assert_eq!(step, 64);
    });
}

#[test]
fn fresh_descriptors_know_nothing_and_keep_what_they_are_told() {
    for_both(|map| {
        let pfn = SPAN.start() + PAGES_PER_SECTION;
        let page = map.page(pfn);
        assert_eq!(page.flags(), PageFlags::empty());
        assert_eq!((page.ref_count(), page.map_count()), (0, 0));
        assert_eq!((page.lru_next(), page.lru_prev()), (None, None));
        page.set_private(7);
        assert_eq!(map.page(pfn).private(), 7);
        assert_eq!(map.page(pfn + 1).private(), 0);
        assert_eq!(map.page(pfn - 1).private(), 0);
    });
}

#[test]
fn reserved_is_what_was_reserved() {
    for_both(|map| {
        let middle = SPAN.start() + PAGES_PER_SECTION;
        let reserved = PfnRange::new(middle - 3, middle + 2);
        map.reserve(reserved);
        map.reserve(PfnRange::new(SPAN.end() - 1, SPAN.end() + 5));
        for pfn in SPAN.iter() {
            let expected = reserved.contains(pfn) || pfn == SPAN.end() - 1;
            assert_eq!(map.page(pfn).test(PageFlags::RESERVED), expected, "{pfn}");
        }
    });
}

#[test]
fn what_is_described_is_told_with_its_cost() {
    for_both(|map| {
        assert_eq!(map.described().collect::<Vec<_>>(), [SPAN]);
        let overhead = map.overhead();
        assert_eq!(overhead.nr_pages, 65_536);
        assert_eq!(overhead.map_bytes, 4 << 20);
        assert_eq!(map.overhead_bytes(), 4 << 20);
        assert_eq!(overhead.basis_points(), 156);
    });
}

#[test]
#[should_panic(expected = "frame 0x7fff has no descriptor: Pfn(0x8000..0x18000)")]
fn a_flat_map_refuses_other_frames() {
    let _ = flat(SPAN).page(SPAN.start() - 1);
}

#[test]
#[should_panic(expected = "frame 0x10000 has no descriptor: Pfn(0x8000..0x18000)")]
fn a_sparse_map_refuses_frames_of_holes() {
    let table = table(SPAN);
    // SAFETY: the memory is there and zero; nobody else adds any.
    unsafe { table.add_zeroed_section(Section::new(1)) }.unwrap();
    let map = MemMap::sparse(table);
    assert!(map.is_valid(Pfn::new(0xffff)));
    let _ = map.page(Pfn::new(0x1_0000));
}

#[test]
fn holes_cost_nothing() {
    // 1 TiB with RAM at both ends.
    let table = table(frames(0, 1 << 28));
    assert_eq!(SparseMap::table_words(frames(0, 1 << 28)), 128);
    let map = MemMap::sparse(table);
    assert_eq!((map.described().count(), map.overhead_bytes()), (0, 0));
    for nr in [0, 1, 8191] {
        // SAFETY: the memory is there and zero; nobody else adds any.
        unsafe { table.add_zeroed_section(Section::new(nr)) }.unwrap();
    }
    assert_eq!(map.range(), frames(0, 1 << 28));
    assert_eq!(
        map.described().collect::<Vec<_>>(),
        [frames(0, 65_536), Section::new(8191).range()]
    );
    let overhead = map.overhead();
    assert_eq!(overhead.nr_pages, 3 * PAGES_PER_SECTION);
    assert_eq!(
        (overhead.map_bytes, overhead.basis_points()),
        (6 << 20, 156)
    );
    assert_eq!(
        overhead.to_string(),
        "6144 KiB of descriptors for 98304 frames, 1.56 % of them"
    );
    map.reserve(frames(65_530, (1 << 28) - 32_760));
    assert!(map.page(Pfn::new(65_535)).test(PageFlags::RESERVED));
    assert!(
        !map.page(Pfn::new((1 << 28) - 32_760))
            .test(PageFlags::RESERVED)
    );
}

#[test]
fn a_section_that_comes_back_is_fresh() {
    let table = table(SPAN);
    let map = MemMap::sparse(table);
    let section = Section::new(2);
    // SAFETY: the memory is there and zero; nobody else adds any.
    unsafe { table.add_zeroed_section(section) }.unwrap();
    map.page(section.range().start()).set_private(5);
    // SAFETY: nobody holds a descriptor.
    unsafe { table.remove_section(section) }.unwrap();
    assert!(map.get(section.range().start()).is_none());
    // SAFETY: the memory is there; nobody else adds any.
    unsafe { table.add_section(section) }.unwrap();
    assert_eq!(map.page(section.range().start()).private(), 0);
}

#[test]
fn a_table_has_room_for_its_sections_only() {
    let table = table(frames(40_000, 70_000));
    assert_eq!(table.span(), SPAN);
    let storage = table.storage_of(Section::new(1)).unwrap();
    let next = table.storage_of(Section::new(2)).unwrap();
    assert_eq!(next.addr().get() - storage.addr().get(), 2 << 20);
    for nr in [0, 3, usize::MAX] {
        let section = Section::new(nr);
        assert_eq!(table.storage_of(section), None);
        assert!(!table.has_section(section));
        // SAFETY: refused.
        let added = unsafe { table.add_section(section) };
        assert_eq!(added, Err(MemMapError::OutsideMap));
        // SAFETY: refused.
        let removed = unsafe { table.remove_section(section) };
        assert_eq!(removed, Err(MemMapError::NoSection));
    }
    let words: &'static [AtomicU64] = &[];
    // SAFETY: refused.
    let refused = unsafe { SparseMap::new(SPAN, storage, words) };
    assert_eq!(refused.err(), Some(MemMapError::WrongLength));
    assert_eq!(
        SparseMap::layout(PfnRange::new(Pfn::ZERO, Pfn::new(usize::MAX))),
        None
    );
    assert_eq!(SparseMap::layout(PfnRange::EMPTY).unwrap().size(), 0);
    assert_eq!(SparseMap::table_words(PfnRange::EMPTY), 0);
}

#[test]
fn sections_come_and_go_as_a_set_does() {
    const NR: usize = 130;
    let mut random = common::Random::new("memmap_models", 0x5ec7);
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).unwrap();
    let first = 5;
    let table = table(PfnRange::with_len(
        Section::new(first).range().start(),
        NR * PAGES_PER_SECTION,
    ));
    let map = MemMap::sparse(table);
    let mut present = BTreeSet::new();
    for _ in 0..2_000 {
        let nr = below(NR + 4) + first - 2;
        let section = Section::new(nr);
        let has_room = (first..first + NR).contains(&nr);
        if below(2) == 0 {
            // SAFETY: the memory is there, and a page of it that was written is cleared before the section goes.
            let added = unsafe { table.add_zeroed_section(section) };
            let expected = match (has_room, present.contains(&nr)) {
                (false, _) => Err(MemMapError::OutsideMap),
                (true, true) => Err(MemMapError::SectionExists),
                (true, false) => Ok(()),
            };
            assert_eq!(added, expected, "{nr}");
            if added.is_ok() {
                present.insert(nr);
                map.page(section.range().start()).set_private(nr as u64);
            }
        } else {
            if let Some(page) = map.get(section.range().start()) {
                assert_eq!(page.private(), nr as u64);
                page.set_private(0);
            }
            // SAFETY: nobody holds a descriptor.
            let removed = unsafe { table.remove_section(section) };
            let was_there = present.remove(&nr);
            assert_eq!(
                removed,
                was_there.then_some(()).ok_or(MemMapError::NoSection)
            );
        }
        let probe = below((NR + 10) * PAGES_PER_SECTION);
        let is_there = present.contains(&(probe / PAGES_PER_SECTION));
        let found = map.get(Pfn::new(probe));
        assert_eq!(found.is_some(), is_there);
        assert_eq!(
            found.and_then(|page| map.pfn(page)),
            is_there.then_some(Pfn::new(probe))
        );
        let described: Vec<_> = map
            .described()
            .flat_map(|run| (run.start().index()..run.end().index()).step_by(PAGES_PER_SECTION))
            .map(|start| start / PAGES_PER_SECTION)
            .collect();
        assert!(described.iter().eq(&present));
        assert!(
            table
                .sections()
                .map(Section::index)
                .eq(present.iter().copied())
        );
        assert_eq!(map.overhead().nr_pages, present.len() * PAGES_PER_SECTION);
    }
    assert!(present.len() > 20, "a walk that went nowhere");
}

//! The cases of Linux's `vma_merge`, drawn as areas before and after, and what must stay apart.
//!
//! A is what is added or changed, P what lies before it, N what lies behind, X what lies behind N.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]

mod common;

use core::ops::Range;

use common::{PAGE, small_mm, va};
use kmm_vma::{Limits, MapFlags, Mm, MmapReq, Prot, RemapFlags, RemapReq, VmFlags, VmaError};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const MAY_ALL: VmFlags = VmFlags::MAYREAD
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC);

fn map(mm: &mut Mm<u32>, pages: Range<u64>, prot: Prot) {
    let req = MmapReq::anonymous((pages.end - pages.start) * PAGE, prot);
    let mapped = mm.mmap(req.fixed_at(va(pages.start)));
    assert_eq!(mapped.map(|m| m.range), Ok(va(pages.start)..va(pages.end)));
    mm.validate();
}

fn map_file(mm: &mut Mm<u32>, pages: Range<u64>, file: u32, pgoff: u64) {
    let req = MmapReq {
        addr: va(pages.start),
        len_bytes: (pages.end - pages.start) * PAGE,
        prot: Prot::READ,
        flags: MapFlags::PRIVATE | MapFlags::FIXED,
        file: Some((file, pgoff)),
        may: MAY_ALL,
    };
    assert!(mm.mmap(req).is_ok());
    mm.validate();
}

fn protect(mm: &mut Mm<u32>, pages: Range<u64>, prot: Prot) {
    let len_bytes = (pages.end - pages.start) * PAGE;
    assert!(mm.mprotect(va(pages.start), len_bytes, prot).is_ok());
    mm.validate();
}

/// The areas: pages, and whether they may be written.
fn areas(mm: &Mm<u32>) -> Vec<(Range<u64>, bool)> {
    mm.iter()
        .map(|(range, vma)| {
            let pages = range.start.page_number()..range.end.page_number();
            (pages, vma.flags.contains(VmFlags::WRITE))
        })
        .collect()
}

fn ranges(mm: &Mm<u32>) -> Vec<Range<u64>> {
    areas(mm).into_iter().map(|(range, _)| range).collect()
}

#[test]
fn case_1_fills_the_hole_and_joins_both_sides() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, RW);
    map(&mut mm, 18..22, RW);
    map(&mut mm, 14..18, RW);
    assert_eq!(areas(&mm), [(10..22, true)]);
    assert_eq!(mm.map_count(), 1);
}

#[test]
fn case_2_extends_the_area_before() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, RW);
    map(&mut mm, 18..22, Prot::READ);
    map(&mut mm, 14..18, RW);
    assert_eq!(areas(&mm), [(10..18, true), (18..22, false)]);
}

#[test]
fn case_3_extends_the_area_behind_downwards() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, Prot::READ);
    map(&mut mm, 18..22, RW);
    map(&mut mm, 14..18, RW);
    assert_eq!(areas(&mm), [(10..14, false), (14..22, true)]);
    let (_, vma) = mm.lookup(va(15)).expect("mapped");
    assert_eq!(vma.pgoff, 14, "the area begins lower now");
}

#[test]
fn case_4_moves_the_border_down() {
    let mut mm = small_mm();
    map(&mut mm, 10..16, RW);
    map(&mut mm, 16..22, Prot::READ);
    protect(&mut mm, 13..16, Prot::READ);
    assert_eq!(areas(&mm), [(10..13, true), (13..22, false)]);
}

#[test]
fn case_5_moves_the_border_up() {
    let mut mm = small_mm();
    map(&mut mm, 10..16, RW);
    map(&mut mm, 16..22, Prot::READ);
    protect(&mut mm, 16..19, RW);
    assert_eq!(areas(&mm), [(10..19, true), (19..22, false)]);
}

#[test]
fn case_6_joins_three() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, RW);
    map(&mut mm, 14..18, Prot::READ);
    map(&mut mm, 18..22, RW);
    protect(&mut mm, 14..18, RW);
    assert_eq!(areas(&mm), [(10..22, true)]);
}

#[test]
fn case_7_joins_the_changed_area_to_the_one_before() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, RW);
    map(&mut mm, 14..18, Prot::READ);
    map(&mut mm, 18..22, Prot::READ | Prot::EXEC);
    protect(&mut mm, 14..18, RW);
    assert_eq!(areas(&mm), [(10..18, true), (18..22, false)]);
}

#[test]
fn case_8_joins_the_changed_area_to_the_one_behind() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, Prot::READ);
    map(&mut mm, 14..18, Prot::READ | Prot::EXEC);
    map(&mut mm, 18..22, RW);
    protect(&mut mm, 14..18, RW);
    assert_eq!(areas(&mm), [(10..14, false), (14..22, true)]);
}

#[test]
fn a_change_in_the_middle_makes_three_and_back_makes_one() {
    let mut mm = small_mm();
    map(&mut mm, 10..22, RW);
    protect(&mut mm, 13..17, Prot::READ);
    assert_eq!(
        areas(&mm),
        [(10..13, true), (13..17, false), (17..22, true)]
    );
    protect(&mut mm, 13..17, RW);
    assert_eq!(areas(&mm), [(10..22, true)]);
}

#[test]
fn a_partial_munmap_splits() {
    let mut mm = small_mm();
    map_file(&mut mm, 10..22, 1, 100);
    assert!(mm.munmap(va(13), 4 * PAGE).is_ok());
    assert_eq!(ranges(&mm), [10..13, 17..22]);
    let (_, tail) = mm.lookup(va(17)).expect("mapped");
    assert_eq!(tail.pgoff, 107);
}

#[test]
fn files_join_only_where_the_file_goes_on() {
    let mut mm = small_mm();
    map_file(&mut mm, 10..12, 1, 5);
    map_file(&mut mm, 12..14, 1, 7);
    assert_eq!(ranges(&mm), [10..14], "the file goes on");
    map_file(&mut mm, 14..16, 1, 10);
    assert_eq!(ranges(&mm), [10..14, 14..16], "a page is left out");
    map_file(&mut mm, 16..18, 2, 12);
    assert_eq!(ranges(&mm), [10..14, 14..16, 16..18], "another file");
    map(&mut mm, 18..20, Prot::READ);
    assert_eq!(mm.map_count(), 4, "no file");
}

#[test]
fn special_areas_never_join() {
    for special in [VmFlags::IO, VmFlags::DONTEXPAND, VmFlags::PFNMAP] {
        let mut mm = small_mm();
        map(&mut mm, 10..12, RW);
        map(&mut mm, 14..16, RW);
        assert_eq!(mm.set_flags(va(10)..va(12), special), Ok(()));
        assert_eq!(mm.set_flags(va(14)..va(16), special), Ok(()));
        map(&mut mm, 12..14, RW);
        assert_eq!(mm.set_flags(va(12)..va(14), special), Ok(()));
        mm.validate();
        assert_eq!(ranges(&mm), [10..12, 12..14, 14..16], "{special:?}");
        protect(&mut mm, 11..15, RW); // what they have already
        assert_eq!(ranges(&mm), [10..12, 12..14, 14..16], "{special:?}");
    }
}

#[test]
fn areas_of_different_kinds_stay_apart() {
    for flag in [MapFlags::NORESERVE, MapFlags::LOCKED, MapFlags::GROWSDOWN] {
        let mut mm = small_mm();
        map(&mut mm, 10..14, RW);
        let mut req = MmapReq::<u32>::anonymous(4 * PAGE, RW).fixed_at(va(14));
        req.flags |= flag;
        assert!(mm.mmap(req).is_ok());
        assert_eq!(ranges(&mm), [10..14, 14..18], "{flag:?}");
    }
}

#[test]
fn what_was_moved_keeps_its_place_and_joins_only_its_own() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, RW);
    map(&mut mm, 20..24, RW);
    let to = |old: u64, new: u64| RemapReq {
        old_addr: va(old),
        old_len_bytes: 2 * PAGE,
        new_len_bytes: 2 * PAGE,
        flags: RemapFlags::MAYMOVE | RemapFlags::FIXED,
        new_addr: va(new),
    };
    // Pages 12 and 13 go behind 20..24: their place is not the one that goes on there.
    assert!(mm.mremap(&to(12, 24)).is_ok());
    assert_eq!(ranges(&mm), [10..12, 20..24, 24..26]);
    // Back where they were, they go on again.
    assert!(mm.mremap(&to(24, 12)).is_ok());
    assert_eq!(ranges(&mm), [10..14, 20..24]);
    mm.validate();
}

#[test]
fn a_heap_joins_what_lies_below_it() {
    let mut mm = small_mm();
    map(&mut mm, 8..10, RW);
    mm.set_brk_start(va(10));
    assert_eq!(mm.brk(va(12)), (va(12), None));
    assert_eq!(areas(&mm), [(8..12, true)]);
}

#[test]
fn the_limit_counts_what_a_change_leaves_behind() {
    // Three areas, and three allowed: what joins as much as it splits is allowed, more is not.
    let mut mm = small_mm();
    map(&mut mm, 10..16, RW);
    map(&mut mm, 16..22, Prot::READ);
    map(&mut mm, 30..36, RW);
    let mut limits = *mm.limits();
    limits.map_count = 3;
    mm.set_limits(limits);
    protect(&mut mm, 13..16, Prot::READ);
    assert_eq!(ranges(&mm), [10..13, 13..22, 30..36]);
    let refused = mm.mprotect(va(32), PAGE, Prot::READ);
    assert_eq!(refused, Err(VmaError::NoMemory));
    let refused = mm.mprotect(va(32), 4 * PAGE, Prot::READ);
    assert_eq!(refused, Err(VmaError::NoMemory));
    assert_eq!(mm.munmap(va(32), PAGE), Err(VmaError::NoMemory));
    assert_eq!(ranges(&mm), [10..13, 13..22, 30..36]);
    // As on Linux, one more can be mapped than may be split.
    map(&mut mm, 40..41, RW);
    let one_more = MmapReq::<u32>::anonymous(PAGE, RW).fixed_at(va(45));
    assert_eq!(mm.mmap(one_more), Err(VmaError::NoMemory));
    assert!(mm.munmap(va(10), PAGE).is_ok(), "an end can always go");
}

#[test]
fn the_limit_knows_that_special_areas_stay_apart() {
    let mut mm = small_mm();
    map(&mut mm, 10..14, RW);
    map(&mut mm, 14..18, Prot::READ);
    assert_eq!(mm.set_flags(va(10)..va(18), VmFlags::DONTEXPAND), Ok(()));
    protect(&mut mm, 14..18, RW);
    assert_eq!(ranges(&mm), [10..14, 14..18]);
    let limits = Limits {
        map_count: 3,
        ..*mm.limits()
    };
    mm.set_limits(limits);
    // Two borders more, and the one in the middle stays: four areas.
    let refused = mm.mprotect(va(12), 4 * PAGE, Prot::READ);
    assert_eq!(refused, Err(VmaError::NoMemory));
    mm.set_limits(Limits {
        map_count: 4,
        ..limits
    });
    protect(&mut mm, 12..16, Prot::READ);
    assert_eq!(ranges(&mm), [10..12, 12..14, 14..16, 16..18]);
}

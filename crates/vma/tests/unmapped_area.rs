//! Where room is found, against a search that tries every place.
#![allow(clippy::cast_possible_truncation, reason = "numbers of a small window")]

mod common;

use core::ops::Range;

use common::{BASE, END, GAP, MIN, PAGE, small_mm, va};
use kmm_frame::VirtAddr;
use kmm_sim::seeded;
use kmm_vma::{Limits, MapFlags, Mm, MmLayout, MmapReq, Prot, VmaError};

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn map(mm: &mut Mm<u32>, first: u64, nr: u64, stack: bool) {
    let mut req = MmapReq::anonymous(nr * PAGE, RW).fixed_at(va(first));
    req.flags.set(MapFlags::GROWSDOWN, stack);
    assert!(mm.mmap(req).is_ok());
}

/// Pages free and not within the guard gap of a stack right above.
fn is_room(taken: &[Option<bool>], range: &Range<u64>) -> bool {
    let free = |page: u64| taken.get(page as usize).is_none_or(Option::is_none);
    let next = (range.end..END).find(|&page| !free(page));
    range.clone().all(free)
        && next.is_none_or(|next| taken[next as usize] != Some(true) || next >= range.end + GAP)
}

#[test]
fn room_is_where_a_search_of_every_place_finds_it() {
    seeded(7, |rng| {
        let mut found = [0_u32; 4];
        for _ in 0..2000 {
            let mut mm = small_mm();
            let mut taken = vec![None; END as usize];
            for _ in 0..rng.below(14) {
                let (first, nr) = (MIN + rng.below(END - MIN), 1 + rng.below(7));
                let stack = rng.one_in(3);
                let end = (first + nr).min(END);
                map(&mut mm, first, end - first, stack);
                taken[first as usize..end as usize].fill(Some(stack));
            }
            for _ in 0..10 {
                let largest = if rng.one_in(5) { END } else { 8 };
                let nr = 1 + rng.below(largest);
                let hint = rng.below(END + 4) * PAGE + rng.below(PAGE);
                let rounded = match hint / PAGE {
                    page @ 1..MIN => {
                        assert!(page < MIN);
                        MIN
                    }
                    page => page,
                };
                let fits = |at: u64, end: u64| at + nr <= end && is_room(&taken, &(at..at + nr));
                let (kind, expected) = if rounded > 0 && fits(rounded, END) {
                    (0, Some(rounded))
                } else if let Some(at) = (MIN..BASE).rev().find(|&at| fits(at, BASE)) {
                    (1, Some(at))
                } else if let Some(at) = (MIN..END).find(|&at| fits(at, END)) {
                    (2, Some(at))
                } else {
                    (3, None)
                };
                found[kind] += 1;
                let got = mm.unmapped_area(VirtAddr::new(hint), nr * PAGE, MapFlags::empty());
                assert_eq!(
                    got,
                    expected.map(va).ok_or(VmaError::NoMemory),
                    "{taken:?} {nr} {hint:#x}"
                );
            }
        }
        assert!(found.iter().all(|&n| n > 100), "{found:?}");
    });
}

#[test]
fn a_hint_below_the_lowest_address_is_raised_to_it() {
    let mut mm = small_mm();
    let at = mm.unmapped_area(VirtAddr::new(PAGE + 5), PAGE, MapFlags::empty());
    assert_eq!(at, Ok(va(MIN)));
    let no_hint = mm.unmapped_area(VirtAddr::new(5), PAGE, MapFlags::empty());
    assert_eq!(no_hint, Ok(va(BASE - 1)), "page 0 is no hint");
    map(&mut mm, MIN, 1, false);
    let at = mm.unmapped_area(VirtAddr::new(PAGE), PAGE, MapFlags::empty());
    assert_eq!(at, Ok(va(BASE - 1)), "taken");
}

#[test]
fn map_32bit_looks_upwards_between_one_and_two_gib() {
    let mut mm = Mm::<u32>::new(MmLayout::default(), Limits::default());
    let low = MapFlags::BELOW_2G;
    let at = |mm: &Mm<u32>, nr| mm.unmapped_area(VirtAddr::ZERO, nr * PAGE, low);
    assert_eq!(at(&mm, 1), Ok(VirtAddr::new(1 << 30)));
    map(&mut mm, 1 << 18, 16, false);
    assert_eq!(at(&mm, 1), Ok(va((1 << 18) + 16)));
    assert_eq!(at(&mm, (1 << 18) + 1), Err(VmaError::NoMemory));
    let hint = mm.unmapped_area(VirtAddr::new(0x12_3000), PAGE, low);
    assert_eq!(hint, Ok(VirtAddr::new(0x12_3000)), "a hint may lie lower");
    let high = mm.unmapped_area(VirtAddr::new(1 << 40), PAGE, low);
    assert_eq!(high, Ok(va((1 << 18) + 16)), "but not higher");
}

#[test]
fn linux_finds_the_first_places_here() {
    // mmap_base of a program without randomisation, downwards; what Linux does under setarch -R.
    let mut mm = Mm::<u32>::new(MmLayout::default(), Limits::default());
    let base = MmLayout::default().mmap_base;
    let first = mm.mmap(MmapReq::anonymous(3 * PAGE, RW)).expect("room");
    assert_eq!(first.range, VirtAddr::new(base.as_u64() - 3 * PAGE)..base);
    let second = mm.mmap(MmapReq::anonymous(1, Prot::READ)).expect("room");
    assert_eq!(second.range.end, first.range.start);
    assert!(!second.replaced);
}

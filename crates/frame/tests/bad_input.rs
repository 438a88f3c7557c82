//! Numbers from outside, whatever they are: an answer or the panic that is documented.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    unsafe_code,
    reason = "names of tests say what they prove; maps are laid into memory of the test; numbers are of 64 bits"
)]

use core::panic::AssertUnwindSafe;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::panic::catch_unwind;

use kmm_frame::memblock::{FirmwareKind, FirmwareRegion, FirstMegabyte, Memblock, Reserved};
use kmm_frame::{
    AnonView, FreeView, MAX_ORDER, MemMap, MemMapError, Order, Page, PageView, Pfn, PfnRange,
    PhysAddr, SparseMap, SplitError, VirtAddr,
};

fn frames(start: usize, end: usize) -> PfnRange {
    PfnRange::new(Pfn::new(start), Pfn::new(end))
}

fn map_of(range: PfnRange) -> MemMap {
    let pages: Vec<Page> = range.iter().map(|_| Page::new()).collect();
    MemMap::new(range, pages.leak()).unwrap()
}

fn panics(f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn rounding_up_does_not_come_out_at_the_other_end() {
    let last = Pfn::new(usize::MAX);
    for order in Order::all() {
        let highest = last.align_down(order);
        assert_eq!(highest.align_up(order), highest);
        let above = Pfn::new(highest.index().saturating_add(1));
        assert_eq!(above.align_up(order), last, "{order}");
    }
    assert_eq!(Order::MAX, MAX_ORDER);
    let top = Pfn::new(Pfn::END.index() - 1);
    assert_eq!(top.phys().as_u64(), (1 << 52) - 4096);
}

#[test]
fn widths_of_addresses_are_checked() {
    for bits in [0, 65, u32::MAX] {
        assert!(panics(|| assert_ne!(
            VirtAddr::sign_extend(7, bits),
            VirtAddr::ZERO
        )));
    }
    assert_eq!(VirtAddr::sign_extend(1, 1).as_u64(), u64::MAX);
    assert_eq!(VirtAddr::sign_extend(u64::MAX, 64).as_u64(), u64::MAX);
}

/// Debug builds say so; others give an answer without a meaning, and go on.
#[test]
fn alignments_that_are_none_are_found_in_debug_builds() {
    for align in [0, 3, 4097] {
        let address = PhysAddr::new(u64::MAX);
        let calls: [fn(PhysAddr, u64) -> u64; 3] = [
            |address, align| address.align_down(align).as_u64(),
            |address, align| address.checked_align_up(align).map_or(0, PhysAddr::as_u64),
            |address, align| u64::from(address.is_aligned(align)),
        ];
        for call in calls {
            let called = catch_unwind(|| call(address, align));
            assert_eq!(called.is_err(), cfg!(debug_assertions), "{align}");
        }
    }
}

#[test]
fn all_but_what_is_free_is_reserved() {
    let map = map_of(frames(10, 40));
    // Out of order, twice, empty, beyond the map: less is reserved than should be never, only more.
    let free = [
        frames(12, 15),
        frames(14, 16),
        PfnRange::EMPTY,
        frames(20, 21),
        frames(17, 18),
        frames(39, 50),
        frames(60, 70),
    ];
    map.reserve_all_but(free);
    let reserved = |pfn: &usize| map.page(Pfn::new(*pfn)).is_reserved();
    let open: Vec<usize> = (10..40).filter(|pfn| !reserved(pfn)).collect();
    assert_eq!(open, [12, 13, 14, 15, 20, 39]);
}

#[test]
fn the_last_reference_that_fits_is_the_last() {
    let page = Page::new();
    page.set_ref_count(i32::MAX - 1);
    assert!(page.get_unless_zero());
    assert!(!page.get_unless_zero());
    assert_eq!(page.ref_count(), i32::MAX);
}

#[test]
fn folios_are_not_split_for_caches_that_cannot_be() {
    let map = map_of(frames(0, 512));
    map.prep_compound_page(Pfn::ZERO, Order::PAGEBLOCK);
    map.page(Pfn::ZERO).set_ref_count(1);
    let folio = map.folio(Pfn::new(7)).unwrap();
    assert!(folio.try_lock());
    for refs in [i32::MAX, i32::MIN, 1 << 24, -1] {
        let refused = folio.split(&map, Order::ZERO, refs).map(drop);
        assert_eq!(refused, Err(SplitError::Busy), "{refs}");
        assert_eq!((folio.ref_count(), folio.order()), (1, Order::PAGEBLOCK));
    }
    // An index may be anything.
    AnonView::claim(&folio, 1, u64::MAX - 2).unwrap();
    assert_eq!(folio.index_of(Pfn::new(3)), Some(0));
}

#[test]
fn a_spoiled_descriptor_can_be_looked_at() {
    let page = Page::new();
    let view = FreeView::claim(&page, Order::ZERO).unwrap();
    for private in [11, 255, 256, u64::MAX] {
        page.set_private(private);
        assert_eq!(page.view(), PageView::Free { order: MAX_ORDER });
        assert_eq!(view.order(), MAX_ORDER);
    }
}

#[test]
fn sections_beyond_the_address_space_have_no_map() {
    let table: &[AtomicU64] = Vec::leak((0..4).map(|_| AtomicU64::new(0)).collect());
    for span in [
        frames(0, usize::MAX),
        frames(usize::MAX - 1, usize::MAX),
        frames(0, 1 << 58),
    ] {
        assert!(SparseMap::layout(span).is_none());
        assert!(MemMap::layout(span).is_none() || span.nr_pages() == 1);
        // SAFETY: refused before it is looked at.
        let map = unsafe { SparseMap::new(span, NonNull::dangling(), table) };
        assert_eq!(map.map(drop), Err(MemMapError::OutsideMap));
    }
}

/// A number that is likely to be at an edge.
fn edge(random: &mut u64) -> u64 {
    let mut next = || {
        *random ^= *random >> 12;
        *random ^= *random << 25;
        *random ^= *random >> 27;
        random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let bases = [
        0,
        0x1000,
        1 << 20,
        1 << 32,
        1 << 51,
        1 << 52,
        1 << 63,
        u64::MAX,
    ];
    let base = bases[(next() % 8) as usize];
    match next() % 4 {
        0 => base,
        1 => base.wrapping_add(next() % 0x3000),
        2 => base.wrapping_sub(next() % 0x3000),
        _ => next() >> (next() % 64),
    }
}

/// Whatever is said of memory: what is free is memory of this machine, whole frames, and nobody's.
#[test]
fn memory_of_any_shape_is_kept_in_order() {
    const KINDS: [FirmwareKind; 5] = [
        FirmwareKind::Usable,
        FirmwareKind::Reserved,
        FirmwareKind::AcpiReclaimable,
        FirmwareKind::Usable,
        FirmwareKind::Bad,
    ];
    let seed = std::env::var("KMM_SEED").map_or(0x5eed, |text| text.parse().unwrap());
    println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-frame memory_of_any_shape");
    let mut random = seed;
    for _ in 0..1500 {
        let mut memory = Memblock::<8>::with_room();
        let regions: Vec<FirmwareRegion> = KINDS
            .iter()
            .map(|&kind| FirmwareRegion::new(edge(&mut random), edge(&mut random), kind))
            .collect();
        let _ = memory.add_firmware_map(regions.iter().copied(), FirstMegabyte::Use);
        for _ in 0..12 {
            let (start, size) = (PhysAddr::new(edge(&mut random)), edge(&mut random));
            let within = PhysAddr::new(edge(&mut random))..PhysAddr::new(edge(&mut random));
            let kind = Reserved::ALL[(random % 8) as usize];
            match random % 7 {
                0 => drop(memory.add(start, size)),
                1 => drop(memory.remove(start, size)),
                2 => drop(memory.reserve(start, size, kind)),
                3 => drop(memory.release(start, size, kind)),
                4 => drop(memory.free(start, size)),
                5 => drop(memory.trim_span(size as usize)),
                _ => {
                    let align =
                        1_u64.rotate_left((random % 64) as u32) | u64::from(random % 5 == 0);
                    let before: usize = memory.free_ranges().map(PfnRange::nr_pages).sum();
                    if let Ok(at) = memory.alloc(size, align, within.clone()) {
                        assert!(within.start <= at && at.is_aligned(align.max(4096)));
                        let pages = usize::try_from(size.max(1).div_ceil(4096)).unwrap();
                        assert!(at.pfn() + pages <= within.end.pfn());
                        let after: usize = memory.free_ranges().map(PfnRange::nr_pages).sum();
                        assert_eq!(before - after, pages);
                    }
                }
            }
        }
        let mut end = Pfn::ZERO;
        for free in memory.free_ranges() {
            assert!(!free.is_empty() && end <= free.start() && free.end() <= Pfn::END);
            assert!(memory.memory_frames().any(|ram| ram.contains_range(free)));
            assert!(!memory.reserved().any(|taken| taken.range.overlaps(free)));
            end = free.end();
        }
        let upwards: Vec<PfnRange> = memory.free_ranges().collect();
        let mut downwards: Vec<PfnRange> = memory.free_ranges().rev().collect();
        downwards.reverse();
        assert_eq!(upwards, downwards);
        let nr_free: usize = upwards.iter().map(|range| range.nr_pages()).sum();
        assert_eq!(memory.accounting().nr_free(), nr_free);
        let _ = (
            memory.accounting().to_string(),
            MemMap::layout(memory.spanned()),
        );
    }
}

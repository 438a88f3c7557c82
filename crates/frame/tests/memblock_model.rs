//! Memblock against a slow model: a byte map of a window of memory, cell by cell and frame by frame.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use common::Random;
use kmm_frame::memblock::{
    FirmwareKind, FirmwareRegion, FirstMegabyte, Memblock, MemblockError, Reserved,
};
use kmm_frame::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// The window: the last 16 frames of the first megabyte, and 80 above it.
const BASE: u64 = (1 << 20) - 16 * PAGE;
const PAGE: u64 = PAGE_SIZE as u64;
const NR_PAGES: usize = 96;
/// Memory has this granularity in the model, so that edges fall inside of pages.
const CELL: u64 = 512;
const CELLS_PER_PAGE: usize = 8;

#[derive(Clone, PartialEq, Debug)]
struct Model {
    memory: [bool; NR_PAGES * CELLS_PER_PAGE],
    reserved: [Option<Reserved>; NR_PAGES],
}

impl Model {
    const fn new() -> Self {
        Self {
            memory: [false; NR_PAGES * CELLS_PER_PAGE],
            reserved: [None; NR_PAGES],
        }
    }

    /// The cells of `start..end`, both multiples of the cell.
    fn cells(start: u64, end: u64) -> core::ops::Range<usize> {
        ((start - BASE) / CELL) as usize..((end - BASE) / CELL) as usize
    }

    fn is_free(&self, page: usize) -> bool {
        let cells = &self.memory[page * CELLS_PER_PAGE..][..CELLS_PER_PAGE];
        cells.iter().all(|&cell| cell) && self.reserved[page].is_none()
    }

    fn reserve(&mut self, start: u64, end: u64, kind: Reserved) {
        for (page, reserved) in self.reserved.iter_mut().enumerate() {
            let (low, high) = page_bytes(page);
            if low < end && start < high && start < end {
                *reserved = (*reserved).max(Some(kind));
            }
        }
    }

    /// How many spans it takes to say what the model says.
    fn runs(&self) -> (usize, usize) {
        fn count<T: PartialEq>(items: impl Iterator<Item = Option<T>>) -> usize {
            let mut before = None;
            let mut runs = 0;
            for item in items {
                runs += usize::from(item.is_some() && item != before);
                before = item;
            }
            runs
        }
        let memory = self.memory.iter().map(|&cell| cell.then_some(()));
        (count(memory), count(self.reserved.iter().copied()))
    }

    fn free_ranges(&self) -> Vec<PfnRange> {
        let mut ranges: Vec<PfnRange> = Vec::new();
        for page in (0..NR_PAGES).filter(|&page| self.is_free(page)) {
            match ranges.last_mut() {
                Some(last) if last.end() == pfn(page) => {
                    *last = PfnRange::new(last.start(), pfn(page + 1));
                }
                _ => ranges.push(PfnRange::with_len(pfn(page), 1)),
            }
        }
        ranges
    }
}

fn pfn(page: usize) -> Pfn {
    PhysAddr::new(BASE).pfn() + page
}

fn page_bytes(page: usize) -> (u64, u64) {
    let start = pfn(page).phys().as_u64();
    (start, start + PAGE)
}

/// Everything that can be read must agree (INV-5, INV-6, INV-7, INV-11).
fn check<const N: usize>(block: &Memblock<N>, model: &Model) {
    let free = model.free_ranges();
    assert_eq!(block.free_ranges().collect::<Vec<_>>(), free);
    let mut backwards: Vec<_> = block.free_ranges().rev().collect();
    backwards.reverse();
    assert_eq!(backwards, free);

    let mut memory = [false; NR_PAGES * CELLS_PER_PAGE];
    let mut last_end = 0;
    for range in block.memory() {
        let (start, end) = (range.start.as_u64(), range.end.as_u64());
        assert!(
            start < end && (last_end < start || last_end == 0),
            "sorted, apart"
        );
        last_end = end;
        memory[Model::cells(start, end)].fill(true);
    }
    assert_eq!(memory, model.memory);

    let mut reserved = [None; NR_PAGES];
    let mut last = (Pfn::ZERO, Reserved::Firmware);
    for entry in block.reserved() {
        let range = entry.range;
        assert!(
            !range.is_empty() && last.0 <= range.start(),
            "sorted, disjoint"
        );
        assert!(last != (range.start(), entry.kind), "joined with its like");
        last = (range.end(), entry.kind);
        for pfn in range.iter() {
            reserved[pfn - PhysAddr::new(BASE).pfn()] = Some(entry.kind);
        }
    }
    assert_eq!(reserved, model.reserved);

    let accounting = block.accounting();
    let whole = |page: &usize| {
        let cells = &model.memory[page * CELLS_PER_PAGE..][..CELLS_PER_PAGE];
        cells.iter().all(|&cell| cell)
    };
    let nr_whole = (0..NR_PAGES).filter(whole).count();
    assert_eq!(accounting.nr_pages(), nr_whole);
    assert_eq!(
        accounting.nr_free(),
        (0..NR_PAGES).filter(|&p| model.is_free(p)).count()
    );
    for kind in Reserved::ALL {
        let held = (0..NR_PAGES).filter(|&page| model.reserved[page] == Some(kind));
        assert_eq!(accounting.nr_reserved(kind), held.filter(whole).count());
    }
    let first = (0..NR_PAGES).find(whole).map(pfn);
    let last = (0..NR_PAGES).rfind(whole).map(|page| pfn(page + 1));
    let spanned = first
        .zip(last)
        .map_or(PfnRange::EMPTY, |(a, b)| PfnRange::new(a, b));
    assert_eq!(block.spanned(), spanned);
}

/// Random bytes in the window; whole cells, whole pages, or neither.
fn random_range(random: &mut Random) -> (u64, u64) {
    let unit = random.pick(&[CELL, PAGE, PAGE]);
    let end_of_window = NR_PAGES as u64 * PAGE / unit;
    let start = random.below(end_of_window);
    let longest = random.pick(&[1, 4, 32, 200]);
    let len = random.below(longest + 1).min(end_of_window - start);
    (BASE + start * unit, BASE + (start + len) * unit)
}

fn step<const N: usize>(random: &mut Random, block: &mut Memblock<N>, model: &mut Model) {
    let (start, end) = random_range(random);
    let (at, size_bytes) = (PhysAddr::new(start), end - start);
    let kind = random.pick(&Reserved::ALL);
    let mut after = model.clone();
    let result = match random.below(8) {
        0..=1 => {
            after.memory[Model::cells(start, end)].fill(true);
            block.add(at, size_bytes)
        }
        2 => {
            after.memory[Model::cells(start, end)].fill(false);
            block.remove(at, size_bytes)
        }
        3 => {
            // Edges at any byte: reservations grow outwards.
            let (start, end) = if size_bytes > 2 {
                (start + 1, end - 1)
            } else {
                (start, end)
            };
            after.reserve(start, end, kind);
            block.reserve(PhysAddr::new(start), end - start, kind)
        }
        4 => {
            for page in 0..NR_PAGES {
                let (low, high) = page_bytes(page);
                if start <= low && high <= end && after.reserved[page] == Some(kind) {
                    after.reserved[page] = None;
                }
            }
            block.release(at, size_bytes, kind)
        }
        5..=6 => {
            let nr_pages = 1 + random.below(12) as usize;
            let align = 1_usize << random.below(4);
            let fits = |&page: &usize| {
                let range = page_bytes(page).0..page_bytes(page + nr_pages - 1).1;
                page + nr_pages <= NR_PAGES
                    && pfn(page).index() % align == 0
                    && range.start >= (1 << 20)
                    && start <= range.start
                    && range.end <= end
                    && (page..page + nr_pages).all(|page| model.is_free(page))
            };
            let want = (0..NR_PAGES).rev().find(fits);
            if let Some(page) = want {
                after.reserved[page..page + nr_pages].fill(Some(Reserved::BootAllocation));
            }
            let size_bytes = nr_pages as u64 * PAGE - random.below(PAGE);
            let got = block.alloc(size_bytes, align as u64 * PAGE, at..PhysAddr::new(end));
            match (want, got) {
                (None, Err(MemblockError::OutOfMemory)) => return,
                (None, other) => panic!("nothing fits, got {other:?}"),
                (Some(page), Ok(got)) => assert_eq!(got, pfn(page).phys()),
                (Some(_), Err(MemblockError::TooManyRegions)) => {}
                (Some(page), Err(error)) => panic!("{:?} fits, got {error}", pfn(page)),
            }
            got.map(|_| ())
        }
        _ => {
            let covering = |page: &usize| {
                let (low, high) = page_bytes(*page);
                low < end.max(start + 1) && start < high
            };
            let pages: Vec<usize> = (0..NR_PAGES).filter(covering).collect();
            let boot = Some(Reserved::BootAllocation);
            let allocated = pages.iter().all(|&page| after.reserved[page] == boot);
            let result = block.free(at, size_bytes);
            if start == BASE + NR_PAGES as u64 * PAGE {
                return; // outside the window
            }
            assert_eq!(result == Err(MemblockError::NotAllocated), !allocated);
            if !allocated {
                return;
            }
            for page in pages {
                after.reserved[page] = None;
            }
            result
        }
    };
    let (memory, reserved) = after.runs();
    if memory <= N && reserved <= N {
        assert_eq!(result, Ok(()));
        *model = after;
    } else {
        assert_eq!(result, Err(MemblockError::TooManyRegions));
    }
    check(block, model);
}

fn run<const N: usize>(random: &mut Random, nr_steps: usize) {
    let mut block = Memblock::<N>::with_room();
    let mut model = Model::new();
    for _ in 0..nr_steps {
        step(random, &mut block, &mut model);
    }
    hand_over(&mut block, &model);
}

/// Every free frame is yielded once; after that, nothing can be changed (INV-12).
fn hand_over<const N: usize>(block: &mut Memblock<N>, model: &Model) {
    let before = block.accounting();
    let ranges: Vec<PfnRange> = block.hand_over().unwrap().collect();
    assert_eq!(ranges, model.free_ranges());
    let over = Err(MemblockError::HandedOver);
    let at = PhysAddr::new(BASE);
    assert!(block.hand_over().is_err());
    assert_eq!(block.add(at, PAGE), over);
    assert_eq!(block.remove(at, PAGE), over);
    assert_eq!(block.reserve(at, PAGE, Reserved::Module), over);
    assert_eq!(block.release(at, PAGE, Reserved::Module), over);
    assert_eq!(block.free(at, PAGE), over);
    assert_eq!(block.trim_span(64), Err(MemblockError::HandedOver));
    assert!(block.alloc(1, 1, at..PhysAddr::new(u64::MAX)).is_err());
    let map = [FirmwareRegion::new(0, PAGE, FirmwareKind::Usable)];
    assert!(block.add_firmware_map(map, FirstMegabyte::Skip).is_err());
    assert_eq!(block.accounting(), before);
}

#[test]
fn random_operations_match_the_model() {
    let mut random = Random::new("random_operations_match_the_model", 0xb00f);
    for _ in 0..60 {
        run::<256>(&mut random, 300);
    }
}

/// INV-9.
#[test]
fn full_sets_refuse_and_lose_nothing() {
    let mut random = Random::new("full_sets_refuse_and_lose_nothing", 0xf011);
    for _ in 0..200 {
        run::<1>(&mut random, 40);
        run::<3>(&mut random, 80);
        run::<9>(&mut random, 120);
    }
}

/// INV-7, INV-8, INV-10.
#[test]
fn hostile_maps_match_the_model() {
    const KINDS: [FirmwareKind; 7] = [
        FirmwareKind::Usable,
        FirmwareKind::Usable,
        FirmwareKind::Usable,
        FirmwareKind::Reserved,
        FirmwareKind::AcpiReclaimable,
        FirmwareKind::AcpiNvs,
        FirmwareKind::Bootloader,
    ];
    let mut random = Random::new("hostile_maps_match_the_model", 0xbad);
    let (mut refused, mut dropped) = (0, 0);
    for _ in 0..8000 {
        let nr_regions = random.pick(&[0, 1, 3, 10, 40, 120]);
        let nr_kinds = random.pick(&[1, KINDS.len()]);
        let mut map = Vec::new();
        let mut model = Model::new();
        let (mut nr_empty, mut nr_wrapping) = (0, 0);
        for _ in 0..nr_regions {
            let kind = random.pick(&KINDS[..nr_kinds]);
            let (mut start, mut end) = random_range(&mut random);
            match random.below(30) {
                0 => (start, end) = (end, start),
                1 if !kind.is_ram() => end = u64::MAX, // to the end of the address space
                _ => {}
            }
            map.push(FirmwareRegion::new(start, end, kind));
            nr_empty += usize::from(start == end);
            nr_wrapping += usize::from(end < start);
            if kind.is_ram() && start < end {
                model.memory[Model::cells(start, end)].fill(true);
            }
            if let Some(kind) = kind.reserved() {
                let end = if end < start { u64::MAX } else { end };
                model.reserve(start, end, kind);
            }
        }
        model.reserve(0, 1 << 20, Reserved::FirstMegabyte);
        let rooms: [HostileMap; 3] = [hostile_map::<3>, hostile_map::<6>, hostile_map::<64>];
        let hostile_map = random.pick(&rooms);
        let wrong = (nr_empty, nr_wrapping);
        hostile_map(&map, &model, wrong, &mut refused, &mut dropped);
    }
    assert!(
        refused > 250 && dropped > 100,
        "{refused} refused, {dropped} dropped"
    );
}

type HostileMap = fn(&[FirmwareRegion], &Model, (usize, usize), &mut usize, &mut usize);

fn hostile_map<const N: usize>(
    map: &[FirmwareRegion],
    model: &Model,
    (nr_empty, nr_wrapping): (usize, usize),
    refused: &mut usize,
    dropped: &mut usize,
) {
    let mut block = Memblock::<N>::with_room();
    let (memory_runs, reserved_runs) = model.runs();
    let result = block.add_firmware_map(map.iter().copied(), FirstMegabyte::Skip);
    let Ok(report) = result else {
        assert_eq!(result, Err(MemblockError::TooManyRegions));
        // Below the window and above it there may be one more each.
        assert!(reserved_runs + 2 > N, "{reserved_runs} would have fitted");
        assert_eq!(
            block.memory().count(),
            0,
            "no memory without its reservations"
        );
        *refused += 1;
        return;
    };
    assert_eq!(report.nr_regions, map.len());
    assert_eq!(
        (report.nr_empty, report.nr_wrapping),
        (nr_empty, nr_wrapping)
    );
    let dropped_regions = memory_runs.saturating_sub(N);
    assert_eq!(report.nr_dropped, dropped_regions);
    *dropped += usize::from(dropped_regions > 0);

    // What is reserved is so whether memory was dropped or not; what is free is free in the model.
    let beyond = PhysAddr::new(BASE + NR_PAGES as u64 * PAGE).pfn();
    let below = PhysAddr::new(BASE).pfn();
    for page in 0..NR_PAGES {
        let shown = block
            .reserved()
            .find(|entry| entry.range.contains(pfn(page)));
        assert_eq!(
            shown.map(|entry| entry.kind),
            model.reserved[page],
            "{}",
            pfn(page)
        );
    }
    let kept: u64 = block.memory().map(|range| range.end - range.start).sum();
    let all = model.memory.iter().filter(|&&cell| cell).count() as u64 * CELL;
    assert_eq!(kept + report.dropped_bytes, all);
    let mut nr_free = 0;
    for range in block.free_ranges() {
        assert!(below <= range.start() && range.end() <= beyond);
        for pfn in range.iter() {
            assert!(model.is_free(pfn - below), "{pfn} is not free");
            nr_free += 1;
        }
    }
    if dropped_regions == 0 {
        let want = (0..NR_PAGES).filter(|&page| model.is_free(page)).count();
        assert_eq!(nr_free, want);
    }

    // Allocations to the last page, then the rest of nothing.
    let mut taken = Vec::new();
    let everywhere = PhysAddr::ZERO..PhysAddr::new(u64::MAX);
    loop {
        match block.alloc(1, 1, everywhere.clone()) {
            Ok(at) => taken.push(at.pfn()),
            Err(error) => {
                assert!(error == MemblockError::OutOfMemory || block.reserved().count() == N);
                break;
            }
        }
    }
    let distinct = taken.len();
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), distinct, "a frame was allocated twice");
    assert!(taken.iter().all(|&pfn| model.is_free(pfn - below)));
    let left: usize = block.hand_over().unwrap().map(PfnRange::nr_pages).sum();
    assert_eq!(left + distinct, nr_free, "every frame once");
}

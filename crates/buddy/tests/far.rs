//! Zones of so many pageblocks that what leads to the free ones has several levels, against a list.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "a test; descriptors are laid into memory that is never written"
)]

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::collections::BTreeMap;

use common::{Random, frames, order, pageblocks_of};
use kmm_buddy::{Buddy, FreeBits};
use kmm_frame::{MemMap, MigrateType, Order, Pfn, PfnRange, Section, SparseMap};

/// All descriptors of `range`, zero; memory for them is taken when they are written.
fn map_of(range: PfnRange) -> MemMap {
    let layout = SparseMap::layout(range).unwrap();
    let room = Layout::array::<u64>((layout.size() + layout.align()) / 8).unwrap();
    // SAFETY: it has a size.
    let storage = NonNull::new(unsafe { std::alloc::alloc_zeroed(room) }).unwrap();
    let skipped = storage.align_offset(layout.align());
    // SAFETY: at most the alignment, which there is room for.
    let storage = unsafe { storage.add(skipped) };
    let words: Vec<_> = (0..SparseMap::table_words(range))
        .map(|_| AtomicU64::new(0))
        .collect();
    // SAFETY: as large and aligned as asked, nobody else's, never given back.
    let map = unsafe { SparseMap::new(range, storage, words.leak()) }.unwrap();
    let map: &'static SparseMap = Box::leak(Box::new(map));
    for nr in Section::of(range.start()).index()..=Section::of(range.end() - 1).index() {
        // SAFETY: the memory is there and zero; nobody else adds any.
        unsafe { map.add_zeroed_section(Section::new(nr)) }.unwrap();
    }
    MemMap::sparse(map)
}

const KINDS: [MigrateType; 2] = [MigrateType::Cma, MigrateType::HighAtomic];

/// A zone, and for each pageblock with something free its type and the order of the one block.
struct Zone {
    first: usize,
    buddy: Buddy,
    blocks: BTreeMap<usize, (MigrateType, u8)>,
}

impl Zone {
    fn new(first: usize, nr_blocks: usize) -> Self {
        let range = frames(first * 512, (first + nr_blocks) * 512);
        let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range)];
        let buddy = Buddy::new(range, map_of(range), storage.leak(), pageblocks_of(range));
        Self {
            first,
            buddy: buddy.unwrap(),
            blocks: BTreeMap::new(),
        }
    }

    fn start(&self, nr: usize) -> Pfn {
        Pfn::new((self.first + nr) * 512)
    }

    /// Gives a pageblock, of which nothing is free, its lowest block of an order.
    fn put(&mut self, nr: usize, kind: MigrateType, n: u8) {
        let start = self.start(nr);
        self.buddy.set_type(start, kind);
        self.buddy.put(start, order(n)).unwrap();
        assert_eq!(self.blocks.insert(nr, (kind, n)), None);
    }

    /// The pageblock that a request is to come from: of those with the smallest block that fits the lowest.
    fn fitting(&self, kind: MigrateType, n: u8) -> Option<usize> {
        let own = self.blocks.iter().filter(|(_, block)| block.0 == kind);
        let fitting = own.filter(|(_, block)| block.1 >= n);
        fitting
            .min_by_key(|(nr, block)| (block.1, **nr))
            .map(|(nr, _)| *nr)
    }

    /// Takes all of the smallest block that is as large as `n`.
    fn take(&mut self, kind: MigrateType, n: u8) {
        let nr = self.fitting(kind, n);
        let n = nr.map_or(n, |nr| self.blocks[&nr].1);
        let expected = nr.map(|nr| self.start(nr));
        assert_eq!(
            self.buddy.take(order(n), kind).ok(),
            expected,
            "{kind:?} {n}"
        );
        if let Some(nr) = nr {
            self.blocks.remove(&nr);
        }
    }

    /// Takes the fragments of the lowest pageblock that has any.
    fn take_pages(&mut self, kind: MigrateType) {
        let mut own = self.blocks.iter().filter(|(_, block)| block.0 == kind);
        let Some((&nr, &(_, n))) = own.find(|(_, block)| block.1 < Order::PAGEBLOCK.get()) else {
            return;
        };
        let start = self.start(nr);
        let mut next = start;
        let count = self.buddy.take_pages(1 << n, kind, |pfn| {
            assert_eq!(pfn, next);
            next += 1;
        });
        assert_eq!(count, 1 << n);
        self.blocks.remove(&nr);
    }

    fn nr_free(&self, kind: MigrateType) -> usize {
        let own = self.blocks.values().filter(|block| block.0 == kind);
        own.map(|block| 1 << block.1).sum()
    }
}

/// Random pageblocks of those that `pick` chooses come and go.
fn run(test: &str, (first, nr_blocks): (usize, usize), pick: impl Fn(&mut Random) -> usize) {
    let mut random = Random::new(test, 0x2a);
    let mut zone = Zone::new(first, nr_blocks);
    for op in 0..2000 {
        let kind = KINDS[random.below(KINDS.len())];
        let nr = pick(&mut random);
        // Sometimes nearly none is left, so that rows and levels become empty.
        let wants_more = random.below(100) < if op / 200 % 2 == 0 { 70 } else { 25 };
        match random.below(8) {
            0 => zone.take_pages(kind),
            _ if wants_more && !zone.blocks.contains_key(&nr) => {
                let twin = zone.blocks.get(&(nr ^ 1));
                let n = u8::try_from(random.below(10)).unwrap();
                // Two that are free as a whole would be one.
                let n = if twin.is_some_and(|twin| twin.1 == 9) {
                    n % 9
                } else {
                    n
                };
                zone.put(nr, kind, n);
            }
            _ => zone.take(kind, u8::try_from(random.below(10)).unwrap()),
        }
        for kind in KINDS {
            assert_eq!(zone.buddy.nr_free_pages_of(kind), zone.nr_free(kind));
        }
        if op % 500 == 0 {
            zone.buddy.validate().unwrap();
        }
    }
    zone.buddy.validate().unwrap();
}

#[test]
fn the_lowest_of_a_few_is_found_among_hundreds_of_pageblocks() {
    let few = [0, 1, 62, 63, 64, 65, 127, 128, 191, 192, 255, 320, 383, 499];
    run("a_few_among_hundreds", (0, 500), move |random| {
        few[random.below(few.len())]
    });
}

#[test]
fn the_lowest_is_found_among_hundreds_of_pageblocks() {
    run("among_hundreds", (6, 300), |random| random.below(300));
}

#[test]
fn the_lowest_is_found_among_thousands_of_pageblocks() {
    let few = [
        0, 63, 64, 700, 4031, 4095, 4096, 4097, 4160, 4223, 5000, 8191, 8192, 8999,
    ];
    run("among_thousands", (2, 9000), move |random| {
        few[random.below(few.len())]
    });
}

#[test]
fn far_pageblocks_join_and_part_like_the_first() {
    let nr_blocks = 5000;
    let mut zone = Zone::new(0, nr_blocks);
    for nr in [0, 2, 62, 64, 130, 4094, 4096, 4162, 4998] {
        let (start, kind) = (zone.start(nr), MigrateType::Movable);
        let upper = start + 512;
        let buddy = &mut zone.buddy;
        let check = |buddy: &Buddy, expected: &[(usize, u8)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|b| (start.index() + b.0, b.1))
                .collect();
            assert_eq!(common::sorted(buddy.free_blocks()), expected);
            buddy.validate().unwrap();
        };
        buddy.put(start, order(10)).unwrap();
        check(buddy, &[(0, 10)]);
        // The lower half, then a page of the upper one, and both back: the last page makes one block of all.
        assert_eq!(buddy.take(order(9), kind), Ok(start));
        check(buddy, &[(512, 9)]);
        assert_eq!(buddy.take(order(0), kind), Ok(upper));
        buddy.put(start, order(9)).unwrap();
        buddy.put(upper, order(0)).unwrap();
        check(buddy, &[(0, 10)]);
        // Out of both at once, and back in the other order.
        assert_eq!(buddy.take(order(8), kind), Ok(start));
        check(buddy, &[(256, 8), (512, 9)]);
        assert_eq!(buddy.take(order(9), kind), Ok(upper));
        check(buddy, &[(256, 8)]);
        buddy.put(upper, order(9)).unwrap();
        buddy.put(start, order(8)).unwrap();
        check(buddy, &[(0, 10)]);
        // Apart by type, and together again.
        buddy.set_type(upper, MigrateType::Cma);
        check(buddy, &[(0, 9), (512, 9)]);
        assert_eq!(buddy.take(order(9), MigrateType::Cma), Ok(upper));
        buddy.put(upper, order(9)).unwrap();
        buddy.set_type(upper, kind);
        check(buddy, &[(0, 10)]);
        assert_eq!(buddy.take(order(10), kind), Ok(start));
        check(buddy, &[]);
    }
}

#[test]
fn a_size_that_merged_away_far_up_is_looked_for_no_more() {
    let kind = MigrateType::Movable;
    for n in 0..9 {
        // Both halves of a block come one after the other, in the first pageblock and in one far behind it.
        for far in [64, 4096] {
            let mut zone = Zone::new(0, 5000);
            let blocks = [zone.start(0), zone.start(far)];
            let half = order(n).nr_pages();
            let buddy = &mut zone.buddy;
            for start in [0, half] {
                for block in blocks {
                    buddy.put(block + start, order(n)).unwrap();
                }
            }
            buddy.validate().unwrap();
            for block in blocks {
                assert_eq!(buddy.take(order(n), kind), Ok(block), "order {n}");
                assert_eq!(buddy.take(order(n), kind), Ok(block + half), "order {n}");
            }
            assert!(buddy.take(order(n), kind).is_err());
            buddy.validate().unwrap();
        }
    }
}

#[test]
fn of_thousands_of_pageblocks_those_at_the_end_are_claimed_first() {
    let mut zone = Zone::new(0, 9000);
    let claimed = [8999, 8130, 5000, 4096, 4095, 130, 10];
    for nr in claimed {
        zone.put(nr, MigrateType::Movable, 8);
    }
    for nr in claimed {
        let block = zone.buddy.take(order(8), MigrateType::Unmovable);
        assert_eq!(block, Ok(zone.start(nr)));
    }
    zone.buddy.validate().unwrap();
}

//! Random operations on zones with all types against the oracle, compared after each.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test; orders are small"
)]

mod common;

use common::typed::Typed;
use common::{Random, Wish, empty, frames, map_of};
use kmm_buddy::{Buddy, Contig, ContigError};
use kmm_frame::{MigrateType, Pfn, PfnRange};

use MigrateType::{Cma, HighAtomic, Isolate, Movable, Reclaimable, Unmovable};

struct Driver {
    random: Random,
    range: PfnRange,
    buddy: Buddy,
    oracle: Typed,
    /// Ranges that are asked for, and of which pages are moved away.
    contig: Vec<Contig>,
}

impl Driver {
    fn new(random: Random, range: PfnRange, cma: PfnRange) -> Self {
        let mut buddy = empty(range, map_of(range));
        let mut oracle = Typed::new(range);
        if !cma.is_empty() {
            buddy.add_cma_range(cma).unwrap();
            oracle.set(cma.start().index(), cma.nr_pages(), true);
            // Their first and only change.
            for pfn in cma.iter().step_by(512) {
                assert_eq!(buddy.type_of(pfn), Some(Cma));
            }
        }
        let cut = if cma.is_empty() {
            PfnRange::new(range.end(), range.end())
        } else {
            cma
        };
        for part in [
            PfnRange::new(range.start(), cut.start()),
            PfnRange::new(cut.end(), range.end()),
        ] {
            buddy.add_free_range(part).unwrap();
            oracle.set(part.start().index(), part.nr_pages(), true);
        }
        for pfn in cma.iter().step_by(512) {
            oracle.set_kind(pfn.index() / 512, Cma);
        }
        let driver = Self {
            random,
            range,
            buddy,
            oracle,
            contig: Vec::new(),
        };
        driver.oracle.compare(&driver.buddy);
        driver
    }

    fn wish(&mut self) -> Wish {
        let kind = match self.random.below(20) {
            0 => HighAtomic,
            1 => Cma,
            2 => Isolate,
            3..8 => Unmovable,
            8..11 => Reclaimable,
            _ => Movable,
        };
        Wish {
            kind,
            cma: kind == Movable && self.random.below(2) == 0,
            whole_only: self.random.below(4) == 0,
            sparing: self.random.below(4) == 0,
            end: match self.random.below(3) {
                0 => self.pfn(),
                _ => usize::MAX,
            },
        }
    }

    fn pfn(&mut self) -> usize {
        self.range.start().index() + self.random.below(self.range.nr_pages())
    }

    fn step(&mut self, fill: usize, most: u8) {
        let wish = self.wish();
        match self.random.below(100) {
            0..6 => {
                let most = 2 << self.random.below(9);
                let most = self.random.below(most);
                self.oracle.take_pages(&mut self.buddy, most, wish);
            }
            6..12 => {
                let most = 2 << self.random.below(9);
                let most = self.random.below(most);
                self.oracle.put_pages(&mut self.buddy, most);
            }
            12 => {
                let (pfn, kind) = (self.pfn(), MigrateType::ALL[self.random.below(5)]);
                if self.oracle.kind(pfn) != Isolate {
                    self.oracle.set_type(&mut self.buddy, pfn, kind);
                }
            }
            13 => self.reserve(),
            14 => self.oracle.unreserve(&mut self.buddy, wish.kind),
            15..18 => self.contig(),
            18..20 => {
                let n = self.random.below(11) as u8;
                let most = 2 << self.random.below(6);
                let most = self.random.below(most);
                self.oracle.take_blocks(&mut self.buddy, n, most, wish);
            }
            _ if self.random.below(100) < fill => {
                let n = self.random.order(most).get();
                self.oracle.take(&mut self.buddy, n, wish);
            }
            _ if self.oracle.held.is_empty() => {}
            _ => {
                let nr = self.random.below(self.oracle.held.len());
                self.oracle.put(&mut self.buddy, nr);
            }
        }
    }

    ///
    fn reserve(&mut self) {
        let Some(&(pfn, n)) = self.oracle.held.first() else {
            return;
        };
        let managed = [51_199, 51_200, 120_000][self.random.below(3)];
        let order = common::order(n);
        let done = self.buddy.reserve_highatomic(Pfn::new(pfn), order, managed);
        let mut expected = false;
        for nr in pfn / 512..=(pfn + (1 << n) - 1) / 512 {
            let is_plain = matches!(
                self.oracle.kind(nr * 512),
                Unmovable | Movable | Reclaimable
            );
            let reserved = 512 * self.oracle.nr_pageblocks(HighAtomic);
            if managed / 100 >= 512 && reserved < managed / 100 + 512 && is_plain {
                self.oracle.set_kind(nr, HighAtomic);
                expected = true;
            }
        }
        assert_eq!(done, expected);
    }

    /// asks for a range, moves a page out of one, or ends it.
    fn contig(&mut self) {
        if self.contig.len() < 2 && self.random.below(3) == 0 {
            let start = self.pfn();
            let len = self.random.below(700);
            let range = frames(start, (start + len).min(self.range.end().index() + 3));
            let expected = if range.is_empty() {
                Err(ContigError::Empty)
            } else if range.end() > self.range.end() {
                Err(ContigError::OutsideZone)
            } else if range
                .iter()
                .any(|pfn| self.oracle.kind(pfn.index() / 512 * 512) == Isolate)
            {
                Err(ContigError::Busy)
            } else {
                Ok(range)
            };
            let started = self.buddy.start_contig(range);
            assert_eq!(
                started.as_ref().map(Contig::range),
                expected.as_ref().copied()
            );
            if let Ok(contig) = started {
                self.oracle.isolate(range);
                self.contig.push(contig);
            }
            return;
        }
        let Some(contig) = self.contig.pop() else {
            return;
        };
        let range = contig.range();
        if self.random.below(6) == 0 {
            self.buddy.undo_contig(contig);
            return self.oracle.undo_isolate(range);
        }
        if self.random.below(3) > 0 {
            self.migrate(&contig);
        }
        let is_free = |pfn: &Pfn| self.oracle.is_free(pfn.index());
        let busy = range.iter().find(|pfn| !is_free(pfn));
        match (self.buddy.finish_contig(contig), busy) {
            (Ok(taken), None) => {
                assert_eq!(taken, range);
                self.oracle
                    .set(range.start().index(), range.nr_pages(), false);
                self.oracle.undo_isolate(range);
                self.oracle
                    .held
                    .extend(range.iter().map(|pfn| (pfn.index(), 0)));
            }
            (Err((contig, run)), Some(busy)) => {
                assert_eq!(run.start(), busy);
                assert!(run.iter().all(|pfn| !is_free(&pfn)));
                assert!(run.end() == range.end() || is_free(&run.end()));
                self.contig.push(contig);
            }
            (done, busy) => panic!("{done:?} with {busy:?} in use"),
        }
    }

    /// Takes pages elsewhere for those in use, and gives these back: all that can be moved.
    fn migrate(&mut self, contig: &Contig) {
        let in_use: Vec<PfnRange> = self.buddy.in_use(contig).collect();
        let not_free = contig
            .range()
            .iter()
            .filter(|pfn| !self.oracle.is_free(pfn.index()));
        let listed = in_use.iter().flat_map(|run| run.iter());
        assert!(not_free.eq(listed), "{in_use:?}");
        let lies_there = |&(pfn, n): &(usize, u8)| {
            let block = PfnRange::with_len(Pfn::new(pfn), 1 << n);
            in_use.iter().any(|run| run.overlaps(block))
        };
        let found: Vec<(usize, u8)> = self
            .oracle
            .held
            .iter()
            .copied()
            .filter(lies_there)
            .collect();
        for (pfn, n) in found {
            if self
                .oracle
                .take(&mut self.buddy, n, Wish::of(Movable))
                .is_none()
            {
                return;
            }
            let nr = self
                .oracle
                .held
                .iter()
                .position(|b| *b == (pfn, n))
                .unwrap();
            self.oracle.put(&mut self.buddy, nr);
        }
    }
}

fn run(test: &str, seed: u64, range: PfnRange, cma: PfnRange, nr_ops: usize) {
    let mut driver = Driver::new(Random::new(test, seed), range, cma);
    let (mut fill, mut most) = (50, 9);
    for op in 0..nr_ops {
        if op % 300 == 0 {
            fill = [20, 50, 80][driver.random.below(3)];
            most = [3, 9, 10][driver.random.below(3)];
        }
        driver.step(fill, most);
        driver.oracle.compare(&driver.buddy);
        if op % 64 == 0 {
            driver.buddy.validate().unwrap();
        }
    }
    driver.buddy.validate().unwrap();
    assert!(driver.oracle.nr_fallbacks > nr_ops as u64 / 200);
    assert!(driver.oracle.nr_changes > nr_ops as u64 / 100);
}

#[test]
fn requests_of_all_types_match_the_oracle() {
    let test = "requests_of_all_types_match_the_oracle";
    run(test, 0x21, frames(0, 4096), PfnRange::EMPTY, 8_000);
    run(test, 0x22, frames(700, 5001), PfnRange::EMPTY, 8_000);
}

#[test]
fn requests_with_pages_that_a_device_lends_match_the_oracle() {
    let test = "requests_with_pages_that_a_device_lends_match_the_oracle";
    run(test, 0x23, frames(0, 4096), frames(1024, 2560), 8_000);
    run(test, 0x24, frames(100, 3700), frames(512, 3072), 8_000);
}

#[test]
fn requests_with_few_whole_pageblocks_match_the_oracle() {
    let test = "requests_with_few_whole_pageblocks_match_the_oracle";
    // Of 32 pageblocks two are few.
    run(test, 0x26, frames(0, 16_384), PfnRange::EMPTY, 1_500);
}

#[test]
fn requests_in_parts_of_pageblocks_match_the_oracle() {
    let test = "requests_in_parts_of_pageblocks_match_the_oracle";
    run(test, 0x25, frames(400, 1400), PfnRange::EMPTY, 12_000);
}

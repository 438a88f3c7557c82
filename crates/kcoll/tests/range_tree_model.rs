//! Random operations on [`RangeTree`] against a map of single addresses, with allocations that fail.
#![allow(clippy::cast_possible_truncation, reason = "numbers of a small window")]

use core::ops::Range;

use kmm_kcoll::AllocError;
use kmm_kcoll::range_tree::{InsertError, RangeError, RangeTree};
use kmm_sim::{FailingHeap, Rng, seeded};

#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

/// Addresses that ranges are drawn from: few, so that they meet.
const WINDOW: u64 = 2048;

/// The slow and obvious model: for each address of the window, which entry covers it; entries in a sorted list.
struct Oracle {
    base: u64,
    covered: Vec<bool>,
    entries: Vec<(Range<u64>, u64)>,
}

impl Oracle {
    fn new(base: u64) -> Self {
        Self {
            base,
            covered: vec![false; WINDOW as usize],
            entries: Vec::new(),
        }
    }

    fn cells(&mut self, range: &Range<u64>) -> &mut [bool] {
        let at = (range.start - self.base) as usize..(range.end - self.base) as usize;
        &mut self.covered[at]
    }

    fn insert(&mut self, range: Range<u64>, value: u64) -> Result<(), RangeError> {
        if range.start >= range.end {
            return Err(RangeError::Empty);
        }
        if self.cells(&range).contains(&true) {
            return Err(RangeError::Overlap);
        }
        self.cells(&range).fill(true);
        self.entries.push((range, value));
        self.entries.sort_by_key(|(range, _)| range.start);
        Ok(())
    }

    fn remove(&mut self, start: u64) -> Option<(Range<u64>, u64)> {
        let at = self
            .entries
            .iter()
            .position(|(range, _)| range.start == start)?;
        let (range, value) = self.entries.remove(at);
        self.cells(&range).fill(false);
        Some((range, value))
    }

    fn resize(&mut self, start: u64, new: Range<u64>) -> Result<(), RangeError> {
        let at = self
            .entries
            .iter()
            .position(|(range, _)| range.start == start)
            .ok_or(RangeError::NotFound)?;
        if new.start >= new.end {
            return Err(RangeError::Empty);
        }
        let meets = |other: Option<&(Range<u64>, u64)>,
                     passes: fn(&Range<u64>, &Range<u64>) -> bool| {
            other.is_some_and(|(other, _)| passes(other, &new))
        };
        if meets(at.checked_sub(1).map(|at| &self.entries[at]), |low, new| {
            low.end > new.start
        }) || meets(self.entries.get(at + 1), |high, new| high.start < new.end)
        {
            return Err(RangeError::Overlap);
        }
        let old = self.entries[at].0.clone();
        self.cells(&old).fill(false);
        self.cells(&new).fill(true);
        self.entries[at].0 = new;
        Ok(())
    }

    fn is_answer(&self, at: u64, within: &Range<u64>, len: u64, align: u64) -> bool {
        at % align == 0
            && at >= within.start
            && within.end - at >= len
            && (at..at + len).all(|addr| !self.covered[(addr - self.base) as usize])
    }

    fn gaps<'a>(
        &'a self,
        within: &'a Range<u64>,
        len: u64,
        align: u64,
    ) -> impl DoubleEndedIterator<Item = u64> + 'a {
        within
            .clone()
            .filter(move |&at| self.is_answer(at, within, len, align))
    }
}

fn assert_same(tree: &RangeTree<u64>, oracle: &Oracle) {
    tree.validate();
    assert_eq!(tree.len(), oracle.entries.len());
    assert_eq!(tree.is_empty(), oracle.entries.is_empty());
    let got = tree.iter().map(|(range, &value)| (range, value));
    assert!(got.eq(oracle.entries.iter().cloned()), "entries differ");
}

fn assert_same_lookups(tree: &RangeTree<u64>, oracle: &Oracle, addr: u64) {
    let own = |hit: Option<(Range<u64>, &u64)>| hit.map(|(range, &value)| (range, value));
    let list = &oracle.entries;
    let find = list.iter().find(|(r, _)| r.end > addr).cloned();
    assert_eq!(own(tree.find(addr)), find, "find({addr})");
    let get = list.iter().find(|(r, _)| r.contains(&addr)).cloned();
    assert_eq!(own(tree.get(addr)), get, "get({addr})");
    let prev = list.iter().rfind(|(r, _)| r.end <= addr).cloned();
    assert_eq!(own(tree.prev(addr)), prev, "prev({addr})");
    let next = list.iter().find(|(r, _)| r.start > addr).cloned();
    assert_eq!(own(tree.next_after(addr)), next, "next_after({addr})");
    assert_eq!(own(tree.first()), list.first().cloned());
    assert_eq!(own(tree.last()), list.last().cloned());
}

fn assert_same_ranges(tree: &mut RangeTree<u64>, oracle: &mut Oracle, within: &Range<u64>) {
    let meets = |r: &Range<u64>| r.start < within.end && r.end > within.start && !within.is_empty();
    let expected: Vec<_> = oracle
        .entries
        .iter()
        .filter(|(r, _)| meets(r))
        .cloned()
        .collect();
    let got: Vec<_> = tree.range(within.clone()).map(|(r, &v)| (r, v)).collect();
    assert_eq!(got, expected, "range({within:?})");
    assert_eq!(
        tree.is_free(within.clone()),
        expected.is_empty(),
        "is_free({within:?})"
    );

    let from: Vec<_> = tree.iter_from(within.start).map(|(r, _)| r).collect();
    let list = oracle.entries.iter().map(|(r, _)| r.clone());
    assert_eq!(
        from,
        list.filter(|r| r.end > within.start).collect::<Vec<_>>()
    );

    tree.for_each_mut(within.clone(), |_, value| *value += 1);
    for (range, value) in &mut oracle.entries {
        if meets(range) {
            *value += 1;
        }
    }
}

fn assert_same_gaps(tree: &RangeTree<u64>, oracle: &Oracle, rng: &mut Rng) {
    let within = random_range(rng, oracle.base, WINDOW);
    let (len, align) = (rng.below(12), 1 << rng.below(5));
    let expected = if len == 0 {
        (None, None)
    } else {
        let mut gaps = oracle.gaps(&within, len, align);
        let low = gaps.next();
        (low, gaps.next_back().or(low))
    };
    let got = (
        tree.lowest_gap(within.clone(), len, align),
        tree.highest_gap(within.clone(), len, align),
    );
    assert_eq!(got, expected, "gap of {len} by {align} in {within:?}");
}

/// Any range of the window of at most `longest` addresses; now and then an empty one.
fn random_range(rng: &mut Rng, base: u64, longest: u64) -> Range<u64> {
    let start = rng.below(WINDOW);
    let len = rng.below(longest + 1);
    base + start..base + (start + len).min(WINDOW)
}

/// `ops` operations in a window at `base`; inserting and removing prevail by turns, so the tree grows and shrinks.
fn run(rng: &mut Rng, base: u64, ops: u32) {
    let mut tree = RangeTree::new();
    let mut oracle = Oracle::new(base);
    let (mut tallest, mut failures) = (0, 0);
    for op in 0..ops {
        if op % 8000 == 0 {
            tree.clear(); // so that it has to allocate again
            oracle = Oracle::new(base);
        }
        let growing = (op / 4000) % 2 == 0;
        let longest = if (op / 8000) % 3 == 0 { 40 } else { 4 };
        let addr = base + rng.below(WINDOW);
        let known = tree.find(addr).map_or(addr, |(range, _)| range.start);
        match rng.below(10) {
            choice @ 0..=5 if growing == (choice != 5) => {
                let range = random_range(rng, base, longest);
                let value = rng.next_u64() >> 1;
                if !rng.one_in(4) {
                    let left = rng.below(6) as u32 / 4;
                    let done = FailingHeap::after(left, || tree.insert(range.clone(), value));
                    if let Err(InsertError {
                        error: RangeError::OutOfMemory,
                        value: back,
                    }) = done
                    {
                        assert_eq!(back, value);
                        failures += 1;
                    } else {
                        assert_eq!(done.map_err(|e| e.error), oracle.insert(range, value));
                    }
                } else {
                    let done = tree.insert(range.clone(), value);
                    let expected = oracle.insert(range, value);
                    assert_eq!(
                        done.map_err(|e| (e.error, e.value)),
                        expected.map_err(|e| (e, value))
                    );
                }
            }
            0..=6 => assert_eq!(
                FailingHeap::after(0, || tree.remove(known)),
                oracle.remove(known)
            ),
            7 => {
                let new = random_range(rng, base, longest);
                let start = if rng.one_in(2) { new.start } else { known };
                let start = tree.find(start).map_or(start, |(range, _)| range.start);
                let done = FailingHeap::after(0, || tree.resize(start, new.clone()));
                assert_eq!(done, oracle.resize(start, new));
            }
            8 => {
                let new = known..known.saturating_add(rng.below(6)).min(base + WINDOW);
                let done = FailingHeap::after(0, || tree.resize(known, new.clone()));
                assert_eq!(done, oracle.resize(known, new));
            }
            _ => {
                assert_same_lookups(&tree, &oracle, addr);
                let within = random_range(rng, base, 100);
                assert_same_ranges(&mut tree, &mut oracle, &within);
            }
        }
        assert_same(&tree, &oracle);
        if op % 8 == 0 {
            assert_same_gaps(&tree, &oracle, rng);
        }
        tallest = tallest.max(tree.height());
    }
    assert!(tallest >= 3, "the script never grew the tree: {tallest}");
    assert!(failures > 50, "hardly an allocation failed: {failures}");
    while let Some(entry) = tree.pop_first() {
        assert_eq!(Some(entry.clone()), oracle.remove(entry.0.start));
    }
    assert_same(&tree, &oracle);
    assert!(oracle.entries.is_empty());
}

#[test]
fn random_operations_match_the_oracle() {
    seeded(1, |rng| {
        run(rng, 0, 120_000);
    });
}

#[test]
fn random_operations_match_the_oracle_at_the_end_of_the_address_space() {
    seeded(2, |rng| {
        run(rng, u64::MAX - WINDOW, 100_000);
    });
}

#[test]
fn reserved_insertions_never_allocate() {
    seeded(3, |rng| {
        for round in 0..600 {
            let mut tree = RangeTree::new();
            // Inserting in descending, ascending or random order leaves leaves of different fill.
            for n in 0..rng.below(2500) {
                let at = match round % 3 {
                    0 => n,
                    1 => 5000 - n,
                    _ => rng.below(5000),
                };
                _ = tree.insert(at * 2..at * 2 + 1, ());
            }
            let room = if rng.one_in(2) {
                1 + rng.below(4)
            } else {
                rng.below(1500)
            };
            tree.reserve(room as usize).unwrap();
            let dense = rng.below(9000);
            FailingHeap::after(0, || {
                let mut left = room;
                while left > 0 {
                    let at = if rng.one_in(2) {
                        dense + rng.below(1000)
                    } else {
                        rng.below(11_000)
                    };
                    match tree.insert(at..at + 1, ()) {
                        Ok(()) => left -= 1,
                        Err(e) => {
                            assert_eq!(e.error, RangeError::Overlap);
                            tree.remove(at).unwrap();
                        }
                    }
                }
            });
            tree.validate();
        }
    });
}

#[test]
fn one_reserved_insertion_never_allocates_at_any_size() {
    let mut tree = RangeTree::new();
    for n in 0..40_000 {
        tree.reserve(1).unwrap();
        FailingHeap::after(0, || tree.insert(n..n + 1, ())).unwrap();
    }
    tree.validate();
}

#[test]
fn sixteen_entries_left_over_fit_one_node() {
    let mut tree = RangeTree::new();
    for n in 0..17 {
        tree.insert(n..n + 1, ()).unwrap();
    }
    assert_eq!(tree.height(), 2);
    tree.remove(16).unwrap();
    assert_eq!(tree.height(), 1);
}

#[test]
fn failed_reservation_leaves_the_tree_as_it_was() {
    let mut tree = RangeTree::new();
    for n in 0..100 {
        tree.insert(n * 10..n * 10 + 5, n).unwrap();
    }
    for allowed in 0..6 {
        let done = FailingHeap::after(allowed, || tree.reserve(5000));
        assert_eq!(done, Err(AllocError));
        tree.validate();
        assert_eq!(tree.iter().count(), 100);
    }
    assert_eq!(tree.reserve(usize::MAX), Err(AllocError));
    assert_eq!(tree.reserve(usize::MAX / 1000), Err(AllocError));
    tree.validate();
}

#[test]
fn values_are_dropped_once() {
    use std::rc::Rc;
    let witness = Rc::new(());
    let mut tree = RangeTree::new();
    for n in 0..500 {
        tree.insert(n * 2..n * 2 + 1, Rc::clone(&witness)).unwrap();
    }
    let refused = tree.insert(4..5, Rc::clone(&witness)).unwrap_err();
    assert_eq!(Rc::strong_count(&witness), 502);
    drop(refused);
    for n in 0..250 {
        tree.remove(n * 4).unwrap();
    }
    assert_eq!(Rc::strong_count(&witness), 251);
    tree.clear();
    assert_eq!(Rc::strong_count(&witness), 1);
    assert_eq!((tree.len(), tree.heap_bytes()), (0, 0));
}

#[test]
fn values_mut_visits_every_value_once() {
    let mut tree = RangeTree::new();
    for n in 0..300 {
        tree.insert(n * 4..n * 4 + 4, 0).unwrap();
    }
    for n in (0..300).step_by(3) {
        tree.remove(n * 4).unwrap();
    }
    tree.values_mut().for_each(|value| *value += 1);
    assert_eq!(tree.iter().filter(|&(_, &value)| value == 1).count(), 200);
    let (range, value) = tree.get_mut(7).unwrap();
    assert_eq!(range, 4..8);
    *value = 9;
    assert_eq!(tree.get(4), Some((4..8, &9)));
    assert!(tree.get_mut(1).is_none(), "0..4 was removed");
    assert_eq!(tree.find_mut(1).map(|(range, _)| range), Some(4..8));
}

#[test]
fn height_is_logarithmic_and_overhead_as_documented() {
    const N: u64 = 100_000;
    seeded(4, |rng| {
        let mut shuffled: Vec<u64> = (0..N).collect();
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, rng.index(at + 1));
        }
        let orders = [
            ("ascending", (0..N).collect(), 43.5),
            ("descending", (0..N).rev().collect(), 43.5),
            ("random", shuffled, 35.0),
        ];
        for (name, order, documented) in orders {
            let order: Vec<u64> = order;
            let mut tree = RangeTree::new();
            for n in order {
                tree.insert(n * 2..n * 2 + 1, 0_u64).unwrap();
            }
            tree.validate();
            // log8(n / 2) + 1 levels at most, by the minimal fill.
            let bound = ((N as f64 / 2.0).log2() / 3.0 + 1.0).floor() as usize;
            assert!(tree.height() <= bound, "{name}: height {}", tree.height());
            // Beside the value with its tag: 16 bytes here. One page of slack for each of the three arenas, and for the directories.
            let per_entry = (tree.heap_bytes() - 4 * 4096) as f64 / N as f64 - 16.0;
            println!(
                "{name}: {per_entry:.1} bytes per entry, height {}",
                tree.height()
            );
            assert!(
                (22.0..=documented).contains(&per_entry),
                "{name}: {per_entry}"
            );
        }
    });
}

#[test]
fn small_trees_hold_little_memory() {
    let mut tree = RangeTree::new();
    assert_eq!(tree.heap_bytes(), 0);
    for n in 0..16 {
        tree.insert(n..n + 1, 0_u64).unwrap();
    }
    println!("16 entries: {} bytes", tree.heap_bytes());
    assert!(tree.heap_bytes() < 2048, "{}", tree.heap_bytes());
}

#[test]
fn resize_cannot_pass_a_neighbour() {
    let mut tree = RangeTree::new();
    tree.insert(10..20, 'a').unwrap();
    tree.insert(30..40, 'b').unwrap();
    assert_eq!(tree.resize(10, 50..60), Err(RangeError::Overlap));
    assert_eq!(tree.resize(30, 0..5), Err(RangeError::Overlap));
    assert_eq!(tree.resize(10, 10..31), Err(RangeError::Overlap));
    assert_eq!(tree.resize(11, 11..12), Err(RangeError::NotFound));
    assert_eq!(tree.resize(10, 5..30), Ok(()));
    assert_eq!(
        tree.iter().map(|(r, _)| r).collect::<Vec<_>>(),
        [5..30, 30..40]
    );
}

#[test]
#[should_panic(expected = "alignment is not a power of two")]
fn gap_search_refuses_a_crooked_alignment() {
    _ = RangeTree::<()>::new().lowest_gap(0..100, 1, 3);
}

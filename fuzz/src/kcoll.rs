//! Collections against those of the standard library.

use std::collections::BTreeMap;

use kmm_kcoll::bitmap::BitmapLayout;
use kmm_kcoll::{Idr, RangeTree, SummaryBitmap};

use crate::Tape;

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    match tape.below(3) {
        0 => ranges(&mut tape),
        1 => bits(&mut tape),
        _ => ids(&mut tape),
    }
}

/// Ranges below this, by start.
const WINDOW: usize = 512;

fn ranges(tape: &mut Tape<'_>) {
    let mut tree = RangeTree::new();
    let mut model: BTreeMap<u64, (u64, u8)> = BTreeMap::new();
    while !tape.is_empty() {
        let start = tape.below(WINDOW) as u64;
        let end = start + tape.below(24) as u64;
        let overlaps = |model: &BTreeMap<u64, (u64, u8)>, skip: u64| {
            let mut all = model.iter().filter(|(at, _)| **at != skip);
            all.any(|(at, (to, _))| *at < end && start < *to)
        };
        match tape.below(6) {
            0..3 => {
                let value = tape.byte();
                let fits = start < end && !overlaps(&model, u64::MAX);
                assert_eq!(tree.insert(start..end, value).is_ok(), fits);
                if fits {
                    model.insert(start, (end, value));
                }
            }
            3 => {
                let removed = tree.remove(start).map(|(range, value)| (range.end, value));
                assert_eq!(removed, model.remove(&start));
            }
            4 => {
                let near = model.range(..=start).next_back().map(|(at, _)| *at);
                let at = near.unwrap_or(start);
                // In place means that no neighbour is passed.
                let passes = |other: u64| (at < other) != (start < other);
                let fits = model.contains_key(&at)
                    && start < end
                    && !overlaps(&model, at)
                    && !model.keys().any(|&other| other != at && passes(other));
                assert_eq!(tree.resize(at, start..end).is_ok(), fits);
                if fits {
                    let (_, value) = model.remove(&at).expect("it fits");
                    model.insert(start, (end, value));
                }
            }
            _ => {
                let covers =
                    |addr: u64| model.iter().any(|(at, (to, _))| (*at..*to).contains(&addr));
                let len = end - start + 1;
                let fits = |at: &u64| (*at..*at + len).all(|addr| !covers(addr));
                let whole = 0..WINDOW as u64;
                let mut all = (0..=WINDOW as u64 - len).filter(fits);
                assert_eq!(tree.lowest_gap(whole.clone(), len, 1), all.next());
                let highest = all
                    .next_back()
                    .or_else(|| (0..=WINDOW as u64 - len).find(fits));
                assert_eq!(tree.highest_gap(whole, len, 1), highest);
            }
        }
        tree.validate();
        let same = tree
            .iter()
            .map(|(range, &value)| (range.start, (range.end, value)));
        assert!(same.eq(model.iter().map(|(&at, &entry)| (at, entry))));
        let found = tree.find(start).map(|(range, _)| range.start);
        assert_eq!(
            found,
            model
                .iter()
                .find(|(_, (to, _))| *to > start)
                .map(|(at, _)| *at)
        );
    }
}

fn bits(tape: &mut Tape<'_>) {
    let len = 1 + tape.below(5000);
    let words = BitmapLayout::summary_words_for(len);
    let mut bitmap = SummaryBitmap::new(vec![0_u64; words], len);
    let mut model = vec![false; len];
    while !tape.is_empty() {
        let bit = tape.below(len);
        match tape.below(4) {
            0 | 1 => assert_eq!(bitmap.set(bit), core::mem::replace(&mut model[bit], true)),
            2 => assert_eq!(
                bitmap.clear(bit),
                core::mem::replace(&mut model[bit], false)
            ),
            _ => {
                let next = |want: bool| (bit..len).find(|&at| model[at] == want);
                assert_eq!(bitmap.next_set(bit), next(true));
                assert_eq!(bitmap.next_zero(bit), next(false));
            }
        }
        assert_eq!(bitmap.test(bit), model[bit]);
    }
    bitmap.validate();
    assert_eq!(bitmap.count_set(), model.iter().filter(|set| **set).count());
}

fn ids(tape: &mut Tape<'_>) {
    let first = tape.below(100) as u32;
    let last = first + tape.below(300) as u32;
    let mut idr = Idr::new(first..=last);
    let mut model: BTreeMap<u32, u8> = BTreeMap::new();
    while !tape.is_empty() {
        let value = tape.byte();
        match tape.below(4) {
            0 => {
                let lowest = (first..=last).find(|id| !model.contains_key(id));
                assert_eq!(idr.alloc(value).ok(), lowest);
                model.extend(lowest.map(|id| (id, value)));
            }
            1 => match idr.alloc_cyclic(value) {
                Ok(id) => {
                    assert!((first..=last).contains(&id));
                    assert_eq!(model.insert(id, value), None);
                }
                Err(_) => assert_eq!(model.len(), (last - first) as usize + 1),
            },
            _ => {
                let id = first + tape.below((last - first) as usize + 2) as u32;
                assert_eq!(idr.get(id), model.get(&id));
                assert_eq!(idr.remove(id), model.remove(&id));
            }
        }
        assert_eq!(idr.len(), model.len());
    }
    assert!(idr.iter().map(|(id, &value)| (id, value)).eq(model));
}

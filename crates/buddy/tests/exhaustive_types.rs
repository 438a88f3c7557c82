//! Every state of a zone of eight frames in three pageblocks, with three types, and every operation in each.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::typed::Typed;
use common::{Wish, empty, frames, map_of};
use kmm_buddy::Buddy;
use kmm_frame::{MigrateType, Pfn, PfnRange};

use MigrateType::{Cma, HighAtomic, Isolate, Movable, Reclaimable, Unmovable};

/// Three frames at the end of a pageblock, three at the start of the next, and two of a third.
const GIVEN: [(usize, usize); 3] = [(509, 512), (512, 515), (1024, 1026)];
/// First frame, order, whether it is free.
type Block = (usize, u8, bool);

/// Every way to cut frames into free single ones and allocated blocks.
fn cuts(start: usize, end: usize) -> Vec<Vec<Block>> {
    if start == end {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    let firsts: &[(u8, bool)] = if start % 2 == 0 && start + 1 < end {
        &[(0, true), (0, false), (1, false)]
    } else {
        &[(0, true), (0, false)]
    };
    for &(n, free) in firsts {
        for rest in cuts(start + (1 << n), end) {
            all.push([&[(start, n, free)], rest.as_slice()].concat());
        }
    }
    all
}

/// Brings the zone from whatever state into this one.
fn rebuild(buddy: &mut Buddy, state: &[Block], kinds: [MigrateType; 3]) {
    for (start, _) in GIVEN {
        buddy.set_type(Pfn::new(start), Movable);
    }
    buddy.take_pages(8, Movable, |_| {});
    assert_eq!(buddy.nr_free_pages(), 0);
    for ((start, _), kind) in GIVEN.into_iter().zip(kinds) {
        buddy.set_type(Pfn::new(start), kind);
    }
    for &(pfn, n, _) in state.iter().filter(|block| block.2) {
        buddy.add_free_range(frames(pfn, pfn + (1 << n))).unwrap();
    }
}

fn oracle(buddy: &Buddy, range: PfnRange, state: &[Block], kinds: [MigrateType; 3]) -> Typed {
    let mut oracle = Typed::new(range);
    for ((start, _), kind) in GIVEN.into_iter().zip(kinds) {
        oracle.start_as(start, kind);
    }
    for &(pfn, n, free) in state {
        if free {
            oracle.set(pfn, 1 << n, true);
        } else {
            oracle.held.push((pfn, n));
        }
    }
    oracle.nr_fallbacks = buddy.nr_fallbacks();
    oracle.nr_changes = buddy.nr_type_changes();
    oracle
}

/// Every operation in every state, with these types in the pageblocks; how many operations.
fn every_state(kinds: [MigrateType; 3], wishes: &[Wish]) -> usize {
    let range = frames(509, 1026);
    let mut buddy = empty(range, map_of(range));
    let mut nr_ops = 0;
    let [low, middle, high] = GIVEN.map(|(start, end)| cuts(start, end));
    let mut states = Vec::new();
    for (l, m) in low.iter().flat_map(|l| middle.iter().map(move |m| (l, m))) {
        states.extend(high.iter().map(|h| [l.as_slice(), m, h].concat()));
    }
    for nr in 0..27 {
        let kinds = [nr / 9, nr / 3 % 3, nr % 3].map(|nr: usize| kinds[nr]);
        for state in &states {
            rebuild(&mut buddy, state, kinds);
            oracle(&buddy, range, state, kinds).compare(&buddy);
            buddy.validate().unwrap();
            let mut check = |op: &mut dyn FnMut(&mut Buddy, &mut Typed) -> bool| {
                let mut model = oracle(&buddy, range, state, kinds);
                nr_ops += 1;
                if op(&mut buddy, &mut model) {
                    model.compare(&buddy);
                    rebuild(&mut buddy, state, kinds);
                }
            };
            for &wish in wishes {
                for n in 0..=2 {
                    check(&mut |buddy, model| model.take(buddy, n, wish).is_some());
                }
                check(&mut |buddy, model| model.take_pages(buddy, 3, wish) > 0);
            }
            for nr in 0..state.iter().filter(|block| !block.2).count() {
                check(&mut |buddy, model| {
                    model.put(buddy, nr);
                    true
                });
            }
            for (start, _) in GIVEN {
                check(&mut |buddy, model| {
                    model.set_type(buddy, start, Reclaimable);
                    true
                });
            }
        }
    }
    nr_ops
}

#[test]
fn every_state_of_eight_frames_with_the_types_that_fall_back() {
    let kinds = [Unmovable, Movable, Reclaimable];
    let whole_only = Wish {
        whole_only: true,
        ..Wish::of(Unmovable)
    };
    let near = Wish {
        end: 512,
        ..Wish::of(Movable)
    };
    let wishes = [kinds.map(Wish::of).as_slice(), &[whole_only, near]].concat();
    let nr_ops = every_state(kinds, &wishes);
    assert!(nr_ops > 200_000, "{nr_ops}");
}

#[test]
fn every_state_of_eight_frames_with_the_types_that_are_kept_back() {
    let with_cma = Wish {
        cma: true,
        ..Wish::of(Movable)
    };
    let wishes = [with_cma, Wish::of(HighAtomic), Wish::of(Isolate)];
    let nr_ops = every_state([HighAtomic, Cma, Isolate], &wishes);
    assert!(nr_ops > 200_000, "{nr_ops}");
}

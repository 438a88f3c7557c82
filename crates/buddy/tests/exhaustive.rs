//! Every state of a tiny zone, and every operation in each.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::collections::{HashSet, VecDeque};

use common::{Oracle, empty, frames, full, map_of, order, sorted};
use kmm_buddy::{Buddy, FreeBlock};
use kmm_frame::{MigrateType, Order, Pfn};

/// A block of a state: first frame, order, whether it is free.
type Block = (usize, u8, bool);

/// Every way to cut the block `pfn` of order `n` into free and allocated blocks, merged as far as it goes.
fn states(pfn: usize, n: u8) -> Vec<Vec<Block>> {
    let mut all = vec![vec![(pfn, n, true)], vec![(pfn, n, false)]];
    if n > 0 {
        let low = states(pfn, n - 1);
        let high = states(pfn + (1 << (n - 1)), n - 1);
        let whole = |half: &[Block]| matches!(half, [(_, order, true)] if *order == n - 1);
        for l in &low {
            for h in high.iter().filter(|h| !(whole(l) && whole(h))) {
                all.push([l.as_slice(), h].concat());
            }
        }
    }
    all
}

/// Brings the zone from whatever state into this one.
fn rebuild(buddy: &mut Buddy, state: &[Block]) {
    buddy.take_pages(16, MigrateType::Movable, |_| {});
    for &(pfn, n, _) in state.iter().filter(|block| block.2) {
        buddy.add_free_range(frames(pfn, pfn + (1 << n))).unwrap();
    }
}

/// The free frames as bits, merged by trying every aligned block, largest first: an oracle for 16 frames.
fn merged(free: u32) -> Vec<(usize, u8)> {
    let mut found = Vec::with_capacity(8);
    let mut pfn = 0;
    while pfn < 16 {
        let fits = |n: &u8| pfn % (1 << n) == 0 && free >> pfn & bits(0, *n) == bits(0, *n);
        match (0..=4).rev().find(fits) {
            Some(n) => {
                found.push((pfn, n));
                pfn += 1 << n;
            }
            None => pfn += 1,
        }
    }
    found
}

fn bits(pfn: usize, n: u8) -> u32 {
    ((1 << (1 << n)) - 1) << pfn
}

#[test]
fn every_state_of_sixteen_frames() {
    let mut buddy = empty(frames(0, 16), map_of(frames(0, 16)));
    let states = states(0, 4);
    // T(0) = 2, T(n) = T(n-1)^2 + 1.
    assert_eq!(states.len(), 458_330);
    let mut nr_ops = 0;
    for state in &states {
        let free: u32 = state.iter().filter(|b| b.2).map(|b| bits(b.0, b.1)).sum();
        rebuild(&mut buddy, state);
        let blocks = merged(free);
        assert_eq!(sorted(buddy.free_blocks()), blocks);
        buddy.validate().unwrap();
        for o in (0..=4).map(order) {
            let fits = blocks.iter().filter(|b| b.1 >= o.get());
            let smallest = fits.map(|b| b.1).min();
            match (buddy.take(o, MigrateType::Movable), smallest) {
                (Ok(pfn), Some(smallest)) => {
                    let pfn = pfn.index();
                    let lowest = blocks.iter().find(|b| b.1 == smallest);
                    assert_eq!(Some(&(pfn, smallest)), lowest, "{state:?} take {o}");
                    let left = free & !bits(pfn, o.get());
                    assert_eq!(sorted(buddy.free_blocks()), merged(left), "{state:?}");
                    assert_eq!(buddy.nr_free_pages(), left.count_ones() as usize);
                    buddy.put(Pfn::new(pfn), o).unwrap();
                    assert_eq!(sorted(buddy.free_blocks()), blocks, "{state:?}");
                }
                (taken, smallest) => assert!(taken.is_err() && smallest.is_none(), "{state:?}"),
            }
            nr_ops += 1;
        }
        // As many single pages as there are, and less: first those that are blocks of their own.
        let mut in_order = blocks.clone();
        in_order.sort_unstable_by_key(|b| (b.1 > 0, b.0));
        let pages = in_order.iter().flat_map(|b| b.0..b.0 + (1 << b.1));
        let pages: Vec<usize> = pages.collect();
        let most = [pages.len() / 2, 17][nr_ops % 2];
        let mut taken = Vec::with_capacity(16);
        buddy.take_pages(most, MigrateType::Movable, |pfn| taken.push(pfn.index()));
        assert_eq!(taken, pages[..most.min(pages.len())], "{state:?}");
        let left = taken.iter().fold(free, |free, pfn| free & !(1 << pfn));
        assert_eq!(sorted(buddy.free_blocks()), merged(left), "{state:?}");
        rebuild(&mut buddy, state);
        nr_ops += 1;
        for &(pfn, n, _) in state.iter().filter(|block| !block.2) {
            buddy.put(Pfn::new(pfn), order(n)).unwrap();
            let more = free | bits(pfn, n);
            assert_eq!(
                sorted(buddy.free_blocks()),
                merged(more),
                "{state:?} put {pfn}"
            );
            assert_eq!(buddy.nr_free_pages(), more.count_ones() as usize);
            rebuild(&mut buddy, state);
            nr_ops += 1;
        }
    }
    assert!(nr_ops > 4_000_000, "{nr_ops}");
}

#[derive(Clone, Copy)]
enum Op {
    Take(Order),
    Put(usize, u8),
}

/// The free blocks, and what is held: everything that decides what happens next.
type Snapshot = (Vec<FreeBlock>, Vec<(usize, u8)>);

fn replay(path: &[Op]) -> (Buddy, Oracle) {
    let range = frames(0, 8);
    let mut buddy = full(range);
    let mut oracle = Oracle::new(range);
    oracle.set(0, 8, true);
    for op in path {
        match *op {
            Op::Take(o) => {
                oracle.take(&mut buddy, o);
            }
            Op::Put(pfn, n) => {
                let nr = oracle.held.iter().position(|b| *b == (pfn, n)).unwrap();
                oracle.put(&mut buddy, nr);
            }
        }
    }
    oracle.compare(&buddy);
    buddy.validate().unwrap();
    (buddy, oracle)
}

#[test]
fn every_reachable_state_of_eight_frames() {
    let mut seen: HashSet<Snapshot> = HashSet::new();
    let mut shapes = HashSet::new();
    let mut queue: VecDeque<Vec<Op>> = VecDeque::from([Vec::new()]);
    while let Some(path) = queue.pop_front() {
        let (buddy, oracle) = replay(&path);
        let mut held = oracle.held.clone();
        held.sort_unstable();
        shapes.insert((sorted(buddy.free_blocks()), held.clone()));
        if !seen.insert((buddy.free_blocks().collect(), held.clone())) {
            continue;
        }
        let takes = (0..=3)
            .map(order)
            .filter(|o| buddy.has_free(*o, MigrateType::Movable));
        let puts = held.iter().map(|&(pfn, n)| Op::Put(pfn, n));
        for op in takes.map(Op::Take).chain(puts) {
            queue.push_back([path.as_slice(), &[op]].concat());
        }
    }
    // No canonical state more than T(3) of `every_state_of_sixteen_frames`; and nothing else decides.
    assert_eq!(shapes.len(), seen.len());
    assert!((1..=677).contains(&seen.len()), "{}", seen.len());
}

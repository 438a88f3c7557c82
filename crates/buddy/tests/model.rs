//! Random operations against the oracle, compared after each.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{Oracle, Random, empty, frames, full, map_of, order, sorted};
use kmm_buddy::{Buddy, FreeError};
use kmm_frame::{MAX_ORDER, MigrateType, PageFlags, Pfn, PfnRange};

fn run(random: &mut Random, range: PfnRange, nr_ops: usize, most: u8) {
    let mut buddy = full(range);
    let mut oracle = Oracle::new(range);
    oracle.set(range.start().index(), range.nr_pages(), true);
    oracle.compare(&buddy);
    let mut fill = 50;
    for op in 0..nr_ops {
        if op % 500 == 0 {
            fill = [20, 50, 80][random.below(3)];
        }
        match random.below(100) {
            0..5 => wrong_free(random, &mut buddy, &oracle),
            9..12 => {
                let most = 2 << random.below(8);
                oracle.put_pages(&mut buddy, random.below(most));
            }
            5..9 => {
                let most = 2 << random.below(10);
                oracle.take_pages(&mut buddy, random.below(most));
            }
            12.. if random.below(100) < fill => {
                oracle.take(&mut buddy, random.order(most));
            }
            _ if oracle.held.is_empty() => {}
            _ => {
                let nr = random.below(oracle.held.len());
                oracle.put(&mut buddy, nr);
            }
        }
        oracle.compare(&buddy);
        if op % 64 == 0 {
            buddy.validate().unwrap();
        }
    }
    buddy.validate().unwrap();
}

/// A free that must be refused; the comparison that follows shows that nothing changed.
fn wrong_free(random: &mut Random, buddy: &mut Buddy, oracle: &Oracle) {
    let (start, len) = (oracle.range.start().index(), oracle.range.nr_pages());
    let pfn = start + random.below(len);
    let o = random.order(4);
    let aligned = Pfn::new(pfn).align_down(o);
    let inside = oracle
        .range
        .contains_range(PfnRange::with_len(aligned, o.nr_pages()));
    match random.below(3) {
        0 if inside && (0..o.nr_pages()).any(|i| oracle.is_free(aligned.index() + i)) => {
            assert_eq!(buddy.put(aligned, o), Err(FreeError::AlreadyFree));
        }
        1 if !Pfn::new(pfn).is_aligned(o) => {
            assert_eq!(buddy.put(Pfn::new(pfn), o), Err(FreeError::NotAligned));
        }
        2 => {
            let beyond = oracle.range.end().align_up(o) + (random.below(4) << o.get());
            assert_eq!(buddy.put(beyond, o), Err(FreeError::OutsideZone));
        }
        _ => {}
    }
}

#[test]
fn random_operations_match_the_oracle() {
    let mut random = Random::new("random_operations_match_the_oracle", 0x17);
    for (start, end) in [(0, 64), (1, 100), (0x3f7, 0x4a9), (1024, 1152), (7, 8)] {
        run(&mut random, frames(start, end), 50_000, 7);
    }
}

#[test]
fn random_operations_at_the_largest_orders_match_the_oracle() {
    let mut random = Random::new("random_operations_at_the_largest_orders", 0x18);
    for (start, end) in [(0, 4096), (1021, 5133)] {
        run(&mut random, frames(start, end), 3_000, MAX_ORDER.get());
    }
}

#[test]
fn emptied_and_refilled_it_is_as_it_was() {
    let mut random = Random::new("emptied_and_refilled_it_is_as_it_was", 0x19);
    for (start, end) in [(0, 2048), (3, 1999), (0x1ff, 0x1203)] {
        let mut buddy = full(frames(start, end));
        let before = sorted(buddy.free_blocks());
        for most in [0, 3, 10] {
            let mut held = Vec::new();
            let mut wanted = order(most);
            loop {
                match (buddy.take(wanted, MigrateType::Movable), wanted.down()) {
                    (Ok(pfn), _) => held.push((pfn, wanted)),
                    (Err(_), Some(smaller)) => wanted = smaller,
                    (Err(_), None) => break,
                }
            }
            assert_eq!(buddy.nr_free_pages(), 0);
            assert_eq!(buddy.free_blocks().count(), 0);
            while !held.is_empty() {
                let (pfn, o) = held.swap_remove(random.below(held.len()));
                buddy.put(pfn, o).unwrap();
            }
            assert_eq!(sorted(buddy.free_blocks()), before);
            buddy.validate().unwrap();
        }
    }
}

#[test]
fn ranges_with_holes_and_reserved_frames_match_the_oracle() {
    let mut random = Random::new("ranges_with_holes_and_reserved_frames", 0x1a);
    for _ in 0..200 {
        let start = random.below(40);
        let range = frames(start, start + 1 + random.below(300));
        let map = map_of(range);
        let mut buddy = empty(range, map);
        let mut oracle = Oracle::new(range);
        for _ in 0..20 {
            let a = range.start().index() + random.below(range.nr_pages());
            let b = a + random.below(range.end().index() - a + 1);
            if random.below(4) == 0 && a < b && !oracle.is_free(a) {
                map.page(Pfn::new(a)).set(PageFlags::RESERVED);
            }
            let is_reserved = |i| map.page(Pfn::new(i)).test(PageFlags::RESERVED);
            let reserved = cfg!(debug_assertions) && (a..b).any(is_reserved);
            let free = (a..b).any(|i| oracle.is_free(i));
            match buddy.add_free_range(frames(a, b)) {
                Ok(()) => {
                    assert!(!reserved && !free, "{a}..{b}");
                    oracle.set(a, b - a, true);
                }
                Err(FreeError::Reserved) => assert!(reserved),
                Err(why) => {
                    assert_eq!(why, FreeError::AlreadyFree);
                    assert!(free);
                }
            }
            oracle.compare(&buddy);
            buddy.validate().unwrap();
        }
    }
}

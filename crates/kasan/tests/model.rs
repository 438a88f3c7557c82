//! The shadow says of each byte what an oracle says that has a byte for each byte.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::{BTreeMap, VecDeque};

use common::{START, access, kinds, rig, shadow};
use kmm_frame::VirtAddr;
use kmm_host::{Freed, ObjectSlot, Sanitizer};
use kmm_kasan::{AccessKind, BugKind, Poison, Shadow};
use kmm_sim::{Rng, seeded};

const SIZE: usize = 4096;

/// May this byte be touched?
type Oracle = [bool; SIZE];

fn first_bad(oracle: &Oracle, offset: usize, size: usize) -> Option<usize> {
    (offset..offset + size).find(|&at| !oracle.get(at).copied().unwrap_or(false))
}

#[test]
fn every_byte_is_as_the_oracle_says() {
    seeded(0x8a5a, |rng| {
        let shadow = shadow(SIZE);
        let mut oracle: Oracle = [true; SIZE];
        for _ in 0..200_000 {
            let offset = rng.index(SIZE);
            let start = offset & !7;
            let size = rng.index(120).min(SIZE - start);
            match rng.below(8) {
                0 => {
                    shadow.poison(START + start as u64, size, Poison::SLAB_REDZONE);
                    oracle[start..start + size.next_multiple_of(8)].fill(false);
                }
                1 => {
                    shadow.unpoison(START + start as u64, size);
                    oracle[start..start + size.next_multiple_of(8)].fill(false);
                    oracle[start..start + size].fill(true);
                }
                _ => {
                    // Some of them reach out of the shadow.
                    let size = rng.index(200);
                    let bad = shadow.first_bad(START + offset as u64, size);
                    let expected = first_bad(&oracle, offset, size).map(|at| START + at as u64);
                    assert_eq!(bad, expected, "{size} bytes at {offset}");
                }
            }
        }
    });
}

/// An allocator of slots of 32 to 256 bytes, which hands out what it is told that it may.
struct Slots {
    free: Vec<ObjectSlot>,
    live: BTreeMap<u64, (ObjectSlot, usize)>,
    waiting: VecDeque<ObjectSlot>,
}

impl Slots {
    fn new() -> Self {
        let mut free = Vec::new();
        let mut at = 0;
        for size_bytes in [32, 64, 96, 256].into_iter().cycle() {
            if at + size_bytes > SIZE {
                break;
            }
            free.push(ObjectSlot {
                start: START + at as u64,
                size_bytes,
                align: 8,
            });
            at += size_bytes;
        }
        Self {
            free,
            live: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    fn any_live(&self, rng: &mut Rng) -> Option<(ObjectSlot, usize)> {
        let nr = rng.index(self.live.len().max(1));
        self.live.values().nth(nr).copied()
    }
}

fn offset_of(addr: VirtAddr) -> usize {
    (addr.as_u64() - START.as_u64()) as usize
}

#[test]
fn objects_are_usable_as_far_as_they_were_asked_for_and_not_after_they_were_freed() {
    const QUARANTINE_BYTES: usize = 700;
    const NR_WAITING: usize = 9;
    seeded(0x0b7, |rng| {
        let kasan = rig(SIZE, 64, NR_WAITING, QUARANTINE_BYTES);
        let mut oracle: Oracle = [false; SIZE];
        kasan.slab_taken(START, SIZE);
        let mut slots = Slots::new();
        for _ in 0..60_000 {
            match rng.below(6) {
                0 | 1 if !slots.free.is_empty() => {
                    let slot = slots.free.swap_remove(rng.index(slots.free.len()));
                    let requested = 1 + rng.index(slot.size_bytes);
                    kasan.object_taken(slot, requested, "model");
                    let start = offset_of(slot.start);
                    oracle[start..start + requested].fill(true);
                    slots.live.insert(slot.start.as_u64(), (slot, requested));
                }
                2 => {
                    let Some((slot, _)) = slots.any_live(rng) else {
                        continue;
                    };
                    let mut gone = Vec::new();
                    let freed = kasan.object_given(slot.start, Some(slot), &mut |gone_slot| {
                        gone.push(gone_slot);
                    });
                    assert_eq!(freed, Freed::Later, "there is room for each one");
                    slots.live.remove(&slot.start.as_u64());
                    let start = offset_of(slot.start);
                    oracle[start..start + slot.size_bytes].fill(false);
                    slots.waiting.push_back(slot);
                    // First in, first out, and no longer than there is room.
                    for slot in gone {
                        assert_eq!(slots.waiting.pop_front(), Some(slot));
                        slots.free.push(slot);
                    }
                    let bytes: usize = slots.waiting.iter().map(|slot| slot.size_bytes).sum();
                    assert_eq!(kasan.quarantine_bytes(), bytes);
                    assert!(bytes <= QUARANTINE_BYTES && slots.waiting.len() < NR_WAITING);
                }
                3 => {
                    // Freed again, or in the middle.
                    let (at, slot, kind) =
                        if let (true, Some(slot)) = (rng.one_in(2), slots.waiting.iter().last()) {
                            (slot.start, *slot, BugKind::DoubleFree)
                        } else if let Some((slot, _)) = slots.any_live(rng) {
                            (slot.start + 8, slot, BugKind::InvalidFree)
                        } else {
                            continue;
                        };
                    let freed = kasan.object_given(at, Some(slot), &mut |_| panic!("nothing goes"));
                    assert_eq!(freed, Freed::Refused);
                    assert_eq!(kinds(), [kind]);
                }
                _ => {
                    let (offset, size) = (rng.index(SIZE), rng.index(40));
                    let touched = access(START + offset as u64, size, AccessKind::Read);
                    let is_fine = first_bad(&oracle, offset, size).is_none();
                    assert_eq!(kasan.check(touched, None), is_fine, "{size} at {offset}");
                    assert_eq!(kinds().is_empty(), is_fine);
                }
            }
        }
        let mut left = Vec::new();
        kasan.drain(&mut |slot| left.push(slot));
        assert_eq!(left, Vec::from(slots.waiting));
        assert_eq!(kasan.quarantine_bytes(), 0);
    });
}

#[test]
fn without_room_to_wait_objects_go_at_once() {
    let kasan = rig(SIZE, 0, 0, 1 << 20);
    let slot = ObjectSlot {
        start: START,
        size_bytes: 64,
        align: 8,
    };
    kasan.object_taken(slot, 64, "none waits");
    let freed = kasan.object_given(START, Some(slot), &mut |_| panic!("none waited"));
    assert_eq!(freed, Freed::Now);
    let again = kasan.object_given(START, Some(slot), &mut |_| panic!("none waited"));
    assert_eq!(
        (again, kinds()),
        (Freed::Refused, vec![BugKind::DoubleFree])
    );
}

#[test]
fn two_who_free_the_same_object_at_once_are_told_apart() {
    let kasan = rig(SIZE, 8, 8, 1 << 20);
    let slot = ObjectSlot {
        start: START,
        size_bytes: 64,
        align: 8,
    };
    for _ in 0..500 {
        kasan.object_taken(slot, 64, "raced for");
        let free = || kasan.object_given(START, Some(slot), &mut |_| {}) == Freed::Refused;
        let refused = std::thread::scope(|scope| {
            let other = scope.spawn(free);
            u32::from(free()) + u32::from(other.join().unwrap())
        });
        assert_eq!(refused, 1);
    }
}

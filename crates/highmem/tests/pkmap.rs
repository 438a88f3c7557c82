//! The pool against a model, with a TLB that remembers.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "tests of small numbers"
)]

mod common;

use std::collections::BTreeMap;

use common::{CopyWindows, LOW_PAGES, OneThread, SpinLock, machine, ram};
use kmm_frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm_highmem::{Kmap, Pkmap, PkmapError, PkmapTable};
use kmm_host::{PhysMap, Sleep};

/// A page table and what the CPUs remember of it.
#[derive(Default)]
struct Table {
    entries: BTreeMap<usize, Pfn>,
    tlb: BTreeMap<usize, Pfn>,
    nr_flushes: usize,
}

impl PkmapTable for Table {
    fn set(&mut self, slot: usize, pfn: Pfn) {
        assert_eq!(self.tlb.get(&slot), None, "a CPU remembers slot {slot}");
        assert_eq!(self.entries.insert(slot, pfn), None, "slot {slot} in use");
    }

    fn clear(&mut self, slot: usize) {
        assert!(self.entries.remove(&slot).is_some(), "slot {slot} is empty");
    }

    fn flush(&mut self) {
        self.tlb.clear();
        self.nr_flushes += 1;
    }
}

impl Table {
    /// What a CPU finds at a slot's address.
    fn access(&mut self, slot: usize) -> Option<Pfn> {
        if let Some(&pfn) = self.tlb.get(&slot) {
            return Some(pfn);
        }
        let pfn = *self.entries.get(&slot)?;
        self.tlb.insert(slot, pfn);
        Some(pfn)
    }
}

/// INV-3, INV-4.
fn run<const N: usize>(seed: u64, nr_frames: u64, nr_steps: usize) {
    let mut random = seed.max(1);
    let mut below = |end: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % end
    };
    let (mut pool, mut table) = (Pkmap::<N>::new(), Table::default());
    let mut model: BTreeMap<Pfn, u32> = BTreeMap::new();
    let mut nr_full = 0;
    for _ in 0..nr_steps {
        // Frames that share buckets, too.
        let frame = below(nr_frames);
        let pfn = Pfn::new((frame / 3 + frame % 3 * 128) as usize);
        if below(2) == 0 {
            let full = model.len() == N && !model.contains_key(&pfn);
            match pool.map(pfn, &mut table) {
                Ok(slot) => {
                    assert!(!full);
                    *model.entry(pfn).or_default() += 1;
                    assert_eq!(table.access(slot), Some(pfn));
                }
                Err(error) => {
                    assert_eq!((error, full), (PkmapError::Full, true));
                    nr_full += 1;
                }
            }
        } else {
            let users = model.get(&pfn).copied().unwrap_or(0);
            match pool.unmap(pfn) {
                Ok(last) => {
                    assert_eq!(last, users == 1);
                    if last {
                        model.remove(&pfn);
                    } else {
                        model.insert(pfn, users - 1);
                    }
                }
                Err(error) => assert_eq!((error, users), (PkmapError::NotMapped, 0)),
            }
        }
        for (&pfn, &users) in &model {
            assert_eq!(pool.users(pfn), users);
            let slot = pool.slot(pfn).unwrap();
            assert_eq!(table.access(slot), Some(pfn));
        }
        assert_eq!(pool.users(pfn), model.get(&pfn).copied().unwrap_or(0));
    }
    assert!(nr_full > 0 && table.nr_flushes > 0);
}

#[test]
fn random_mappings_match_the_model() {
    let seed = std::env::var("KMM_SEED").map_or(0x4b6d, |seed| seed.parse().unwrap());
    println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-highmem --test pkmap");
    run::<1>(seed, 3, 2000);
    run::<4>(seed, 12, 10_000);
    run::<32>(seed, 90, 20_000);
}

#[test]
fn a_mapping_outlives_its_users_until_the_search_wraps() {
    let (mut pool, mut table) = (Pkmap::<4>::new(), Table::default());
    let frame = |n: usize| Pfn::new(100 + n);
    let first = pool.map(frame(0), &mut table).unwrap();
    assert_eq!(pool.unmap(frame(0)), Ok(true));
    // Count 1: the entry is still there, and used again without a flush.
    assert_eq!(
        (pool.slot(frame(0)), pool.users(frame(0))),
        (Some(first), 0)
    );
    assert_eq!(pool.map(frame(0), &mut table), Ok(first));
    assert_eq!(pool.unmap(frame(0)), Ok(true));
    assert_eq!(table.nr_flushes, 0);
    // The others fill up; the last of them comes round and takes the slot after a flush.
    for n in 1..4 {
        pool.map(frame(n), &mut table).unwrap();
    }
    assert_eq!(table.nr_flushes, 1);
    pool.map(frame(4), &mut table).unwrap();
    assert_eq!(pool.slot(frame(0)), None);
    assert_eq!(pool.map(frame(0), &mut table), Err(PkmapError::Full));
    assert_eq!(pool.unmap(frame(0)), Err(PkmapError::NotMapped));
    assert_eq!(pool.unmap(frame(2)), Ok(true), "somebody who waits may try");
    pool.map(frame(0), &mut table).unwrap();
}

#[test]
fn kmap_is_the_permanent_address_where_there_is_one() {
    let mut sleep = Sleep::grant();
    let base = VirtAddr::new(0xff80_0000);

    // 64-bit: nothing but the direct map.
    let ram = ram();
    let kmap: Kmap<_, _, SpinLock, 1> = Kmap::new(ram.0, base, Table::default());
    let pfn = Pfn::new(LOW_PAGES + 3);
    let address = kmap.kmap(&mut sleep, pfn).unwrap();
    assert_eq!(Some(address), ram.0.direct(pfn));
    assert_eq!(kmap.page_address(pfn), Some(address));
    assert_eq!(kmap.kunmap(pfn), Ok(false));
    assert_eq!(
        kmap.kmap(&mut sleep, Pfn::new(1 << 30)),
        Err(PkmapError::NotMapped)
    );

    // 32-bit: the pool, for high frames only.
    let cpus = OneThread::default();
    let windows = CopyWindows::new(ram);
    let map = machine(ram, &windows, &cpus);
    let kmap: Kmap<_, _, SpinLock, 2> = Kmap::new(&map, base, Table::default());
    let low = Pfn::new(1);
    assert_eq!(kmap.kmap(&mut sleep, low), Ok(map.direct(low).unwrap()));
    assert_eq!(kmap.kunmap(low), Ok(false));
    assert_eq!(kmap.page_address(pfn), None);
    let mut seen = Vec::new();
    for n in 0..2 {
        let address = kmap.kmap(&mut sleep, pfn + n).unwrap();
        assert_eq!(
            kmap.kmap(&mut sleep, pfn + n),
            Ok(address),
            "the same again"
        );
        assert_eq!(kmap.page_address(pfn + n), Some(address));
        seen.push(address.addr().get());
    }
    seen.sort_unstable();
    assert_eq!(seen, [0xff80_0000, 0xff80_0000 + PAGE_SIZE]);
    assert_eq!(kmap.kmap(&mut sleep, pfn + 2), Err(PkmapError::Full));
    assert_eq!((kmap.kunmap(pfn), kmap.kunmap(pfn)), (Ok(false), Ok(true)));
    assert_eq!(kmap.kunmap(pfn), Err(PkmapError::NotMapped));
    assert!(kmap.kmap(&mut sleep, pfn + 2).is_ok());
}

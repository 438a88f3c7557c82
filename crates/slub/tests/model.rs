//! Random requests against a list of what is live.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use std::collections::BTreeMap;

use common::{Rig, bugs, config, fast_config, fill, holds, is_zero, kfree, rig, smp_rig};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_sim::{Rng, seeded};
use kmm_slub::{KMALLOC_MAX_SIZE, Kmem, SlubConfig, ZERO_SIZE_PTR};

/// What is live, by address: how much was asked for, how much there is, what it holds.
#[derive(Default)]
struct Oracle {
    live: BTreeMap<usize, Live>,
}

#[derive(Clone, Copy)]
struct Live {
    ptr: NonNull<u8>,
    size: usize,
    room: usize,
    id: u64,
}

impl Oracle {
    /// Checks that new memory overlaps nothing, fills it, and remembers it.
    fn add(&mut self, rig: &Rig, ptr: NonNull<u8>, size: usize, id: u64) {
        let room = rig.slub.ksize(ptr);
        assert!(room >= size, "{room} bytes for {size}");
        let start = ptr.addr().get();
        if let Some((below, live)) = self.live.range(..start + room).next_back() {
            assert!(
                below + live.room <= start,
                "{start:#x} overlaps {below:#x} with {} bytes",
                live.room
            );
        }
        fill(ptr, size, id);
        let live = Live {
            ptr,
            size,
            room,
            id,
        };
        self.live.insert(start, live);
    }

    fn take(&mut self, rng: &mut Rng) -> Option<Live> {
        let nth = rng.index(self.live.len().max(1));
        let (&start, live) = self.live.iter().nth(nth)?;
        assert!(holds(live.ptr, live.size, live.id), "contents changed");
        self.live.remove(&start)
    }

    fn nr_large_pages(&self) -> usize {
        let large = self.live.values().filter(|live| live.room > 8192);
        large.map(|live| live.room / PAGE_SIZE).sum()
    }

    fn nr_small(&self) -> usize {
        self.live.values().filter(|live| live.room <= 8192).count()
    }
}

fn size(rng: &mut Rng) -> usize {
    match rng.below(100) {
        0 => rng.range(8193..200_000) as usize,
        1..=4 => rng.range(1..8193) as usize,
        _ => {
            let bits = rng.range(3..13);
            rng.below(1 << bits) as usize + 1
        }
    }
}

/// One request; `None` when pages failed. Whatever was live stays as it was then.
fn step(rig: &Rig, oracle: &mut Oracle, rng: &mut Rng, id: u64) -> Option<()> {
    let size = size(rng);
    match rng.below(10) {
        0..=2 => {
            let ptr = rig.slub.kmalloc(size, Gfp::KERNEL).ok()?;
            oracle.add(rig, ptr, size, id);
        }
        3 => {
            let ptr = rig.slub.kzalloc(size, Gfp::ATOMIC).ok()?;
            assert!(is_zero(ptr, size));
            oracle.add(rig, ptr, size, id);
        }
        4 => {
            let n = rng.range(1..20) as usize;
            let ptr = rig.slub.kcalloc(n, size / n + 1, Gfp::KERNEL).ok()?;
            assert!(is_zero(ptr, n * (size / n + 1)));
            oracle.add(rig, ptr, size, id);
        }
        5 => {
            let align = 1 << rng.below(13);
            let ptr = rig.slub.kmalloc_aligned(size, align, Gfp::DMA).ok()?;
            assert_eq!(ptr.addr().get() % align, 0);
            oracle.add(rig, ptr, size, id);
        }
        6 => {
            let old = oracle.take(rng)?;
            // SAFETY: the oracle gave it up; nobody else has it.
            match unsafe { rig.slub.krealloc(Some(old.ptr), size, Gfp::KERNEL) } {
                Ok(new) => {
                    assert!(holds(new, old.size.min(size), old.id), "lost in the move");
                    oracle.add(rig, new, size, id);
                }
                Err(_) => {
                    assert!(holds(old.ptr, old.size, old.id), "lost in a failed move");
                    oracle.live.insert(old.ptr.addr().get(), old);
                    return None;
                }
            }
        }
        _ => {
            if let Some(old) = oracle.take(rng) {
                kfree(rig.slub, old.ptr);
            }
        }
    }
    Some(())
}

/// Random requests on random CPUs.
fn run(seed: u64, nr_ops: u64, per_mille: u64, nr_cpus: usize, config: SlubConfig) {
    seeded(seed, |rng| {
        let rig = smp_rig(nr_cpus, config);
        rig.source.set_per_mille(per_mille);
        let mut oracle = Oracle::default();
        let mut nr_refused = 0;
        for id in 0..nr_ops {
            let before = (rig.outstanding(), oracle.live.len());
            let cpu = rng.index(nr_cpus) as u32;
            if rig.on(cpu, || step(&rig, &mut oracle, rng, id)).is_none() {
                nr_refused += 1;
                assert_eq!(oracle.live.len(), before.1);
                assert!(
                    rig.outstanding() <= before.0,
                    "refused, but pages were taken"
                );
            }
            if id % 32 == 0 {
                check(&rig, &oracle);
            }
            if id % 512 == 0 {
                rig.slub.validate().unwrap();
            }
            if oracle.live.len() > 1000 || rng.one_in(5000) {
                while oracle.live.len() > 200 {
                    let old = oracle.take(rng).unwrap();
                    kfree(rig.slub, old.ptr);
                }
                rig.on(cpu, || rig.slub.shrink_all());
                check(&rig, &oracle);
            }
        }
        assert_eq!(per_mille > 0, nr_refused > 5, "{nr_refused} were refused");
        while let Some(old) = oracle.take(rng) {
            let cpu = rng.index(nr_cpus) as u32;
            rig.on(cpu, || kfree(rig.slub, old.ptr));
        }
        assert_eq!(rig.slub.check_objects(), 0);
        rig.assert_clean();
    });
}

fn check(rig: &Rig, oracle: &Oracle) {
    let infos = rig.slub.cache_infos();
    let users = infos.filter(|info| !info.name.starts_with("kmem_cache"));
    let active: usize = users.map(|info| info.active_objs).sum();
    assert_eq!(active, oracle.nr_small());
    let pages = rig.slub.nr_pages();
    assert_eq!(pages.large, oracle.nr_large_pages());
    assert_eq!(
        pages.total(),
        rig.outstanding(),
        "every page is counted once"
    );
}

#[test]
fn random_operations_match_the_oracle() {
    run(0x51ab, 60_000, 0, 3, fast_config());
}

#[test]
fn random_operations_with_failing_pages_match_the_oracle() {
    run(0xfa11, 60_000, 300, 3, fast_config());
}

#[test]
fn random_operations_on_checked_caches_match_the_oracle() {
    run(0x51ab, 40_000, 0, 2, config());
}

#[test]
fn random_operations_on_checked_caches_with_failing_pages_match_the_oracle() {
    run(0xfa11, 40_000, 300, 2, config());
}

/// Nobody does anything wrong, so nothing is reported, whatever is looked for.
#[test]
fn random_operations_on_debugged_caches_match_the_oracle() {
    let settings = [
        "F",
        "Z",
        "P",
        "U",
        "FZ",
        "ZP",
        "FZPU",
        "FZPU,kmalloc-*",
        "FZPU,kmalloc-64,kmalloc-1k",
        "FZPU;-,kmem_cache*",
        "FZPUQ",
        "Q",
    ];
    for (debug, nr) in settings.into_iter().zip(0..) {
        let per_mille = 300 * (nr % 2);
        let config = SlubConfig {
            debug,
            ..fast_config()
        };
        run(0xdeb0 + nr, 11_000, per_mille, 2, config);
    }
}

/// For each request for pages that a script makes: let that one fail, and look at what is left.
#[test]
fn each_page_request_may_fail() {
    let script = [8, 8192, 9000, 100, 4096, 1 << 20, 2048, KMALLOC_MAX_SIZE];
    for failing in 0..script.len() {
        let rig = rig();
        let mut live = Vec::new();
        for (nth, &size) in script.iter().enumerate() {
            let before = rig.outstanding();
            let fails = nth == failing;
            rig.source.set_per_mille(if fails { 1000 } else { 0 });
            let got = rig.slub.kmalloc(size, Gfp::KERNEL);
            assert_eq!(got.is_err(), fails, "{size} bytes");
            if fails {
                assert_eq!(rig.outstanding(), before);
                rig.slub.validate().unwrap();
            }
            live.extend(got);
        }
        for ptr in live {
            kfree(rig.slub, ptr);
        }
        rig.assert_clean();
    }
}

#[test]
fn krealloc_of_nothing_allocates_and_to_nothing_frees() {
    let rig = rig();
    // SAFETY: nothing is given up.
    let ptr = unsafe { rig.slub.krealloc(None, 100, Gfp::KERNEL) }.unwrap();
    fill(ptr, 100, 1);
    // SAFETY: the object is live, and only its new place is used.
    let grown = unsafe { rig.slub.krealloc(Some(ptr), 5000, Gfp::KERNEL) }.unwrap();
    assert_ne!(grown, ptr);
    assert!(holds(grown, 100, 1));
    // SAFETY: as above.
    let same = unsafe { rig.slub.krealloc(Some(grown), 10, Gfp::KERNEL) }.unwrap();
    assert_eq!(same, grown, "it fits where it is");
    // SAFETY: as above.
    let none = unsafe { rig.slub.krealloc(Some(same), 0, Gfp::KERNEL) }.unwrap();
    assert_eq!(none, ZERO_SIZE_PTR);
    // SAFETY: the name of an object without bytes.
    let again = unsafe { rig.slub.krealloc(Some(none), 1, Gfp::KERNEL) }.unwrap();
    kfree(rig.slub, again);
    assert_eq!(bugs(), []);
    rig.assert_clean();
}

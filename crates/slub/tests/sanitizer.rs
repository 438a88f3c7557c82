//! With a sanitizer, of all memory exactly what is asked for may be touched; and what is freed, not for a while.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use core::sync::atomic::AtomicU8;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use common::{bugs, config, slub_with};
use kmm_frame::{Gfp, PAGE_SIZE, VirtAddr};
use kmm_host::{PhysMap as _, Sanitizer};
use kmm_kasan::{BugKind, Kasan, KasanConfig, KasanStorage, Report, SliceShadow};
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimLock, seeded};
use kmm_slub::{CacheArgs, Kmem as _, SlubBugKind, SlubConfig};

type Watcher = Kasan<SliceShadow<'static>, SimLock, (), fn(&Report)>;

static REPORTS: Mutex<Vec<(std::thread::ThreadId, Report)>> = Mutex::new(Vec::new());

fn keep(report: &Report) {
    let me = std::thread::current().id();
    let mut all = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
    all.push((me, *report));
}

/// What was reported on this thread since the last call.
fn reports() -> Vec<Report> {
    let me = std::thread::current().id();
    let mut all = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let (mine, others) = all.drain(..).partition(|(thread, _)| *thread == me);
    *all = others;
    let mine: Vec<(std::thread::ThreadId, Report)> = mine;
    mine.into_iter().map(|(_, report)| report).collect()
}

struct Watched {
    slub: &'static common::SimSlub,
    source: &'static common::Source,
    kasan: &'static Watcher,
}

fn watched(quarantine_bytes: usize) -> Watched {
    let machine = Machine::new(Config::with_mib(16));
    let range = machine.mem_map().range();
    let start = machine.phys().direct(range.start()).unwrap();
    let size_bytes = range.nr_pages() * PAGE_SIZE;
    let bytes: Vec<AtomicU8> = (0..size_bytes / 8).map(|_| AtomicU8::new(0)).collect();
    let shadow = SliceShadow::new(VirtAddr::new(start.addr().get() as u64), bytes.leak());
    let storage = KasanStorage {
        records: vec![None; 1024].leak(),
        waiting: vec![None; 256].leak(),
    };
    let on_bug: fn(&Report) = keep;
    let mut settings = KasanConfig::new(on_bug);
    settings.quarantine_bytes = quarantine_bytes;
    let kasan: &'static Watcher = Box::leak(Box::new(Kasan::new(shadow, (), storage, settings)));
    let source: &'static common::Source = Box::leak(Box::new(FailRandom::new(
        FreeListSource::new(machine),
        1,
        0,
    )));
    let config = SlubConfig {
        sanitizer: Some(kasan),
        ..config()
    };
    let slub = slub_with(machine, source, config);
    Watched {
        slub,
        source,
        kasan,
    }
}

fn at(object: NonNull<u8>, offset: usize) -> VirtAddr {
    VirtAddr::new(object.addr().get() as u64 + offset as u64)
}

#[test]
fn what_was_asked_for_may_be_touched_and_nothing_beside_it() {
    seeded(0x51ab, |rng| {
        let Watched {
            slub,
            source,
            kasan,
        } = watched(32 << 10);
        let named = slub
            .cache_create(&CacheArgs::new("named", 100).align(8))
            .unwrap();
        let mut live: BTreeMap<NonNull<u8>, usize> = BTreeMap::new();
        for _ in 0..20_000 {
            let size_bytes = match rng.below(8) {
                0 => 8 << rng.index(9),
                1 => 1 + rng.index(40_000),
                _ => 1 + rng.index(600),
            };
            let from_cache = rng.one_in(4);
            match rng.below(5) {
                0 | 1 if live.len() < 300 => {
                    let (got, size_bytes) = if from_cache {
                        (slub.alloc(named, Gfp::KERNEL), 100)
                    } else {
                        (slub.kmalloc(size_bytes, Gfp::KERNEL), size_bytes)
                    };
                    let Ok(object) = got else {
                        continue;
                    };
                    assert!(live.insert(object, size_bytes).is_none());
                }
                2 if !live.is_empty() => {
                    let nr = rng.index(live.len());
                    let object = *live.keys().nth(nr).unwrap();
                    let size_bytes = live.remove(&object).unwrap();
                    // SAFETY: live, and forgotten now.
                    unsafe { slub.kfree(object) };
                    if size_bytes <= 8192 {
                        assert!(!kasan.may_touch(at(object, 0)));
                        assert!(!kasan.may_touch(at(object, size_bytes - 1)));
                    }
                }
                3 if !live.is_empty() => {
                    let nr = rng.index(live.len());
                    let object = *live.keys().nth(nr).unwrap();
                    let new_bytes = 1 + rng.index(700);
                    // SAFETY: live, and forgotten unless it stays where it is.
                    let moved = unsafe { slub.krealloc(Some(object), new_bytes, Gfp::KERNEL) };
                    if let Ok(moved) = moved {
                        live.remove(&object);
                        assert!((0..new_bytes).all(|byte| kasan.may_touch(at(moved, byte))));
                        // In place there may be more of it.
                        // SAFETY: live, and forgotten now.
                        unsafe { slub.kfree(moved) };
                    }
                }
                _ => {
                    let nr = rng.index(live.len().max(1));
                    let Some((&object, &size_bytes)) = live.iter().nth(nr) else {
                        continue;
                    };
                    assert!((0..size_bytes).all(|byte| kasan.may_touch(at(object, byte))));
                    // Pages of its own that it fills have no redzone.
                    if size_bytes <= 8192 {
                        assert!(!kasan.may_touch(at(object, size_bytes)), "{size_bytes}");
                    }
                }
            }
        }
        assert!(kasan.quarantine_bytes() > 0);
        for (object, _) in live {
            // SAFETY: live, and forgotten now.
            unsafe { slub.kfree(object) };
        }
        common::destroy(slub, named).unwrap();
        // SAFETY: the test is alone.
        unsafe { slub.drain_all() };
        assert_eq!(kasan.quarantine_bytes(), 0);
        assert_eq!((reports().len(), bugs()), (0, vec![]));
        source.inner().assert_nothing_outstanding();
    });
}

#[test]
fn frees_that_are_wrong_are_reported_and_change_nothing() {
    let Watched {
        slub,
        source,
        kasan,
    } = watched(32 << 10);
    let cache = slub.cache_create(&CacheArgs::new("inode", 200)).unwrap();
    let object = slub.alloc(cache, Gfp::KERNEL).unwrap();
    let neighbour = slub.alloc(cache, Gfp::KERNEL).unwrap();
    let middle = object.as_ptr().wrapping_add(16);
    // SAFETY: breaks the contract on purpose; with a sanitizer it is refused.
    unsafe { slub.kfree(NonNull::new(middle).unwrap()) };
    // SAFETY: live, and forgotten now.
    unsafe { slub.kfree(object) };
    // SAFETY: breaks the contract on purpose.
    unsafe { slub.kfree(object) };
    let found = reports();
    let kinds: Vec<BugKind> = found.iter().map(|report| report.kind).collect();
    assert_eq!(kinds, [BugKind::InvalidFree, BugKind::DoubleFree]);
    for report in &found {
        let known = report.object.unwrap();
        assert_eq!((known.cache(), known.requested_bytes), ("inode", 200));
        assert_eq!(known.slot.start, at(object, 0));
    }
    assert!(kasan.may_touch(at(neighbour, 199)));
    // SAFETY: live, and forgotten now.
    unsafe { slub.free(cache, neighbour) };
    common::destroy(slub, cache).unwrap();
    // SAFETY: the test is alone.
    unsafe { slub.drain_all() };
    source.inner().assert_nothing_outstanding();
    assert_eq!(bugs(), Vec::<SlubBugKind>::new());
}

//! Random requests, with caches that come and go among them, on every back end and under every setting of debugging, with and without
//! failing pages; then several CPUs at once.
//!
//! With `tests/model.rs` and `tests/conformance.rs` these are more than a million operations.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

#[allow(dead_code, reason = "each test file uses its part of this")]
#[path = "conformance/back_ends.rs"]
mod back_ends;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use back_ends::{BackEnd, OfSlab, OfSlob, OfSlub, Rig, rig_with, source_on};
use common::{Source, bugs, config, fast_config, fill, holds, is_zero};
use kmm_frame::Gfp;
use kmm_host::CpuId;
use kmm_sim::{Config, Machine, Rng, SimGuard, SimLock, seeded};
use kmm_slub::{CacheArgs, CacheFlags, Kfence, KfenceSlot, Kmem, KmemCache, SlubConfig, SlubError};

/// Every setting: text, checked, merged, in random order, with a pool of guarded objects.
fn settings() -> Vec<SlubConfig> {
    let debugged = [
        "",
        "F",
        "Z",
        "P",
        "U",
        "Q",
        "FZ",
        "ZP",
        "ZU",
        "PQ",
        "FZPU",
        "FZPUQ",
        "ZQ",
        "FZPUQ,kmalloc-*",
        "FZPU,churn*;-,churn-3",
    ];
    let mut all: Vec<_> = debugged
        .into_iter()
        .map(|debug| SlubConfig {
            debug,
            // So little that it overflows.
            quarantine_bytes: 8 << 10,
            ..fast_config()
        })
        .collect();
    all.push(config());
    all.push(SlubConfig {
        merges: true,
        random_order: true,
        ..fast_config()
    });
    for debug in ["", "FZPUQ"] {
        let slots = vec![KfenceSlot::new(); 12].leak();
        let pool = Kfence::<_, SimLock>::new(SimGuard::new(25), slots, 3).unwrap();
        all.push(SlubConfig {
            debug,
            kfence: Some(Box::leak(Box::new(pool))),
            ..fast_config()
        });
    }
    all
}

const NAMES: [&str; 5] = ["churn-0", "churn-1", "churn-2", "churn-3", "churn-4"];

unsafe fn construct(object: NonNull<u8>) {
    fill(object, 8, 0xc0de);
}

struct Cache {
    handle: KmemCache,
    args: CacheArgs,
    objects: Vec<(NonNull<u8>, u64)>,
}

impl Cache {
    fn is_built(&self) -> bool {
        self.args.ctor.is_some()
    }

    /// What its owner wrote: nothing that a constructor made.
    fn check(&self, object: NonNull<u8>, id: u64) {
        if self.is_built() {
            assert!(holds(object, 8, 0xc0de), "constructed");
        } else {
            assert!(holds(object, self.args.size_bytes, id), "contents changed");
        }
    }
}

/// What is live.
#[derive(Default)]
struct World {
    caches: BTreeMap<usize, Cache>,
    memory: Vec<(NonNull<u8>, usize, u64)>,
    /// Start and end of everything.
    places: BTreeMap<usize, usize>,
}

impl World {
    fn add(&mut self, ptr: NonNull<u8>, size: usize) {
        let (start, end) = (ptr.addr().get(), ptr.addr().get() + size);
        let below = self.places.range(..end).next_back();
        assert!(below.is_none_or(|(_, below)| *below <= start), "overlap");
        self.places.insert(start, end);
    }

    fn remove(&mut self, ptr: NonNull<u8>) {
        assert!(self.places.remove(&ptr.addr().get()).is_some());
    }

    fn size(rng: &mut Rng) -> usize {
        match rng.below(100) {
            0 => rng.range(8193..60_000) as usize,
            1..=5 => rng.range(1..8193) as usize,
            _ => rng.range(1..600) as usize,
        }
    }

    /// One operation; `None` when it was refused.
    fn step<B: BackEnd>(&mut self, rig: &Rig<B>, rng: &mut Rng, id: u64) -> Option<()> {
        let kmem = &rig.kmem;
        let nr = rng.index(NAMES.len());
        match rng.below(24) {
            0 => return self.come_or_go(rig, rng, nr),
            1..=5 => {
                let size = Self::size(rng);
                let ptr = kmem.kmalloc(size, Gfp::KERNEL).ok()?;
                fill(ptr, size, id);
                self.add(ptr, size);
                self.memory.push((ptr, size, id));
            }
            6 => {
                let (size, align) = (Self::size(rng), 1 << rng.below(9));
                let ptr = kmem
                    .kmalloc_aligned(size, align, Gfp::ATOMIC | Gfp::ZERO)
                    .ok()?;
                assert!(is_zero(ptr, size) && ptr.addr().get() % align == 0);
                fill(ptr, size, id);
                self.add(ptr, size);
                self.memory.push((ptr, size, id));
            }
            7 if !self.memory.is_empty() => {
                let at = rng.index(self.memory.len());
                let (old, size, old_id) = self.memory[at];
                let new_size = Self::size(rng);
                // SAFETY: the test's own.
                let new = unsafe { kmem.krealloc(Some(old), new_size, Gfp::KERNEL) };
                let Ok(new) = new else {
                    assert!(holds(old, size, old_id), "lost in a failed move");
                    return None;
                };
                assert!(holds(new, size.min(new_size), old_id), "lost in the move");
                self.remove(old);
                fill(new, new_size, id);
                self.add(new, new_size);
                self.memory[at] = (new, new_size, id);
            }
            8..=12 if !self.memory.is_empty() => {
                let (ptr, size, id) = self.memory.swap_remove(rng.index(self.memory.len()));
                assert!(holds(ptr, size, id), "contents changed");
                self.remove(ptr);
                rig.kfree(ptr);
            }
            13..=16 => {
                let cache = self.caches.get_mut(&nr)?;
                let object = kmem.alloc(cache.handle, Gfp::KERNEL).ok()?;
                if cache.is_built() {
                    cache.check(object, 0);
                } else {
                    fill(object, cache.args.size_bytes, id);
                }
                cache.objects.push((object, id));
                let size = cache.args.size_bytes;
                self.add(object, size);
            }
            17 => {
                let cache = self.caches.get(&nr)?;
                let mut objects = [None; 40];
                let got = kmem.alloc_bulk(cache.handle, Gfp::KERNEL, &mut objects);
                assert_eq!(got.is_ok(), objects.iter().all(Option::is_some));
                // SAFETY: all of that cache, and nobody uses them.
                unsafe { kmem.free_bulk(cache.handle, &mut objects) };
                got.ok()?;
            }
            18..=21 => {
                let cache = self.caches.get_mut(&nr)?;
                if cache.objects.is_empty() {
                    return Some(());
                }
                let at = rng.index(cache.objects.len());
                let (object, id) = cache.objects.swap_remove(at);
                cache.check(object, id);
                if rng.one_in(4) {
                    rig.kfree(object);
                } else {
                    rig.free(cache.handle, object);
                }
                self.remove(object);
            }
            22 if rng.one_in(20) => {
                kmem.shrink_all();
            }
            _ => {}
        }
        Some(())
    }

    fn come_or_go<B: BackEnd>(&mut self, rig: &Rig<B>, rng: &mut Rng, nr: usize) -> Option<()> {
        if let Some(cache) = self.caches.get_mut(&nr) {
            for (object, id) in core::mem::take(&mut cache.objects) {
                cache.check(object, id);
                rig.free(cache.handle, object);
                self.places.remove(&object.addr().get());
            }
            rig.destroy(cache.handle).unwrap();
            self.caches.remove(&nr);
            return Some(());
        }
        let most = if rng.one_in(8) { 9000 } else { 500 };
        let size = 8 + rng.below(most) as usize;
        let mut args = CacheArgs::new(NAMES[nr], size).align(1 << rng.below(8));
        if rng.one_in(3) {
            args = args.ctor(construct);
        }
        if rng.one_in(4) {
            args = args.flags(CacheFlags::HWCACHE_ALIGN);
        }
        let handle = rig.kmem.cache_create(&args).unwrap();
        let objects = Vec::new();
        self.caches.insert(
            nr,
            Cache {
                handle,
                args,
                objects,
            },
        );
        Some(())
    }

    fn check<B: BackEnd>(&self, rig: &Rig<B>, merges: bool) {
        rig.kmem.validate().unwrap();
        assert_eq!(rig.kmem.nr_pages().total(), rig.outstanding());
        for cache in self.caches.values().filter(|_| !merges) {
            let active = rig.info(cache.args.name).active_objs;
            assert_eq!(active, cache.objects.len(), "{}", cache.args.name);
        }
    }
}

fn churn<B: BackEnd>() {
    for (config, nr) in settings().into_iter().zip(0..) {
        for per_mille in [0, 250] {
            seeded(0xc4a7 + nr * 2 + per_mille, |rng| {
                let rig = rig_with::<B>(config);
                let mut world = World::default();
                rig.source.set_per_mille(per_mille);
                for id in 0..6000 {
                    world.step(&rig, rng, id);
                    if id % 512 == 0 {
                        world.check(&rig, config.merges);
                    }
                    if id % 2000 == 1999 {
                        assert_eq!(rig.kmem.check_objects(), 0, "{:?}", config.debug);
                    }
                }
                rig.source.set_per_mille(0);
                world.check(&rig, config.merges);
                for nr in 0..NAMES.len() {
                    if world.caches.contains_key(&nr) {
                        world.come_or_go(&rig, rng, nr);
                    }
                }
                for (ptr, size, id) in world.memory {
                    assert!(holds(ptr, size, id));
                    rig.kfree(ptr);
                }
                rig.assert_clean();
            });
        }
    }
}

#[test]
fn slub_under_every_setting() {
    churn::<OfSlub>();
}

#[test]
fn slab_under_every_setting() {
    churn::<OfSlab>();
}

#[test]
fn slob_under_every_setting() {
    churn::<OfSlob>();
}

struct Sent {
    ptr: NonNull<u8>,
    size: usize,
    id: u64,
}

// SAFETY: memory belongs to who has the message.
unsafe impl Send for Sent {}

const NR_CPUS: usize = 3;

/// Each CPU allocates, keeps some, and sends the others to the next one, which frees them; caches come and go on each.
fn several_cpus<B: BackEnd>(debug: &'static str)
where
    B::Kmem<&'static Source>: Sync,
{
    seeded(0x3c9a, |rng| {
        let machine = Machine::new(Config::with_mib(64).cpus(NR_CPUS));
        let source = source_on(machine);
        let config = SlubConfig {
            debug,
            quarantine_bytes: 8 << 10,
            ..fast_config()
        };
        let kmem: &'static _ = Box::leak(Box::new(B::make(machine, source, config)));
        let shared = kmem.cache_create(&CacheArgs::new("shared", 72)).unwrap();
        let start = Arc::new(Barrier::new(NR_CPUS));
        let nr_refused = Arc::new(AtomicUsize::new(0));
        let (mut to, mut from): (Vec<_>, Vec<_>) = (0..NR_CPUS).map(|_| mpsc::channel()).unzip();
        to.rotate_left(1);
        let threads: Vec<_> = (0..NR_CPUS as u32)
            .map(|cpu| {
                let (to, from) = (to.remove(0), from.remove(0));
                let (mut rng, start) = (Rng::new(rng.next_u64()), Arc::clone(&start));
                let nr_refused = Arc::clone(&nr_refused);
                let work = move || {
                    start.wait();
                    let mut kept: Vec<Sent> = Vec::new();
                    let free = |sent: Sent| {
                        assert!(holds(sent.ptr, sent.size, sent.id));
                        // SAFETY: allocated once, and freed once.
                        unsafe { kmem.kfree(sent.ptr) };
                    };
                    for nr in 0..8000 {
                        let id = rng.next_u64();
                        let got = if rng.one_in(3) {
                            kmem.alloc(shared, Gfp::KERNEL).map(|ptr| (ptr, 72))
                        } else {
                            let size = rng.range(1..700) as usize;
                            kmem.kmalloc(size, Gfp::KERNEL).map(|ptr| (ptr, size))
                        };
                        match got {
                            Ok((ptr, size)) => {
                                fill(ptr, size, id);
                                let sent = Sent { ptr, size, id };
                                if rng.one_in(3) {
                                    to.send(sent).unwrap();
                                } else {
                                    kept.push(sent);
                                }
                            }
                            Err(error) => {
                                assert_eq!(error, SlubError::OutOfMemory);
                                nr_refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        from.try_iter().for_each(free);
                        while kept.len() > 60 {
                            let at = rng.index(kept.len());
                            free(kept.swap_remove(at));
                        }
                        if nr % 500 == 0 {
                            let own = kmem.cache_create(&CacheArgs::new("own", 200)).unwrap();
                            let mut objects = [None; 20];
                            if kmem.alloc_bulk(own, Gfp::KERNEL, &mut objects).is_ok() {
                                // SAFETY: of this cache, and freed once.
                                unsafe { kmem.free_bulk(own, &mut objects) };
                            }
                            // SAFETY: only this CPU knows the cache.
                            unsafe { kmem.cache_destroy(own) }.unwrap();
                            kmem.shrink_all();
                        }
                    }
                    kept.into_iter().for_each(free);
                    drop(to);
                    from.iter().for_each(free);
                    assert_eq!(bugs(), []);
                };
                thread::spawn(move || machine.cpus().run_on(CpuId::new(cpu), work))
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(nr_refused.load(Ordering::Relaxed), 0);
        kmem.validate().unwrap();
        B::drain(kmem);
        // SAFETY: nobody else is left.
        unsafe { kmem.cache_destroy(shared) }.unwrap();
        B::drain(kmem);
        assert_eq!(kmem.nr_pages().total(), 0);
        source.inner().assert_nothing_outstanding();
        assert_eq!(bugs(), []);
    });
}

macro_rules! on_several_cpus {
    ($($name:ident $back_end:ident $debug:literal;)*) => {
        $(#[test] fn $name() { several_cpus::<$back_end>($debug); })*
    };
}

on_several_cpus! {
    slub_on_several_cpus OfSlub "";
    slab_on_several_cpus OfSlab "";
    slob_on_several_cpus OfSlob "";
    debugged_slub_on_several_cpus OfSlub "FZPUQ";
    debugged_slab_on_several_cpus OfSlab "FZPUQ";
    debugged_slob_on_several_cpus OfSlob "FZPUQ";
}

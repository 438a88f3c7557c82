//! Whoever wants to know is told which frames objects lie in, of all caches and back ends.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "names of tests say what they prove; objects are freed"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;

use common::{fast_config, rig_with, storage};
use kmm_frame::{Gfp, PageFlags, Pfn, PfnRange};
use kmm_host::SlabHook;
use kmm_sim::{Config, FreeListSource, Machine, Rng, SimLock, seeded};
use kmm_slub::{CacheArgs, Kmem, Slab, Slob, SlobSlot, Slub, SlubConfig};

/// Notes what it is told, and that nothing is told twice.
#[derive(Debug, Default)]
struct Told {
    /// The cache of each frame.
    frames: Mutex<BTreeMap<Pfn, String>>,
    /// Slabs made, by cache.
    made: Mutex<BTreeMap<String, usize>>,
}

impl SlabHook for Told {
    fn slab_made(&self, frames: PfnRange, cache: &str) {
        *self.made.lock().unwrap().entry(cache.into()).or_default() += 1;
        for pfn in frames.iter() {
            let before = self.frames.lock().unwrap().insert(pfn, cache.into());
            assert_eq!(before, None, "{pfn} is a slab already");
        }
    }

    fn slab_gone(&self, frames: PfnRange) {
        for pfn in frames.iter() {
            let before = self.frames.lock().unwrap().remove(&pfn);
            assert!(before.is_some(), "{pfn} was no slab");
        }
    }
}

impl Told {
    fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    fn made(&self, cache: &str) -> usize {
        self.made.lock().unwrap().get(cache).copied().unwrap_or(0)
    }

    fn nr_frames(&self) -> usize {
        self.frames.lock().unwrap().len()
    }

    fn cache_at(&self, pfn: Pfn) -> Option<String> {
        self.frames.lock().unwrap().get(&pfn).cloned()
    }
}

fn told_config(told: &'static Told) -> SlubConfig {
    SlubConfig {
        slabs: told,
        ..fast_config()
    }
}

#[test]
fn each_new_slab_is_told_once_by_its_cache() {
    let told = Told::new();
    let rig = rig_with(told_config(told));
    let slub = rig.slub;
    let args = CacheArgs::new("task_struct", 1000);
    let cache = slub.cache_create(&args).unwrap();
    assert_eq!(told.made("task_struct"), 0, "a cache begins without a slab");
    let mut objects = Vec::new();
    let mut taken = 0;
    while taken < 5 {
        objects.push(slub.alloc(cache, Gfp::KERNEL).unwrap());
        let infos: Vec<_> = slub.cache_infos().collect();
        let info = infos.iter().find(|info| info.name == "task_struct");
        taken = info.unwrap().num_slabs;
        assert_eq!(told.made("task_struct"), taken);
    }
    for &object in &objects {
        let pfn = kmm_host::PhysMap::virt_to_pfn(rig.machine.phys(), object).unwrap();
        assert_eq!(told.cache_at(pfn).as_deref(), Some("task_struct"));
    }
    let general = slub.kmalloc(700, Gfp::KERNEL).unwrap();
    assert_eq!(told.made("kmalloc-768"), 1);
    let large = slub.kmalloc(100 << 10, Gfp::KERNEL).unwrap();
    assert_eq!(told.made("kmalloc-large"), 1);
    for object in objects {
        // SAFETY: it came from there.
        unsafe { slub.free(cache, object) };
    }
    common::kfree(slub, general);
    common::kfree(slub, large);
    common::destroy(slub, cache).unwrap();
    rig.assert_clean();
    assert_eq!(told.nr_frames(), 0, "all are slabs no longer");
    assert_eq!(told.made("task_struct"), taken, "none was told again");
}

/// Random requests; at each moment what was told is what carries the mark, or more: a hook comes before the mark.
fn told_is_what_is_marked<K: Kmem>(told: &Told, machine: &Machine, kmem: &K, rng: &mut Rng) {
    let mut live = Vec::new();
    for _ in 0..400 {
        if live.is_empty() || rng.below(5) < 3 {
            let size = 1 << rng.below(16);
            let size = usize::try_from(size + rng.below(size)).unwrap();
            if let Ok(object) = kmem.kmalloc(size, Gfp::KERNEL) {
                live.push(object);
            }
        } else {
            let nr = usize::try_from(rng.below(live.len() as u64)).unwrap();
            // SAFETY: it came from there and is freed once.
            unsafe { kmem.kfree(live.swap_remove(nr)) };
        }
        let map = machine.mem_map();
        let frames = map.range();
        let marked = frames.iter().filter(|pfn| {
            let page = map.page(*pfn);
            page.test(PageFlags::SLAB)
        });
        for pfn in marked {
            assert!(told.cache_at(pfn).is_some(), "{pfn} was not told");
        }
    }
    for object in live {
        // SAFETY: as above.
        unsafe { kmem.kfree(object) };
    }
}

fn machine() -> (&'static Machine, &'static FreeListSource) {
    let machine = Machine::new(Config::with_mib(8));
    (machine, Box::leak(Box::new(FreeListSource::new(machine))))
}

#[test]
fn all_back_ends_tell() {
    seeded(0x5_1ab, |rng| {
        for round in 0..6 {
            let told = Told::new();
            let config = told_config(told);
            let (machine, source) = machine();
            let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
            if round % 3 == 0 {
                let slub = Slub::<_, _, SimLock, _>::new(
                    source,
                    phys,
                    map,
                    cpus,
                    storage(machine),
                    config,
                )
                .unwrap();
                told_is_what_is_marked(told, machine, &slub, rng);
                // SAFETY: the test is alone.
                unsafe { slub.drain_all() };
            } else if round % 3 == 1 {
                let slab = Slab::<_, _, SimLock, _>::new(
                    source,
                    phys,
                    map,
                    cpus,
                    storage(machine),
                    config,
                )
                .unwrap();
                told_is_what_is_marked(told, machine, &slab, rng);
                // SAFETY: the test is alone.
                unsafe { slab.drain_all() };
            } else {
                let nodes: Vec<_> = (0..8).map(|_| SlobSlot::new()).collect();
                let slob =
                    Slob::<_, _, SimLock>::new(source, phys, map, nodes.leak(), config).unwrap();
                told_is_what_is_marked(told, machine, &slob, rng);
                assert!(told.made("slob") > 0);
            }
            assert!(told.made("kmalloc-large") > 0);
            source.assert_nothing_outstanding();
            assert_eq!(told.nr_frames(), 0, "all are slabs no longer");
        }
    });
}

#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_frame::Gfp;
use kmm_host::OneCpu;
use kmm_slub::{CacheArgs, CacheSlot, CpuSlot, Slub, SlubConfig, SlubStorage};

static CACHES: [CacheSlot<Lock>; 64] = [const { CacheSlot::new() }; 64];
static CPUS: [CpuSlot<Lock>; 1] = [CpuSlot::new()];

fn run() {
    let config = SlubConfig::new(|bug| _ = black_box(bug));
    let storage = SlubStorage {
        caches: &CACHES,
        cpus: &CPUS,
    };
    // SAFETY: never run.
    let cpus = unsafe { OneCpu::new() };
    let slub = Slub::new(Source, phys(), map(), cpus, storage, config).unwrap();
    let object = slub
        .kmalloc(any() as usize, black_box(Gfp::KERNEL))
        .unwrap();
    // SAFETY: never run.
    unsafe { slub.kfree(black_box(object)) };
    let cache = slub
        .cache_create(&CacheArgs::new("costs", any() as usize))
        .unwrap();
    let object = slub.alloc(cache, black_box(Gfp::KERNEL)).unwrap();
    // SAFETY: never run.
    unsafe { slub.free(cache, black_box(object)) };
    // SAFETY: never run.
    unsafe { slub.cache_destroy(cache) }.unwrap();
}

#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_frame::Gfp;
use kmm_slub::{CacheFlags, CacheSlot, Slub, SlubConfig};

static SLOTS: [CacheSlot<Lock>; 64] = [const { CacheSlot::new() }; 64];

fn run() {
    let config = SlubConfig::new(|bug| _ = black_box(bug));
    let slub = Slub::<_, _, Lock>::new(Source, phys(), map(), &SLOTS, config).unwrap();
    let object = slub
        .kmalloc(any() as usize, black_box(Gfp::KERNEL))
        .unwrap();
    // SAFETY: never run.
    unsafe { slub.kfree(black_box(object)) };
    let cache = slub
        .cache_create("costs", any() as usize, 8, CacheFlags::empty(), None)
        .unwrap();
    let object = slub.alloc(cache, black_box(Gfp::KERNEL)).unwrap();
    // SAFETY: never run.
    unsafe { slub.free(cache, black_box(object)) };
    slub.cache_destroy(cache).unwrap();
}

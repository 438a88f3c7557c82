//! Objects: `kmalloc`, caches, the global allocator.
#![expect(unsafe_code, reason = "frees what it allocated")]

use alloc::alloc::{GlobalAlloc as _, Layout};
use alloc::format;
use core::ptr::NonNull;

use kmm::frame::Gfp;
use kmm::slub::{CacheArgs, KmemAlloc, KmemCache, NoEarlyHeap};

use super::Figure;
use super::meter::{MANY, Meter, opaque};
use crate::mm::{self, KernelHost};

pub(super) const FIGURES: &[Figure] = &[
    Figure {
        name: "kmalloc-pair",
        run: kmalloc_pairs,
    },
    Figure {
        name: "kmalloc-batch",
        run: kmalloc_batch,
    },
    Figure {
        name: "cache-pair",
        run: cache_pair,
    },
    Figure {
        name: "cache-bulk",
        run: cache_bulk,
    },
    Figure {
        name: "global-pair",
        run: global_pairs,
    },
];

const SIZES: [usize; 8] = [8, 64, 192, 256, 512, 1024, 2048, 4096];
const BATCH_SIZE: usize = 64;
const CACHE_SIZE: usize = 192;

/// Slub behind `GlobalAlloc`, without the kernel's early heap and its refusals.
static HEAP: KmemAlloc<kmm::Objects<KernelHost>> = KmemAlloc::new(NoEarlyHeap);

type Slub = &'static kmm::Objects<KernelHost>;

#[inline(always)]
fn kmalloc(slub: Slub, size: usize) -> NonNull<u8> {
    match slub.kmalloc(size, Gfp::KERNEL) {
        Ok(object) => object,
        Err(error) => panic!("{error}"),
    }
}

/// # Safety
/// `object` is what [`kmalloc`] returned, and freed once.
#[inline(always)]
unsafe fn kfree(slub: Slub, object: NonNull<u8>) {
    // SAFETY: the caller's obligation is the same.
    unsafe { slub.kfree(object) };
}

#[inline(always)]
fn address(object: NonNull<u8>) -> usize {
    object.as_ptr().expose_provenance()
}

#[inline(always)]
fn object(address: usize) -> NonNull<u8> {
    let object = core::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the address of an object.
    unsafe { NonNull::new_unchecked(object) }
}

fn kmalloc_pairs(meter: &Meter) {
    let slub = mm::manager().slub();
    for size in SIZES {
        // One object stays, so that its slab does too.
        let first = kmalloc(slub, size);
        let state = (slub, size);
        meter.each_with(format!("kmalloc-pair-{size}"), state, |(slub, size)| {
            let made = kmalloc(slub, opaque(size));
            // SAFETY: allocated just now.
            unsafe { kfree(slub, object(opaque(address(made)))) };
        });
        // SAFETY: allocated above.
        unsafe { kfree(slub, first) };
    }
}

fn kmalloc_batch(meter: &Meter) {
    let slub = mm::manager().slub();
    meter.halves(
        ["kmalloc-batch-64-alloc", "kmalloc-batch-64-free"],
        || address(kmalloc(slub, opaque(BATCH_SIZE))),
        |address| {
            // SAFETY: made by the other half, freed once.
            unsafe { kfree(slub, object(address)) };
        },
    );
}

fn make_cache(slub: Slub) -> KmemCache {
    match slub.cache_create(&CacheArgs::new("bench", CACHE_SIZE)) {
        Ok(cache) => cache,
        Err(error) => panic!("{error}"),
    }
}

fn end_cache(slub: Slub, cache: KmemCache) {
    // SAFETY: nobody else knows the cache.
    if let Err(error) = unsafe { slub.cache_destroy(cache) } {
        panic!("{error}");
    }
}

fn cache_pair(meter: &Meter) {
    let slub = mm::manager().slub();
    let cache = make_cache(slub);
    let pair = |(slub, cache): (Slub, KmemCache)| {
        let made = match slub.alloc(cache, Gfp::KERNEL) {
            Ok(object) => object,
            Err(error) => panic!("{error}"),
        };
        // SAFETY: allocated just now.
        unsafe { slub.free(cache, object(opaque(address(made)))) };
    };
    meter.each_with("cache-pair-192", (slub, cache), pair);
    end_cache(slub, cache);
}

/// A thousand objects with one call.
fn cache_bulk(meter: &Meter) {
    let slub = mm::manager().slub();
    let cache = make_cache(slub);
    let mut objects = alloc::vec![None; MANY];
    meter.calls(
        ["cache-bulk-192-alloc", "cache-bulk-192-free"],
        MANY,
        &mut objects,
        |objects| {
            if let Err(error) = slub.alloc_bulk(cache, Gfp::KERNEL, objects) {
                panic!("{error}");
            }
        },
        // SAFETY: made by the other half.
        |objects| unsafe { slub.free_bulk(cache, objects) },
    );
    end_cache(slub, cache);
}

fn global_pairs(meter: &Meter) {
    HEAP.set(mm::manager().slub());
    global_pair::<64>(meter);
    global_pair::<4096>(meter);
}

/// What the compiler knows of a `Box`.
const fn layout_of<const SIZE: usize>() -> Layout {
    match Layout::from_size_align(SIZE, 8) {
        Ok(layout) => layout,
        Err(_) => panic!("a small size"),
    }
}

fn global_pair<const SIZE: usize>(meter: &Meter) {
    let slub = mm::manager().slub();
    let first = kmalloc(slub, SIZE);
    meter.each(format!("global-pair-{SIZE}"), || {
        let layout = const { layout_of::<SIZE>() };
        // SAFETY: the size is not 0.
        let made = unsafe { HEAP.alloc(layout) };
        let made = object(opaque(made.expose_provenance()));
        // SAFETY: allocated just now.
        unsafe { HEAP.dealloc(made.as_ptr(), layout) };
    });
    meter.each(format!("global-pair-{SIZE}-kernel"), || {
        let layout = const { layout_of::<SIZE>() };
        // SAFETY: the size is not 0.
        let made = unsafe { alloc::alloc::alloc(layout) };
        let made = object(opaque(made.expose_provenance()));
        // SAFETY: allocated just now.
        unsafe { alloc::alloc::dealloc(made.as_ptr(), layout) };
    });
    // SAFETY: allocated above.
    unsafe { kfree(slub, first) };
}

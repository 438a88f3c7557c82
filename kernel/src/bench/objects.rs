//! Objects: `kmalloc`, caches, the global allocator.
#![expect(unsafe_code, reason = "frees what it allocated")]

use alloc::alloc::{GlobalAlloc as _, Layout};
use alloc::format;
use core::ptr::NonNull;

use kmm::frame::Gfp;
use kmm::slub::{CacheArgs, KmemAlloc, NoEarlyHeap};

use super::Figure;
use super::meter::{Meter, opaque};
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
        name: "global-pair",
        run: global_pairs,
    },
];

const SIZES: [usize; 8] = [8, 64, 192, 256, 512, 1024, 2048, 4096];
const BATCH_SIZE: usize = 64;
const CACHE_SIZE: usize = 192;

/// Slub behind `GlobalAlloc`, without the kernel's early heap and its refusals.
static HEAP: KmemAlloc<kmm::Objects<KernelHost>> = KmemAlloc::new(NoEarlyHeap);

#[inline(always)]
fn kmalloc(size: usize) -> NonNull<u8> {
    match mm::manager().slub().kmalloc(size, Gfp::KERNEL) {
        Ok(object) => object,
        Err(error) => panic!("{error}"),
    }
}

/// # Safety
/// `object` is what [`kmalloc`] returned, and freed once.
#[inline(always)]
unsafe fn kfree(object: NonNull<u8>) {
    // SAFETY: the caller's obligation is the same.
    unsafe { mm::manager().slub().kfree(object) };
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
    for size in SIZES {
        // One object stays, so that its slab does too.
        let first = kmalloc(size);
        meter.each(format!("kmalloc-pair-{size}"), || {
            let made = kmalloc(opaque(size));
            // SAFETY: allocated just now.
            unsafe { kfree(object(opaque(address(made)))) };
        });
        // SAFETY: allocated above.
        unsafe { kfree(first) };
    }
}

fn kmalloc_batch(meter: &Meter) {
    meter.halves(
        ["kmalloc-batch-64-alloc", "kmalloc-batch-64-free"],
        || address(kmalloc(opaque(BATCH_SIZE))),
        |address| {
            // SAFETY: made by the other half, freed once.
            unsafe { kfree(object(address)) };
        },
    );
}

fn cache_pair(meter: &Meter) {
    let slub = mm::manager().slub();
    let cache = match slub.cache_create(&CacheArgs::new("bench", CACHE_SIZE)) {
        Ok(cache) => cache,
        Err(error) => panic!("{error}"),
    };
    let take = || match slub.alloc(cache, Gfp::KERNEL) {
        Ok(object) => object,
        Err(error) => panic!("{error}"),
    };
    let first = take();
    meter.each("cache-pair-192", || {
        let made = take();
        // SAFETY: allocated just now.
        unsafe { slub.free(cache, object(opaque(address(made)))) };
    });
    // SAFETY: allocated above.
    unsafe { slub.free(cache, first) };
    // SAFETY: nobody else knows the cache.
    if let Err(error) = unsafe { slub.cache_destroy(cache) } {
        panic!("{error}");
    }
}

fn global_pairs(meter: &Meter) {
    HEAP.set(mm::manager().slub());
    global_pair::<64>(meter);
    global_pair::<4096>(meter);
}

/// The compiler knows the layout, as it does for a `Box`.
fn global_pair<const SIZE: usize>(meter: &Meter) {
    let layout = const {
        match Layout::from_size_align(SIZE, 8) {
            Ok(layout) => layout,
            Err(_) => panic!("a small size"),
        }
    };
    let first = kmalloc(SIZE);
    meter.each(format!("global-pair-{SIZE}"), || {
        // SAFETY: the size is not 0.
        let made = unsafe { HEAP.alloc(layout) };
        let made = object(opaque(made.expose_provenance()));
        // SAFETY: allocated just now.
        unsafe { HEAP.dealloc(made.as_ptr(), layout) };
    });
    meter.each(format!("global-pair-{SIZE}-kernel"), || {
        // SAFETY: the size is not 0.
        let made = unsafe { alloc::alloc::alloc(layout) };
        let made = object(opaque(made.expose_provenance()));
        // SAFETY: allocated just now.
        unsafe { alloc::alloc::dealloc(made.as_ptr(), layout) };
    });
    // SAFETY: allocated above.
    unsafe { kfree(first) };
}

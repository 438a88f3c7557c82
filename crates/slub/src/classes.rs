//! The sizes of kmalloc. Linux: `kmalloc_info`, `kmalloc_size_index`, mm/slab_common.c.
//!
//! Between powers of two there are three more sizes, so that at most a fifth of an object is waste; reclaimable memory and
//! memory for DMA, of which there is little, has Linux's thirteen sizes only. A size is looked up in a table of one byte for
//! each multiple of 8; where the size is known when it is compiled, so is the class.

use kmm_frame::{Gfp, Order, PAGE_SIZE};

use crate::geometry::{CacheArgs, CacheFlags};

/// The largest size that comes from a cache. Linux: `KMALLOC_MAX_CACHE_SIZE`.
pub const KMALLOC_MAX_CACHE_SIZE: usize = 8192;
/// Slots that are taken from the start: the kmalloc caches, and those that the allocator has for itself.
pub const NR_KMALLOC_CACHES: usize = FIRST_DMA + FEW.len();

/// The slot of the cache that CPUs' arrays come from.
pub(crate) const ARRAYS: u8 = 0;
/// The slot of the cache that the depots' blocks come from.
pub(crate) const BLOCKS: u8 = 1;
pub(crate) const NR_INTERNAL: usize = 2;
const FIRST_RCL: usize = NR_INTERNAL + MANY.len();
const FIRST_DMA: usize = FIRST_RCL + FEW.len();
/// Sizes are rounded up to multiples of it.
const STEP: usize = 8;

/// Of ordinary memory. All between 2^n and 2^(n+1) are multiples of 2^(n-2): so a size that is a multiple of an alignment gets
/// a class that is, too.
const MANY: [usize; 32] = [
    8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896,
    1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 6144, 8192,
];
/// Of reclaimable memory, and of memory for DMA.
const FEW: [usize; 13] = [
    8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192,
];

macro_rules! names {
    ($prefix:literal: $($size:literal)*) => {
        [$(concat!($prefix, $size)),*]
    };
}

const MANY_NAMES: [&str; MANY.len()] = names!("kmalloc-":
    "8" "16" "24" "32" "48" "64" "80" "96" "112" "128" "160" "192" "224" "256" "320" "384" "448" "512" "640" "768" "896"
    "1k" "1280" "1536" "1792" "2k" "2560" "3k" "3584" "4k" "6k" "8k");
const RCL_NAMES: [&str; FEW.len()] = names!("kmalloc-rcl-":
    "8" "16" "32" "64" "96" "128" "192" "256" "512" "1k" "2k" "4k" "8k");
const DMA_NAMES: [&str; FEW.len()] = names!("dma-kmalloc-":
    "8" "16" "32" "64" "96" "128" "192" "256" "512" "1k" "2k" "4k" "8k");

/// By size in steps: the slot. Entry 0, for size 0, is of a cache of which no CPU has an array.
static MANY_SLOTS: [u8; KMALLOC_MAX_CACHE_SIZE / STEP + 1] = slots(NR_INTERNAL, &MANY);
static RCL_SLOTS: [u8; KMALLOC_MAX_CACHE_SIZE / STEP + 1] = slots(FIRST_RCL, &FEW);
static DMA_SLOTS: [u8; KMALLOC_MAX_CACHE_SIZE / STEP + 1] = slots(FIRST_DMA, &FEW);

#[expect(clippy::cast_possible_truncation, reason = "fewer than 256 classes")]
const fn slots(first: usize, sizes: &[usize]) -> [u8; KMALLOC_MAX_CACHE_SIZE / STEP + 1] {
    let mut slots = [ARRAYS; KMALLOC_MAX_CACHE_SIZE / STEP + 1];
    let (mut at, mut class) = (1, 0);
    while at < slots.len() {
        if at * STEP > sizes[class] {
            class += 1;
        }
        slots[at] = (first + class) as u8;
        at += 1;
    }
    slots
}

/// The caches of the first slots, in order.
pub(crate) fn first_caches() -> impl Iterator<Item = CacheArgs> {
    let internal = [
        CacheArgs::new("kmem_cache_cpu", crate::front::ARRAY_BYTES).align(64),
        CacheArgs::new("kmem_cache_depot", crate::block::BLOCK_BYTES).align(64),
    ];
    let internal = internal.map(|args| args.flags(CacheFlags::CHECKED | CacheFlags::NO_MERGE));
    let of = |sizes: &'static [usize], names: &'static [&'static str], flags| {
        sizes.iter().zip(names).map(move |(&size, &name)| {
            CacheArgs::new(name, size)
                .align(align_of_size(size))
                .flags(flags)
        })
    };
    internal
        .into_iter()
        .chain(of(&MANY, &MANY_NAMES, CacheFlags::empty()))
        .chain(of(&FEW, &RCL_NAMES, CacheFlags::RECLAIM_ACCOUNT))
        .chain(of(&FEW, &DMA_NAMES, CacheFlags::CACHE_DMA))
}

/// The largest power of two, up to a page, that divides a size.
const fn align_of_size(size: usize) -> usize {
    let align = 1 << size.trailing_zeros();
    if align < PAGE_SIZE { align } else { PAGE_SIZE }
}

/// The slot that serves a size of ordinary memory; that of no array for 0; `None` when pages do. Linux: `kmalloc_index`.
#[inline(always)]
pub(crate) fn slot_of(size_bytes: usize) -> Option<u8> {
    MANY_SLOTS
        .get(size_bytes.wrapping_add(STEP - 1) / STEP)
        .copied()
}

/// As [`slot_of`], of memory for `gfp` at multiples of `align`, a power of two up to a page. Linux: `kmalloc_type`.
///
/// Requests below 4 GiB are served below 16 MiB, as there is no cache between.
#[inline(always)]
pub(crate) fn slot_of_request(size_bytes: usize, align: usize, gfp: Gfp) -> Option<u8> {
    if size_bytes > KMALLOC_MAX_CACHE_SIZE || align > PAGE_SIZE {
        return None;
    }
    let slots = if gfp.intersects(Gfp::DMA | Gfp::DMA32) {
        &DMA_SLOTS
    } else if gfp.contains(Gfp::RECLAIMABLE) {
        &RCL_SLOTS
    } else {
        &MANY_SLOTS
    };
    let rounded = (size_bytes + (align - 1)) & !(align - 1);
    slots.get(rounded.wrapping_add(STEP - 1) / STEP).copied()
}

/// How much room ordinary memory for a request has; 0 when there is none so large. Linux: `kmalloc_size_roundup`.
pub(crate) fn room_of(size_bytes: usize, align: usize) -> usize {
    if size_bytes == 0 || size_bytes > crate::KMALLOC_MAX_SIZE {
        return 0;
    }
    match slot_of_request(size_bytes, align, Gfp::KERNEL) {
        Some(slot) => MANY[usize::from(slot) - NR_INTERNAL],
        None => Order::for_size(size_bytes.max(align)).map_or(0, Order::size_bytes),
    }
}

/// The cache that would serve a request, by name: what who has no caches of sizes calls its memory.
pub(crate) fn name_of_request(size_bytes: usize, align: usize, gfp: Gfp) -> Option<&'static str> {
    let slot = slot_of_request(size_bytes, align, gfp)?;
    first_caches().nth(slot.into()).map(|args| args.name)
}

//! The heap: what `linked_list_allocator` was before.
//!
//! No heap of a fixed size has to be mapped in advance: slub takes pages from the frame allocator when objects need
//! them, and gives them back when they do not.

use core::ops::Range;

use kmm_frame::{MemMap, PAGE_SIZE, PfnRange, PhysAddr, VirtAddr};
use kmm_host::{DirectMap, OneCpu, PhysMap};
use kmm_slub::{CacheSlot, CpuSlot, KmemAlloc, NoEarlyHeap, Slub, SlubConfig, SlubStorage};

use crate::memory::Frames;

/// Any `lock_api::RawMutex` will do. If interrupt handlers allocate, take one that switches interrupts off.
type Lock = spin::Mutex<()>;

static FRAMES: spin::Once<Frames> = spin::Once::new();
/// Room for the caches: kmalloc's sizes, and some of our own.
static CACHES: [CacheSlot<Lock>; 128] = [const { CacheSlot::new() }; 128];
/// And for what the CPU has of its own.
static CPUS: [CpuSlot<Lock>; 1] = [CpuSlot::new()];

type Objects = Slub<&'static Frames, DirectMap, Lock, OneCpu>;
static SLUB: spin::Once<Objects> = spin::Once::new();

/// Empty until `init_heap` sets it.
#[global_allocator]
pub static HEAP: KmemAlloc<Objects> = KmemAlloc::new(NoEarlyHeap);

/// # Safety
/// `usable` is RAM that nobody uses, mapped at `phys_offset` for ever.
pub unsafe fn init_heap(usable: Range<u64>, phys_offset: u64) {
    let ram = PfnRange::inside(PhysAddr::new(usable.start), PhysAddr::new(usable.end));
    // SAFETY: by the caller, all of `ram` is mapped there, and no other frame is asked for.
    let phys = unsafe { DirectMap::new(VirtAddr::new(phys_offset), ram.end()) };

    // The first frames hold the descriptors of all: 64 bytes for each, 1.6 % of memory.
    let layout = MemMap::layout(ram).expect("a memory map of sound size");
    let storage = phys.direct(ram.start()).expect("below the end");
    // SAFETY: the frames are ours and reachable; the frame allocator starts behind them.
    let map = unsafe { MemMap::new_in(ram, storage) };
    let free = PfnRange::new(ram.start() + layout.size().div_ceil(PAGE_SIZE), ram.end());

    // SAFETY: what is left of `ram` is ours to give.
    let frames = FRAMES.call_once(|| unsafe { Frames::new(free, map, phys) });
    let config = SlubConfig::new(|bug| panic!("{bug}")); // a double free, say
    // SAFETY: this kernel runs on one CPU, and has no threads.
    let cpu = unsafe { OneCpu::new() };
    let storage = SlubStorage {
        caches: &CACHES,
        cpus: &CPUS,
    };
    let slub = Slub::new(frames, phys, map, cpu, storage, config).expect("enough slots");
    HEAP.set(SLUB.call_once(|| slub));
}

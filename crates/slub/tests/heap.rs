//! This whole program, its test harness included, allocates from slub: it is the `#[global_allocator]`, as in a kernel.
//! Before `init` the early heap serves, which is the host's.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::alloc::System;
use std::collections::{BTreeMap, HashMap};
use std::thread;

use kmm_frame::{Gfp, MemMap, Pfn, PfnRange, VirtAddr};
use kmm_host::{
    AllocError, CpuId, CpuPin, Cpus, DirectMap, PageBlock, PageReq, PageSource, PhysMap,
};
use kmm_slub::{CacheSlot, CpuSlot, EarlyHeap, KmemAlloc, Slub, SlubConfig, SlubStorage};

const NR_FRAMES: usize = 8192;
const REGION_BYTES: usize = NR_FRAMES * 4096;

type Lock = spin::Mutex<()>;
type Kernel = Slub<&'static Frames, DirectMap, Lock, Threads>;

/// First fit over one flag for each frame. Itself without an allocation, as it is called from within one.
struct Frames(spin::Mutex<[bool; NR_FRAMES]>);

// SAFETY: a frame is handed out only while its flag is clear; all are part of the region.
unsafe impl PageSource for Frames {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let nr = req.order.nr_pages();
        let mut used = self.0.lock();
        let start = (0..NR_FRAMES / nr)
            .map(|block| block * nr)
            .find(|&start| !used[start..start + nr].contains(&true))
            .ok_or(AllocError::OutOfMemory)?;
        used[start..start + nr].fill(true);
        // SAFETY: the counter gives each frame out once.
        let mut block = unsafe { PageBlock::from_raw(Pfn::new(start), req.order) };
        if req.gfp.contains(Gfp::ZERO) {
            map().clear(&mut block);
        }
        Ok(block)
    }

    fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let mut used = self.0.lock();
        let flags = &mut used[start.index()..start.index() + order.nr_pages()];
        assert!(!flags.contains(&false), "double free of pages");
        flags.fill(false);
    }
}

/// Each thread is a CPU: the harness's, the test's, and those that it starts.
#[derive(Debug)]
struct Threads;

const NR_THREADS: usize = 16;

// SAFETY: every thread has a number of its own.
unsafe impl Cpus for Threads {
    fn nr_cpus(&self) -> usize {
        NR_THREADS
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        if NUMBER.get() == usize::MAX {
            NUMBER.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        assert!(NUMBER.get() < NR_THREADS, "more threads than CPUs");
        // SAFETY: one thread has one number, and keeps it.
        f(unsafe { CpuPin::new(CpuId::new(NUMBER.get() as u32)) })
    }
}

/// The host's heap, for whatever lies outside the region.
struct Early {
    region: AtomicUsize,
    nr_freed: AtomicUsize,
}

// SAFETY: the host's heap, which owns all memory but the region.
unsafe impl EarlyHeap for Early {
    fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.nr_freed.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) };
    }

    fn owns(&self, ptr: *mut u8) -> bool {
        let region = self.region.load(Ordering::Relaxed);
        !(region..region + REGION_BYTES).contains(&ptr.addr())
    }
}

#[global_allocator]
static HEAP: KmemAlloc<Kernel, Early> = KmemAlloc::new(Early {
    region: AtomicUsize::new(0),
    nr_freed: AtomicUsize::new(0),
});
static FRAMES: Frames = Frames(spin::Mutex::new([false; NR_FRAMES]));
static CACHES: [CacheSlot<Lock>; 64] = [const { CacheSlot::new() }; 64];
static CPUS: [CpuSlot<Lock>; NR_THREADS] = [const { CpuSlot::new() }; NR_THREADS];
static SLUB: spin::Once<Kernel> = spin::Once::new();

fn map() -> DirectMap {
    let region = HEAP.early().region.load(Ordering::Relaxed) as u64;
    // SAFETY: `init` keeps the region for ever, and its addresses start at frame 0.
    unsafe { DirectMap::new(VirtAddr::new(region), Pfn::new(NR_FRAMES)) }
}

fn init() -> &'static Kernel {
    let layout = Layout::from_size_align(REGION_BYTES, 4 << 20).unwrap();
    // SAFETY: the size is not zero.
    let region = unsafe { System.alloc(layout) };
    assert!(!region.is_null());
    HEAP.early()
        .region
        .store(region.expose_provenance(), Ordering::Relaxed);
    let range = PfnRange::with_len(Pfn::ZERO, NR_FRAMES);
    // SAFETY: as above.
    let storage = unsafe { System.alloc(MemMap::layout(range).unwrap()) };
    // SAFETY: fresh memory of that layout, kept for ever.
    let pages = unsafe { MemMap::new_in(range, NonNull::new(storage).unwrap()) };
    let config = SlubConfig::new(|bug| panic!("{bug}"));
    let storage = SlubStorage {
        caches: &CACHES,
        cpus: &CPUS,
    };
    let slub = Slub::new(&FRAMES, map(), pages, Threads, storage, config);
    let slub = SLUB.call_once(|| slub.unwrap());
    assert!(HEAP.set(slub), "the first one");
    assert!(!HEAP.set(slub), "the second one");
    slub
}

fn is_slub<T: ?Sized>(value: &T) -> bool {
    !HEAP
        .early()
        .owns(core::ptr::from_ref(value).cast::<u8>().cast_mut())
}

#[test]
fn a_whole_program_lives_on_slub() {
    let early_box = Box::new([7_u8; 300]);
    let mut early_vec: Vec<u32> = (0..100).collect();
    assert!(!is_slub(&*early_box) && !is_slub(&early_vec[0]));

    let slub = init();
    what_came_from_the_early_heap_goes_back_to_it(early_box, &mut early_vec);
    collections_hold_what_is_put_into_them(slub);
    layouts_are_honoured();
    two_threads_hammer();
    memory_comes_back(slub);
    slub.validate().unwrap();
}

fn what_came_from_the_early_heap_goes_back_to_it(
    early_box: Box<[u8; 300]>,
    early_vec: &mut Vec<u32>,
) {
    let freed = HEAP.early().nr_freed.load(Ordering::Relaxed);
    drop(early_box);
    assert_eq!(HEAP.early().nr_freed.load(Ordering::Relaxed), freed + 1);
    early_vec.extend(100..5000);
    assert!(is_slub(&early_vec[0]), "it grew into slub");
    assert!(early_vec.iter().copied().eq(0..5000));
}

fn collections_hold_what_is_put_into_them(slub: &Kernel) {
    let map: BTreeMap<u64, String> = (0..5000)
        .map(|n| (n * 7919 % 5003, n.to_string()))
        .collect();
    assert_eq!(map.len(), 5000);
    assert!(map.iter().all(|(key, value)| {
        is_slub(value.as_bytes()) && value.parse::<u64>().unwrap() * 7919 % 5003 == *key
    }));
    let large = vec![0xab_u8; 3 << 20];
    assert!(is_slub(&large[0]) && slub.nr_pages().large >= 1024);
    assert!(large.iter().all(|&byte| byte == 0xab));
    let zeroed = vec![0_u64; 100_000];
    assert!(is_slub(&zeroed[0]) && zeroed.iter().all(|&word| word == 0));
    let mut recycled = vec![0xff_u8; 640];
    recycled.clear();
    drop(recycled);
    assert_eq!(vec![0_u8; 640], [0; 640], "zeroed though it was used");
}

fn layouts_are_honoured() {
    for bit in 0..=20 {
        for size in [1, 24, 100, 5000, 70_000] {
            let layout = Layout::from_size_align(size, 1 << bit).unwrap();
            // SAFETY: the size is not zero.
            let ptr = unsafe { HEAP.alloc(layout) };
            assert!(
                !ptr.is_null() && ptr.addr() % layout.align() == 0,
                "{layout:?}"
            );
            // SAFETY: the block has that many bytes.
            unsafe { ptr.write_bytes(0x5a, size) };
            // SAFETY: it came from this heap with this layout.
            let grown = unsafe { HEAP.realloc(ptr, layout, size * 3) };
            assert!(!grown.is_null() && grown.addr() % layout.align() == 0);
            // SAFETY: the old bytes were written, and moved.
            assert!((0..size).all(|at| unsafe { grown.add(at).read() } == 0x5a));
            let layout = Layout::from_size_align(size * 3, 1 << bit).unwrap();
            // SAFETY: it came from this heap with this layout.
            unsafe { HEAP.dealloc(grown, layout) };
        }
    }
    let impossible = Layout::from_size_align(64 << 20, 8).unwrap();
    // SAFETY: the size is not zero.
    assert!(unsafe { HEAP.alloc(impossible) }.is_null());
}

fn two_threads_hammer() {
    let work = |seed: u64| {
        let mut lists: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut x = seed;
        for n in 0..100_000_u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
            let key = x >> 54;
            if x & 0x700 == 0 {
                let gone = lists.remove(&key).unwrap_or_default();
                assert!(gone.iter().all(|value| value >> 54 == key));
            } else {
                lists.entry(key).or_default().push(x);
            }
        }
        lists
    };
    let other = thread::spawn(move || work(1));
    drop(work(2));
    // Freed by another thread than the one that allocated it.
    drop(other.join().unwrap());
}

fn memory_comes_back(slub: &Kernel) {
    slub.shrink_all();
    let before = slub.nr_pages().total();
    let mut boxes: Vec<Box<[u64; 20]>> = (0..20_000).map(|n| Box::new([n; 20])).collect();
    assert!(slub.nr_pages().total() > before + 800);
    assert!((0..).zip(&boxes).all(|(n, values)| values[7] == n));
    boxes.truncate(1);
    let capacity = boxes.capacity();
    boxes.shrink_to_fit();
    assert!(boxes.capacity() < capacity);
    assert_eq!(*boxes[0], [0; 20]);
    drop(boxes);
    slub.shrink_all();
    let after = slub.nr_pages().total();
    assert!(after <= before + 4, "{before} pages, then {after}");
}

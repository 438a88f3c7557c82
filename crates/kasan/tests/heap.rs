//! A heap with redzones: what its users do right works, what they do wrong is reported.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "the tests are users of a heap, bad ones among them"
)]

mod common;

use core::alloc::{GlobalAlloc, Layout};
use core::cell::RefCell;
use core::sync::atomic::AtomicU8;
use std::alloc::System;
use std::collections::BTreeMap;

use common::{Caller, Lock, OnBug, access, kinds};
use kmm_frame::VirtAddr;
use kmm_kasan::{AccessKind, BugKind, Kasan, KasanConfig, KasanHeap, KasanStorage, SliceShadow};
use kmm_sim::seeded;

const ARENA_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;

/// Blocks of a page, checked: each comes back once, with its layout.
struct Blocks {
    arena: *mut u8,
    free: RefCell<Vec<usize>>,
    live: RefCell<BTreeMap<usize, Layout>>,
}

impl Blocks {
    fn new() -> Self {
        let layout = Layout::from_size_align(ARENA_BYTES, BLOCK_BYTES).unwrap();
        Self {
            // SAFETY: of some size; it is never freed.
            arena: unsafe { System.alloc_zeroed(layout) },
            free: RefCell::new((0..ARENA_BYTES / BLOCK_BYTES).collect()),
            live: RefCell::default(),
        }
    }
}

// SAFETY: each block is handed out to one at a time.
unsafe impl GlobalAlloc for Blocks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > BLOCK_BYTES || layout.align() > BLOCK_BYTES {
            return core::ptr::null_mut();
        }
        let Some(nr) = self.free.borrow_mut().pop() else {
            return core::ptr::null_mut();
        };
        self.live.borrow_mut().insert(nr, layout);
        self.arena.wrapping_add(nr * BLOCK_BYTES)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let offset = block.addr() - self.arena.addr();
        assert_eq!(offset % BLOCK_BYTES, 0);
        let nr = offset / BLOCK_BYTES;
        assert_eq!(self.live.borrow_mut().remove(&nr), Some(layout));
        // SAFETY: a block of the arena; the heap may write what it likes into it.
        unsafe { block.write_bytes(0xe7, layout.size()) };
        self.free.borrow_mut().insert(0, nr);
    }
}

type Watcher = Kasan<SliceShadow<'static>, Lock, Caller, OnBug>;

fn watched(nr_waiting: usize) -> KasanHeap<Blocks, &'static Watcher> {
    let blocks = Blocks::new();
    let start = VirtAddr::new(blocks.arena.expose_provenance() as u64);
    let bytes: Vec<AtomicU8> = (0..ARENA_BYTES / 8).map(|_| AtomicU8::new(0)).collect();
    let shadow = SliceShadow::new(start, bytes.leak());
    let storage = KasanStorage {
        records: vec![None; 512].leak(),
        waiting: vec![None; nr_waiting].leak(),
    };
    let config = KasanConfig::new(common::keep as OnBug);
    let kasan = Box::leak(Box::new(Kasan::new(shadow, Caller, storage, config)));
    KasanHeap::new(blocks, &*kasan)
}

#[test]
fn random_users_keep_their_bytes_and_all_blocks_come_back() {
    seeded(0xeab, |rng| {
        let heap = watched(8);
        let kasan = heap.sanitizer();
        let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let layout = |rng: &mut kmm_sim::Rng| {
            Layout::from_size_align(1 + rng.index(1000), 1 << rng.index(8)).unwrap()
        };
        let holds = |object: *mut u8, size: usize, len: usize, byte: u8| {
            let addr = VirtAddr::new(object.addr() as u64);
            assert!(kasan.check(access(addr, size, AccessKind::Read), None));
            assert!(!kasan.check(access(addr - 1, 1, AccessKind::Read), None));
            assert!(!kasan.check(access(addr + size as u64, 1, AccessKind::Read), None));
            // SAFETY: a live object of at least `len` bytes.
            let bytes = unsafe { core::slice::from_raw_parts(object, len) };
            assert!(bytes.iter().all(|&found| found == byte));
        };
        for nr in 0..4000_u32 {
            let byte = nr.to_le_bytes()[0];
            match rng.below(4) {
                0 | 1 if live.len() < 100 => {
                    let layout = layout(rng);
                    // SAFETY: no layout here has size 0.
                    let object = unsafe { heap.alloc(layout) };
                    assert!(!object.is_null() && object.addr() % layout.align() == 0);
                    // SAFETY: a new object.
                    unsafe { object.write_bytes(byte, layout.size()) };
                    live.push((object, layout, byte));
                }
                2 if !live.is_empty() => {
                    let (object, layout, byte) = live.swap_remove(rng.index(live.len()));
                    holds(object, layout.size(), layout.size(), byte);
                    // SAFETY: live, with its layout.
                    unsafe { heap.dealloc(object, layout) };
                }
                3 if !live.is_empty() => {
                    let nr = rng.index(live.len());
                    let (object, old, byte) = live[nr];
                    let size = 1 + rng.index(1000);
                    // SAFETY: live, with its layout.
                    let new = unsafe { heap.realloc(object, old, size) };
                    assert_ne!(new, object, "it moves");
                    holds(new, size, size.min(old.size()), byte);
                    // SAFETY: a live object.
                    unsafe { new.write_bytes(byte, size) };
                    let layout = Layout::from_size_align(size, old.align()).unwrap();
                    live[nr] = (new, layout, byte);
                }
                _ => {}
            }
        }
        common::reports();
        for (object, layout, _) in live {
            // SAFETY: live, with its layout.
            unsafe { heap.dealloc(object, layout) };
        }
        assert!(kinds().is_empty());
        assert!(kasan.quarantine_bytes() > 0);
        heap.drain();
        assert!(heap.inner().live.borrow().is_empty());
    });
}

#[test]
fn what_is_no_object_is_refused() {
    let heap = watched(8);
    let layout = Layout::from_size_align(100, 8).unwrap();
    // SAFETY: of some size.
    let object = unsafe { heap.alloc(layout) };
    // SAFETY: breaks the contract on purpose; a sanitizer refuses it, and nothing happens.
    unsafe { heap.dealloc(object.wrapping_add(16), layout) };
    assert_eq!(kinds(), [BugKind::InvalidFree]);
    // SAFETY: live, with its layout.
    unsafe { heap.dealloc(object, layout) };
    assert!(kinds().is_empty());
    // SAFETY: breaks the contract on purpose.
    unsafe { heap.dealloc(object, layout) };
    assert_eq!(kinds(), [BugKind::DoubleFree]);
    heap.drain();
    assert!(heap.inner().live.borrow().is_empty());
}

#[test]
fn switched_off_it_is_the_heap_itself() {
    let heap = KasanHeap::new(Blocks::new(), ());
    let layout = Layout::from_size_align(100, 8).unwrap();
    // SAFETY: of some size.
    let object = unsafe { heap.alloc_zeroed(layout) };
    assert_eq!(object.addr() % BLOCK_BYTES, 0, "nothing lies before it");
    let live = heap.inner().live.borrow().values().copied().next();
    assert_eq!(live, Some(layout));
    // SAFETY: live, with its layout.
    unsafe { heap.dealloc(object, layout) };
    assert!(heap.inner().live.borrow().is_empty());
    assert_eq!(size_of::<KasanHeap<u32, ()>>(), size_of::<u32>());
}

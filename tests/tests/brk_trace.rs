//! Down one call chain, from the system call to the object: `brk` asks for an area, the area's node is an object of slub's.
//!
//! The simulated machine's slub is this program's heap while `brk` runs, and the heap takes down who asks. Linux:
//! `sys_brk`, `do_brk_flags`, `vm_area_alloc`, `kmem_cache_alloc`.
#![allow(unsafe_code, missing_docs, reason = "a heap is made of it")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;
use std::backtrace::Backtrace;
use std::sync::Mutex;

use kmm::fault::NoFile;
use kmm::frame::{PAGE_SIZE, VirtAddr};
use kmm::slub::{EarlyHeap, KmemAlloc};
use kmm::{AddressSpace, Objects};
use kmm_sim::{Config, Machine};
use kmm_tests::boot;

type Heap = KmemAlloc<Objects<Machine>, Host>;

/// The heap of the host, which owns whatever is no RAM of the machine.
struct Host;

static RAM: Mutex<core::ops::Range<usize>> = Mutex::new(0..0);

// SAFETY: the host's heap, which owns all memory but the machine's.
unsafe impl EarlyHeap for Host {
    fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `GlobalAlloc::alloc` asks the same of its callers.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: it came from `alloc`, by the caller.
        unsafe { System.dealloc(ptr, layout) };
    }

    fn owns(&self, ptr: *mut u8) -> bool {
        !RAM.lock().is_ok_and(|ram| ram.contains(&ptr.addr()))
    }
}

/// Slub's while `IS_KERNEL`, the host's otherwise.
struct Traced(Heap);

#[global_allocator]
static HEAP: Traced = Traced(KmemAlloc::new(Host));
static CALLERS: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static IS_KERNEL: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: both heaps hand out memory of the layout asked for, and `Host::owns` tells them apart.
unsafe impl GlobalAlloc for Traced {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_KERNEL.replace(false) {
            // SAFETY: the caller's obligation is the same.
            return unsafe { System.alloc(layout) };
        }
        // What slub, the machine and the trace want for themselves is the host's.
        // SAFETY: the caller's obligation is the same.
        let ptr = unsafe { self.0.alloc(layout) };
        let trace = Backtrace::force_capture().to_string();
        CALLERS.lock().unwrap().push(trace);
        IS_KERNEL.set(true);
        ptr
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let was = IS_KERNEL.replace(false);
        // SAFETY: it came from one of the two heaps, by the caller, and `owns` tells which.
        unsafe { self.0.dealloc(ptr, layout) };
        IS_KERNEL.set(was);
    }
}

#[test]
fn brk_leads_to_an_object_of_slubs() {
    let booted = boot(Config::with_mib(16)).unwrap_or_else(|error| panic!("{error}"));
    let ram = booted.machine.spanned();
    let phys = kmm::host::Host::phys(booted.machine);
    let first = kmm::host::PhysMap::direct(phys, ram.start()).unwrap();
    let size_bytes = ram.nr_pages() * PAGE_SIZE;
    *RAM.lock().unwrap() = first.addr().get()..first.addr().get() + size_bytes;
    let slub = booted.manager.slub();
    assert!(HEAP.0.set(slub), "the heap is set once");

    let mut space = AddressSpace::<Machine, NoFile>::new(booted.manager).unwrap();
    let start = VirtAddr::new(0x60_0000);
    space.set_brk_start(start);
    // Slub's own apart.
    let objects = || -> usize {
        let infos = slub.cache_infos();
        let users = infos.filter(|cache| !cache.name.starts_with("kmem_cache"));
        users.map(|cache| cache.active_objs).sum()
    };
    let before = objects();
    IS_KERNEL.set(true);
    let end = space.brk(start + 0x5000);
    IS_KERNEL.set(false);
    assert_eq!(end, start + 0x5000);

    let callers = CALLERS.lock().unwrap();
    assert!(!callers.is_empty(), "no area was allocated");
    assert_eq!(
        objects(),
        before + callers.len(),
        "each is an object of slub's"
    );
    // A trace names the innermost first.
    let chain = ["kmm_kcoll", "grow_heap", "try_brk", "AddressSpace"];
    for trace in callers.iter() {
        let mut rest = trace.as_str();
        for name in chain {
            let at = rest.find(name);
            let at = at.unwrap_or_else(|| panic!("{name} is missing from the chain:\n{trace}"));
            rest = &rest[at..];
        }
    }
    drop(callers);
    drop(space);
    assert_eq!(
        objects(),
        before,
        "the areas' objects go with the address space"
    );
}

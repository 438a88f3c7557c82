//! The list of areas cannot grow: the heap refuses, at each point where it is asked.
#![allow(unsafe_code, missing_docs, reason = "a test")]

mod common;

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;

use common::{iounmap, rig, vfree, vunmap};
use kmm_frame::{Gfp, PAGE_SIZE, Pfn, PhysAddr};
use kmm_pagetable_walker::PteFlags;
use kmm_vmalloc::{CacheMode, VmallocError};

thread_local! {
    /// How many allocations of this thread may still succeed.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Scarce;

// SAFETY: memory comes from the system.
unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match LEFT.get().checked_sub(1) {
            Some(left) => {
                if left != usize::MAX - 1 {
                    LEFT.set(left);
                }
                // SAFETY: the caller's promise.
                unsafe { System.alloc(layout) }
            }
            None => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; all memory is the system's.
        unsafe { System.dealloc(ptr, layout) };
    }
}

#[global_allocator]
static HEAP: Scarce = Scarce;

#[test]
fn each_growth_of_the_list_of_areas_may_fail() {
    let rig = rig();
    let mut live = Vec::with_capacity(400);
    let mut nr_refused = 0;
    for _ in 0..300 {
        for left in 0.. {
            let before = rig.outstanding();
            // The watched source allocates too, so vmalloc itself is tried below; device memory takes no pages once
            // there are tables.
            LEFT.set(left);
            let got = rig
                .vm
                .ioremap(PhysAddr::new(0xd000_0000), 1, CacheMode::Uncached);
            LEFT.set(usize::MAX);
            match got {
                Ok(addr) => {
                    live.push(addr);
                    break;
                }
                Err(error) => assert_eq!(error, VmallocError::OutOfMemory),
            }
            assert_eq!(rig.outstanding(), before);
            assert_eq!(rig.vm.areas().count(), live.len());
            nr_refused += 1;
        }
        if live.is_empty() {
            let addr = rig.vm.vmalloc(1, Gfp::KERNEL).unwrap();
            vfree(rig.vm, addr).unwrap();
        }
    }
    assert!(nr_refused > 5, "the list grew {nr_refused} times");
    rig.vm.validate().unwrap();
    LEFT.set(0);
    let refused = [
        rig.vm.vmalloc(PAGE_SIZE, Gfp::KERNEL).err(),
        rig.vm.vmap(&[Pfn::new(0x200)], PteFlags::NX).err(),
    ];
    LEFT.set(usize::MAX);
    // Whether the list had room or not, nothing is left behind.
    assert!(
        refused
            .iter()
            .flatten()
            .all(|error| *error == VmallocError::OutOfMemory)
    );
    for vm in rig.vm.areas().collect::<Vec<_>>() {
        let done = iounmap(rig.vm, vm.addr)
            .or_else(|_| vunmap(rig.vm, vm.addr))
            .or_else(|_| vfree(rig.vm, vm.addr));
        done.unwrap();
    }
    rig.assert_at_rest();
}

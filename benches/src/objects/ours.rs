//! Ours: `KmemAlloc` as a `GlobalAlloc`, over the zones of one node.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout};

use kmm_frame::PAGE_SIZE;
use kmm_host::DirectMap;
use kmm_slub::{
    CacheSlot, CpuSlot, KmemAlloc, NR_KMALLOC_CACHES, NoEarlyHeap, Slub, SlubConfig, SlubStorage,
};

use super::{ARENA_BYTES, Heap};
use crate::cpu::{NR_CPUS, ThreadCpus};
use crate::node::{Lock, Node, NodeZones};
use crate::region::{Pages, Region};

/// Slub as measured.
pub type NodeSlub = Slub<&'static NodeZones, DirectMap, Lock, ThreadCpus>;

/// The heap of a node of 256 MiB.
#[derive(Debug)]
pub struct Kmm {
    global: KmemAlloc<NodeSlub>,
    _ram: Region,
}

/// What is there before a heap: RAM, its descriptors and its zones. They do not count as the heap's.
#[derive(Debug)]
pub(super) struct Machine {
    node: &'static Node,
    ram: Region,
}

impl Machine {
    pub(super) fn new(pages: Pages) -> Self {
        let ram = Region::new(ARENA_BYTES, ARENA_BYTES, pages);
        // SAFETY: the region lives as long as the heap, and nobody allocates from a heap that is gone.
        let node = unsafe { Node::new(ram.addr(), ARENA_BYTES / PAGE_SIZE) };
        Self {
            node: Box::leak(Box::new(node)),
            ram,
        }
    }
}

impl Kmm {
    /// Over huge pages, as times are measured.
    #[must_use]
    pub fn new() -> Self {
        Self::on(Machine::new(Pages::Huge))
    }

    /// The allocator with its whole interface.
    ///
    /// # Panics
    /// Never: it is set from the start.
    #[must_use]
    pub fn slub(&self) -> &'static NodeSlub {
        self.global.kmem().expect("set at the start")
    }

    /// The allocator as a `GlobalAlloc`.
    #[must_use]
    pub const fn global(&self) -> &KmemAlloc<NodeSlub> {
        &self.global
    }

    pub(super) fn on(machine: Machine) -> Self {
        let slots: Vec<CacheSlot<Lock>> = (0..NR_KMALLOC_CACHES + 1)
            .map(|_| CacheSlot::new())
            .collect();
        let cpus: Vec<CpuSlot<Lock>> = (0..NR_CPUS).map(|_| CpuSlot::new()).collect();
        let storage = SlubStorage {
            caches: slots.leak(),
            cpus: cpus.leak(),
        };
        let config = SlubConfig::new(|bug| panic!("{bug}"));
        let (zones, phys) = (machine.node.zones(), machine.node.phys());
        let slub = Slub::new(zones, phys, zones.map(), ThreadCpus, storage, config);
        let slub = slub.expect("enough slots");
        let global = KmemAlloc::new(NoEarlyHeap);
        assert!(global.set(Box::leak(Box::new(slub))), "set twice");
        Self {
            global,
            _ram: machine.ram,
        }
    }
}

impl Default for Kmm {
    fn default() -> Self {
        Self::new()
    }
}

impl Heap for Kmm {
    #[inline(always)]
    fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no layout of the workloads is of size 0.
        unsafe { self.global.alloc(layout) }
    }

    #[inline(always)]
    unsafe fn free(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.global.dealloc(ptr, layout) };
    }
}

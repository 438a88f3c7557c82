//! Ours: `KmemAlloc` as a `GlobalAlloc`, over the zones of one node, with each of the back ends.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout};

use kmm_frame::PAGE_SIZE;
use kmm_host::DirectMap;
use kmm_slub::{
    CacheSlot, CpuSlot, InObject, IndexArray, Kmem, KmemAlloc, NR_KMALLOC_CACHES, NoEarlyHeap,
    ObjectCaches, SlabKind, Slob, SlobSlot, SlubConfig, SlubStorage,
};

use super::{ARENA_BYTES, Heap};
use crate::cpu::{NR_CPUS, ThreadCpus};
use crate::node::{Lock, Node, NodeZones};
use crate::region::{Pages, Region};

type OnNode<K> = ObjectCaches<K, &'static NodeZones, DirectMap, Lock, ThreadCpus>;
/// Slub as measured.
pub type NodeSlub = OnNode<InObject>;
/// SLAB as measured.
pub type NodeSlab = OnNode<IndexArray>;
/// SLOB as measured.
pub type NodeSlob = Slob<&'static NodeZones, DirectMap, Lock>;

/// The heap of a node of 256 MiB.
#[derive(Debug)]
pub struct Kmm<S: 'static = NodeSlub> {
    global: KmemAlloc<S>,
    _ram: Region,
}

/// A back end that can be measured.
pub trait BackEnd: Kmem + Sync + Sized + 'static {
    /// One over the node's zones.
    fn on(node: &'static Node) -> Self;
}

impl<K: SlabKind + Sync> BackEnd for OnNode<K> {
    fn on(node: &'static Node) -> Self {
        let slots: Vec<CacheSlot<Lock>> = (0..NR_KMALLOC_CACHES + 1)
            .map(|_| CacheSlot::new())
            .collect();
        let cpus: Vec<CpuSlot<Lock>> = (0..NR_CPUS).map(|_| CpuSlot::new()).collect();
        let storage = SlubStorage {
            caches: slots.leak(),
            cpus: cpus.leak(),
        };
        let config = SlubConfig::new(|bug| panic!("{bug}"));
        let (zones, phys) = (node.zones(), node.phys());
        let caches = Self::new(zones, phys, zones.map(), ThreadCpus, storage, config);
        caches.expect("enough slots")
    }
}

impl BackEnd for NodeSlob {
    fn on(node: &'static Node) -> Self {
        let config = SlubConfig::new(|bug| panic!("{bug}"));
        let (zones, phys) = (node.zones(), node.phys());
        let slots = vec![SlobSlot::new()].leak();
        Self::new(zones, phys, zones.map(), slots, config).expect("few slots")
    }
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

impl<S: BackEnd> Kmm<S> {
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
    pub fn slub(&self) -> &'static S {
        self.global.kmem().expect("set at the start")
    }

    /// The allocator as a `GlobalAlloc`.
    #[must_use]
    pub const fn global(&self) -> &KmemAlloc<S> {
        &self.global
    }

    pub(super) fn on(machine: Machine) -> Self {
        let kmem = S::on(machine.node);
        let global = KmemAlloc::new(NoEarlyHeap);
        assert!(global.set(Box::leak(Box::new(kmem))), "set twice");
        Self {
            global,
            _ram: machine.ram,
        }
    }
}

impl<S: BackEnd> Default for Kmm<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: BackEnd> Heap for Kmm<S> {
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

//! The front: what both `Slub` and `Slab` have before their slabs. Tables of caches, CPUs' arrays, the depot, kmalloc.
//!
//! hot ── slow ── home ── slabs ── page source
//!
//! `hot` is what is inlined. What it cannot do goes to `slow`: fill or empty an array, one lock for a batch. `home` is past the
//! arrays: single objects, batches on their way to depot and slabs. The page source is called without lock and pin.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::AtomicUsize;

use kmm_frame::{MAX_NODES, MemMap, NodeId, Page, Pfn};
use kmm_host::{CpuId, Cpus, LOCAL_WORD_OBJECTS, PageSource, PhysMap, Sanitizer};
use lock_api::RawMutex;

use crate::cache::{CacheSlot, Shape};
use crate::classes::{NR_KMALLOC_CACHES, first_caches};
use crate::debug::flags_of;
use crate::geometry::{CacheArgs, CacheFlags, Request};
use crate::slab::{Mem, SlabKind};
use crate::{SlubConfig, SlubError};

mod array;
mod bulk;
mod caches;
mod cpu;
mod debugged;
mod drain;
mod home;
mod hot;
mod index;
mod kmem;
mod large;
mod lookup;
mod report;
mod sampled;
mod sanitize;
mod shrinker;
mod slow;

pub(crate) use array::{ARRAY_BYTES, ArrayTotals, CELLS, Event};
pub use cpu::{CpuSlot, MAX_CACHES};

use cpu::BARRED;

/// The depot of a cache may have so many bytes on a node.
const DEPOT_BYTES_MAX: usize = 1 << 20;
/// Or one in so many of memory.
const DEPOT_SHARE: usize = 256;
/// All CPUs together may have one in so many of that in stock, besides.
const STOCK_SHARE: usize = 2;

/// Object caches and `kmalloc` over a source of pages, whose slabs are of kind `K`: see [`Slub`](crate::Slub).
///
/// Any number of CPUs and interrupts may call it at once, if the lock `L` allows that. No call to the page source is
/// made under a lock.
pub struct ObjectCaches<K, A, P, L: RawMutex + 'static, C> {
    /// Where the first frame of `described` is shown.
    first_addr: usize,
    /// All descriptors, if both they and the permanent map are plain arrays; else none.
    described: &'static [Page],
    /// What labels of slabs are sealed with, if CPUs of one node are all there are; else what no label has.
    key: u64,
    pub(crate) cpus: C,
    cpu_slots: &'static [CpuSlot<L>],
    /// The same, or none if frees by handle must not get into arrays.
    by_handle: &'static [CpuSlot<L>],
    pub(crate) slots: &'static [CacheSlot<L>],
    pub(crate) pages: A,
    pub(crate) phys: P,
    pub(crate) map: MemMap,
    pub(crate) config: SlubConfig,
    /// What labels are sealed with, in any case.
    seal: u64,
    depot_bytes: usize,
    stock_bytes: usize,
    pub(crate) large_pages: AtomicUsize,
    kind: PhantomData<K>,
}

impl<K, A, P, L: RawMutex, C> fmt::Debug for ObjectCaches<K, A, P, L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectCaches")
            .field("slots", &self.slots.len())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Room for an allocator's books, handed in so that none is needed to build one.
#[derive(Debug)]
pub struct SlubStorage<L: RawMutex + 'static> {
    /// One for each cache that there may ever be, kmalloc's [`NR_KMALLOC_CACHES`] included; 256 at most.
    pub caches: &'static [CacheSlot<L>],
    /// One for each CPU.
    pub cpus: &'static [CpuSlot<L>],
}

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// Sets up the kmalloc caches; takes no page. Linux: `kmem_cache_init`, `create_kmalloc_caches`.
    ///
    /// `map` describes the frames that `pages` hands out and `phys` shows. From then on the descriptors of frames that
    /// the allocator got from `pages` are its own.
    ///
    /// # Errors
    /// [`SlubError::NoSlot`] unless the first [`NR_KMALLOC_CACHES`] slots are there, at most [`MAX_CACHES`], one slot for each
    /// CPU, and all of them new.
    pub fn new(
        pages: A,
        phys: P,
        map: MemMap,
        cpus: C,
        storage: SlubStorage<L>,
        config: SlubConfig,
    ) -> Result<Self, SlubError> {
        let SlubStorage {
            caches: slots,
            cpus: cpu_slots,
        } = storage;
        let first = slots.get(..NR_KMALLOC_CACHES).ok_or(SlubError::NoSlot)?;
        let nr_cpus = cpus.nr_cpus();
        if slots.len() > MAX_CACHES
            || cpu_slots.len() < nr_cpus
            || first.iter().any(|slot| slot.lock().cache.is_some())
            || cpu_slots.iter().any(CpuSlot::is_taken)
        {
            return Err(SlubError::NoSlot);
        }
        let seal = config.secret.rotate_left(17) ^ 0xa076_1d64_78bd_642f;
        let has_nodes = config.topology.is_some_and(|all| all.nodes().len() > 1);
        // Who frees by handle or size may have an object of elsewhere.
        let looks_first = has_nodes || config.kfence.is_some();
        let (first_addr, described) = linear(&map, &phys).unwrap_or((0, &[]));
        let memory_bytes = map.overhead().nr_pages * kmm_frame::PAGE_SIZE;
        let depot_bytes = DEPOT_BYTES_MAX.min(memory_bytes / DEPOT_SHARE);
        let depot_bytes = config.depot_bytes.unwrap_or(depot_bytes);
        let this = Self {
            first_addr,
            described,
            key: if has_nodes { !seal } else { seal },
            cpus,
            cpu_slots,
            by_handle: if looks_first { &[] } else { cpu_slots },
            slots,
            pages,
            phys,
            map,
            config,
            seal,
            depot_bytes,
            stock_bytes: depot_bytes / (STOCK_SHARE * nr_cpus),
            large_pages: AtomicUsize::new(0),
            kind: PhantomData,
        };
        for (slot, args) in first.iter().zip(first_caches()) {
            slot.fill(this.shape(args)?);
        }
        for (nr, slot) in (0..).zip(cpu_slots) {
            let node = this.node_of_cpu(CpuId::new(nr));
            slot.init(node, this.label(node, 0));
            if C::HAS_LOCAL_WORDS && (nr as usize) < nr_cpus {
                let cpu = CpuId::new(nr);
                let by_handle = if looks_first { &BARRED } else { slot.table() };
                for (word, table) in [slot.table(), by_handle].into_iter().enumerate() {
                    let table = core::ptr::from_ref(table).cast_mut().cast();
                    this.cpus
                        .set_local_word(cpu, LOCAL_WORD_OBJECTS + word, table);
                }
            }
        }
        Ok(this)
    }

    /// The layout of a new cache.
    pub(crate) fn shape(&self, args: CacheArgs) -> Result<Shape, SlubError> {
        let debug = flags_of(self.config.debug, args.name);
        let mut flags = args.flags;
        flags.set(
            CacheFlags::CHECKED,
            flags.contains(CacheFlags::CHECKED)
                || self.config.is_checked
                || self.config.sanitizer.is_some()
                || !debug.is_empty(),
        );
        let redzone = |sanitizer: &dyn Sanitizer| sanitizer.redzone_bytes(args.size_bytes);
        let request = Request {
            args,
            redzone_bytes: self
                .config
                .sanitizer
                .map_or(0, |sanitizer| redzone(sanitizer)),
            nr_cpus: self.cpus.nr_cpus(),
            secret: self.config.secret,
        };
        Ok(Shape {
            name: args.name,
            geometry: K::geometry(&request)?.debugged(debug, request.nr_cpus),
            flags,
            ctor: args.ctor,
        })
    }

    /// What the descriptors of a slab say in `mapping`.
    fn label(&self, node: usize, slot: u8) -> u64 {
        self.seal ^ ((node as u64) << 8 | u64::from(slot))
    }

    fn has_nodes(&self) -> bool {
        self.key != self.seal
    }

    pub(crate) fn node_of(&self, pfn: Pfn) -> usize {
        let node = self.config.topology.map(|all| all.node_of(pfn));
        node.map_or(0, NodeId::index).min(MAX_NODES - 1)
    }

    fn node_of_cpu(&self, cpu: CpuId) -> usize {
        let topology = self.config.topology;
        let node = topology.map(|all| all.node_of_cpu(cpu.index()));
        node.map_or(0, NodeId::index).min(MAX_NODES - 1)
    }

    pub(crate) fn mem(&self) -> Mem<'_, P> {
        Mem {
            map: self.map,
            phys: &self.phys,
        }
    }

    pub(crate) fn name_of(&self, slot: u8) -> Option<&'static str> {
        let state = self.slots.get(usize::from(slot))?.lock();
        state.cache.as_ref().map(|cache| cache.shape.name)
    }
}

/// Where descriptors and permanent map are plain arrays: the address of the first frame, and the descriptors.
fn linear<P: PhysMap>(map: &MemMap, phys: &P) -> Option<(usize, &'static [Page])> {
    let base = phys.linear_base()?;
    let described = map.flat()?;
    let first = map.range().start().index() * kmm_frame::PAGE_SIZE;
    Some((base.wrapping_add(first), described))
}

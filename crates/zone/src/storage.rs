//! Memory that the host hands over for what grows with the machine.
#![expect(
    unsafe_code,
    reason = "what zones keep is laid into memory that the host hands over"
)]

use core::alloc::{Layout, LayoutError};
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use kmm_buddy::{FreeBits, Pageblock};
use kmm_frame::ZoneType;

use crate::pcp::{NOBODY, Way};
use crate::{CpuCounts, Node, NodeLayouts, Pcp};

/// What zones keep outside themselves, fresh: as much of each as [`NodeLayouts`] says, or more.
///
/// From statics where the machine is known, else from memory of memblock.
pub struct ZoneStorage<L: 'static> {
    /// Room for each node: [`NodeLayouts::nr_nodes`].
    pub nodes: &'static mut [MaybeUninit<Node<L>>],
    /// One for each CPU.
    pub first_pcps: &'static [FirstPcps],
    /// One for each CPU of each node, node by node; or none, then all CPUs count in the totals, by locked instructions.
    pub cpu_counts: &'static [CpuCounts],
    /// A pageset for each CPU and zone: [`NodeLayouts::nr_pcps`].
    pub pcps: &'static [Pcp],
    /// A byte for each pageblock: [`NodeLayouts::nr_pageblocks`].
    pub pageblocks: &'static [Pageblock],
    /// What is free: 128 bytes for two pageblocks, and some more: [`NodeLayouts::nr_free_bits`].
    pub free_bits: &'static mut [FreeBits],
}

impl<L> fmt::Debug for ZoneStorage<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneStorage")
            .field("nr_nodes", &self.nodes.len())
            .field("nr_pcps", &self.pcps.len())
            .finish_non_exhaustive()
    }
}

impl<L> ZoneStorage<L> {
    /// How much memory the zones of `nodes` want with so many CPUs, or `None` when that is more than an address space
    /// holds.
    #[must_use]
    pub fn layout(nodes: &NodeLayouts, nr_cpus: usize) -> Option<Layout> {
        Parts::new::<L>(nodes, nr_cpus).ok().map(|parts| parts.all)
    }

    /// Lays everything into `storage`, as boot code does with memory from memblock.
    ///
    /// # Panics
    /// When [`ZoneStorage::layout`] is `None`.
    ///
    /// # Safety
    /// 1. `storage` is valid for writes of [`ZoneStorage::layout`]`(nodes, nr_cpus)` and aligned to it.
    /// 2. Nobody else uses that memory from now on, ever.
    #[must_use]
    pub unsafe fn new_in(nodes: &NodeLayouts, nr_cpus: usize, storage: NonNull<u8>) -> Self {
        let Ok(parts) = Parts::new::<L>(nodes, nr_cpus) else {
            panic!("zones larger than an address space");
        };
        let at = |offset: usize| {
            // SAFETY: obligation 1: every offset is within the layout.
            unsafe { storage.add(offset) }
        };
        let empty = || FreeBits::EMPTY;
        Self {
            // SAFETY: obligations 1 and 2, for one part of the layout, which is aligned as its kind.
            free_bits: unsafe { fill(at(0).cast(), nodes.nr_free_bits(), empty) },
            // SAFETY: as above.
            pcps: unsafe { fill(at(parts.pcps).cast(), nodes.nr_pcps(nr_cpus), Pcp::new) },
            // SAFETY: as above.
            nodes: unsafe {
                fill(
                    at(parts.nodes).cast(),
                    nodes.nr_nodes(),
                    MaybeUninit::uninit,
                )
            },
            // SAFETY: as above.
            cpu_counts: unsafe {
                fill(
                    at(parts.cpu_counts).cast(),
                    nodes.nr_nodes() * nr_cpus,
                    CpuCounts::new,
                )
            },
            // SAFETY: as above.
            first_pcps: unsafe { fill(at(parts.first_pcps).cast(), nr_cpus, FirstPcps::new) },
            // SAFETY: as above.
            pageblocks: unsafe {
                fill(
                    at(parts.pageblocks).cast(),
                    nodes.nr_pageblocks(),
                    Pageblock::new,
                )
            },
        }
    }
}

/// Where in one piece of memory each part lies; the bits are at its beginning.
struct Parts {
    pcps: usize,
    nodes: usize,
    cpu_counts: usize,
    first_pcps: usize,
    pageblocks: usize,
    all: Layout,
}

impl Parts {
    fn new<L: 'static>(nodes: &NodeLayouts, nr_cpus: usize) -> Result<Self, LayoutError> {
        let all = Layout::array::<FreeBits>(nodes.nr_free_bits())?;
        let (all, pcps) = all.extend(Layout::array::<Pcp>(nodes.nr_pcps(nr_cpus))?)?;
        let (all, at_nodes) = all.extend(Layout::array::<Node<L>>(nodes.nr_nodes())?)?;
        let nr_counts = nodes.nr_nodes().saturating_mul(nr_cpus);
        let (all, cpu_counts) = all.extend(Layout::array::<CpuCounts>(nr_counts)?)?;
        let (all, first_pcps) = all.extend(Layout::array::<FirstPcps>(nr_cpus)?)?;
        let (all, pageblocks) = all.extend(Layout::array::<Pageblock>(nodes.nr_pageblocks())?)?;
        Ok(Self {
            pcps,
            nodes: at_nodes,
            cpu_counts,
            first_pcps,
            pageblocks,
            all,
        })
    }
}

/// Writes `count` values one after the other.
///
/// # Safety
/// 1. `first` is valid for writes of `count` values and aligned.
/// 2. Nobody else uses that memory from now on, ever.
unsafe fn fill<T>(first: NonNull<T>, count: usize, value: impl Fn() -> T) -> &'static mut [T] {
    for i in 0..count {
        // SAFETY: obligation 1: `i` is within the array.
        let slot = unsafe { first.add(i) };
        // SAFETY: obligations 1 and 2: the slot is valid, aligned, and ours alone.
        unsafe { slot.write(value()) };
    }
    // SAFETY: every element was written just now; obligation 2 gives the memory away for ever.
    unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) }
}

/// Makes a node for each slot; or none that anybody sees, when one of them cannot be made.
pub(crate) fn make_nodes<L, E>(
    slots: &'static mut [MaybeUninit<Node<L>>],
    mut make: impl FnMut(usize) -> Result<Node<L>, E>,
) -> Result<&'static [Node<L>], E> {
    for (nr, slot) in slots.iter_mut().enumerate() {
        slot.write(make(nr)?);
    }
    let first = slots.as_ptr().cast::<Node<L>>();
    // SAFETY: every slot was written just now, and is borrowed for ever.
    Ok(unsafe { core::slice::from_raw_parts(first, slots.len()) })
}

/// The pagesets of a CPU that requests try first, by the highest zone that may serve them: those of the highest such zone
/// of the CPU's own node, if it has one. Each way in one line, so that the hot path finds the pageset by one load.
#[derive(Debug)]
#[repr(align(64))]
pub struct FirstPcps([[AtomicPtr<Pcp>; Way::WORDS]; Way::ALL.len()]);

impl FirstPcps {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(
            [const { [const { AtomicPtr::new((&raw const NOBODY).cast_mut()) }; Way::WORDS] };
                Way::ALL.len()],
        )
    }

    /// Changes when memory comes or goes.
    pub(crate) fn set(&self, highest: ZoneType, way: Way, pcp: &'static Pcp) {
        self.0[way as usize][highest.index()].store(ptr::from_ref(pcp).cast_mut(), Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self, highest: ZoneType, way: Way) -> &'static Pcp {
        let pcp = self.0[way as usize][highest.index()].load(Relaxed);
        // SAFETY: what `new` or `set` has made of a reference that lives for ever; a `Pcp` is never written but through its
        // atomics. What it was made with came to this CPU together with the storage.
        unsafe { &*pcp }
    }
}

impl Default for FirstPcps {
    fn default() -> Self {
        Self::new()
    }
}

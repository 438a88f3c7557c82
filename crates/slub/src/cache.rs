//! One cache: what stays the same while it lives, and what its lock guards.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release},
};

use kmm_frame::{Gfp, Order};
use lock_api::{Mutex, RawMutex};

use crate::SlubError;
use crate::debug::{DebugFlags, Quarantine};
use crate::front::ArrayTotals;
use crate::geometry::{CacheFlags, Geometry};
use crate::node::Node;
use crate::nodes::Nodes;

/// Puts an object into its initial state, once per slab and not once per allocation. Linux: `ctor` of
/// `kmem_cache_create`.
///
/// Called with the object's address; it may write as many bytes as the objects of the cache have. Whoever frees an
/// object leaves it in that state.
pub type Ctor = unsafe fn(NonNull<u8>);

/// A cache of one allocator. Linux: `struct kmem_cache *`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KmemCache {
    pub(crate) slot: u8,
    pub(crate) generation: u32,
}

/// What stays the same while a cache lives; copied out, so that a slab can be built without the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) geometry: Geometry,
    pub(crate) flags: CacheFlags,
    pub(crate) ctor: Option<Ctor>,
}

impl Shape {
    /// What to ask the page source for, on behalf of a request with `gfp`.
    pub(crate) fn page_gfp(&self, gfp: Gfp) -> Gfp {
        let mut gfp = gfp - (Gfp::ZERO | Gfp::HIGHMEM | Gfp::MOVABLE_PAGE | Gfp::RECLAIMABLE);
        gfp.set(Gfp::DMA, self.flags.contains(CacheFlags::CACHE_DMA));
        gfp.set(
            Gfp::RECLAIMABLE,
            self.flags.contains(CacheFlags::RECLAIM_ACCOUNT),
        );
        gfp
    }

    /// Whether a cache of that shape can share the slabs of this one. Linux: `find_mergeable`.
    pub(crate) fn can_hold(&self, other: &Self) -> bool {
        let never = CacheFlags::NO_MERGE | CacheFlags::CHECKED;
        let same_pages = CacheFlags::CACHE_DMA | CacheFlags::RECLAIM_ACCOUNT;
        let (ours, theirs) = (&self.geometry, &other.geometry);
        self.ctor.is_none()
            && other.ctor.is_none()
            && !(self.flags | other.flags).intersects(never)
            && self.flags & same_pages == other.flags & same_pages
            && ours.stride >= theirs.stride
            && ours.stride - theirs.stride < size_of::<u64>()
            && ours.align % theirs.align == 0
    }
}

/// A cache, for whoever holds its lock.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) shape: Shape,
    pub(crate) nodes: Nodes,
    /// How many handles were given out.
    pub(crate) nr_handles: u32,
    /// Sums of CPUs' arrays that are gone.
    pub(crate) retired: ArrayTotals,
    /// Freed objects that wait.
    pub(crate) quarantine: Quarantine,
}

impl Cache {
    pub(crate) const fn new(shape: Shape) -> Self {
        Self {
            shape,
            nodes: Nodes::new(),
            nr_handles: 1,
            retired: ArrayTotals::NONE,
            quarantine: Quarantine::new(),
        }
    }

    pub(crate) fn node_mut(&mut self, node: usize) -> &mut Node {
        self.nodes.get_mut(node)
    }
}

/// Room for one cache: the caller hands an array of them to [`Slub::new`](crate::Slub).
pub struct CacheSlot<L: RawMutex> {
    state: Mutex<L, SlotState>,
    /// The cache's geometry, for those who free an object of it without its lock.
    words: [AtomicU64; 3],
    /// As in the state, for those who ask without the lock.
    generation: AtomicU32,
    /// Objects that owners gave back past the arrays: most of them without the lock.
    direct_frees: AtomicU64,
    /// Slabs that were built here, for whichever cache.
    nr_built: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct SlotState {
    /// Counts the caches that have lived here, so that a stale handle is noticed.
    pub(crate) generation: u32,
    pub(crate) cache: Option<Cache>,
}

impl<L: RawMutex> CacheSlot<L> {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        let state = SlotState {
            generation: 0,
            cache: None,
        };
        Self {
            state: Mutex::const_new(L::INIT, state),
            words: [const { AtomicU64::new(0) }; 3],
            generation: AtomicU32::new(0),
            direct_frees: AtomicU64::new(0),
            nr_built: AtomicU64::new(0),
        }
    }

    pub(crate) fn lock(&self) -> lock_api::MutexGuard<'_, L, SlotState> {
        self.state.lock()
    }

    /// Makes a cache here; the generation of its handle. `None` when there is one.
    pub(crate) fn fill(&self, shape: Shape) -> Option<u32> {
        let mut state = self.lock();
        if state.cache.is_some() {
            return None;
        }
        let Geometry {
            object_size,
            stride,
            word_at,
            is_constructed,
            debug,
            beside,
            align,
            order,
            min_order,
            secret: _,
        } = shape.geometry;
        let orders = u64::from(order.get()) | u64::from(min_order.get()) << 8;
        let orders = orders | (beside as u64 | u64::from(debug.bits()) << 8) << 16;
        let orders = orders | u64::from(is_constructed) << 31;
        let words = [
            stride as u64 | (object_size as u64) << 32,
            word_at as u64 | (align as u64) << 32,
            orders | u64::from(shape.flags.bits()) << 32,
        ];
        for (word, value) in self.words.iter().zip(words) {
            word.store(value, Relaxed);
        }
        state.cache = Some(Cache::new(shape));
        Some(state.generation)
    }

    /// The geometry and flags of the cache that lives here. For those who know that one does: they have an object of it.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "halves of words")]
    pub(crate) fn geometry(&self, secret: u64) -> (Geometry, CacheFlags) {
        let [sizes, more, orders] = [0, 1, 2].map(|nr: usize| self.words[nr].load(Relaxed));
        let order = |byte: u64| Order::new(byte as u8).unwrap_or(Order::ZERO);
        let geometry = Geometry {
            object_size: (sizes >> 32) as usize,
            stride: (sizes as u32 as usize).max(1),
            word_at: more as u32 as usize,
            align: (more >> 32) as usize,
            is_constructed: orders >> 31 & 1 != 0,
            debug: DebugFlags::from_bits_truncate((orders >> 24 & 0x7f) as u8),
            beside: (orders >> 16 & 0xff) as usize,
            order: order(orders),
            min_order: order(orders >> 8),
            secret,
        };
        let flags = CacheFlags::from_bits_truncate((orders >> 32) as u32);
        (geometry, flags)
    }

    /// The cache is gone.
    pub(crate) fn empty(&self, state: &mut SlotState) {
        state.cache = None;
        state.generation = state.generation.wrapping_add(1);
        self.generation.store(state.generation, Release);
        self.direct_frees.store(0, Relaxed);
    }

    /// Whether the cache of a handle may still be there.
    pub(crate) fn is_of(&self, generation: u32) -> bool {
        self.generation.load(Relaxed) == generation
    }

    pub(crate) fn note_direct_free(&self) {
        self.direct_frees.fetch_add(1, Relaxed);
    }

    /// A slab is being built here; how many were before.
    pub(crate) fn note_built(&self) -> u64 {
        self.nr_built.fetch_add(1, Relaxed)
    }

    pub(crate) fn direct_frees(&self) -> u64 {
        self.direct_frees.load(Relaxed)
    }
}

impl SlotState {
    pub(crate) fn cache_of(&mut self, generation: Option<u32>) -> Result<&mut Cache, SlubError> {
        let is_live = generation.is_none_or(|generation| generation == self.generation);
        self.cache
            .as_mut()
            .filter(|_| is_live)
            .ok_or(SlubError::NoSuchCache)
    }
}

impl<L: RawMutex> Default for CacheSlot<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: RawMutex> fmt::Debug for CacheSlot<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheSlot").finish_non_exhaustive()
    }
}

//! Caches that many CPUs use: each behind its lock, and the page source asked without any.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm_frame::{Gfp, MemMap, NodeItem, Order, PageFlags, Pfn, PfnRange};
use kmm_host::{PageBlock, PageReq, PageSource, PhysMap};
use lock_api::{Mutex, RawMutex};

use crate::cache::{Cache, Ctor, Shape};
use crate::geometry::{CacheFlags, Geometry};
use crate::kmalloc::{LARGE, NR_KMALLOC_CACHES, kmalloc_shapes};
use crate::slab::{Mem, NewSlab};
use crate::stats::{Broken, CacheInfo, SlabPages, SlabUse};
use crate::{SlubBug, SlubBugKind, SlubError};

/// Room for one cache: the caller hands an array of them to [`Slub::new`].
pub struct CacheSlot<L: RawMutex>(Mutex<L, SlotState>);

#[derive(Debug)]
struct SlotState {
    /// Counts the caches that have lived here, so that a stale handle is noticed.
    generation: u32,
    cache: Option<Cache>,
}

impl<L: RawMutex> CacheSlot<L> {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::const_new(
            L::INIT,
            SlotState {
                generation: 0,
                cache: None,
            },
        ))
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

/// A cache of one [`Slub`]. Linux: `struct kmem_cache *`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KmemCache {
    slot: usize,
    generation: u32,
}

/// What the host settles once.
#[derive(Clone, Copy, Debug)]
pub struct SlubConfig {
    /// How many CPUs there are: with more of them, slabs are larger.
    pub nr_cpus: usize,
    /// Told of each mistake that is noticed, without any lock held.
    pub on_bug: fn(&SlubBug),
}

impl SlubConfig {
    /// One CPU.
    #[must_use]
    pub const fn new(on_bug: fn(&SlubBug)) -> Self {
        Self { nr_cpus: 1, on_bug }
    }
}

/// Object caches and `kmalloc` over a source of pages.
///
/// Any number of CPUs and interrupts may call it at once, if the lock `L` allows that. No call to the page source is
/// made under a lock.
pub struct Slub<A, P, L: RawMutex + 'static> {
    pub(crate) pages: A,
    pub(crate) phys: P,
    pub(crate) map: MemMap,
    pub(crate) large_pages: AtomicUsize,
    slots: &'static [CacheSlot<L>],
    config: SlubConfig,
}

impl<A, P, L: RawMutex> fmt::Debug for Slub<A, P, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slub")
            .field("slots", &self.slots.len())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<A: PageSource, P: PhysMap, L: RawMutex> Slub<A, P, L> {
    /// Sets up the kmalloc caches; takes no page. Linux: `kmem_cache_init`, `create_kmalloc_caches`.
    ///
    /// `map` describes the frames that `pages` hands out and `phys` shows. From then on the descriptors of frames that
    /// slub got from `pages` are its own.
    ///
    /// # Errors
    /// [`SlubError::NoSlot`] unless the first [`NR_KMALLOC_CACHES`] slots are there and empty.
    pub fn new(
        pages: A,
        phys: P,
        map: MemMap,
        slots: &'static [CacheSlot<L>],
        config: SlubConfig,
    ) -> Result<Self, SlubError> {
        let first = slots.get(..NR_KMALLOC_CACHES).ok_or(SlubError::NoSlot)?;
        if first.iter().any(|slot| slot.0.lock().cache.is_some()) {
            return Err(SlubError::NoSlot);
        }
        for (number, shape) in kmalloc_shapes(config.nr_cpus).enumerate() {
            first[number].0.lock().cache = Some(Cache::new(shape?, owner_of(number)));
        }
        Ok(Self {
            pages,
            phys,
            map,
            large_pages: AtomicUsize::new(0),
            slots,
            config,
        })
    }

    /// A new cache of objects of `size` bytes. Takes no page yet. Linux: `kmem_cache_create`.
    ///
    /// `align` is a power of two, at most a page; objects are at least 8-aligned.
    ///
    /// # Errors
    /// [`SlubError::InvalidLayout`], [`SlubError::TooLarge`] or [`SlubError::NoSlot`].
    pub fn cache_create(
        &self,
        name: &'static str,
        size: usize,
        align: usize,
        flags: CacheFlags,
        ctor: Option<Ctor>,
    ) -> Result<KmemCache, SlubError> {
        let shape = Shape {
            name,
            geometry: Geometry::new(size, align, flags, ctor.is_some(), self.config.nr_cpus)?,
            flags,
            ctor,
        };
        for (number, slot) in self.slots.iter().enumerate() {
            let mut state = slot.0.lock();
            if state.cache.is_none() {
                state.cache = Some(Cache::new(shape, owner_of(number)));
                return Ok(KmemCache {
                    slot: number,
                    generation: state.generation,
                });
            }
        }
        Err(SlubError::NoSlot)
    }

    /// Ends a cache and returns its pages. Linux: `kmem_cache_destroy`.
    ///
    /// # Errors
    /// [`SlubError::Busy`] when objects are in use: they are reported as leaked, and the cache stays as it is.
    /// [`SlubError::NoSuchCache`].
    pub fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        let slot = self.slots.get(cache.slot).ok_or(SlubError::NoSuchCache)?;
        loop {
            let mut state = slot.0.lock();
            let live = state.cache_of(cache.generation)?;
            let in_use = live.nr_in_use();
            if in_use > 0 {
                let name = live.shape.name;
                drop(state);
                self.report(SlubBugKind::Leaked(in_use), Some(name), 0);
                return Err(SlubError::Busy(in_use));
            }
            let flags = live.shape.flags;
            let Some(block) = live.detach_empty(self.mem()) else {
                state.cache = None;
                state.generation = state.generation.wrapping_add(1);
                return Ok(());
            };
            drop(state);
            self.free_slab(block, flags);
        }
    }

    /// An object of a cache. Its bytes are what the last user or the constructor left, or 0 with `Gfp::ZERO`.
    ///
    /// Linux: `kmem_cache_alloc`, `kmem_cache_zalloc`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it and a slab is needed; no lock is held then.
    ///
    /// # Errors
    /// [`SlubError::OutOfMemory`], [`SlubError::NoSuchCache`], [`SlubError::Constructed`].
    pub fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.alloc_in(cache.slot, Some(cache.generation), gfp)
    }

    /// Gives an object back to its cache. Linux: `kmem_cache_free`.
    ///
    /// A mistake that shows is reported and changes nothing: see [`SlubBugKind`].
    ///
    /// # Safety
    /// 1. `object` came from [`Slub::alloc`] of this `Slub`.
    /// 2. Nobody uses it any more; if the cache has a constructor, it is as constructed.
    pub unsafe fn free(&self, cache: KmemCache, object: NonNull<u8>) {
        let is_live = |slot: &CacheSlot<L>| slot.0.lock().cache_of(cache.generation).is_ok();
        if !self.slots.get(cache.slot).is_some_and(is_live) {
            return self.report(SlubBugKind::WrongCache, None, object.addr().get());
        }
        match self.locate(object) {
            Ok(Place::Slab { slot, head }) if slot == cache.slot => {
                self.free_in(slot, head, object);
            }
            Ok(_) => {
                let name = self.name_of(cache.slot);
                self.report(SlubBugKind::WrongCache, name, object.addr().get());
            }
            Err(kind) => self.report(kind, None, object.addr().get()),
        }
    }

    /// Returns the empty slabs of a cache; how many pages that were. Linux: `kmem_cache_shrink`.
    ///
    /// # Errors
    /// [`SlubError::NoSuchCache`].
    pub fn shrink(&self, cache: KmemCache) -> Result<usize, SlubError> {
        let slot = self.slots.get(cache.slot).ok_or(SlubError::NoSuchCache)?;
        slot.0.lock().cache_of(cache.generation)?;
        Ok(self.shrink_slot(slot))
    }

    /// Returns the empty slabs of all caches; how many pages that were.
    pub fn shrink_all(&self) -> usize {
        self.slots.iter().map(|slot| self.shrink_slot(slot)).sum()
    }

    /// The figures of each cache, one locked at a time: the lines of `/proc/slabinfo`.
    pub fn cache_infos(&self) -> impl Iterator<Item = CacheInfo> + '_ {
        self.slots
            .iter()
            .filter_map(|slot| slot.0.lock().cache.as_ref().map(Cache::info))
    }

    /// Pages in use for objects: `Slab`, `SReclaimable` and `SUnreclaim` of `/proc/meminfo`.
    pub fn nr_pages(&self) -> SlabPages {
        let mut pages = SlabPages {
            large: self.large_pages.load(Ordering::Relaxed),
            ..SlabPages::default()
        };
        for info in self.cache_infos() {
            if info.flags.contains(CacheFlags::RECLAIM_ACCOUNT) {
                pages.reclaimable += info.nr_pages;
            } else {
                pages.unreclaimable += info.nr_pages;
            }
        }
        pages
    }

    /// Calls `visit` with each block of frames that holds objects. O(frames): for audits.
    ///
    /// # Context
    /// Caches are locked in turn while `visit` runs: it must not allocate. Nobody else allocates meanwhile, or the
    /// picture is blurred.
    pub fn for_each_frame(&self, mut visit: impl FnMut(PfnRange, SlabUse)) {
        for slot in self.slots {
            if let Some(cache) = slot.0.lock().cache.as_ref() {
                cache.for_each_slab(self.mem(), |slab| {
                    let frames = PfnRange::with_len(slab.pfn, slab.order().nr_pages());
                    visit(frames, SlabUse::Slab(cache.shape.name));
                });
            }
        }
        for pfn in self.map.range().iter() {
            if let Some(order) = self.large_order(pfn) {
                let frames = PfnRange::with_len(pfn, order.nr_pages());
                visit(frames, SlabUse::Large);
            }
        }
    }

    /// Checks all lists, counts and descriptors. O(frames and objects): for audits.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Broken> {
        for slot in self.slots {
            if let Some(cache) = slot.0.lock().cache.as_ref() {
                cache.validate(self.mem())?;
            }
        }
        let large = self
            .map
            .range()
            .iter()
            .filter_map(|pfn| self.large_order(pfn));
        let large_pages: usize = large.map(|order| order.nr_pages()).sum();
        if large_pages == self.large_pages.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Broken::Large)
        }
    }

    /// An object of the cache in `slot`, of that generation if one is given.
    pub(crate) fn alloc_in(
        &self,
        slot: usize,
        generation: Option<u32>,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        let slot = self.slots.get(slot).ok_or(SlubError::NoSuchCache)?;
        let mut new: Option<(NewSlab, CacheFlags)> = None;
        loop {
            let mut state = slot.0.lock();
            let generation = generation.unwrap_or(state.generation);
            let Ok(cache) = state.cache_of(generation) else {
                drop(state);
                if let Some((new, flags)) = new {
                    self.free_slab(new.into_block(), flags);
                }
                return Err(SlubError::NoSuchCache);
            };
            if let Some((new, _)) = new.take() {
                cache.attach(self.mem(), new);
            }
            let shape = cache.shape;
            if shape.ctor.is_some() && gfp.contains(Gfp::ZERO) {
                return Err(SlubError::Constructed);
            }
            match cache.pop(self.mem()) {
                Ok(Some(object)) => {
                    let surplus = cache.surplus(self.mem());
                    drop(state);
                    if let Some(block) = surplus {
                        self.free_slab(block, shape.flags);
                    }
                    if gfp.contains(Gfp::ZERO) {
                        // SAFETY: an object has that many bytes (INV-1), and is ours until we return it.
                        unsafe { object.write_bytes(0, shape.geometry.object_size) };
                    }
                    return Ok(object);
                }
                Ok(None) => {
                    drop(state);
                    new = Some((self.new_slab(&shape, gfp)?, shape.flags));
                }
                Err(bug) => {
                    drop(state);
                    (self.config.on_bug)(&bug);
                }
            }
        }
    }

    pub(crate) fn free_in(&self, slot: usize, head: Pfn, object: NonNull<u8>) {
        let mut state = self.slots[slot].0.lock();
        let Some(cache) = state.cache.as_mut() else {
            drop(state);
            return self.report(SlubBugKind::NotAllocated, None, object.addr().get());
        };
        let Shape { name, flags, .. } = cache.shape;
        let freed = cache.push(self.mem(), head, object);
        drop(state);
        match freed {
            Ok(None) => {}
            Ok(Some(block)) => self.free_slab(block, flags),
            Err(kind) => self.report(kind, Some(name), object.addr().get()),
        }
    }

    /// Where `ptr` lies, as its frame's descriptor says.
    pub(crate) fn locate(&self, ptr: NonNull<u8>) -> Result<Place, SlubBugKind> {
        let pfn = self
            .phys
            .virt_to_pfn(ptr)
            .ok_or(SlubBugKind::OutsideDirectMap)?;
        let mut head = pfn;
        let mut page = self.map.get(pfn).ok_or(SlubBugKind::NotAllocated)?;
        if page.test(PageFlags::SLAB | PageFlags::TAIL) {
            head = pfn_from(page.owner_word());
            page = self.map.get(head).ok_or(SlubBugKind::NotAllocated)?;
        }
        if !page.test(PageFlags::SLAB | PageFlags::HEAD) {
            return Err(SlubBugKind::NotAllocated);
        }
        if page.mapping() == LARGE {
            return Ok(Place::Large { head });
        }
        match usize::try_from(page.mapping()) {
            Ok(owner @ 1..) if owner <= self.slots.len() => Ok(Place::Slab {
                slot: owner - 1,
                head,
            }),
            _ => Err(SlubBugKind::NotAllocated),
        }
    }

    pub(crate) fn report(&self, kind: SlubBugKind, cache: Option<&'static str>, address: usize) {
        (self.config.on_bug)(&SlubBug {
            kind,
            cache,
            address,
        });
    }

    pub(crate) fn mem(&self) -> Mem<'_, P> {
        Mem {
            map: self.map,
            phys: &self.phys,
        }
    }

    pub(crate) fn object_size_of(&self, slot: usize) -> usize {
        let state = self.slots[slot].0.lock();
        state
            .cache
            .as_ref()
            .map_or(0, |cache| cache.shape.geometry.object_size)
    }

    /// Linux: `allocate_slab`, mm/slub.c: the usual size without trying hard, else the least.
    fn new_slab(&self, shape: &Shape, gfp: Gfp) -> Result<NewSlab, SlubError> {
        let Geometry {
            order, min_order, ..
        } = shape.geometry;
        let gfp = shape.page_gfp(gfp);
        let mut block = Err(SlubError::OutOfMemory);
        if order > min_order {
            let easy = (gfp | Gfp::NOWARN | Gfp::NORETRY) - (Gfp::NOFAIL | Gfp::DIRECT_RECLAIM);
            block = self
                .pages
                .alloc(PageReq::new(order, easy))
                .map_err(Into::into);
        }
        let block = match block {
            Ok(block) => block,
            Err(_) => self.pages.alloc(PageReq::new(min_order, gfp))?,
        };
        let built = NewSlab::build(self.mem(), &shape.geometry, shape.ctor, block);
        built
            .map_err(|block| {
                let address = block.pfn().phys().as_usize();
                self.pages.free(block);
                self.report(SlubBugKind::ForeignFrame, Some(shape.name), address);
                SlubError::OutOfMemory
            })
            .inspect(|new| self.count(new.first(), new.order(), shape.flags, 1))
    }

    /// Linux: `__free_slab`, mm/slub.c.
    fn free_slab(&self, block: PageBlock, flags: CacheFlags) {
        self.count(block.pfn(), block.order(), flags, -1);
        self.pages.free(block);
    }

    /// Linux: `account_slab`, `unaccount_slab`, mm/slab.h.
    pub(crate) fn count(&self, first: Pfn, order: Order, flags: CacheFlags, sign: isize) {
        let item = if flags.contains(CacheFlags::RECLAIM_ACCOUNT) {
            NodeItem::SlabReclaimable
        } else {
            NodeItem::SlabUnreclaimable
        };
        let nr_pages = isize::try_from(order.nr_pages()).unwrap_or(isize::MAX);
        self.pages.count(first, item, sign * nr_pages);
    }

    fn shrink_slot(&self, slot: &CacheSlot<L>) -> usize {
        let mut nr_pages = 0;
        loop {
            let detached = match slot.0.lock().cache.as_mut() {
                Some(cache) => {
                    let flags = cache.shape.flags;
                    cache.detach_empty(self.mem()).map(|block| (block, flags))
                }
                None => None,
            };
            let Some((block, flags)) = detached else {
                return nr_pages;
            };
            nr_pages += block.order().nr_pages();
            self.free_slab(block, flags);
        }
    }

    fn name_of(&self, slot: usize) -> Option<&'static str> {
        let state = self.slots.get(slot)?.0.lock();
        state.cache.as_ref().map(|cache| cache.shape.name)
    }
}

/// Where an address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the slab with this head, of the cache in this slot.
    Slab { slot: usize, head: Pfn },
    /// In the first page of this large allocation.
    Large { head: Pfn },
}

impl SlotState {
    fn cache_of(&mut self, generation: u32) -> Result<&mut Cache, SlubError> {
        let is_live = self.generation == generation;
        self.cache
            .as_mut()
            .filter(|_| is_live)
            .ok_or(SlubError::NoSuchCache)
    }
}

/// What the heads of slabs say whose cache is in `slot`: its number plus one.
fn owner_of(slot: usize) -> u64 {
    slot as u64 + 1
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on every supported target"
)]
fn pfn_from(word: u64) -> Pfn {
    Pfn::new(word as usize)
}

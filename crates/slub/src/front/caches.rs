//! Caches come and go. Linux: mm/slab_common.c.
#![expect(unsafe_code, reason = "who ends a cache promises that nobody uses it")]

use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::cache::Shape;
use crate::classes::NR_INTERNAL;
use crate::geometry::CacheArgs;
use crate::slab::SlabKind;
use crate::{KmemCache, SlubBugKind, SlubError};

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// A new cache. Takes no page yet. Linux: `kmem_cache_create`.
    ///
    /// With [`SlubConfig::merges`](crate::SlubConfig::merges), one whose objects are laid out alike may be it.
    ///
    /// # Errors
    /// [`SlubError::InvalidLayout`], [`SlubError::TooLarge`] or [`SlubError::NoSlot`].
    pub fn cache_create(&self, args: &CacheArgs) -> Result<KmemCache, SlubError> {
        let shape = self.shape(*args)?;
        if let Some(cache) = self.merge(&shape) {
            return Ok(cache);
        }
        for (slot, number) in self.slots.iter().zip(0_u8..=u8::MAX) {
            if let Some(generation) = slot.fill(shape) {
                return Ok(KmemCache {
                    slot: number,
                    generation,
                });
            }
        }
        Err(SlubError::NoSlot)
    }

    /// Ends a cache and returns its pages. Linux: `kmem_cache_destroy`.
    ///
    /// One that was merged lives on as long as another of its handles does.
    ///
    /// # Errors
    /// [`SlubError::Busy`] when objects are in use: they are reported as leaked, and the cache stays as it is.
    /// [`SlubError::NoSuchCache`].
    ///
    /// # Safety
    /// While this runs nobody uses the cache, on any CPU; nor the handle afterwards, if it returns `Ok`, except to ask whether
    /// it is gone.
    pub unsafe fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        let slot = self.slots.get(usize::from(cache.slot));
        let slot = slot.ok_or(SlubError::NoSuchCache)?;
        {
            let mut state = slot.lock();
            let live = state.cache_of(Some(cache.generation))?;
            if live.nr_handles > 1 {
                live.nr_handles -= 1;
                return Ok(());
            }
        }
        self.let_all_go();
        self.thin_out(cache.slot, 0);
        self.remove_arrays(cache.slot);
        self.empty_depots(cache.slot);
        self.drain_away();
        loop {
            let mut state = slot.lock();
            let live = state.cache_of(Some(cache.generation))?;
            let mem = self.mem();
            let in_use: usize = live.nodes.iter().map(|node| node.nr_in_use(mem)).sum();
            let in_use = in_use + self.nr_sampled(cache.slot);
            let name = live.shape.name;
            if in_use > 0 {
                drop(state);
                self.report(SlubBugKind::Leaked(in_use), Some(name), 0);
                self.report_leaks(cache.slot);
                self.report_sampled_leaks(cache.slot);
                return Err(SlubError::Busy(in_use));
            }
            let shape = live.shape;
            let nr_nodes = live.nodes.len();
            let block = (0..nr_nodes).find_map(|node| live.node_mut(node).detach_empty(mem));
            let Some(block) = block else {
                let more = live.nodes.remove_more();
                slot.empty(&mut state);
                drop(state);
                self.free_more(more);
                return Ok(());
            };
            drop(state);
            self.free_empty(block, &shape);
        }
    }

    /// A handle of a cache that can serve for this one, too. Linux: `__kmem_cache_alias`.
    fn merge(&self, shape: &Shape) -> Option<KmemCache> {
        if !self.config.merges || self.config.sanitizer.is_some() {
            return None;
        }
        let slots = self.slots.iter().zip(0_u8..=u8::MAX).skip(NR_INTERNAL);
        for (slot, number) in slots {
            let mut state = slot.lock();
            let generation = state.generation;
            let live = state.cache.as_mut();
            if let Some(live) = live.filter(|live| live.shape.can_hold(shape)) {
                live.nr_handles += 1;
                return Some(KmemCache {
                    slot: number,
                    generation,
                });
            }
        }
        None
    }
}

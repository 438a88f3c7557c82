//! Caches, of which SLOB keeps little more than the name.

use core::fmt;
use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId};
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use super::page::Want;
use super::{BlockReq, Slob, State, clear, page_gfp, ring_of};
use crate::geometry::{CacheArgs, CacheFlags, Geometry, Request};
use crate::{KmemCache, SlubBugKind, SlubError};

/// Room for one cache: the caller hands an array of them to [`Slob::new`].
pub struct SlobSlot {
    generation: u32,
    cache: Option<SlobCache>,
}

/// One cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlobCache {
    pub(super) args: CacheArgs,
    pub(super) align: usize,
    pub(super) nr_objects: usize,
}

impl SlobSlot {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            generation: 0,
            cache: None,
        }
    }

    pub(super) const fn cache(&self) -> Option<&SlobCache> {
        self.cache.as_ref()
    }
}

impl Default for SlobSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SlobSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlobSlot").finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn cache_mut(&mut self, cache: KmemCache) -> Result<&mut SlobCache, SlubError> {
        let slot = self.slots.get_mut(usize::from(cache.slot));
        slot.filter(|slot| slot.generation == cache.generation)
            .and_then(|slot| slot.cache.as_mut())
            .ok_or(SlubError::NoSuchCache)
    }

    /// The cache of an object that names its slot.
    pub(super) fn owner_mut(&mut self, slot: u8) -> Option<&mut SlobCache> {
        self.slots.get_mut(usize::from(slot))?.cache.as_mut()
    }
}

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    /// A new cache. Linux: `kmem_cache_create`.
    ///
    /// Its constructor runs whenever an object is handed out, as there are no slabs whose objects could stay constructed.
    ///
    /// # Errors
    /// [`SlubError::InvalidLayout`], [`SlubError::TooLarge`] or [`SlubError::NoSlot`].
    pub fn cache_create(&self, args: &CacheArgs) -> Result<KmemCache, SlubError> {
        let geometry = Geometry::new(&Request {
            args: *args,
            redzone_bytes: 0,
            nr_cpus: 1,
            secret: 0,
        })?;
        let mut state = self.state.lock();
        for (slot, number) in state.slots.iter_mut().zip(0_u8..=u8::MAX) {
            if slot.cache.is_none() {
                slot.cache = Some(SlobCache {
                    args: *args,
                    align: geometry.align,
                    nr_objects: 0,
                });
                return Ok(KmemCache {
                    slot: number,
                    generation: slot.generation,
                });
            }
        }
        Err(SlubError::NoSlot)
    }

    /// Ends a cache. Linux: `kmem_cache_destroy`.
    ///
    /// # Errors
    /// [`SlubError::Busy`] when objects are in use: they are reported as leaked, and the cache stays as it is.
    /// [`SlubError::NoSuchCache`].
    pub fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        let mut state = self.state.lock();
        let live = state.cache_mut(cache)?;
        let (in_use, name) = (live.nr_objects, live.args.name);
        if in_use > 0 {
            drop(state);
            self.report(SlubBugKind::Leaked(in_use), Some(name), 0);
            return Err(SlubError::Busy(in_use));
        }
        if let Some(slot) = state.slots.get_mut(usize::from(cache.slot)) {
            slot.cache = None;
            slot.generation = slot.generation.wrapping_add(1);
        }
        Ok(())
    }

    /// An object of the cache. Linux: `kmem_cache_alloc`.
    ///
    /// # Errors
    /// [`SlubError::OutOfMemory`]; [`SlubError::Constructed`] when zeros are asked for; [`SlubError::NoSuchCache`].
    pub fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.alloc_from(cache, gfp, None)
    }

    #[expect(unsafe_code, reason = "runs constructors")]
    pub(super) fn alloc_from(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        let SlobCache { args, align, .. } = *self.state.lock().cache_mut(cache)?;
        let is_zeroed = gfp.contains(Gfp::ZERO);
        if is_zeroed && args.ctor.is_some() {
            return Err(SlubError::Constructed);
        }
        let is_dma = args.flags.contains(CacheFlags::CACHE_DMA);
        let gfp = page_gfp(gfp, is_dma);
        let object = match Want::new(args.size_bytes, align, true) {
            Some(want) => self.alloc_block(BlockReq {
                want,
                ring: ring_of(args.size_bytes, is_dma),
                gfp,
                node,
                owner: Some(cache),
            })?,
            None => self.alloc_large(args.size_bytes, align, gfp, node, Some(cache))?,
        };
        if is_zeroed {
            clear(object, args.size_bytes);
        }
        if let Some(ctor) = args.ctor {
            // SAFETY: the object has as many bytes as the cache says (INV-13), and is nobody else's yet.
            unsafe { ctor(object) };
        }
        Ok(object)
    }
}

//! Caches, of which SLOB keeps little more than the name.

use core::fmt;
use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId};
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use super::page::Want;
use super::{BlockReq, Slob, State, clear, page_gfp, ring_of};
use crate::debug::DebugFlags;
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
    pub(super) debug: DebugFlags,
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
    /// Its constructor runs whenever an object is handed out, as there are no slabs whose objects could stay constructed.
    pub(super) fn new_cache(&self, args: &CacheArgs) -> Result<KmemCache, SlubError> {
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
                    debug: self.flags_of(args.name),
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

    pub(super) fn end_cache(&self, cache: KmemCache) -> Result<(), SlubError> {
        self.thin_out(0);
        let mut state = self.state.lock();
        let live = state.cache_mut(cache)?;
        let in_use = live.nr_objects + self.nr_sampled(cache.slot);
        let name = live.args.name;
        if in_use > 0 {
            drop(state);
            self.report(SlubBugKind::Leaked(in_use), Some(name), 0);
            if self.debugs() {
                self.report_leaks(cache.slot, name);
            }
            self.report_sampled_leaks(cache.slot);
            return Err(SlubError::Busy(in_use));
        }
        if let Some(slot) = state.slots.get_mut(usize::from(cache.slot)) {
            slot.cache = None;
            slot.generation = slot.generation.wrapping_add(1);
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "runs constructors")]
    pub(super) fn alloc_from(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        let SlobCache {
            args, align, debug, ..
        } = *self.state.lock().cache_mut(cache)?;
        let is_zeroed = gfp.contains(Gfp::ZERO);
        if is_zeroed && args.ctor.is_some() {
            return Err(SlubError::Constructed);
        }
        let is_dma = args.flags.contains(CacheFlags::CACHE_DMA);
        let gfp = page_gfp(gfp, is_dma);
        let plain = Want::new(args.size_bytes, align, true).map(|want| (want, None));
        let around = self.debugged(args.size_bytes, align, debug, Some(cache.slot));
        let want = around.map(|(want, debugged)| (want, Some(debugged)));
        let sampled = match node {
            None => self.sampled(args.size_bytes, align, gfp, Some(cache)),
            Some(_) => None,
        };
        let object = match (sampled, want.or(plain)) {
            (Some(object), _) => object,
            (None, Some((want, debugged))) => self.alloc_block(BlockReq {
                want,
                debugged,
                ring: ring_of(args.size_bytes, is_dma),
                gfp,
                node,
                owner: Some(cache),
            })?,
            (None, None) => self.alloc_large(args.size_bytes, align, gfp, node, Some(cache))?,
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

//! Objects of the KFENCE pool. Without one these are branches of slow paths; hot paths know nothing of it.
#![expect(unsafe_code, reason = "constructs objects, and fills them with zeros")]

use core::ptr::NonNull;

use kmm_frame::Gfp;
use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::classes::NR_INTERNAL;
use crate::debug::Track;
use crate::geometry::CacheFlags;
use crate::kfence::{Fault, Sampled, Wanted, Wrong};
use crate::slab::SlabKind;
use crate::{SlubBug, SlubBugKind};

/// How much is asked of memory by size, at which alignment; `None` for an object of a cache.
pub(super) type Asked = Option<(usize, usize)>;

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// What to do after a page fault: if the address is of the KFENCE pool, says what was done wrong, lets it happen, and returns
    /// `true`; the page can be touched now. Linux: `kfence_handle_page_fault`.
    ///
    /// # Context
    /// Of the page fault handler, whatever was interrupted.
    pub fn kfence_fault(&self, address: usize, is_write: bool) -> bool {
        let Some(pool) = self.config.kfence else {
            return false;
        };
        if !pool.owns(address) {
            return false;
        }
        let fault = Fault {
            address,
            is_write,
            track: self.who(),
        };
        let wrong = pool.fault(&fault);
        wrong.inspect(|wrong| self.tell_wrong(wrong)).is_some()
    }

    /// An object of the pool, if there is one and this request is to be served by it.
    #[inline]
    pub(super) fn sampled(
        &self,
        slot: u8,
        generation: Option<u32>,
        gfp: Gfp,
        asked: Asked,
    ) -> Option<NonNull<u8>> {
        let pool = self.config.kfence?;
        self.sample(pool, slot, generation, gfp, asked)
    }

    #[cold]
    #[inline(never)]
    fn sample(
        &self,
        pool: &dyn Sampled,
        slot: u8,
        generation: Option<u32>,
        gfp: Gfp,
        asked: Asked,
    ) -> Option<NonNull<u8>> {
        let is_special = gfp.intersects(Gfp::DMA | Gfp::DMA32 | Gfp::THISNODE);
        let is_named = asked.is_some() || generation.is_some();
        if !is_named || is_special || usize::from(slot) < NR_INTERNAL || !pool.is_due() {
            return None;
        }
        let mut state = self.slots[usize::from(slot)].lock();
        let shape = state.cache_of(generation).ok()?.shape;
        drop(state);
        if shape.flags.contains(CacheFlags::CACHE_DMA) {
            return None;
        }
        let geometry = &shape.geometry;
        let (size_bytes, align) = asked.unwrap_or((geometry.object_size, geometry.align));
        // What it could rely on elsewhere.
        let natural = match size_bytes {
            size if asked.is_some() && size.is_power_of_two() => size,
            _ => size_of::<u64>(),
        };
        let object = pool.take(&Wanted {
            cache: shape.name,
            owner: Some(slot),
            size_bytes,
            align: align.max(natural),
            track: self.who(),
        })?;
        if gfp.contains(Gfp::ZERO) {
            // SAFETY: it has so many bytes, and is nobody else's.
            unsafe { object.write_bytes(0, size_bytes) };
        }
        if let Some(ctor) = shape.ctor {
            // SAFETY: an object of its cache, and nobody else's.
            unsafe { ctor(object) };
        }
        Some(object)
    }

    /// Takes an object back, to that cache if one is given, if it is of the pool; whether it is.
    #[inline]
    pub(super) fn free_sampled(&self, object: NonNull<u8>, owner: Option<u8>) -> bool {
        let address = object.addr().get();
        let pool = self.config.kfence.filter(|pool| pool.owns(address));
        if let Some(pool) = pool {
            self.give_sampled(pool, address, owner);
        }
        pool.is_some()
    }

    #[cold]
    #[inline(never)]
    fn give_sampled(&self, pool: &dyn Sampled, address: usize, owner: Option<u8>) {
        let tell = &mut |wrong: Wrong| self.tell_wrong(&wrong);
        pool.give(address, owner, self.who(), tell);
    }

    /// Puts an object that is not of the pool where its user says it belongs, in this CPU's stock, if its frame says so, too.
    pub(super) fn push_by_label(&self, slot: u8, object: NonNull<u8>) -> bool {
        self.slot_at(object) == Some(slot)
            && self
                .cpus
                .with_pin(|pin| self.entry(self.table(pin), slot).push(object))
    }

    /// Bytes of an object of the pool; 0, reported, for an address of the pool that is none.
    pub(super) fn size_of_sampled(&self, object: NonNull<u8>) -> Option<usize> {
        let address = object.addr().get();
        let pool = self.config.kfence.filter(|pool| pool.owns(address))?;
        let size_bytes = pool.size_of(address);
        if size_bytes.is_none() {
            self.report(SlubBugKind::NotAllocated, None, address);
        }
        Some(size_bytes.unwrap_or(0))
    }

    /// Objects of a cache that are of the pool.
    pub(super) fn nr_sampled(&self, slot: u8) -> usize {
        self.config.kfence.map_or(0, |pool| pool.in_use(slot, 0).0)
    }

    /// Tells of each object of a cache that is of the pool.
    pub(super) fn report_sampled_leaks(&self, slot: u8) {
        let Some(pool) = self.config.kfence else {
            return;
        };
        for nth in 0.. {
            let (_, Some(report)) = pool.in_use(slot, nth) else {
                return;
            };
            (self.config.on_bug)(&SlubBug {
                kind: SlubBugKind::LeakedObject,
                cache: Some(report.cache),
                address: report.object,
                object: Some(&report),
            });
        }
    }

    fn tell_wrong(&self, wrong: &Wrong) {
        let name = wrong.report.cache;
        (self.config.on_bug)(&SlubBug {
            kind: wrong.kind,
            cache: Some(name).filter(|name| !name.is_empty()),
            address: wrong.report.object.wrapping_add_signed(wrong.report.offset),
            object: Some(&wrong.report),
        });
    }

    /// Who runs.
    pub(super) fn who(&self) -> Track {
        let cpu = self.cpus.with_pin(|pin| pin.cpu().index());
        Track::here(self.config.callers.0, u32::try_from(cpu).unwrap_or(0))
    }
}

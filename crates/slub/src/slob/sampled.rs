//! Objects of the KFENCE pool.

use core::ptr::NonNull;

use kmm_frame::Gfp;
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use super::Slob;
use crate::classes::name_of_request;
use crate::geometry::CacheFlags;
use crate::kfence::{Fault, Wanted, Wrong};
use crate::{KmemCache, SlubBug, SlubBugKind};

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    /// What to do after a page fault: as [`ObjectCaches::kfence_fault`](crate::ObjectCaches::kfence_fault).
    pub fn kfence_fault(&self, address: usize, is_write: bool) -> bool {
        let pool = self.config.kfence.filter(|pool| pool.owns(address));
        let fault = Fault {
            address,
            is_write,
            track: self.track(),
        };
        let wrong = pool.and_then(|pool| pool.fault(&fault));
        wrong.inspect(|wrong| self.tell_wrong(wrong)).is_some()
    }

    /// Memory of the pool, if this request is to be served by it. As there is no stock, each counts.
    pub(super) fn sampled(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
        owner: Option<KmemCache>,
    ) -> Option<NonNull<u8>> {
        let pool = self.config.kfence?;
        if gfp.intersects(Gfp::DMA | Gfp::DMA32 | Gfp::THISNODE) || !pool.is_due() {
            return None;
        }
        let cache = match owner {
            None => name_of_request(size_bytes, align, gfp)?,
            Some(owner) => {
                let mut state = self.state.lock();
                let args = state.cache_mut(owner).ok()?.args;
                if args.flags.contains(CacheFlags::CACHE_DMA) {
                    return None;
                }
                args.name
            }
        };
        pool.take(&Wanted {
            cache,
            owner: owner.map(|cache| cache.slot),
            size_bytes,
            align: align.max(size_of::<u64>()),
            track: self.track(),
        })
    }

    /// Takes memory back if it is of the pool; whether it is.
    pub(super) fn free_sampled(&self, object: NonNull<u8>, cache: Option<KmemCache>) -> bool {
        let address = object.addr().get();
        let pool = self.config.kfence.filter(|pool| pool.owns(address));
        if let Some(pool) = pool {
            let owner = cache.map(|cache| cache.slot);
            let tell = &mut |wrong: Wrong| self.tell_wrong(&wrong);
            pool.give(address, owner, self.track(), tell);
        }
        pool.is_some()
    }

    /// Bytes of memory of the pool; 0, reported, for an address of the pool that is none.
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
}

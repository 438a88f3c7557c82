//! Many objects at once: as long as the array has some, they come out of it in a row.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use core::ptr::NonNull;

use kmm_frame::Gfp;
use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::slab::SlabKind;
use crate::{KmemCache, SlubError};

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// Fills `out` with objects. Linux: `kmem_cache_alloc_bulk`.
    ///
    /// # Errors
    /// As [`ObjectCaches::alloc`]; all of `out` is `None` then.
    pub fn alloc_bulk(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        out: &mut [Option<NonNull<u8>>],
    ) -> Result<(), SlubError> {
        let mut nr = 0;
        while nr < out.len() {
            if !gfp.contains(Gfp::ZERO) {
                nr += self.cpus.with_pin(|pin| {
                    self.entry(self.table(pin), cache.slot)
                        .pop_many(&mut out[nr..])
                });
                if nr == out.len() {
                    break;
                }
            }
            match self.alloc_in(cache.slot, Some(cache.generation), gfp, None) {
                Ok(object) => out[nr] = Some(object),
                Err(error) => {
                    let (got, rest) = out.split_at_mut(nr);
                    rest.fill(None);
                    // SAFETY: allocated above.
                    unsafe { self.free_bulk(cache, got) };
                    return Err(error);
                }
            }
            nr += 1;
        }
        Ok(())
    }

    /// Takes every object of `objects` back, leaving `None`. Linux: `kmem_cache_free_bulk`.
    ///
    /// # Safety
    /// As [`ObjectCaches::free`], for each of them.
    pub unsafe fn free_bulk(&self, cache: KmemCache, objects: &mut [Option<NonNull<u8>>]) {
        let mut nr = 0;
        while nr < objects.len() {
            nr += self.cpus.with_pin(|pin| {
                self.entry(self.table_by_handle(pin), cache.slot)
                    .push_many(&mut objects[nr..])
            });
            if let Some(object) = objects.get_mut(nr).and_then(Option::take) {
                self.free_slow(cache, object);
            }
            nr += 1;
        }
    }
}

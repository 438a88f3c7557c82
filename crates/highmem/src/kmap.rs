//! Mappings of any frame that last as long as their user likes. Linux: `kmap`, `kunmap`, `page_address`.

use core::fmt;
use core::ptr::NonNull;

use kmm_frame::{Pfn, VirtAddr};
use kmm_host::{PhysMap, Sleep};
use lock_api::{Mutex, RawMutex};

use crate::{Fixmap, Pkmap, PkmapError, PkmapTable};

/// The permanent map for low frames, the pool for high ones.
///
/// With a [`PhysMap`] that has no high frames, `kmap` is [`PhysMap::direct`] and the pool is never looked at: give it
/// one slot.
pub struct Kmap<P, T, L: RawMutex, const N: usize = 512> {
    phys: P,
    base: Fixmap,
    pool: Mutex<L, (Pkmap<N>, T)>,
}

impl<P: PhysMap, T: PkmapTable, L: RawMutex, const N: usize> Kmap<P, T, L, N> {
    /// A pool of `N` pages whose entries `table` holds; slot 0 at `base`, the others above. Linux: `PKMAP_BASE`.
    pub const fn new(phys: P, base: VirtAddr, table: T) -> Self {
        let top = VirtAddr::new(base.as_u64() + ((N as u64 - 1) << kmm_frame::PAGE_SHIFT));
        Self {
            phys,
            base: Fixmap::new(top, N),
            pool: Mutex::from_raw(L::INIT, (Pkmap::new(), table)),
        }
    }

    /// Maps a frame, until the matching [`Kmap::kunmap`]. Linux: `kmap`.
    ///
    /// # Context
    /// Only code that may sleep: a full pool is no rare thing, and the caller then waits. Interrupts have no [`Sleep`] to
    /// lend, and under a pin it is lent already:
    ///
    /// ```compile_fail,E0501
    /// use kmm_frame::Pfn;
    /// use kmm_highmem::{Kmap, PkmapTable};
    /// use kmm_host::{Cpus, PhysMap, Sleep};
    ///
    /// fn under_a_pin<P: PhysMap, T: PkmapTable, L: lock_api::RawMutex, C: Cpus>(
    ///     kmaps: &Kmap<P, T, L>, cpus: &C, sleep: &mut Sleep, pfn: Pfn,
    /// ) {
    ///     cpus.with_pin_from(sleep, |_pin| kmaps.kmap(sleep, pfn).is_ok());
    /// }
    /// ```
    ///
    /// # Errors
    /// [`PkmapError::Full`]: wait until [`Kmap::kunmap`] says that a slot came free, and try again.
    pub fn kmap(&self, sleep: &mut Sleep, pfn: Pfn) -> Result<NonNull<u8>, PkmapError> {
        let _ = sleep;
        if let Some(address) = self.phys.direct(pfn) {
            return Ok(address);
        }
        if !P::HIGHMEM {
            return Err(PkmapError::NotMapped);
        }
        let (pool, table) = &mut *self.pool.lock();
        let slot = pool.map(pfn, table)?;
        self.address(slot).ok_or(PkmapError::NotMapped)
    }

    /// Ends a mapping; whether a slot came free, so that somebody who waits may try again. Linux: `kunmap`.
    ///
    /// # Errors
    /// [`PkmapError::NotMapped`] when a frame of the pool is not mapped.
    pub fn kunmap(&self, pfn: Pfn) -> Result<bool, PkmapError> {
        if !P::HIGHMEM || self.phys.direct(pfn).is_some() {
            return Ok(false);
        }
        self.pool.lock().0.unmap(pfn)
    }

    /// Where a frame is mapped now, if it is. Linux: `page_address`.
    pub fn page_address(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        if let Some(address) = self.phys.direct(pfn) {
            return Some(address);
        }
        if !P::HIGHMEM {
            return None;
        }
        let slot = self.pool.lock().0.slot(pfn)?;
        self.address(slot)
    }

    /// The slots count upwards, the fixmap downwards.
    fn address(&self, slot: usize) -> Option<NonNull<u8>> {
        let address = self.base.virt(N - 1 - slot).as_usize();
        NonNull::new(core::ptr::with_exposed_provenance_mut(address))
    }
}

impl<P, T, L: RawMutex, const N: usize> fmt::Debug for Kmap<P, T, L, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kmap")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

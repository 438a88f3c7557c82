//! What is inlined into callers: an object out of this CPU's array, and in. No lock, no locked instruction, no slab.
//!
//! | what | instructions |
//! |---|---|
//! | this CPU's table, the cache's array | 2 |
//! | out of the array, or in | 8, 9 |
//! | of a size: its slot | 5 |
//! | of an address: its frame's descriptor, the slot in it | 10 |
#![expect(
    unsafe_code,
    reason = "frees what callers say is theirs; words of the host are references"
)]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId};
use kmm_host::{CpuPin, Cpus, LOCAL_WORD_OBJECTS, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use super::cpu::{BARRED, Table, entry};
use crate::classes::{slot_of, slot_of_request};
use crate::slab::SlabKind;
use crate::{KmemCache, SlubError};

/// Requests that differ from the usual ones by more than how hard to try.
const SPECIAL: Gfp = Gfp::ZERO
    .union(Gfp::DMA)
    .union(Gfp::DMA32)
    .union(Gfp::RECLAIMABLE);

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// `size_bytes` of physically contiguous memory. Linux: `kmalloc`.
    ///
    /// A power of two is aligned to itself, up to a page; other sizes to at least 8. Size 0 yields
    /// [`ZERO_SIZE_PTR`](crate::ZERO_SIZE_PTR).
    ///
    /// # Context
    /// May sleep when `gfp` allows it; `Gfp::ATOMIC` and `Gfp::NOWAIT` never do.
    ///
    /// # Errors
    /// [`SlubError::TooLarge`] above [`KMALLOC_MAX_SIZE`](crate::KMALLOC_MAX_SIZE); [`SlubError::OutOfMemory`].
    #[inline]
    pub fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        if !gfp.intersects(SPECIAL) {
            if let Some(object) = slot_of(size_bytes).and_then(|slot| self.pop(slot)) {
                return Ok(object);
            }
        }
        self.kmalloc_slow(size_bytes, 1, gfp)
    }

    /// As [`ObjectCaches::kmalloc`], filled with zeros. Linux: `kzalloc`.
    ///
    /// # Errors
    /// As [`ObjectCaches::kmalloc`].
    #[inline]
    pub fn kzalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_slow(size_bytes, 1, gfp | Gfp::ZERO)
    }

    /// As [`ObjectCaches::kmalloc`], at a multiple of `align`, a power of two.
    ///
    /// Beyond a page, only if the permanent map is as aligned, which that of x86-64 is.
    ///
    /// # Errors
    /// As [`ObjectCaches::kmalloc`]; [`SlubError::InvalidLayout`] when `align` is no power of two or the permanent map is not
    /// as aligned.
    #[inline]
    pub fn kmalloc_aligned(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        if align.is_power_of_two() && !gfp.contains(Gfp::ZERO) {
            let slot = slot_of_request(size_bytes, align, gfp);
            if let Some(object) = slot.and_then(|slot| self.pop(slot)) {
                return Ok(object);
            }
        }
        self.kmalloc_slow(size_bytes, align, gfp)
    }

    /// Frees what the kmalloc family returned, or an object of any cache. Linux: `kfree`.
    ///
    /// A mistake that shows is reported and changes nothing: see [`SlubBugKind`](crate::SlubBugKind).
    ///
    /// # Context
    /// Never sleeps; allowed from interrupts.
    ///
    /// # Safety
    /// 1. `ptr` came from this allocator.
    /// 2. Nobody uses it any more.
    #[inline]
    pub unsafe fn kfree(&self, ptr: NonNull<u8>) {
        let Some(slot) = self.slot_at(ptr) else {
            return self.kfree_slow(ptr);
        };
        let is_kept = self
            .cpus
            .with_pin(|pin| self.entry(self.table(pin), slot).push(ptr));
        if !is_kept {
            self.push_slow(slot, ptr);
        }
    }

    /// As [`ObjectCaches::kfree`], for who knows what was asked for. Linux: `kfree_sized`, C23's `free_sized`.
    ///
    /// # Safety
    /// 1. `ptr` came from [`ObjectCaches::kmalloc_aligned`] of this allocator with that size and alignment, and a `gfp` without
    ///    `DMA`, `DMA32` and `RECLAIMABLE`.
    /// 2. Nobody uses it any more.
    #[inline]
    pub unsafe fn kfree_sized(&self, ptr: NonNull<u8>, layout: Layout) {
        let slot = slot_of_request(layout.size(), layout.align(), Gfp::KERNEL);
        let is_kept = slot.is_some_and(|slot| {
            self.cpus
                .with_pin(|pin| self.entry(self.table_by_handle(pin), slot).push(ptr))
        });
        if !is_kept {
            self.kfree_any(ptr);
        }
    }

    /// An object of the cache. Linux: `kmem_cache_alloc`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it.
    ///
    /// # Errors
    /// [`SlubError::OutOfMemory`]; [`SlubError::Constructed`] when zeros are asked for; [`SlubError::NoSuchCache`].
    #[inline]
    pub fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        if !gfp.contains(Gfp::ZERO) {
            if let Some(object) = self.pop(cache.slot) {
                return Ok(object);
            }
        }
        self.alloc_in(cache.slot, Some(cache.generation), gfp, None)
    }

    /// As [`ObjectCaches::alloc`], of memory of that node if it has any. Linux: `kmem_cache_alloc_node`.
    ///
    /// # Errors
    /// As [`ObjectCaches::alloc`].
    pub fn alloc_node(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError> {
        self.alloc_in(cache.slot, Some(cache.generation), gfp, Some(node))
    }

    /// Takes an object back. Linux: `kmem_cache_free`.
    ///
    /// # Context
    /// Never sleeps; allowed from interrupts.
    ///
    /// # Safety
    /// 1. `object` came from [`ObjectCaches::alloc`] of this allocator and this cache.
    /// 2. Nobody uses it any more; if the cache has a constructor, it is as constructed.
    #[inline]
    pub unsafe fn free(&self, cache: KmemCache, object: NonNull<u8>) {
        let is_kept = self.cpus.with_pin(|pin| {
            self.entry(self.table_by_handle(pin), cache.slot)
                .push(object)
        });
        if !is_kept {
            self.free_slow(cache, object);
        }
    }

    /// An object of this CPU's stock.
    #[inline(always)]
    pub(crate) fn pop(&self, slot: u8) -> Option<NonNull<u8>> {
        self.cpus
            .with_pin(|pin| self.entry(self.table(pin), slot).pop())
    }

    #[inline(always)]
    pub(super) fn entry<'a>(&self, table: &'a Table, slot: u8) -> &'a super::array::CpuArray {
        // SAFETY: `new` has initialized the table of every CPU.
        unsafe { entry(table, slot) }
    }

    /// This CPU's arrays.
    #[inline(always)]
    pub(super) fn table(&self, pin: CpuPin<'_>) -> &'static Table {
        if C::HAS_LOCAL_WORDS {
            let word = self.cpus.local_word(pin, LOCAL_WORD_OBJECTS);
            // SAFETY: `new` has stored a reference there for every CPU; nobody else stores words, by the guarantee of `Cpus`.
            return unsafe { &*word.cast::<Table>() };
        }
        match self.cpu_slots.get(pin.cpu().index()) {
            Some(cpu) => cpu.table(),
            None => &BARRED,
        }
    }

    /// The same for frees that do not look at the object's frame: none where that would put an object of another node into
    /// the stock.
    #[inline(always)]
    pub(super) fn table_by_handle(&self, pin: CpuPin<'_>) -> &'static Table {
        if C::HAS_LOCAL_WORDS {
            let word = self.cpus.local_word(pin, LOCAL_WORD_OBJECTS + 1);
            // SAFETY: as above.
            return unsafe { &*word.cast::<Table>() };
        }
        match self.by_handle.get(pin.cpu().index()) {
            Some(cpu) => cpu.table(),
            None => &BARRED,
        }
    }
}

//! A sanitizer is told of every object and slab. Linux: the calls of KASAN in mm/slub.c.
//!
//! Where there is one, every cache is checked, so all that is allocated and freed comes by here; where there is none, these are
//! the branches of a slow path. A freed object waits with the sanitizer and is put into its slab when that lets it go; free
//! objects may not be touched but by this allocator.

use core::ptr::NonNull;

use kmm_frame::{Order, Pfn, PfnRange, VirtAddr};
use kmm_host::{Cpus, Freed, ObjectSlot, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use super::lookup::Place;
use crate::SlubBugKind;
use crate::slab::SlabKind;

/// What reports call the cache of what is pages of its own.
pub(super) const LARGE: &str = "kmalloc-large";

fn address_of(object: NonNull<u8>) -> VirtAddr {
    VirtAddr::new(object.as_ptr().expose_provenance() as u64)
}

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// An object is handed out. Linux: `kasan_slab_alloc`.
    pub(super) fn tell_taken(&self, slot: u8, object: NonNull<u8>) {
        if self.config.sanitizer.is_some() {
            let (geometry, _) = self.slots[usize::from(slot)].geometry(0);
            self.tell_requested(object, geometry.object_size);
        }
    }

    /// So many bytes of an object that is handed out may be touched. Linux: `kasan_kmalloc`, `kasan_kmalloc_large`.
    pub(super) fn tell_requested(&self, object: NonNull<u8>, size_bytes: usize) {
        let Some(sanitizer) = self.config.sanitizer else {
            return;
        };
        let (room_bytes, cache) = match self.locate(object) {
            Ok(Place::Slab { slot, .. }) => {
                let (geometry, _) = self.slots[usize::from(slot)].geometry(0);
                (geometry.stride, self.name_of(slot))
            }
            Ok(Place::Large { head }) => {
                let order = self.large_order(head);
                (order.map_or(0, Order::size_bytes), Some(LARGE))
            }
            Err(_) => return,
        };
        let place = ObjectSlot {
            start: address_of(object),
            size_bytes: room_bytes,
            align: 1,
        };
        sanitizer.object_taken(place, size_bytes, cache.unwrap_or_default());
    }

    /// Whether an object that is freed goes into its slab now. Linux: `kasan_slab_free`.
    pub(super) fn may_go(&self, object: NonNull<u8>) -> bool {
        let Some(sanitizer) = self.config.sanitizer else {
            return true;
        };
        let place = match self.homeward(object) {
            Ok(home) => Some(ObjectSlot {
                start: address_of(object),
                size_bytes: home.geometry.stride,
                align: 1,
            }),
            Err(SlubBugKind::Misaligned) => None,
            // What is no memory of ours is our own to report.
            Err(_) => return true,
        };
        let let_go = &mut |place| self.let_go(place);
        sanitizer.object_given(address_of(object), place, let_go) == Freed::Now
    }

    /// Every object that waits goes into its slab.
    pub(super) fn let_all_go(&self) {
        if let Some(sanitizer) = self.config.sanitizer {
            sanitizer.drain(&mut |place| self.let_go(place));
        }
    }

    fn let_go(&self, place: ObjectSlot) {
        let object = core::ptr::with_exposed_provenance_mut(place.start.as_usize());
        if let Some(object) = NonNull::new(object) {
            self.put_back(object);
        }
    }

    /// Frames become what objects lie in, or are so no longer.
    pub(super) fn tell_frames(&self, first: Pfn, order: Order, cache: Option<&str>) {
        let frames = PfnRange::with_len(first, order.nr_pages());
        match cache {
            Some(name) => self.config.slabs.slab_made(frames, name),
            None => self.config.slabs.slab_gone(frames),
        }
    }

    /// Pages become a slab of the cache with that name, where nothing may be touched yet, or are one no longer. Linux:
    /// `kasan_poison_slab`.
    pub(super) fn tell_slab(&self, first: Pfn, order: Order, cache: Option<&str>) {
        self.tell_frames(first, order, cache);
        let Some(sanitizer) = self.config.sanitizer else {
            return;
        };
        if let Some(base) = self.phys.direct(first) {
            let start = address_of(base);
            if cache.is_some() {
                sanitizer.slab_taken(start, order.size_bytes());
            } else {
                sanitizer.pages_taken(start, order.size_bytes());
            }
        }
    }
}

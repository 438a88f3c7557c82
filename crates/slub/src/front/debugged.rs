//! Objects of debugged caches on their way out and in, and reports of what is wrong with them.

use core::ptr::{self, NonNull};

use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use super::home::Homeward;
use super::lookup::Place;
use crate::debug::{
    DebugFlags, Facts, Layout, ObjectReport, Track, Use, Violation, check, fill_given, fill_taken,
    restore, write_track,
};
use crate::geometry::Geometry;
use crate::slab::{NIL, Slab, SlabKind};
use crate::{SlubBug, SlubBugKind};

/// What was wrong with an object, until nobody holds a lock and it can be told.
type Found = ([Option<Violation>; 4], ObjectReport);

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// Whether there may be debugged caches.
    #[inline(always)]
    pub(super) fn debugs(&self) -> bool {
        !self.config.debug.is_empty()
    }

    /// Tells of a mistake. No lock is held.
    #[cold]
    pub(crate) fn report(&self, kind: SlubBugKind, cache: Option<&'static str>, address: usize) {
        let object = if self.debugs() {
            self.describe(address)
        } else {
            None
        };
        (self.config.on_bug)(&SlubBug {
            kind,
            cache,
            address,
            object: object.as_ref(),
        });
    }

    /// An object has just been taken out of its slab: checks that nobody wrote to it meanwhile, and makes it ready for its user.
    /// Linux: `alloc_debug_processing`.
    #[cold]
    pub(super) fn take_checked(&self, slot: u8, object: NonNull<u8>) {
        let (geometry, _) = self.slots[usize::from(slot)].geometry(self.config.secret);
        if !geometry.has_surroundings() {
            return;
        }
        let track = self.track(&geometry);
        let violations = check(object, &geometry, Use::Free);
        let found = self.take_down(slot, &geometry, object, violations);
        fill_taken(object, &geometry);
        if let Some(track) = track {
            write_track(object, &geometry, Use::Taken, &track);
        }
        self.tell(found);
    }

    /// Takes an object of a debugged cache back. Linux: `free_debug_processing`.
    ///
    /// # Errors
    /// It is free already, or of no slab. What else is wrong with it is reported and restored here.
    #[cold]
    pub(super) fn give_checked(&self, home: &Homeward) -> Result<(), SlubBugKind> {
        let Homeward {
            slot,
            node,
            slab,
            ref geometry,
            index,
        } = *home;
        let object = slab.object(geometry, index);
        let track = self.track(geometry);
        let mut state = self.slots[usize::from(slot)].lock();
        let cache = state.cache.as_mut().ok_or(SlubBugKind::NotAllocated)?;
        if slab.page().mapping() != self.label(node, slot) {
            return Err(SlubBugKind::NotAllocated);
        }
        if slab.state().in_use() == 0 || slab.is_free::<K>(geometry, index) {
            return Err(SlubBugKind::DoubleFree);
        }
        let (name, flags) = (cache.shape.name, cache.shape.flags);
        let violations = check(object, geometry, Use::Taken);
        let found = violations.iter().any(Option::is_some).then(|| {
            let facts = self.facts(name, &slab, geometry);
            (
                violations,
                ObjectReport::new(&facts, object, object.addr().get()),
            )
        });
        fill_given(object, geometry);
        if let Some(track) = track {
            write_track(object, geometry, Use::Free, &track);
        }
        let lists = cache.node_mut(node);
        lists.push::<K, P>(self.mem(), geometry, slab, index);
        let surplus = lists.surplus(self.mem());
        drop(state);
        self.tell(found);
        if let Some(block) = surplus {
            self.free_slab(block, flags);
        }
        Ok(())
    }

    /// Checks every object of every debugged cache, reports and restores what is wrong; how many objects that were. For audits,
    /// while nobody allocates. Linux: `validate_slab_cache`, by /sys/kernel/slab/NAME/validate.
    pub fn check_objects(&self) -> usize {
        let mut nr_wrong = 0;
        for slot in (0..=u8::MAX).take(self.slots.len()) {
            self.for_each_object(slot, |geometry, slab, index| {
                let object = slab.object(geometry, index);
                let is_free = slab.is_free::<K>(geometry, index);
                let is = if is_free { Use::Free } else { Use::Taken };
                let mut violations = check(object, geometry, is);
                // One that was given up with its slab is on no list.
                if !is_free && check(object, geometry, Use::Free) == [None; 4] {
                    violations = [None; 4];
                }
                let found = self.take_down(slot, geometry, object, violations);
                if found.is_some() {
                    nr_wrong += 1;
                    restore(object, geometry, is);
                }
                self.tell(found);
            });
        }
        nr_wrong
    }

    /// Tells of each object in use. Nobody uses the cache. Linux: `list_slab_objects`.
    pub(super) fn report_leaks(&self, slot: u8) {
        let name = self.name_of(slot);
        self.for_each_object(slot, |geometry, slab, index| {
            if !slab.is_free::<K>(geometry, index) {
                let address = slab.object(geometry, index).addr().get();
                self.report(SlubBugKind::LeakedObject, name, address);
            }
        });
    }

    /// Visits the objects of a debugged cache without its lock: nobody else uses it.
    fn for_each_object(&self, slot: u8, mut visit: impl FnMut(&Geometry, &Slab, u16)) {
        let (geometry, _) = self.slots[usize::from(slot)].geometry(self.config.secret);
        if !geometry.is_debugged() {
            return;
        }
        for nr in 0.. {
            let Some(slab) = self.nth_slab(slot, nr) else {
                return;
            };
            for index in 0..slab.objects() {
                visit(&geometry, &slab, index);
            }
        }
    }

    fn nth_slab(&self, slot: u8, nr: usize) -> Option<Slab> {
        let state = self.slots[usize::from(slot)].lock();
        let (mut at, mut found) = (0, None);
        for node in state.cache.as_ref()?.nodes.iter() {
            node.for_each_slab(self.mem(), |slab| {
                if at == nr {
                    found = Some(slab);
                }
                at += 1;
            });
        }
        found
    }

    fn track(&self, geometry: &Geometry) -> Option<Track> {
        geometry.debug.contains(DebugFlags::USER).then(|| {
            let cpu = self.cpus.with_pin(|pin| pin.cpu().index());
            Track::here(self.config.callers.0, u32::try_from(cpu).unwrap_or(0))
        })
    }

    /// Keeps what is to be told of an object that something is wrong with.
    fn take_down(
        &self,
        slot: u8,
        geometry: &Geometry,
        object: NonNull<u8>,
        violations: [Option<Violation>; 4],
    ) -> Option<Found> {
        if violations.iter().all(Option::is_none) {
            return None;
        }
        let Ok(Place::Slab { head, .. }) = self.locate(object) else {
            return None;
        };
        let slab = Slab::at(self.mem(), head)?;
        let facts = self.facts(self.name_of(slot)?, &slab, geometry);
        let report = ObjectReport::new(&facts, object, object.addr().get());
        Some((violations, report))
    }

    fn tell(&self, found: Option<Found>) {
        let Some((violations, report)) = found else {
            return;
        };
        for violation in violations.iter().flatten() {
            (self.config.on_bug)(&SlubBug {
                kind: violation.kind,
                cache: Some(report.cache),
                address: violation.first,
                object: Some(&report.with(violation)),
            });
        }
    }

    fn facts<'a>(&self, cache: &'static str, slab: &Slab, geometry: &'a Geometry) -> Facts<'a> {
        let state = slab.state();
        let first_free = match state.first() {
            NIL => 0,
            index => slab.object(geometry, index).addr().get(),
        };
        Facts {
            cache,
            slab: slab.start(),
            objects: state.objects(),
            used: state.in_use(),
            first_free,
            geometry,
        }
    }

    /// The object of a debugged cache which an address lies in, or in whose surroundings.
    fn describe(&self, address: usize) -> Option<ObjectReport> {
        let at = NonNull::new(ptr::without_provenance_mut(address))?;
        let Ok(Place::Slab { slot, head, .. }) = self.locate(at) else {
            return None;
        };
        let (geometry, _) = self.slots[usize::from(slot)].geometry(self.config.secret);
        if !geometry.is_debugged() {
            return None;
        }
        let slab = Slab::at(self.mem(), head)?;
        let left = Layout::of(&geometry).map_or(0, |layout| layout.left);
        let first = slab.object(&geometry, 0).addr().get() - left;
        let index = u16::try_from(address.checked_sub(first)? / geometry.stride).ok()?;
        if index >= slab.objects() {
            return None;
        }
        let facts = self.facts(self.name_of(slot)?, &slab, &geometry);
        let object = slab.object(&geometry, index);
        Some(ObjectReport::new(&facts, object, address))
    }
}

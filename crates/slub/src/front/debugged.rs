//! Objects of debugged caches on their way out and in, and reports of what is wrong with them.

#![expect(unsafe_code, reason = "looks at objects of slabs that are nobody's")]

use core::ptr::{self, NonNull};

use kmm_host::{Cpus, PageBlock, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use super::home::Homeward;
use super::lookup::Place;
use crate::cache::{Cache, Shape};
use crate::debug::{
    DebugFlags, Facts, Holder, Layout, Mark, ObjectReport, Track, Use, Violation, check,
    fill_given, fill_taken, read_mark, restore, set_requested, write_mark, write_track,
};
use crate::geometry::Geometry;
use crate::slab::{NIL, Slab, SlabKind};
use crate::{SlubBug, SlubBugKind};

/// What was wrong with an object, until nobody holds a lock and it can be told.
type Found = ([Option<Violation>; 4], ObjectReport);

/// What comes next for an object that has waited.
enum NextStep {
    /// Into its slab.
    Free,
    /// Its mark was written over.
    Mark,
    /// Its link was written over.
    Chain,
}

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
        let waits_already = match read_mark(object, geometry) {
            Some(mark) => mark.holder == Holder::Quarantine,
            // Written over: the chain says it.
            None => self.is_waiting(slot, cache, object),
        };
        if waits_already {
            return Err(SlubBugKind::DoubleFree);
        }
        let shape = cache.shape;
        let name = shape.name;
        let violations = check(object, geometry, Use::Taken);
        let found = self.found(name, &slab, geometry, object, violations);
        let waits = geometry.debug.contains(DebugFlags::QUARANTINE);
        let holder = if waits {
            Holder::Quarantine
        } else {
            Holder::Slab
        };
        fill_given(object, geometry, holder);
        if let Some(track) = track {
            write_track(object, geometry, Use::Free, &track);
        }
        let mut surplus = None;
        if waits {
            cache.quarantine.push(object, |_| Some(*geometry));
        } else {
            let lists = cache.node_mut(node);
            lists.push::<K, P>(self.mem(), geometry, slab, index);
            surplus = lists.surplus(self.mem());
        }
        drop(state);
        self.tell(found);
        if waits {
            self.thin_out(slot, self.config.quarantine_bytes);
        }
        if let Some(block) = surplus {
            self.free_empty(block, &shape);
        }
        Ok(())
    }

    /// Puts objects of a cache that wait into their slabs, the oldest first, until no more than so many bytes wait; reports and
    /// restores those that were written to meanwhile.
    pub(super) fn thin_out(&self, slot: u8, most_bytes: usize) {
        let (geometry, _) = self.slots[usize::from(slot)].geometry(0);
        if geometry.debug.contains(DebugFlags::QUARANTINE) {
            self.let_oldest_go(slot, most_bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn let_oldest_go(&self, slot: u8, most_bytes: usize) {
        loop {
            let mut state = self.slots[usize::from(slot)].lock();
            let Some(cache) = state.cache.as_mut() else {
                return;
            };
            let shape = cache.shape;
            let (name, ref geometry) = (shape.name, shape.geometry);
            if cache.quarantine.len() * geometry.stride <= most_bytes {
                return;
            }
            let find = |address| self.waiting_at(slot, address);
            let popped = cache.quarantine.pop(|_| Some(*geometry), find);
            let (object, violations, next_step) = match popped {
                Ok(None) => return,
                Ok(Some(object)) => {
                    let violations = check(object, geometry, Use::Free);
                    (object, violations, NextStep::Free)
                }
                Err(broken) => match self.unmarked_at(slot, broken.next) {
                    Some(next) => {
                        let violations = check(next, geometry, Use::Free);
                        (next, violations, NextStep::Mark)
                    }
                    None => {
                        let wrong = broken.violation(geometry);
                        (broken.object, [wrong, None, None, None], NextStep::Chain)
                    }
                },
            };
            let Ok(home) = self.homeward(object) else {
                return;
            };
            let found = self.found(name, &home.slab, geometry, object, violations);
            let mut surplus = None;
            match next_step {
                NextStep::Free => {
                    fill_given(object, geometry, Holder::Slab);
                    let lists = cache.node_mut(home.node);
                    lists.push::<K, P>(self.mem(), geometry, home.slab, home.index);
                    surplus = lists.surplus(self.mem());
                }
                NextStep::Mark => fill_given(object, geometry, Holder::Quarantine),
                NextStep::Chain => self.chain_again(cache),
            }
            drop(state);
            self.tell(found);
            if let Some(block) = surplus {
                self.free_empty(block, &shape);
            }
        }
    }

    /// Gives a slab back none of whose objects is in use; what was written to one of them is told first. Linux: `free_slab`,
    /// mm/slub.c.
    pub(super) fn free_empty(&self, block: PageBlock, shape: &Shape) {
        if shape.geometry.has_surroundings() {
            self.check_empty(&block, shape);
        }
        self.free_slab(block, shape.flags);
    }

    #[cold]
    #[inline(never)]
    fn check_empty(&self, block: &PageBlock, shape: &Shape) {
        let geometry = &shape.geometry;
        let Some(base) = self.phys.direct(block.pfn()) else {
            return;
        };
        let colour = geometry.debug_colour().unwrap_or(0);
        let objects = geometry.objects(block.order());
        for index in 0..usize::from(objects) {
            let at = geometry.colour_bytes(colour) + index * geometry.stride;
            // SAFETY: objects lie within their slab (INV-1), which is nobody's now.
            let object = unsafe { base.add(at) };
            let violations = check(object, geometry, Use::Free);
            if violations != [None; 4] {
                let facts = Facts {
                    cache: shape.name,
                    slab: base.addr().get(),
                    objects,
                    used: 0,
                    first_free: 0,
                    geometry,
                };
                let report = ObjectReport::new(&facts, object, object.addr().get());
                self.tell(Some((violations, report)));
            }
        }
    }

    /// The object of a cache that waits at an address.
    pub(super) fn waiting_at(&self, slot: u8, address: usize) -> Option<NonNull<u8>> {
        let at = NonNull::new(ptr::without_provenance_mut(address))?;
        let home = self.homeward(at).ok().filter(|home| home.slot == slot)?;
        let object = home.slab.object(&home.geometry, home.index);
        let mark = read_mark(object, &home.geometry)?;
        (mark.holder == Holder::Quarantine).then_some(object)
    }

    /// The object of a cache at an address, if its mark was written over.
    fn unmarked_at(&self, slot: u8, address: usize) -> Option<NonNull<u8>> {
        let at = NonNull::new(ptr::without_provenance_mut(address))?;
        let home = self.homeward(at).ok().filter(|home| home.slot == slot)?;
        let object = home.slab.object(&home.geometry, home.index);
        read_mark(object, &home.geometry)
            .is_none()
            .then_some(object)
    }

    fn is_waiting(&self, slot: u8, cache: &Cache, object: NonNull<u8>) -> bool {
        let find = |address| self.waiting_at(slot, address);
        let mut is_there = false;
        let geometry = &cache.shape.geometry;
        let _ = cache.quarantine.for_each(
            |_| Some(*geometry),
            find,
            |waiting| {
                is_there |= waiting == object;
            },
        );
        is_there
    }

    /// Chains every object again that waits.
    fn chain_again(&self, cache: &mut Cache) {
        let Cache {
            shape,
            nodes,
            quarantine,
            ..
        } = cache;
        let geometry = &shape.geometry;
        quarantine.clear();
        for node in nodes.iter() {
            node.for_each_slab(self.mem(), |slab| {
                for object in (0..slab.objects()).map(|index| slab.object(geometry, index)) {
                    let mark = read_mark(object, geometry);
                    if mark.is_some_and(|mark| mark.holder == Holder::Quarantine) {
                        quarantine.push(object, |_| Some(*geometry));
                    }
                }
            });
        }
    }

    /// Only so many bytes of an object that is in use are its user's: those behind are red zone, or may not be touched.
    pub(super) fn note_requested(&self, object: NonNull<u8>, size_bytes: usize) {
        self.tell_requested(object, size_bytes);
        if self.debugs() {
            self.move_red_zone(object, size_bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn move_red_zone(&self, object: NonNull<u8>, size_bytes: usize) {
        let Ok(home) = self.homeward(object) else {
            return;
        };
        let geometry = &home.geometry;
        let is_in_use = |mark: Mark| mark.holder == Holder::User;
        if geometry.debug.contains(DebugFlags::RED_ZONE)
            && read_mark(object, geometry).is_some_and(is_in_use)
        {
            let violations = check(object, geometry, Use::Taken);
            let found = self.take_down(home.slot, geometry, object, violations);
            set_requested(object, geometry, size_bytes.min(geometry.object_size));
            self.tell(found);
        }
    }

    /// Checks every object of every debugged cache, reports and restores what is wrong; how many objects that were. For audits,
    /// while nobody allocates. Linux: `validate_slab_cache`, by /sys/kernel/slab/NAME/validate.
    pub fn check_objects(&self) -> usize {
        let mut nr_wrong = 0;
        for slot in (0..=u8::MAX).take(self.slots.len()) {
            self.for_each_object(slot, |geometry, slab, index| {
                let object = slab.object(geometry, index);
                let mark = read_mark(object, geometry);
                let is_taken = match mark {
                    Some(mark) => mark.holder == Holder::User,
                    None => !slab.is_free::<K>(geometry, index),
                };
                let is = if is_taken { Use::Taken } else { Use::Free };
                let violations = check(object, geometry, is);
                let found = self.take_down(slot, geometry, object, violations);
                if found.is_some() {
                    nr_wrong += 1;
                    if mark.is_none() {
                        let holder = if is_taken { Holder::User } else { Holder::Slab };
                        let size_bytes = geometry.object_size;
                        write_mark(object, geometry, Mark { size_bytes, holder });
                    }
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
            let object = slab.object(geometry, index);
            let mark = read_mark(object, geometry);
            let was_given_up = mark.is_some_and(|mark| mark.holder == Holder::Slab);
            if !was_given_up && !slab.is_free::<K>(geometry, index) {
                let address = object.addr().get();
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
        let keeps = geometry.debug.contains(DebugFlags::USER);
        keeps.then(|| self.who())
    }

    /// Keeps what is to be told of an object that something is wrong with.
    fn take_down(
        &self,
        slot: u8,
        geometry: &Geometry,
        object: NonNull<u8>,
        violations: [Option<Violation>; 4],
    ) -> Option<Found> {
        if violations == [None; 4] {
            return None;
        }
        let Ok(Place::Slab { head, .. }) = self.locate(object) else {
            return None;
        };
        let slab = Slab::at(self.mem(), head)?;
        self.found(self.name_of(slot)?, &slab, geometry, object, violations)
    }

    /// The same with a lock held.
    fn found(
        &self,
        name: &'static str,
        slab: &Slab,
        geometry: &Geometry,
        object: NonNull<u8>,
        violations: [Option<Violation>; 4],
    ) -> Option<Found> {
        (violations != [None; 4]).then(|| {
            let facts = self.facts(name, slab, geometry);
            let report = ObjectReport::new(&facts, object, object.addr().get());
            (violations, report)
        })
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

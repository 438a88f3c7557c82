//! Debugged objects in blocks: what they are surrounded by, how they wait when they are freed, and reports of them.
//!
//! A debugged block begins with a head, a word that says whose it is and how its object is laid out; behind that lies what an
//! object of the other back ends has around it. As blocks that are freed become one with their neighbours, and nothing is known of
//! their objects then, all of them wait first, whatever letters are given: while one does, whoever frees it again or writes to it
//! is told with both stacks.

use core::ptr::{self, NonNull};

use kmm_frame::{Gfp, NodeItem, Pfn};
use kmm_host::{PageBlock, PageSource, PhysMap};
use lock_api::RawMutex;

use super::free::{Mistake, Place};
use super::page::{Head, SlobPage, UNIT_BYTES, Used, Want};
use super::{Slob, State};
use crate::classes::name_of_request;
use crate::debug::{
    DebugFlags, Facts, Holder, Mark, ObjectReport, Track, Use, Violation, check, fill_fresh,
    fill_given, fill_taken, flags_of, read_mark, restore, set_requested, write_mark, write_track,
};
use crate::geometry::Geometry;
use crate::{SlubBug, SlubBugKind};

/// What pages of blocks are called, where no cache is known.
const NAME: &str = "kmalloc";

/// A block that is asked for, to have a debugged object.
#[derive(Clone, Copy)]
pub(super) struct Debugged {
    head: Head,
    geometry: Geometry,
    track: Option<Track>,
}

/// What was wrong with an object, until the lock is not held and it can be told.
pub(super) type Found = ([Option<Violation>; 4], ObjectReport);

/// What comes next for an object that has waited.
#[derive(Clone, Copy)]
enum NextStep {
    /// Its block is freed.
    Free,
    /// Its mark was written over.
    Mark,
    /// Its link was written over, or its head.
    Chain,
}

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    /// Whether anything may be debugged.
    pub(super) fn debugs(&self) -> bool {
        !self.config.debug.is_empty()
    }

    pub(super) fn flags_of(&self, name: &str) -> DebugFlags {
        flags_of(self.config.debug, name)
    }

    /// How memory by size is debugged: as the cache would be that others have for it.
    pub(super) fn flags_of_request(&self, size_bytes: usize, align: usize, gfp: Gfp) -> DebugFlags {
        if !self.debugs() {
            return DebugFlags::empty();
        }
        name_of_request(size_bytes, align, gfp)
            .map_or(DebugFlags::empty(), |name| self.flags_of(name))
    }

    /// The block that a debugged object needs; `None` if it is not debugged, or too large for a page then.
    pub(super) fn debugged(
        &self,
        object_size: usize,
        align: usize,
        debug: DebugFlags,
        owner: Option<u8>,
    ) -> Option<(Want, Debugged)> {
        if debug.is_empty() {
            return None;
        }
        let head = Head {
            owner,
            debug,
            object_size: u16::try_from(object_size).ok()?,
        };
        let geometry = head.geometry(self.config.secret)?;
        let behind = usize::from(head.units_behind()) * UNIT_BYTES;
        let want = Want::behind(head.units_before().into(), behind, align)?;
        let track = geometry
            .debug
            .contains(DebugFlags::USER)
            .then(|| self.track());
        Some((
            want,
            Debugged {
                head,
                geometry,
                track,
            },
        ))
    }

    /// Who runs.
    pub(super) fn track(&self) -> Track {
        Track::here(self.config.callers.0, 0)
    }

    /// Makes a block that was just taken one with an object.
    pub(super) fn set_up(&self, page: SlobPage, begin: u16, debugged: &Debugged) {
        let Debugged {
            head,
            ref geometry,
            track,
        } = *debugged;
        page.set_head(begin, head);
        let object = page.address(begin + head.units_before());
        fill_fresh(object, geometry);
        fill_taken(object, geometry);
        if let Some(track) = track {
            write_track(object, geometry, Use::Taken, &track);
        }
    }

    /// Takes a debugged object back: it waits from now on. Under the lock; what is wrong with it is to be told without.
    pub(super) fn hold(
        &self,
        state: &mut State,
        page: SlobPage,
        used: &Used,
        head: Head,
    ) -> Option<Found> {
        let geometry = head.geometry(self.config.secret)?;
        let object = page.address(used.begin + head.units_before());
        let violations = check(object, &geometry, Use::Taken);
        let found = self.found(state, page, used.begin, head, violations);
        fill_given(object, &geometry, Holder::Quarantine);
        if geometry.debug.contains(DebugFlags::USER) {
            write_track(object, &geometry, Use::Free, &self.track());
        }
        state.waiting_bytes += geometry.stride;
        state
            .quarantine
            .push(object, |object| self.geometry_at(object));
        found
    }

    /// Whether a debugged object waits.
    pub(super) fn is_waiting(&self, state: &State, object: NonNull<u8>, head: Head) -> bool {
        let geometry = head.geometry(self.config.secret);
        match geometry.and_then(|geometry| read_mark(object, &geometry)) {
            Some(mark) => mark.holder == Holder::Quarantine,
            // Written over: the chain says it.
            None => {
                let mut is_there = false;
                let of = |object| self.geometry_at(object);
                let find = |address| self.waiting_at(address);
                let _ = state.quarantine.for_each(of, find, |waiting| {
                    is_there |= waiting == object;
                });
                is_there
            }
        }
    }

    /// Frees the blocks of objects that wait, the oldest first, until no more than so many bytes wait; how many pages went back.
    pub(super) fn thin_out(&self, most_bytes: usize) -> usize {
        let mut nr_pages = 0;
        while self.debugs() {
            let mut state = self.state.lock();
            if state.waiting_bytes <= most_bytes {
                break;
            }
            let of = |object| self.geometry_at(object);
            let popped = state.quarantine.pop(of, |address| self.waiting_at(address));
            let (object, next_step) = match popped {
                Ok(Some(object)) => (object, NextStep::Free),
                Ok(None) => {
                    state.waiting_bytes = 0;
                    break;
                }
                Err(broken) => match self.unmarked_at(broken.next) {
                    Some(next) => (next, NextStep::Mark),
                    None => (broken.object, NextStep::Chain),
                },
            };
            let known = self.block_of(object);
            let violations = |head: Head| {
                let geometry = head.geometry(self.config.secret);
                geometry.map_or([None; 4], |geometry| match (popped, next_step) {
                    (Err(broken), NextStep::Chain) => {
                        [broken.violation(&geometry), None, None, None]
                    }
                    _ => check(object, &geometry, Use::Free),
                })
            };
            let found = known.and_then(|(page, begin, head)| {
                self.found(&state, page, begin, head, violations(head))
            });
            let mut goes_back = None;
            let mut broken = None;
            match (next_step, known) {
                (NextStep::Free, Some((page, begin, head))) => {
                    let stride = head.geometry(0).map_or(0, |geometry| geometry.stride);
                    state.waiting_bytes = state.waiting_bytes.saturating_sub(stride);
                    (goes_back, broken) = self.put(&mut state, page, begin);
                }
                (NextStep::Mark, Some((_, _, head))) => {
                    if let Some(geometry) = head.geometry(self.config.secret) {
                        fill_given(object, &geometry, Holder::Quarantine);
                    }
                }
                _ => self.chain_again(&mut state),
            }
            drop(state);
            self.tell(found);
            self.tell_broken(broken);
            nr_pages += usize::from(goes_back.is_some());
            self.give_back(goes_back);
            if known.is_none() {
                self.report(SlubBugKind::CorruptFreelist, None, object.addr().get());
            }
        }
        nr_pages
    }

    pub(super) fn give_back(&self, block: Option<PageBlock>) {
        if let Some(block) = block {
            self.pages
                .count(block.pfn(), NodeItem::SlabUnreclaimable, -1);
            self.free_page(block);
        }
    }

    pub(super) fn tell_broken(&self, address: Option<usize>) {
        if let Some(address) = address {
            self.report(SlubBugKind::CorruptFreelist, None, address);
        }
    }

    /// Only so many bytes of a debugged object are its user's.
    pub(super) fn note_requested(&self, object: NonNull<u8>, size_bytes: usize) {
        if !self.debugs() {
            return;
        }
        let state = self.state.lock();
        let Some((page, begin, head)) = self.block_of(object) else {
            return;
        };
        let Some(geometry) = head.geometry(self.config.secret) else {
            return;
        };
        let is_in_use = |mark: Mark| mark.holder == Holder::User;
        if geometry.debug.contains(DebugFlags::RED_ZONE)
            && read_mark(object, &geometry).is_some_and(is_in_use)
        {
            let violations = check(object, &geometry, Use::Taken);
            let found = self.found(&state, page, begin, head, violations);
            set_requested(object, &geometry, size_bytes.min(geometry.object_size));
            drop(state);
            self.tell(found);
        }
    }

    /// Checks all objects of debugged blocks, reports and restores what is wrong; how many objects that were.
    pub(super) fn check_all(&self) -> usize {
        let mut nr_wrong = 0;
        self.for_each_debugged(|state, page, begin, head| {
            let geometry = head.geometry(self.config.secret)?;
            let object = page.address(begin + head.units_before());
            let mark = read_mark(object, &geometry);
            let holder = mark.map_or(Holder::User, |mark| mark.holder);
            let is = if holder == Holder::User {
                Use::Taken
            } else {
                Use::Free
            };
            let violations = check(object, &geometry, is);
            let found = self.found(state, page, begin, head, violations);
            if found.is_some() {
                nr_wrong += 1;
                if mark.is_none() {
                    let size_bytes = geometry.object_size;
                    write_mark(object, &geometry, Mark { size_bytes, holder });
                }
                restore(object, &geometry, is);
            }
            found
        });
        nr_wrong
    }

    /// Tells of each debugged object of a cache that is in use.
    pub(super) fn report_leaks(&self, slot: u8, name: &'static str) {
        let mut at = (self.map.range().start(), 0);
        while let Some((page, begin, head)) = self.next_debugged(at) {
            at = (page.pfn, begin + 1);
            let object = page.address(begin + head.units_before());
            let state = self.state.lock();
            if head.owner == Some(slot) && !self.is_waiting(&state, object, head) {
                let report = self.describe_block(&state, page, begin, head, object.addr().get());
                drop(state);
                (self.config.on_bug)(&SlubBug {
                    kind: SlubBugKind::LeakedObject,
                    cache: Some(name),
                    address: object.addr().get(),
                    object: report.as_ref(),
                });
            }
        }
    }

    /// Calls `visit` with each debugged block, under the lock, and tells without it what that has found.
    fn for_each_debugged(
        &self,
        mut visit: impl FnMut(&State, SlobPage, u16, Head) -> Option<Found>,
    ) {
        let mut at = (self.map.range().start(), 0);
        while let Some((page, begin, head)) = self.next_debugged(at) {
            at = (page.pfn, begin + 1);
            let state = self.state.lock();
            let found = visit(&state, page, begin, head);
            drop(state);
            self.tell(found);
        }
    }

    fn next_debugged(&self, (pfn, unit): (Pfn, u16)) -> Option<(SlobPage, u16, Head)> {
        let range = self.map.range();
        let mut unit = unit;
        let _state = self.state.lock();
        range.iter().skip(pfn - range.start()).find_map(|pfn| {
            let page = self.block_page(pfn);
            let found = page.and_then(|page| {
                page.next_debugged(unit)
                    .map(|(begin, head)| (page, begin, head))
            });
            unit = 0;
            found
        })
    }

    /// The debugged block that an object is in, if it is one's first byte.
    fn block_of(&self, object: NonNull<u8>) -> Option<(SlobPage, u16, Head)> {
        let Ok(Place::Block(page)) = self.locate(object) else {
            return None;
        };
        let used = page.find(object).ok()?;
        Some((page, used.begin, used.head?))
    }

    fn geometry_at(&self, object: NonNull<u8>) -> Option<Geometry> {
        let (_, _, head) = self.block_of(object)?;
        head.geometry(self.config.secret)
    }

    /// The object that waits at an address.
    fn waiting_at(&self, address: usize) -> Option<NonNull<u8>> {
        let at = NonNull::new(ptr::without_provenance_mut(address))?;
        let (page, begin, head) = self.block_of(at)?;
        let object = page.address(begin + head.units_before());
        let mark = read_mark(object, &head.geometry(self.config.secret)?)?;
        (mark.holder == Holder::Quarantine).then_some(object)
    }

    /// The debugged object at an address, if its mark was written over.
    fn unmarked_at(&self, address: usize) -> Option<NonNull<u8>> {
        let at = NonNull::new(ptr::without_provenance_mut(address))?;
        let (page, begin, head) = self.block_of(at)?;
        let object = page.address(begin + head.units_before());
        let mark = read_mark(object, &head.geometry(self.config.secret)?);
        mark.is_none().then_some(object)
    }

    /// Chains every object again that waits.
    fn chain_again(&self, state: &mut State) {
        state.quarantine.clear();
        state.waiting_bytes = 0;
        for page in self
            .map
            .range()
            .iter()
            .filter_map(|pfn| self.block_page(pfn))
        {
            let mut unit = 0;
            while let Some((begin, head)) = page.next_debugged(unit) {
                unit = begin + 1;
                let object = page.address(begin + head.units_before());
                if self.waiting_at(object.addr().get()).is_some() {
                    state.waiting_bytes += head.geometry(0).map_or(0, |geometry| geometry.stride);
                    state
                        .quarantine
                        .push(object, |object| self.geometry_at(object));
                }
            }
        }
    }

    /// Whether all that waits is chained and counted.
    pub(super) fn is_chain_whole(&self, state: &State) -> bool {
        let (mut nr, mut bytes) = (0, 0);
        let of = |object| self.geometry_at(object);
        let whole = state.quarantine.for_each(
            of,
            |address| self.waiting_at(address),
            |object| {
                nr += 1;
                bytes += self
                    .geometry_at(object)
                    .map_or(0, |geometry| geometry.stride);
            },
        );
        whole.is_ok() && (nr, bytes) == (state.quarantine.len(), state.waiting_bytes)
    }

    /// Keeps what is to be told of an object that something is wrong with.
    fn found(
        &self,
        state: &State,
        page: SlobPage,
        begin: u16,
        head: Head,
        violations: [Option<Violation>; 4],
    ) -> Option<Found> {
        if violations == [None; 4] {
            return None;
        }
        let object = page.address(begin + head.units_before());
        let report = self.describe_block(state, page, begin, head, object.addr().get());
        report.map(|report| (violations, report))
    }

    /// The debugged object that an address lies in, or in whose surroundings.
    pub(super) fn describe(&self, address: usize) -> Option<ObjectReport> {
        let at = NonNull::new(ptr::without_provenance_mut(address))?;
        let Ok(Place::Block(page)) = self.locate(at) else {
            return None;
        };
        let state = self.state.lock();
        let unit = page.unit_of(address)?;
        let (begin, head) = page.debugged_around(unit)?;
        let end = begin + head.units_before() + head.units_behind();
        (unit < end)
            .then(|| self.describe_block(&state, page, begin, head, address))
            .flatten()
    }

    fn describe_block(
        &self,
        state: &State,
        page: SlobPage,
        begin: u16,
        head: Head,
        address: usize,
    ) -> Option<ObjectReport> {
        let geometry = head.geometry(self.config.secret)?;
        let object = page.address(begin + head.units_before());
        let mut used = 0;
        page.for_each_used(|_| used += 1);
        let facts = Facts {
            cache: self.name_of(state, head),
            slab: page.address(0).addr().get(),
            objects: used,
            used,
            first_free: page.first_free(),
            geometry: &geometry,
        };
        Some(ObjectReport::new(&facts, object, address))
    }

    fn name_of(&self, state: &State, head: Head) -> &'static str {
        match head.owner {
            Some(slot) => state.name_of(slot).unwrap_or(NAME),
            None => name_of_request(head.object_size.into(), 1, Gfp::KERNEL).unwrap_or(NAME),
        }
    }

    pub(super) fn tell(&self, found: Option<Found>) {
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

    /// A debugged object that is free already.
    pub(super) fn double_free(&self, state: &State, head: Head) -> Mistake {
        let name = self.name_of(state, head);
        (SlubBugKind::DoubleFree, Some(name))
    }
}

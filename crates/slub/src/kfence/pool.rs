//! The pool: pages are handed out, taken back, and asked about when there was a fault.
#![expect(unsafe_code, reason = "fills and checks pages of objects")]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use kmm_frame::PAGE_SIZE;
use kmm_host::GuardedPages;
use lock_api::{Mutex, RawMutex};

use super::slot::{KfenceSlot, State};
use crate::debug::{GuardedObject, ObjectReport, Track};
use crate::{SlubBugKind, SlubError};

/// Of the bytes around an object, with the low bits of the address. Linux: `KFENCE_CANARY_PATTERN_U8`.
const CANARY: u8 = 0xaa;

/// A pool of pages between pages that nobody may touch, from which every so many-th object comes. Linux: KFENCE.
///
/// Handed to [`SlubConfig::kfence`](crate::SlubConfig::kfence). While there is one, frees that name cache or size do not go
/// the shortest way, as an object may be of the pool; the other hot paths do not know of it.
///
/// # Examples
/// ```
/// use kmm_sim::{SimGuard, SimLock};
/// use kmm_slub::{Kfence, KfenceSlot, SlubConfig};
///
/// let slots = vec![KfenceSlot::new(); 16].leak();
/// // 16 objects need 33 pages; every 100th object that the CPUs' stocks do not have comes from there.
/// let pool = Kfence::<_, SimLock>::new(SimGuard::new(33), slots, 100).unwrap();
/// let config = SlubConfig {
///     kfence: Some(Box::leak(Box::new(pool))),
///     ..SlubConfig::new(|bug| panic!("{bug}"))
/// };
/// assert!(config.kfence.is_some());
/// ```
pub struct Kfence<G, L: RawMutex> {
    pages: G,
    /// Of the memory: copied, as it never changes.
    start: usize,
    nr_pages: usize,
    interval: u32,
    left: AtomicU32,
    state: Mutex<L, Slots>,
    nr_used: AtomicUsize,
}

struct Slots {
    slots: &'static mut [KfenceSlot],
    first: Option<usize>,
    last: Option<usize>,
    nr_taken: usize,
}

/// What is asked of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub(crate) cache: &'static str,
    pub(crate) owner: Option<u8>,
    pub(crate) size_bytes: usize,
    pub(crate) align: usize,
    pub(crate) track: Track,
}

/// A mistake with an object of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    pub(crate) kind: SlubBugKind,
    pub(crate) report: ObjectReport,
}

/// A page of the pool was touched that is hidden.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub(crate) address: usize,
    pub(crate) is_write: bool,
    pub(crate) track: Track,
}

/// A pool, whatever is below it: what [`Kfence`] is to who takes objects from it. Nobody else implements it.
pub trait Sampled: fmt::Debug {
    /// Counts an object that no stock had; whether this is one for the pool.
    #[doc(hidden)]
    fn is_due(&self) -> bool;

    /// An object, if there is a page left.
    #[doc(hidden)]
    fn take(&self, wanted: &Wanted) -> Option<NonNull<u8>>;

    /// Whether an address is of the pool.
    #[doc(hidden)]
    fn owns(&self, address: usize) -> bool;

    /// Takes an object back; with `owner`, to that cache. `tell` is given what is wrong: if it is no object in use, nothing else
    /// happens.
    #[doc(hidden)]
    fn give(&self, address: usize, owner: Option<u8>, track: Track, tell: &mut dyn FnMut(Wrong));

    /// Bytes of an object in use.
    #[doc(hidden)]
    fn size_of(&self, address: usize) -> Option<usize>;

    /// What a fault was, if the address is of the pool; the page is shown then, so that whoever raised it can go on.
    #[doc(hidden)]
    fn fault(&self, fault: &Fault) -> Option<Wrong>;

    /// Objects of a cache in use, and the report of the one with this number.
    #[doc(hidden)]
    fn in_use(&self, owner: u8, nth: usize) -> (usize, Option<ObjectReport>);

    /// Objects that were handed out so far.
    #[doc(hidden)]
    fn nr_used(&self) -> usize;
}

impl<G: GuardedPages, L: RawMutex> Kfence<G, L> {
    /// A pool of as many objects as there are slots, and pages for: two for each, and one. All pages are hidden.
    ///
    /// One in `interval` objects that CPUs' stocks do not have comes from it. With a prime, patterns of requests are met sooner.
    ///
    /// # Errors
    /// [`SlubError::InvalidLayout`] if there is no room for one object, or `interval` is 0; [`SlubError::OutOfMemory`] if a page
    /// cannot be hidden.
    pub fn new(
        pages: G,
        slots: &'static mut [KfenceSlot],
        interval: u32,
    ) -> Result<Self, SlubError> {
        let start = pages.start().addr().get();
        let nr_objects = slots.len().min(pages.nr_pages().saturating_sub(1) / 2);
        if nr_objects == 0 || interval == 0 || start % PAGE_SIZE != 0 {
            return Err(SlubError::InvalidLayout);
        }
        let (slots, _) = slots.split_at_mut(nr_objects);
        slots.fill(KfenceSlot::new());
        for (nr, slot) in slots.iter_mut().enumerate() {
            slot.next = Some(nr + 1).filter(|next| *next < nr_objects);
        }
        let nr_pages = 2 * nr_objects + 1;
        for nr in 0..nr_pages {
            if !pages.hide(nr) {
                (0..nr).for_each(|nr| _ = pages.show(nr));
                return Err(SlubError::OutOfMemory);
            }
        }
        Ok(Self {
            pages,
            start,
            nr_pages,
            interval,
            left: AtomicU32::new(interval),
            state: Mutex::new(Slots {
                slots,
                first: Some(0),
                last: Some(nr_objects - 1),
                nr_taken: 0,
            }),
            nr_used: AtomicUsize::new(0),
        })
    }

    /// The page of an object.
    const fn page_of(nr: usize) -> usize {
        2 * nr + 1
    }

    fn page_start(&self, page: usize) -> usize {
        self.start + page * PAGE_SIZE
    }

    fn page_at(&self, address: usize) -> Option<usize> {
        let page = address.checked_sub(self.start)? / PAGE_SIZE;
        (page < self.nr_pages).then_some(page)
    }

    fn byte(&self, address: usize) -> NonNull<u8> {
        // SAFETY: callers have an address of the pool.
        unsafe { self.pages.start().add(address - self.start) }
    }

    /// Calls `visit` with the address of each byte of an object's page that is not the object's.
    fn around(&self, nr: usize, slot: &KfenceSlot, visit: impl FnMut(usize)) {
        let page = self.page_start(Self::page_of(nr));
        let end = slot.start + slot.size_bytes;
        (page..slot.start)
            .chain(end..page + PAGE_SIZE)
            .for_each(visit);
    }

    /// The first byte around an object that somebody has written.
    fn spoilt(&self, nr: usize, slot: &KfenceSlot) -> Option<usize> {
        let mut first = None;
        self.around(nr, slot, |address| {
            if first.is_none() && self.read(address) != canary(address) {
                first = Some(address);
            }
        });
        first
    }

    fn read(&self, address: usize) -> u8 {
        // SAFETY: the page is shown: its object is in use, or just being freed.
        unsafe { self.byte(address).read_volatile() }
    }

    /// The object in use beside a page, or the object of it.
    fn nearest(state: &Slots, page: usize, address: usize) -> Option<usize> {
        if page % 2 == 1 {
            return Some(page / 2);
        }
        let beside = [(page / 2).checked_sub(1), Some(page / 2)];
        let in_use = |nr: &usize| {
            let slot = state.slots.get(*nr);
            slot.is_some_and(|slot| slot.state == State::Allocated)
        };
        let candidates = beside.into_iter().flatten().filter(in_use);
        candidates.min_by_key(|nr| state.slots[*nr].distance(address))
    }
}

impl<G: GuardedPages, L: RawMutex> Sampled for Kfence<G, L> {
    fn is_due(&self) -> bool {
        let count = |left: u32| Some(if left <= 1 { self.interval } else { left - 1 });
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        before.unwrap_or(0) <= 1
    }

    fn take(&self, wanted: &Wanted) -> Option<NonNull<u8>> {
        if wanted.size_bytes == 0 || wanted.size_bytes > PAGE_SIZE || wanted.align > PAGE_SIZE {
            return None;
        }
        let mut state = self.state.lock();
        let nr = state.first?;
        let page = Self::page_of(nr);
        if !self.pages.show(page) {
            return None;
        }
        state.first = state.slots[nr].next;
        if state.first.is_none() {
            state.last = None;
        }
        let start = self.page_start(page);
        let start = if state.nr_taken % 2 == 0 {
            (start + PAGE_SIZE - wanted.size_bytes) & !(wanted.align - 1)
        } else {
            start
        };
        state.nr_taken += 1;
        let slot = KfenceSlot {
            state: State::Allocated,
            start,
            size_bytes: wanted.size_bytes,
            cache: wanted.cache,
            owner: wanted.owner,
            allocated: Some(wanted.track),
            ..KfenceSlot::new()
        };
        self.around(nr, &slot, |address| {
            // SAFETY: of a page that is shown, and nobody's.
            unsafe { self.byte(address).write_volatile(canary(address)) };
        });
        state.slots[nr] = slot;
        self.nr_used.fetch_add(1, Ordering::Relaxed);
        Some(self.byte(start))
    }

    fn owns(&self, address: usize) -> bool {
        self.page_at(address).is_some()
    }

    fn give(&self, address: usize, owner: Option<u8>, track: Track, tell: &mut dyn FnMut(Wrong)) {
        let mut state = self.state.lock();
        let page = self.page_at(address).unwrap_or(0);
        let nr = Self::nearest(&state, page, address);
        let slot = nr.and_then(|nr| state.slots.get(nr)).copied();
        let wrong = match slot {
            None => Some(SlubBugKind::NotAllocated),
            Some(slot) => match slot.state {
                State::Unused => Some(SlubBugKind::NotAllocated),
                _ if slot.start != address => Some(SlubBugKind::Misaligned),
                State::Freed => Some(SlubBugKind::DoubleFree),
                State::Allocated if owner.is_some() && owner != slot.owner => {
                    Some(SlubBugKind::WrongCache)
                }
                State::Allocated => None,
            },
        };
        let kind = wrong.unwrap_or(SlubBugKind::Canary);
        let fault = Fault {
            address,
            is_write: false,
            track,
        };
        let (Some(nr), Some(mut slot), None) = (nr, slot, wrong) else {
            drop(state);
            return tell(wrong_with(kind, nr, slot.as_ref(), &fault, &[]));
        };
        let spoilt = self.spoilt(nr, &slot);
        let spoilt = spoilt.map(|first| {
            let end = self.page_start(Self::page_of(nr) + 1);
            let mut bytes = [(0, 0); 16];
            let len = bytes.len().min(end - first);
            for (at, byte) in bytes.iter_mut().enumerate().take(len) {
                *byte = (self.read(first + at), canary(first + at));
            }
            let fault = Fault {
                address: first,
                ..fault
            };
            wrong_with(kind, Some(nr), Some(&slot), &fault, &bytes[..len])
        });
        slot.state = State::Freed;
        slot.freed = Some(track);
        slot.next = None;
        let hidden = self.pages.hide(Self::page_of(nr));
        let guard = slot.shown.take();
        let hidden = hidden && guard.is_none_or(|page| self.pages.hide(page));
        state.slots[nr] = slot;
        // One that cannot be hidden is not used again: it would say nothing.
        if hidden {
            match state.last {
                Some(last) => state.slots[last].next = Some(nr),
                None => state.first = Some(nr),
            }
            state.last = Some(nr);
        }
        drop(state);
        if let Some(spoilt) = spoilt {
            tell(spoilt);
        }
    }

    fn size_of(&self, address: usize) -> Option<usize> {
        let page = self.page_at(address)?;
        let state = self.state.lock();
        let slot = state.slots.get(page / 2).filter(|_| page % 2 == 1)?;
        (slot.state == State::Allocated && slot.start == address).then_some(slot.size_bytes)
    }

    fn fault(&self, fault: &Fault) -> Option<Wrong> {
        let page = self.page_at(fault.address)?;
        let mut state = self.state.lock();
        let nr = Self::nearest(&state, page, fault.address);
        let slot = nr.and_then(|nr| state.slots.get(nr)).copied();
        let kind = match slot.map(|slot| slot.state) {
            Some(State::Allocated) if page % 2 == 0 => SlubBugKind::OutOfBounds,
            Some(State::Freed) => SlubBugKind::AccessAfterFree,
            _ => SlubBugKind::InvalidAccess,
        };
        let wrong = wrong_with(kind, nr, slot.as_ref(), fault, &[]);
        // Until its object is freed; else for ever.
        let shown = self.pages.show(page);
        if let (true, Some(nr), SlubBugKind::OutOfBounds) = (shown, nr, kind) {
            if let Some(before) = state.slots[nr].shown.replace(page) {
                if before != page {
                    self.pages.hide(before);
                }
            }
        }
        Some(wrong)
    }

    fn in_use(&self, owner: u8, nth: usize) -> (usize, Option<ObjectReport>) {
        let state = self.state.lock();
        let in_use =
            |slot: &&KfenceSlot| slot.state == State::Allocated && slot.owner == Some(owner);
        let nr = state.slots.iter().filter(in_use).count();
        let report = state.slots.iter().filter(in_use).nth(nth);
        (nr, report.map(|slot| report_of(slot, slot.start, None)))
    }

    fn nr_used(&self) -> usize {
        self.nr_used.load(Ordering::Relaxed)
    }
}

fn wrong_with(
    kind: SlubBugKind,
    nr: Option<usize>,
    slot: Option<&KfenceSlot>,
    fault: &Fault,
    spoilt: &[(u8, u8)],
) -> Wrong {
    let nobody = KfenceSlot::new();
    let known = slot.filter(|slot| slot.state != State::Unused);
    let guarded = GuardedObject::new(
        nr.filter(|_| known.is_some()),
        fault.is_write,
        fault.track,
        spoilt,
    );
    Wrong {
        kind,
        report: report_of(known.unwrap_or(&nobody), fault.address, Some(guarded)),
    }
}

fn report_of(slot: &KfenceSlot, address: usize, guarded: Option<GuardedObject>) -> ObjectReport {
    ObjectReport::of_kfence(
        slot.cache,
        (slot.start, slot.size_bytes),
        address,
        [slot.allocated, slot.freed],
        guarded,
    )
}

#[expect(clippy::cast_possible_truncation, reason = "three bits")]
const fn canary(address: usize) -> u8 {
    CANARY ^ (address as u8 & 7)
}

impl<G: fmt::Debug, L: RawMutex> fmt::Debug for Kfence<G, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kfence")
            .field("pages", &self.pages)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

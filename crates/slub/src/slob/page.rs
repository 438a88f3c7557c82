//! One page of blocks: free ones in a list by address, a mark for each that is in use.
//!
//! | bytes | what |
//! |---|---|
//! | 0..64 | one bit for each unit of 8 bytes: a block in use starts here |
//! | 64..4096 | blocks, in use and free, without a gap |
//!
//! The first word of a free block says how long it is and where the next one begins, sealed with its address. A block in use has no
//! word of its own: it ends where the next one starts, whichever kind that is. So size and start of each are known exactly, for
//! 64 bytes a page instead of a header of 8 bytes a block, as Linux has it.
//!
//! All of this happens under the allocator's lock.
#![expect(unsafe_code, reason = "blocks lie in the page")]

use core::ptr::NonNull;

use kmm_frame::{PAGE_SIZE, Page, PageFlags, Pfn};

use crate::SlubBugKind;
use crate::debug::{DebugFlags, Layout};
use crate::geometry::{CacheArgs, Geometry, Request};

/// What sizes and addresses are multiples of. Linux: `ARCH_KMALLOC_MINALIGN`; its `SLOB_UNIT` of 2 bytes gains nothing by it.
pub(super) const UNIT_BYTES: usize = 8;
const UNITS: u16 = 512;
const MARK_WORDS: u16 = UNITS / 64;
/// The first unit behind the marks, whose words are as large as units.
const FIRST: u16 = MARK_WORDS;
/// Units of a page for blocks.
pub(super) const ROOM: u16 = UNITS - FIRST;
const _: () = assert!(UNITS as usize * UNIT_BYTES == PAGE_SIZE);
/// No block: there the marks are.
const END: u16 = 0;

/// A free block's word was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Corrupt(pub(super) u16);

/// What is wanted of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) units: u16,
    /// Units in front of the aligned one: 1 if the block begins with its owner's word, more if it is debugged.
    pub(super) before: u16,
    /// In units; a power of two.
    pub(super) align: u16,
}

impl Want {
    /// For so many bytes; `None` when no page has the room.
    pub(super) fn new(size_bytes: usize, align: usize, has_owner: bool) -> Option<Self> {
        Self::behind(usize::from(has_owner), size_bytes, align)
    }

    /// For so many bytes with units before them.
    pub(super) fn behind(before: usize, size_bytes: usize, align: usize) -> Option<Self> {
        let units = before + size_bytes.div_ceil(UNIT_BYTES);
        let align = align.div_ceil(UNIT_BYTES);
        let most = usize::from(ROOM);
        if units > most || align > most {
            return None;
        }
        let want = Self {
            units: u16::try_from(units).ok()?,
            before: u16::try_from(before).ok()?,
            align: u16::try_from(align).ok()?,
        };
        (want.first_fit(FIRST) + want.units <= UNITS).then_some(want)
    }

    /// Where such a block begins, at or behind a unit.
    const fn first_fit(self, at: u16) -> u16 {
        (at + self.before).next_multiple_of(self.align) - self.before
    }
}

/// A page of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlobPage {
    pub(super) pfn: Pfn,
    pub(super) page: &'static Page,
    base: NonNull<u8>,
    secret: u64,
    /// Whether there may be debugged blocks.
    debugs: bool,
}

/// What the descriptor's `private` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageState {
    /// The first free block.
    first: u16,
    /// Units in free blocks.
    pub(super) free: u16,
    /// No free block is longer.
    pub(super) largest: u16,
    /// The list that the page is on, if anything is free.
    pub(super) ring: u8,
}

/// A free block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Free {
    units: u16,
    next: u16,
}

/// A block in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Used {
    pub(super) begin: u16,
    /// The slot of the cache that the block's word names; `None` for `kmalloc`.
    pub(super) owner: Option<u8>,
    /// How its object is laid out, if it is debugged.
    pub(super) head: Option<Head>,
}

/// What the first word of a debugged block says: whose it is, and all that its layout follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) owner: Option<u8>,
    pub(super) debug: DebugFlags,
    pub(super) object_size: u16,
}

/// The rest of the word is its seal.
const HEAD_KNOWN: u64 = (1 << 33) - 1;
/// Sets heads apart from names of owners and from free blocks.
const HEAD_SALT: u64 = 1 << 62;
const NO_OWNER: u64 = 0x100;

impl Head {
    fn word(self) -> u64 {
        let owner = self.owner.map_or(NO_OWNER, u64::from);
        u64::from(self.object_size) | u64::from(self.debug.bits()) << 16 | owner << 24
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    fn from_word(word: u64) -> Self {
        Self {
            owner: u8::try_from(word >> 24).ok(),
            debug: DebugFlags::from_bits_truncate((word >> 16) as u8),
            object_size: word as u16,
        }
    }

    /// The object's layout: aligned by its block, so its left red zone is no longer than others.
    pub(super) fn geometry(self, secret: u64) -> Option<Geometry> {
        let args = CacheArgs::new("", usize::from(self.object_size));
        let request = Request {
            args,
            redzone_bytes: 0,
            nr_cpus: 1,
            secret,
        };
        let geometry = Geometry::new(&request).ok()?.debugged(self.debug, 1);
        geometry.has_surroundings().then_some(geometry)
    }

    /// The word itself, and the left red zone.
    pub(super) fn units_before(self) -> u16 {
        let left = self.geometry(0).and_then(|geometry| Layout::of(&geometry));
        let left = left.map_or(0, |layout| layout.left / UNIT_BYTES);
        u16::try_from(left).unwrap_or(0) + 1
    }

    /// The object and what is behind it.
    pub(super) fn units_behind(self) -> u16 {
        let stride = self
            .geometry(0)
            .map_or(0, |geometry| geometry.stride / UNIT_BYTES);
        u16::try_from(stride).unwrap_or(0) + 1 - self.units_before()
    }
}

impl PageState {
    fn word(self) -> u64 {
        u64::from(self.first)
            | u64::from(self.free) << 16
            | u64::from(self.largest) << 32
            | u64::from(self.ring) << 48
    }

    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    const fn from_word(word: u64) -> Self {
        Self {
            first: word as u16,
            free: (word >> 16) as u16,
            largest: (word >> 32) as u16,
            ring: (word >> 48) as u8,
        }
    }

    pub(super) const fn is_empty(self) -> bool {
        self.free == ROOM
    }
}

impl SlobPage {
    /// The page behind a descriptor. The caller knows that it is one, or makes it one.
    pub(super) const fn new(pfn: Pfn, page: &'static Page, base: NonNull<u8>, secret: u64) -> Self {
        Self {
            pfn,
            page,
            base,
            secret,
            debugs: false,
        }
    }

    /// The same, where there may be debugged blocks.
    pub(super) const fn with_debugged(self, debugs: bool) -> Self {
        Self { debugs, ..self }
    }

    /// Makes a fresh page one free block.
    pub(super) fn init(self, label: u64, ring: u8) {
        // SAFETY: a page, and the caller's alone.
        unsafe { self.base.write_bytes(0, usize::from(MARK_WORDS) * 8) };
        self.set_free(
            FIRST,
            Free {
                units: ROOM,
                next: END,
            },
        );
        self.set_state(PageState {
            first: FIRST,
            free: ROOM,
            largest: ROOM,
            ring,
        });
        self.page.set(PageFlags::SLAB | PageFlags::HEAD);
        self.page.set_mapping(label);
    }

    /// Takes all marks of the descriptor away: the page goes back.
    pub(super) fn disown(self) {
        self.page.set_mapping(0);
        self.page.set_private(0);
        self.page.clear(PageFlags::SLAB | PageFlags::HEAD);
    }

    pub(super) fn state(self) -> PageState {
        PageState::from_word(self.page.private())
    }

    pub(super) fn set_state(self, state: PageState) {
        self.page.set_private(state.word());
    }

    /// Takes the first block that fits; where it begins. Linux: `slob_page_alloc`.
    pub(super) fn take(self, want: Want) -> Result<Option<u16>, Corrupt> {
        let mut state = self.state();
        let (mut before, mut at, mut largest) = (None, state.first, 0);
        while at != END {
            let free = self.free_at(at)?;
            let (begin, end) = (want.first_fit(at), at + free.units);
            if begin + want.units <= end {
                let rest = begin + want.units;
                let mut next = free.next;
                if rest < end {
                    let units = end - rest;
                    self.set_free(rest, Free { units, next });
                    next = rest;
                }
                if at < begin {
                    let units = begin - at;
                    self.set_free(at, Free { units, next });
                } else {
                    self.link(&mut state, before, next);
                }
                self.set_mark(begin, true);
                state.free -= want.units;
                self.set_state(state);
                return Ok(Some(begin));
            }
            largest = largest.max(free.units);
            before = Some((at, free));
            at = free.next;
        }
        state.largest = largest;
        self.set_state(state);
        Ok(None)
    }

    /// Frees the block that begins there, and makes one of it and its free neighbours. Linux: `slob_free`.
    pub(super) fn put(self, begin: u16) -> Result<(), Corrupt> {
        let (before, after) = self.around(begin)?;
        let end = self.end_of(begin, after);
        let mut state = self.state();
        let mut merged = Free {
            units: end - begin,
            next: after,
        };
        state.free += merged.units;
        if end == after {
            let free = self.free_at(after)?;
            merged = Free {
                units: merged.units + free.units,
                next: free.next,
            };
        }
        self.set_mark(begin, false);
        // Else it could be taken for the word of a block that begins here once more.
        self.write(begin, 0);
        let start = match before {
            Some((at, free)) if at + free.units == begin => {
                merged.units += free.units;
                at
            }
            _ => {
                self.link(&mut state, before, begin);
                begin
            }
        };
        self.set_free(start, merged);
        state.largest = state.largest.max(merged.units);
        self.set_state(state);
        Ok(())
    }

    /// Gives up every free block: somebody has written to one.
    pub(super) fn isolate(self) {
        self.set_state(PageState {
            first: END,
            free: 0,
            largest: 0,
            ..self.state()
        });
    }

    /// The block whose first byte for its user is at `address`.
    ///
    /// # Errors
    /// What else is there. A broken list is taken to say that the block is in use.
    pub(super) fn find(self, address: NonNull<u8>) -> Result<Used, SlubBugKind> {
        let offset = address.addr().get() - self.base.addr().get();
        let unit = u16::try_from(offset / UNIT_BYTES).unwrap_or(END);
        if offset % UNIT_BYTES != 0 || unit < FIRST {
            return Err(SlubBugKind::Misaligned);
        }
        if let Some((begin, head)) = self.debugged_around(unit) {
            if unit < begin + head.units_before() + head.units_behind() {
                let is_start = unit == begin + head.units_before();
                return is_start
                    .then_some(Used {
                        begin,
                        owner: head.owner,
                        head: Some(head),
                    })
                    .ok_or(SlubBugKind::Misaligned);
            }
        }
        if self.is_marked(unit) && self.owner(unit).is_none() {
            return Ok(Used {
                begin: unit,
                owner: None,
                head: None,
            });
        }
        let begin = unit - 1;
        if begin >= FIRST && self.is_marked(begin) {
            if let Some(owner) = self.owner(begin) {
                return Ok(Used {
                    begin,
                    owner: Some(owner),
                    head: None,
                });
            }
        }
        match self.around(unit) {
            Ok((Some((at, free)), _)) if unit < at + free.units => Err(SlubBugKind::DoubleFree),
            Ok((_, after)) if after == unit => Err(SlubBugKind::DoubleFree),
            _ => Err(SlubBugKind::Misaligned),
        }
    }

    /// Bytes of a block in use.
    pub(super) fn size_bytes(self, begin: u16) -> usize {
        let after = self.around(begin).map_or(END, |(_, after)| after);
        usize::from(self.end_of(begin, after) - begin) * UNIT_BYTES
    }

    /// The bytes of a block.
    pub(super) fn address(self, unit: u16) -> NonNull<u8> {
        // SAFETY: units lie within the page.
        unsafe { self.base.add(usize::from(unit) * UNIT_BYTES) }
    }

    /// Names a block's owner in its first word.
    pub(super) fn set_owner(self, begin: u16, slot: u8) {
        self.write(begin, self.owner_tag(begin) | u64::from(slot));
    }

    /// The owner that a block in use names, if its first word is such a name.
    pub(super) fn owner(self, begin: u16) -> Option<u8> {
        u8::try_from(self.read(begin) ^ self.owner_tag(begin)).ok()
    }

    /// Makes a block one with a debugged object.
    pub(super) fn set_head(self, begin: u16, head: Head) {
        let known = head.word();
        self.write(
            begin,
            known | (self.hash(begin, known | HEAD_SALT) & !HEAD_KNOWN),
        );
    }

    /// The head of a block in use, if its first word is one.
    pub(super) fn head(self, begin: u16) -> Option<Head> {
        let word = self.read(begin);
        let known = word & HEAD_KNOWN;
        let is_whole = word & !HEAD_KNOWN == self.hash(begin, known | HEAD_SALT) & !HEAD_KNOWN;
        is_whole.then(|| Head::from_word(known))
    }

    /// The debugged block that begins at a unit, or is the first before it.
    pub(super) fn debugged_around(self, unit: u16) -> Option<(u16, Head)> {
        if !self.debugs {
            return None;
        }
        let begin = self.mark_before(unit)?;
        self.head(begin).map(|head| (begin, head))
    }

    /// The first debugged block that begins at or behind a unit.
    pub(super) fn next_debugged(self, mut unit: u16) -> Option<(u16, Head)> {
        loop {
            let begin = self.next_mark(unit)?;
            if let Some(head) = self.head(begin) {
                return Some((begin, head));
            }
            unit = begin + 1;
        }
    }

    /// The address of the first free block, 0 if there is none.
    pub(super) fn first_free(self) -> usize {
        match self.state().first {
            END => 0,
            first => self.address(first).addr().get(),
        }
    }

    /// The unit that an address lies in, if behind the marks.
    pub(super) fn unit_of(self, address: usize) -> Option<u16> {
        let offset = address.checked_sub(self.base.addr().get())?;
        u16::try_from(offset / UNIT_BYTES)
            .ok()
            .filter(|unit| (FIRST..UNITS).contains(unit))
    }

    /// Calls `visit` with the beginning of each block in use.
    pub(super) fn for_each_used(self, mut visit: impl FnMut(u16)) {
        let mut unit = FIRST;
        while let Some(marked) = self.next_mark(unit) {
            visit(marked);
            unit = marked + 1;
        }
    }

    /// Whether list, marks and counts fit.
    pub(super) fn validate(self) -> Result<(), Corrupt> {
        let state = self.state();
        let (mut at, mut free_units, mut largest) = (state.first, 0, 0);
        while at != END {
            let free = self.free_at(at)?;
            let marked = self.next_mark(at);
            if marked.is_some_and(|marked| marked < at + free.units) {
                return Err(Corrupt(at));
            }
            free_units += free.units;
            largest = largest.max(free.units);
            at = free.next;
        }
        let fits = free_units == state.free && largest <= state.largest;
        fits.then_some(()).ok_or(Corrupt(state.first))
    }

    /// The free block before a unit or around it, and the one at or behind it.
    fn around(self, unit: u16) -> Result<(Option<(u16, Free)>, u16), Corrupt> {
        let (mut before, mut at) = (None, self.state().first);
        while at != END && at < unit {
            let free = self.free_at(at)?;
            before = Some((at, free));
            at = free.next;
        }
        Ok((before, at))
    }

    /// Where a block in use ends, before that free one.
    fn end_of(self, begin: u16, after: u16) -> u16 {
        let end = if after == END { UNITS } else { after };
        self.next_mark(begin + 1).map_or(end, |next| next.min(end))
    }

    fn link(self, state: &mut PageState, before: Option<(u16, Free)>, next: u16) {
        match before {
            None => state.first = next,
            Some((at, Free { units, .. })) => self.set_free(at, Free { units, next }),
        }
    }

    fn free_at(self, at: u16) -> Result<Free, Corrupt> {
        let word = self.read(at);
        #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
        let (units, next) = (word as u16, (word >> 16) as u16);
        let end = at.checked_add(units).ok_or(Corrupt(at))?;
        let in_order = units > 0 && end <= UNITS && (next == END || (end < next && next < UNITS));
        if in_order && word == self.sealed(at, Free { units, next }) {
            Ok(Free { units, next })
        } else {
            Err(Corrupt(at))
        }
    }

    fn set_free(self, at: u16, free: Free) {
        self.write(at, self.sealed(at, free));
    }

    fn sealed(self, at: u16, free: Free) -> u64 {
        let parts = u64::from(free.units) | u64::from(free.next) << 16;
        parts | (self.hash(at, parts) & !0xffff_ffff)
    }

    fn owner_tag(self, begin: u16) -> u64 {
        self.hash(begin, 1 << 63) & !0xff
    }

    /// Depends on the address of a unit.
    fn hash(self, unit: u16, salt: u64) -> u64 {
        let address = self.address(unit).addr().get() as u64;
        let mixed =
            (address ^ self.secret ^ salt.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    }

    /// The first mark at or behind a unit.
    fn next_mark(self, unit: u16) -> Option<u16> {
        let mut bits = u64::MAX << (unit % 64);
        for nr in unit / 64..MARK_WORDS {
            let found = self.marks(nr) & bits;
            if found != 0 {
                #[expect(clippy::cast_possible_truncation, reason = "below 64")]
                return Some(nr * 64 + found.trailing_zeros() as u16);
            }
            bits = u64::MAX;
        }
        None
    }

    /// The last mark at or before a unit.
    fn mark_before(self, unit: u16) -> Option<u16> {
        (FIRST..=unit).rev().find(|unit| self.is_marked(*unit))
    }

    fn is_marked(self, unit: u16) -> bool {
        self.marks(unit / 64) >> (unit % 64) & 1 != 0
    }

    fn set_mark(self, unit: u16, is_used: bool) {
        let word = self.marks(unit / 64) & !(1 << (unit % 64));
        self.write(unit / 64, word | u64::from(is_used) << (unit % 64));
    }

    fn marks(self, nr: u16) -> u64 {
        self.read(nr)
    }

    fn read(self, unit: u16) -> u64 {
        debug_assert!(unit < UNITS, "unit {unit}");
        // SAFETY: in the page (all units are below `UNITS`), aligned; free, a mark, or an owner's word: INV-13.
        unsafe { self.address(unit).cast::<u64>().read() }
    }

    fn write(self, unit: u16, word: u64) {
        debug_assert!(unit < UNITS, "unit {unit}");
        // SAFETY: in the page, aligned; free, a mark, or an owner's word: INV-13.
        unsafe { self.address(unit).cast::<u64>().write(word) };
    }
}

//! The bytes around an object, and in a free one: written, checked, restored.
#![expect(
    unsafe_code,
    reason = "reads and writes what surrounds objects of a debugged slab"
)]

use core::ops::Range;
use core::ptr::NonNull;

use super::DebugFlags;
use super::mark::{Holder, Mark};
use super::track::Track;
use crate::SlubBugKind;
use crate::geometry::{Geometry, WORD_BYTES};

/// Of a red zone while the object is free. Linux: include/linux/poison.h, for all of these.
const RED_INACTIVE: u8 = 0xbb;
/// Of a red zone while it is in use.
const RED_ACTIVE: u8 = 0xcc;
/// Of a new object, and of padding.
const POISON_INUSE: u8 = 0x5a;
const POISON_FREE: u8 = 0x6b;
/// Of the last byte of a free object.
const POISON_END: u8 = 0xa5;

const LEFT_BYTES: usize = 64;
const RIGHT_BYTES: usize = 72;
const TRACKS_BYTES: usize = 2 * size_of::<Track>();

/// Where things lie, in bytes from the object's start; but `left` is so many bytes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) left: usize,
    /// The right red zone.
    pub(crate) right: (usize, usize),
    pub(crate) word: usize,
    /// Who allocated it; who freed it is behind.
    pub(crate) tracks: Option<usize>,
    pub(crate) mark: usize,
    pub(crate) padding: usize,
}

impl Layout {
    pub(crate) const fn new(object_size: usize, align: usize, debug: DebugFlags) -> Self {
        let has_zones = debug.contains(DebugFlags::RED_ZONE);
        let end = object_size.next_multiple_of(WORD_BYTES);
        let left = if has_zones {
            LEFT_BYTES.next_multiple_of(align)
        } else {
            0
        };
        let word = if has_zones { end + RIGHT_BYTES } else { end };
        let behind = word + WORD_BYTES;
        let (tracks, mark) = if debug.contains(DebugFlags::USER) {
            (Some(behind), behind + TRACKS_BYTES)
        } else {
            (None, behind)
        };
        Self {
            left,
            right: (object_size, if has_zones { word } else { object_size }),
            word,
            tracks,
            mark,
            padding: mark + WORD_BYTES,
        }
    }

    /// That of a cache whose objects have something around them.
    pub(crate) fn of(geometry: &Geometry) -> Option<Self> {
        geometry
            .has_surroundings()
            .then(|| Self::new(geometry.object_size, geometry.align, geometry.debug))
    }
}

/// Whether somebody has the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Free,
    Taken,
}

/// Bytes that are not what they should be: a first one and a last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) kind: SlubBugKind,
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) found: u8,
    pub(crate) expected: u8,
}

/// The bytes `from..to` of an object's surroundings.
///
/// # Safety
/// They lie in the object's stride.
unsafe fn place(object: NonNull<u8>, from: isize) -> NonNull<u8> {
    // SAFETY: the caller's obligation.
    unsafe { object.offset(from) }
}

fn read(object: NonNull<u8>, at: isize) -> u8 {
    // SAFETY: callers stay within the object's stride (INV-14).
    let byte = unsafe { place(object, at) };
    // SAFETY: slabs are mapped; volatile, as somebody may be writing there who should not.
    unsafe { byte.read_volatile() }
}

fn write(object: NonNull<u8>, range: Range<isize>, value: u8) {
    let len = usize::try_from(range.end - range.start).unwrap_or(0);
    // SAFETY: callers stay within the object's stride (INV-14).
    let first = unsafe { place(object, range.start) };
    // SAFETY: those bytes are the allocator's: no user's, or those of a free object.
    unsafe { first.write_bytes(value, len) };
}

/// What must hold which value: the range, the value, the value of the last byte, and what it means if not.
type Zone = (Range<isize>, u8, u8, SlubBugKind);

fn zones(object: NonNull<u8>, geometry: &Geometry, layout: &Layout, is: Use) -> [Zone; 4] {
    let signed = |bytes: usize| isize::try_from(bytes).unwrap_or(isize::MAX);
    let red = match is {
        Use::Free => RED_INACTIVE,
        Use::Taken => RED_ACTIVE,
    };
    let (mut right, right_end) = layout.right;
    if is == Use::Taken && geometry.debug.contains(DebugFlags::RED_ZONE) {
        let mark = read_mark(object, geometry);
        right = mark.map_or(right, |mark| right.min(mark.size_bytes));
    }
    let poisoned = if is == Use::Free && geometry.debug.contains(DebugFlags::POISON) {
        signed(geometry.object_size)
    } else {
        0
    };
    let end = signed(geometry.stride - layout.left);
    [
        (-signed(layout.left)..0, red, red, SlubBugKind::LeftRedzone),
        (
            signed(right)..signed(right_end),
            red,
            red,
            SlubBugKind::RightRedzone,
        ),
        (
            0..poisoned,
            POISON_FREE,
            POISON_END,
            SlubBugKind::UseAfterFree,
        ),
        (
            signed(layout.padding)..end,
            POISON_INUSE,
            POISON_INUSE,
            SlubBugKind::Padding,
        ),
    ]
}

/// What is wrong with an object: in the order of [`zones`]. Linux: `check_object`, mm/slub.c.
pub(crate) fn check(object: NonNull<u8>, geometry: &Geometry, is: Use) -> [Option<Violation>; 4] {
    let Some(layout) = Layout::of(geometry) else {
        return [None; 4];
    };
    let mut wrong = zones(object, geometry, &layout, is).map(|(range, value, last_value, kind)| {
        let expected = |at| {
            if at == range.end - 1 {
                last_value
            } else {
                value
            }
        };
        let is_wrong = |at: &isize| read(object, *at) != expected(*at);
        let first = range.clone().find(is_wrong)?;
        let last = range.clone().rev().find(is_wrong)?;
        let address = |at| object.addr().get().wrapping_add_signed(at);
        Some(Violation {
            kind,
            first: address(first),
            last: address(last),
            found: read(object, first),
            expected: expected(first),
        })
    });
    if wrong[3].is_none() && read_mark(object, geometry).is_none() {
        let mark = Mark {
            size_bytes: geometry.object_size,
            holder: if is == Use::Free {
                Holder::Slab
            } else {
                Holder::User
            },
        };
        wrong[3] = wrong_word(
            object,
            geometry,
            layout.mark,
            mark.word(object.addr().get(), geometry.secret),
        );
    }
    wrong
}

/// A word behind an object that is not what it should be.
fn wrong_word(
    object: NonNull<u8>,
    geometry: &Geometry,
    at: usize,
    expected: u64,
) -> Option<Violation> {
    let at = isize::try_from(at).ok()?;
    let first = object.addr().get().wrapping_add_signed(at);
    let kind = if Layout::of(geometry)?.mark == at.unsigned_abs() {
        SlubBugKind::Padding
    } else {
        SlubBugKind::CorruptFreelist
    };
    Some(Violation {
        kind,
        first,
        last: first + WORD_BYTES - 1,
        found: read(object, at),
        expected: expected.to_le_bytes()[0],
    })
}

/// Makes everything around an object as it should be, but for its mark. Linux: `restore_bytes`.
pub(crate) fn restore(object: NonNull<u8>, geometry: &Geometry, is: Use) {
    let Some(layout) = Layout::of(geometry) else {
        return;
    };
    for (range, value, last_value, _) in zones(object, geometry, &layout, is) {
        if !range.is_empty() {
            write(object, range.end - 1..range.end, last_value);
            write(object, range.start..range.end - 1, value);
        }
    }
}

/// A new slab's object. Linux: `setup_object_debug`.
pub(crate) fn fill_fresh(object: NonNull<u8>, geometry: &Geometry) {
    restore(object, geometry, Use::Free);
    set_holder(object, geometry, Holder::Slab);
    for which in [Use::Taken, Use::Free] {
        write_track(object, geometry, which, &Track::NONE);
    }
}

/// It is about to be handed out. Linux: `init_object(.., SLUB_RED_ACTIVE)`.
pub(crate) fn fill_taken(object: NonNull<u8>, geometry: &Geometry) {
    set_holder(object, geometry, Holder::User);
    restore(object, geometry, Use::Taken);
    if geometry.debug.contains(DebugFlags::POISON) {
        let len = isize::try_from(geometry.object_size).unwrap_or(0);
        write(object, 0..len, POISON_INUSE);
    }
}

/// It came back. Linux: `init_object(.., SLUB_RED_INACTIVE)`.
pub(crate) fn fill_given(object: NonNull<u8>, geometry: &Geometry, holder: Holder) {
    restore(object, geometry, Use::Free);
    set_holder(object, geometry, holder);
}

/// Only so much of an object that is in use was asked for. Linux: `set_orig_size`.
pub(crate) fn set_requested(object: NonNull<u8>, geometry: &Geometry, size_bytes: usize) {
    let holder = Holder::User;
    write_mark(object, geometry, Mark { size_bytes, holder });
    restore(object, geometry, Use::Taken);
}

fn set_holder(object: NonNull<u8>, geometry: &Geometry, holder: Holder) {
    let size_bytes = geometry.object_size;
    write_mark(object, geometry, Mark { size_bytes, holder });
}

/// Where a word behind the object is.
fn word_at(
    object: NonNull<u8>,
    geometry: &Geometry,
    which: fn(&Layout) -> usize,
) -> Option<NonNull<u64>> {
    let at = which(&Layout::of(geometry)?);
    // SAFETY: within the object's stride (INV-14).
    Some(unsafe { object.add(at) }.cast())
}

/// What the object's mark says; `None` if it has none, or somebody has written to it.
pub(crate) fn read_mark(object: NonNull<u8>, geometry: &Geometry) -> Option<Mark> {
    let place = word_at(object, geometry, |layout| layout.mark)?;
    // SAFETY: 8-aligned and mapped (INV-14).
    let word = unsafe { place.read_volatile() };
    Mark::from_word(word, object.addr().get(), geometry.secret)
}

pub(crate) fn write_mark(object: NonNull<u8>, geometry: &Geometry, mark: Mark) {
    if let Some(place) = word_at(object, geometry, |layout| layout.mark) {
        let word = mark.word(object.addr().get(), geometry.secret);
        // SAFETY: 8-aligned and the allocator's alone (INV-14).
        unsafe { place.write_volatile(word) };
    }
}

/// The word that the free list has of free objects, of one that is on none.
pub(super) fn read_link(object: NonNull<u8>, geometry: &Geometry) -> u64 {
    let place = word_at(object, geometry, |layout| layout.word);
    // SAFETY: 8-aligned and mapped (INV-14).
    place.map_or(0, |place| unsafe { place.read_volatile() })
}

pub(super) fn write_link(object: NonNull<u8>, geometry: &Geometry, link: u64) {
    if let Some(place) = word_at(object, geometry, |layout| layout.word) {
        // SAFETY: 8-aligned and the allocator's alone (INV-14).
        unsafe { place.write_volatile(link) };
    }
}

/// What is wrong with the word of the free list.
pub(super) fn wrong_link(
    object: NonNull<u8>,
    geometry: &Geometry,
    expected: u64,
) -> Option<Violation> {
    wrong_word(object, geometry, Layout::of(geometry)?.word, expected)
}

fn track_at(object: NonNull<u8>, geometry: &Geometry, which: Use) -> Option<NonNull<Track>> {
    let behind = match which {
        Use::Taken => 0,
        Use::Free => size_of::<Track>(),
    };
    let at = Layout::of(geometry)?.tracks? + behind;
    // SAFETY: within the object's stride (INV-14).
    Some(unsafe { object.add(at) }.cast())
}

/// Notes who has taken or freed an object.
pub(crate) fn write_track(object: NonNull<u8>, geometry: &Geometry, which: Use, track: &Track) {
    if let Some(place) = track_at(object, geometry, which) {
        // SAFETY: 8-aligned and the allocator's alone (INV-14).
        unsafe { place.write_volatile(*track) };
    }
}

/// Who has allocated an object, and who freed it; as far as that is known.
pub(crate) fn read_tracks(object: NonNull<u8>, geometry: &Geometry) -> [Option<Track>; 2] {
    [Use::Taken, Use::Free].map(|which| {
        let place = track_at(object, geometry, which)?;
        // SAFETY: 8-aligned and mapped (INV-14); any bytes are a record, and its seal says whether it is whole.
        unsafe { place.read_volatile() }.if_whole()
    })
}

/// A copy of up to 16 bytes around an object.
pub(super) fn copy(object: NonNull<u8>, at: isize, out: &mut [u8]) {
    for (nr, byte) in (0..).zip(out) {
        *byte = read(object, at + nr);
    }
}

//! What is told of a mistake: the object, who had it, and the bytes around it, as Linux prints them.

use core::fmt;
use core::ptr::NonNull;

use super::object::{Layout, Violation, copy, read_tracks};
use super::{GuardedObject, Track, guarded, kind, title};
use crate::SlubBugKind;
use crate::geometry::Geometry;

const ROW: usize = 16;
const MOST_ROWS: usize = 16;
/// Of the object itself.
const OBJECT_ROWS: usize = 8;

/// An object of a debugged cache that something is wrong with; all that was known when that was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectReport {
    /// The cache that the object is of.
    pub cache: &'static str,
    /// Where the slab begins.
    pub slab: usize,
    /// Where the object begins.
    pub object: usize,
    /// Bytes that its user has.
    pub object_size: usize,
    /// From the object's start to the address in question.
    pub offset: isize,
    /// Who allocated it, if that is kept and was not written over.
    pub allocated: Option<Track>,
    /// Who freed it last, likewise.
    pub freed: Option<Track>,
    /// Bytes that are not what they should be.
    pub wrong: Option<WrongBytes>,
    /// What is known besides of an object of the KFENCE pool.
    pub guarded: Option<GuardedObject>,
    objects: u16,
    used: u16,
    first_free: usize,
    rows: [Row; MOST_ROWS],
}

/// Bytes that somebody has written who should not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongBytes {
    /// The address of the first one.
    pub first: usize,
    /// The address of the last one.
    pub last: usize,
    /// What the first one is.
    pub found: u8,
    /// What it was to be.
    pub expected: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    label: &'static str,
    address: usize,
    len: u8,
    bytes: [u8; ROW],
}

impl Row {
    const NONE: Self = Self {
        label: "",
        address: 0,
        len: 0,
        bytes: [0; ROW],
    };
}

/// What a report begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) cache: &'static str,
    pub(crate) slab: usize,
    pub(crate) objects: u16,
    pub(crate) used: u16,
    pub(crate) first_free: usize,
    pub(crate) geometry: &'a Geometry,
}

impl ObjectReport {
    /// Takes everything down, before anything is restored.
    pub(crate) fn new(facts: &Facts<'_>, object: NonNull<u8>, address: usize) -> Self {
        let [allocated, freed] = read_tracks(object, facts.geometry);
        let start = object.addr().get();
        let mut report = Self {
            cache: facts.cache,
            slab: facts.slab,
            object: start,
            object_size: facts.geometry.object_size,
            offset: address.wrapping_sub(start) as isize,
            allocated,
            freed,
            wrong: None,
            guarded: None,
            objects: facts.objects,
            used: facts.used,
            first_free: facts.first_free,
            rows: [Row::NONE; MOST_ROWS],
        };
        report.take_rows(facts.geometry, object);
        report
    }

    /// Of an object between guard pages: where it begins, and how many bytes it has; who allocated it, and who freed it.
    pub(crate) fn of_kfence(
        cache: &'static str,
        (object, object_size): (usize, usize),
        address: usize,
        [allocated, freed]: [Option<Track>; 2],
        guarded: Option<GuardedObject>,
    ) -> Self {
        Self {
            cache,
            slab: object & !(kmm_frame::PAGE_SIZE - 1),
            object,
            object_size,
            offset: address.wrapping_sub(object) as isize,
            allocated,
            freed,
            wrong: None,
            guarded,
            objects: 1,
            used: 1,
            first_free: 0,
            rows: [Row::NONE; MOST_ROWS],
        }
    }

    /// With what is wrong.
    pub(crate) fn with(mut self, violation: &Violation) -> Self {
        self.offset = violation.first.wrapping_sub(self.object) as isize;
        self.wrong = Some(WrongBytes {
            first: violation.first,
            last: violation.last,
            found: violation.found,
            expected: violation.expected,
        });
        self
    }

    fn take_rows(&mut self, geometry: &Geometry, object: NonNull<u8>) {
        let signed = |bytes: usize| isize::try_from(bytes).unwrap_or(isize::MAX);
        let size = geometry.object_size;
        let mut parts = [("Object  ", 0, signed(size).min(signed(OBJECT_ROWS * ROW))); 4];
        let mut nr_parts = 1;
        if let Some(layout) = Layout::of(geometry) {
            let end = signed(geometry.stride - layout.left);
            let padding = signed(layout.padding);
            let left = signed(layout.left.min(ROW));
            let (right, right_end) = (signed(layout.right.0), signed(layout.right.1));
            parts[0] = ("Redzone ", -left, 0);
            parts[1] = ("Object  ", 0, signed(size).min(signed(OBJECT_ROWS * ROW)));
            parts[2] = ("Redzone ", right, right_end);
            parts[3] = ("Padding ", padding, end.min(padding + signed(ROW)));
            nr_parts = 4;
        }
        let mut rows = self.rows.iter_mut();
        for &(label, from, to) in &parts[..nr_parts] {
            for at in (from..to).step_by(ROW) {
                let Some(row) = rows.next() else {
                    return;
                };
                let len = usize::try_from(to - at).unwrap_or(0).min(ROW);
                row.label = label;
                row.address = object.addr().get().wrapping_add_signed(at);
                row.len = u8::try_from(len).unwrap_or(0);
                copy(object, at, &mut row.bytes[..len]);
            }
        }
    }

    /// The whole text. Linux: `object_err`, `print_trailer`, `slab_fix`, mm/slub.c.
    pub(crate) fn print(&self, kind: SlubBugKind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(of_pool) = &self.guarded {
            return guarded::print(self, of_pool, kind, f);
        }
        let Self {
            cache,
            slab,
            object,
            ..
        } = *self;
        let offset_in_slab = object.wrapping_sub(slab);
        let line = "=============================================================================";
        writeln!(f, "{line}")?;
        writeln!(f, "BUG {cache} (Not tainted): {}", title(kind))?;
        let line = "-----------------------------------------------------------------------------";
        writeln!(f, "{line}\n")?;
        if let Some(wrong) = &self.wrong {
            writeln!(
                f,
                "{:#018x}-{:#018x} @offset={}. First byte {:#x} instead of {:#x}",
                wrong.first,
                wrong.last,
                wrong.first.wrapping_sub(slab),
                wrong.found,
                wrong.expected
            )?;
        } else {
            let address = object.wrapping_add_signed(self.offset);
            writeln!(f, "{address:#018x} @offset={}", address.wrapping_sub(slab))?;
        }
        if let Some(track) = &self.allocated {
            writeln!(f, "Allocated in {track}")?;
        }
        if let Some(track) = &self.freed {
            writeln!(f, "Freed in {track}")?;
        }
        writeln!(
            f,
            "Slab {slab:#018x} objects={} used={} fp={:#018x} flags=slab",
            self.objects, self.used, self.first_free
        )?;
        writeln!(
            f,
            "Object {object:#018x} @offset={offset_in_slab} fp={:#018x}\n",
            self.first_free
        )?;
        for row in self.rows.iter().filter(|row| row.len > 0) {
            row.print(f)?;
        }
        match &self.wrong {
            Some(wrong) => write!(
                f,
                "FIX {cache}: Restoring {} {:#018x}-{:#018x}={:#x}",
                kind::zone(kind),
                wrong.first,
                wrong.last,
                wrong.expected
            ),
            None if kind == SlubBugKind::CorruptFreelist => {
                write!(f, "FIX {cache}: Isolating the free objects of the slab")
            }
            None if kind == SlubBugKind::LeakedObject => {
                write!(f, "Object {object:#018x} @offset={offset_in_slab}")
            }
            None => write!(f, "FIX {cache}: Object at {object:#018x} not freed"),
        }
    }
}

impl Row {
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or(&[]);
        write!(f, "{} {:016x}:", self.label, self.address)?;
        for byte in bytes {
            write!(f, " {byte:02x}")?;
        }
        let gap = (ROW - bytes.len()) * 3 + 2;
        write!(f, "{:gap$}", "")?;
        for byte in bytes {
            let shown = if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '.'
            };
            write!(f, "{shown}")?;
        }
        writeln!(f)
    }
}

//! What is said of a bug, in the words of Linux. Linux: mm/kasan/report.c.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering::Relaxed;

use kmm_frame::VirtAddr;

use crate::bug::{Access, BugKind};
use crate::record::{IsOwn, NameOf, Record, Track};
use crate::shadow::{GRANULE_BYTES, Shadow};

/// Shadow bytes in a row. Linux: `META_BYTES_PER_ROW`.
const ROW: usize = 16;
/// So many bytes of memory does a row show.
const ROW_BYTES: u64 = (ROW * GRANULE_BYTES) as u64;
/// Rows before that of the bad address, and as many behind it. Linux: `META_ROWS_AROUND_ADDR`.
const ROWS_AROUND: usize = 2;
const NR_ROWS: usize = 2 * ROWS_AROUND + 1;
const RULER: &str = "==================================================================";

/// A bug, with all that is known of it. Prints as Linux's report.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What is wrong.
    pub kind: BugKind,
    /// What was accessed; `None` when something was freed.
    pub access: Option<Access>,
    /// The first byte that may not be touched, or what was freed.
    pub addr: VirtAddr,
    /// The code that did it, if that is known; else it is that of [`Report::track`].
    pub ip: Option<usize>,
    /// Who, and from where.
    pub track: Track,
    /// The object in which the address lies, or beside it.
    pub object: Option<Record>,
    rows: [Option<[u8; ROW]>; NR_ROWS],
    name_of: NameOf,
    is_own: IsOwn,
}

impl Report {
    pub(crate) fn new<S: Shadow>(shadow: &S, kind: BugKind, addr: VirtAddr, track: Track) -> Self {
        let base = addr.align_down(ROW_BYTES).as_u64();
        let row = |nr: usize| {
            let start =
                (base + nr as u64 * ROW_BYTES).checked_sub(ROWS_AROUND as u64 * ROW_BYTES)?;
            let bytes = shadow.granules(VirtAddr::new(start), ROW)?;
            let mut row = [0; ROW];
            for (to, from) in row.iter_mut().zip(bytes) {
                *to = from.load(Relaxed);
            }
            Some(row)
        };
        Self {
            kind,
            access: None,
            addr,
            ip: None,
            track,
            object: None,
            rows: core::array::from_fn(row),
            name_of: hexadecimal,
            is_own: |_| false,
        }
    }

    pub(crate) fn told_by(self, name_of: NameOf, is_own: IsOwn) -> Self {
        Self {
            name_of,
            is_own,
            ..self
        }
    }

    /// The code that did it.
    #[must_use]
    pub fn culprit(&self) -> usize {
        let others = || self.track.others(self.is_own).first().copied();
        self.ip.or_else(others).unwrap_or(0)
    }

    fn write_stack(&self, f: &mut fmt::Formatter<'_>, track: &Track) -> fmt::Result {
        for &address in track.others(self.is_own) {
            f.write_char(' ')?;
            (self.name_of)(address, f)?;
            f.write_char('\n')?;
        }
        Ok(())
    }

    /// Linux: `describe_object`.
    fn write_object(&self, f: &mut fmt::Formatter<'_>, object: &Record) -> fmt::Result {
        writeln!(f, "Allocated by task {}:", object.allocated.tag)?;
        self.write_stack(f, &object.allocated)?;
        writeln!(f)?;
        if let Some(freed) = &object.freed {
            writeln!(f, "Freed by task {}:", freed.tag)?;
            self.write_stack(f, freed)?;
            writeln!(f)?;
        }
        let start = object.slot.start.as_u64();
        writeln!(
            f,
            "The buggy address belongs to the object at {start:016x}\n which belongs to the cache {} of size {}",
            object.cache(),
            object.slot.size_bytes,
        )?;
        let addr = self.access.map_or(self.addr, |access| access.addr).as_u64();
        let (requested, end) = (
            object.requested_bytes,
            start + object.requested_bytes as u64,
        );
        let (offset, relation) = if addr < start {
            (start - addr, "to the left of")
        } else if addr >= end {
            (addr - end, "to the right of")
        } else {
            (addr - start, "inside of")
        };
        let state = if object.freed.is_some() {
            "freed"
        } else {
            "allocated"
        };
        writeln!(
            f,
            "The buggy address is located {offset} bytes {relation}\n {state} {requested}-byte region [{start:016x}, {end:016x})\n",
        )
    }

    fn write_area(&self, f: &mut fmt::Formatter<'_>, area: &Record) -> fmt::Result {
        let start = area.slot.start.as_u64();
        let end = start + area.slot.size_bytes as u64;
        writeln!(
            f,
            "The buggy address belongs to the virtual mapping at\n [{start:016x}, {end:016x}) created by:"
        )?;
        self.write_stack(f, &area.allocated)?;
        if let Some(freed) = &area.freed {
            writeln!(f, "and removed by:")?;
            self.write_stack(f, freed)?;
        }
        writeln!(f)
    }

    /// Linux: `print_memory_metadata`.
    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Memory state around the buggy address:")?;
        let base = self.addr.align_down(ROW_BYTES).as_u64();
        for (nr, row) in self.rows.iter().enumerate() {
            let Some(row) = row else {
                continue;
            };
            let start = base + nr as u64 * ROW_BYTES - ROWS_AROUND as u64 * ROW_BYTES;
            let mark = if nr == ROWS_AROUND { '>' } else { ' ' };
            write!(f, "{mark}{start:016x}:")?;
            row.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
            writeln!(f)?;
            if nr == ROWS_AROUND {
                #[expect(clippy::cast_possible_truncation, reason = "an offset in a row")]
                let column = ((self.addr.as_u64() - base) as usize) / GRANULE_BYTES;
                // The mark and the address, then three columns for each byte.
                let before = 1 + 16 + 2 + 3 * column;
                writeln!(f, "{:before$}^", "")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{RULER}")?;
        write!(f, "BUG: KASAN: {} in ", self.kind)?;
        (self.name_of)(self.culprit(), f)?;
        writeln!(f)?;
        let task = self.track.tag;
        match self.access {
            Some(Access {
                addr,
                size_bytes,
                kind,
            }) => writeln!(
                f,
                "{kind} of size {size_bytes} at addr {:016x} by task {task}\n",
                addr.as_u64()
            )?,
            None => writeln!(
                f,
                "Free of addr {:016x} by task {task}\n",
                self.addr.as_u64()
            )?,
        }
        writeln!(f, "Call Trace:")?;
        self.write_stack(f, &self.track)?;
        writeln!(f)?;
        match &self.object {
            Some(area) if area.is_area => self.write_area(f, area)?,
            Some(object) => self.write_object(f, object)?,
            None => {}
        }
        if self.rows[ROWS_AROUND].is_some() {
            self.write_rows(f)?;
        }
        write!(f, "{RULER}")
    }
}

/// An address without a name.
pub(crate) fn hexadecimal(address: usize, out: &mut dyn Write) -> fmt::Result {
    write!(out, "{address:#018x}")
}

//! Reports of objects between guard pages, as Linux's KFENCE prints them.

use core::fmt;

use super::{ObjectReport, Track};
use crate::SlubBugKind;

/// What is known besides of an object between guard pages, and of who made a mistake with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardedObject {
    /// Its number in the pool, if it is known which object is meant.
    pub nr: Option<usize>,
    /// Whether it was a write, if the mistake was an access.
    pub is_write: bool,
    /// Who made it.
    pub culprit: Track,
    /// Bytes as they are and as they were to be, from the address on.
    spoilt: [(u8, u8); 16],
    nr_spoilt: u8,
}

impl GuardedObject {
    pub(crate) fn new(
        nr: Option<usize>,
        is_write: bool,
        culprit: Track,
        from: &[(u8, u8)],
    ) -> Self {
        let mut spoilt = [(0, 0); 16];
        let mut nr_spoilt = 0;
        for (byte, from) in spoilt.iter_mut().zip(from) {
            *byte = *from;
            nr_spoilt += 1;
        }
        Self {
            nr,
            is_write,
            culprit,
            spoilt,
            nr_spoilt,
        }
    }
}

const LINE: &str = "==================================================================";

/// Linux: `kfence_report_error`, mm/kfence/report.c.
pub(super) fn print(
    report: &ObjectReport,
    guarded: &GuardedObject,
    kind: SlubBugKind,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let access = if guarded.is_write { "write" } else { "read" };
    let here = guarded.culprit.addresses().first().copied().unwrap_or(0);
    let address = report.object.wrapping_add_signed(report.offset);
    writeln!(f, "{LINE}")?;
    match kind {
        SlubBugKind::OutOfBounds => {
            writeln!(f, "BUG: KFENCE: out-of-bounds {access} in {here:#018x}\n")?;
            let is_left = report.offset < 0;
            let (side, bytes) = if is_left {
                ("left", report.offset.unsigned_abs())
            } else {
                let behind = report.offset.unsigned_abs() + 1;
                ("right", behind.saturating_sub(report.object_size))
            };
            write!(
                f,
                "Out-of-bounds {access} at {address:#018x} ({bytes}B {side} of "
            )?;
        }
        SlubBugKind::AccessAfterFree => {
            writeln!(f, "BUG: KFENCE: use-after-free {access} in {here:#018x}\n")?;
            write!(f, "Use-after-free {access} at {address:#018x} (in ")?;
        }
        SlubBugKind::Canary => {
            writeln!(f, "BUG: KFENCE: memory corruption in {here:#018x}\n")?;
            write!(f, "Corrupted memory at {address:#018x} [ ")?;
            for (is, was) in guarded.spoilt.iter().take(guarded.nr_spoilt.into()) {
                if is == was {
                    f.write_str(". ")?;
                } else {
                    write!(f, "{is:#04x} ")?;
                }
            }
            f.write_str("] (in ")?;
        }
        SlubBugKind::InvalidAccess => {
            writeln!(f, "BUG: KFENCE: invalid {access} in {here:#018x}\n")?;
            write!(f, "Invalid {access} at {address:#018x}")?;
        }
        _ => {
            writeln!(f, "BUG: KFENCE: invalid free in {here:#018x}\n")?;
            write!(f, "Invalid free of {address:#018x}")?;
            if guarded.nr.is_some() {
                f.write_str(" (in ")?;
            }
        }
    }
    match guarded.nr {
        Some(nr) if kind != SlubBugKind::InvalidAccess => writeln!(f, "kfence-#{nr}):")?,
        _ => writeln!(f, ":")?,
    }
    stack(f, &guarded.culprit)?;
    writeln!(f)?;
    if let Some(nr) = guarded.nr {
        let (start, size) = (report.object, report.object_size);
        let last = start + size.saturating_sub(1);
        writeln!(
            f,
            "kfence-#{nr}: {start:#018x}-{last:#018x}, size={size}, cache={}\n",
            report.cache
        )?;
        for (done, track) in [("allocated", &report.allocated), ("freed", &report.freed)] {
            if let Some(track) = track {
                writeln!(f, "{done} by task {} on cpu {}:", track.tag, track.cpu)?;
                stack(f, track)?;
                writeln!(f)?;
            }
        }
    }
    writeln!(
        f,
        "CPU: {} PID: {}",
        guarded.culprit.cpu, guarded.culprit.tag
    )?;
    f.write_str(LINE)
}

fn stack(f: &mut fmt::Formatter<'_>, track: &Track) -> fmt::Result {
    for address in track.addresses() {
        writeln!(f, " {address:#018x}")?;
    }
    Ok(())
}

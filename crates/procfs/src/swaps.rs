//! /proc/swaps. Linux: `swap_show`, mm/swapfile.c.

use core::fmt::{self, Write};

use crate::maps::Escaped;

/// What a swap area lies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapKind {
    /// A block device.
    Partition,
    /// A file.
    File,
}

/// One swap area's line. `Display` is the line, with its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapLine<'a> {
    /// Where it lies.
    pub path: &'a str,
    /// On what.
    pub kind: SwapKind,
    /// Its size.
    pub size_kb: u64,
    /// What is used of it.
    pub used_kb: u64,
    /// Higher ones are used first.
    pub priority: i32,
}

impl fmt::Display for SwapLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = Escaped::new(self.path, " \t\n\\");
        let pad = 40_usize.saturating_sub(path.len()).max(1);
        let kind = match self.kind {
            SwapKind::Partition => "partition",
            SwapKind::File => "file\t",
        };
        let tab = |kb: u64| if kb < 10_000_000 { "\t" } else { "" };
        let (size_kb, used_kb) = (self.size_kb, self.used_kb);
        writeln!(
            f,
            "{path}{:pad$}{kind}\t{size_kb}\t{}{used_kb}\t{}{}",
            "",
            tab(size_kb),
            tab(used_kb),
            self.priority
        )
    }
}

/// Writes the text: the heading, and a line for each area.
///
/// # Errors
/// When `out` fails.
pub fn write<'a>(
    out: &mut impl Write,
    areas: impl IntoIterator<Item = SwapLine<'a>>,
) -> fmt::Result {
    out.write_str("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")?;
    for area in areas {
        write!(out, "{area}")?;
    }
    Ok(())
}

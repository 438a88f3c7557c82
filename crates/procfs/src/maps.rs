//! /proc/PID/maps. Linux: `show_map_vma`, fs/proc/task_mmu.c.

use core::fmt::{self, Write};

use kmm_frame::VirtAddr;

/// The column in which names begin.
const NAME_COLUMN: usize = 73;

/// What may be done with an area.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the four letters of the text, each yes or no"
)]
pub struct Perms {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub exec: bool,
    /// `s`, else `p`
    pub shared: bool,
}

impl fmt::Display for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char(if self.read { 'r' } else { '-' })?;
        f.write_char(if self.write { 'w' } else { '-' })?;
        f.write_char(if self.exec { 'x' } else { '-' })?;
        f.write_char(if self.shared { 's' } else { 'p' })
    }
}

/// What an area is called.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Name<'a> {
    /// Nothing: anonymous memory.
    #[default]
    Anonymous,
    /// By its file's path.
    File(&'a str),
    /// By the path that its file had.
    Deleted(&'a str),
    /// By its use, brackets included: `[heap]`, `[stack]`, `[vdso]`, `[vsyscall]`.
    Special(&'a str),
}

/// One area's line. `Display` is the line, with its end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MapLine<'a> {
    /// The first address.
    pub start: VirtAddr,
    /// The address after the last.
    pub end: VirtAddr,
    /// What may be done with it.
    pub perms: Perms,
    /// Where in the file it begins.
    pub offset_bytes: u64,
    /// The file's device: major and minor number.
    pub dev: (u32, u32),
    /// The file's inode.
    pub inode: u64,
    /// What it is called.
    pub name: Name<'a>,
}

impl fmt::Display for MapLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Columns { out: f, column: 0 };
        write!(out, "{:08x}-{:08x} ", self.start, self.end)?;
        write!(out, "{} {:08x} ", self.perms, self.offset_bytes)?;
        write!(out, "{:02x}:{:02x} {} ", self.dev.0, self.dev.1, self.inode)?;
        let pad = NAME_COLUMN.saturating_sub(out.column).max(1);
        match self.name {
            Name::Anonymous => {}
            Name::File(path) => write!(out, "{:pad$}{}", "", Escaped::new(path, "\n"))?,
            Name::Deleted(path) => {
                write!(out, "{:pad$}{} (deleted)", "", Escaped::new(path, "\n"))?;
            }
            Name::Special(name) => write!(out, "{:pad$}{name}", "")?,
        }
        out.write_char('\n')
    }
}

/// Counts the columns that have been written.
struct Columns<'a, W> {
    out: &'a mut W,
    column: usize,
}

impl<W: Write> Write for Columns<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.column += text.len();
        self.out.write_str(text)
    }
}

/// A path in which some characters stand as backslash and three octal digits. Linux: `mangle_path`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<'a> {
    path: &'a str,
    special: &'a str,
}

impl<'a> Escaped<'a> {
    /// Escapes the ASCII characters of `special` in `path`.
    pub(crate) const fn new(path: &'a str, special: &'a str) -> Self {
        Self { path, special }
    }

    /// Bytes of the escaped path.
    pub(crate) fn len(&self) -> usize {
        let escaped = self.path.chars().filter(|c| self.special.contains(*c));
        self.path.len() + 3 * escaped.count()
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.path.chars() {
            if self.special.contains(c) {
                write!(f, "\\{:03o}", u32::from(c))?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

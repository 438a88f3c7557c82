//! /proc/slabinfo, version 2.1. Linux: mm/slab_common.c.

use core::fmt::{self, Write};

/// One cache's line. `Display` is the line, with its end.
///
/// The tunables of SLAB and `sharedavail` are 0, as with SLUB.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlabLine<'a> {
    /// The cache.
    pub name: &'a str,
    /// Objects in use.
    pub active_objs: u64,
    /// Objects in all.
    pub num_objs: u64,
    /// Bytes of one, with its alignment.
    pub objsize_bytes: u32,
    /// Objects in a slab.
    pub objs_per_slab: u32,
    /// Pages in a slab.
    pub pages_per_slab: u32,
    /// Slabs with objects in use.
    pub active_slabs: u64,
    /// Slabs in all.
    pub num_slabs: u64,
}

impl fmt::Display for SlabLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<17} {:>6} {:>6} {:>6} {:>4} {:>4}",
            self.name,
            self.active_objs,
            self.num_objs,
            self.objsize_bytes,
            self.objs_per_slab,
            self.pages_per_slab
        )?;
        write!(f, " : tunables {:>4} {:>4} {:>4}", 0, 0, 0)?;
        writeln!(
            f,
            " : slabdata {:>6} {:>6} {:>6}",
            self.active_slabs, self.num_slabs, 0
        )
    }
}

/// Writes the text: two lines of heading, and one for each cache, the newest first.
///
/// # Errors
/// When `out` fails.
pub fn write<'a>(
    out: &mut impl Write,
    caches: impl IntoIterator<Item = SlabLine<'a>>,
) -> fmt::Result {
    out.write_str("slabinfo - version: 2.1\n")?;
    out.write_str(
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>",
    )?;
    out.write_str(" : tunables <limit> <batchcount> <sharedfactor>")?;
    out.write_str(" : slabdata <active_slabs> <num_slabs> <sharedavail>\n")?;
    for cache in caches {
        write!(out, "{cache}")?;
    }
    Ok(())
}

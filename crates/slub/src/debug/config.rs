//! Which caches are debugged, and how: the text of Linux's `slub_debug=`.

use core::fmt;

use bitflags::bitflags;
use kmm_host::Backtrace;

bitflags! {
    /// What is watched in a cache. Linux: `SLAB_CONSISTENCY_CHECKS` and so on.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct DebugFlags: u8 {
        /// `F`: each free is checked at once.
        const CONSISTENCY = 1 << 0;
        /// `Z`: bytes before and after each object, which nobody may write.
        const RED_ZONE = 1 << 1;
        /// `P`: free objects are filled with a pattern, which is checked when they are handed out. Not if they are constructed.
        const POISON = 1 << 2;
        /// `U`: who allocated and who freed each object.
        const USER = 1 << 3;
        /// `Q`: what is freed waits, and is looked at before it may be handed out again. With [`Self::POISON`], as without that
        /// there is little to see. Linux has a quarantine in KASAN only.
        const QUARANTINE = 1 << 4;
    }
}

impl DebugFlags {
    /// What no letter stands for. Linux: `DEBUG_DEFAULT_FLAGS`.
    const USUAL: Self = Self::CONSISTENCY
        .union(Self::RED_ZONE)
        .union(Self::POISON)
        .union(Self::USER);
    /// Those that need room around each object.
    pub(crate) const AROUND: Self = Self::RED_ZONE
        .union(Self::POISON)
        .union(Self::USER)
        .union(Self::QUARANTINE);
}

/// The flags of a cache with this name. Linux: `kmem_cache_flags`, mm/slub.c.
///
/// `F`, `Z`, `P`, `U`, `Q` in any order, nothing for the first four, `-` for none; behind a comma the names they are for, with `*` for
/// anything; blocks between semicolons. The first block that names the cache counts, else the last one without names. Letters that
/// mean something to Linux only are passed over. An empty text debugs nothing.
pub(crate) fn flags_of(text: &str, name: &str) -> DebugFlags {
    let mut for_all = DebugFlags::empty();
    for block in text.split(';').filter(|block| !block.is_empty()) {
        let (letters, names) = match block.split_once(',') {
            Some((letters, names)) => (letters, Some(names)),
            None => (block, None),
        };
        let flags = letters_to_flags(letters);
        match names {
            None => for_all = flags,
            Some(names) if names.split(',').any(|glob| matches(glob, name)) => return flags,
            Some(_) => {}
        }
    }
    for_all
}

fn letters_to_flags(letters: &str) -> DebugFlags {
    if letters.is_empty() {
        return DebugFlags::USUAL;
    }
    letters
        .chars()
        .map(|letter| match letter.to_ascii_uppercase() {
            'F' => DebugFlags::CONSISTENCY,
            'Z' => DebugFlags::RED_ZONE,
            'P' => DebugFlags::POISON,
            'U' => DebugFlags::USER,
            'Q' => DebugFlags::QUARANTINE | DebugFlags::POISON,
            _ => DebugFlags::empty(),
        })
        .collect()
}

/// Whether a name fits: up to the first `*`, as in Linux.
fn matches(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        Some((start, _)) => name.starts_with(start),
        None => glob == name,
    }
}

/// Who knows where code was called from.
#[derive(Clone, Copy)]
pub struct Callers(pub &'static (dyn Backtrace + Sync));

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers")
    }
}

#[cfg(test)]
mod tests {
    use super::{DebugFlags, flags_of};

    #[test]
    fn blocks_letters_and_names() {
        let (f, z, all) = (
            DebugFlags::CONSISTENCY,
            DebugFlags::RED_ZONE,
            DebugFlags::USUAL,
        );
        let none = DebugFlags::empty();
        for (text, name, wanted) in [
            ("", "any", none),
            ("-", "any", none),
            ("FZPU", "any", all),
            ("fz", "any", f | z),
            ("FAT", "any", f),
            ("q", "any", DebugFlags::QUARANTINE | DebugFlags::POISON),
            ("FZPUQ", "any", DebugFlags::all()),
            (",kmalloc-64", "kmalloc-64", all),
            (",kmalloc-64", "kmalloc-6", none),
            ("FZ,kmalloc-64,inode", "inode", f | z),
            ("F,kmalloc-*", "kmalloc-rcl-8", f),
            ("F,kmalloc-*", "dma-kmalloc-8", none),
            ("F,*", "any", f),
            ("FZ;-,inode", "inode", none),
            ("FZ;-,inode", "dentry", f | z),
            ("-,inode;FZ", "inode", none),
            ("F,a;Z,b", "b", z),
            ("F,a*;Z,ab", "ab", f),
            ("F;Z", "any", z),
            (";;F;", "any", f),
        ] {
            assert_eq!(flags_of(text, name), wanted, "{text:?} for {name}");
        }
    }
}

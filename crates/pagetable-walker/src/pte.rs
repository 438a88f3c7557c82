//! An entry as a value.

use core::fmt;
use core::ops::Range;

use kmm_frame::{PAGE_SHIFT, Pfn, VirtAddr};

use crate::{Level, PteFlags};

/// Bits 12 to 51: the physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An entry of a table of any level: a copy, not the place.
///
/// It holds a *physical* address: hardware walks the tables with paging out of the way.
///
/// | entry | means |
/// |---|---|
/// | 0 | nothing: a hole |
/// | `P` set, level `Pte`, or `PS` set | a page |
/// | `P` set otherwise | the table of the next level |
/// | `P` clear, not 0 | what software put there: a page in swap |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Pte(u64);

impl Pte {
    /// Nothing. Linux: `pte_none`.
    pub const NONE: Self = Self(0);

    /// An entry of the last level that maps `pfn`. Linux: `pfn_pte`.
    #[must_use]
    pub const fn new(pfn: Pfn, flags: PteFlags) -> Self {
        Self::leaf(pfn, flags, Level::Pte)
    }

    /// An entry of `level` that maps the page at `pfn`; `PS` is added and removed as the level asks.
    #[must_use]
    pub const fn leaf(pfn: Pfn, flags: PteFlags, level: Level) -> Self {
        let size = PteFlags::PS.bits();
        let pat = PteFlags::PAT.bits();
        let bits = flags.bits() & !size;
        let bits = match level {
            Level::Pte if bits & pat != 0 => bits & !pat | size,
            Level::Pte => bits,
            _ => bits | size,
        };
        Self(pfn.phys().as_u64() & ADDRESS & !(level.size_bytes() - 1) | bits)
    }

    /// An entry that points to the next table. Linux: `pmd_populate`.
    #[must_use]
    pub const fn table(table: Pfn, flags: PteFlags) -> Self {
        Self(table.phys().as_u64() & ADDRESS | flags.bits() & !PteFlags::PS.bits())
    }

    /// The entry as hardware sees it.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The entry as hardware sees it.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether there is nothing at all. Linux: `pte_none`.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether hardware uses the entry. Linux: `pte_present`.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & PteFlags::P.bits() != 0
    }

    /// Whether an entry of `level` maps a page. Linux: `pmd_leaf`.
    #[must_use]
    pub const fn is_leaf(self, level: Level) -> bool {
        self.is_present() && (matches!(level, Level::Pte) || self.0 & PteFlags::PS.bits() != 0)
    }

    /// Whether an entry of `level` points to a table.
    #[must_use]
    pub const fn is_table(self, level: Level) -> bool {
        self.is_present() && !self.is_leaf(level)
    }

    /// The frame of an entry of the last level, or of a table. Linux: `pte_pfn`.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        self.pfn_at(Level::Pte)
    }

    /// The first frame of the page that an entry of `level` maps. Linux: `pmd_pfn` and its like.
    #[must_use]
    pub const fn pfn_at(self, level: Level) -> Pfn {
        Pfn::new(((self.0 & ADDRESS & !(level.size_bytes() - 1)) >> PAGE_SHIFT) as usize)
    }

    /// The flags of an entry of the last level. Linux: `pte_flags`.
    #[must_use]
    pub const fn flags(self) -> PteFlags {
        self.flags_at(Level::Pte)
    }

    /// The flags of an entry of `level`. Linux: `pmd_flags` and its like.
    #[must_use]
    pub const fn flags_at(self, level: Level) -> PteFlags {
        let size = PteFlags::PS.bits();
        let pat = PteFlags::PAT.bits();
        let bits = match level {
            Level::Pte if self.0 & size != 0 => self.0 & !size | pat,
            Level::Pte => self.0 & !pat,
            _ if self.0 & size != 0 => self.0,
            _ => self.0 & !pat,
        };
        PteFlags::from_bits_truncate(bits)
    }

    /// The entry of `level` with the same frame and other flags. Linux: `pte_modify`.
    #[must_use]
    pub const fn with_flags(self, flags: PteFlags, level: Level) -> Self {
        Self::leaf(self.pfn_at(level), flags, level)
    }

    /// Whether all of `flags` are set in an entry of the last level.
    #[must_use]
    pub const fn has(self, flags: PteFlags) -> bool {
        self.flags().contains(flags)
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pte({:#x})", self.0)
    }
}

/// An entry that is not a hole, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first address that it covers.
    pub va: VirtAddr,
    /// The level of the entry: the size of the page.
    pub level: Level,
    /// The entry; not present when software put something else there.
    pub pte: Pte,
}

impl Leaf {
    /// The first frame of the page.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pte.pfn_at(self.level)
    }

    /// The flags of the entry.
    #[must_use]
    pub const fn flags(&self) -> PteFlags {
        self.pte.flags_at(self.level)
    }

    /// Base pages in the page.
    #[must_use]
    pub const fn nr_pages(&self) -> usize {
        self.level.nr_pages()
    }

    /// The addresses that it covers; the end wraps for the last page of the address space.
    #[must_use]
    pub const fn range(&self) -> Range<VirtAddr> {
        self.va..VirtAddr::new(self.va.as_u64().wrapping_add(self.level.size_bytes()))
    }
}

//! The levels of the tables, and how many of them there are.

use core::fmt;

use kmm_frame::{PAGE_SHIFT, Pfn, VirtAddr};
use kmm_host::PteIndex;

/// Bits of an address that select an entry of one table.
const INDEX_BITS: u32 = 9;

/// A level of the tables, named by its entries; from the last one up.
///
/// With four levels there is no `Pgd`: the top table holds the `P4d` entries (Linux folds the two into one the same way).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Entries of 4 KiB: the last level.
    Pte = 1,
    /// Entries of 2 MiB.
    Pmd = 2,
    /// Entries of 1 GiB.
    Pud = 3,
    /// Entries of 512 GiB; the top with four levels.
    P4d = 4,
    /// Entries of 256 TiB; the top with five levels.
    Pgd = 5,
}

impl Level {
    /// Every level, from the last one up.
    pub const ALL: [Self; 5] = [Self::Pte, Self::Pmd, Self::Pud, Self::P4d, Self::Pgd];

    /// Bits of an address below those that select an entry. Linux: `PMD_SHIFT` and its like.
    #[must_use]
    pub const fn shift(self) -> u32 {
        PAGE_SHIFT + INDEX_BITS * (self as u32 - 1)
    }

    /// Bytes that one entry covers. Linux: `PMD_SIZE` and its like.
    #[must_use]
    pub const fn size_bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Base pages that one entry covers.
    #[must_use]
    pub const fn nr_pages(self) -> usize {
        1 << (self.shift() - PAGE_SHIFT)
    }

    /// The entry that covers `va`. Linux: `pmd_index` and its like.
    #[must_use]
    pub const fn index(self, va: VirtAddr) -> PteIndex {
        PteIndex::truncate(va.as_u64() >> self.shift())
    }

    /// Whether an entry can map a page: up to 1 GiB.
    #[must_use]
    pub const fn can_map(self) -> bool {
        (self as u8) <= Self::Pud as u8
    }

    /// Whether a page of this level may start at frame `pfn`.
    #[must_use]
    pub const fn is_frame_aligned(self, pfn: Pfn) -> bool {
        pfn.index() & (self.nr_pages() - 1) == 0
    }

    /// The level below, or `None` at the last.
    #[must_use]
    pub const fn down(self) -> Option<Self> {
        match self {
            Self::Pte => None,
            Self::Pmd => Some(Self::Pte),
            Self::Pud => Some(Self::Pmd),
            Self::P4d => Some(Self::Pud),
            Self::Pgd => Some(Self::P4d),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pte => "pte",
            Self::Pmd => "pmd",
            Self::Pud => "pud",
            Self::P4d => "p4d",
            Self::Pgd => "pgd",
        })
    }
}

/// How many levels the tables have: CR4.LA57 decides it for the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Levels {
    /// 48-bit addresses.
    #[default]
    Four,
    /// 57-bit addresses.
    Five,
}

impl Levels {
    /// The level of the top table's entries.
    #[must_use]
    pub const fn top(self) -> Level {
        match self {
            Self::Four => Level::P4d,
            Self::Five => Level::Pgd,
        }
    }

    /// Bits of a virtual address that count.
    #[must_use]
    pub const fn va_bits(self) -> u32 {
        self.top().shift() + INDEX_BITS
    }

    /// The first address that is too high for user mode and too low for the kernel.
    #[must_use]
    pub const fn user_end(self) -> VirtAddr {
        VirtAddr::new(1 << (self.va_bits() - 1))
    }

    /// The first address of the kernel half.
    #[must_use]
    pub const fn kernel_start(self) -> VirtAddr {
        VirtAddr::new(u64::MAX << (self.va_bits() - 1))
    }
}

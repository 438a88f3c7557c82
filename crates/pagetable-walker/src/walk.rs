//! What a walk finds.

use core::ops::Range;

use kmm_frame::{Pfn, PhysAddr, VirtAddr};

use crate::{Leaf, Level, Pte, PteFlags};

/// Where the walk for one address ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The address that was looked for.
    pub va: VirtAddr,
    /// The level at which the walk ended.
    pub level: Level,
    /// The frame of the table in which it ended.
    pub table: Pfn,
    /// The entry there: a page, a hole, or what software left.
    pub pte: Pte,
    /// What the entries on the way grant together: `RW` and `US` if all have them, `NX` if any has it.
    pub granted: PteFlags,
}

impl Walk {
    /// The page that covers the address, if one is mapped.
    #[must_use]
    pub fn leaf(&self) -> Option<Leaf> {
        self.pte.is_leaf(self.level).then(|| Leaf {
            va: self.va.align_down(self.level.size_bytes()),
            level: self.level,
            pte: self.pte,
        })
    }

    /// The physical address behind the virtual one, if one is mapped.
    #[must_use]
    pub fn phys(&self) -> Option<PhysAddr> {
        let leaf = self.leaf()?;
        Some(leaf.pfn().phys() + (self.va - leaf.va))
    }
}

/// A piece of a range, as [`crate::Mapper::for_each`] tells it, in rising order and without gaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Span {
    /// A page; it may begin before the range and end after it.
    Mapped(Leaf),
    /// An entry that hardware does not use but that is not empty, as for a page in swap.
    NotPresent(Leaf),
    /// Addresses without any entry, cut to the range; as many as there are in a row.
    Hole(Range<VirtAddr>),
}

//! The one descent: every operation on a range is a [`Visitor`] of it.

use core::ops::{ControlFlow, Range};

use kmm_frame::VirtAddr;
use kmm_host::{PageSource, PteIndex, PteStore};

use crate::root::{Role, Root};
use crate::table::Table;
use crate::{Leaf, Level, Levels, MapError, Mapper, Pte};

/// A range that is not empty and lies in one half: its first and last address, as the last range ends where addresses
/// end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) first: VirtAddr,
    pub(crate) last: VirtAddr,
}

impl Extent {
    /// `range` as an extent, or `None` when it is empty.
    pub(crate) fn new(range: &Range<VirtAddr>, levels: Levels) -> Result<Option<Self>, MapError> {
        if !range.start.is_page_aligned() || !range.end.is_page_aligned() {
            return Err(MapError::NotAligned);
        }
        if range.start == range.end {
            return Ok(None);
        }
        if range.start > range.end {
            return Err(MapError::BadRange);
        }
        let extent = Self {
            first: range.start,
            last: range.end - 1,
        };
        let canonical = extent.first.is_canonical(levels.va_bits())
            && extent.last.is_canonical(levels.va_bits());
        if canonical && is_kernel(extent.first) == is_kernel(extent.last) {
            Ok(Some(extent))
        } else {
            Err(MapError::BadRange)
        }
    }

    /// The whole user half.
    pub(crate) fn user_half(levels: Levels) -> Self {
        Self {
            first: VirtAddr::ZERO,
            last: levels.user_end() - 1,
        }
    }

    /// The address after the last; wraps at the end of the address space.
    pub(crate) const fn end(self) -> VirtAddr {
        VirtAddr::new(self.last.as_u64().wrapping_add(1))
    }
}

/// Whether a canonical address belongs to the kernel half.
pub(crate) const fn is_kernel(va: VirtAddr) -> bool {
    va.as_u64() >> 63 == 1
}

/// An entry on the way, and the piece of the range that it covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) table: Table,
    pub(crate) index: PteIndex,
    pub(crate) level: Level,
    pub(crate) first: VirtAddr,
    pub(crate) last: VirtAddr,
}

impl Place {
    /// The first address that the entry covers, be it in the range or not.
    pub(crate) const fn start(&self) -> VirtAddr {
        self.first.align_down(self.level.size_bytes())
    }

    /// Whether all that the entry covers is in the range.
    pub(crate) const fn is_whole(&self) -> bool {
        self.last.as_u64() - self.first.as_u64() == self.level.size_bytes() - 1
    }

    pub(crate) const fn leaf(&self, pte: Pte) -> Leaf {
        Leaf {
            va: self.start(),
            level: self.level,
            pte,
        }
    }
}

/// Where to go after an entry.
pub(crate) enum Step {
    /// To the next entry of the same table.
    Next,
    /// Through the table below first.
    Into(Table),
}

/// What an operation does at each entry.
pub(crate) trait Visitor {
    /// What ends the visit early.
    type Stop;

    /// An entry, holes included, in rising order of addresses; those above before those below.
    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<Self::Stop, Step>;

    /// After the piece of the range that lies below `at`, in the table `lower`.
    fn leave(&mut self, at: Place, lower: Table) -> ControlFlow<Self::Stop> {
        let _ = (at, lower);
        ControlFlow::Continue(())
    }
}

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    /// Visits every entry that covers a piece of `extent`, each table once.
    pub(crate) fn visit<V: Visitor>(
        &self,
        root: &Root,
        extent: Extent,
        visitor: &mut V,
    ) -> ControlFlow<V::Stop> {
        self.visit_table(Table::of_root(root), self.levels.top(), extent, visitor)
    }

    fn visit_table<V: Visitor>(
        &self,
        table: Table,
        level: Level,
        extent: Extent,
        visitor: &mut V,
    ) -> ControlFlow<V::Stop> {
        let mut first = extent.first;
        loop {
            let entry_last = VirtAddr::new(first.as_u64() | (level.size_bytes() - 1));
            let last = entry_last.min(extent.last);
            let index = level.index(first);
            let at = Place {
                table,
                index,
                level,
                first,
                last,
            };
            if let Step::Into(lower) = visitor.entry(at, self.read(table, index))? {
                if let Some(below) = level.down() {
                    self.visit_table(lower, below, Extent { first, last }, visitor)?;
                    visitor.leave(at, lower)?;
                }
            }
            if last == extent.last {
                return ControlFlow::Continue(());
            }
            first = last + 1;
        }
    }

    /// The extent of a range that is about to be changed.
    pub(crate) fn writable(
        &self,
        root: &Root,
        range: &Range<VirtAddr>,
    ) -> Result<Option<Extent>, MapError> {
        let extent = Extent::new(range, self.levels)?;
        match extent {
            Some(extent) if root.role() == Role::User && is_kernel(extent.first) => {
                Err(MapError::WrongHalf)
            }
            _ => Ok(extent),
        }
    }

    /// Whether an empty entry at `level` may be filled: not in a top table of which others have copies (INV-4).
    pub(crate) fn may_grow(&self, root: &Root, level: Level, va: VirtAddr) -> bool {
        !(level == self.levels.top() && is_kernel(va) && root.role() == Role::KernelShared)
    }
}

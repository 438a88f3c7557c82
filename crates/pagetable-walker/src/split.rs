//! Large pages into small ones, and back. Linux: `__split_large_page`, `split_huge_pmd`, `collapse_huge_page`.

use kmm_frame::VirtAddr;
use kmm_host::{PageSource, PteIndex, PteStore, TlbControl};

use crate::map::table_entry;
use crate::table::{Table, TablePool};
use crate::visit::Extent;
use crate::{Leaf, Level, MapError, Mapper, MmuGather, Pte, PteFlags, Root};

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    /// Sees to it that no page reaches across `va`, by splitting the large page that does.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn split_at<T: TlbControl>(
        &self,
        root: &mut Root,
        va: VirtAddr,
        gather: &mut MmuGather<'_, S, A, T>,
    ) -> Result<(), MapError> {
        let end = va
            .checked_add(Level::Pte.size_bytes())
            .ok_or(MapError::BadRange)?;
        self.writable(root, &(va..end))?;
        let mut pool = self.fill_pool(self.nr_splits(root, va)?)?;
        self.split_with(root, va, &mut pool, gather);
        self.free_pool(pool);
        Ok(())
    }

    /// Joins the 512 pages around `va` into one page of `level`, if their frames lie in a row and their flags agree; the
    /// table that held them goes to `gather`. Accessed and dirty become what any of them was.
    ///
    /// Flushes at once: only then is it certain that hardware sets no more bits in the old entries.
    ///
    /// # Errors
    /// [`MapError::NotUniform`] if they cannot be joined, [`MapError`] otherwise; nothing has changed then.
    pub fn collapse<T: TlbControl>(
        &self,
        root: &mut Root,
        va: VirtAddr,
        level: Level,
        gather: &mut MmuGather<'_, S, A, T>,
    ) -> Result<(), MapError> {
        let start = va.align_down(level.size_bytes());
        let end = start
            .checked_add(level.size_bytes())
            .ok_or(MapError::BadRange)?;
        self.writable(root, &(start..end))?;
        let Some(below) = level.down().filter(|_| level.can_map()) else {
            return Err(MapError::BadLevel);
        };
        let at = self
            .walk_to(root, start, level)
            .ok_or(MapError::NotUniform)?;
        let lower = Table::below(self.read(at, level.index(start)), level);
        let lower = lower.ok_or(MapError::NotUniform)?;
        let joined = self
            .joined(lower, below, level)
            .ok_or(MapError::NotUniform)?;

        self.exchange(at, level.index(start), joined);
        gather.track_range(start..end);
        gather.flush();
        let late = self.joined(lower, below, level).unwrap_or(joined);
        self.update(at, level.index(start), late);
        gather.push_table(lower, start);
        Ok(())
    }

    /// Splits the large pages that reach across either end of `extent`. All tables are allocated before the first split.
    pub(crate) fn split_ends<T: TlbControl>(
        &self,
        root: &mut Root,
        extent: Extent,
        gather: &mut MmuGather<'_, S, A, T>,
    ) -> Result<(), MapError> {
        let (first, end) = (extent.first, extent.end());
        let nr_tables = self.nr_splits(root, first)? + self.nr_splits(root, end)?
            - self.nr_shared_splits(root, first, end);
        if nr_tables == 0 {
            return Ok(());
        }
        let mut pool = self.fill_pool(nr_tables)?;
        self.split_with(root, extent.first, &mut pool, gather);
        self.split_with(root, extent.end(), &mut pool, gather);
        self.free_pool(pool);
        Ok(())
    }

    /// How many splits it takes until no page reaches across `va`.
    fn nr_splits(&self, root: &Root, va: VirtAddr) -> Result<usize, MapError> {
        let walk = self.walk(root, va);
        if walk.pte.is_none() || va.is_aligned(walk.level.size_bytes()) {
            return Ok(0);
        }
        if !walk.pte.is_present() {
            return Err(MapError::NotAligned);
        }
        let aligned = |level: &&Level| va.is_aligned(level.size_bytes());
        let down_to = Level::ALL.iter().rev().find(aligned).unwrap_or(&Level::Pte);
        Ok(walk.level as usize - *down_to as usize)
    }

    /// How many of the splits for `first` are those for `end` too.
    fn nr_shared_splits(&self, root: &Root, first: VirtAddr, end: VirtAddr) -> usize {
        let Some(leaf) = self.walk(root, first).leaf() else {
            return 0;
        };
        let is_shared = |level: &Level| {
            let size_bytes = level.size_bytes();
            *level <= leaf.level
                && !first.is_aligned(size_bytes)
                && !end.is_aligned(size_bytes)
                && first.align_down(size_bytes) == end.align_down(size_bytes)
        };
        Level::ALL.into_iter().filter(is_shared).count()
    }

    fn split_with<T: TlbControl>(
        &self,
        root: &mut Root,
        va: VirtAddr,
        pool: &mut TablePool,
        gather: &mut MmuGather<'_, S, A, T>,
    ) {
        for _ in 0..Level::ALL.len() {
            let walk = self.walk(root, va);
            let (Some(leaf), Some(below)) = (walk.leaf(), walk.level.down()) else {
                return;
            };
            if leaf.va == va {
                return;
            }
            let Some(table) = self.walk_to(root, va, walk.level) else {
                return;
            };
            self.split(table, leaf, below, pool, gather);
        }
    }

    /// Puts a table of smaller pages in the place of a large page.
    ///
    /// At any moment hardware finds the one or the other, and both say the same.
    fn split<T: TlbControl>(
        &self,
        table: Table,
        leaf: Leaf,
        below: Level,
        pool: &mut TablePool,
        gather: &mut MmuGather<'_, S, A, T>,
    ) {
        let lower = self.take(pool);
        for (index, nth) in indices().zip(0..) {
            let pfn = leaf.pfn() + nth * below.nr_pages();
            self.fill(lower, index, Pte::leaf(pfn, leaf.flags(), below));
        }
        let before = self.exchange(
            table,
            leaf.level.index(leaf.va),
            table_entry(lower, leaf.va),
        );
        let late = before.flags_at(leaf.level) & PteFlags::AD;
        if !leaf.flags().contains(late) {
            for index in indices() {
                let small = self.read(lower, index);
                self.update(
                    lower,
                    index,
                    small.with_flags(small.flags_at(below) | late, below),
                );
            }
        }
        gather.track(leaf);
    }

    /// The page of `level` that all entries of `lower` make together.
    fn joined(&self, lower: Table, below: Level, level: Level) -> Option<Pte> {
        let mut all: Option<(Pte, PteFlags)> = None;
        for (index, nth) in indices().zip(0..) {
            let pte = self.read(lower, index);
            if !pte.is_leaf(below) {
                return None;
            }
            let flags = pte.flags_at(below);
            let (first, seen) = *all.get_or_insert((pte, flags));
            let in_row = pte.pfn_at(below) == first.pfn_at(below) + nth * below.nr_pages();
            if !in_row || seen.symmetric_difference(flags).intersects(!PteFlags::AD) {
                return None;
            }
            all = Some((first, seen | flags));
        }
        let (first, flags) = all?;
        let pfn = first.pfn_at(below);
        level
            .is_frame_aligned(pfn)
            .then(|| Pte::leaf(pfn, flags, level))
    }

    /// The table at `level` that covers `va`.
    fn walk_to(&self, root: &Root, va: VirtAddr, level: Level) -> Option<Table> {
        let (mut table, mut at) = (Table::of_root(root), self.levels.top());
        while at != level {
            table = Table::below(self.read(table, at.index(va)), at)?;
            at = at.down()?;
        }
        Some(table)
    }
}

/// Every place of a table.
fn indices() -> impl Iterator<Item = PteIndex> {
    (0..PteIndex::COUNT as u64).map(PteIndex::truncate)
}

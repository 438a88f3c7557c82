//! Entering pages: count the tables that it takes, allocate them all, then change what cannot fail any more.

use core::ops::{ControlFlow, Range};

use kmm_frame::{PAGE_SHIFT, Pfn, PfnRange, PhysAddr, VirtAddr};
use kmm_host::{PageSource, PteStore};

use crate::table::{Table, TablePool};
use crate::visit::{Extent, Place, Step, Visitor};
use crate::{Level, MapError, Mapper, Pte, PteFlags, PteSlot, Root};

/// Physical addresses end here (SDM 3A 4.1.4: MAXPHYADDR is at most 52).
const PHYS_END: u64 = 1 << 52;

impl<'a, S: PteStore, A: PageSource> Mapper<'a, S, A> {
    /// Maps one page of `level`'s size. `flags` are entered as they are: without `P`, hardware ignores the entry.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn map_page(
        &self,
        root: &mut Root,
        va: VirtAddr,
        pfn: Pfn,
        level: Level,
        flags: PteFlags,
    ) -> Result<(), MapError> {
        if !va.is_aligned(level.size_bytes()) || !level.is_frame_aligned(pfn) {
            return Err(MapError::NotAligned);
        }
        let end = va
            .checked_add(level.size_bytes())
            .ok_or(MapError::BadRange)?;
        if self.walk(root, va).level < level {
            return Err(MapError::Occupied);
        }
        self.map_range(root, va..end, pfn.phys(), flags, level)
    }

    /// Maps frames in a row, from `phys` on, with the largest pages that fit, but none above `largest`.
    ///
    /// `largest` is `Pud` only where the CPU has 1 GiB pages. Where a table exists, it is filled, even if a large page
    /// would fit.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn map_range(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
        phys: PhysAddr,
        flags: PteFlags,
        largest: Level,
    ) -> Result<(), MapError> {
        let Some(extent) = self.writable(root, &range)? else {
            return Ok(());
        };
        if !phys.is_page_aligned() {
            return Err(MapError::NotAligned);
        }
        let length = extent.last - extent.first;
        match phys.checked_add(length) {
            Some(last) if last.as_u64() < PHYS_END => {}
            _ => return Err(MapError::BadRange),
        }
        let fit = Fit::new(largest, extent.first, phys)?;
        self.may_map(PfnRange::covering(phys, phys + length).iter())?;
        let pool = self.fill_pool(self.count_tables(root, extent, fit)?)?;
        self.enter(root, extent, fit, flags, pool, |first| {
            (phys + (first - extent.first)).pfn()
        });
        Ok(())
    }

    /// Maps base pages of any frames: page `n` of the range to `frame(n)`. Linux: `vmap_pages_range`.
    ///
    /// `frame` is called once for each page, in rising order; under a guard that is on, once more before.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then, and without a guard `frame` was not called.
    pub fn map_frames(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
        flags: PteFlags,
        mut frame: impl FnMut(usize) -> Pfn,
    ) -> Result<(), MapError> {
        let Some(extent) = self.writable(root, &range)? else {
            return Ok(());
        };
        let fit = Fit::BASE_PAGES;
        let nr_pages = VirtAddr::new(extent.last - extent.first).as_usize() >> PAGE_SHIFT;
        self.may_map((0..=nr_pages).map(&mut frame))?;
        let pool = self.fill_pool(self.count_tables(root, extent, fit)?)?;
        self.enter(root, extent, fit, flags, pool, |first| {
            frame(VirtAddr::new(first - extent.first).as_usize() >> PAGE_SHIFT)
        });
        Ok(())
    }

    /// How many tables [`Mapper::map_range`] would add for `range`, if its frames are aligned as its addresses are.
    ///
    /// # Errors
    /// [`MapError`], as mapping would give it, but for want of memory.
    pub fn nr_tables_needed(
        &self,
        root: &Root,
        range: Range<VirtAddr>,
        largest: Level,
    ) -> Result<usize, MapError> {
        let Some(extent) = self.writable(root, &range)? else {
            return Ok(0);
        };
        let fit = Fit::new(largest, VirtAddr::ZERO, PhysAddr::ZERO)?;
        self.count_tables(root, extent, fit)
    }

    /// The place of the entry for `va`, with the tables that it needs. Linux: `pte_alloc_map`.
    ///
    /// A table that stays empty is freed with its range ([`Mapper::unmap_range`]) or its root.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn leaf_slot<'r>(
        &self,
        root: &'r mut Root,
        va: VirtAddr,
    ) -> Result<PteSlot<'r, 'a, S, A>, MapError> {
        let page = va.align_down(Level::Pte.size_bytes());
        let end = page
            .checked_add(Level::Pte.size_bytes())
            .ok_or(MapError::BadRange)?;
        self.writable(root, &(page..end))?;
        let (mut table, mut level, pte) = self.descend(root, va);
        if pte.is_none() && level != Level::Pte {
            if !self.may_grow(root, level, va) {
                return Err(MapError::NotPreallocated);
            }
            let pool = self.fill_pool(level as usize - 1)?;
            table = self.hang_path(table, level, va, pool);
            level = Level::Pte;
        }
        Ok(PteSlot::new(*self, root, table, level, va))
    }

    /// The place of the entry for `va`, if there are tables for it already.
    pub fn find_slot<'r>(&self, root: &'r mut Root, va: VirtAddr) -> Option<PteSlot<'r, 'a, S, A>> {
        let page = va.align_down(Level::Pte.size_bytes());
        let end = page.checked_add(Level::Pte.size_bytes())?;
        self.writable(root, &(page..end)).ok()?;
        let (table, level, pte) = self.descend(root, va);
        let has_place = level == Level::Pte || !pte.is_none();
        has_place.then(|| PteSlot::new(*self, root, table, level, va))
    }

    /// The lowest table that covers `va`, its level, and the entry there.
    fn descend(&self, root: &Root, va: VirtAddr) -> (Table, Level, Pte) {
        let (mut table, mut level) = (Table::of_root(root), self.levels.top());
        loop {
            let pte = self.read(table, level.index(va));
            match (Table::below(pte, level), level.down()) {
                (Some(lower), Some(below)) => (table, level) = (lower, below),
                _ => return (table, level, pte),
            }
        }
    }

    /// Hangs a path of empty tables below an empty entry of `table`; the one at the end. The tables hang together before
    /// hardware sees the first.
    fn hang_path(&self, table: Table, level: Level, va: VirtAddr, mut pool: TablePool) -> Table {
        let top = self.take(&mut pool);
        let mut end = top;
        let mut below = level.down();
        while let Some(level) = below.filter(|level| *level != Level::Pte) {
            let next = self.take(&mut pool);
            self.exchange(end, level.index(va), table_entry(next, va));
            end = next;
            below = level.down();
        }
        self.free_pool(pool);
        self.exchange(table, level.index(va), table_entry(top, va));
        end
    }

    /// The tables that are missing to map `extent`. Nothing may be mapped there.
    fn count_tables(&self, root: &Root, extent: Extent, fit: Fit) -> Result<usize, MapError> {
        let mut count = Count {
            mapper: self,
            root,
            fit,
            nr_tables: 0,
        };
        match self.visit(root, extent, &mut count) {
            ControlFlow::Continue(()) => Ok(count.nr_tables),
            ControlFlow::Break(error) => Err(error),
        }
    }

    /// Maps `extent`, for which `pool` has the tables.
    fn enter(
        &self,
        root: &mut Root,
        extent: Extent,
        fit: Fit,
        flags: PteFlags,
        pool: TablePool,
        frame: impl FnMut(VirtAddr) -> Pfn,
    ) {
        let mut enter = Enter {
            mapper: self,
            fit,
            flags,
            pool,
            frame,
        };
        let visited = self.visit(root, extent, &mut enter);
        debug_assert!(visited.is_continue());
        self.free_pool(enter.pool);
    }
}

/// An entry that points to a table: it grants all, so that the last entry decides alone.
pub(crate) const fn table_entry(table: Table, va: VirtAddr) -> Pte {
    let flags = PteFlags::P.union(PteFlags::RW).union(PteFlags::A);
    if crate::visit::is_kernel(va) {
        Pte::table(table.pfn(), flags)
    } else {
        Pte::table(table.pfn(), flags.union(PteFlags::US))
    }
}

/// Which pieces of a range a single page can map.
#[derive(Clone, Copy, Debug)]
struct Fit {
    /// The largest page whose alignment addresses and frames share.
    largest: Level,
}

impl Fit {
    const BASE_PAGES: Self = Self {
        largest: Level::Pte,
    };

    fn new(largest: Level, va: VirtAddr, phys: PhysAddr) -> Result<Self, MapError> {
        if !largest.can_map() {
            return Err(MapError::BadLevel);
        }
        let mut shared = Level::Pte;
        for level in Level::ALL.into_iter().filter(|level| *level <= largest) {
            if (va.as_u64() ^ phys.as_u64()) & (level.size_bytes() - 1) == 0 {
                shared = level;
            }
        }
        Ok(Self { largest: shared })
    }

    /// Whether one page maps all of an entry at `level` that is `whole`.
    fn is_page(self, level: Level, is_whole: bool) -> bool {
        level <= self.largest && is_whole
    }

    /// The tables below an empty entry at `level` of which `first` to `last` is to be mapped.
    fn nr_fresh_tables(self, level: Level, first: VirtAddr, last: VirtAddr) -> usize {
        let Some(below) = level.down() else {
            return 0;
        };
        let (mut nr_tables, mut from) = (1, first);
        if below == Level::Pte {
            return nr_tables;
        }
        loop {
            let entry_last = VirtAddr::new(from.as_u64() | (below.size_bytes() - 1));
            let to = entry_last.min(last);
            if !self.is_page(below, to - from == below.size_bytes() - 1) {
                nr_tables += self.nr_fresh_tables(below, from, to);
            }
            if to == last {
                return nr_tables;
            }
            from = to + 1;
        }
    }
}

/// Counts the tables that are missing.
struct Count<'m, 'a, S, A> {
    mapper: &'m Mapper<'a, S, A>,
    root: &'m Root,
    fit: Fit,
    nr_tables: usize,
}

impl<S: PteStore, A: PageSource> Visitor for Count<'_, '_, S, A> {
    type Stop = MapError;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<MapError, Step> {
        if let Some(lower) = Table::below(pte, at.level) {
            return ControlFlow::Continue(Step::Into(lower));
        }
        if !pte.is_none() {
            return ControlFlow::Break(MapError::Occupied);
        }
        if !self.fit.is_page(at.level, at.is_whole()) {
            if !self.mapper.may_grow(self.root, at.level, at.first) {
                return ControlFlow::Break(MapError::NotPreallocated);
            }
            self.nr_tables += self.fit.nr_fresh_tables(at.level, at.first, at.last);
        }
        ControlFlow::Continue(Step::Next)
    }
}

/// Enters pages and the tables that they need.
struct Enter<'m, 'a, S, A, F> {
    mapper: &'m Mapper<'a, S, A>,
    fit: Fit,
    flags: PteFlags,
    pool: TablePool,
    frame: F,
}

impl<S, A, F> Visitor for Enter<'_, '_, S, A, F>
where
    S: PteStore,
    A: PageSource,
    F: FnMut(VirtAddr) -> Pfn,
{
    type Stop = core::convert::Infallible;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<Self::Stop, Step> {
        if let Some(lower) = Table::below(pte, at.level) {
            return ControlFlow::Continue(Step::Into(lower));
        }
        if self.fit.is_page(at.level, at.is_whole()) {
            let page = Pte::leaf((self.frame)(at.first), self.flags, at.level);
            self.mapper.fill(at.table, at.index, page);
            return ControlFlow::Continue(Step::Next);
        }
        let lower = self.mapper.take(&mut self.pool);
        self.mapper
            .fill(at.table, at.index, table_entry(lower, at.first));
        ControlFlow::Continue(Step::Into(lower))
    }
}

//! The room: every access to a live table, and every claim that a frame is one.
//!
//! A [`Table`] exists only here and below a borrowed [`Root`]. It is copied freely within one operation, during which
//! the borrow of the root keeps every table below it alive (INV-2); none outlives the operation.
#![expect(
    unsafe_code,
    reason = "page tables are reached through unsafe methods of PteStore"
)]

use kmm_frame::{NodeItem, Order, PageFlags, Pfn};
use kmm_host::{PageBlock, PageReq, PageSource, PteIndex, PteStore};

use crate::root::{KernelHalf, Root};
use crate::{Level, MapError, Mapper, Pte, PteFlags};

/// The frame of a live page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table(Pfn);

impl Table {
    /// The top table. A `Root` is the proof that it is one.
    pub(crate) const fn of_root(root: &Root) -> Self {
        Self(root.pfn())
    }

    /// The top table that a kernel half belongs to; it lives for ever (INV-4).
    pub(crate) const fn of_kernel_half(half: KernelHalf) -> Self {
        Self(half.pfn())
    }

    /// The table that an entry of a live table at `level` points to (INV-1).
    pub(crate) const fn below(pte: Pte, level: Level) -> Option<Self> {
        if pte.is_table(level) {
            Some(Self(pte.pfn()))
        } else {
            None
        }
    }

    pub(crate) const fn pfn(self) -> Pfn {
        self.0
    }
}

/// Tables that were allocated for an operation before it changed anything, chained through their descriptors.
///
/// Spent by [`Mapper::free_pool`].
#[derive(Debug, Default)]
#[must_use = "tables in a pool that is dropped are leaked"]
pub(crate) struct TablePool {
    first: Option<Pfn>,
}

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    pub(crate) fn read(&self, table: Table, index: PteIndex) -> Pte {
        // SAFETY: INV-2: `table` is a page table.
        Pte::from_raw(unsafe { self.ptes.read(table.0, index) })
    }

    /// Writes an entry and keeps the count of the table; the entry before.
    pub(crate) fn exchange(&self, table: Table, index: PteIndex, pte: Pte) -> Pte {
        // SAFETY: INV-2: `table` is a page table, and the caller has `&mut Root`. What the entry maps is the business
        // of those who call the mapper, by obligation 2 of `Mapper::new`.
        let before = Pte::from_raw(unsafe { self.ptes.swap(table.0, index, pte.raw()) });
        self.count(
            table,
            i64::from(!pte.is_none()) - i64::from(!before.is_none()),
        );
        before
    }

    /// Adds to the entries in use. Only who has the root changes them, so no locked instruction is needed.
    fn count(&self, table: Table, delta: i64) {
        if delta != 0 {
            let page = self.map.page(table.0);
            page.set_private(page.private().wrapping_add_signed(delta));
        }
    }

    /// Writes an entry that was 0, in which hardware sets no bits, and keeps the count of the table.
    pub(crate) fn fill(&self, table: Table, index: PteIndex, pte: Pte) {
        // SAFETY: as in `exchange`.
        unsafe { self.ptes.write(table.0, index, pte.raw()) };
        self.count(table, i64::from(!pte.is_none()));
    }

    /// Replaces an entry and keeps every accessed and dirty bit that hardware sets while that happens; the entry before.
    ///
    /// Each swap shows what hardware set before it. What is missing is put in by the next one; two bits, so three swaps
    /// at the most.
    pub(crate) fn update(&self, table: Table, index: PteIndex, pte: Pte) -> Pte {
        let before = self.exchange(table, index, pte);
        if !pte.is_present() || !before.is_present() {
            return before;
        }
        let (mut seen, mut now) = (before.raw(), pte.raw());
        while seen & PteFlags::AD.bits() & !now != 0 {
            now |= seen & PteFlags::AD.bits();
            seen = self.exchange(table, index, Pte::from_raw(now)).raw();
        }
        before
    }

    /// How many entries of a table are not 0; one more for a table that stays.
    pub(crate) fn nr_used(&self, table: Table) -> u64 {
        self.map.page(table.0).private()
    }

    /// Keeps a table from ever being freed for being empty.
    pub(crate) fn keep(&self, table: Table) {
        self.count(table, 1);
    }

    /// An empty table that no other refers to.
    pub(crate) fn alloc_table(&self) -> Result<Table, MapError> {
        let (pfn, _) = self.pages.alloc(PageReq::page(self.gfp))?.into_raw();
        // SAFETY: the frame was the block's, and no entry names it yet.
        unsafe { self.ptes.init_table(pfn) };
        let page = self.map.page(pfn);
        page.set(PageFlags::TABLE);
        page.set_private(0);
        self.tables.add(1);
        self.pages.count(pfn, NodeItem::PageTablePages, 1);
        Ok(Table(pfn))
    }

    /// Frees a table.
    ///
    /// # Safety
    /// No table refers to it, and no CPU remembers that one did.
    pub(crate) unsafe fn free_table(&self, table: Table) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.ptes.retire_table(table.0) };
        let page = self.map.page(table.0);
        page.clear(PageFlags::TABLE);
        page.set_private(0);
        self.tables.sub(1);
        self.pages.count(table.0, NodeItem::PageTablePages, -1);
        // SAFETY: the frame came from `alloc_table`, which gave the block up, and nobody refers to it any more.
        self.pages
            .free(unsafe { PageBlock::from_raw(table.0, Order::ZERO) });
    }

    /// Allocates `nr_tables` tables, or none.
    pub(crate) fn fill_pool(&self, nr_tables: usize) -> Result<TablePool, MapError> {
        let mut pool = TablePool::default();
        for _ in 0..nr_tables {
            match self.alloc_table() {
                Ok(table) => self.chain(&mut pool.first, table),
                Err(error) => {
                    self.free_pool(pool);
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// A table of the pool.
    ///
    /// # Panics
    /// When there is none left: more were wanted than were counted.
    pub(crate) fn take(&self, pool: &mut TablePool) -> Table {
        self.unchain(&mut pool.first)
            .unwrap_or_else(|| panic!("an operation wants more tables than it counted"))
    }

    /// Frees the tables that were not taken.
    pub(crate) fn free_pool(&self, mut pool: TablePool) {
        while let Some(table) = self.unchain(&mut pool.first) {
            // SAFETY: a table of the pool was never entered into another, so no CPU saw it.
            unsafe { self.free_table(table) };
        }
    }

    /// Puts a table in front of a chain. Its descriptor's `lru_next` is the link.
    pub(crate) fn chain(&self, first: &mut Option<Pfn>, table: Table) {
        self.map.page(table.0).set_lru_next(*first);
        *first = Some(table.0);
    }

    /// Takes the table in front of a chain that [`Mapper::chain`] made.
    pub(crate) fn unchain(&self, first: &mut Option<Pfn>) -> Option<Table> {
        let table = (*first)?;
        let page = self.map.page(table);
        *first = page.lru_next();
        page.set_lru_next(None);
        Some(Table(table))
    }
}

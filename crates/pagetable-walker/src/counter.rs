//! How many tables there are.

use core::sync::atomic::{AtomicUsize, Ordering};

use kmm_frame::PAGE_SIZE;

/// Counts the tables of an address space, the top one included. Linux: `mm->pgtables_bytes`, `NR_PAGETABLE`.
#[derive(Debug, Default)]
pub struct TableCounter(AtomicUsize);

impl TableCounter {
    /// No table yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// How many tables there are.
    #[must_use]
    pub fn nr_tables(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// The memory that they take.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.nr_tables() * PAGE_SIZE
    }

    pub(crate) fn add(&self, nr_tables: usize) {
        self.0.fetch_add(nr_tables, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, nr_tables: usize) {
        let before = self.0.fetch_sub(nr_tables, Ordering::Relaxed);
        debug_assert!(before >= nr_tables, "more tables freed than allocated");
    }
}

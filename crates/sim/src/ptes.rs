//! Entries of page tables, watched.
#![expect(unsafe_code, reason = "implements PteStore")]

use core::sync::atomic::{AtomicU64, Ordering};

use kmm_frame::Pfn;
use kmm_host::{PteIndex, PteStore};

use crate::machine::Inner;

/// Which frames are page tables now: a bit for each.
#[derive(Debug)]
pub(crate) struct Tables(Vec<AtomicU64>);

impl Tables {
    pub(crate) fn new(end: Pfn) -> Self {
        Self(
            (0..end.index().div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
        )
    }

    pub(crate) fn contains(&self, pfn: Pfn) -> bool {
        let word = self.0.get(pfn.index() / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) & Self::bit(pfn) != 0)
    }

    pub(crate) fn len(&self) -> usize {
        let ones = self
            .0
            .iter()
            .map(|word| word.load(Ordering::Acquire).count_ones());
        ones.map(|ones| ones as usize).sum()
    }

    /// Whether it was none before.
    fn insert(&self, pfn: Pfn) -> bool {
        self.0[pfn.index() / 64].fetch_or(Self::bit(pfn), Ordering::AcqRel) & Self::bit(pfn) == 0
    }

    /// Whether it was one before.
    fn remove(&self, pfn: Pfn) -> bool {
        self.0[pfn.index() / 64].fetch_and(!Self::bit(pfn), Ordering::AcqRel) & Self::bit(pfn) != 0
    }

    const fn bit(pfn: Pfn) -> u64 {
        1 << (pfn.index() % 64)
    }
}

/// Reads and writes entries; panics when a frame is used as a table that is none, or stops being one too early.
#[derive(Clone, Copy, Debug)]
pub struct SimPtes {
    machine: &'static Inner,
}

impl SimPtes {
    pub(crate) const fn new(machine: &'static Inner) -> Self {
        Self { machine }
    }

    /// Whether a frame is a page table now.
    #[must_use]
    pub fn is_table(&self, pfn: Pfn) -> bool {
        self.machine.tables.contains(pfn)
    }

    /// How many page tables there are.
    #[must_use]
    pub fn nr_tables(&self) -> usize {
        self.machine.tables.len()
    }

    #[track_caller]
    fn entry(&self, table: Pfn, index: PteIndex) -> &AtomicU64 {
        assert!(
            self.is_table(table),
            "frame {table} is used as a page table but is none"
        );
        self.machine.ram.entry(table, index.index())
    }
}

// SAFETY: entries are aligned 64-bit atomics in memory, read and written whole.
unsafe impl PteStore for SimPtes {
    unsafe fn read(&self, table: Pfn, index: PteIndex) -> u64 {
        self.entry(table, index).load(Ordering::Acquire)
    }

    unsafe fn write(&self, table: Pfn, index: PteIndex, entry: u64) {
        self.entry(table, index).store(entry, Ordering::Release);
    }

    unsafe fn swap(&self, table: Pfn, index: PteIndex, entry: u64) -> u64 {
        self.entry(table, index).swap(entry, Ordering::AcqRel)
    }

    unsafe fn init_table(&self, table: Pfn) {
        assert!(
            self.machine.tables.insert(table),
            "frame {table} is a page table already"
        );
        self.machine.ram.clear_table(table);
    }

    unsafe fn retire_table(&self, table: Pfn) {
        let was_table = self.machine.tables.remove(table);
        if std::thread::panicking() {
            return; // one report is enough, and a second panic would hide the first
        }
        assert!(
            was_table,
            "frame {table} is retired as a page table but is none"
        );
        if let Some(cpu) = self.machine.tlbs.cpu_that_may_walk(table) {
            panic!("page table {table} is freed, but CPU {cpu} was not told to forget it");
        }
    }
}

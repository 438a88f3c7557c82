//! How to reach an entry of a page table.
#![expect(unsafe_code, reason = "page tables are shared with hardware")]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use kmm_frame::Pfn;

use crate::PhysMap;

/// The place of an entry in its table: 0 to 511.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PteIndex(u16);

impl PteIndex {
    /// Entries in a table.
    pub const COUNT: usize = 512;

    /// The entry with this number, or `None` from 512 on.
    #[must_use]
    pub const fn new(index: u16) -> Option<Self> {
        if index < 512 { Some(Self(index)) } else { None }
    }

    /// The entry selected by the low nine bits.
    #[must_use]
    pub const fn truncate(index: u64) -> Self {
        Self((index & 511) as u16)
    }

    /// The number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for PteIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PteIndex({})", self.0)
    }
}

/// Reads and writes entries of page tables that hardware may be walking. Linux: `READ_ONCE`, `set_pte`, `ptep_get_and_clear`.
///
/// # Safety
/// Implementors guarantee that an entry reads as it was last written, apart from accessed and dirty bits that hardware
/// set, and that writes are single and whole.
pub unsafe trait PteStore {
    /// Reads an entry.
    ///
    /// # Safety
    /// `table` is the frame of a page table.
    unsafe fn read(&self, table: Pfn, index: PteIndex) -> u64;

    /// Writes an entry.
    ///
    /// # Safety
    /// 1. `table` is the frame of a page table that the caller may change.
    /// 2. The entry maps only what its users may reach, until it is changed and flushed.
    unsafe fn write(&self, table: Pfn, index: PteIndex, entry: u64);

    /// Replaces an entry at once, so that no accessed or dirty bit is lost; the entry before.
    ///
    /// # Safety
    /// As for [`PteStore::write`].
    unsafe fn swap(&self, table: Pfn, index: PteIndex, entry: u64) -> u64;

    /// Makes a frame into an empty table: all entries 0.
    ///
    /// # Safety
    /// The caller owns the frame, and no table refers to it.
    unsafe fn init_table(&self, table: Pfn);

    /// The frame stops being a table, before it is freed.
    ///
    /// # Safety
    /// No table refers to the frame, and no CPU caches that one did.
    unsafe fn retire_table(&self, table: Pfn) {
        let _ = table;
    }
}

// SAFETY: every call goes to the store behind the reference.
unsafe impl<S: PteStore + ?Sized> PteStore for &S {
    unsafe fn read(&self, table: Pfn, index: PteIndex) -> u64 {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).read(table, index) }
    }

    unsafe fn write(&self, table: Pfn, index: PteIndex, entry: u64) {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).write(table, index, entry) }
    }

    unsafe fn swap(&self, table: Pfn, index: PteIndex, entry: u64) -> u64 {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).swap(table, index, entry) }
    }

    unsafe fn init_table(&self, table: Pfn) {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).init_table(table) }
    }

    unsafe fn retire_table(&self, table: Pfn) {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).retire_table(table) }
    }
}

/// Tables in memory that the permanent map shows: what a real machine has.
#[derive(Clone, Copy, Debug)]
pub struct MemPtes<P>(P);

impl<P: PhysMap> MemPtes<P> {
    /// Tables reached through `phys`.
    pub const fn new(phys: P) -> Self {
        Self(phys)
    }

    /// # Safety
    /// `table` is the frame of a page table.
    unsafe fn slot(&self, table: Pfn, index: PteIndex) -> &AtomicU64 {
        let base = self
            .0
            .direct(table)
            .unwrap_or_else(|| panic!("page table {table} outside the permanent map"));
        let entries: NonNull<AtomicU64> = base.cast();
        // SAFETY: a table has 512 entries and the index is below that.
        let entry = unsafe { entries.add(index.index()) };
        // SAFETY: the permanent map reaches the frame for ever; entries are only ever reached as atomics.
        unsafe { entry.as_ref() }
    }
}

// SAFETY: entries are aligned 64-bit atomics in memory, read and written whole.
unsafe impl<P: PhysMap> PteStore for MemPtes<P> {
    unsafe fn read(&self, table: Pfn, index: PteIndex) -> u64 {
        // SAFETY: `table` is a page table, by the caller.
        unsafe { self.slot(table, index) }.load(Ordering::Acquire)
    }

    unsafe fn write(&self, table: Pfn, index: PteIndex, entry: u64) {
        // SAFETY: `table` is a page table, by the caller.
        unsafe { self.slot(table, index) }.store(entry, Ordering::Release);
    }

    unsafe fn swap(&self, table: Pfn, index: PteIndex, entry: u64) -> u64 {
        // SAFETY: `table` is a page table, by the caller.
        unsafe { self.slot(table, index) }.swap(entry, Ordering::AcqRel)
    }

    unsafe fn init_table(&self, table: Pfn) {
        // SAFETY: the caller owns the frame, and nobody walks it yet.
        unsafe { self.0.with_pfn(table, |mut page| page.clear()) };
    }
}

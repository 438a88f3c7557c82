//! How many pages the areas have, by kind. Linux: `vm_stat_account`, `may_expand_vm`.

use core::ops::Range;

use kmm_frame::{PAGE_SHIFT, VirtAddr};

use crate::{Mm, VmFlags, VmaError};

/// Pages of areas, in memory or not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VmCounts {
    /// Pages of all areas. Linux: `mm->total_vm`, `VmSize`.
    pub total_pages: u64,
    /// Pages of private writable areas that are no stack. Linux: `mm->data_vm`, `VmData`.
    pub data_pages: u64,
    /// Pages of stacks. Linux: `mm->stack_vm`, `VmStk`.
    pub stack_pages: u64,
    /// Pages of areas that are executed and not written. Linux: `mm->exec_vm`, `VmExe`.
    pub exec_pages: u64,
    /// Pages of locked areas. Linux: `mm->locked_vm`, `VmLck`.
    pub locked_pages: u64,
}

impl VmCounts {
    /// The counts of one area.
    pub(crate) const fn of(flags: VmFlags, nr_pages: u64) -> Self {
        let mut counts = Self {
            total_pages: nr_pages,
            data_pages: 0,
            stack_pages: 0,
            exec_pages: 0,
            locked_pages: 0,
        };
        if flags.contains(VmFlags::GROWSDOWN) {
            counts.stack_pages = nr_pages;
        } else if is_data(flags) {
            counts.data_pages = nr_pages;
        } else if flags.contains(VmFlags::EXEC) && !flags.contains(VmFlags::WRITE) {
            counts.exec_pages = nr_pages;
        }
        if flags.contains(VmFlags::LOCKED) {
            counts.locked_pages = nr_pages;
        }
        counts
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.total_pages += other.total_pages;
        self.data_pages += other.data_pages;
        self.stack_pages += other.stack_pages;
        self.exec_pages += other.exec_pages;
        self.locked_pages += other.locked_pages;
    }

    pub(crate) const fn sub(&mut self, other: Self) {
        self.total_pages -= other.total_pages;
        self.data_pages -= other.data_pages;
        self.stack_pages -= other.stack_pages;
        self.exec_pages -= other.exec_pages;
        self.locked_pages -= other.locked_pages;
    }
}

/// Linux: `is_data_mapping`.
pub(crate) const fn is_data(flags: VmFlags) -> bool {
    let kind = VmFlags::WRITE
        .union(VmFlags::SHARED)
        .union(VmFlags::GROWSDOWN);
    flags.intersection(kind).bits() == VmFlags::WRITE.bits()
}

/// Whole pages in `range`.
pub(crate) const fn nr_pages(range: &Range<VirtAddr>) -> u64 {
    (range.end.as_u64() - range.start.as_u64()) >> PAGE_SHIFT
}

impl<F: Clone + PartialEq> Mm<F> {
    /// Pages of the areas, by kind.
    #[must_use]
    pub const fn counts(&self) -> &VmCounts {
        &self.counts
    }

    /// Pages of all areas. Linux: `mm->total_vm`.
    #[must_use]
    pub const fn total_vm_pages(&self) -> u64 {
        self.counts.total_pages
    }

    /// Pages of locked areas. Linux: `mm->locked_vm`.
    #[must_use]
    pub const fn locked_vm_pages(&self) -> u64 {
        self.counts.locked_pages
    }

    /// The counts of what lies in `range`.
    pub(crate) fn counts_in(&self, range: &Range<VirtAddr>) -> VmCounts {
        let mut counts = VmCounts::default();
        for (found, vma) in self.range(range.clone()) {
            let part = found.start.max(range.start)..found.end.min(range.end);
            counts.add(VmCounts::of(vma.flags, nr_pages(&part)));
        }
        counts
    }

    /// Whether `more` pages with `flags` stay within the limits, once what `freed` counts is gone.
    ///
    /// Linux: `may_expand_vm`, `mlock_future_check`.
    pub(crate) fn check_limits(
        &self,
        flags: VmFlags,
        more: u64,
        freed: &VmCounts,
    ) -> Result<(), VmaError> {
        let mut counts = self.counts;
        counts.sub(*freed);
        if !fits(counts.total_pages, more, self.limits.address_space_bytes)
            || (is_data(flags) && !fits(counts.data_pages, more, self.limits.data_bytes))
        {
            return Err(VmaError::NoMemory);
        }
        let locked = flags.contains(VmFlags::LOCKED);
        if locked && !fits(counts.locked_pages, more, self.limits.locked_bytes) {
            return Err(VmaError::LockLimit);
        }
        Ok(())
    }
}

/// Whether `pages + more` pages are at most `limit_bytes`.
pub(crate) fn fits(pages: u64, more: u64, limit_bytes: u64) -> bool {
    pages
        .checked_add(more)
        .is_some_and(|sum| sum <= limit_bytes >> PAGE_SHIFT)
}

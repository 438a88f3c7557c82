//! The edits that all operations are made of: split, merge, remove. Linux: `__split_vma`, `vma_merge`, `do_munmap`.
//!
//! Every operation first checks and reserves, so that it can still fail without a trace; from then on it cannot fail.

use core::ops::Range;

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

use crate::count::nr_pages;
use crate::{Mm, VmCounts, Vma, VmaError};

impl<F: Clone + PartialEq> Mm<F> {
    /// Removes whatever is mapped in `len_bytes` from `addr`. Linux: `munmap(2)`.
    ///
    /// What comes back is the range whose translations must be dropped, rounded up to pages; areas need not fill it.
    ///
    /// # Errors
    /// [`VmaError::Invalid`] for an unaligned address, a length of zero, or a range that leaves user space;
    /// [`VmaError::NoMemory`] when a split would exceed a limit or memory for it is short.
    pub fn munmap(&mut self, addr: VirtAddr, len_bytes: u64) -> Result<Range<VirtAddr>, VmaError> {
        let range = self.user_range(addr, len_bytes)?;
        self.prepare_cut(&range, 0)?;
        self.cut(&range);
        Ok(range)
    }

    /// Checks that `addr..addr + len_bytes`, rounded up to pages, lies in user space.
    pub(crate) fn user_range(
        &self,
        addr: VirtAddr,
        len_bytes: u64,
    ) -> Result<Range<VirtAddr>, VmaError> {
        if !addr.is_page_aligned() || len_bytes == 0 {
            return Err(VmaError::Invalid);
        }
        let end = addr
            .checked_add(len_bytes)
            .and_then(|end| end.checked_align_up(PAGE_SIZE as u64))
            .filter(|&end| end <= self.layout.task_size)
            .ok_or(VmaError::Invalid)?;
        Ok(addr..end)
    }

    /// The pages that hold `addr..addr + len_bytes`, if areas cover all of them: what `madvise` and its like work on.
    ///
    /// # Errors
    /// [`VmaError::Invalid`] for an unaligned address or a range that wraps, [`VmaError::NoMemory`] for a hole.
    pub fn mapped_range(
        &self,
        addr: VirtAddr,
        len_bytes: u64,
    ) -> Result<Range<VirtAddr>, VmaError> {
        let end = addr
            .checked_add(len_bytes)
            .and_then(|end| end.checked_align_up(PAGE_SIZE as u64))
            .filter(|_| addr.is_page_aligned())
            .ok_or(VmaError::Invalid)?;
        let mut at = addr;
        for (found, _) in self.range(addr..end) {
            if found.start > at {
                break;
            }
            at = found.end;
        }
        if at < end {
            return Err(VmaError::NoMemory);
        }
        Ok(addr..end)
    }

    /// Makes sure that cutting `range` out and inserting `extra` areas afterwards cannot fail.
    pub(crate) fn prepare_cut(
        &mut self,
        range: &Range<VirtAddr>,
        extra: usize,
    ) -> Result<(), VmaError> {
        self.check_cut(range)?;
        self.reserve(extra + 2)
    }

    /// Whether the limit of areas allows to cut `range` out: a hole in the middle of an area makes one more.
    pub(crate) fn check_cut(&self, range: &Range<VirtAddr>) -> Result<(), VmaError> {
        let holds_both_ends = self
            .lookup(range.start)
            .is_some_and(|(vma, _)| vma.start < range.start && range.end < vma.end);
        if holds_both_ends && self.vmas.len() >= self.limits.map_count {
            return Err(VmaError::NoMemory);
        }
        Ok(())
    }

    /// Makes sure that the next `inserts` insertions cannot fail.
    pub(crate) fn reserve(&mut self, inserts: usize) -> Result<(), VmaError> {
        self.vmas.reserve(inserts).map_err(|_| VmaError::NoMemory)
    }

    /// Inserts into free room that was reserved.
    ///
    /// # Panics
    /// When the range is taken or nothing was reserved: a bug of this crate.
    pub(crate) fn insert_reserved(&mut self, range: Range<u64>, vma: Vma<F>) {
        let inserted = self.vmas.insert(range, vma);
        assert!(inserted.is_ok(), "insertion into reserved room failed");
    }

    /// Removes all areas of `range`, splitting those that reach out of it. After [`Mm::prepare_cut`].
    pub(crate) fn cut(&mut self, range: &Range<VirtAddr>) {
        if range.is_empty() {
            return;
        }
        self.split(range.start);
        self.split(range.end);
        while let Some((found, _)) = self.find_intersection(range.clone()) {
            self.remove(found.start);
        }
    }

    /// Removes the area that starts at `start`, and its pages from the counters.
    pub(crate) fn remove(&mut self, start: VirtAddr) -> Option<Vma<F>> {
        let (range, vma) = self.vmas.remove(start.as_u64())?;
        let nr_pages = (range.end - range.start) >> PAGE_SHIFT;
        self.counts.sub(VmCounts::of(vma.flags, nr_pages));
        Some(vma)
    }

    /// Inserts an area into free, reserved room and joins it with its neighbours.
    pub(crate) fn add(&mut self, range: Range<VirtAddr>, vma: Vma<F>) {
        self.counts.add(VmCounts::of(vma.flags, nr_pages(&range)));
        self.insert_reserved(range.start.as_u64()..range.end.as_u64(), vma);
        self.merge_at(range.end);
        self.merge_at(range.start);
    }

    /// Makes `at` a border between areas, if it lies within one. The room must be reserved.
    pub(crate) fn split(&mut self, at: VirtAddr) {
        let Some((range, vma)) = self.lookup(at) else {
            return;
        };
        if range.start == at {
            return;
        }
        let tail = vma.tail(at - range.start);
        let start = range.start.as_u64();
        let resized = self.vmas.resize(start, start..at.as_u64());
        assert!(resized.is_ok(), "an area could not be made smaller");
        self.insert_reserved(at.as_u64()..range.end.as_u64(), tail);
    }

    /// Joins the areas that meet at `at`, if they are alike. Linux: `vma_merge`.
    pub(crate) fn merge_at(&mut self, at: VirtAddr) {
        let Some((right, right_vma)) = self.lookup(at) else {
            return;
        };
        let Some((left, left_vma)) = self.vmas.prev(at.as_u64()) else {
            return;
        };
        if right.start != at || left.end != at.as_u64() {
            return;
        }
        if !left_vma.continues_into(left.end - left.start, right_vma) {
            return;
        }
        self.vmas.remove(at.as_u64());
        let resized = self.vmas.resize(left.start, left.start..right.end.as_u64());
        assert!(
            resized.is_ok(),
            "an area could not grow over the one it absorbed"
        );
    }
}

//! The heap of a program. Linux: `brk(2)`.

use core::ops::Range;

use kmm_frame::{PAGE_SIZE, VirtAddr};

use crate::count::nr_pages;
use crate::{Mm, VmCounts, VmFlags, Vma};

impl<F: Clone + PartialEq> Mm<F> {
    /// Sets where the heap starts; it is empty then. For the program loader.
    pub const fn set_brk_start(&mut self, start: VirtAddr) {
        self.start_brk = start;
        self.brk = start;
    }

    /// Says how long the program's own data is, which counts towards the limit of the heap. For the program loader.
    /// Linux: `mm->end_data - mm->start_data`.
    pub const fn set_data_segment(&mut self, size_bytes: u64) {
        self.data_segment_bytes = size_bytes;
    }

    /// Where the heap starts.
    #[must_use]
    pub const fn start_brk(&self) -> VirtAddr {
        self.start_brk
    }

    /// Where the heap ends, to the byte.
    #[must_use]
    pub const fn current_brk(&self) -> VirtAddr {
        self.brk
    }

    /// Moves the end of the heap. Linux: `brk(2)`, which tells failure by the old end.
    ///
    /// The end that holds now, and the range whose translations must be dropped when the heap became smaller.
    pub fn brk(&mut self, new: VirtAddr) -> (VirtAddr, Option<Range<VirtAddr>>) {
        let dropped = self.try_brk(new).unwrap_or(None);
        (self.brk, dropped)
    }

    /// The range to drop, if there is one; `None` when refused.
    #[expect(
        clippy::option_option,
        reason = "refused, or done with or without a range"
    )]
    fn try_brk(&mut self, new: VirtAddr) -> Option<Option<Range<VirtAddr>>> {
        if new < self.start_brk {
            return None;
        }
        let data = (new - self.start_brk).checked_add(self.data_segment_bytes)?;
        if data > self.limits.data_bytes {
            return None;
        }
        let old_end = self.brk.checked_align_up(PAGE_SIZE as u64)?;
        let new_end = new.checked_align_up(PAGE_SIZE as u64)?;
        let dropped = if new_end < old_end {
            // Somebody may have unmapped the heap; then there is nothing to shrink.
            self.find_intersection(new_end..old_end)?;
            Some(self.munmap(new_end, old_end - new_end).ok()?)
        } else {
            self.grow_heap(old_end..new_end)?;
            None
        };
        self.brk = new;
        Some(dropped)
    }

    /// Linux: `do_brk_flags`.
    fn grow_heap(&mut self, more: Range<VirtAddr>) -> Option<()> {
        if more.is_empty() {
            return Some(());
        }
        if more.start < self.layout.min_addr || more.end > self.layout.task_size {
            return None;
        }
        // One page stays free above, so that a heap never touches a mapping.
        let with_gap = more.end.checked_add(PAGE_SIZE as u64)? - more.start;
        if !self.is_free(more.start.as_u64(), with_gap) {
            return None;
        }
        let may = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
        let flags = VmFlags::READ | VmFlags::WRITE | may;
        let none = VmCounts::default();
        self.check_limits(flags, nr_pages(&more), &none).ok()?;
        self.check_map_count().ok()?;
        self.reserve(1).ok()?;
        self.add(more.clone(), Vma::anonymous(more.start, flags));
        Some(())
    }
}

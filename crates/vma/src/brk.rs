//! The heap of a program. Linux: `brk(2)`.

use core::ops::Range;

use kmm_frame::{PAGE_SIZE, VirtAddr};

use crate::{Mm, VmFlags, Vma};

impl<F: Clone + PartialEq> Mm<F> {
    /// Sets where the heap starts; it is empty then. For the program loader.
    pub const fn set_brk_start(&mut self, start: VirtAddr) {
        self.start_brk = start;
        self.brk = start;
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

    fn try_brk(&mut self, new: VirtAddr) -> Option<Option<Range<VirtAddr>>> {
        if new < self.start_brk || new - self.start_brk > self.limits.data_bytes {
            return None;
        }
        let old_end = self.brk.checked_align_up(PAGE_SIZE as u64)?;
        let new_end = new.checked_align_up(PAGE_SIZE as u64)?;
        let dropped = if new_end < old_end {
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
        let len_bytes = more.end - more.start;
        if more.end > self.layout.task_size || !self.is_free(more.start.as_u64(), len_bytes) {
            return None;
        }
        self.check_size(len_bytes, 0).ok()?;
        self.prepare_cut(&more, 1).ok()?;
        let may = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
        self.add(more, Vma::anonymous(VmFlags::READ | VmFlags::WRITE | may));
        Some(())
    }
}

//! Stacks that grow on a fault. Linux: `expand_stack`, `expand_downwards`.

use kmm_frame::{PAGE_SIZE, VirtAddr};

use crate::count::nr_pages;
use crate::{Mm, VmCounts, VmFlags, VmaError};

impl<F: Clone + PartialEq> Mm<F> {
    /// Grows the stack above `addr` down to it.
    ///
    /// # Errors
    /// [`VmaError::NotMapped`] when the next area above is not a stack; [`VmaError::NotPermitted`] below the lowest
    /// address; [`VmaError::NoMemory`] when the stack would pass a limit or come too close to what lies below.
    pub fn expand_stack(&mut self, addr: VirtAddr) -> Result<(), VmaError> {
        let start = addr.align_down(PAGE_SIZE as u64);
        let (range, vma) = self.find(start).ok_or(VmaError::NotMapped)?;
        if range.start <= start {
            return Ok(());
        }
        let flags = vma.flags;
        if !flags.contains(VmFlags::GROWSDOWN) {
            return Err(VmaError::NotMapped);
        }
        if start < self.layout.min_addr {
            return Err(VmaError::NotPermitted);
        }
        if let Some((below, below_vma)) = self.vmas.prev(range.start.as_u64()) {
            // Another stack, or a guard that its owner made inaccessible, is no danger.
            let harmless = below_vma.flags.contains(VmFlags::GROWSDOWN)
                || !below_vma.flags.intersects(VmFlags::ACCESS);
            let gap_bytes = if harmless {
                0
            } else {
                self.layout.stack_guard_gap_bytes
            };
            if start.as_u64() < below.end.saturating_add(gap_bytes) {
                return Err(VmaError::NoMemory);
            }
        }
        let more = nr_pages(&(start..range.start));
        let pgoff = vma.pgoff.checked_sub(more).ok_or(VmaError::NoMemory)?;
        if range.end - start > self.limits.stack_bytes {
            return Err(VmaError::NoMemory);
        }
        self.check_limits(flags, more, &VmCounts::default())
            .map_err(|_| VmaError::NoMemory)?;
        self.vmas
            .resize(range.start.as_u64(), start.as_u64()..range.end.as_u64())
            .map_err(|_| VmaError::NoMemory)?;
        if let Some((_, vma)) = self.vmas.get_mut(start.as_u64()) {
            vma.pgoff = pgoff;
        }
        self.counts.add(VmCounts::of(flags, more));
        Ok(())
    }
}

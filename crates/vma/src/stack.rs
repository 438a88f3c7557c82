//! Stacks that grow on a fault. Linux: `expand_stack`, `expand_downwards`.

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

use crate::{Mm, VmFlags, VmaError};

impl<F: Clone + PartialEq> Mm<F> {
    /// Grows the stack above `addr` down to it.
    ///
    /// # Errors
    /// [`VmaError::NotMapped`] when the next area above is not a stack; [`VmaError::NoMemory`] when it would pass its
    /// limit or come too close to what lies below.
    pub fn expand_stack(&mut self, addr: VirtAddr) -> Result<(), VmaError> {
        let start = addr.align_down(PAGE_SIZE as u64);
        let (range, vma) = self.find(start).ok_or(VmaError::NotMapped)?;
        if range.start <= start {
            return Ok(());
        }
        if !vma.flags.contains(VmFlags::GROWSDOWN) {
            return Err(VmaError::NotMapped);
        }
        let more = range.start - start;
        if range.end - start > self.limits.stack_bytes || start < self.layout.min_addr {
            return Err(VmaError::NoMemory);
        }
        self.check_size(more, 0)?;
        let locked = vma.flags.contains(VmFlags::LOCKED);
        if let Some((below, below_vma)) = self.vmas.prev(range.start.as_u64()) {
            let stack_too = below_vma.flags.contains(VmFlags::GROWSDOWN);
            let gap_bytes = if stack_too {
                0
            } else {
                self.layout.stack_guard_gap_bytes
            };
            if start.as_u64() < below.end.saturating_add(gap_bytes) {
                return Err(VmaError::NoMemory);
            }
        }
        self.vmas
            .resize(range.start.as_u64(), start.as_u64()..range.end.as_u64())
            .map_err(|_| VmaError::NoMemory)?;
        self.total_vm_pages += more >> PAGE_SHIFT;
        if locked {
            self.locked_vm_pages += more >> PAGE_SHIFT;
        }
        Ok(())
    }
}

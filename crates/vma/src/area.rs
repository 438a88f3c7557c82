//! Finding room. Linux: `get_unmapped_area`, `vm_unmapped_area`.

use kmm_frame::{PAGE_SIZE, VirtAddr};

use crate::{MapFlags, Mm, VmFlags, VmaError};

/// The end of what `MAP_32BIT` may use.
const END_OF_2G: u64 = 1 << 31;

impl<F: Clone + PartialEq> Mm<F> {
    /// A free range of `len_bytes` (page-aligned): at the hint if that is free, else the highest below `mmap_base`,
    /// else the lowest anywhere.
    ///
    /// # Errors
    /// [`VmaError::NoMemory`] when no gap is large enough.
    pub fn unmapped_area(
        &self,
        hint: VirtAddr,
        len_bytes: u64,
        flags: MapFlags,
    ) -> Result<VirtAddr, VmaError> {
        let MmLayoutBounds { min, top, end } = self.bounds(flags);
        if len_bytes > end.saturating_sub(min) {
            return Err(VmaError::NoMemory);
        }
        let hint = hint.align_down(PAGE_SIZE as u64).as_u64();
        if hint >= min
            && hint.checked_add(len_bytes).is_some_and(|stop| stop <= end)
            && self.is_free(hint, len_bytes)
        {
            return Ok(VirtAddr::new(hint));
        }
        let gap_bytes = self.layout.stack_guard_gap_bytes;
        let find = |len_bytes| {
            let align = PAGE_SIZE as u64;
            self.vmas
                .highest_gap(min..top, len_bytes, align)
                .or_else(|| self.vmas.lowest_gap(min..end, len_bytes, align))
        };
        // A gap right below a stack only serves if it is larger by the guard gap.
        find(len_bytes)
            .filter(|&start| self.is_free(start, len_bytes))
            .or_else(|| find(len_bytes.saturating_add(gap_bytes)))
            .map(VirtAddr::new)
            .ok_or(VmaError::NoMemory)
    }

    fn bounds(&self, flags: MapFlags) -> MmLayoutBounds {
        let min = self.layout.min_addr.as_u64();
        if flags.contains(MapFlags::BELOW_2G) {
            MmLayoutBounds {
                min,
                top: END_OF_2G,
                end: END_OF_2G,
            }
        } else {
            MmLayoutBounds {
                min,
                top: self.layout.mmap_base.as_u64(),
                end: self.layout.task_size.as_u64(),
            }
        }
    }

    /// Whether nothing is mapped there, nor a stack so close above that its guard gap would be touched.
    pub(crate) fn is_free(&self, start: u64, len_bytes: u64) -> bool {
        let end = start + len_bytes;
        match self.vmas.find(start) {
            None => true,
            Some((next, vma)) if vma.flags.contains(VmFlags::GROWSDOWN) => {
                next.start.saturating_sub(self.layout.stack_guard_gap_bytes) >= end
            }
            Some((next, _)) => next.start >= end,
        }
    }
}

struct MmLayoutBounds {
    min: u64,
    top: u64,
    end: u64,
}

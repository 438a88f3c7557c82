//! Finding room. Linux: `get_unmapped_area`, `vm_unmapped_area`.

use core::ops::Range;

use kmm_frame::{PAGE_SIZE, VirtAddr};

use crate::{MapFlags, Mm, VmFlags, VmaError};

/// Where `MAP_32BIT` looks.
const LOW: Range<u64> = 0x4000_0000..0x8000_0000;
/// Areas start at multiples of this.
const ALIGN: u64 = PAGE_SIZE as u64;

impl<F: Clone + PartialEq> Mm<F> {
    /// A free range of `len_bytes` (page-aligned): at the hint if that is free, else the highest below `mmap_base`,
    /// else the lowest anywhere; with [`MapFlags::BELOW_2G`] the lowest between 1 and 2 GiB.
    ///
    /// # Errors
    /// [`VmaError::NoMemory`] when there is none.
    pub fn unmapped_area(
        &self,
        hint: VirtAddr,
        len_bytes: u64,
        flags: MapFlags,
    ) -> Result<VirtAddr, VmaError> {
        let below_2g = flags.contains(MapFlags::BELOW_2G);
        let min = self.layout.min_addr.as_u64();
        let task_size = self.layout.task_size.as_u64();
        let end = if below_2g {
            LOW.end.min(task_size)
        } else {
            task_size
        };
        if len_bytes == 0 || len_bytes > end {
            return Err(VmaError::NoMemory);
        }
        let hint = self.round_hint(hint).as_u64();
        if hint != 0 && hint <= end - len_bytes && self.is_free(hint, len_bytes) {
            return Ok(VirtAddr::new(hint));
        }
        let found = if below_2g {
            self.lowest_room(LOW.start.max(min)..end, len_bytes)
        } else {
            let base = self.layout.mmap_base.as_u64();
            self.highest_room(min..base, len_bytes)
                .or_else(|| self.lowest_room(min..end, len_bytes))
        };
        found.map(VirtAddr::new).ok_or(VmaError::NoMemory)
    }

    /// The hint as a page that may be mapped; 0 is no hint. Linux: `round_hint_to_min`.
    fn round_hint(&self, hint: VirtAddr) -> VirtAddr {
        let hint = hint.align_down(ALIGN);
        if hint == VirtAddr::ZERO || hint >= self.layout.min_addr {
            return hint;
        }
        self.layout
            .min_addr
            .checked_align_up(ALIGN)
            .unwrap_or(VirtAddr::ZERO)
    }

    /// The highest free room in `within`, clear of the guard gap of a stack above. Linux: `unmapped_area_topdown`.
    fn highest_room(&self, within: Range<u64>, len_bytes: u64) -> Option<u64> {
        let mut end = within.end;
        loop {
            let start =
                self.vmas
                    .highest_gap(within.start..end.max(within.start), len_bytes, ALIGN)?;
            if self.is_free(start, len_bytes) {
                return Some(start);
            }
            // A stack lies above: the room ends at its guard gap, or there is none up to the area below.
            let below = self.vmas.prev(start).map_or(0, |(area, _)| area.end);
            end = self.room_end(start).max(below);
        }
    }

    /// The lowest free room in `within`, clear of the guard gap of a stack above. Linux: `unmapped_area`.
    fn lowest_room(&self, within: Range<u64>, len_bytes: u64) -> Option<u64> {
        let mut start = within.start;
        loop {
            let found = self
                .vmas
                .lowest_gap(start..within.end.max(start), len_bytes, ALIGN)?;
            if self.is_free(found, len_bytes) {
                return Some(found);
            }
            // A stack lies above: the gap below it is too small.
            start = self.vmas.find(found)?.0.end;
        }
    }

    /// Whether nothing is mapped there, nor a stack so close above that its guard gap would be touched.
    pub(crate) fn is_free(&self, start: u64, len_bytes: u64) -> bool {
        start + len_bytes <= self.room_end(start)
    }

    /// Where the room that starts at `start` ends: at the next area, or at the guard gap below it. Linux: `vm_start_gap`.
    fn room_end(&self, start: u64) -> u64 {
        match self.vmas.find(start) {
            None => u64::MAX,
            Some((next, vma)) if vma.flags.contains(VmFlags::GROWSDOWN) => {
                next.start.saturating_sub(self.layout.stack_guard_gap_bytes)
            }
            Some((next, _)) => next.start,
        }
    }
}

//! Resizing and moving mappings. Linux: `mremap(2)`.
//!
//! A request becomes a plan, which is pure and makes every check; what carries the plan out cannot be refused any more,
//! but for memory.

use core::ops::Range;

use bitflags::bitflags;
use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

use crate::mmap::aligned_len;
use crate::{MapFlags, Mm, VmCounts, VmFlags, VmaError};

/// How far below the limit of areas a move must stay: it may split three. Linux: `move_vma`.
const SPARE_AREAS: usize = 3;

bitflags! {
    /// The flags of `mremap`. Linux: `MREMAP_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct RemapFlags: u32 {
        /// May be moved. Linux: `MREMAP_MAYMOVE`.
        const MAYMOVE = 1;
        /// To a fixed address. Linux: `MREMAP_FIXED`.
        const FIXED = 2;
    }
}

/// What `mremap` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemapReq {
    /// Where the mapping is.
    pub old_addr: VirtAddr,
    /// How large it is, in bytes; 0 asks for a second mapping of what is shared there.
    pub old_len_bytes: u64,
    /// How large it is to be, in bytes.
    pub new_len_bytes: u64,
    /// Whether and where it may move.
    pub flags: RemapFlags,
    /// The new place, with [`RemapFlags::FIXED`].
    pub new_addr: VirtAddr,
}

/// What `mremap` did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "page tables must follow"]
pub struct Remap {
    /// Where the mapping is now.
    pub range: Range<VirtAddr>,
    /// Translations to move: from here to the start of `range`, as many bytes as both have.
    pub moved_from: Option<Range<VirtAddr>>,
    /// Translations to drop first: what was cut off, or what a fixed move replaces.
    pub dropped: [Option<Range<VirtAddr>>; 2],
}

/// What a request comes down to.
enum Plan {
    /// Stays where it is; the tail goes, if there is one.
    Shrink { kept: Range<VirtAddr>, tail: u64 },
    /// Grows where it is.
    Grow {
        kept: Range<VirtAddr>,
        more: Range<VirtAddr>,
    },
    /// Moves: `kept` (empty for a second mapping) to `to`, whatever is there; `cut_off` goes.
    Move {
        kept: Range<VirtAddr>,
        cut_off: Range<VirtAddr>,
        to: Range<VirtAddr>,
        fixed: bool,
    },
}

impl<F: Clone + PartialEq> Mm<F> {
    /// Resizes or moves the mapping at `req.old_addr`. Linux: `mremap(2)`.
    ///
    /// Unlike Linux, which may have dropped what was at a fixed target, a refused call changes nothing.
    ///
    /// # Errors
    /// [`VmaError::Invalid`]: an unaligned address, a new length of 0, a fixed target without `MAYMOVE`, outside user
    /// space or overlapping the old range, a second mapping of private memory; [`VmaError::NotMapped`]: the old range
    /// is not within one area, or must not grow; [`VmaError::LockLimit`]; [`VmaError::NotPermitted`]: a fixed target
    /// below the lowest address; [`VmaError::NoMemory`]: no room, or a limit reached.
    pub fn mremap(&mut self, req: &RemapReq) -> Result<Remap, VmaError> {
        match self.plan_remap(req)? {
            Plan::Shrink { kept, tail } => {
                let dropped = match tail {
                    0 => None,
                    tail => Some(self.munmap(kept.end, tail)?),
                };
                Ok(Remap {
                    range: kept,
                    moved_from: None,
                    dropped: [dropped, None],
                })
            }
            Plan::Grow { kept, more } => {
                self.reserve(1)?;
                let Some((area, vma)) = self.lookup(kept.start) else {
                    return Err(VmaError::NotMapped);
                };
                let tail = vma.tail(kept.end - area.start);
                let range = kept.start..more.end;
                self.add(more, tail);
                Ok(Remap {
                    range,
                    moved_from: None,
                    dropped: [None, None],
                })
            }
            Plan::Move {
                kept,
                cut_off,
                to,
                fixed,
            } => {
                // Four borders may fall within areas, and the new area comes on top.
                self.reserve(5)?;
                if fixed {
                    self.cut(&to);
                }
                self.cut(&cut_off);
                self.move_reserved(req.old_addr, &kept, to.clone());
                Ok(Remap {
                    range: to.clone(),
                    moved_from: (!kept.is_empty()).then_some(kept),
                    dropped: [
                        fixed.then_some(to),
                        (!cut_off.is_empty()).then_some(cut_off),
                    ],
                })
            }
        }
    }

    /// Where [`Mm::mremap`] would move pages to, if it is asked for the same now: `None` when no page would move.
    ///
    /// With it, tables can be made for the target before anything changes.
    ///
    /// # Errors
    /// Those of [`Mm::mremap`].
    pub fn remap_target(&self, req: &RemapReq) -> Result<Option<Range<VirtAddr>>, VmaError> {
        Ok(match self.plan_remap(req)? {
            Plan::Move { kept, to, .. } if !kept.is_empty() => {
                Some(to.start..to.start + (kept.end - kept.start))
            }
            _ => None,
        })
    }

    fn plan_remap(&self, req: &RemapReq) -> Result<Plan, VmaError> {
        let fixed = req.flags.contains(RemapFlags::FIXED);
        let may_move = req.flags.contains(RemapFlags::MAYMOVE);
        if (fixed && !may_move) || !req.old_addr.is_page_aligned() {
            return Err(VmaError::Invalid);
        }
        let old_len = VirtAddr::new(req.old_len_bytes)
            .checked_align_up(PAGE_SIZE as u64)
            .ok_or(VmaError::Invalid)?
            .as_u64();
        let new_len = aligned_len(req.new_len_bytes).map_err(|_| VmaError::Invalid)?;
        let start = req.old_addr;
        if self.lookup(start).is_none() {
            return Err(VmaError::NotMapped);
        }
        if fixed {
            return self.plan_fixed(start, old_len, new_len, req.new_addr);
        }
        if old_len >= new_len {
            let tail = old_len - new_len;
            let kept = start..start.checked_add(new_len).ok_or(VmaError::Invalid)?;
            if tail > 0 {
                let cut_off = self.user_range(kept.end, tail)?;
                self.check_cut(&cut_off)?;
            }
            return Ok(Plan::Shrink { kept, tail });
        }
        let none = VmCounts::default();
        let (kept, area_end) = self.check_resize(start, old_len, new_len, &none)?;
        if area_end == kept.end {
            let end = start.checked_add(new_len);
            let end = end.filter(|&end| end <= self.layout.task_size);
            let more = end.map(|end| kept.end..end);
            let free = more.filter(|more| self.find_intersection(more.clone()).is_none());
            if let Some(more) = free {
                return Ok(Plan::Grow { kept, more });
            }
        }
        if !may_move {
            return Err(VmaError::NoMemory);
        }
        let to = self.unmapped_area(VirtAddr::ZERO, new_len, MapFlags::empty())?;
        self.check_move_count(0)?;
        Ok(Plan::Move {
            cut_off: kept.end..kept.end,
            kept,
            to: to..to + new_len,
            fixed: false,
        })
    }

    /// Linux: `mremap_to`.
    fn plan_fixed(
        &self,
        start: VirtAddr,
        old_len: u64,
        new_len: u64,
        target: VirtAddr,
    ) -> Result<Plan, VmaError> {
        let to = self.user_range(target, new_len)?;
        let old_end = start.checked_add(old_len).ok_or(VmaError::Invalid)?;
        if start < to.end && to.start < old_end {
            return Err(VmaError::Invalid);
        }
        self.check_move_count(2)?;
        let cut_off = start + old_len.min(new_len)..old_end;
        if old_end > self.layout.task_size && !cut_off.is_empty() {
            return Err(VmaError::Invalid);
        }
        if to.contains(&start) {
            // A second mapping, in place of the first: nothing is left to map.
            return Err(VmaError::NotMapped);
        }
        let freed = self.counts_in(&to); // what is cut off frees nothing for growing: then nothing grows
        let (kept, _) = self.check_resize(start, old_len.min(new_len), new_len, &freed)?;
        if to.start < self.layout.min_addr {
            return Err(VmaError::NotPermitted);
        }
        Ok(Plan::Move {
            kept,
            cut_off,
            to,
            fixed: true,
        })
    }

    /// The old range, if it may become `new_len` long, and the end of its area. Linux: `vma_to_resize`.
    fn check_resize(
        &self,
        start: VirtAddr,
        old_len: u64,
        new_len: u64,
        freed: &VmCounts,
    ) -> Result<(Range<VirtAddr>, VirtAddr), VmaError> {
        let (area, vma) = self.lookup(start).ok_or(VmaError::NotMapped)?;
        if old_len == 0 && !vma.flags.contains(VmFlags::SHARED) {
            return Err(VmaError::Invalid);
        }
        if old_len > area.end - start {
            return Err(VmaError::NotMapped);
        }
        if new_len > old_len {
            let pgoff = vma.pgoff_at(start - area.start);
            if pgoff.checked_add(new_len >> PAGE_SHIFT).is_none() {
                return Err(VmaError::Invalid);
            }
            if vma.flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP) {
                return Err(VmaError::NotMapped);
            }
            self.check_limits(vma.flags, (new_len - old_len) >> PAGE_SHIFT, freed)?;
        }
        Ok((start..start + old_len, area.end))
    }

    fn check_move_count(&self, more: usize) -> Result<(), VmaError> {
        let most = self.limits.map_count.saturating_sub(SPARE_AREAS);
        if self.vmas.len() + more >= most {
            return Err(VmaError::NoMemory);
        }
        Ok(())
    }

    /// Moves `kept` into free room, or maps there what is at `start` once more if `kept` is empty.
    fn move_reserved(&mut self, start: VirtAddr, kept: &Range<VirtAddr>, to: Range<VirtAddr>) {
        if kept.is_empty() {
            let copy = self
                .lookup(start)
                .map(|(area, vma)| vma.tail(start - area.start));
            if let Some(vma) = copy {
                self.add(to, vma);
            }
            return;
        }
        self.split(kept.start);
        self.split(kept.end);
        if let Some(vma) = self.remove(kept.start) {
            self.add(to, vma);
        }
    }
}

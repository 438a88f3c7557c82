//! Resizing and moving mappings. Linux: `mremap(2)`.

use core::ops::Range;

use bitflags::bitflags;
use kmm_frame::VirtAddr;

use crate::mmap::aligned_len;
use crate::{MapFlags, Mm, VmFlags, VmaError};

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
    /// How large it is, in bytes.
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

impl<F: Clone + PartialEq> Mm<F> {
    /// Resizes or moves the mapping at `req.old_addr`. Linux: `mremap(2)`.
    ///
    /// # Errors
    /// [`VmaError::Invalid`], [`VmaError::NotMapped`] when the old range is not within one area,
    /// [`VmaError::NoMemory`].
    pub fn mremap(&mut self, req: &RemapReq) -> Result<Remap, VmaError> {
        let fixed = req.flags.contains(RemapFlags::FIXED);
        let may_move = req.flags.contains(RemapFlags::MAYMOVE);
        if !req.old_addr.is_page_aligned()
            || (fixed && (!may_move || !req.new_addr.is_page_aligned()))
        {
            return Err(VmaError::Invalid);
        }
        let new_len = aligned_len(req.new_len_bytes)?;
        let old = self.user_range(req.old_addr, req.old_len_bytes)?;
        let (area, vma) = self.lookup(old.start).ok_or(VmaError::NotMapped)?;
        let old_len = old.end - old.start;
        if area.end < old.end {
            return Err(VmaError::NotMapped);
        }
        if new_len > old_len && vma.flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP) {
            return Err(VmaError::NotMapped);
        }
        if fixed {
            return self.move_fixed(&old, req.new_addr, new_len);
        }
        if new_len <= old_len {
            let tail = old.start + new_len..old.end;
            let dropped = if tail.is_empty() {
                None
            } else {
                Some(self.munmap(tail.start, old_len - new_len)?)
            };
            return Ok(Remap {
                range: old.start..old.start + new_len,
                moved_from: None,
                dropped: [dropped, None],
            });
        }
        let more = new_len - old_len;
        let can_grow = area.end == old.end
            && old
                .end
                .checked_add(more)
                .is_some_and(|end| end <= self.layout.task_size)
            && self.is_free(old.end.as_u64(), more);
        if can_grow {
            self.check_size(more, 0)?;
            let tail = vma.tail(old.end - area.start);
            self.reserve(1)?;
            self.add(old.end..old.end + more, tail);
            return Ok(Remap {
                range: old.start..old.end + more,
                moved_from: None,
                dropped: [None, None],
            });
        }
        if !may_move {
            return Err(VmaError::NoMemory);
        }
        let to = self.unmapped_area(VirtAddr::ZERO, new_len, MapFlags::empty())?;
        self.move_area(&old, to..to + new_len)?;
        Ok(Remap {
            range: to..to + new_len,
            moved_from: Some(old),
            dropped: [None, None],
        })
    }

    fn move_fixed(
        &mut self,
        old: &Range<VirtAddr>,
        to: VirtAddr,
        new_len: u64,
    ) -> Result<Remap, VmaError> {
        let new = self.user_range(to, new_len)?;
        if new.start < self.layout.min_addr {
            return Err(VmaError::NotPermitted);
        }
        if new.start < old.end && old.start < new.end {
            return Err(VmaError::Invalid);
        }
        let kept_end = old.end.min(old.start + new_len);
        let source = old.start..kept_end;
        let cut_off = kept_end..old.end;
        // The replaced range may split one area, the source another: room for both before anything changes.
        if self.vmas.len() + 4 > self.limits.map_count {
            return Err(VmaError::NoMemory);
        }
        self.check_size(new_len, self.mapped_bytes(&new) + (old.end - old.start))?;
        self.reserve(7)?;
        self.cut(&new);
        if !cut_off.is_empty() {
            self.cut(&cut_off);
        }
        self.move_reserved(&source, new.clone());
        let dropped = [Some(new.clone()), (!cut_off.is_empty()).then_some(cut_off)];
        Ok(Remap {
            range: new,
            moved_from: Some(source),
            dropped,
        })
    }

    /// Moves an area into free room, which may be larger.
    fn move_area(&mut self, from: &Range<VirtAddr>, to: Range<VirtAddr>) -> Result<(), VmaError> {
        if self.vmas.len() + 3 > self.limits.map_count {
            return Err(VmaError::NoMemory);
        }
        self.check_size(to.end - to.start, from.end - from.start)?;
        self.reserve(3)?;
        self.move_reserved(from, to);
        Ok(())
    }

    fn move_reserved(&mut self, from: &Range<VirtAddr>, to: Range<VirtAddr>) {
        self.split(from.start);
        self.split(from.end);
        if let Some(vma) = self.remove(from.start) {
            self.add(to, vma);
        }
    }
}

//! Changing access. Linux: `mprotect(2)`.

use core::iter;
use core::ops::Range;

use kmm_frame::VirtAddr;

use crate::count::{fits, is_data, nr_pages};
use crate::{Mm, Prot, VmCounts, VmFlags, Vma, VmaError};

/// What `mprotect` did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "translations of the range must follow the new access"]
pub struct Protected {
    /// The range whose translations must be brought in line; empty when nothing changed.
    pub range: Range<VirtAddr>,
}

impl<F: Clone + PartialEq> Mm<F> {
    /// Sets the access of `len_bytes` from `addr`. Linux: `mprotect(2)`.
    ///
    /// Unlike Linux, which changes the areas before the first obstacle, a refused call changes nothing.
    ///
    /// # Errors
    /// [`VmaError::Invalid`] for an unaligned address, [`VmaError::NoMemory`] for a hole or a limit reached,
    /// [`VmaError::Access`] when an area may not have that access.
    pub fn mprotect(
        &mut self,
        addr: VirtAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<Protected, VmaError> {
        if !addr.is_page_aligned() {
            return Err(VmaError::Invalid);
        }
        if len_bytes == 0 {
            return Ok(Protected { range: addr..addr });
        }
        let range = self
            .user_range(addr, len_bytes)
            .map_err(|_| VmaError::NoMemory)?;
        let access = VmFlags::from(prot);
        self.check_protect(&range, access)?;
        let changed =
            self.change_flags(&range, |flags| flags.difference(VmFlags::ACCESS) | access)?;
        Ok(Protected {
            range: if changed { range } else { addr..addr },
        })
    }

    /// Sets flags of what lies in `range` that are no access rights: what a driver says of its device memory, or
    /// `madvise` of fork. Linux: `vm_flags_set`.
    ///
    /// # Errors
    /// [`VmaError::Invalid`] for an unaligned range or a flag other than those of [`VmFlags::SPECIAL`],
    /// [`VmFlags::DONTCOPY`] and [`VmFlags::WIPEONFORK`]; [`VmaError::NoMemory`] for a hole or a limit reached.
    pub fn set_flags(&mut self, range: Range<VirtAddr>, flags: VmFlags) -> Result<(), VmaError> {
        let range = self.markable(&range, flags)?;
        self.change_flags(&range, |old| old | flags).map(|_| ())
    }

    /// Takes away what [`Mm::set_flags`] sets. Linux: `vm_flags_clear`.
    ///
    /// # Errors
    /// Those of [`Mm::set_flags`].
    pub fn clear_flags(&mut self, range: Range<VirtAddr>, flags: VmFlags) -> Result<(), VmaError> {
        let range = self.markable(&range, flags)?;
        self.change_flags(&range, |old| old - flags).map(|_| ())
    }

    fn markable(
        &self,
        range: &Range<VirtAddr>,
        flags: VmFlags,
    ) -> Result<Range<VirtAddr>, VmaError> {
        let marks = VmFlags::SPECIAL | VmFlags::DONTCOPY | VmFlags::WIPEONFORK;
        if !marks.contains(flags) || !range.end.is_page_aligned() || range.is_empty() {
            return Err(VmaError::Invalid);
        }
        self.mapped_range(range.start, range.end - range.start)
    }

    fn check_protect(&self, range: &Range<VirtAddr>, wanted: VmFlags) -> Result<(), VmaError> {
        let may = VmFlags::from_bits_truncate(wanted.bits() << 4);
        let mut at = range.start;
        let mut more_data = 0;
        for (found, vma) in self.range(range.clone()) {
            if found.start > at {
                return Err(VmaError::NoMemory);
            }
            if !vma.flags.contains(may) {
                return Err(VmaError::Access);
            }
            if is_data(vma.flags.difference(VmFlags::ACCESS) | wanted) && !is_data(vma.flags) {
                more_data += nr_pages(&(at..found.end.min(range.end)));
            }
            at = found.end;
        }
        let over = !fits(self.counts.data_pages, more_data, self.limits.data_bytes);
        if at < range.end || (more_data > 0 && over) {
            return Err(VmaError::NoMemory);
        }
        Ok(())
    }

    /// Gives every area in `range` the flags that `change` makes of its own, splitting those that reach out of it and
    /// joining what has become alike; whether anything changed.
    ///
    /// # Errors
    /// [`VmaError::NoMemory`] when that would make too many areas, or memory for them is short.
    fn change_flags(
        &mut self,
        range: &Range<VirtAddr>,
        change: impl Fn(VmFlags) -> VmFlags,
    ) -> Result<bool, VmaError> {
        let (gained, lost) = self.count_borders(range, &change);
        if gained > lost && self.vmas.len() + gained - lost > self.limits.map_count {
            return Err(VmaError::NoMemory);
        }
        self.reserve(2)?;
        for at in [range.start, range.end] {
            if self
                .lookup(at)
                .is_some_and(|(_, vma)| change(vma.flags) != vma.flags)
            {
                self.split(at);
            }
        }
        let mut changed = false;
        let (mut gone, mut come) = (VmCounts::default(), VmCounts::default());
        self.vmas
            .for_each_mut(range.start.as_u64()..range.end.as_u64(), |found, vma| {
                let flags = change(vma.flags);
                if flags != vma.flags {
                    let nr_pages =
                        nr_pages(&(VirtAddr::new(found.start)..VirtAddr::new(found.end)));
                    gone.add(VmCounts::of(vma.flags, nr_pages));
                    come.add(VmCounts::of(flags, nr_pages));
                    vma.flags = flags;
                    changed = true;
                }
            });
        self.counts.sub(gone);
        self.counts.add(come);
        self.merge_range(range);
        Ok(changed)
    }

    /// How many borders between areas a change of flags in `range` would make, and how many it would remove.
    fn count_borders(
        &self,
        range: &Range<VirtAddr>,
        change: impl Fn(VmFlags) -> VmFlags,
    ) -> (usize, usize) {
        let inner = self.range(range.clone()).map(|(found, _)| found.start);
        let inner = inner.filter(|&start| start > range.start);
        let (mut gained, mut lost) = (0, 0);
        for at in iter::once(range.start)
            .chain(inner)
            .chain(iter::once(range.end))
        {
            let below = VirtAddr::new(at.as_u64().wrapping_sub(1));
            let (Some((left, left_vma)), Some((right, right_vma))) =
                (self.lookup(below), self.lookup(at))
            else {
                continue;
            };
            let flags_at = |at: VirtAddr, vma: &Vma<F>| {
                if range.contains(&at) {
                    change(vma.flags)
                } else {
                    vma.flags
                }
            };
            let left_flags = flags_at(below, left_vma);
            let alike = left_flags == flags_at(at, right_vma);
            if right.start == at {
                let joins = alike
                    && !left_flags.intersects(VmFlags::SPECIAL)
                    && left_vma.shows_before(left.end - left.start, right_vma);
                lost += usize::from(joins);
            } else {
                gained += usize::from(!alike);
            }
        }
        (gained, lost)
    }

    /// Joins whatever has become alike in `range` and at its two ends.
    fn merge_range(&mut self, range: &Range<VirtAddr>) {
        let mut at = range.start;
        loop {
            self.merge_at(at);
            match self.lookup(at) {
                Some((found, _)) if found.end <= range.end => at = found.end,
                _ => break,
            }
        }
    }
}

//! Changing access. Linux: `mprotect(2)`.

use core::ops::Range;

use kmm_frame::VirtAddr;

use crate::{Mm, Prot, VmFlags, VmaError};

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
        self.check_protect(&range, VmFlags::from(prot))?;
        // Up to two borders more; nothing is removed before they are there.
        if self.vmas.len() + 2 > self.limits.map_count {
            return Err(VmaError::NoMemory);
        }
        self.reserve(2)?;
        self.split(range.start);
        self.split(range.end);
        let mut changed = false;
        let mut at = range.start.as_u64();
        while let Some((found, vma)) = self.vmas.find_mut(at) {
            if found.start >= range.end.as_u64() {
                break;
            }
            let flags = vma.flags.difference(VmFlags::ACCESS) | VmFlags::from(prot);
            changed |= flags != vma.flags;
            vma.flags = flags;
            at = found.end;
        }
        self.merge_range(&range);
        Ok(Protected {
            range: if changed { range } else { addr..addr },
        })
    }

    fn check_protect(&self, range: &Range<VirtAddr>, wanted: VmFlags) -> Result<(), VmaError> {
        let may = VmFlags::from_bits_truncate(wanted.bits() << 4);
        let mut at = range.start;
        for (found, vma) in self.range(range.clone()) {
            if found.start > at {
                return Err(VmaError::NoMemory);
            }
            if !vma.flags.contains(may) {
                return Err(VmaError::Access);
            }
            at = found.end;
        }
        if at < range.end {
            Err(VmaError::NoMemory)
        } else {
            Ok(())
        }
    }

    /// Joins whatever has become alike in `range` and at its two ends.
    pub(crate) fn merge_range(&mut self, range: &Range<VirtAddr>) {
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

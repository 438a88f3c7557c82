//! One area. Linux: `struct vm_area_struct`.

use kmm_frame::PAGE_SHIFT;

use crate::VmFlags;

/// What is mapped in one range of addresses; the range itself is the key of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vma<F> {
    /// What may be done.
    pub flags: VmFlags,
    /// Where in the file the area starts, in pages; 0 for anonymous memory.
    pub pgoff: u64,
    /// What is mapped; `None` for anonymous memory.
    pub file: Option<F>,
}

impl<F: Clone + PartialEq> Vma<F> {
    /// Anonymous private memory.
    #[must_use]
    pub const fn anonymous(flags: VmFlags) -> Self {
        Self {
            flags,
            pgoff: 0,
            file: None,
        }
    }

    /// Whether pages belong to this mapping alone once written.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::SHARED)
    }

    /// The page of the file that `offset_bytes` from the start of the area shows.
    #[must_use]
    pub const fn pgoff_at(&self, offset_bytes: u64) -> u64 {
        self.pgoff + (offset_bytes >> PAGE_SHIFT)
    }

    /// The same mapping, from `offset_bytes` on.
    pub(crate) fn tail(&self, offset_bytes: u64) -> Self {
        let mut tail = self.clone();
        if tail.file.is_some() {
            tail.pgoff = self.pgoff_at(offset_bytes);
        }
        tail
    }

    /// Whether `right`, starting `len_bytes` after the start of `self`, continues it. Linux: `can_vma_merge_after`.
    pub(crate) fn continues_into(&self, len_bytes: u64, right: &Self) -> bool {
        self.flags == right.flags
            && !self.flags.intersects(VmFlags::SPECIAL)
            && self.file == right.file
            && (self.file.is_none() || self.pgoff_at(len_bytes) == right.pgoff)
    }
}

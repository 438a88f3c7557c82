//! One area. Linux: `struct vm_area_struct`.

use kmm_frame::{PAGE_SHIFT, VirtAddr};

use crate::VmFlags;

/// What is mapped in one range of addresses; the range itself is the key of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vma<F> {
    /// What may be done.
    pub flags: VmFlags,
    /// Where in the file the area starts, in pages. For anonymous memory, where it started when it was mapped: the page
    /// number of its address, until `mremap` moves it, and from then on still that, so that a page keeps its place
    /// wherever the area goes. Linux: `vm_pgoff`.
    pub pgoff: u64,
    /// What is mapped; `None` for anonymous memory.
    pub file: Option<F>,
}

impl<F: Clone + PartialEq> Vma<F> {
    /// Anonymous private memory at `start`.
    #[must_use]
    pub const fn anonymous(start: VirtAddr, flags: VmFlags) -> Self {
        Self {
            flags,
            pgoff: start.page_number(),
            file: None,
        }
    }

    /// Whether pages belong to this mapping alone once written.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::SHARED)
    }

    /// The page of the file, or of anonymous memory, that `offset_bytes` from the start of the area shows. Linux:
    /// `linear_page_index`.
    #[must_use]
    pub const fn pgoff_at(&self, offset_bytes: u64) -> u64 {
        self.pgoff + (offset_bytes >> PAGE_SHIFT)
    }

    /// The same mapping, from `offset_bytes` on.
    pub(crate) fn tail(&self, offset_bytes: u64) -> Self {
        Self {
            pgoff: self.pgoff_at(offset_bytes),
            ..self.clone()
        }
    }

    /// Whether `right`, starting `len_bytes` after the start of `self`, continues it. Linux: `can_vma_merge_after`.
    pub(crate) fn continues_into(&self, len_bytes: u64, right: &Self) -> bool {
        self.flags == right.flags
            && !self.flags.intersects(VmFlags::SPECIAL)
            && self.shows_before(len_bytes, right)
    }

    /// Whether `right` shows what comes after the first `len_bytes` of what `self` shows.
    pub(crate) fn shows_before(&self, len_bytes: u64, right: &Self) -> bool {
        self.file == right.file && self.pgoff_at(len_bytes) == right.pgoff
    }
}

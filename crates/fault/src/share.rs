//! What an entry means for the counts of its frame, when it is copied and when it goes.

use kmm_frame::{MemMap, PageFlags, Pfn};
use kmm_host::PageSource;
use kmm_pagetable_walker::{Leaf, Pte, PteFlags};

use crate::Usage;
use crate::entry::frame_of;
use crate::refs::{add_mapping, drop_mapping};

/// Whether the pages of an area are one's own once written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Both keep seeing the page until one of them writes; then that one gets a copy.
    CopyOnWrite,
    /// Both see what either writes.
    Shared,
}

/// A child gets `leaf` too: counts one mapping and one reference more, takes the parent's right to write if the page is
/// to be copied on write, and returns the child's entry. Linux: `copy_present_pte`.
///
/// The parent's translation must be flushed if `parent` changed.
#[must_use = "the entry that was counted goes into the child's table"]
pub fn share<A: PageSource>(
    map: &MemMap,
    pages: &A,
    zero_page: Pfn,
    sharing: Sharing,
    leaf: Leaf,
    parent: &mut Pte,
    child: &mut Usage,
) -> Pte {
    let Some(pfn) = frame_of(leaf.pte) else {
        return *parent;
    };
    if sharing == Sharing::CopyOnWrite && parent.has(PteFlags::RW) {
        *parent = parent.with_flags(parent.flags() - PteFlags::RW, leaf.level);
    }
    if pfn != zero_page {
        let page = map.page(pfn);
        page.get();
        add_mapping(map, pages, pfn);
        *child.of(page.flags()) += 1;
    }
    *parent
}

/// `leaf` was cleared: counts one mapping less and keeps what the program did to the page. Linux: `zap_pte_range`.
///
/// The frame whose reference is to be given back with [`crate::put_page`] after the flush, if the entry held one.
#[must_use = "the reference of the entry is given back after the flush"]
pub fn forget<A: PageSource>(
    map: &MemMap,
    pages: &A,
    zero_page: Pfn,
    leaf: Leaf,
    usage: &mut Usage,
) -> Option<Pfn> {
    let pfn = frame_of(leaf.pte).filter(|&pfn| pfn != zero_page)?;
    let page = map.page(pfn);
    if leaf.pte.has(PteFlags::D) {
        page.set(PageFlags::DIRTY);
    }
    drop_mapping(map, pages, pfn);
    *usage.of(page.flags()) -= 1;
    Some(pfn)
}

impl Usage {
    /// The counter for a page with these flags.
    pub(crate) const fn of(&mut self, flags: PageFlags) -> &mut u64 {
        if flags.contains(PageFlags::ANON) {
            &mut self.anon_pages
        } else {
            &mut self.file_pages
        }
    }
}

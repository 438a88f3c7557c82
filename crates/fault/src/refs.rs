//! References to frames that page-table entries hold.
//!
//! Each entry of a process that maps a counted frame holds one reference and one map count of it (INV-1). The shared
//! zero page is not counted: it belongs to the kernel and is never freed.
#![expect(
    unsafe_code,
    reason = "the last reference of a frame becomes ownership of it"
)]

use kmm_frame::{MemMap, NodeItem, Order, PageFlags, Pfn};
use kmm_host::{PageBlock, PageSource, PhysMap};

/// Flags that a page has for a process, and loses with its last user.
const OF_A_PROCESS: PageFlags = PageFlags::ANON
    .union(PageFlags::SWAPBACKED)
    .union(PageFlags::DIRTY)
    .union(PageFlags::REFERENCED);

/// Gives one reference to a frame back; the last one frees it. Linux: `put_page`.
///
/// # Context
/// Does not sleep. No CPU may still remember a translation through which the reference was used.
///
/// # Safety
/// The caller holds a reference of the frame, and spends it.
pub unsafe fn put_page<A: PageSource>(map: &MemMap, pages: &A, pfn: Pfn) {
    let page = map.page(pfn);
    if page.put_and_test() {
        page.clear(OF_A_PROCESS);
        // It becomes the block's: whoever owns a page holds it once.
        page.unfreeze(1);
        // SAFETY: the last reference is gone, so nobody but this call knows of the frame.
        pages.free(unsafe { PageBlock::from_raw(pfn, Order::ZERO) });
    }
}

/// A block for a process, now counted instead of owned: one reference, one mapping.
pub(crate) fn into_mapped<A: PageSource>(map: &MemMap, pages: &A, block: PageBlock) -> Pfn {
    let (pfn, _) = block.into_raw();
    let page = map.page(pfn);
    page.set(PageFlags::ANON | PageFlags::SWAPBACKED);
    page.set_ref_count(1);
    add_mapping(map, pages, pfn);
    pfn
}

/// One more entry maps the frame. Linux: `page_add_anon_rmap`, `page_add_file_rmap`.
pub(crate) fn add_mapping<A: PageSource>(map: &MemMap, pages: &A, pfn: Pfn) {
    let page = map.page(pfn);
    if page.inc_map_count() {
        pages.count(pfn, mapped_item(page.flags()), 1);
    }
}

/// One entry fewer maps the frame. Linux: `page_remove_rmap`.
pub(crate) fn drop_mapping<A: PageSource>(map: &MemMap, pages: &A, pfn: Pfn) {
    let page = map.page(pfn);
    if page.dec_map_count() {
        pages.count(pfn, mapped_item(page.flags()), -1);
    }
}

/// What pages are counted as while a program maps them.
const fn mapped_item(flags: PageFlags) -> NodeItem {
    if flags.contains(PageFlags::ANON) {
        NodeItem::AnonPages
    } else {
        NodeItem::Mapped
    }
}

/// Fills an owned page with what a counted one holds. Linux: `copy_user_highpage`.
///
/// # Safety
/// The caller holds a reference of `from`, or it is the zero page.
pub(crate) unsafe fn copy_page<P: PhysMap>(phys: &P, from: Pfn, to: &mut PageBlock) {
    let copy = |source: kmm_host::PagePtr<'_>| {
        phys.with_page(to, 0, |mut dest| dest.copy_from(&source));
    };
    // SAFETY: the frame is RAM and stays, as a reference is held; the kernel only reads it, and `to` is another frame.
    unsafe { phys.with_pfn(from, copy) };
}

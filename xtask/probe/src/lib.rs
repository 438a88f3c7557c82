//! Pairs of functions that must compile to the same instructions: `ours_X` goes through the crates, `plain_X` is what one would
//! write by hand on a machine that maps all of its memory. `cargo xtask probe` builds this and compares.
#![no_std]
#![allow(clippy::missing_safety_doc, reason = "nobody calls these")]

use core::ptr::{
    NonNull, copy_nonoverlapping, with_exposed_provenance, with_exposed_provenance_mut, write_bytes,
};

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, Pfn};
use kmm_highmem::{clear_highpage, copy_highpage};
use kmm_host::{AllocError, DirectMap, PageBlock, PageReq, PageSource, PhysMap};
use kmm_layers::{BadFree, PageOwner};

fn address(map: &DirectMap, pfn: Pfn) -> usize {
    map.page_offset().as_usize() + (pfn.index() << PAGE_SHIFT)
}

#[unsafe(no_mangle)]
pub unsafe fn ours_clear(map: &DirectMap, pfn: Pfn) {
    // SAFETY: compiled, never called.
    unsafe { clear_highpage(map, pfn) }
}

#[unsafe(no_mangle)]
pub unsafe fn plain_clear(map: &DirectMap, pfn: Pfn) {
    // SAFETY: compiled, never called.
    unsafe {
        write_bytes(
            with_exposed_provenance_mut::<u8>(address(map, pfn)),
            0,
            PAGE_SIZE,
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe fn ours_copy(map: &DirectMap, to: Pfn, from: Pfn) {
    // SAFETY: compiled, never called.
    unsafe { copy_highpage(map, to, from) }
}

#[unsafe(no_mangle)]
pub unsafe fn plain_copy(map: &DirectMap, to: Pfn, from: Pfn) {
    let (from, to) = (address(map, from), address(map, to));
    // SAFETY: compiled, never called.
    unsafe {
        copy_nonoverlapping(
            with_exposed_provenance::<u8>(from),
            with_exposed_provenance_mut(to),
            PAGE_SIZE,
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe fn ours_load(map: &DirectMap, pfn: Pfn) -> u8 {
    // SAFETY: compiled, never called.
    unsafe { map.with_pfn(pfn, |page| page.bytes()[7]) }
}

#[unsafe(no_mangle)]
pub unsafe fn plain_load(map: &DirectMap, pfn: Pfn) -> u8 {
    // SAFETY: compiled, never called.
    unsafe { *with_exposed_provenance::<u8>(address(map, pfn) + 7) }
}

#[unsafe(no_mangle)]
pub unsafe fn ours_store(map: &DirectMap, pfn: Pfn, value: u8) {
    // SAFETY: compiled, never called.
    unsafe { map.with_pfn(pfn, |mut page| page.bytes_mut()[7] = value) }
}

#[unsafe(no_mangle)]
pub unsafe fn plain_store(map: &DirectMap, pfn: Pfn, value: u8) {
    // SAFETY: compiled, never called.
    unsafe { *with_exposed_provenance_mut::<u8>(address(map, pfn) + 7) = value }
}

/// A source whose work is done elsewhere.
pub struct Elsewhere;

unsafe extern "C" {
    fn elsewhere_alloc(order: u8, gfp: u32) -> usize;
    fn elsewhere_free(pfn: usize, order: u8);
}

// SAFETY: compiled, never called.
unsafe impl PageSource for Elsewhere {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        // SAFETY: compiled, never called.
        match unsafe { elsewhere_alloc(req.order.get(), req.gfp.bits()) } {
            0 => Err(AllocError::OutOfMemory),
            // SAFETY: compiled, never called.
            pfn => Ok(unsafe { PageBlock::from_raw(Pfn::new(pfn), req.order) }),
        }
    }

    fn free(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        // SAFETY: compiled, never called.
        unsafe { elsewhere_free(pfn.index(), order.get()) };
    }
}

/// Pages of which nobody keeps a record: what `Owners` costs when it is off.
type Unowned = PageOwner<Elsewhere, (), fn(BadFree)>;

#[unsafe(no_mangle)]
pub fn ours_alloc_unowned(pages: &Unowned, req: PageReq) -> Option<PageBlock> {
    pages.alloc(req).ok()
}

#[unsafe(no_mangle)]
pub fn plain_alloc_unowned(_pages: &Elsewhere, req: PageReq) -> Option<PageBlock> {
    Elsewhere.alloc(req).ok()
}

#[unsafe(no_mangle)]
pub fn ours_free_unowned(pages: &Unowned, block: PageBlock) {
    pages.free(block);
}

#[unsafe(no_mangle)]
pub fn plain_free_unowned(_pages: &Elsewhere, block: PageBlock) {
    Elsewhere.free(block);
}

/// A pair that differs, on purpose: the comparison has to see that.
#[unsafe(no_mangle)]
pub unsafe fn ours_differs(map: &DirectMap, pfn: Pfn) -> Option<NonNull<u8>> {
    map.direct(pfn)
}

#[unsafe(no_mangle)]
pub unsafe fn plain_differs(map: &DirectMap, pfn: Pfn) -> Option<NonNull<u8>> {
    NonNull::new(with_exposed_provenance_mut(address(map, pfn)))
}

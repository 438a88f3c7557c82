//! How to reach the bytes of a frame.
#![expect(unsafe_code, reason = "physical memory becomes pointers here")]

use core::marker::PhantomData;
use core::ptr::NonNull;

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, VirtAddr, ZoneType};

use crate::PageBlock;

/// The bytes of one frame, mapped for as long as `'a`.
///
/// Not `Send`: a temporary mapping belongs to the CPU that made it.
#[derive(Debug)]
pub struct PagePtr<'a> {
    bytes: NonNull<[u8; PAGE_SIZE]>,
    borrow: PhantomData<(&'a mut [u8; PAGE_SIZE], *mut ())>,
}

impl<'a> PagePtr<'a> {
    /// Wraps a pointer to a mapped frame.
    ///
    /// # Safety
    /// 1. `bytes` is valid for reads and writes of one page during `'a`, and page-aligned.
    /// 2. Nobody else reads or writes the page through a reference during `'a`.
    #[must_use]
    pub const unsafe fn new(bytes: NonNull<[u8; PAGE_SIZE]>) -> Self {
        Self {
            bytes,
            borrow: PhantomData,
        }
    }

    /// The first byte.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.bytes.cast()
    }

    /// Fills the page with zeros. Linux: `clear_page`.
    pub fn clear(&mut self) {
        // SAFETY: valid for writes of one page, by the contract of `new`.
        unsafe { self.bytes.as_ptr().write_bytes(0, 1) };
    }

    /// Copies a whole page. Linux: `copy_page`.
    pub fn copy_from(&mut self, from: &PagePtr<'_>) {
        // SAFETY: both are valid for a page; two `PagePtr` to one frame would break the contract of `new`.
        unsafe { self.bytes.copy_from_nonoverlapping(from.bytes, 1) };
    }

    /// The bytes, to read.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; PAGE_SIZE] {
        // SAFETY: valid and unaliased for `'a`, by the contract of `new`; any byte is a `u8`.
        unsafe { self.bytes.as_ref() }
    }

    /// The bytes, to write.
    #[must_use]
    pub const fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: valid and unaliased for `'a`, by the contract of `new`; any byte is a `u8`.
        unsafe { self.bytes.as_mut() }
    }
}

/// Reaches the bytes of frames. Linux: `page_address`, `kmap_local_page`, `__va`, `__pa`.
///
/// # Safety
/// Implementors guarantee that a pointer handed out for a frame reaches that frame and no other, is page-aligned, and
/// stays valid: for ever from [`PhysMap::direct`], during the closure from the others.
pub unsafe trait PhysMap {
    /// Whether a frame may lie outside the permanent map.
    const HIGHMEM: bool;
    /// The zone of frames outside the permanent map, or `Normal` where there are none. Linux: `OPT_ZONE_HIGHMEM`.
    const OPT_ZONE_HIGHMEM: ZoneType = if Self::HIGHMEM {
        ZoneType::HighMem
    } else {
        ZoneType::Normal
    };

    /// Where a linear permanent map shows frame 0, or would: every frame that [`PhysMap::direct`] shows is at this address
    /// plus its number of bytes, and [`PhysMap::virt_to_pfn`] is the way back. `None` when it is not as simple.
    fn linear_base(&self) -> Option<usize> {
        None
    }

    /// Where the permanent map shows `pfn`; `None` for frames outside it.
    fn direct(&self, pfn: Pfn) -> Option<NonNull<u8>>;

    /// The frame that the permanent map shows at `ptr`; `None` for any other address. Linux: `virt_to_page`.
    fn virt_to_pfn(&self, ptr: NonNull<u8>) -> Option<Pfn>;

    /// Calls `f` with the bytes of a frame.
    ///
    /// # Safety
    /// 1. The frame is RAM.
    /// 2. Nobody else touches its bytes while `f` runs, except user mode through its own mappings.
    unsafe fn with_pfn<R>(&self, pfn: Pfn, f: impl FnOnce(PagePtr<'_>) -> R) -> R;

    /// Calls `f` with the bytes of page `nr` of an owned block. Linux: `kmap_local_page`, `kunmap_local`.
    ///
    /// # Panics
    /// When `nr` lies outside the block.
    fn with_page<R>(
        &self,
        block: &mut PageBlock,
        nr: usize,
        f: impl FnOnce(PagePtr<'_>) -> R,
    ) -> R {
        assert!(
            nr < block.order().nr_pages(),
            "page {nr} of a block of {}",
            block.order().nr_pages()
        );
        // SAFETY: a block owns its frames, and it is borrowed exclusively.
        unsafe { self.with_pfn(block.pfn() + nr, f) }
    }

    /// Fills an owned block with zeros. Linux: `clear_highpage`.
    fn clear(&self, block: &mut PageBlock) {
        for nr in 0..block.order().nr_pages() {
            self.with_page(block, nr, |mut page| page.clear());
        }
    }
}

// SAFETY: every call goes to the map behind the reference.
unsafe impl<P: PhysMap + ?Sized> PhysMap for &P {
    const HIGHMEM: bool = P::HIGHMEM;

    fn linear_base(&self) -> Option<usize> {
        (**self).linear_base()
    }

    fn direct(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        (**self).direct(pfn)
    }

    fn virt_to_pfn(&self, ptr: NonNull<u8>) -> Option<Pfn> {
        (**self).virt_to_pfn(ptr)
    }

    unsafe fn with_pfn<R>(&self, pfn: Pfn, f: impl FnOnce(PagePtr<'_>) -> R) -> R {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).with_pfn(pfn, f) }
    }
}

/// All frames mapped permanently at one offset, as on x86-64. Reaching a frame is one shift and one add.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap {
    page_offset: VirtAddr,
    end: Pfn,
}

const _: () = assert!(!DirectMap::HIGHMEM && !core::mem::needs_drop::<DirectMap>());

impl DirectMap {
    /// Frames `0..end` are mapped at `page_offset`; none beyond the end of the address space, whatever `end` says.
    ///
    /// # Safety
    /// 1. Every RAM frame below `end` is mapped, readable and writable, at `page_offset` plus its physical address,
    ///    from now on.
    /// 2. `page_offset` is page-aligned and not 0.
    #[must_use]
    pub const unsafe fn new(page_offset: VirtAddr, end: Pfn) -> Self {
        let last = VirtAddr::new(u64::MAX - page_offset.as_u64()).as_usize() >> PAGE_SHIFT;
        let end = if end.index() > last {
            Pfn::new(last + 1)
        } else {
            end
        };
        Self { page_offset, end }
    }

    /// Where the map starts. Linux: `PAGE_OFFSET`.
    #[must_use]
    pub const fn page_offset(&self) -> VirtAddr {
        self.page_offset
    }

    /// The address of a physical address. Beyond the end of the address space it wraps: there is no frame. Linux: `__va`.
    #[must_use]
    pub const fn virt(&self, phys: PhysAddr) -> VirtAddr {
        VirtAddr::new(self.page_offset.as_u64().wrapping_add(phys.as_u64()))
    }

    /// The physical address of an address in the map; `None` for any other. Linux: `__pa`.
    #[must_use]
    pub const fn phys(&self, virt: VirtAddr) -> Option<PhysAddr> {
        match virt.as_u64().checked_sub(self.page_offset.as_u64()) {
            Some(phys) if phys >> PAGE_SHIFT < self.end.index() as u64 => Some(PhysAddr::new(phys)),
            _ => None,
        }
    }
}

// SAFETY: pointers are `page_offset + phys`, which reaches the frame by the contract of `new`.
unsafe impl PhysMap for DirectMap {
    const HIGHMEM: bool = false;

    fn linear_base(&self) -> Option<usize> {
        Some(self.page_offset.as_usize())
    }

    fn direct(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        if pfn >= self.end {
            return None;
        }
        let address = self.virt(pfn.phys()).as_usize();
        NonNull::new(core::ptr::with_exposed_provenance_mut(address))
    }

    fn virt_to_pfn(&self, ptr: NonNull<u8>) -> Option<Pfn> {
        self.phys(VirtAddr::new(ptr.addr().get() as u64))
            .map(PhysAddr::pfn)
    }

    unsafe fn with_pfn<R>(&self, pfn: Pfn, f: impl FnOnce(PagePtr<'_>) -> R) -> R {
        let address = self.virt(pfn.phys()).as_usize();
        let bytes = core::ptr::with_exposed_provenance_mut(address);
        // SAFETY: `page_offset` is not 0, so no address of the map is (obligation 2 of `new`).
        let bytes = unsafe { NonNull::new_unchecked(bytes) };
        // SAFETY: mapped by obligation 1 of `new`; unaliased by the obligations of this function.
        f(unsafe { PagePtr::new(bytes) })
    }
}

//! Addresses that are known when the kernel is compiled, one page each. Linux: `fix_to_virt`, asm-generic/fixmap.h.
//!
//! They count downwards from the top, so that a kernel with fewer of them reserves less. What is mapped there may
//! change; the address never does, so it is a constant in the code that uses it.

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

/// A range of fixed addresses below `top`.
///
/// ```
/// use kmm_frame::VirtAddr;
/// use kmm_highmem::Fixmap;
///
/// const FIXMAP: Fixmap = Fixmap::new(VirtAddr::new(0xffff_ffff_ff7f_f000), 64);
/// const LAPIC: VirtAddr = FIXMAP.virt(3);
/// assert_eq!(LAPIC.as_u64(), 0xffff_ffff_ff7f_c000);
/// assert_eq!(FIXMAP.index(LAPIC), Some(3));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixmap {
    top: VirtAddr,
    nr_slots: usize,
}

impl Fixmap {
    /// `nr_slots` pages, the highest of them at `top`.
    ///
    /// # Panics
    /// When `top` is not page-aligned, or there is not that much room below it. In a constant, that is an error of
    /// compilation.
    #[must_use]
    pub const fn new(top: VirtAddr, nr_slots: usize) -> Self {
        assert!(top.is_page_aligned(), "the top must be page-aligned");
        assert!(
            (nr_slots as u64) <= top.page_number(),
            "no room for so many slots"
        );
        Self { top, nr_slots }
    }

    /// The address of a slot. Linux: `fix_to_virt`.
    ///
    /// # Panics
    /// When there is no such slot. In a constant, that is an error of compilation.
    #[must_use]
    pub const fn virt(self, index: usize) -> VirtAddr {
        assert!(index < self.nr_slots, "no such slot");
        VirtAddr::new(self.top.as_u64() - ((index as u64) << PAGE_SHIFT))
    }

    /// The slot that holds an address; `None` for addresses outside. Linux: `virt_to_fix`.
    #[must_use]
    pub const fn index(self, virt: VirtAddr) -> Option<usize> {
        let page = virt.align_down(PAGE_SIZE as u64).as_u64();
        if page > self.top.as_u64() {
            return None;
        }
        let index = (self.top.as_u64() - page) >> PAGE_SHIFT;
        if index < self.nr_slots as u64 {
            Some(VirtAddr::new(index).as_usize())
        } else {
            None
        }
    }
}

//! The machine's permanent map.
#![expect(unsafe_code, reason = "implements PhysMap")]

use core::ptr::NonNull;

use kmm_frame::Pfn;
use kmm_host::{PagePtr, PhysMap};

use crate::machine::Inner;

/// Reaches the bytes of frames: the second implementation of [`PhysMap`] beside a kernel's direct map.
///
/// With `HIGHMEM`, frames from [`crate::Config::low_frames`] on are reached only through
/// [`PhysMap::with_page`], as on a 32-bit machine.
#[derive(Clone, Copy, Debug)]
pub struct SimPhys<const HIGHMEM: bool = false> {
    machine: &'static Inner,
}

impl<const HIGHMEM: bool> SimPhys<HIGHMEM> {
    pub(crate) const fn new(machine: &'static Inner) -> Self {
        Self { machine }
    }

    fn is_mapped(&self, pfn: Pfn) -> bool {
        !HIGHMEM || pfn < self.machine.low_frames
    }
}

// SAFETY: pointers reach the frame's own page of the machine's RAM, which lives for ever.
unsafe impl<const HIGHMEM: bool> PhysMap for SimPhys<HIGHMEM> {
    const HIGHMEM: bool = HIGHMEM;

    fn linear_base(&self) -> Option<usize> {
        (!HIGHMEM).then(|| self.machine.ram.base())
    }

    fn direct(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        self.machine.ram.frame(pfn).filter(|_| self.is_mapped(pfn))
    }

    fn virt_to_pfn(&self, ptr: NonNull<u8>) -> Option<Pfn> {
        self.machine.ram.pfn(ptr).filter(|pfn| self.is_mapped(*pfn))
    }

    unsafe fn with_pfn<R>(&self, pfn: Pfn, f: impl FnOnce(PagePtr<'_>) -> R) -> R {
        assert!(
            !self.machine.tables.contains(pfn),
            "page table {pfn} used as an ordinary page"
        );
        let frame = self.machine.ram.frame(pfn);
        let frame = frame.unwrap_or_else(|| panic!("frame {pfn} is no RAM"));
        // SAFETY: a page of memory that lives for ever; unaliased by obligation 2 of this function.
        f(unsafe { PagePtr::new(frame.cast()) })
    }
}

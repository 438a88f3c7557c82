//! Where every frame of memory went.

use core::fmt;

use super::{Memblock, Reserved, frames_inside};
use crate::PfnRange;
use crate::size::PAGE_SIZE;

/// Each frame of memory, counted under what holds it: the free ones and the reserved ones add up to the whole.
///
/// Its `Display` is one line, as for the boot log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accounting {
    nr_pages: usize,
    nr_reserved: [usize; Reserved::COUNT],
}

impl Accounting {
    pub(super) fn of<const N: usize>(block: &Memblock<N>) -> Self {
        let mut nr_reserved = [0; Reserved::COUNT];
        for span in block.reserved.as_slice() {
            let held = frames_inside(span);
            nr_reserved[span.kind.index()] += block
                .memory_frames()
                .map(|memory| memory.intersect(held).nr_pages())
                .sum::<usize>();
        }
        Self {
            nr_pages: block.memory_frames().map(PfnRange::nr_pages).sum(),
            nr_reserved,
        }
    }

    /// Frames of memory in all.
    #[must_use]
    pub const fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    /// Frames of memory that are reserved for this reason.
    #[must_use]
    pub const fn nr_reserved(&self, kind: Reserved) -> usize {
        self.nr_reserved[kind.index()]
    }

    /// Frames that nobody holds.
    #[must_use]
    pub fn nr_free(&self) -> usize {
        self.nr_pages - self.nr_reserved.iter().sum::<usize>()
    }

    /// Frames that hold the same thing for ever: code and static data of the kernel.
    #[must_use]
    pub const fn nr_static(&self) -> usize {
        self.nr_reserved(Reserved::KernelImage)
    }

    /// Frames that come and go: free ones, boot allocations, and what is given back after boot.
    #[must_use]
    pub fn nr_dynamic(&self) -> usize {
        self.nr_free()
            + self.nr_reserved(Reserved::BootAllocation)
            + self.nr_reserved(Reserved::Module)
            + self.nr_reserved(Reserved::Bootloader)
            + self.nr_reserved(Reserved::AcpiReclaimable)
    }
}

impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |nr_pages: usize| nr_pages * (PAGE_SIZE / 1024);
        write!(f, "memory {}K =", kib(self.nr_pages))?;
        for kind in [
            Reserved::KernelImage,
            Reserved::BootAllocation,
            Reserved::Module,
            Reserved::Bootloader,
            Reserved::FirstMegabyte,
            Reserved::AcpiReclaimable,
            Reserved::AcpiNvs,
            Reserved::Firmware,
        ] {
            let always = matches!(
                kind,
                Reserved::KernelImage | Reserved::BootAllocation | Reserved::Firmware
            );
            if always || self.nr_reserved(kind) > 0 {
                write!(f, " {} {}K |", kind.name(), kib(self.nr_reserved(kind)))?;
            }
        }
        write!(f, " free {}K", kib(self.nr_free()))
    }
}

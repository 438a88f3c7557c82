//! An address space: areas, tables and counters together. Linux: `mm_struct` as processes use it.
//!
//! Areas are edited first, which can be refused; then tables follow, which cannot. Frames are given back after the
//! flush. Private `tables` has the second half.

use core::fmt;
use core::ops::Range;

use kmm_fault::{FaultCause, FaultError, FaultKind, FileSource, Usage};
use kmm_frame::{Pfn, VirtAddr};
use kmm_host::Host;
use kmm_pagetable_walker::{Leaf, Root, Span, TableCounter};
use kmm_vma::{Limits, Mm, MmLayout, MmapReq, Prot, RemapReq, VmFlags, Vma};

use crate::tables::Tables;
use crate::{Manager, MmError};

/// The address space of a process.
///
/// Dropping it gives everything back; no CPU may run on it then. Linux: `mmput`.
pub struct AddressSpace<H: Host, F: FileSource> {
    mm: Mm<F>,
    tables: Tables<H>,
}

/// What an address space takes. Linux: /proc/PID/statm, /proc/PID/status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmStat {
    /// Pages of all areas.
    pub total_vm_pages: u64,
    /// Pages of locked areas.
    pub locked_vm_pages: u64,
    /// Pages in memory, and how they came there.
    pub usage: Usage,
    /// Page tables, the top one included.
    pub nr_tables: usize,
    /// Areas.
    pub map_count: usize,
}

impl<H: Host, F: FileSource> AddressSpace<H, F> {
    /// An empty address space with the kernel above it.
    ///
    /// # Errors
    /// [`MmError::Alloc`].
    pub fn new(manager: &'static Manager<H>) -> Result<Self, MmError> {
        Self::with_layout(manager, MmLayout::default(), Limits::default())
    }

    /// As [`AddressSpace::new`], with another layout and other limits.
    ///
    /// # Errors
    /// [`MmError::Alloc`].
    pub fn with_layout(
        manager: &'static Manager<H>,
        layout: MmLayout,
        limits: Limits,
    ) -> Result<Self, MmError> {
        Self::with_mm(manager, Mm::new(layout, limits))
    }

    fn with_mm(manager: &'static Manager<H>, mm: Mm<F>) -> Result<Self, MmError> {
        let tables = Tables::new(manager)?;
        Ok(Self { mm, tables })
    }

    /// The frame of the top table, for CR3.
    #[must_use]
    pub const fn root(&self) -> Pfn {
        self.tables.root().pfn()
    }

    /// The manager that it belongs to.
    #[must_use]
    pub const fn manager(&self) -> &'static Manager<H> {
        self.tables.manager()
    }

    /// Its areas and limits.
    #[must_use]
    pub const fn mm(&self) -> &Mm<F> {
        &self.mm
    }

    /// Changes the limits; what is there stays. Linux: `setrlimit(2)`.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.mm.set_limits(limits);
    }

    /// Every area, upwards.
    pub fn vmas(&self) -> impl Iterator<Item = (Range<VirtAddr>, &Vma<F>)> {
        self.mm.iter()
    }

    /// What it takes.
    #[must_use]
    pub fn stat(&self) -> MmStat {
        MmStat {
            total_vm_pages: self.mm.total_vm_pages(),
            locked_vm_pages: self.mm.locked_vm_pages(),
            usage: self.tables.usage(),
            nr_tables: self.tables.counter().nr_tables(),
            map_count: self.mm.map_count(),
        }
    }

    /// Serves a page fault. Linux: `handle_mm_fault`.
    ///
    /// # Errors
    /// [`FaultError`]; the address space is as it was.
    pub fn fault(&mut self, addr: VirtAddr, cause: FaultCause) -> Result<FaultKind, FaultError> {
        let result = self.tables.fault(&mut self.mm, addr, cause);
        self.manager().count_fault(result);
        result
    }

    /// Maps. Linux: `mmap(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn mmap(&mut self, req: MmapReq<F>) -> Result<VirtAddr, MmError> {
        let mapped = self.mm.mmap(req)?;
        if mapped.replaced {
            self.tables.unmap(mapped.range.clone());
        }
        Ok(mapped.range.start)
    }

    /// Unmaps. Linux: `munmap(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn munmap(&mut self, addr: VirtAddr, len_bytes: u64) -> Result<(), MmError> {
        let range = self.mm.munmap(addr, len_bytes)?;
        self.tables.unmap(range);
        Ok(())
    }

    /// Changes access. Linux: `mprotect(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn mprotect(&mut self, addr: VirtAddr, len_bytes: u64, prot: Prot) -> Result<(), MmError> {
        let range = self.mm.mprotect(addr, len_bytes, prot)?.range;
        if range.is_empty() {
            return Ok(());
        }
        self.tables.restrict(range, VmFlags::from(prot))
    }

    /// Resizes or moves. Linux: `mremap(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn mremap(&mut self, req: &RemapReq) -> Result<VirtAddr, MmError> {
        if let Some(target) = self.mm.remap_target(req)? {
            let from = req.old_addr..req.old_addr + (target.end - target.start);
            self.tables.prepare(from, target.start)?;
        }
        let remap = self.mm.mremap(req)?;
        for range in remap.dropped.into_iter().flatten() {
            // Where pages are about to arrive, the tables stay.
            if remap.moved_from.is_some() && range == remap.range {
                self.tables.clear(range);
            } else {
                self.tables.unmap(range);
            }
        }
        if let Some(from) = remap.moved_from {
            self.tables.move_entries(from, remap.range.start);
        }
        Ok(remap.range.start)
    }

    /// Sets where the heap starts. For the program loader.
    pub const fn set_brk_start(&mut self, start: VirtAddr) {
        self.mm.set_brk_start(start);
    }

    /// Moves the end of the heap; the end that holds now, which is the old one on failure. Linux: `brk(2)`.
    pub fn brk(&mut self, new: VirtAddr) -> VirtAddr {
        let (end, dropped) = self.mm.brk(new);
        if let Some(range) = dropped {
            self.tables.unmap(range);
        }
        end
    }

    /// Drops the pages of a range and keeps the areas: the next access finds zeros, or the file. Linux:
    /// `madvise(MADV_DONTNEED)`.
    ///
    /// # Errors
    /// `EINVAL` for an unaligned address, `ENOMEM` for a hole.
    pub fn discard(&mut self, addr: VirtAddr, len_bytes: u64) -> Result<(), MmError> {
        let range = self.mm.mapped_range(addr, len_bytes)?;
        self.tables.unmap(range);
        Ok(())
    }

    /// A child with the same contents; private pages are shared until one of the two writes. Linux: `dup_mm`.
    ///
    /// # Errors
    /// [`MmError`]; pages that were writable may have to fault once more.
    pub fn fork(&mut self) -> Result<Self, MmError> {
        let mut child = Self::with_mm(self.manager(), self.mm.fork()?)?;
        self.tables.copy_to(&self.mm, &mut child.tables)?;
        Ok(child)
    }

    /// The frame that holds `addr`, if one is mapped there now.
    #[must_use]
    pub fn translate(&self, addr: VirtAddr) -> Option<Leaf> {
        self.tables.translate(addr)
    }

    /// Tells every entry and hole of a range. Linux: `walk_page_range`.
    pub fn for_each(&self, range: Range<VirtAddr>, f: impl FnMut(Span)) {
        self.tables.for_each(range, f);
    }

    /// The counter of its tables.
    #[must_use]
    pub const fn tables(&self) -> &TableCounter {
        self.tables.counter()
    }

    /// The top table, for those who walk it themselves.
    pub const fn root_table(&self) -> &Root {
        self.tables.root()
    }

    /// Checks the areas.
    ///
    /// # Panics
    /// When one of their rules is broken.
    pub fn validate(&self) {
        self.mm.validate();
    }
}

impl<H: Host, F: FileSource> fmt::Debug for AddressSpace<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("root", &self.root())
            .field("stat", &self.stat())
            .finish_non_exhaustive()
    }
}

//! An address space: areas, tables and counters together. Linux: `mm_struct` as processes use it.
//!
//! Areas are edited first, which can be refused; then tables follow, which cannot. Frames are given back after the
//! flush that [`MmuGather`] makes.
#![expect(
    unsafe_code,
    reason = "references that entries held are given back after the flush"
)]

use core::fmt;
use core::ops::{ControlFlow, Range};

use kmm_fault::{
    FaultCause, FaultEnv, FaultError, FaultKind, FileSource, Sharing, Space, Usage, forget, handle,
    put_page, restrict, share,
};
use kmm_frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm_host::{Host, PageSource, PteStore, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Leaf, MapError, MmuGather, Pte, Root, Span, TableCounter};
use kmm_vma::{Limits, Mm, MmLayout, MmapReq, Prot, RemapReq, VmFlags, Vma};

use crate::{Manager, MmError, Pages};

/// References kept until the translations through which they were used are flushed.
const BATCH: usize = 64;

/// The address space of a process.
///
/// Dropping it gives everything back; no CPU may run on it then. Linux: `mmput`.
pub struct AddressSpace<H: Host, F: FileSource> {
    manager: &'static Manager<H>,
    mm: Mm<F>,
    root: Option<Root>,
    tables: TableCounter,
    usage: Usage,
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
        let tables = TableCounter::new();
        let root = manager
            .mapper(&tables)
            .alloc_user_root(manager.kernel_half())
            .map_err(map_error)?;
        Ok(Self {
            manager,
            mm,
            root: Some(root),
            tables,
            usage: Usage::default(),
        })
    }

    /// The frame of the top table, for CR3.
    ///
    /// # Panics
    /// Never: the table is there until the address space is dropped.
    #[must_use]
    pub fn root(&self) -> Pfn {
        match &self.root {
            Some(root) => root.pfn(),
            None => unreachable!("the top table lives as long as the address space"),
        }
    }

    /// The manager that it belongs to.
    #[must_use]
    pub const fn manager(&self) -> &'static Manager<H> {
        self.manager
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
            usage: self.usage,
            nr_tables: self.tables.nr_tables(),
            map_count: self.mm.map_count(),
        }
    }

    /// Serves a page fault. Linux: `handle_mm_fault`.
    ///
    /// # Errors
    /// [`FaultError`]; the address space is as it was.
    pub fn fault(&mut self, addr: VirtAddr, cause: FaultCause) -> Result<FaultKind, FaultError> {
        let Self {
            manager,
            mm,
            root,
            tables,
            usage,
        } = self;
        let Some(root) = root else {
            return Err(FaultError::Corrupt);
        };
        let env = FaultEnv {
            mapper: manager.mapper(tables),
            pages: manager.pages(),
            phys: manager.host().phys(),
            tlb: manager.host().tlb(),
            zero_page: manager.zero_page(),
        };
        let result = handle(&env, &mut Space { mm, root, usage }, addr, cause);
        manager.count_fault(result);
        result
    }

    /// Maps. Linux: `mmap(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn mmap(&mut self, req: MmapReq<F>) -> Result<VirtAddr, MmError> {
        let mapped = self.mm.mmap(req)?;
        if mapped.replaced {
            self.unmap_pages(mapped.range.clone());
        }
        Ok(mapped.range.start)
    }

    /// Unmaps. Linux: `munmap(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn munmap(&mut self, addr: VirtAddr, len_bytes: u64) -> Result<(), MmError> {
        let range = self.mm.munmap(addr, len_bytes)?;
        self.unmap_pages(range);
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
        let Self {
            manager,
            root: Some(root),
            tables,
            ..
        } = self
        else {
            return Err(MmError::Corrupt);
        };
        let mapper = manager.mapper(tables);
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(target, manager.host().tlb());
        // Rights are taken away at once and given back by the next fault, which knows whether a page is shared.
        let vm_flags = VmFlags::from(prot);
        mapper
            .protect_range(root, range, &mut gather, |leaf| restrict(leaf, vm_flags))
            .map_err(map_error)?;
        gather.finish();
        Ok(())
    }

    /// Resizes or moves. Linux: `mremap(2)`.
    ///
    /// # Errors
    /// [`MmError`].
    pub fn mremap(&mut self, req: &RemapReq) -> Result<VirtAddr, MmError> {
        if let Some(target) = self.mm.remap_target(req)? {
            self.prepare_tables(target)?;
        }
        let remap = self.mm.mremap(req)?;
        for range in remap.dropped.into_iter().flatten() {
            // Where pages are about to arrive, the tables stay.
            if remap.moved_from.is_some() && range == remap.range {
                self.clear_entries(range);
            } else {
                self.unmap_pages(range);
            }
        }
        if let Some(from) = remap.moved_from {
            self.move_pages(from, remap.range.start);
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
            self.unmap_pages(range);
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
        self.unmap_pages(range);
        Ok(())
    }

    /// A child with the same contents; private pages are shared until one of the two writes. Linux: `dup_mm`.
    ///
    /// # Errors
    /// [`MmError`]; pages that were writable may have to fault once more.
    pub fn fork(&mut self) -> Result<Self, MmError> {
        let mut child = Self::with_mm(self.manager, self.mm.fork()?)?;
        let Self {
            manager,
            mm,
            root: Some(root),
            tables,
            ..
        } = self
        else {
            return Err(MmError::Corrupt);
        };
        let Self {
            root: Some(child_root),
            tables: child_tables,
            usage: child_usage,
            ..
        } = &mut child
        else {
            return Err(MmError::Corrupt);
        };
        let mapper = manager.mapper(child_tables);
        let map = manager.mem_map();
        let zero_page = manager.zero_page();
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = manager.mapper(tables).gather(target, manager.host().tlb());
        for (range, vma) in mm.iter() {
            if vma.flags.contains(VmFlags::DONTCOPY) {
                continue;
            }
            let sharing = if vma.is_private() {
                Sharing::CopyOnWrite
            } else {
                Sharing::Shared
            };
            let copied =
                mapper.copy_user_range(root, child_root, range, &mut gather, |leaf, parent| {
                    share(&map, zero_page, sharing, leaf, parent, child_usage)
                });
            if let Err(error) = copied {
                // What was copied so far goes with the child.
                gather.finish();
                return Err(map_error(error));
            }
        }
        gather.finish();
        Ok(child)
    }

    /// The frame that holds `addr`, if one is mapped there now.
    #[must_use]
    pub fn translate(&self, addr: VirtAddr) -> Option<Leaf> {
        let root = self.root.as_ref()?;
        self.manager.mapper(&self.tables).walk(root, addr).leaf()
    }

    /// Tells every entry and hole of a range. Linux: `walk_page_range`.
    pub fn for_each(&self, range: Range<VirtAddr>, f: impl FnMut(Span)) {
        if let Some(root) = &self.root {
            // A range that is no range has no entries.
            let _ = self.manager.mapper(&self.tables).for_each(root, range, f);
        }
    }

    /// The counter of its tables.
    #[must_use]
    pub const fn tables(&self) -> &TableCounter {
        &self.tables
    }

    /// The top table, for those who walk it themselves.
    #[must_use]
    pub const fn root_table(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// Checks the areas.
    ///
    /// # Panics
    /// When one of their rules is broken.
    pub fn validate(&self) {
        self.mm.validate();
    }

    /// Drops the translations of a range and the references that they held.
    fn unmap_pages(&mut self, range: Range<VirtAddr>) {
        let Self {
            manager,
            root: Some(root),
            tables,
            usage,
            ..
        } = self
        else {
            return;
        };
        let mapper = manager.mapper(tables);
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(target, manager.host().tlb());
        let mut puts = Puts::new(manager, usage);
        let unmapped = mapper.unmap_range(root, range, &mut gather, |leaf, gather| {
            puts.add(leaf, gather);
        });
        debug_assert!(
            unmapped.is_ok(),
            "unmapping base pages cannot fail: {unmapped:?}"
        );
        gather.finish();
        puts.give_back();
    }

    /// As `unmap_pages`, but keeps the tables.
    fn clear_entries(&mut self, range: Range<VirtAddr>) {
        let Self {
            manager,
            root: Some(root),
            tables,
            usage,
            ..
        } = self
        else {
            return;
        };
        let mapper = manager.mapper(tables);
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(target, manager.host().tlb());
        let mut puts = Puts::new(manager, usage);
        let mut at = range.start;
        while let Ok(ControlFlow::Break(leaf)) =
            mapper.try_for_each(root, at..range.end, |span| match span {
                Span::Mapped(leaf) | Span::NotPresent(leaf) => ControlFlow::Break(leaf),
                Span::Hole(_) => ControlFlow::Continue(()),
            })
        {
            if let Some(mut slot) = mapper.find_slot(root, leaf.va) {
                slot.set(Pte::NONE);
            }
            gather.track(leaf);
            puts.add(leaf, &mut gather);
            at = leaf.range().end;
        }
        gather.finish();
        puts.give_back();
    }

    /// Makes the tables for a range, so that entries can be moved there without failing.
    fn prepare_tables(&mut self, range: Range<VirtAddr>) -> Result<(), MmError> {
        let Self {
            manager,
            root: Some(root),
            tables,
            ..
        } = self
        else {
            return Err(MmError::Corrupt);
        };
        let mapper = manager.mapper(tables);
        let table_bytes = PAGE_SIZE as u64 * 512;
        let mut at = range.start.align_down(table_bytes);
        while at < range.end {
            mapper
                .leaf_slot(root, at.max(range.start))
                .map_err(map_error)?;
            at += table_bytes;
        }
        Ok(())
    }

    /// Moves entries; the tables at the target are there. Linux: `move_page_tables`.
    fn move_pages(&mut self, from: Range<VirtAddr>, to: VirtAddr) {
        let Self {
            manager,
            root: Some(root),
            tables,
            ..
        } = self
        else {
            return;
        };
        let mapper = manager.mapper(tables);
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(target, manager.host().tlb());
        let mut at = from.start;
        while at < from.end {
            let entry = mapper
                .find_slot(root, at)
                .map_or(Pte::NONE, |mut slot| slot.set(Pte::NONE));
            if !entry.is_none() {
                gather.track_range(at..at + PAGE_SIZE as u64);
                match mapper.find_slot(root, to + (at - from.start)) {
                    Some(mut slot) => _ = slot.set(entry),
                    None => unreachable!("the tables at the target were made before"),
                }
            }
            at += PAGE_SIZE as u64;
        }
        // What is left of the tables there is empty.
        let emptied = mapper.unmap_range(root, from, &mut gather, |_, _| {});
        debug_assert!(emptied.is_ok(), "nothing was left to split");
        gather.finish();
    }
}

impl<H: Host, F: FileSource> Drop for AddressSpace<H, F> {
    fn drop(&mut self) {
        let Some(mut root) = self.root.take() else {
            return;
        };
        let mapper = self.manager.mapper(&self.tables);
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = mapper.gather(target, self.manager.host().tlb());
        let mut puts = Puts::new(self.manager, &mut self.usage);
        mapper.free_user_tables(&mut root, &mut gather, |leaf, gather| {
            puts.add(leaf, gather)
        });
        gather.flush();
        puts.give_back();
        mapper.free_root(root, &mut gather);
        gather.finish();
    }
}

impl<H: Host, F: FileSource> fmt::Debug for AddressSpace<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("root", &self.root)
            .field("stat", &self.stat())
            .finish_non_exhaustive()
    }
}

/// References of entries that are gone but not flushed.
struct Puts<'a, H: Host> {
    manager: &'static Manager<H>,
    usage: &'a mut Usage,
    pfns: [Pfn; BATCH],
    nr_pfns: usize,
}

impl<'a, H: Host> Puts<'a, H> {
    const fn new(manager: &'static Manager<H>, usage: &'a mut Usage) -> Self {
        Self {
            manager,
            usage,
            pfns: [Pfn::ZERO; BATCH],
            nr_pfns: 0,
        }
    }

    /// An entry was cleared: its page is mapped once less, and loses its reference after the next flush.
    fn add<S: PteStore, A: PageSource, T: TlbControl>(
        &mut self,
        leaf: Leaf,
        gather: &mut MmuGather<'_, S, A, T>,
    ) {
        if self.nr_pfns == BATCH {
            gather.flush();
            self.give_back();
        }
        let map = self.manager.mem_map();
        if let Some(pfn) = forget(&map, self.manager.zero_page(), leaf, self.usage) {
            self.pfns[self.nr_pfns] = pfn;
            self.nr_pfns += 1;
        }
    }

    /// After a flush.
    fn give_back(&mut self) {
        let map = self.manager.mem_map();
        for &pfn in &self.pfns[..self.nr_pfns] {
            // SAFETY: the reference of an entry that was cleared; its translation was flushed.
            unsafe { put_page::<Pages<H>>(&map, self.manager.pages(), pfn) };
        }
        self.nr_pfns = 0;
    }
}

const fn map_error(error: MapError) -> MmError {
    match error {
        MapError::Alloc(error) => MmError::Alloc(error),
        _ => MmError::Corrupt,
    }
}

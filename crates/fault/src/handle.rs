//! The actions: what [`decide`](crate::decide) says is done to tables and frames. Linux: mm/memory.c.
//!
//! An action first takes what it needs (the page, the page of the file, missing tables), then changes one entry. So it
//! fails before it changed anything.
#![expect(
    unsafe_code,
    reason = "references that entries held are given back here"
)]

use core::fmt;

use kmm_frame::{Gfp, MemMap, PAGE_SIZE, PageFlags, Pfn, VirtAddr};
use kmm_host::{PageBlock, PageReq, PageSource, PhysMap, PteStore, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Mapper, Pte, PteFlags, PteSlot, Root};
use kmm_vma::{Mm, VmFlags, Vma};

use crate::refs::{copy_page, into_mapped, put_page};
use crate::{
    Access, Area, Decision, FaultCause, FaultError, FaultKind, FileError, FilePage, FileSource,
    PteState, SegvCode, Usage, decide,
};

/// What every fault of a machine needs.
pub struct FaultEnv<'a, S, A, P, T> {
    /// Changes the tables of the address space.
    pub mapper: Mapper<'a, S, A>,
    /// Where pages come from.
    pub pages: &'a A,
    /// Reaches their bytes.
    pub phys: &'a P,
    /// Drops translations.
    pub tlb: &'a T,
    /// The page of zeros that all share, never written, never counted.
    pub zero_page: Pfn,
}

impl<S, A, P, T> fmt::Debug for FaultEnv<'_, S, A, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultEnv")
            .field("zero_page", &self.zero_page)
            .finish_non_exhaustive()
    }
}

/// The address space that a fault concerns.
#[derive(Debug)]
pub struct Space<'a, F> {
    /// Its areas.
    pub mm: &'a mut Mm<F>,
    /// Its tables.
    pub root: &'a mut Root,
    /// Its counters.
    pub usage: &'a mut Usage,
}

/// Serves a page fault at `addr`. Linux: `handle_mm_fault`.
///
/// # Context
/// May sleep in the page source and the file, when these may. The address space is held exclusively.
///
/// # Errors
/// [`FaultError`]; the address space is as it was, apart from a stack that has grown and tables that are empty.
pub fn handle<S, A, P, T, F>(
    env: &FaultEnv<'_, S, A, P, T>,
    space: &mut Space<'_, F>,
    addr: VirtAddr,
    cause: FaultCause,
) -> Result<FaultKind, FaultError>
where
    S: PteStore,
    A: PageSource,
    P: PhysMap,
    T: TlbControl,
    F: FileSource,
{
    let page = addr.align_down(PAGE_SIZE as u64);
    if matches!(area_of(space.mm, page), (Area::BelowStack, _)) {
        let grown = space.mm.expand_stack(page);
        grown.map_err(|_| FaultError::Segv(SegvCode::MapErr))?;
    }
    let (area, vma) = area_of(space.mm, page);
    let old = env
        .mapper
        .find_slot(space.root, page)
        .map_or(Pte::NONE, |slot| slot.get());
    let decision = decide(cause, area, state_of(old));
    let mut fault = Fault {
        env,
        map: env.mapper.mem_map(),
        root: space.root,
        usage: space.usage,
        page,
        cause,
        old,
    };
    let (flags, file) = match vma {
        Some((start, vma)) => {
            let pgoff = vma.pgoff_at(page - start);
            (vma.flags, vma.file.as_ref().map(|file| (file, pgoff)))
        }
        None => (VmFlags::empty(), None),
    };
    let kind = match (decision, file) {
        (Decision::Spurious, _) => fault.flush_spurious(),
        (Decision::ZeroPage, _) => fault.map_zero_page(flags),
        (Decision::Anonymous, _) => fault.map_anonymous(flags),
        (Decision::FileRead, Some(file)) => fault.map_file(flags, file, Access::Read),
        (Decision::FileShared, Some(file)) => fault.map_file(flags, file, Access::Write),
        (Decision::FileCopy, Some(file)) => fault.copy_file(flags, file),
        (Decision::CopyOnWrite, _) => fault.copy_on_write(flags),
        (Decision::MakeWritable, _) => fault.allow(PteFlags::RW | PteFlags::D, PteFlags::empty()),
        (Decision::MakeExecutable, _) => fault.allow(PteFlags::empty(), PteFlags::NX),
        (Decision::Segv(code), _) => Err(FaultError::Segv(code)),
        (Decision::GrowStack, _) => Err(FaultError::Segv(SegvCode::MapErr)),
        // No area, no file or no swap entry where there must be one: not of this crate's making.
        _ => Err(FaultError::Corrupt),
    }?;
    match kind {
        FaultKind::Minor => space.usage.min_flt += 1,
        FaultKind::Major => space.usage.maj_flt += 1,
        FaultKind::Spurious => {}
    }
    Ok(kind)
}

fn area_of<F: FileSource>(mm: &Mm<F>, page: VirtAddr) -> (Area, Option<(VirtAddr, &Vma<F>)>) {
    match mm.find(page) {
        Some((range, vma)) if range.start <= page => {
            let file = vma.file.is_some();
            let flags = vma.flags;
            (Area::Mapped { flags, file }, Some((range.start, vma)))
        }
        Some((_, vma)) if vma.flags.contains(VmFlags::GROWSDOWN) => (Area::BelowStack, None),
        _ => (Area::Hole, None),
    }
}

fn state_of(pte: Pte) -> PteState {
    if pte.is_none() {
        PteState::None
    } else if pte.is_present() {
        PteState::Present {
            writable: pte.has(PteFlags::RW),
            executable: !pte.has(PteFlags::NX),
        }
    } else {
        PteState::Elsewhere
    }
}

/// The flags of an entry that gives an area's rights, apart from writing. Linux: `vm_get_page_prot`.
#[must_use]
pub const fn read_only_flags(flags: VmFlags) -> PteFlags {
    if flags.contains(VmFlags::EXEC) {
        PteFlags::USER_ROX
    } else {
        PteFlags::USER_RO
    }
}

/// One fault, with what was found out about it.
struct Fault<'f, 'a, S, A, P, T> {
    env: &'f FaultEnv<'a, S, A, P, T>,
    map: MemMap,
    root: &'f mut Root,
    usage: &'f mut Usage,
    page: VirtAddr,
    cause: FaultCause,
    old: Pte,
}

impl<'a, S, A, P, T> Fault<'_, 'a, S, A, P, T>
where
    S: PteStore,
    A: PageSource,
    P: PhysMap,
    T: TlbControl,
{
    fn flush_spurious(&mut self) -> Result<FaultKind, FaultError> {
        self.flush();
        Ok(FaultKind::Spurious)
    }

    fn map_zero_page(&mut self, flags: VmFlags) -> Result<FaultKind, FaultError> {
        let pte = Pte::new(self.env.zero_page, read_only_flags(flags));
        self.slot()?.set(pte);
        Ok(FaultKind::Minor)
    }

    fn map_anonymous(&mut self, flags: VmFlags) -> Result<FaultKind, FaultError> {
        let block = self.alloc(Gfp::ZERO)?;
        self.install(flags, block)
    }

    /// Maps a page of the file itself. Writable only for a shared write, so that the first write is seen.
    fn map_file<F: FileSource>(
        &mut self,
        flags: VmFlags,
        (file, pgoff): (&F, u64),
        access: Access,
    ) -> Result<FaultKind, FaultError> {
        let FilePage { pfn, major } = file.page(pgoff).map_err(file_error)?;
        let (env, map) = (self.env, self.map);
        let mut slot = self.slot().inspect_err(|_| {
            // SAFETY: the file took this reference for us, and no entry uses it.
            unsafe { put_page(&map, env.pages, pfn) };
        })?;
        let mut pte_flags = read_only_flags(flags);
        if access == Access::Write {
            pte_flags |= PteFlags::RW | PteFlags::D;
            map.page(pfn).set(PageFlags::DIRTY);
        }
        map.page(pfn).inc_map_count();
        slot.set(Pte::new(pfn, pte_flags));
        self.usage.file_pages += 1;
        Ok(if major {
            FaultKind::Major
        } else {
            FaultKind::Minor
        })
    }

    fn copy_file<F: FileSource>(
        &mut self,
        flags: VmFlags,
        (file, pgoff): (&F, u64),
    ) -> Result<FaultKind, FaultError> {
        let FilePage { pfn, major } = file.page(pgoff).map_err(file_error)?;
        let (env, map) = (self.env, self.map);
        let copied = self.alloc(Gfp::empty()).map(|mut block| {
            // SAFETY: the file took a reference for us.
            unsafe { copy_page(env.phys, pfn, &mut block) };
            block
        });
        // SAFETY: the reference that the file took for us; no entry uses it.
        unsafe { put_page(&map, env.pages, pfn) };
        self.install(flags, copied?)?;
        Ok(if major {
            FaultKind::Major
        } else {
            FaultKind::Minor
        })
    }

    fn copy_on_write(&mut self, flags: VmFlags) -> Result<FaultKind, FaultError> {
        let old = self.old.pfn();
        if old == self.env.zero_page {
            let block = self.alloc(Gfp::ZERO)?;
            self.flush_after_install(flags, block)?;
            return Ok(FaultKind::Minor);
        }
        let page = self.map.page(old);
        let is_anon = page.test(PageFlags::ANON);
        if is_anon && page.map_count() == 1 && page.ref_count() == 1 {
            return self.allow(PteFlags::RW | PteFlags::D, PteFlags::empty());
        }
        let mut block = self.alloc(Gfp::empty())?;
        // SAFETY: the entry that is being replaced holds a reference.
        unsafe { copy_page(self.env.phys, old, &mut block) };
        let (env, map) = (self.env, self.map);
        self.flush_after_install(flags, block)?;
        if is_anon {
            self.usage.anon_pages -= 1;
        } else {
            self.usage.file_pages -= 1;
        }
        page.dec_map_count();
        // SAFETY: the reference of the entry, which is replaced and flushed.
        unsafe { put_page(&map, env.pages, old) };
        Ok(FaultKind::Minor)
    }

    /// Widens what the present entry allows.
    fn allow(&mut self, add: PteFlags, remove: PteFlags) -> Result<FaultKind, FaultError> {
        let flags = self.old.flags().difference(remove) | add;
        let (env, page, root_pfn) = (self.env, self.page, self.root.pfn());
        if add.contains(PteFlags::D) {
            if let Some(descriptor) = self.map.get(self.old.pfn()) {
                descriptor.set(PageFlags::DIRTY);
            }
        }
        let pte = Pte::new(self.old.pfn(), flags);
        self.slot()?.update(pte);
        // The processor may remember the narrower entry; it dropped it when it faulted, others did not.
        env.tlb.flush_range(
            TlbTarget::User { root: root_pfn },
            page..page + PAGE_SIZE as u64,
        );
        Ok(FaultKind::Minor)
    }

    /// Maps an owned page: writable if the fault was a write or the area's pages may be written anyhow.
    fn install(&mut self, flags: VmFlags, block: PageBlock) -> Result<FaultKind, FaultError> {
        let (map, cause) = (self.map, self.cause);
        let pages = self.env.pages;
        let mut slot = match self.slot() {
            Ok(slot) => slot,
            Err(error) => {
                pages.free(block);
                return Err(error);
            }
        };
        let mut pte_flags = read_only_flags(flags);
        if flags.contains(VmFlags::WRITE) {
            pte_flags |= PteFlags::RW;
        }
        if cause.access() == Access::Write {
            pte_flags |= PteFlags::D;
        }
        slot.set(Pte::new(into_mapped(&map, block), pte_flags));
        self.usage.anon_pages += 1;
        Ok(FaultKind::Minor)
    }

    /// As `install`, over an entry that CPUs may remember.
    fn flush_after_install(
        &mut self,
        flags: VmFlags,
        block: PageBlock,
    ) -> Result<FaultKind, FaultError> {
        let (env, page, root_pfn) = (self.env, self.page, self.root.pfn());
        let kind = self.install(flags, block)?;
        env.tlb.flush_range(
            TlbTarget::User { root: root_pfn },
            page..page + PAGE_SIZE as u64,
        );
        Ok(kind)
    }

    fn flush(&self) {
        let target = TlbTarget::User {
            root: self.root.pfn(),
        };
        self.env
            .tlb
            .flush_range(target, self.page..self.page + PAGE_SIZE as u64);
    }

    fn alloc(&self, gfp: Gfp) -> Result<PageBlock, FaultError> {
        let req = PageReq::page(Gfp::HIGHUSER_MOVABLE | gfp);
        self.env
            .pages
            .alloc(req)
            .map_err(|_| FaultError::OutOfMemory)
    }

    fn slot(&mut self) -> Result<PteSlot<'_, 'a, S, A>, FaultError> {
        let slot = self.env.mapper.leaf_slot(self.root, self.page);
        slot.map_err(|_| FaultError::OutOfMemory)
    }
}

fn file_error(error: FileError) -> FaultError {
    match error {
        FileError::OutOfMemory => FaultError::OutOfMemory,
        _ => FaultError::Bus,
    }
}

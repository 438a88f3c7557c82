//! The actions: what [`decide`](crate::decide) says is done to tables and frames. Linux: mm/memory.c.
//!
//! An action first takes what it needs (the page, the page of the file, and last the missing tables), then changes one
//! entry. So it fails before it changed anything.
#![expect(
    unsafe_code,
    reason = "references that entries held are given back here"
)]

use core::fmt;

use kmm_frame::{Gfp, MemMap, PAGE_SIZE, PageFlags, Pfn, VirtAddr};
use kmm_host::{PageBlock, PageReq, PageSource, PhysMap, PteStore, TlbControl, TlbTarget};
use kmm_pagetable_walker::{MapError, Mapper, Pte, PteFlags, PteSlot, Root};
use kmm_vma::{Mm, VmFlags, Vma};

use crate::entry::{state_of, widen};
use crate::refs::{add_mapping, copy_page, drop_mapping, into_mapped, put_page};
use crate::{
    Access, Area, Decision, FaultCause, FaultError, FaultKind, FileError, FilePage, FileSource,
    SegvCode, Usage, decide, read_only_flags,
};

/// What every fault of a machine needs.
///
/// Who makes one answers for it by the contract of [`Mapper::new`]: the handler enters pages of `pages`, of the address
/// space's files, and `zero_page`, and reaches them through `phys`.
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
/// [`FaultError`]; the address space is as it was, apart from a stack that has grown.
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
    let old = env
        .mapper
        .find_slot(space.root, page)
        .map_or(Pte::NONE, |slot| slot.get());
    let (area, _) = area_of(space.mm, page);
    let mut decision = decide(cause, area, state_of(old));
    if decision == Decision::GrowStack {
        let grown = space.mm.expand_stack(page);
        grown.map_err(|_| FaultError::Segv(SegvCode::MapErr))?;
        decision = decide(cause, area_of(space.mm, page).0, state_of(old));
    }
    let (_, vma) = area_of(space.mm, page);
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
        (Decision::MakeWritable, _) => fault.allow(flags, PteFlags::RW),
        (Decision::Widen, _) => fault.allow(flags, PteFlags::empty()),
        (Decision::Segv(code), _) => Err(FaultError::Segv(code)),
        (Decision::GrowStack, _) => Err(FaultError::Segv(SegvCode::MapErr)),
        (Decision::Bus, _) => Err(FaultError::Bus),
        (Decision::KernelExec, _) => Err(FaultError::KernelExec),
        // No file or no swap entry where there must be one: not of this crate's making.
        (
            Decision::FileRead
            | Decision::FileShared
            | Decision::FileCopy
            | Decision::SwapIn
            | Decision::Corrupt,
            _,
        ) => Err(FaultError::Corrupt),
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
        let allowed = env.mapper.may_map([pfn]).map_err(map_error);
        let mut slot = allowed.and_then(|()| self.slot()).inspect_err(|_| {
            // SAFETY: the file took this reference for us, and no entry uses it.
            unsafe { put_page(&map, env.pages, pfn) };
        })?;
        let mut pte_flags = read_only_flags(flags);
        if access == Access::Write {
            pte_flags |= PteFlags::RW | PteFlags::D;
            map.page(pfn).set(PageFlags::DIRTY);
        }
        add_mapping(&map, env.pages, pfn);
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
            self.replace(flags, block)?;
            return Ok(FaultKind::Minor);
        }
        let page = self.map.page(old);
        if page.test(PageFlags::ANON) && page.ref_count() == 1 {
            // This entry's own (INV-1), so there is no other entry either.
            return self.allow(flags, PteFlags::RW);
        }
        let mut block = self.alloc(Gfp::empty())?;
        // SAFETY: INV-1: the entry that is being replaced holds a reference.
        unsafe { copy_page(self.env.phys, old, &mut block) };
        let (env, map) = (self.env, self.map);
        self.replace(flags, block)?;
        *self.usage.of(page.flags()) -= 1;
        drop_mapping(&map, env.pages, old);
        // SAFETY: INV-1: the reference of the entry, which was replaced and flushed (INV-5).
        unsafe { put_page(&map, env.pages, old) };
        Ok(FaultKind::Minor)
    }

    /// Gives the entry the area's rights, and `more`.
    ///
    /// CPUs that remember the narrower entry fault once more and find the wider one; this one forgot it when it
    /// faulted (SDM 3A 4.10.4.1). So nothing is flushed.
    fn allow(&mut self, flags: VmFlags, more: PteFlags) -> Result<FaultKind, FaultError> {
        if more.contains(PteFlags::RW) && self.old.pfn() == self.env.zero_page {
            return Err(FaultError::Corrupt);
        }
        let mut pte_flags = widen(self.old, flags).flags() | more;
        if self.cause.access() == Access::Write {
            pte_flags |= PteFlags::D;
            if let Some(page) = self.map.get(self.old.pfn()) {
                page.set(PageFlags::DIRTY);
            }
        }
        let pte = Pte::new(self.old.pfn(), pte_flags);
        self.slot()?.update(pte);
        Ok(FaultKind::Minor)
    }

    /// Maps an owned page where nothing is mapped.
    fn install(&mut self, flags: VmFlags, block: PageBlock) -> Result<FaultKind, FaultError> {
        let pte_flags = self.owned_flags(flags);
        let (env, map) = (self.env, self.map);
        match self.slot() {
            Ok(mut slot) => slot.set(Pte::new(into_mapped(&map, env.pages, block), pte_flags)),
            Err(error) => {
                env.pages.free(block);
                return Err(error);
            }
        };
        self.usage.anon_pages += 1;
        Ok(FaultKind::Minor)
    }

    /// Maps an owned page in place of another. Linux: `wp_page_copy`.
    ///
    /// The old entry goes from every CPU before the new one comes, or one CPU could write the new page while another
    /// still reads the old one.
    fn replace(&mut self, flags: VmFlags, block: PageBlock) -> Result<(), FaultError> {
        let pte_flags = self.owned_flags(flags);
        let (env, map, page) = (self.env, self.map, self.page);
        let target = TlbTarget::User {
            root: self.root.pfn(),
        };
        match self.slot() {
            Ok(mut slot) => {
                slot.set(Pte::NONE);
                env.tlb.flush_range(target, page..page + PAGE_SIZE as u64);
                slot.set(Pte::new(into_mapped(&map, env.pages, block), pte_flags));
            }
            Err(error) => {
                env.pages.free(block);
                return Err(error);
            }
        }
        self.usage.anon_pages += 1;
        Ok(())
    }

    /// The rights to a page that nobody shares: all that the area has.
    fn owned_flags(&self, flags: VmFlags) -> PteFlags {
        let mut pte_flags = read_only_flags(flags);
        if flags.contains(VmFlags::WRITE) {
            pte_flags |= PteFlags::RW;
        }
        if self.cause.access() == Access::Write {
            pte_flags |= PteFlags::D;
        }
        pte_flags
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
        slot.map_err(map_error)
    }
}

fn map_error(error: MapError) -> FaultError {
    match error {
        MapError::Alloc(_) => FaultError::OutOfMemory,
        MapError::Owned(owner) => FaultError::Owned(owner),
        _ => FaultError::Corrupt,
    }
}

fn file_error(error: FileError) -> FaultError {
    match error {
        FileError::OutOfMemory => FaultError::OutOfMemory,
        _ => FaultError::Bus,
    }
}

//! The operations on tables.
#![expect(
    unsafe_code,
    reason = "the contract of a mapper is an unsafe constructor's"
)]

use core::fmt;
use core::ops::{ControlFlow, Range};

use kmm_frame::{Gfp, MemMap, Pfn, PhysAddr, VirtAddr};
use kmm_host::{PageSource, PteStore, TlbControl, TlbTarget};

use crate::{
    KernelHalf, Leaf, Level, Levels, MapError, MmuGather, Pte, PteFlags, PteSlot, Root, Span,
    TableCounter, Walk,
};

/// Walks and changes page tables: a bundle of references, made where it is needed and copied freely.
pub struct Mapper<'a, S, A> {
    pub(crate) ptes: &'a S,
    pub(crate) pages: &'a A,
    pub(crate) map: MemMap,
    pub(crate) levels: Levels,
    pub(crate) tables: &'a TableCounter,
    pub(crate) gfp: Gfp,
}

impl<S, A> Clone for Mapper<'_, S, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, A> Copy for Mapper<'_, S, A> {}

impl<S, A> fmt::Debug for Mapper<'_, S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapper")
            .field("levels", &self.levels)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl<'a, S: PteStore, A: PageSource> Mapper<'a, S, A> {
    /// Tables reached through `ptes`, made of frames from `pages`, whose descriptors are in `map`, counted in `tables`.
    ///
    /// # Safety
    /// 1. `ptes` reaches every frame that `pages` hands out, and `map` has its descriptor.
    /// 2. Whoever uses the mapper enters only frames that the users of that address space may reach, with rights that
    ///    they may have, and frees a frame only after its entries are gone and flushed.
    /// 3. Every root given to it has `levels` levels.
    #[must_use]
    pub const unsafe fn new(
        ptes: &'a S,
        pages: &'a A,
        map: MemMap,
        levels: Levels,
        tables: &'a TableCounter,
    ) -> Self {
        Self {
            ptes,
            pages,
            map,
            levels,
            tables,
            gfp: Gfp::KERNEL,
        }
    }

    /// The same with another way to ask for the frames of tables; [`Gfp::KERNEL`] unless told.
    #[must_use]
    pub const fn with_gfp(self, gfp: Gfp) -> Self {
        Self { gfp, ..self }
    }

    /// How many levels the tables have.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.levels
    }

    /// The counter of the tables.
    #[must_use]
    pub const fn tables(&self) -> &'a TableCounter {
        self.tables
    }

    /// The descriptors.
    #[must_use]
    pub const fn mem_map(&self) -> MemMap {
        self.map
    }

    /// A place for what is about to be unmapped. `target` says whose translations are flushed.
    pub fn gather<T: TlbControl>(&self, target: TlbTarget, tlb: &'a T) -> MmuGather<'a, S, A, T> {
        MmuGather::new(*self, target, tlb)
    }

    // ---- roots ----

    /// An empty top table that may map both halves: the kernel's own. Linux: `init_top_pgt`.
    ///
    /// # Errors
    /// [`MapError::Alloc`].
    pub fn alloc_root(&self) -> Result<Root, MapError> {
        todo!()
    }

    /// A top table for a process: empty below, the shared kernel half above. Linux: `pgd_alloc`.
    ///
    /// # Errors
    /// [`MapError::Alloc`].
    pub fn alloc_user_root(&self, kernel: KernelHalf) -> Result<Root, MapError> {
        let _ = kernel;
        todo!()
    }

    /// Fills the top table's entries for `range` with tables that stay for ever; from now on the kernel half of the top
    /// table never changes, so that every root can have a copy. Linux: `preallocate_vmalloc_pages`.
    ///
    /// What lies in the kernel half outside of `range` and has no entry by now will never have one.
    ///
    /// # Errors
    /// [`MapError::Alloc`], [`MapError::BadRange`] unless the range lies in the kernel half.
    pub fn prealloc_kernel_pgds(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
    ) -> Result<KernelHalf, MapError> {
        let _ = (root, range);
        todo!()
    }

    /// Copies the kernel half's entries of the top table. Linux: `clone_pgd_range`.
    pub fn share_kernel_half(&self, from: KernelHalf, to: &mut Root) {
        let _ = (from, to);
        todo!()
    }

    /// Empties the user half and gives its tables to `gather`; `f` hears of each entry that was left. Linux: `exit_mmap`.
    pub fn free_user_tables<T: TlbControl>(
        &self,
        root: &mut Root,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf, &mut MmuGather<'_, S, A, T>),
    ) {
        let _ = (root, gather, f);
        todo!()
    }

    /// Frees a process's top table, whose user half is empty. Linux: `pgd_free`.
    ///
    /// No CPU may run on it any more.
    ///
    /// # Panics
    /// When the user half is not empty, or the root is the kernel's.
    pub fn free_root<T: TlbControl>(&self, root: Root, gather: &mut MmuGather<'_, S, A, T>) {
        let _ = (root, gather);
        todo!()
    }

    // ---- reading ----

    /// Walks to where `va` is mapped, or to where that ends. Linux: `pgd_offset` … `pte_offset_map`.
    #[must_use]
    pub fn walk(&self, root: &Root, va: VirtAddr) -> Walk {
        let _ = (root, va);
        todo!()
    }

    /// The physical address behind `va`. Linux: `get_pa`, `slow_virt_to_phys`.
    #[must_use]
    pub fn translate(&self, root: &Root, va: VirtAddr) -> Option<PhysAddr> {
        self.walk(root, va).phys()
    }

    /// Tells all of `range`, entries and holes, in rising order. Linux: `walk_page_range`.
    ///
    /// # Errors
    /// [`MapError::BadRange`].
    pub fn for_each(
        &self,
        root: &Root,
        range: Range<VirtAddr>,
        mut f: impl FnMut(Span),
    ) -> Result<(), MapError> {
        self.try_for_each(root, range, |span| {
            f(span);
            ControlFlow::<()>::Continue(())
        })
        .map(|_| ())
    }

    /// As [`Mapper::for_each`], until `f` breaks.
    ///
    /// # Errors
    /// [`MapError::BadRange`].
    pub fn try_for_each<B>(
        &self,
        root: &Root,
        range: Range<VirtAddr>,
        f: impl FnMut(Span) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, MapError> {
        let _ = (root, range, f);
        todo!()
    }

    /// How many tables mapping `range` would add, with pages of at most `largest`, for a range aligned to it.
    ///
    /// # Errors
    /// [`MapError::BadRange`].
    pub fn nr_tables_needed(
        &self,
        root: &Root,
        range: Range<VirtAddr>,
        largest: Level,
    ) -> Result<usize, MapError> {
        let _ = (root, range, largest);
        todo!()
    }

    // ---- changing ----

    /// Maps one page of `level`'s size.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn map_page(
        &self,
        root: &mut Root,
        va: VirtAddr,
        pfn: Pfn,
        level: Level,
        flags: PteFlags,
    ) -> Result<(), MapError> {
        let _ = (root, va, pfn, level, flags);
        todo!()
    }

    /// Maps frames in a row, from `phys` on, with the largest pages that fit, but none above `largest`.
    ///
    /// `largest` is `Pud` only where the CPU has 1 GiB pages.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn map_range(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
        phys: PhysAddr,
        flags: PteFlags,
        largest: Level,
    ) -> Result<(), MapError> {
        let _ = (root, range, phys, flags, largest);
        todo!()
    }

    /// Maps base pages of any frames: page `n` of the range to `frame(n)`. Linux: `vmap_pages_range`.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn map_frames(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
        flags: PteFlags,
        frame: impl FnMut(usize) -> Pfn,
    ) -> Result<(), MapError> {
        let _ = (root, range, flags, frame);
        todo!()
    }

    /// Clears every entry of `range`, which `f` then hears of, with its last accessed and dirty bits; emptied tables go
    /// to `gather`. A large page that lies partly outside is split first. Linux: `unmap_page_range`, `free_pgtables`.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then. Only splitting a large page allocates.
    pub fn unmap_range<T: TlbControl>(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf, &mut MmuGather<'_, S, A, T>),
    ) -> Result<(), MapError> {
        let _ = (root, range, gather, f);
        todo!()
    }

    /// Replaces every entry of `range` (not holes) by what `f` makes of it; accessed and dirty bits that hardware sets
    /// meanwhile are kept, and what must be flushed goes to `gather`. Linux: `change_protection`.
    ///
    /// A large page that lies partly outside is split first. `f` may not return [`Pte::NONE`].
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then. Only splitting a large page allocates.
    pub fn protect_range<T: TlbControl>(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf) -> Pte,
    ) -> Result<(), MapError> {
        let _ = (root, range, gather, f);
        todo!()
    }

    /// Copies the entries of `range` to another root, in one pass over the tables: `f` may change the parent's entry
    /// (taking `RW` away), and returns the child's; [`Pte::NONE`] leaves a hole. Linux: `copy_page_range`.
    ///
    /// What must be flushed of the parent goes to `gather`.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then, in either.
    pub fn copy_user_range<T: TlbControl>(
        &self,
        parent: &mut Root,
        child: &mut Root,
        range: Range<VirtAddr>,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf, &mut Pte) -> Pte,
    ) -> Result<(), MapError> {
        let _ = (parent, child, range, gather, f);
        todo!()
    }

    /// The place of the entry for `va`, with the tables that it needs. Linux: `pte_alloc_map`.
    ///
    /// Tables that stay empty are freed with the range or the root.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn leaf_slot<'r>(
        &self,
        root: &'r mut Root,
        va: VirtAddr,
    ) -> Result<PteSlot<'r, 'a, S, A>, MapError> {
        let _ = (root, va);
        todo!()
    }

    /// The place of the entry for `va`, if there are tables for it already.
    pub fn find_slot<'r>(&self, root: &'r mut Root, va: VirtAddr) -> Option<PteSlot<'r, 'a, S, A>> {
        let _ = (root, va);
        todo!()
    }
}

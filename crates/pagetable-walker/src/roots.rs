//! Top tables: made, shared, freed.

use core::ops::Range;

use kmm_frame::VirtAddr;
use kmm_host::{PageSource, PteIndex, PteStore, TlbControl};

use crate::map::table_entry;
use crate::root::{KernelHalf, Role, Root};
use crate::table::Table;
use crate::visit::{Extent, is_kernel};
use crate::{MapError, Mapper, MmuGather};

/// The first entry of the top table that belongs to the kernel.
const KERNEL_FIRST: u64 = PteIndex::COUNT as u64 / 2;

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    /// An empty top table that may map both halves: the kernel's own. Linux: `init_top_pgt`.
    ///
    /// # Errors
    /// [`MapError::Alloc`].
    pub fn alloc_root(&self) -> Result<Root, MapError> {
        Ok(Root::new(self.alloc_table()?.pfn(), Role::Kernel))
    }

    /// A top table for a process: empty below, the shared kernel half above. Linux: `pgd_alloc`.
    ///
    /// # Errors
    /// [`MapError::Alloc`].
    pub fn alloc_user_root(&self, kernel: KernelHalf) -> Result<Root, MapError> {
        let mut root = Root::new(self.alloc_table()?.pfn(), Role::User);
        self.share_kernel_half(kernel, &mut root);
        Ok(root)
    }

    /// Fills the top table's entries for `range` with tables that stay for ever; from now on the kernel half of the top
    /// table never changes, so that every root can have a copy. Linux: `preallocate_vmalloc_pages`.
    ///
    /// What lies in the kernel half outside of `range` and has no entry by now will never have one. A second call gives
    /// the same half again.
    ///
    /// # Errors
    /// [`MapError::Alloc`]; [`MapError::BadRange`] unless the range lies in the kernel half; [`MapError::WrongHalf`] for
    /// the root of a process; [`MapError::NotPreallocated`] if a second call wants more than the first. Nothing has
    /// changed then.
    pub fn prealloc_kernel_pgds(
        &self,
        root: &mut Root,
        range: Range<VirtAddr>,
    ) -> Result<KernelHalf, MapError> {
        let wanted = match self.writable(root, &range)? {
            Some(extent) if is_kernel(extent.first) => Some(extent),
            None => None,
            Some(_) => return Err(MapError::BadRange),
        };
        let (top, table) = (self.levels.top(), Table::of_root(root));
        let is_wanted = |index: &PteIndex| {
            wanted.is_some_and(|Extent { first, last }| {
                top.index(first) <= *index && *index <= top.index(last)
            })
        };
        let missing = |index: &PteIndex| self.read(table, *index).is_none() && is_wanted(index);
        let nr_missing = kernel_entries().filter(missing).count();
        match root.role() {
            Role::User => return Err(MapError::WrongHalf),
            Role::KernelShared if nr_missing > 0 => return Err(MapError::NotPreallocated),
            Role::KernelShared => return Ok(KernelHalf::new(root.pfn())),
            Role::Kernel => {}
        }
        let mut pool = self.fill_pool(nr_missing)?;
        for index in kernel_entries().filter(missing) {
            let lower = self.take(&mut pool);
            self.fill(table, index, table_entry(lower, self.levels.kernel_start()));
        }
        self.free_pool(pool);
        for index in kernel_entries() {
            if let Some(lower) = Table::below(self.read(table, index), top) {
                self.keep(lower);
            }
        }
        root.set_role(Role::KernelShared);
        Ok(KernelHalf::new(root.pfn()))
    }

    /// Copies the kernel half's entries of the top table. Linux: `clone_pgd_range`.
    ///
    /// # Panics
    /// When `to` is not the root of a process.
    pub fn share_kernel_half(&self, from: KernelHalf, to: &mut Root) {
        assert!(
            to.role() == Role::User,
            "{} is the kernel's own root",
            to.pfn()
        );
        let (from, to) = (Table::of_kernel_half(from), Table::of_root(to));
        for index in kernel_entries() {
            self.exchange(to, index, self.read(from, index));
        }
    }

    /// Frees a process's top table, whose user half is empty. Linux: `pgd_free`.
    ///
    /// No CPU may run on it any more.
    ///
    /// # Panics
    /// When the user half is not empty, or the root is the kernel's.
    pub fn free_root<T: TlbControl>(&self, root: Root, gather: &mut MmuGather<'_, S, A, T>) {
        assert!(
            root.role() == Role::User,
            "the kernel's root {} is freed",
            root.pfn()
        );
        let table = Table::of_root(&root);
        let mut user = (0..KERNEL_FIRST).map(PteIndex::truncate);
        let is_empty = user.all(|index| self.read(table, index).is_none());
        assert!(is_empty, "root {} is freed with pages in it", root.pfn());
        gather.push_root(table);
    }
}

fn kernel_entries() -> impl Iterator<Item = PteIndex> {
    (KERNEL_FIRST..PteIndex::COUNT as u64).map(PteIndex::truncate)
}

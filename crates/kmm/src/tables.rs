//! The tables of an address space, and the references that their entries hold.
//!
//! Whatever an entry held is given back after the flush that [`MmuGather`] makes (INV-3).
#![expect(
    unsafe_code,
    reason = "references that entries held are given back after the flush"
)]

use core::ops::{ControlFlow, Range};

use kmm_fault::{
    FaultCause, FaultEnv, FaultError, FaultKind, FileSource, Sharing, Space, Usage, forget, handle,
    put_page, restrict, share,
};
use kmm_frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm_host::{Host, PageSource, PteStore, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Leaf, MapError, Mapper, MmuGather, Pte, Root, Span, TableCounter};
use kmm_vma::{Mm, VmFlags};

use crate::{Manager, MmError, PageAlloc};

/// References kept until the translations through which they were used are flushed.
const BATCH: usize = 64;
/// What one table of base pages covers.
const TABLE_BYTES: u64 = 512 * PAGE_SIZE as u64;

/// A process's tables, what they count, and what their entries hold. Dropping it gives all of it back.
#[derive(Debug)]
pub(crate) struct Tables<H: Host> {
    manager: &'static Manager<H>,
    /// `None` while it is dropped.
    root: Option<Root>,
    counter: TableCounter,
    usage: Usage,
}

impl<H: Host> Tables<H> {
    /// A top table with the kernel's half.
    pub(crate) fn new(manager: &'static Manager<H>) -> Result<Self, MmError> {
        let counter = TableCounter::new();
        let root = manager
            .mapper(&counter)
            .alloc_user_root(manager.kernel_half())
            .map_err(map_error)?;
        Ok(Self {
            manager,
            root: Some(root),
            counter,
            usage: Usage::default(),
        })
    }

    pub(crate) const fn manager(&self) -> &'static Manager<H> {
        self.manager
    }

    pub(crate) const fn counter(&self) -> &TableCounter {
        &self.counter
    }

    pub(crate) const fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) const fn root(&self) -> &Root {
        match &self.root {
            Some(root) => root,
            None => unreachable!(),
        }
    }

    /// Serves a fault. Linux: `handle_mm_fault`.
    pub(crate) fn fault<F: FileSource>(
        &mut self,
        mm: &mut Mm<F>,
        addr: VirtAddr,
        cause: FaultCause,
    ) -> Result<FaultKind, FaultError> {
        let manager = self.manager;
        let env = FaultEnv {
            mapper: manager.mapper(&self.counter),
            pages: manager.page_alloc(),
            phys: manager.host().phys(),
            tlb: manager.host().tlb(),
            zero_page: manager.zero_page(),
        };
        let mut space = Space {
            mm,
            root: root_of(&mut self.root),
            usage: &mut self.usage,
        };
        handle(&env, &mut space, addr, cause)
    }

    /// Where `addr` is mapped.
    pub(crate) fn translate(&self, addr: VirtAddr) -> Option<Leaf> {
        let mapper = self.manager.mapper(&self.counter);
        mapper.walk(self.root(), addr).leaf()
    }

    pub(crate) fn for_each(&self, range: Range<VirtAddr>, f: impl FnMut(Span)) {
        // A range that is no range has no entries.
        let _ = self
            .manager
            .mapper(&self.counter)
            .for_each(self.root(), range, f);
    }

    /// Takes from every entry of a range what `flags` do not allow. What they allow comes back by the next fault, which
    /// knows whether a page is shared.
    pub(crate) fn restrict(
        &mut self,
        range: Range<VirtAddr>,
        flags: VmFlags,
    ) -> Result<(), MmError> {
        let mapper = self.manager.mapper(&self.counter);
        let root = root_of(&mut self.root);
        let mut gather = mapper.gather(target(root), self.manager.host().tlb());
        let restricted =
            mapper.protect_range(root, range, &mut gather, |leaf| restrict(leaf, flags));
        gather.finish();
        restricted.map_err(map_error)
    }

    /// Drops the translations of a range and the references that they held.
    pub(crate) fn unmap(&mut self, range: Range<VirtAddr>) {
        let mapper = self.manager.mapper(&self.counter);
        let root = root_of(&mut self.root);
        let mut gather = mapper.gather(target(root), self.manager.host().tlb());
        let mut puts = Puts::new(self.manager, &mut self.usage);
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

    /// As [`Tables::unmap`], but keeps the tables.
    pub(crate) fn clear(&mut self, range: Range<VirtAddr>) {
        let mapper = self.manager.mapper(&self.counter);
        let root = root_of(&mut self.root);
        let mut gather = mapper.gather(target(root), self.manager.host().tlb());
        let mut puts = Puts::new(self.manager, &mut self.usage);
        let mut at = range.start;
        while let Some(leaf) = next_entry(&mapper, root, at..range.end) {
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

    /// Makes the tables for the entries of `from` at `to`, so that they can be moved there without failing. Holes take none.
    pub(crate) fn prepare(&mut self, from: Range<VirtAddr>, to: VirtAddr) -> Result<(), MmError> {
        let mapper = self.manager.mapper(&self.counter);
        let root = root_of(&mut self.root);
        let mut at = from.start;
        let mut made = Ok(());
        while let Some(leaf) = next_entry(&mapper, root, at..from.end) {
            let place = to + (leaf.va - from.start);
            made = mapper.leaf_slot(root, place).map(drop);
            if made.is_err() {
                break;
            }
            // The same table serves whatever comes before its end.
            let table_end = place.align_down(TABLE_BYTES) + TABLE_BYTES;
            at = from.start + (table_end - to);
        }
        if let Err(error) = made {
            self.free_empty_tables(to..to + (from.end - from.start));
            return Err(map_error(error));
        }
        Ok(())
    }

    /// Gives the tables of a range back, if nothing is mapped in it.
    fn free_empty_tables(&mut self, range: Range<VirtAddr>) {
        let mapper = self.manager.mapper(&self.counter);
        if next_entry(&mapper, self.root(), range.clone()).is_none() {
            self.unmap(range);
        }
    }

    /// Moves entries; the tables at the target are there. Linux: `move_page_tables`.
    ///
    /// # Panics
    /// When a table at the target is missing: [`Tables::prepare`] was forgotten.
    pub(crate) fn move_entries(&mut self, from: Range<VirtAddr>, to: VirtAddr) {
        let mapper = self.manager.mapper(&self.counter);
        let root = root_of(&mut self.root);
        let mut gather = mapper.gather(target(root), self.manager.host().tlb());
        let mut at = from.start;
        while let Some(leaf) = next_entry(&mapper, root, at..from.end) {
            let entry = mapper
                .find_slot(root, leaf.va)
                .map_or(Pte::NONE, |mut slot| slot.set(Pte::NONE));
            gather.track(leaf);
            match mapper.find_slot(root, to + (leaf.va - from.start)) {
                Some(mut slot) => _ = slot.set(entry),
                None => unreachable!("the tables at the target were made before"),
            }
            at = leaf.range().end;
        }
        // What is left of the tables there is empty.
        let emptied = mapper.unmap_range(root, from, &mut gather, |_, _| {});
        debug_assert!(emptied.is_ok(), "nothing was left to split");
        gather.finish();
    }

    /// Copies the entries of every area that a child inherits. Linux: `copy_page_range`.
    ///
    /// On failure, what was copied so far goes with the child.
    pub(crate) fn copy_to<F: FileSource>(
        &mut self,
        mm: &Mm<F>,
        child: &mut Self,
    ) -> Result<(), MmError> {
        let (map, zero_page) = (self.manager.mem_map(), self.manager.zero_page());
        let pages = self.manager.page_alloc();
        let root = root_of(&mut self.root);
        let mapper = self.manager.mapper(&child.counter);
        let child_root = root_of(&mut child.root);
        let mut gather = self
            .manager
            .mapper(&self.counter)
            .gather(target(root), self.manager.host().tlb());
        let inherited = mm
            .iter()
            .filter(|(_, vma)| !vma.flags.contains(VmFlags::DONTCOPY));
        for (range, vma) in inherited {
            let sharing = if vma.is_private() {
                Sharing::CopyOnWrite
            } else {
                Sharing::Shared
            };
            mapper
                .copy_user_range(root, child_root, range, &mut gather, |leaf, parent| {
                    share(
                        &map,
                        pages,
                        zero_page,
                        sharing,
                        leaf,
                        parent,
                        &mut child.usage,
                    )
                })
                .map_err(map_error)?;
        }
        gather.finish();
        Ok(())
    }
}

impl<H: Host> Drop for Tables<H> {
    fn drop(&mut self) {
        let Some(mut root) = self.root.take() else {
            return;
        };
        let mapper = self.manager.mapper(&self.counter);
        let mut gather = mapper.gather(target(&root), self.manager.host().tlb());
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

/// The first entry in a range.
fn next_entry<S: PteStore, A: PageSource>(
    mapper: &Mapper<'_, S, A>,
    root: &Root,
    range: Range<VirtAddr>,
) -> Option<Leaf> {
    let found = mapper.try_for_each(root, range, |span| match span {
        Span::Mapped(leaf) | Span::NotPresent(leaf) => ControlFlow::Break(leaf),
        Span::Hole(_) => ControlFlow::Continue(()),
    });
    match found {
        Ok(ControlFlow::Break(leaf)) => Some(leaf),
        // A range that is empty has no entries.
        _ => None,
    }
}

fn root_of(root: &mut Option<Root>) -> &mut Root {
    match root {
        Some(root) => root,
        None => unreachable!("the top table lives as long as the address space"),
    }
}

const fn target(root: &Root) -> TlbTarget {
    TlbTarget::User { root: root.pfn() }
}

const fn map_error(error: MapError) -> MmError {
    match error {
        MapError::Alloc(error) => MmError::Alloc(error),
        _ => MmError::Corrupt,
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
        if let Some(pfn) = forget(
            &map,
            self.manager.page_alloc(),
            self.manager.zero_page(),
            leaf,
            self.usage,
        ) {
            self.pfns[self.nr_pfns] = pfn;
            self.nr_pfns += 1;
        }
    }

    /// After a flush.
    fn give_back(&mut self) {
        let map = self.manager.mem_map();
        for &pfn in &self.pfns[..self.nr_pfns] {
            // SAFETY: the reference of an entry that was cleared; its translation was flushed.
            unsafe { put_page::<PageAlloc<H>>(&map, self.manager.page_alloc(), pfn) };
        }
        self.nr_pfns = 0;
    }
}

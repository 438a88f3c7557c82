//! Taking pages out, and changing what they allow.

use core::convert::Infallible;
use core::ops::{ControlFlow, Range};

use kmm_frame::VirtAddr;
use kmm_host::{PageSource, PteStore, TlbControl};

use crate::table::Table;
use crate::visit::{Extent, Place, Step, Visitor};
use crate::{Leaf, MapError, Mapper, MmuGather, Pte, PteFlags, Root};

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    /// Clears every entry of `range`, which `f` then hears of, with its last accessed and dirty bits; emptied tables go
    /// to `gather`. A large page that lies partly outside is split first. Linux: `unmap_page_range`, `free_pgtables`.
    ///
    /// Frames that `f` wants freed it gives to the gather, which frees them after the flush.
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
        if let Some(extent) = self.writable(root, &range)? {
            self.split_ends(root, extent, gather)?;
            self.clear(root, extent, gather, f);
        }
        Ok(())
    }

    /// Empties the user half and gives its tables to `gather`; `f` hears of each entry that was left. Linux: `exit_mmap`.
    pub fn free_user_tables<T: TlbControl>(
        &self,
        root: &mut Root,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf, &mut MmuGather<'_, S, A, T>),
    ) {
        self.clear(root, Extent::user_half(self.levels), gather, f);
    }

    /// Replaces every entry of `range` (not holes) by what `f` makes of it; accessed and dirty bits that hardware sets
    /// meanwhile are kept, and what must be flushed goes to `gather`. Linux: `change_protection`.
    ///
    /// A large page that lies partly outside is split first. [`Pte::NONE`] leaves a hole.
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
        if let Some(extent) = self.writable(root, &range)? {
            self.split_ends(root, extent, gather)?;
            let mut protect = Protect {
                mapper: self,
                gather,
                f,
            };
            let visited = self.visit(root, extent, &mut protect);
            debug_assert!(visited.is_continue());
        }
        Ok(())
    }

    /// Clears entries, of which none reaches out of `extent`.
    fn clear<T: TlbControl>(
        &self,
        root: &mut Root,
        extent: Extent,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf, &mut MmuGather<'_, S, A, T>),
    ) {
        let mut clear = Clear {
            mapper: self,
            gather,
            f,
        };
        let visited = self.visit(root, extent, &mut clear);
        debug_assert!(visited.is_continue());
    }

    /// Takes a table out of the entry at `at` when it has become empty.
    fn prune<T: TlbControl>(&self, at: Place, lower: Table, gather: &mut MmuGather<'_, S, A, T>) {
        if self.nr_used(lower) == 0 {
            self.exchange(at.table, at.index, Pte::NONE);
            gather.push_table(lower, at.start());
        }
    }
}

/// Whether a CPU that remembers `old` may do what `new` forbids, or reach another frame.
pub(crate) fn needs_flush(old: Leaf, new: Pte) -> bool {
    if !old.pte.is_present() {
        return false;
    }
    let (before, after) = (old.flags(), new.flags_at(old.level));
    let lost = before.difference(after);
    let gained = after.difference(before);
    !new.is_present()
        || new.pfn_at(old.level) != old.pfn()
        || lost.intersects(PteFlags::RW | PteFlags::D | PteFlags::G)
        || gained.intersects(PteFlags::NX)
        || (lost | gained).intersects(PteFlags::US | PteFlags::CACHE)
}

/// Clears what it finds.
struct Clear<'m, 'a, 'g, 'b, S: PteStore, A: PageSource, T: TlbControl, F> {
    mapper: &'m Mapper<'a, S, A>,
    gather: &'g mut MmuGather<'b, S, A, T>,
    f: F,
}

impl<'b, S, A, T, F> Visitor for Clear<'_, '_, '_, 'b, S, A, T, F>
where
    S: PteStore,
    A: PageSource,
    T: TlbControl,
    F: FnMut(Leaf, &mut MmuGather<'b, S, A, T>),
{
    type Stop = Infallible;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<Infallible, Step> {
        if let Some(lower) = Table::below(pte, at.level) {
            return ControlFlow::Continue(Step::Into(lower));
        }
        if !pte.is_none() {
            let leaf = at.leaf(self.mapper.exchange(at.table, at.index, Pte::NONE));
            if leaf.pte.is_present() {
                self.gather.track(leaf);
            }
            (self.f)(leaf, self.gather);
        }
        ControlFlow::Continue(Step::Next)
    }

    fn leave(&mut self, at: Place, lower: Table) -> ControlFlow<Infallible> {
        self.mapper.prune(at, lower, self.gather);
        ControlFlow::Continue(())
    }
}

/// Replaces what it finds.
struct Protect<'m, 'a, 'g, 'b, S: PteStore, A: PageSource, T: TlbControl, F> {
    mapper: &'m Mapper<'a, S, A>,
    gather: &'g mut MmuGather<'b, S, A, T>,
    f: F,
}

impl<S, A, T, F> Visitor for Protect<'_, '_, '_, '_, S, A, T, F>
where
    S: PteStore,
    A: PageSource,
    T: TlbControl,
    F: FnMut(Leaf) -> Pte,
{
    type Stop = Infallible;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<Infallible, Step> {
        if let Some(lower) = Table::below(pte, at.level) {
            return ControlFlow::Continue(Step::Into(lower));
        }
        if !pte.is_none() {
            let leaf = at.leaf(pte);
            let new = (self.f)(leaf);
            if new != pte {
                self.mapper.update(at.table, at.index, new);
                if needs_flush(leaf, new) {
                    self.gather.track(leaf);
                }
            }
        }
        ControlFlow::Continue(Step::Next)
    }

    fn leave(&mut self, at: Place, lower: Table) -> ControlFlow<Infallible> {
        self.mapper.prune(at, lower, self.gather);
        ControlFlow::Continue(())
    }
}

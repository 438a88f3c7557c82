//! Walks that change nothing.

use core::ops::{ControlFlow, Range};

use kmm_frame::{PhysAddr, VirtAddr};
use kmm_host::{PageSource, PteStore};

use crate::table::Table;
use crate::visit::{Extent, Place, Step, Visitor};
use crate::{MapError, Mapper, Pte, PteFlags, Root, Span, Walk};

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    /// Walks to where `va` is mapped, or to where that ends. Linux: `pgd_offset` and on to `pte_offset_map`.
    ///
    /// An address that is not canonical ends at the top, in a hole.
    #[must_use]
    pub fn walk(&self, root: &Root, va: VirtAddr) -> Walk {
        let mut walk = Walk {
            va,
            level: self.levels.top(),
            table: root.pfn(),
            pte: Pte::NONE,
            granted: PteFlags::P | PteFlags::RW | PteFlags::US,
        };
        if !va.is_canonical(self.levels.va_bits()) {
            return walk;
        }
        let mut table = Table::of_root(root);
        loop {
            walk.table = table.pfn();
            walk.pte = self.read(table, walk.level.index(va));
            let flags = walk.pte.flags_at(walk.level);
            let all = PteFlags::P | PteFlags::RW | PteFlags::US;
            walk.granted &= flags & all | !all;
            walk.granted |= flags & PteFlags::NX;
            match (Table::below(walk.pte, walk.level), walk.level.down()) {
                (Some(lower), Some(below)) => (table, walk.level) = (lower, below),
                _ => return walk,
            }
        }
    }

    /// The physical address behind `va`. Linux: `slow_virt_to_phys`.
    #[must_use]
    pub fn translate(&self, root: &Root, va: VirtAddr) -> Option<PhysAddr> {
        self.walk(root, va).phys()
    }

    /// Tells all of `range`, entries and holes, in rising order. Linux: `walk_page_range`.
    ///
    /// # Errors
    /// [`MapError::NotAligned`], [`MapError::BadRange`].
    pub fn for_each(
        &self,
        root: &Root,
        range: Range<VirtAddr>,
        mut f: impl FnMut(Span),
    ) -> Result<(), MapError> {
        let told = self.try_for_each(root, range, |span| {
            f(span);
            ControlFlow::<()>::Continue(())
        })?;
        debug_assert!(told.is_continue());
        Ok(())
    }

    /// As [`Mapper::for_each`], until `f` breaks.
    ///
    /// # Errors
    /// [`MapError::NotAligned`], [`MapError::BadRange`].
    pub fn try_for_each<B>(
        &self,
        root: &Root,
        range: Range<VirtAddr>,
        f: impl FnMut(Span) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, MapError> {
        let Some(extent) = Extent::new(&range, self.levels)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let mut tell = Tell { hole: None, f };
        let told = self.visit(root, extent, &mut tell);
        Ok(match told {
            ControlFlow::Continue(()) => tell.end_hole(extent.end()),
            ControlFlow::Break(_) => told,
        })
    }
}

/// Tells spans, and joins holes that touch.
struct Tell<F> {
    hole: Option<VirtAddr>,
    f: F,
}

impl<B, F: FnMut(Span) -> ControlFlow<B>> Tell<F> {
    fn end_hole(&mut self, end: VirtAddr) -> ControlFlow<B> {
        match self.hole.take() {
            Some(start) => (self.f)(Span::Hole(start..end)),
            None => ControlFlow::Continue(()),
        }
    }
}

impl<B, F: FnMut(Span) -> ControlFlow<B>> Visitor for Tell<F> {
    type Stop = B;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<B, Step> {
        if pte.is_none() {
            self.hole.get_or_insert(at.first);
            return ControlFlow::Continue(Step::Next);
        }
        if let Some(lower) = Table::below(pte, at.level) {
            return ControlFlow::Continue(Step::Into(lower));
        }
        self.end_hole(at.first)?;
        let leaf = at.leaf(pte);
        (self.f)(if pte.is_present() {
            Span::Mapped(leaf)
        } else {
            Span::NotPresent(leaf)
        })?;
        ControlFlow::Continue(Step::Next)
    }
}

//! One address space's entries into another: the heart of `fork`.

use core::convert::Infallible;
use core::ops::{ControlFlow, Range};

use kmm_frame::VirtAddr;
use kmm_host::{PageSource, PteStore, TlbControl};

use crate::change::needs_flush;
use crate::map::table_entry;
use crate::table::{Table, TablePool};
use crate::visit::{Place, Step, Visitor, is_kernel};
use crate::{Leaf, Level, MapError, Mapper, MmuGather, Pte, Root};

/// Room for a table of each level, indexed by the level.
type Path = [Option<Table>; Level::ALL.len() + 1];

impl<S: PteStore, A: PageSource> Mapper<'_, S, A> {
    /// Copies the entries of `range` to another root, in one pass over the tables: `f` may change the parent's entry
    /// (taking `RW` away), and returns the child's; [`Pte::NONE`] leaves a hole. Linux: `copy_page_range`.
    ///
    /// What must be flushed of the parent goes to `gather`. The child's tables are counted by this mapper's counter; use
    /// [`Mapper::with_tables`] for another.
    ///
    /// # Errors
    /// [`MapError::NotAligned`] if a large page lies partly outside, [`MapError::Occupied`] if the child has something
    /// there, [`MapError`] otherwise; nothing has changed then, in either.
    pub fn copy_user_range<T: TlbControl>(
        &self,
        parent: &mut Root,
        child: &mut Root,
        range: Range<VirtAddr>,
        gather: &mut MmuGather<'_, S, A, T>,
        f: impl FnMut(Leaf, &mut Pte) -> Pte,
    ) -> Result<(), MapError> {
        let Some(extent) = self.writable(child, &range)? else {
            return Ok(());
        };
        if is_kernel(extent.first) {
            return Err(MapError::WrongHalf);
        }
        let mut count = Count {
            mapper: self,
            path: self.path_of(child),
            nr_tables: 0,
        };
        if let ControlFlow::Break(error) = self.visit(parent, extent, &mut count) {
            return Err(error);
        }
        let mut copy = Copy {
            mapper: self,
            path: self.path_of(child),
            pool: self.fill_pool(count.nr_tables)?,
            gather,
            f,
        };
        let visited = self.visit(parent, extent, &mut copy);
        debug_assert!(visited.is_continue());
        self.free_pool(copy.pool);
        Ok(())
    }

    fn path_of(&self, root: &Root) -> Path {
        let mut path = Path::default();
        path[self.levels.top() as usize] = Some(Table::of_root(root));
        path
    }

    /// The child's entry opposite to the parent's at `at`, if the child has a table there.
    fn opposite(&self, path: &Path, at: Place) -> Pte {
        path[at.level as usize].map_or(Pte::NONE, |table| self.read(table, at.index))
    }
}

/// Counts the tables that the child lacks.
struct Count<'m, 'a, S, A> {
    mapper: &'m Mapper<'a, S, A>,
    path: Path,
    nr_tables: usize,
}

impl<S: PteStore, A: PageSource> Visitor for Count<'_, '_, S, A> {
    type Stop = MapError;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<MapError, Step> {
        if pte.is_none() {
            return ControlFlow::Continue(Step::Next);
        }
        let opposite = self.mapper.opposite(&self.path, at);
        let below = Table::below(opposite, at.level);
        match (Table::below(pte, at.level), below) {
            (Some(lower), _) if opposite.is_none() || below.is_some() => {
                self.path[at.level as usize - 1] = below;
                self.nr_tables += usize::from(below.is_none());
                ControlFlow::Continue(Step::Into(lower))
            }
            (None, None) if opposite.is_none() && at.is_whole() => {
                ControlFlow::Continue(Step::Next)
            }
            (None, _) if !at.is_whole() => ControlFlow::Break(MapError::NotAligned),
            _ => ControlFlow::Break(MapError::Occupied),
        }
    }
}

/// Copies, and hangs the child's tables in where the first entry needs them.
struct Copy<'m, 'a, 'g, 'b, S: PteStore, A: PageSource, T: TlbControl, F> {
    mapper: &'m Mapper<'a, S, A>,
    path: Path,
    pool: TablePool,
    gather: &'g mut MmuGather<'b, S, A, T>,
    f: F,
}

impl<S: PteStore, A: PageSource, T: TlbControl, F> Copy<'_, '_, '_, '_, S, A, T, F> {
    /// The child's table at the level of `at`.
    fn child_table(&mut self, at: Place) -> Option<Table> {
        let mut table = self.path[self.mapper.levels.top() as usize]?;
        for level in Level::ALL.into_iter().rev() {
            if level > self.mapper.levels.top() || level <= at.level {
                continue;
            }
            let below = level as usize - 1;
            table = match self.path[below] {
                Some(lower) => lower,
                None => {
                    let lower = self.mapper.take(&mut self.pool);
                    let entry = table_entry(lower, at.first);
                    self.mapper.fill(table, level.index(at.first), entry);
                    self.path[below] = Some(lower);
                    lower
                }
            };
        }
        Some(table)
    }
}

impl<S, A, T, F> Visitor for Copy<'_, '_, '_, '_, S, A, T, F>
where
    S: PteStore,
    A: PageSource,
    T: TlbControl,
    F: FnMut(Leaf, &mut Pte) -> Pte,
{
    type Stop = Infallible;

    fn entry(&mut self, at: Place, pte: Pte) -> ControlFlow<Infallible, Step> {
        if pte.is_none() {
            return ControlFlow::Continue(Step::Next);
        }
        if let Some(lower) = Table::below(pte, at.level) {
            let opposite = self.mapper.opposite(&self.path, at);
            self.path[at.level as usize - 1] = Table::below(opposite, at.level);
            return ControlFlow::Continue(Step::Into(lower));
        }
        let leaf = at.leaf(pte);
        let mut parents = pte;
        let childs = (self.f)(leaf, &mut parents);
        if parents != pte {
            self.mapper.update(at.table, at.index, parents);
            if needs_flush(leaf, parents) {
                self.gather.track(leaf);
            }
        }
        if !childs.is_none() {
            if let Some(table) = self.child_table(at) {
                self.mapper.fill(table, at.index, childs);
            }
        }
        ControlFlow::Continue(Step::Next)
    }
}

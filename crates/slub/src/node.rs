//! What a cache has on one node: its slabs, by how full they are, and the depot. Linux: `struct kmem_cache_node`.
//!
//! A slab is on the list that its count of objects in use says (INV-3): none, `empty`; some, `partial`; all, `full`.
//! Objects come from `partial` first, so that empty slabs stay empty and can go back to the page source; a few are
//! kept, so that a cache at the edge of a slab does not fetch and return a block with each object.

use core::ptr::NonNull;

use kmm_host::{PageBlock, PhysMap};

use crate::depot::Depot;
use crate::geometry::Geometry;
use crate::slab::{Corrupt, Mem, NewSlab, Pushed, Slab, SlabKind, SlabList, SlabState};
use crate::stats::Broken;

/// Empty slabs that a node of a cache keeps. Linux: `min_partial`.
const KEPT_EMPTY: usize = 2;

/// Slabs and stock, for whoever holds the cache's lock.
#[derive(Debug)]
pub(crate) struct Node {
    partial: SlabList,
    full: SlabList,
    empty: SlabList,
    pub(crate) depot: Depot,
    nr_objects: usize,
    nr_pages: usize,
    nr_full_objects: usize,
    pub(crate) counts: NodeCounts,
}

/// What happened on a node of a cache.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct NodeCounts {
    /// Slabs taken from the page source.
    pub(crate) slabs_taken: u64,
    /// Slabs returned to it.
    pub(crate) slabs_returned: u64,
    /// Slabs in use that objects were taken from.
    pub(crate) from_partial: u64,
    /// Objects taken past the CPUs' arrays.
    pub(crate) direct_allocs: u64,
}

/// A slab's free list is broken at this object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokenSlab {
    pub(crate) slab: Slab,
    pub(crate) corrupt: Corrupt,
}

impl Node {
    pub(crate) const fn new() -> Self {
        Self {
            partial: SlabList::new(),
            full: SlabList::new(),
            empty: SlabList::new(),
            depot: Depot::new(),
            nr_objects: 0,
            nr_pages: 0,
            nr_full_objects: 0,
            counts: NodeCounts {
                slabs_taken: 0,
                slabs_returned: 0,
                from_partial: 0,
                direct_allocs: 0,
            },
        }
    }

    /// Passes up to `most` free objects of slabs to `sink`; how many. Linux: `get_partial_node`.
    ///
    /// # Errors
    /// A free object was written to. Its slab has been set aside; objects may have come before.
    pub(crate) fn take<K: SlabKind, P: PhysMap>(
        &mut self,
        mem: Mem<'_, P>,
        geometry: &Geometry,
        most: usize,
        mut sink: impl FnMut(NonNull<u8>),
    ) -> Result<usize, BrokenSlab> {
        let mut nr = 0;
        while nr < most {
            let Some(pfn) = self.partial.first().or(self.empty.first()) else {
                break;
            };
            let Some(slab) = Slab::at(mem, pfn) else {
                break;
            };
            let left = u16::try_from(most - nr).unwrap_or(u16::MAX);
            match slab.take::<K>(geometry, left, &mut sink) {
                Ok(Some(taken)) => {
                    nr += usize::from(taken.count);
                    self.counts.from_partial += u64::from(taken.before.in_use() > 0);
                    self.relist(mem, slab, taken.before, taken.after);
                }
                Ok(None) => {
                    // Fewer are linked than the count says: whoever broke the list has lost them.
                    let Pushed { before, after } = slab.isolate();
                    self.relist(mem, slab, before, after);
                }
                Err(corrupt) => {
                    let Pushed { before, after } = slab.isolate();
                    self.relist(mem, slab, before, after);
                    return Err(BrokenSlab { slab, corrupt });
                }
            }
        }
        Ok(nr)
    }

    /// Puts an object that is in use back into its slab.
    pub(crate) fn push<K: SlabKind, P: PhysMap>(
        &mut self,
        mem: Mem<'_, P>,
        geometry: &Geometry,
        slab: Slab,
        index: u16,
    ) {
        if let Some(Pushed { before, after }) = slab.push::<K>(geometry, index, true) {
            self.relist(mem, slab, before, after);
        }
    }

    /// Takes in a slab that was built without the lock.
    pub(crate) fn attach<P: PhysMap>(&mut self, mem: Mem<'_, P>, new: NewSlab, label: u64) {
        let (objects, nr_pages) = (new.objects(), new.order().nr_pages());
        if let Some(slab) = Slab::adopt(mem, new, label) {
            self.empty.push(mem.map, slab.pfn);
            self.nr_objects += usize::from(objects);
            self.nr_pages += nr_pages;
            self.counts.slabs_taken += 1;
        }
    }

    /// An empty slab beyond those that are kept.
    pub(crate) fn surplus<P: PhysMap>(&mut self, mem: Mem<'_, P>) -> Option<PageBlock> {
        if self.empty.len() > KEPT_EMPTY {
            self.detach_empty(mem)
        } else {
            None
        }
    }

    /// Any empty slab. Linux: `__kmem_cache_shrink`.
    pub(crate) fn detach_empty<P: PhysMap>(&mut self, mem: Mem<'_, P>) -> Option<PageBlock> {
        let slab = Slab::at(mem, self.empty.first()?)?;
        self.empty.remove(mem.map, slab.pfn);
        self.nr_objects -= usize::from(slab.objects());
        self.nr_pages -= slab.order().nr_pages();
        self.counts.slabs_returned += 1;
        Some(slab.disown(mem))
    }

    pub(crate) fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    pub(crate) fn nr_objects(&self) -> usize {
        self.nr_objects
    }

    pub(crate) fn nr_slabs(&self) -> usize {
        self.partial.len() + self.full.len() + self.empty.len()
    }

    pub(crate) fn nr_empty(&self) -> usize {
        self.empty.len()
    }

    /// Objects that are not on free lists. Walks the slabs in between.
    pub(crate) fn nr_in_use<P: PhysMap>(&self, mem: Mem<'_, P>) -> usize {
        let in_use = |pfn| Slab::at(mem, pfn).map_or(0, |slab| usize::from(slab.state().in_use()));
        // The full ones too: somebody may be giving an object back, and wait for the lock to say so.
        self.nr_full_objects + self.partial.iter(mem.map).map(in_use).sum::<usize>()
    }

    /// Calls `visit` with each slab.
    pub(crate) fn for_each_slab<P: PhysMap>(&self, mem: Mem<'_, P>, mut visit: impl FnMut(Slab)) {
        for list in [&self.partial, &self.full, &self.empty] {
            for pfn in list.iter(mem.map) {
                if let Some(slab) = Slab::at(mem, pfn) {
                    visit(slab);
                }
            }
        }
    }

    /// Checks every list, count and free list (INV-2, INV-3).
    pub(crate) fn validate<K: SlabKind, P: PhysMap>(
        &self,
        mem: Mem<'_, P>,
        geometry: &Geometry,
        label: u64,
        name: &'static str,
    ) -> Result<(), Broken> {
        let (mut objects, mut full, mut pages) = (0, 0, 0);
        for (list, wanted) in [
            (&self.partial, Place::Partial),
            (&self.full, Place::Full),
            (&self.empty, Place::Empty),
        ] {
            let mut len = 0;
            for pfn in list.iter(mem.map) {
                let slab = Slab::at(mem, pfn).ok_or(Broken::Descriptor(pfn))?;
                super::check::slab::<K, P>(mem, slab, geometry, label)?;
                if Place::of(slab.state()) != wanted {
                    return Err(Broken::WrongList(pfn));
                }
                objects += usize::from(slab.objects());
                full += usize::from(slab.objects()) * usize::from(wanted == Place::Full);
                pages += slab.order().nr_pages();
                len += 1;
            }
            if len != list.len() {
                return Err(Broken::Counts(name));
            }
        }
        if (objects, full, pages) == (self.nr_objects, self.nr_full_objects, self.nr_pages) {
            Ok(())
        } else {
            Err(Broken::Counts(name))
        }
    }

    /// Moves a slab to the list where it now belongs.
    fn relist<P: PhysMap>(
        &mut self,
        mem: Mem<'_, P>,
        slab: Slab,
        before: SlabState,
        after: SlabState,
    ) {
        let (from, to) = (Place::of(before), Place::of(after));
        if from != to {
            self.list_mut(from).remove(mem.map, slab.pfn);
            self.list_mut(to).push(mem.map, slab.pfn);
            let objects = usize::from(after.objects());
            match (from, to) {
                (_, Place::Full) => self.nr_full_objects += objects,
                (Place::Full, _) => self.nr_full_objects -= objects,
                _ => {}
            }
        }
    }

    fn list_mut(&mut self, place: Place) -> &mut SlabList {
        match place {
            Place::Empty => &mut self.empty,
            Place::Partial => &mut self.partial,
            Place::Full => &mut self.full,
        }
    }
}

/// Which list a slab is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Empty,
    Partial,
    Full,
}

impl Place {
    fn of(state: SlabState) -> Self {
        if state.in_use() == 0 {
            Self::Empty
        } else if state.is_full() {
            Self::Full
        } else {
            Self::Partial
        }
    }
}

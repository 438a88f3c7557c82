//! The state of one cache: its slabs, by how full they are.
//!
//! A slab is on the list that its count of objects in use says (INV-3): none, `empty`; some, `partial`; all, `full`.
//! Objects come from `partial` first, so that empty slabs stay empty and can go back to the page source; a few are
//! kept, so that a cache at the edge of a slab does not fetch and return a block with each object.

use core::ptr::NonNull;

use kmm_frame::{Gfp, PageFlags, Pfn};
use kmm_host::{PageBlock, PhysMap};

use crate::geometry::{CacheFlags, Geometry};
use crate::list::SlabList;
use crate::slab::{Corrupt, Mem, NewSlab, Slab};
use crate::stats::{Broken, CacheInfo};
use crate::{SlubBug, SlubBugKind};

/// Puts an object into its initial state, once per slab and not once per allocation. Linux: `ctor` of
/// `kmem_cache_create`.
///
/// Called with the object's address; it may write as many bytes as the objects of the cache have. Whoever frees an
/// object leaves it in that state.
pub type Ctor = unsafe fn(NonNull<u8>);

/// Empty slabs that a cache keeps. Linux: `min_partial`.
const KEPT_EMPTY: usize = 2;

/// What stays the same while a cache lives; copied out, so that a slab can be built without the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) geometry: Geometry,
    pub(crate) flags: CacheFlags,
    pub(crate) ctor: Option<Ctor>,
}

impl Shape {
    /// What to ask the page source for, on behalf of a request with `gfp`.
    pub(crate) fn page_gfp(&self, gfp: Gfp) -> Gfp {
        let mut gfp = gfp - (Gfp::ZERO | Gfp::HIGHMEM | Gfp::MOVABLE_PAGE | Gfp::RECLAIMABLE);
        gfp.set(Gfp::DMA, self.flags.contains(CacheFlags::CACHE_DMA));
        gfp.set(
            Gfp::RECLAIMABLE,
            self.flags.contains(CacheFlags::RECLAIM_ACCOUNT),
        );
        gfp
    }
}

/// One cache, for whoever holds its lock.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) shape: Shape,
    /// What the heads of its slabs say in `mapping`.
    owner: u64,
    partial: SlabList,
    full: SlabList,
    empty: SlabList,
    nr_objects: usize,
    nr_in_use: usize,
    nr_pages: usize,
    slabs_taken: u64,
    slabs_returned: u64,
}

impl Cache {
    pub(crate) const fn new(shape: Shape, owner: u64) -> Self {
        Self {
            shape,
            owner,
            partial: SlabList::new(),
            full: SlabList::new(),
            empty: SlabList::new(),
            nr_objects: 0,
            nr_in_use: 0,
            nr_pages: 0,
            slabs_taken: 0,
            slabs_returned: 0,
        }
    }

    pub(crate) fn nr_in_use(&self) -> usize {
        self.nr_in_use
    }

    /// A free object; `None` when a slab is needed first.
    ///
    /// Linux: `get_freelist`, `get_partial`, mm/slub.c.
    ///
    /// # Errors
    /// A free object was written to. Its slab has been set aside; ask again.
    pub(crate) fn pop<P: PhysMap>(
        &mut self,
        mem: Mem<'_, P>,
    ) -> Result<Option<NonNull<u8>>, SlubBug> {
        let Some(pfn) = self.partial.first().or(self.empty.first()) else {
            return Ok(None);
        };
        let Some(slab) = Slab::at(mem, pfn) else {
            return Ok(None);
        };
        let before = slab.in_use();
        match slab.pop(&self.shape.geometry) {
            Ok(object) => {
                self.nr_in_use += usize::from(object.is_some());
                self.relist(mem, slab, before);
                Ok(object)
            }
            Err(corrupt) => Err(self.isolate(mem, slab, before, corrupt)),
        }
    }

    /// Takes an object back; the block of a slab that is not needed any more, to be freed without the lock.
    ///
    /// # Errors
    /// What is wrong with the address; nothing has changed then.
    pub(crate) fn push<P: PhysMap>(
        &mut self,
        mem: Mem<'_, P>,
        head: Pfn,
        object: NonNull<u8>,
    ) -> Result<Option<PageBlock>, SlubBugKind> {
        let slab = Slab::at(mem, head).ok_or(SlubBugKind::NotAllocated)?;
        let is_ours = slab.page().test(PageFlags::SLAB | PageFlags::HEAD)
            && slab.page().mapping() == self.owner;
        if !is_ours {
            return Err(SlubBugKind::NotAllocated);
        }
        let geometry = &self.shape.geometry;
        let index = slab
            .index_of(geometry, object)
            .ok_or(SlubBugKind::Misaligned)?;
        let before = slab.in_use();
        if before == 0 || slab.is_free(geometry, index) {
            return Err(SlubBugKind::DoubleFree);
        }
        slab.push(geometry, index);
        self.nr_in_use -= 1;
        self.relist(mem, slab, before);
        Ok(self.surplus(mem))
    }

    /// Takes in a slab that was built without the lock.
    pub(crate) fn attach<P: PhysMap>(&mut self, mem: Mem<'_, P>, new: NewSlab) {
        if let Some(slab) = Slab::adopt(mem, new, self.owner) {
            self.empty.push(mem.map, slab.pfn);
            self.nr_objects += usize::from(slab.objects());
            self.nr_pages += slab.order().nr_pages();
            self.slabs_taken += 1;
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
        self.slabs_returned += 1;
        Some(slab.disown(mem))
    }

    pub(crate) fn info(&self) -> CacheInfo {
        let geometry = &self.shape.geometry;
        let nr_slabs = self.partial.len() + self.full.len() + self.empty.len();
        CacheInfo {
            name: self.shape.name,
            active_objs: self.nr_in_use,
            num_objs: self.nr_objects,
            objsize: geometry.stride,
            object_size: geometry.object_size,
            align: geometry.align,
            objperslab: usize::from(geometry.objects(geometry.order)),
            pagesperslab: geometry.order.nr_pages(),
            active_slabs: nr_slabs - self.empty.len(),
            num_slabs: nr_slabs,
            nr_pages: self.nr_pages,
            flags: self.shape.flags,
            slabs_taken: self.slabs_taken,
            slabs_returned: self.slabs_returned,
        }
    }

    /// Calls `visit` with the head and size of each slab.
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
    pub(crate) fn validate<P: PhysMap>(&self, mem: Mem<'_, P>) -> Result<(), Broken> {
        let (mut objects, mut in_use, mut pages) = (0, 0, 0);
        for list in [&self.partial, &self.full, &self.empty] {
            let mut len = 0;
            for pfn in list.iter(mem.map) {
                let slab = Slab::at(mem, pfn).ok_or(Broken::Descriptor(pfn))?;
                self.validate_slab(mem, slab)?;
                if !core::ptr::eq(self.list_for(&slab, slab.in_use()), list) {
                    return Err(Broken::WrongList(pfn));
                }
                objects += usize::from(slab.objects());
                in_use += usize::from(slab.in_use());
                pages += slab.order().nr_pages();
                len += 1;
            }
            if len != list.len() {
                return Err(Broken::Counts(self.shape.name));
            }
        }
        if (objects, in_use, pages) == (self.nr_objects, self.nr_in_use, self.nr_pages) {
            Ok(())
        } else {
            Err(Broken::Counts(self.shape.name))
        }
    }

    fn validate_slab<P: PhysMap>(&self, mem: Mem<'_, P>, slab: Slab) -> Result<(), Broken> {
        let head_marked = slab.page().test(PageFlags::SLAB | PageFlags::HEAD)
            && slab.page().mapping() == self.owner;
        let tails_marked = (1..slab.order().nr_pages()).all(|nr| {
            mem.map.get(slab.pfn + nr).is_some_and(|tail| {
                tail.test(PageFlags::SLAB | PageFlags::TAIL)
                    && tail.owner_word() == slab.pfn.index() as u64
            })
        });
        if !head_marked || !tails_marked || slab.in_use() > slab.objects() {
            return Err(Broken::Descriptor(slab.pfn));
        }
        let mut free = 0;
        for index in slab.free_objects(&self.shape.geometry) {
            index.map_err(|_| Broken::Freelist(slab.pfn))?;
            free += 1;
        }
        if free == slab.objects() - slab.in_use() {
            Ok(())
        } else {
            Err(Broken::Freelist(slab.pfn))
        }
    }

    /// Moves a slab that had `before` objects in use to the list where it now belongs.
    fn relist<P: PhysMap>(&mut self, mem: Mem<'_, P>, slab: Slab, before: u16) {
        let from = self.list_index(&slab, before);
        let to = self.list_index(&slab, slab.in_use());
        if from != to {
            self.list_mut(from).remove(mem.map, slab.pfn);
            self.list_mut(to).push(mem.map, slab.pfn);
        }
    }

    fn isolate<P: PhysMap>(
        &mut self,
        mem: Mem<'_, P>,
        slab: Slab,
        before: u16,
        Corrupt(index): Corrupt,
    ) -> SlubBug {
        self.nr_in_use += usize::from(slab.objects() - before);
        slab.isolate();
        self.relist(mem, slab, before);
        SlubBug {
            kind: SlubBugKind::CorruptFreelist,
            cache: Some(self.shape.name),
            address: slab.object(&self.shape.geometry, index).addr().get(),
        }
    }

    fn list_for(&self, slab: &Slab, in_use: u16) -> &SlabList {
        match self.list_index(slab, in_use) {
            ListIndex::Empty => &self.empty,
            ListIndex::Partial => &self.partial,
            ListIndex::Full => &self.full,
        }
    }

    fn list_mut(&mut self, index: ListIndex) -> &mut SlabList {
        match index {
            ListIndex::Empty => &mut self.empty,
            ListIndex::Partial => &mut self.partial,
            ListIndex::Full => &mut self.full,
        }
    }

    fn list_index(&self, slab: &Slab, in_use: u16) -> ListIndex {
        if in_use == 0 {
            ListIndex::Empty
        } else if in_use == slab.objects() {
            ListIndex::Full
        } else {
            ListIndex::Partial
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ListIndex {
    Empty,
    Partial,
    Full,
}

//! One slab: its descriptors, its state, and the objects on it.
//!
//! | word of a descriptor | holds |
//! |---|---|
//! | flags | `SLAB`, and `HEAD` or `TAIL` |
//! | `mapping`, of every frame | the slab's label: node and slot of the cache, sealed with the allocator's key |
//! | `owner_word`, of every frame | the head's frame |
//! | `private`, of the head | its state: [`state`] |
//! | `index`, of the head | where the array of its kind is, if that is not on the slab |
//! | `lru` links, of the head | neighbours on the cache's list |
//!
//! So `kfree` looks at one descriptor, that of the frame which its address is in, and knows the cache.
#![expect(unsafe_code, reason = "objects become pointers here")]

use core::ptr::NonNull;
use core::sync::atomic;

use kmm_frame::{MemMap, Order, PAGE_SIZE, Page, PageFlags, Pfn};
use kmm_host::{PageBlock, PhysMap};

use crate::cache::Ctor;
use crate::geometry::Geometry;

mod in_object;
mod index_array;
mod kind;
mod list;
mod shuffle;
mod state;

pub use in_object::InObject;
pub use index_array::IndexArray;
pub use kind::SlabKind;
pub(crate) use list::SlabList;
pub(crate) use shuffle::Shuffle;
pub(crate) use state::{NIL, Pushed, SlabState, Taken};

/// What is needed to reach slabs: descriptors and bytes.
#[derive(Debug)]
pub(crate) struct Mem<'a, P> {
    pub(crate) map: MemMap,
    pub(crate) phys: &'a P,
}

impl<P> Clone for Mem<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Mem<'_, P> {}

/// Somebody wrote to the free object with this number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt(pub u16);

/// A slab of a cache, by its head's descriptor and its first byte.
#[derive(Clone, Copy, Debug)]
pub struct Slab {
    pub(crate) pfn: Pfn,
    page: &'static Page,
    base: NonNull<u8>,
}

/// A slab whose objects are all free and threaded, but which nobody knows yet.
#[derive(Debug)]
pub(crate) struct NewSlab {
    block: PageBlock,
    objects: u16,
}

impl NewSlab {
    /// Threads the objects of a fresh block, constructing each. No lock is held: nobody else knows the block.
    ///
    /// Gives the block back when it has no descriptors or lies outside the permanent map.
    pub(crate) fn build<K: SlabKind, P: PhysMap>(
        mem: Mem<'_, P>,
        geometry: &Geometry,
        ctor: Option<Ctor>,
        colour: u8,
        mut shuffle: Option<Shuffle>,
        block: PageBlock,
    ) -> Result<Self, PageBlock> {
        if reachable(mem, &block).is_none() {
            return Err(block);
        }
        let Some(slab) = Slab::at(mem, block.pfn()) else {
            return Err(block);
        };
        let objects = geometry.objects(block.order());
        let fresh = SlabState::fresh(objects, block.order().get(), colour);
        slab.page.set_private(fresh.word());
        let mut first = NIL;
        for index in 0..objects {
            if geometry.is_debugged() {
                crate::debug::fill_fresh(slab.object(geometry, index), geometry);
            }
            if let Some(ctor) = ctor {
                // SAFETY: the object lies within the block (INV-1), which is ours alone.
                unsafe { ctor(slab.object(geometry, index)) };
            }
            if let Some(shuffle) = &mut shuffle {
                first = shuffle.insert::<K>(&slab, geometry, first, index);
            } else {
                let next = if index + 1 == objects { NIL } else { index + 1 };
                K::set_next(&slab, geometry, index, next);
            }
        }
        if shuffle.is_some() {
            slab.page.set_private(fresh.starting_with(first).word());
        }
        Ok(Self { block, objects })
    }

    pub(crate) fn first(&self) -> Pfn {
        self.block.pfn()
    }

    pub(crate) const fn order(&self) -> Order {
        self.block.order()
    }

    pub(crate) const fn objects(&self) -> u16 {
        self.objects
    }

    /// The block again, its descriptor as it came.
    pub(crate) fn into_block(self, map: MemMap) -> PageBlock {
        map.page(self.block.pfn()).set_private(0);
        self.block
    }
}

/// The first byte of a block that is wholly within the permanent map, in one piece, with descriptors.
pub(crate) fn reachable<P: PhysMap>(mem: Mem<'_, P>, block: &PageBlock) -> Option<NonNull<u8>> {
    let last = block.pfn() + (block.order().nr_pages() - 1);
    mem.map.get(block.pfn())?;
    mem.map.get(last)?;
    let base = mem.phys.direct(block.pfn())?;
    let end = mem.phys.direct(last)?;
    (end.addr().get() - base.addr().get() == (last - block.pfn()) * PAGE_SIZE).then_some(base)
}

impl Slab {
    /// The slab whose head is `pfn`; the caller knows that it is one.
    #[inline]
    pub(crate) fn at<P: PhysMap>(mem: Mem<'_, P>, pfn: Pfn) -> Option<Self> {
        Some(Self {
            pfn,
            page: mem.map.get(pfn)?,
            base: mem.phys.direct(pfn)?,
        })
    }

    /// Marks a new slab's descriptors. The cache's lock is held, so who sees the marks sees all of them.
    pub(crate) fn adopt<P: PhysMap>(mem: Mem<'_, P>, new: NewSlab, label: u64) -> Option<Self> {
        let slab = Self::at(mem, new.block.pfn())?;
        let (head, order) = new.block.into_raw();
        for nr in 0..order.nr_pages() {
            let page = mem.map.page(head + nr);
            page.set_owner_word(head.index() as u64);
            page.set(
                PageFlags::SLAB
                    | if nr == 0 {
                        PageFlags::HEAD
                    } else {
                        PageFlags::TAIL
                    },
            );
            page.set_mapping(label);
        }
        Some(slab)
    }

    /// Takes the marks away; the block, to be given back. The slab is on no list and none of its objects is in use.
    pub(crate) fn disown<P: PhysMap>(self, mem: Mem<'_, P>) -> PageBlock {
        let order = self.order();
        for nr in 0..order.nr_pages() {
            let page = mem.map.page(self.pfn + nr);
            page.set_mapping(0);
            page.set_owner_word(0);
            page.clear(PageFlags::SLAB | PageFlags::HEAD | PageFlags::TAIL);
        }
        self.page.set_private(0);
        // SAFETY: `adopt` took the block apart, and no object of it is in use any more.
        unsafe { PageBlock::from_raw(self.pfn, order) }
    }

    pub(crate) fn page(&self) -> &'static Page {
        self.page
    }

    #[inline]
    pub(crate) fn state(&self) -> SlabState {
        SlabState::from_word(self.page.private())
    }

    #[inline]
    pub(crate) fn objects(&self) -> u16 {
        self.state().objects()
    }

    pub(crate) fn order(&self) -> Order {
        Order::new(self.state().order()).unwrap_or(Order::ZERO)
    }

    /// Where it begins.
    pub(crate) fn start(&self) -> usize {
        self.base.addr().get()
    }

    /// The number of the object that starts at `address`.
    #[inline]
    pub(crate) fn index_of(&self, geometry: &Geometry, address: NonNull<u8>) -> Option<u16> {
        let start = self.base.addr().get() + geometry.colour_bytes(self.state().colour());
        let offset = u32::try_from(address.addr().get().checked_sub(start)?).ok()?;
        let stride = geometry.stride32();
        let index = offset / stride;
        if offset % stride != 0 || index >= u32::from(self.objects()) {
            return None;
        }
        u16::try_from(index).ok()
    }

    #[inline]
    pub(crate) fn object(&self, geometry: &Geometry, index: u16) -> NonNull<u8> {
        let colour = geometry.colour_bytes(self.state().colour());
        // SAFETY: objects lie within their slab (INV-1), whose pages are one piece of the permanent map.
        unsafe { self.base.add(colour + usize::from(index) * geometry.stride) }
    }

    /// Takes up to `most` objects out and passes them to `sink`. Under the cache's lock.
    pub(crate) fn take<K: SlabKind>(
        &self,
        geometry: &Geometry,
        most: u16,
        mut sink: impl FnMut(NonNull<u8>),
    ) -> Result<Option<Taken>, Corrupt> {
        let word = self.page.private_word();
        let next = |index| K::next(self, geometry, index);
        let Some(taken) = state::take(word, most, next)? else {
            return Ok(None);
        };
        let mut at = taken.first;
        for _ in 0..taken.count {
            let index = at;
            if index == NIL {
                // Somebody has written to them since they were read: those behind are lost.
                break;
            }
            at = K::next(self, geometry, index).unwrap_or(NIL);
            K::set_used(self, geometry, index);
            sink(self.object(geometry, index));
        }
        Ok(Some(taken))
    }

    /// Puts an object back; `None` when the slab would change lists, and the lock is not held.
    #[inline]
    pub(crate) fn push<K: SlabKind>(
        &self,
        geometry: &Geometry,
        index: u16,
        is_locked: bool,
    ) -> Option<Pushed> {
        state::push(self.page.private_word(), index, is_locked, |next| {
            K::set_next(self, geometry, index, next);
        })
    }

    /// Whether the object is on the free list. Under the cache's lock.
    pub(crate) fn is_free<K: SlabKind>(&self, geometry: &Geometry, index: u16) -> bool {
        // A broken list proves nothing; 48 equal bits are then taken for proof.
        K::looks_free(self, geometry, index)
            && self
                .free_objects::<K>(geometry)
                .any(|free| free == Ok(index) || free.is_err())
    }

    /// The numbers of the free objects, or where the list is broken; never more than there are objects.
    pub(crate) fn free_objects<'a, K: SlabKind>(
        &'a self,
        geometry: &'a Geometry,
    ) -> impl Iterator<Item = Result<u16, Corrupt>> + 'a {
        let mut at = Ok(self.state().first());
        core::iter::from_fn(move || match at {
            Ok(NIL) => None,
            Ok(index) => {
                at = K::next(self, geometry, index);
                match at {
                    Ok(_) => Some(Ok(index)),
                    Err(corrupt) => {
                        at = Ok(NIL);
                        Some(Err(corrupt))
                    }
                }
            }
            Err(_) => None,
        })
        .take(usize::from(self.objects()) + 1)
    }

    /// Gives up every free object: none will be handed out, and the slab never becomes empty.
    pub(crate) fn isolate(&self) -> Pushed {
        state::isolate(self.page.private_word())
    }
}

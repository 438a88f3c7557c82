//! One slab: its descriptor's words, and the free list that threads its free objects.
//!
//! | word of the head's descriptor | holds |
//! |---|---|
//! | flags | `SLAB`, `HEAD`; tails have `SLAB`, `TAIL` |
//! | `mapping` | number of the cache's slot, plus one |
//! | `private` | bits 0..16 objects in use, 16..32 objects, 32..40 order |
//! | `owner_word` | number of the first free object; of a tail: the head's frame |
//! | `lru` links | neighbours on the cache's list |
//!
//! A free object holds one word: the number of the next free object, and a tag made of its own address. A word whose
//! tag does not fit was written by somebody else, and is not followed (INV-4). A tag that does fit at a free says
//! "probably free already", and the list is walked to be sure; so a double free costs a walk and all others a compare.
#![expect(unsafe_code, reason = "free objects hold the free list")]

use core::ptr::NonNull;

use kmm_frame::{MemMap, Order, PAGE_SIZE, Page, PageFlags, Pfn};
use kmm_host::{PageBlock, PhysMap};

use crate::cache::Ctor;
use crate::geometry::Geometry;

/// The end of a free list.
pub(crate) const NIL: u16 = u16::MAX;
const TAG_MASK: u64 = !(NIL as u64);

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
pub(crate) struct Corrupt(pub(crate) u16);

/// A slab of a cache, by its head's descriptor and its first byte.
#[derive(Clone, Copy)]
pub(crate) struct Slab {
    pub(crate) pfn: Pfn,
    page: &'static Page,
    base: NonNull<u8>,
}

/// A slab whose objects are all free and threaded, but whose descriptors are untouched.
#[derive(Debug)]
pub(crate) struct NewSlab {
    block: PageBlock,
    objects: u16,
}

impl NewSlab {
    /// Threads the objects of a fresh block, constructing each. No lock is held: nobody else knows the block.
    ///
    /// Gives the block back when it has no descriptors or lies outside the permanent map.
    pub(crate) fn build<P: PhysMap>(
        mem: Mem<'_, P>,
        geometry: &Geometry,
        ctor: Option<Ctor>,
        block: PageBlock,
    ) -> Result<Self, PageBlock> {
        let Some(base) = reachable(mem, &block) else {
            return Err(block);
        };
        let objects = geometry.objects(block.order());
        for index in 0..objects {
            let object = object_at(base, geometry, index);
            if let Some(ctor) = ctor {
                // SAFETY: the object lies within the block (INV-1), which is ours alone.
                unsafe { ctor(object) };
            }
            let next = if index + 1 == objects { NIL } else { index + 1 };
            set_word(object, geometry, seal(object, next));
        }
        Ok(Self { block, objects })
    }

    pub(crate) fn first(&self) -> Pfn {
        self.block.pfn()
    }

    pub(crate) const fn order(&self) -> Order {
        self.block.order()
    }

    pub(crate) fn into_block(self) -> PageBlock {
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
    pub(crate) fn at<P: PhysMap>(mem: Mem<'_, P>, pfn: Pfn) -> Option<Self> {
        Some(Self {
            pfn,
            page: mem.map.get(pfn)?,
            base: mem.phys.direct(pfn)?,
        })
    }

    /// Marks a new slab's descriptors. The cache's lock is held, so who sees the marks sees all of them.
    pub(crate) fn adopt<P: PhysMap>(mem: Mem<'_, P>, new: NewSlab, owner: u64) -> Option<Self> {
        let slab = Self::at(mem, new.block.pfn())?;
        let objects = u64::from(new.objects);
        let (head, order) = new.block.into_raw();
        for nr in 1..order.nr_pages() {
            let tail = mem.map.page(head + nr);
            tail.set_owner_word(head.index() as u64);
            tail.set(PageFlags::SLAB | PageFlags::TAIL);
        }
        slab.page.set_mapping(owner);
        slab.page
            .set_private(objects << 16 | u64::from(order.get()) << 32);
        slab.page.set_owner_word(0);
        slab.page.set(PageFlags::SLAB | PageFlags::HEAD);
        Some(slab)
    }

    /// Takes the marks away; the block, to be given back. The slab is on no list and none of its objects is in use.
    pub(crate) fn disown<P: PhysMap>(self, mem: Mem<'_, P>) -> PageBlock {
        let order = self.order();
        for nr in 0..order.nr_pages() {
            let page = mem.map.page(self.pfn + nr);
            page.clear(PageFlags::SLAB | PageFlags::HEAD | PageFlags::TAIL);
            page.set_owner_word(0);
        }
        self.page.set_mapping(0);
        self.page.set_private(0);
        // SAFETY: `adopt` took the block apart, and no object of it is in use any more.
        unsafe { PageBlock::from_raw(self.pfn, order) }
    }

    pub(crate) fn page(&self) -> &'static Page {
        self.page
    }

    pub(crate) fn in_use(&self) -> u16 {
        field(self.page.private())
    }

    pub(crate) fn objects(&self) -> u16 {
        field(self.page.private() >> 16)
    }

    pub(crate) fn order(&self) -> Order {
        let order = (self.page.private() >> 32).to_le_bytes()[0];
        Order::new(order).unwrap_or(Order::ZERO)
    }

    /// The number of the first free object.
    pub(crate) fn first_free(&self) -> u16 {
        field(self.page.owner_word())
    }

    /// The number of the object that starts at `address`.
    pub(crate) fn index_of(&self, geometry: &Geometry, address: NonNull<u8>) -> Option<u16> {
        let offset = address.addr().get().checked_sub(self.base.addr().get())?;
        let index = offset / geometry.stride;
        if offset % geometry.stride != 0 || index >= usize::from(self.objects()) {
            return None;
        }
        u16::try_from(index).ok()
    }

    pub(crate) fn object(&self, geometry: &Geometry, index: u16) -> NonNull<u8> {
        object_at(self.base, geometry, index)
    }

    /// Takes the first free object out.
    pub(crate) fn pop(&self, geometry: &Geometry) -> Result<Option<NonNull<u8>>, Corrupt> {
        let index = self.first_free();
        if index == NIL {
            return Ok(None);
        }
        let next = self.next_of(geometry, index)?;
        let object = self.object(geometry, index);
        // Else an object that its user never wrote to would look free when it is freed.
        set_word(object, geometry, 0);
        self.page.set_owner_word(u64::from(next));
        self.page.add_private(1);
        Ok(Some(object))
    }

    /// Puts an object back in front.
    pub(crate) fn push(&self, geometry: &Geometry, index: u16) {
        let object = self.object(geometry, index);
        set_word(object, geometry, seal(object, self.first_free()));
        self.page.set_owner_word(u64::from(index));
        self.page.add_private(-1);
    }

    /// Whether the object is on the free list.
    pub(crate) fn is_free(&self, geometry: &Geometry, index: u16) -> bool {
        let object = self.object(geometry, index);
        let looks_free = word(object, geometry) & TAG_MASK == tag(object);
        // A broken list proves nothing; 48 equal bits are then taken for proof.
        looks_free
            && self
                .free_objects(geometry)
                .any(|free| free == Ok(index) || free.is_err())
    }

    /// The numbers of the free objects, or where the list is broken; never more than there are objects.
    pub(crate) fn free_objects<'a>(
        &'a self,
        geometry: &'a Geometry,
    ) -> impl Iterator<Item = Result<u16, Corrupt>> + 'a {
        let mut at = Ok(self.first_free());
        core::iter::from_fn(move || match at {
            Ok(NIL) => None,
            Ok(index) => {
                at = self.next_of(geometry, index);
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
    pub(crate) fn isolate(&self) {
        let objects = u64::from(self.objects());
        let order = u64::from(self.order().get());
        self.page.set_private(objects | objects << 16 | order << 32);
        self.page.set_owner_word(u64::from(NIL));
    }

    fn next_of(&self, geometry: &Geometry, index: u16) -> Result<u16, Corrupt> {
        let object = self.object(geometry, index);
        let word = word(object, geometry);
        let next = field(word);
        if word & TAG_MASK == tag(object) && (next < self.objects() || next == NIL) {
            Ok(next)
        } else {
            Err(Corrupt(index))
        }
    }
}

/// The low 16 bits.
fn field(word: u64) -> u16 {
    let bytes = word.to_le_bytes();
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// 48 bits that stand for an object's address.
fn tag(object: NonNull<u8>) -> u64 {
    (object.addr().get() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & TAG_MASK
}

fn seal(object: NonNull<u8>, next: u16) -> u64 {
    tag(object) | u64::from(next)
}

fn object_at(base: NonNull<u8>, geometry: &Geometry, index: u16) -> NonNull<u8> {
    // SAFETY: objects lie within their slab (INV-1), whose pages are one piece of the permanent map.
    unsafe { base.add(usize::from(index) * geometry.stride) }
}

fn word(object: NonNull<u8>, geometry: &Geometry) -> u64 {
    // SAFETY: the word lies within the object's stride (INV-1).
    let word = unsafe { object.add(geometry.word_at) }.cast::<u64>();
    // SAFETY: in the slab and aligned (INV-1); the cache's lock is held, and the object is free or being freed (INV-2).
    unsafe { word.read() }
}

fn set_word(object: NonNull<u8>, geometry: &Geometry, value: u64) {
    // SAFETY: the word lies within the object's stride (INV-1).
    let word = unsafe { object.add(geometry.word_at) }.cast::<u64>();
    // SAFETY: in the slab and aligned (INV-1); the cache's lock is held, and the object is free or being freed (INV-2).
    unsafe { word.write(value) };
}

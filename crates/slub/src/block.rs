//! A block: a batch of objects by their addresses, in memory of an internal cache.
#![expect(unsafe_code, reason = "memory of an internal cache becomes blocks")]

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};

/// Pointers in a block.
pub(crate) const BLOCK_OBJECTS: usize = 61;
pub(crate) const BLOCK_BYTES: usize = size_of::<Block>();

/// Up to [`BLOCK_OBJECTS`] objects, and the blocks behind it.
#[repr(C)]
pub(crate) struct Block {
    pub(crate) next: Option<BlockBox>,
    /// Of the first block of a bundle: the first block of the next.
    pub(crate) next_bundle: Option<BlockBox>,
    /// Of the first block of a bundle: objects in all blocks of it.
    pub(crate) nr_in_bundle: u32,
    pub(crate) len: u32,
    /// The first `len` are objects.
    pub(crate) objects: [*mut u8; BLOCK_OBJECTS],
}

impl Block {
    /// The objects in it.
    #[inline]
    pub(crate) fn objects(&self) -> &[*mut u8] {
        &self.objects[..(self.len as usize).min(BLOCK_OBJECTS)]
    }

    /// The first so many are objects.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a small number")]
    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = len.min(BLOCK_OBJECTS) as u32;
    }

    /// Takes the last object out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let object = *self.objects().last()?;
        self.len -= 1;
        NonNull::new(object)
    }
}

/// The only pointer to a block. Whoever lets it go loses the memory.
pub(crate) struct BlockBox(NonNull<Block>);

// SAFETY: the only pointer to the block; the objects in it are nobody's else.
unsafe impl Send for BlockBox {}

impl BlockBox {
    /// An empty block in that memory.
    ///
    /// # Safety
    /// `memory` has room for a [`Block`], aligned, and is nobody else's until [`BlockBox::into_memory`].
    pub(crate) unsafe fn new(memory: NonNull<u8>) -> Self {
        let place = memory.cast::<Block>();
        let block = Block {
            next: None,
            next_bundle: None,
            nr_in_bundle: 0,
            len: 0,
            objects: [ptr::null_mut(); BLOCK_OBJECTS],
        };
        // SAFETY: the caller's obligation.
        unsafe { place.write(block) };
        Self(place)
    }

    /// The memory again.
    pub(crate) fn into_memory(self) -> NonNull<u8> {
        self.0.cast()
    }
}

impl Deref for BlockBox {
    type Target = Block;

    #[inline]
    fn deref(&self) -> &Block {
        // SAFETY: a block (`new`), and `self` is borrowed.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for BlockBox {
    #[inline]
    fn deref_mut(&mut self) -> &mut Block {
        // SAFETY: as above, and the only pointer to it.
        unsafe { self.0.as_mut() }
    }
}

const _: () = assert!(BLOCK_BYTES == 512);

impl fmt::Debug for BlockBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockBox").field(&self.0).finish()
    }
}

//! The depot of a cache and node: batches of free objects that no CPU wants just now. Linux: `struct node_barn`.
//!
//! Bonwick and Adams, "Magazines and Vmem" (USENIX 2001). A CPU whose array is full leaves a batch, one whose array is empty
//! takes one: one lock for as many objects, and none of them is touched. Objects here count as in use for their slabs. The
//! depot is bounded in bytes and emptied when pages are short.
#![expect(unsafe_code, reason = "blocks of pointers, chained")]

use core::ptr::{self, NonNull};

/// Pointers in a block.
pub(crate) const BLOCK_OBJECTS: usize = 62;

/// A batch: an object of an internal cache.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Block {
    next: *mut Block,
    len: usize,
    objects: [*mut u8; BLOCK_OBJECTS],
}

/// Batches, the one that came last first, and blocks that are empty.
#[derive(Debug)]
pub(crate) struct Depot {
    full: *mut Block,
    spare: *mut Block,
    nr_objects: usize,
}

// SAFETY: blocks belong to the depot alone, whoever holds its lock.
unsafe impl Send for Depot {}

impl Depot {
    pub(crate) const fn new() -> Self {
        Self {
            full: ptr::null_mut(),
            spare: ptr::null_mut(),
            nr_objects: 0,
        }
    }

    /// Objects in all batches.
    pub(crate) const fn nr_objects(&self) -> usize {
        self.nr_objects
    }

    pub(crate) const fn has_spare(&self) -> bool {
        !self.spare.is_null()
    }

    /// Takes in an empty block.
    ///
    /// # Safety
    /// `memory` has room for a [`Block`], aligned, nobody else's until [`Depot::remove_spare`] returns it.
    pub(crate) unsafe fn add_spare(&mut self, memory: NonNull<u8>) {
        let block = memory.cast::<Block>().as_ptr();
        // SAFETY: the caller's obligation.
        unsafe { (*block).next = self.spare };
        // SAFETY: as above.
        unsafe { (*block).len = 0 };
        self.spare = block;
    }

    /// Gives an empty block up.
    pub(crate) fn remove_spare(&mut self) -> Option<NonNull<u8>> {
        let block = NonNull::new(self.spare)?;
        // SAFETY: a block of ours (`add_spare`).
        self.spare = unsafe { (*block.as_ptr()).next };
        Some(block.cast())
    }

    /// Takes in up to `most` objects that `fill` moves into an empty block, which there is, and says how many they are.
    pub(crate) fn put(&mut self, most: usize, fill: impl FnOnce(&mut [*mut u8]) -> usize) {
        let block = self.spare;
        if block.is_null() {
            return;
        }
        // SAFETY: a block of ours.
        let block_ref = unsafe { &mut *block };
        self.spare = block_ref.next;
        block_ref.len = fill(&mut block_ref.objects[..most.min(BLOCK_OBJECTS)]);
        block_ref.next = self.full;
        self.full = block;
        self.nr_objects += block_ref.len;
    }

    /// Passes the batch that came last to `sink`; whether there was one.
    #[inline]
    pub(crate) fn take(&mut self, sink: impl FnOnce(&[*mut u8])) -> bool {
        let block = self.full;
        if block.is_null() {
            return false;
        }
        // SAFETY: a block of ours.
        let block_ref = unsafe { &mut *block };
        sink(&block_ref.objects[..block_ref.len.min(BLOCK_OBJECTS)]);
        self.full = block_ref.next;
        block_ref.next = self.spare;
        self.spare = block;
        self.nr_objects -= block_ref.len;
        true
    }

    /// Takes a single object.
    pub(crate) fn take_one(&mut self) -> Option<NonNull<u8>> {
        let block = self.full;
        if block.is_null() {
            return None;
        }
        // SAFETY: a block of ours.
        let block_ref = unsafe { &mut *block };
        block_ref.len -= 1;
        self.nr_objects -= 1;
        let object = NonNull::new(block_ref.objects[block_ref.len]);
        if block_ref.len == 0 {
            self.full = block_ref.next;
            block_ref.next = self.spare;
            self.spare = block;
        }
        object
    }

    /// Calls `visit` with each object.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(NonNull<u8>)) {
        let mut block = self.full;
        while !block.is_null() {
            // SAFETY: a block of ours.
            let block_ref = unsafe { &*block };
            let objects = block_ref.objects.iter().take(block_ref.len);
            objects
                .filter_map(|object| NonNull::new(*object))
                .for_each(&mut visit);
            block = block_ref.next;
        }
    }
}

pub(crate) const BLOCK_BYTES: usize = size_of::<Block>();
const _: () = assert!(BLOCK_BYTES == 512);

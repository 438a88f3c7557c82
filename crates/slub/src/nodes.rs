//! What a cache has on each node: the first in place, the others when there is something on them.
#![expect(unsafe_code, reason = "the other nodes' lists lie in a page")]

use core::ptr::{self, NonNull};

use kmm_frame::{MAX_NODES, Order, Pfn};

use crate::node::Node;

/// The lists of each node.
#[derive(Debug)]
pub(crate) struct Nodes {
    first: Node,
    /// Of the others: an array of `MAX_NODES - 1`, in a page of its own, which is this frame.
    more: *mut Node,
    page: Option<Pfn>,
}

// SAFETY: the page belongs to the cache alone, whoever holds its lock.
unsafe impl Send for Nodes {}

/// The page for the other nodes' lists.
pub(crate) const MORE_ORDER: Order = Order::ZERO;
const _: () = assert!((MAX_NODES - 1) * size_of::<Node>() <= MORE_ORDER.size_bytes());

impl Nodes {
    pub(crate) const fn new() -> Self {
        Self {
            first: Node::new(),
            more: ptr::null_mut(),
            page: None,
        }
    }

    /// Whether there is room for what lies on that node.
    pub(crate) fn has(&self, node: usize) -> bool {
        node == 0 || !self.more.is_null()
    }

    /// Makes room for the other nodes, in a page at `memory`; whether there was none.
    ///
    /// # Safety
    /// The page is mapped there, and nobody else's until [`Nodes::remove_more`] returns it.
    pub(crate) unsafe fn add_more(&mut self, memory: NonNull<u8>, page: Pfn) -> bool {
        if !self.more.is_null() {
            return false;
        }
        let first = memory.cast::<Node>().as_ptr();
        for nr in 0..MAX_NODES - 1 {
            // SAFETY: all of them fit.
            let place = unsafe { first.add(nr) };
            // SAFETY: the caller's obligation.
            unsafe { place.write(Node::new()) };
        }
        self.more = first;
        self.page = Some(page);
        true
    }

    /// Gives the page up: nothing is on the other nodes.
    pub(crate) fn remove_more(&mut self) -> Option<Pfn> {
        self.more = ptr::null_mut();
        self.page.take()
    }

    /// The page of the other nodes' lists.
    pub(crate) const fn page(&self) -> Option<Pfn> {
        self.page
    }

    /// What lies on a node; on the first, when there is no room for others.
    pub(crate) fn get_mut(&mut self, node: usize) -> &mut Node {
        if node == 0 || self.more.is_null() || node >= MAX_NODES {
            return &mut self.first;
        }
        // SAFETY: within the array.
        let node = unsafe { self.more.add(node - 1) };
        // SAFETY: `add_more` has written all of them, and `self` is borrowed.
        unsafe { &mut *node }
    }

    /// Each node that there is room for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        let len = if self.more.is_null() {
            0
        } else {
            MAX_NODES - 1
        };
        let first = NonNull::new(self.more).unwrap_or(NonNull::dangling());
        // SAFETY: so many were written by `add_more`; none if there is no array.
        let more = unsafe { core::slice::from_raw_parts(first.as_ptr(), len) };
        core::iter::once(&self.first).chain(more)
    }

    /// How many nodes there is room for.
    pub(crate) fn len(&self) -> usize {
        if self.more.is_null() { 1 } else { MAX_NODES }
    }
}

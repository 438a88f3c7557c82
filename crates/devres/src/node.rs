//! The note of one resource, with the resource's bytes behind it, and the stack of notes.
#![expect(unsafe_code, reason = "notes lie in memory that was asked for")]

use core::alloc::Layout;
use core::any::TypeId;
use core::ptr::NonNull;

use kmm_frame::{Order, Pfn};

/// What is to be done about a resource in the end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Nothing: the bytes behind the note are the resource.
    Memory,
    /// The bytes behind the note are a value of that type, to be dropped by that function.
    Value(TypeId, unsafe fn(NonNull<u8>)),
    /// A block of pages is to be freed.
    Pages(Pfn, Order),
    /// Nothing: a group begins here.
    Group(u64),
}

/// One note. Linux: `struct devres_node`, drivers/base/devres.c.
///
/// As aligned as what `kmalloc` returns is expected to be.
#[derive(Debug)]
#[repr(align(16))]
pub(crate) struct Node {
    below: Option<NonNull<Node>>,
    pub(crate) kind: Kind,
    /// Of the note and what lies behind it.
    layout: Layout,
    data_at: usize,
}

impl Node {
    /// The layout of a note with `data` behind it, and where that begins. `None` when an address space has not so much.
    pub(crate) fn layout(data: Layout) -> Option<(Layout, usize)> {
        Layout::new::<Self>().extend(data).ok()
    }
}

/// A note that is on no stack, or is reached through the one that it is on: its memory is ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePtr(NonNull<Node>);

impl NodePtr {
    /// Writes a note.
    ///
    /// # Safety
    /// `memory` is valid for writes of `layout`, which [`Node::layout`] gave with `data_at`, and nobody else's.
    pub(crate) unsafe fn write(
        memory: NonNull<u8>,
        kind: Kind,
        layout: Layout,
        data_at: usize,
    ) -> Self {
        let node = memory.cast();
        let note = Node {
            below: None,
            kind,
            layout,
            data_at,
        };
        // SAFETY: room for a note, aligned, and ours.
        unsafe { node.write(note) };
        Self(node)
    }

    pub(crate) fn kind(self) -> Kind {
        self.node().kind
    }

    pub(crate) fn layout(self) -> Layout {
        self.node().layout
    }

    /// Where the note, and so the memory, begins.
    pub(crate) const fn memory(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// What lies behind the note.
    pub(crate) fn data(self) -> NonNull<u8> {
        // SAFETY: within the memory, or at its end.
        unsafe { self.0.cast::<u8>().add(self.node().data_at) }
    }

    /// The same note, saying something else. It is on no stack.
    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        // SAFETY: as in `node`; nobody else knows the note.
        unsafe { self.0.as_mut() }.kind = kind;
        self
    }

    fn node(&self) -> &Node {
        // SAFETY: written by `write`, and not freed while somebody has it.
        unsafe { self.0.as_ref() }
    }

    fn set_below(mut self, below: Option<NonNull<Node>>) {
        // SAFETY: as above; the caller holds the stack's lock or is the only one who knows the note.
        unsafe { self.0.as_mut() }.below = below;
    }
}

/// The notes of a device, the last on top.
#[derive(Debug)]
pub(crate) struct Stack {
    top: Option<NonNull<Node>>,
    pub(crate) next_group: u64,
}

// SAFETY: the notes are the stack's; what lies behind them may go to other threads (`Device::add` asks for it).
unsafe impl Send for Stack {}

impl Stack {
    pub(crate) const fn new() -> Self {
        Self {
            top: None,
            next_group: 0,
        }
    }

    pub(crate) fn push(&mut self, node: NodePtr) {
        node.set_below(self.top);
        self.top = Some(node.0);
    }

    pub(crate) fn pop(&mut self) -> Option<NodePtr> {
        let top = NodePtr(self.top?);
        self.top = top.node().below;
        Some(top)
    }

    /// From the top down.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NodePtr> + '_ {
        let mut at = self.top;
        core::iter::from_fn(move || {
            let node = NodePtr(at?);
            at = node.node().below;
            Some(node)
        })
    }

    /// Takes the topmost note out that `is_it` says yes to. O(notes above it).
    pub(crate) fn take(&mut self, is_it: impl Fn(NodePtr) -> bool) -> Option<NodePtr> {
        let mut above: Option<NodePtr> = None;
        let found = self.iter().find(|node| {
            let found = is_it(*node);
            if !found {
                above = Some(*node);
            }
            found
        })?;
        let below = found.node().below;
        match above {
            Some(above) => above.set_below(below),
            None => self.top = below,
        }
        Some(found)
    }
}

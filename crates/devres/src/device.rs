//! A device, as far as its resources go.
#![expect(unsafe_code, reason = "gives back what it took")]

use core::alloc::Layout;
use core::fmt;

use kmm_frame::Gfp;
use kmm_host::{ObjectSource, PageBlock, PageSource};
use lock_api::{Mutex, RawMutex};

use crate::DevresError;
use crate::node::{Kind, Node, NodePtr, Stack};

/// A device and what was taken on its behalf. All of it is given back, the last first, when the device is dropped, or its
/// probe fails. Linux: `struct device`, `devres_head`.
///
/// Notes of resources take memory from `objects`: a few words each.
pub struct Device<O: ObjectSource, A: PageSource, L: RawMutex> {
    name: &'static str,
    pub(crate) objects: O,
    pub(crate) pages: A,
    pub(crate) stack: Mutex<L, Stack>,
}

impl<O: ObjectSource, A: PageSource, L: RawMutex> Device<O, A, L> {
    /// A device that has nothing yet, with where its resources will come from.
    #[must_use]
    pub const fn new(name: &'static str, objects: O, pages: A) -> Self {
        Self {
            name,
            objects,
            pages,
            stack: Mutex::const_new(L::INIT, Stack::new()),
        }
    }

    /// The device's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How many resources it has.
    pub fn nr_resources(&self) -> usize {
        let stack = self.stack.lock();
        let is_one = |node: &NodePtr| !matches!(node.kind(), Kind::Group(_));
        stack.iter().filter(is_one).count()
    }

    /// Gives everything back, the last first; how many resources that were. Linux: `devres_release_all`.
    ///
    /// # Context
    /// Runs the ends of values, without a lock: may sleep if they do.
    ///
    /// What was borrowed from the device is not used after:
    ///
    /// ```compile_fail,E0502
    /// use kmm_devres::Device;
    /// use kmm_host::{ObjectSource, PageSource};
    ///
    /// fn too_late<O: ObjectSource, A: PageSource>(device: &mut Device<O, A, spin::Mutex<()>>) {
    ///     let ring: Option<&u32> = device.find();
    ///     device.release_all();
    ///     assert!(ring.is_none());
    /// }
    /// ```
    pub fn release_all(&mut self) -> usize {
        self.release_until(|_| false)
    }

    /// Gives back from the top until, and with, the note that `is_last` knows; how many resources that were.
    pub(crate) fn release_until(&mut self, is_last: impl Fn(Kind) -> bool) -> usize {
        let mut count = 0;
        loop {
            let top = self.stack.get_mut().pop();
            let Some(node) = top else { return count };
            let kind = node.kind();
            count += usize::from(!matches!(kind, Kind::Group(_)));
            // SAFETY: on no stack any more; `&mut self` says that nobody borrows what lies behind it.
            unsafe { self.end(node) };
            if is_last(kind) {
                return count;
            }
        }
    }

    /// A note with room for `data` behind it, on no stack yet.
    pub(crate) fn note(&self, kind: Kind, data: Layout, gfp: Gfp) -> Result<NodePtr, DevresError> {
        let (layout, data_at) = Node::layout(data).ok_or(DevresError::TooLarge)?;
        let memory = self.objects.alloc_object(layout, gfp)?;
        // SAFETY: asked for with that layout.
        Ok(unsafe { NodePtr::write(memory, kind, layout, data_at) })
    }

    /// Gives one resource back, and its note.
    ///
    /// # Safety
    /// The note is on no stack, and nobody uses the resource any more.
    pub(crate) unsafe fn end(&self, node: NodePtr) {
        match node.kind() {
            Kind::Memory | Kind::Group(_) => {}
            // SAFETY: written by `add`, for a value of this type; it is ended once, as its note is on no stack any more.
            Kind::Value(_, destroy) => unsafe { destroy(node.data()) },
            Kind::Pages(pfn, order) => {
                // SAFETY: `get_free_pages` took the block apart, and nobody uses it any more.
                self.pages.free(unsafe { PageBlock::from_raw(pfn, order) });
            }
        }
        // SAFETY: from `note`, and nobody has it any more.
        unsafe { self.forget(node) };
    }

    /// Frees the memory of a note, whatever it says.
    ///
    /// # Safety
    /// It is on no stack, and nobody uses it or what lies behind it any more.
    pub(crate) unsafe fn forget(&self, node: NodePtr) {
        // SAFETY: from `note`, with that layout.
        unsafe { self.objects.free_object(node.memory(), node.layout()) };
    }
}

impl<O: ObjectSource, A: PageSource, L: RawMutex> Drop for Device<O, A, L> {
    fn drop(&mut self) {
        self.release_all();
    }
}

impl<O: ObjectSource, A: PageSource, L: RawMutex> fmt::Debug for Device<O, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

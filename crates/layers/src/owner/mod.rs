//! Who has which block, and where it was taken and freed. Linux: mm/page_owner.c.

mod record;
mod table;

use core::fmt;

use kmm_frame::{Order, Pfn};
use kmm_host::{Misuse, Owners, PageBlock, PageReq};

use crate::layer::{Freed, Layer, Watch};

pub use record::{OwnerRecord, OwnerSlot, Stack};
pub use table::OwnerTable;

/// A block that was freed wrongly, or handed out although somebody has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadFree {
    /// The first frame.
    pub pfn: Pfn,
    /// The order with which it was freed or handed out.
    pub order: Order,
    /// What is wrong.
    pub misuse: Misuse,
}

impl fmt::Display for BadFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pfn, order, misuse } = self;
        write!(f, "bad page: pfn {pfn} order {order}: {misuse}")
    }
}

/// Keeps records in `O` of every block of a source. One that is freed wrongly is reported to `F` and dropped: lost, but
/// harmless. [`Owners::describe`] tells `F` who has it.
pub type PageOwner<S, O, F> = Layer<S, Recorder<O, F>>;

/// Who watches in a [`PageOwner`].
pub struct Recorder<O, F> {
    owners: O,
    on_misuse: F,
}

impl<S, O: Owners, F: Fn(BadFree)> PageOwner<S, O, F> {
    /// Keeps records of `inner`, all of whose blocks are free.
    pub const fn new(inner: S, owners: O, on_misuse: F) -> Self {
        Self::around(inner, Recorder { owners, on_misuse })
    }

    /// The records.
    pub const fn owners(&self) -> &O {
        &self.watch().owners
    }
}

impl<O: Owners, F: Fn(BadFree)> Recorder<O, F> {
    /// Whether nothing is wrong with the block; else it is told.
    fn is_right(&self, block: &PageBlock, result: Result<(), Misuse>) -> bool {
        let (pfn, order) = (block.pfn(), block.order());
        if let Err(misuse) = result {
            (self.on_misuse)(BadFree { pfn, order, misuse });
        }
        result.is_ok()
    }
}

impl<O: Owners, F: Fn(BadFree)> Watch for Recorder<O, F> {
    #[inline]
    fn took(&self, block: &mut PageBlock, req: PageReq) {
        let result = self.owners.took(block.pfn(), block.order(), req.gfp);
        self.is_right(block, result);
    }

    #[inline]
    fn gave(&self, block: &mut PageBlock, _: Freed) -> bool {
        let result = self.owners.gave(block.pfn(), block.order());
        self.is_right(block, result)
    }
}

impl<O, F> fmt::Debug for Recorder<O, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

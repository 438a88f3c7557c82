//! Where frames come from.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: handing out a frame twice breaks memory safety"
)]

use kmm_frame::{Gfp, NodeId, NodeItem, Order, Pfn};

use crate::{AllocError, PageBlock};

/// A request for one block of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageReq {
    /// The size of the block.
    pub order: Order,
    /// Where to look, and how hard to try.
    pub gfp: Gfp,
    /// The preferred node; `None` for the node of this CPU.
    pub node: Option<NodeId>,
}

impl PageReq {
    /// A block of `order` from wherever is nearest.
    #[must_use]
    pub const fn new(order: Order, gfp: Gfp) -> Self {
        Self {
            order,
            gfp,
            node: None,
        }
    }

    /// One page from wherever is nearest.
    #[must_use]
    pub const fn page(gfp: Gfp) -> Self {
        Self::new(Order::ZERO, gfp)
    }
}

/// Hands out frames and takes them back. Linux: `alloc_pages`, `__free_pages`.
///
/// Everything above the zones is generic over this trait, so a stranger's frame allocator fits as well.
///
/// # Context
/// When `gfp` allows reclaim ([`Gfp::may_block`]), the caller holds no lock, no pin and no `&mut` that reclaim could want.
///
/// # Safety
/// Implementors guarantee that a block that was handed out is not handed out again, in whole or part, before it came
/// back through [`PageSource::free`]; that its frames are RAM reachable by the host's `PhysMap`; that it is aligned to
/// its order; and that `Gfp::ZERO` blocks are filled with zeros.
pub unsafe trait PageSource {
    /// Takes a block out.
    ///
    /// # Errors
    /// [`AllocError`]; nothing has changed then.
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError>;

    /// Takes a block back. Never sleeps; allowed from interrupts.
    fn free(&self, block: PageBlock);

    /// Fills `out` from the front with single pages as far as they reach; how many were put there. What the slots had
    /// before is leaked.
    ///
    /// Linux: `alloc_pages_bulk`.
    fn alloc_bulk(&self, gfp: Gfp, node: Option<NodeId>, out: &mut [Option<PageBlock>]) -> usize {
        let req = PageReq {
            order: Order::ZERO,
            gfp,
            node,
        };
        for (n, slot) in out.iter_mut().enumerate() {
            match self.alloc(req) {
                Ok(block) => *slot = Some(block),
                Err(_) => return n,
            }
        }
        out.len()
    }

    /// Takes every block of `blocks` back, leaving `None`. Linux: `free_unref_page_list`.
    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        for block in blocks.iter_mut().filter_map(Option::take) {
            self.free(block);
        }
    }

    /// Notes what frames of this source are used for, by the node of `pfn`: `delta` more pages (or KiB, for kernel stacks).
    /// For statistics alone; a source that keeps none passes it over. Linux: `mod_lruvec_page_state`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        let _ = (pfn, item, delta);
    }
}

// SAFETY: every call goes to the source behind the reference, which keeps the guarantees.
unsafe impl<S: PageSource + ?Sized> PageSource for &S {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        (**self).alloc(req)
    }

    fn free(&self, block: PageBlock) {
        (**self).free(block);
    }

    fn alloc_bulk(&self, gfp: Gfp, node: Option<NodeId>, out: &mut [Option<PageBlock>]) -> usize {
        (**self).alloc_bulk(gfp, node, out)
    }

    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        (**self).free_bulk(blocks);
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        (**self).count(pfn, item, delta);
    }
}

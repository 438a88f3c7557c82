//! Ours: `Zones` as a page source, with watermarks and gfp flags in force.
#![expect(unsafe_code, reason = "blocks are kept as numbers in between")]

use kmm_frame::{Gfp, Order};
use kmm_host::{PageBlock, PageReq};

use crate::frames::{Frames, Mobility, NR_FRAMES};
use crate::node::Node;
use crate::region::Region;

/// The zones of one node of 1 GiB.
#[derive(Debug)]
pub struct Kmm {
    node: Node,
    _addresses: Region,
}

impl Kmm {
    /// With all frames free.
    #[must_use]
    pub fn new() -> Self {
        let (node, addresses) = Node::without_contents(NR_FRAMES);
        Self {
            node,
            _addresses: addresses,
        }
    }

    #[inline(always)]
    fn take(&self, order: usize, gfp: Gfp) -> Option<usize> {
        let order = order_of(order);
        let (block, _pressure) = self
            .node
            .zones()
            .alloc_frozen_pages(PageReq::new(order, gfp))
            .ok()?;
        let (pfn, _) = block.into_raw();
        Some(pfn - self.node.ram().start())
    }
}

impl Default for Kmm {
    fn default() -> Self {
        Self::new()
    }
}

impl Frames for Kmm {
    #[inline(always)]
    fn alloc(&self, order: usize) -> Option<usize> {
        self.take(order, Gfp::KERNEL)
    }

    fn alloc_to_the_last(&self, order: usize) -> Option<usize> {
        self.take(order, Gfp::KERNEL | Gfp::MEMALLOC)
    }

    fn alloc_for(&self, order: usize, mobility: Mobility) -> Option<usize> {
        let gfp = match mobility {
            Mobility::Unmovable => Gfp::KERNEL,
            Mobility::Reclaimable => Gfp::KERNEL | Gfp::RECLAIMABLE,
            Mobility::Movable => Gfp::HIGHUSER_MOVABLE,
        };
        self.take(order, gfp)
    }

    #[inline(always)]
    fn free(&self, frame: usize, order: usize) {
        let pfn = self.node.ram().start() + frame;
        // SAFETY: workloads give back what `take` took apart, once.
        let block = unsafe { PageBlock::from_raw(pfn, order_of(order)) };
        self.node.zones().free_frozen_pages(block);
    }
}

/// The same without migrate types: every request is a movable one.
#[derive(Debug, Default)]
pub struct Untyped(Kmm);

impl Untyped {
    /// With all frames free.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Frames for Untyped {
    fn alloc(&self, order: usize) -> Option<usize> {
        self.0.take(order, Gfp::HIGHUSER_MOVABLE)
    }

    fn alloc_to_the_last(&self, order: usize) -> Option<usize> {
        self.0.take(order, Gfp::HIGHUSER_MOVABLE | Gfp::MEMALLOC)
    }

    fn free(&self, frame: usize, order: usize) {
        self.0.free(frame, order);
    }
}

#[inline(always)]
fn order_of(order: usize) -> Order {
    Order::new(order as u8).expect("orders to 10")
}

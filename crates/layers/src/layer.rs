//! What all layers have in common: a source around a source, which differs from it in what it looks at on the way.
#![expect(unsafe_code, reason = "implements PageSource")]

use core::fmt;

use kmm_frame::{Gfp, NodeId, NodeItem, Order, Pfn};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};

/// How a block came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freed {
    /// By itself.
    Alone,
    /// Among many.
    InBatch,
}

/// What a [`Layer`] does with requests and blocks that pass through it. Each method may be left out: then they just pass.
///
/// # Context
/// Wherever the source is used, interrupts included; it must not use the source itself.
pub trait Watch {
    /// Whether there is nothing for a request, whatever the source has.
    #[inline]
    fn refuses(&self, req: PageReq) -> bool {
        let _ = req;
        false
    }

    /// A request on its way down, as it goes on.
    #[inline]
    fn request(&self, req: PageReq) -> PageReq {
        req
    }

    /// A block on its way up to who made the request.
    #[inline]
    fn took(&self, block: &mut PageBlock, req: PageReq) {
        let _ = (block, req);
    }

    /// The source had no block for the request.
    #[inline]
    fn missed(&self, req: PageReq) {
        let _ = req;
    }

    /// A block on its way down; whether it may go on. One that may not is lost.
    #[inline]
    fn gave(&self, block: &mut PageBlock, freed: Freed) -> bool {
        let _ = (block, freed);
        true
    }
}

/// A source, watched.
pub struct Layer<S, W> {
    inner: S,
    watch: W,
}

impl<S, W> Layer<S, W> {
    /// Has `watch` look at what comes from `inner` and goes there.
    pub const fn around(inner: S, watch: W) -> Self {
        Self { inner, watch }
    }

    /// The source itself.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Who watches.
    pub const fn watch(&self) -> &W {
        &self.watch
    }
}

// SAFETY: blocks come from the inner source and go back there, and that keeps the guarantees; one that is dropped on its way
// is lost, not shared.
unsafe impl<S: PageSource, W: Watch> PageSource for Layer<S, W> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if self.watch.refuses(req) {
            return Err(AllocError::OutOfMemory);
        }
        match self.inner.alloc(self.watch.request(req)) {
            Ok(mut block) => {
                self.watch.took(&mut block, req);
                Ok(block)
            }
            Err(error) => {
                self.watch.missed(req);
                Err(error)
            }
        }
    }

    fn free(&self, mut block: PageBlock) {
        if self.watch.gave(&mut block, Freed::Alone) {
            self.inner.free(block);
        }
    }

    /// Each page is a request of its own for who watches, and one of many for the source.
    fn alloc_bulk(&self, gfp: Gfp, node: Option<NodeId>, out: &mut [Option<PageBlock>]) -> usize {
        let order = Order::ZERO;
        let req = PageReq { order, gfp, node };
        let nr_asked = out.iter().take_while(|_| !self.watch.refuses(req)).count();
        let out = &mut out[..nr_asked];
        let below = self.watch.request(req);
        let count = self.inner.alloc_bulk(below.gfp, below.node, out);
        for block in out[..count].iter_mut().flatten() {
            self.watch.took(block, req);
        }
        count
    }

    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        for slot in blocks.iter_mut() {
            let may_pass = |block: &mut PageBlock| self.watch.gave(block, Freed::InBatch);
            if !slot.as_mut().is_some_and(may_pass) {
                *slot = None;
            }
        }
        self.inner.free_bulk(blocks);
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.inner.count(pfn, item, delta);
    }
}

impl<S: fmt::Debug, W> fmt::Debug for Layer<S, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

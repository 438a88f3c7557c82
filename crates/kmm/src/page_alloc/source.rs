//! The allocator as everybody below takes it.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: handing out a frame twice breaks memory safety"
)]

use kmm_frame::{Gfp, NodeId, NodeItem, NodeMask, Pfn};
use kmm_host::{AllocError, Host, PageBlock, PageReq, PageSource, Sleep};

use super::{NoWait, PageAlloc};

// SAFETY: blocks come from the zones and go back to them, which keep the guarantees; what is freed wrongly is dropped.
unsafe impl<H: Host> PageSource for PageAlloc<H> {
    /// Waits where the flags allow it: whoever asks so must be ready for it.
    #[inline]
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if req.gfp.may_block() {
            let mut sleep = Sleep::grant_with(self.host.scope(), NodeMask::ALL);
            self.alloc_pages_nodemask(&mut sleep, req, NodeMask::ALL)
        } else {
            self.alloc_pages_nodemask(&mut NoWait, req, NodeMask::ALL)
        }
    }

    #[inline]
    fn free(&self, block: PageBlock) {
        self.free_pages(block);
    }

    fn alloc_bulk(&self, gfp: Gfp, node: Option<NodeId>, out: &mut [Option<PageBlock>]) -> usize {
        if gfp.may_block() {
            let mut sleep = Sleep::grant_with(self.host.scope(), NodeMask::ALL);
            self.alloc_pages_bulk(&mut sleep, gfp, node, out)
        } else {
            self.alloc_pages_bulk(&mut NoWait, gfp, node, out)
        }
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.zones.count(pfn, item, delta);
    }

    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        self.free_pages_bulk(blocks);
    }
}

//! Who touches a free page? Linux: `kasan_poison_pages`, mm/page_alloc.c.

use kmm_frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm_host::{PageBlock, PageReq, PhysMap, Sanitizer};

use crate::layer::{Freed, Layer, Watch};

/// Tells a sanitizer of the pages that come and go. A block that was freed already does not go on.
///
/// It knows pages by their address in the permanent map; those without one it leaves alone.
pub type Sanitized<S, P, K> = Layer<S, Sanitize<P, K>>;

/// Who watches in a [`Sanitized`].
#[derive(Debug)]
pub struct Sanitize<P, K> {
    phys: P,
    sanitizer: K,
}

impl<S, P: PhysMap, K: Sanitizer> Sanitized<S, P, K> {
    /// Tells `sanitizer` of what comes from `inner` and goes there.
    pub const fn new(inner: S, phys: P, sanitizer: K) -> Self {
        Self::around(inner, Sanitize { phys, sanitizer })
    }
}

impl<P: PhysMap, K: Sanitizer> Sanitize<P, K> {
    fn address(&self, pfn: Pfn) -> Option<VirtAddr> {
        let page = self.phys.direct(pfn)?;
        Some(VirtAddr::new(page.addr().get() as u64))
    }
}

impl<P: PhysMap, K: Sanitizer> Watch for Sanitize<P, K> {
    fn took(&self, block: &mut PageBlock, _req: PageReq) {
        for page in block.range().iter().filter_map(|pfn| self.address(pfn)) {
            self.sanitizer.pages_taken(page, PAGE_SIZE);
        }
    }

    fn gave(&self, block: &mut PageBlock, _freed: Freed) -> bool {
        let mut pages = block.range().iter().filter_map(|pfn| self.address(pfn));
        pages.all(|page| self.sanitizer.pages_given(page, PAGE_SIZE))
    }
}

//! The page allocator that everybody asks: the zones' fast path, and what is done when that has nothing.
//!
//! A request goes to the zones ([`kmm_zone::Zones::alloc_pages`]): zonelist, watermarks, this CPU's pageset. What comes back
//! says how memory stands, and kswapd is woken by it. Only when nothing comes back, the slow path begins (`slow`), which is
//! another function: it wakes, looks again with what the request is entitled to, compacts, reclaims, kills, tries again, or
//! gives up and says why (`report`). Zones never wait and never call up; this is the only place that knows both sides.
//!
//! | step | Linux | file |
//! |---|---|---|
//! | fast path | `__alloc_pages`, `get_page_from_freelist` | `mod`, `kmm_zone` |
//! | slow path | `__alloc_pages_slowpath` | `slow`, `retry` |
//! | what a request may look at | `gfp_to_alloc_flags`, cpusets, `ALLOC_*` | `places` |
//! | the report | `warn_alloc`, `show_mem` | `report`, `mem_info`, `rate_limit` |
//! | who asks | `might_sleep`, `current->flags` | `caller` |
//! | addresses, exact sizes, folios | `__get_free_pages`, `alloc_pages_exact`, `folio_alloc` | `api` |
//! | back again | `__free_pages`, `put_page` | `free` |

mod api;
mod caller;
mod free;
mod hooks;
mod mem_info;
mod places;
mod rate_limit;
mod report;
mod retry;
mod slow;
mod source;
mod step;

use core::fmt;
use core::sync::atomic::AtomicBool;

use kmm_frame::{Gfp, NodeId, NodeMask, Order};
use kmm_host::{AllocError, Host, Owners, PageBlock, PageReq};
use kmm_zone::Pressure;

use crate::{Pages, Shrinkers};
use places::Request;

pub use api::ExactPages;
pub use caller::{Caller, NoWait};
pub use free::SplitPages;
pub use hooks::{
    Accountant, AllocBug, AllocHooks, BadFree, CompactPriority, CompactResult, NoAccounts,
    NoReclaim, OomResult, OverLimit, ReclaimReq, Reclaimer,
};
pub use mem_info::{MemTotals, NodeInfo, ZoneInfo, write_mem_info};
pub use rate_limit::RateLimit;
pub use report::{AllocFailure, MemInfo};
pub use step::AllocStep;

/// The page allocator of a host: zones, and the slow path above them.
pub struct PageAlloc<H: Host> {
    host: &'static H,
    zones: &'static Pages<H>,
    hooks: AllocHooks,
    shrinkers: Shrinkers<H::Lock>,
    /// Whether somebody is choosing whom to kill. Linux: `oom_lock`.
    oom_busy: AtomicBool,
}

impl<H: Host> PageAlloc<H> {
    /// Serves requests from `zones`.
    #[must_use]
    pub const fn new(host: &'static H, zones: &'static Pages<H>, hooks: AllocHooks) -> Self {
        Self {
            host,
            zones,
            hooks,
            shrinkers: Shrinkers::new(),
            oom_busy: AtomicBool::new(false),
        }
    }

    /// The zones.
    #[must_use]
    pub const fn zones(&self) -> &'static Pages<H> {
        self.zones
    }

    /// Who lets go of things when reclaim finds nothing.
    #[must_use]
    pub const fn shrinkers(&self) -> &Shrinkers<H::Lock> {
        &self.shrinkers
    }

    /// Whom it asks and tells.
    #[must_use]
    pub const fn hooks(&self) -> &AllocHooks {
        &self.hooks
    }

    /// Takes a block of pages out. Linux: `alloc_pages`.
    ///
    /// # Context
    /// What `caller` says: with a [`kmm_host::Sleep`] it waits for memory if `gfp` allows that. Then no lock is held that
    /// reclaim could want.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`]; nothing has changed then.
    #[inline]
    pub fn alloc_pages(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        order: Order,
    ) -> Result<PageBlock, AllocError> {
        self.alloc_pages_nodemask(caller, PageReq::new(order, gfp), NodeMask::ALL)
    }

    /// Takes one page out. Linux: `alloc_page`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn alloc_page(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
    ) -> Result<PageBlock, AllocError> {
        self.alloc_pages(caller, gfp, Order::ZERO)
    }

    /// Takes a block of pages out, of `node` if it has one. Linux: `alloc_pages_node`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// [`AllocError::NoSuchNode`]; else as for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn alloc_pages_node(
        &self,
        caller: &mut (impl Caller + ?Sized),
        node: NodeId,
        gfp: Gfp,
        order: Order,
    ) -> Result<PageBlock, AllocError> {
        let node = Some(node);
        self.alloc_pages_nodemask(caller, PageReq { order, gfp, node }, NodeMask::ALL)
    }

    /// Takes a block of pages out without waiting, whatever `gfp` allows. Linux: `alloc_pages(gfp & ~__GFP_DIRECT_RECLAIM)`.
    ///
    /// # Context
    /// Any, interrupts included.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn alloc_pages_nowait(&self, gfp: Gfp, order: Order) -> Result<PageBlock, AllocError> {
        self.alloc_pages(&mut NoWait, gfp, order)
    }

    /// Takes a block of pages out, from the nodes of `mask` alone. Linux: `__alloc_pages`.
    ///
    /// # Context
    /// As for [`PageAlloc::alloc_pages`].
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages_node`].
    #[inline]
    pub fn alloc_pages_nodemask(
        &self,
        caller: &mut (impl Caller + ?Sized),
        req: PageReq,
        mask: NodeMask,
    ) -> Result<PageBlock, AllocError> {
        let gfp = self.might_sleep(caller.limit(req.gfp));
        let req = PageReq { gfp, ..req };
        let allowed = caller.allowed();
        let block = if mask.is_all() && allowed.is_all() {
            match self.zones.alloc_pages(req) {
                Ok((block, Pressure::None)) => block,
                Ok((block, Pressure::WakeKswapd)) => {
                    self.wake_kswapds(&Request::new(req, mask, allowed));
                    block
                }
                Err(error) => {
                    let request = Request::new(req, mask, allowed);
                    self.alloc_slow(caller.sleep(), &request, error)?
                }
            }
        } else {
            self.alloc_among(caller.sleep(), &Request::new(req, mask, allowed))?
        };
        self.finish(block, gfp)
    }

    /// The flags of a request, less the leave to wait where nobody may. In debug builds; in others types have to do.
    /// Linux: `might_sleep_if(gfpflags_allow_blocking)`.
    #[inline]
    fn might_sleep(&self, gfp: Gfp) -> Gfp {
        if cfg!(debug_assertions) && gfp.may_block() && !self.host.context().may_sleep() {
            let context = self.host.context();
            (self.hooks.on_bug)(&AllocBug::SleepInAtomic { gfp, context });
            return gfp - Gfp::DIRECT_RECLAIM;
        }
        gfp
    }

    /// What is left to do with a block that the zones gave. Linux: `prep_new_page`, and the end of `__alloc_pages`.
    #[inline]
    fn finish(&self, block: PageBlock, gfp: Gfp) -> Result<PageBlock, AllocError> {
        let block = if gfp.intersects(Gfp::COMP.union(Gfp::ACCOUNT)) {
            self.mark(block, gfp)?
        } else {
            block
        };
        if H::Owners::ENABLED {
            let (pfn, order) = (block.pfn(), block.order());
            if self.host.owners().took(pfn, order, gfp).is_err() {
                (self.hooks.on_bug)(&AllocBug::HandedOutTwice { pfn, order });
            }
        }
        Ok(block)
    }

    /// Makes a compound page of a block, and counts it to an account.
    #[inline(never)]
    fn mark(&self, block: PageBlock, gfp: Gfp) -> Result<PageBlock, AllocError> {
        let (pfn, order) = (block.pfn(), block.order());
        if gfp.contains(Gfp::ACCOUNT) {
            if self.hooks.accountant.charge(pfn, order, gfp).is_err() {
                self.give_to_zones(block);
                return Err(AllocError::OutOfMemory);
            }
            self.zones.map().page(pfn).set(free::CHARGED);
        }
        if gfp.contains(Gfp::COMP) {
            self.zones.map().prep_compound_page(pfn, order);
        }
        Ok(block)
    }

    fn step(&self, step: AllocStep) {
        (self.hooks.on_step)(&step);
    }
}

impl<H: Host> fmt::Debug for PageAlloc<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageAlloc")
            .field("zones", &self.zones)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

//! When the fast path has nothing: wake, look again, compact, reclaim, kill, try again, give up.
//!
//! Linux: `__alloc_pages_slowpath`, mm/page_alloc.c. Each step is told to [`super::AllocHooks::on_step`].

use core::sync::atomic::Ordering;

use kmm_frame::{Gfp, NodeMask, Order, VmEvent, ZoneType};
use kmm_host::{AllocError, CpuId, Cpus as _, Host, PageBlock, Scope, Sleep};
use kmm_zone::{AllowedNodes, Pressure};

use super::places::Request;
use super::retry::{CompactState, Retries};
use super::{
    AllocBug, AllocStep, CompactPriority, CompactResult, OomResult, PageAlloc, ReclaimReq,
};

impl<H: Host> PageAlloc<H> {
    /// The fast path of requests that some nodes only may serve.
    #[inline(never)]
    pub(super) fn alloc_among(
        &self,
        sleep: Option<&mut Sleep>,
        request: &Request,
    ) -> Result<PageBlock, AllocError> {
        match self.free_lists(request, request.req.gfp, request.fast_nodes()) {
            Ok((block, Pressure::None)) => Ok(block),
            Ok((block, Pressure::WakeKswapd)) => {
                self.wake_kswapds(request);
                Ok(block)
            }
            Err(error) => self.alloc_slow(sleep, request, error),
        }
    }

    /// Linux: `__alloc_pages_slowpath`.
    ///
    /// # Errors
    /// `error` unless that is [`AllocError::OutOfMemory`]; that if nothing helped.
    #[cold]
    #[inline(never)]
    pub(super) fn alloc_slow(
        &self,
        sleep: Option<&mut Sleep>,
        request: &Request,
        error: AllocError,
    ) -> Result<PageBlock, AllocError> {
        if error != AllocError::OutOfMemory {
            return Err(error);
        }
        let (order, gfp) = (request.req.order, request.req.gfp);
        self.step(AllocStep::Slow { order, gfp });
        let mut request = *request;
        if request.has(Gfp::ATOMIC_CALLER.union(Gfp::DIRECT_RECLAIM)) {
            (self.hooks.on_bug)(&AllocBug::AtomicMayWait { gfp });
            request.req.gfp.remove(Gfp::ATOMIC_CALLER);
        }
        let mut attempt = Attempt {
            pages: self,
            request: &request,
            reclaim: self.reclaim_req(&request),
            sleep: sleep.filter(|_| gfp.may_block()),
            retries: Retries::new(CompactPriority::SyncLight),
            is_victim: false,
        };
        match attempt.run() {
            Some(block) => {
                self.step(AllocStep::Got);
                Ok(block)
            }
            None => {
                self.step(AllocStep::Failed);
                self.warn(&request);
                Err(AllocError::OutOfMemory)
            }
        }
    }

    /// Makes the other CPUs give back what they have in stock; how many had something. Linux: `drain_all_pages`.
    fn drain_others(&self, sleep: &mut Sleep) -> usize {
        let (zones, cpus) = (self.zones, self.host.cpus());
        let mut nr_cpus = 0;
        let count = |_: CpuId| nr_cpus += 1;
        cpus.with_pin_from(sleep, |pin| zones.drain_all_cpus(pin, count));
        if nr_cpus == 0 {
            return 0;
        }
        // Not under the pin: another CPU may be waiting for this one in the same way.
        let all = (0..).take(cpus.nr_cpus()).map(CpuId::new);
        for cpu in all.filter(|cpu| !zones.is_drained(*cpu)) {
            self.hooks.reclaimer.drain_cpu(sleep, cpu);
        }
        self.step(AllocStep::Drained(nr_cpus));
        nr_cpus
    }
}

/// One request on its way through the slow path.
struct Attempt<'a, H: Host> {
    pages: &'a PageAlloc<H>,
    request: &'a Request,
    reclaim: ReclaimReq,
    /// The right to wait, if the request has it.
    sleep: Option<&'a mut Sleep>,
    retries: Retries,
    /// Whether the caller is to end itself.
    is_victim: bool,
}

/// Where a try ends.
enum Outcome {
    Got(PageBlock),
    Retry,
    NoPage,
}

impl From<Option<PageBlock>> for Outcome {
    fn from(found: Option<PageBlock>) -> Self {
        found.map_or(Self::NoPage, Self::Got)
    }
}

impl<H: Host> Attempt<'_, H> {
    fn run(&mut self) -> Option<PageBlock> {
        let mut outcome = self.first_try();
        loop {
            outcome = match outcome {
                Outcome::Got(block) => return Some(block),
                Outcome::Retry => self.next_try(),
                Outcome::NoPage => match self.others_stocks() {
                    Some(block) => return Some(block),
                    None => self.must_not_fail()?,
                },
            };
        }
    }

    /// With what the request is entitled to, and for large blocks by compaction, as that may be all it takes.
    fn first_try(&mut self) -> Outcome {
        self.pages.wake_kswapds(self.request);
        if let Some(block) = self.free_lists(false) {
            return Outcome::Got(block);
        }
        let can_wait = self.sleep.is_some();
        if can_wait && self.request.wants_compaction_first() && !self.may_use_reserves() {
            let (result, block) = self.compact(CompactPriority::Async);
            if let Some(block) = block {
                return Outcome::Got(block);
            }
            if self.request.is_costly() && self.request.has(Gfp::NORETRY) {
                // Reclaim would have to free a lot, for somebody who has another way.
                if matches!(result, CompactResult::Skipped | CompactResult::Deferred) {
                    return Outcome::NoPage;
                }
                self.retries.priority = CompactPriority::Async;
            }
        }
        Outcome::Retry
    }

    fn next_try(&mut self) -> Outcome {
        let request = self.request;
        self.pages.wake_kswapds(request);
        if let Some(block) = self.free_lists(self.may_use_reserves()) {
            return Outcome::Got(block);
        }
        // Who frees memory does not wait for memory to be freed.
        match &self.sleep {
            Some(sleep) if !sleep.scope().contains(Scope::MEMALLOC) => {}
            _ => return Outcome::NoPage,
        }
        let (nr_reclaimed, block) = self.direct_reclaim();
        if let Some(block) = block {
            return Outcome::Got(block);
        }
        let (compacted, block) = if request.req.order == Order::ZERO {
            (CompactResult::Skipped, None)
        } else {
            self.compact(self.retries.priority)
        };
        if let Some(block) = block {
            return Outcome::Got(block);
        }
        if request.has(Gfp::NORETRY) {
            return Outcome::NoPage;
        }
        if request.is_costly() && !request.has(Gfp::RETRY_MAYFAIL) {
            return Outcome::NoPage;
        }
        if self.is_worth_another_try(nr_reclaimed > 0, compacted) {
            return Outcome::Retry;
        }
        self.out_of_memory()
    }

    /// Linux: `should_reclaim_retry`, `should_compact_retry`.
    fn is_worth_another_try(&mut self, made_progress: bool, compacted: CompactResult) -> bool {
        let (pages, request) = (self.pages, self.request);
        let could_be_reclaimed = || pages.could_be_reclaimed(request);
        let is_costly = request.is_costly();
        let last_resort = || pages.unreserve(request);
        if self
            .retries
            .after_reclaim(made_progress, is_costly, could_be_reclaimed, last_resort)
        {
            let loops = self.retries.no_progress_loops();
            pages.step(AllocStep::RetryReclaim(loops));
            self.relax();
            return true;
        }
        let state = CompactState {
            is_single_page: request.req.order == Order::ZERO,
            is_costly,
            result: compacted,
            could_be_compacted: pages.could_be_compacted(request),
        };
        if made_progress && self.retries.after_compaction(state) {
            pages.step(AllocStep::RetryCompact(self.retries.priority));
            return true;
        }
        false
    }

    /// Linux: `__alloc_pages_may_oom`.
    fn out_of_memory(&mut self) -> Outcome {
        let (pages, request) = (self.pages, self.request);
        if self.is_victim {
            return Outcome::NoPage;
        }
        if pages.oom_busy.swap(true, Ordering::Acquire) {
            pages.step(AllocStep::OomBusy);
            self.relax();
            self.retries.start_over();
            return Outcome::Retry;
        }
        let outcome = self.kill();
        pages.oom_busy.store(false, Ordering::Release);
        match outcome {
            Some(OomResult::Killed) => self.retries.start_over(),
            Some(OomResult::Caller) => self.is_victim = true,
            Some(OomResult::NoVictim) | None => {}
        }
        match outcome {
            Some(OomResult::Killed) => Outcome::Retry,
            // Some of the reserves, so that it gets to its end.
            Some(OomResult::Caller) if !request.has(Gfp::NOMEMALLOC) => self
                .look(Gfp::HIGH | Gfp::ATOMIC_CALLER, AllowedNodes::ALL)
                .into(),
            Some(_) => Outcome::NoPage,
            None if pages.is_above_high(request) => {
                pages.step(AllocStep::HighMark);
                self.look(Gfp::empty(), request.slow_nodes()).into()
            }
            None => Outcome::NoPage,
        }
    }

    /// Has somebody killed; `None` if nobody is to be, for this request.
    fn kill(&mut self) -> Option<OomResult> {
        let (pages, request) = (self.pages, self.request);
        // Somebody may have ended meanwhile, and there are requests for which nobody should: large blocks may not come
        // of it, low zones and single nodes can be short when there is plenty elsewhere, and who may fail has another way.
        let is_spared = request.is_costly()
            || request
                .req
                .gfp
                .intersects(Gfp::RETRY_MAYFAIL.union(Gfp::THISNODE))
            || request.req.gfp.zone() < ZoneType::Normal;
        if is_spared || pages.is_above_high(request) {
            return None;
        }
        let result = if request.has(Gfp::FS) {
            let reclaim = self.reclaim;
            self.freeing(|pages, sleep| pages.hooks.reclaimer.out_of_memory(sleep, &reclaim))?
        } else if pages.hooks.reclaimer.has_others() {
            self.relax();
            OomResult::Killed
        } else {
            OomResult::NoVictim
        };
        pages.step(AllocStep::Oom(result));
        Some(result)
    }

    /// The request found nothing; if it must not fail it looks outside its cpuset, and begins again.
    fn must_not_fail(&mut self) -> Option<Outcome> {
        let (pages, request) = (self.pages, self.request);
        let (gfp, order) = (request.req.gfp, request.req.order);
        if !request.has(Gfp::NOFAIL) {
            return None;
        }
        let Some(sleep) = &self.sleep else {
            (pages.hooks.on_bug)(&AllocBug::NofailMayNotWait { gfp });
            return None;
        };
        if request.is_costly() || sleep.scope().contains(Scope::MEMALLOC) {
            (pages.hooks.on_bug)(&AllocBug::NofailIsHard { gfp, order });
        }
        let outside = AllowedNodes {
            nodemask: request.mask,
            mems_allowed: NodeMask::ALL,
        };
        for nodes in [request.fast_nodes(), outside] {
            if let Some(block) = self.look(Gfp::ATOMIC_CALLER, nodes) {
                return Some(Outcome::Got(block));
            }
        }
        pages.step(AllocStep::RetryNofail);
        self.relax();
        Some(Outcome::Retry)
    }

    /// Linux: `__alloc_pages_direct_reclaim`.
    fn direct_reclaim(&mut self) -> (usize, Option<PageBlock>) {
        let reclaim = self.reclaim;
        self.pages.count(VmEvent::allocstall(reclaim.highest));
        let freed = self.freeing(|pages, sleep| pages.hooks.reclaimer.reclaim(sleep, &reclaim));
        let mut nr_reclaimed = freed.unwrap_or(0);
        self.pages.step(AllocStep::Reclaimed(nr_reclaimed));
        if nr_reclaimed == 0 {
            nr_reclaimed = self.shrink();
        }
        let found = match nr_reclaimed {
            0 => None,
            _ => self.free_lists(self.may_use_reserves()),
        };
        // Before anybody is killed, or anything tried again.
        (nr_reclaimed, found.or_else(|| self.others_stocks()))
    }

    /// Has shrinkers let go of all they can; how much. Linux: `shrink_slab` at the last priority.
    fn shrink(&mut self) -> usize {
        let ReclaimReq { gfp, node, .. } = self.reclaim;
        let freed = self.freeing(|pages, _| pages.shrinkers.shrink(gfp, node, 0));
        let freed = freed.unwrap_or(0);
        if freed > 0 {
            self.pages.step(AllocStep::Shrunk(freed));
        }
        freed
    }

    /// With what other CPUs have in stock, if they have any: it is free, but out of reach until they give it back.
    fn others_stocks(&mut self) -> Option<PageBlock> {
        let sleep = self.sleep.as_deref_mut()?;
        if self.pages.drain_others(sleep) == 0 {
            return None;
        }
        self.free_lists(self.may_use_reserves())
    }

    /// Linux: `__alloc_pages_direct_compact`.
    fn compact(&mut self, priority: CompactPriority) -> (CompactResult, Option<PageBlock>) {
        let reclaim = self.reclaim;
        let result = self
            .freeing(|pages, sleep| pages.hooks.reclaimer.compact(sleep, &reclaim, priority))
            .unwrap_or(CompactResult::Skipped);
        self.pages.step(AllocStep::Compacted(priority, result));
        if matches!(result, CompactResult::Skipped | CompactResult::Deferred) {
            return (result, None);
        }
        self.pages.count(VmEvent::CompactStall);
        let block = self.free_lists(self.may_use_reserves());
        self.pages.count(match block {
            Some(_) => VmEvent::CompactSuccess,
            None => VmEvent::CompactFail,
        });
        (result, block)
    }

    /// Runs what frees memory: its own requests may use every reserve, and none of them gets here. Linux:
    /// `memalloc_noreclaim_save`.
    fn freeing<R>(&mut self, f: impl FnOnce(&PageAlloc<H>, &mut Sleep) -> R) -> Option<R> {
        let pages = self.pages;
        let sleep = self.sleep.as_deref_mut()?;
        let result = sleep.memalloc(|sleep| {
            let before = pages.host.swap_scope(sleep.scope());
            let result = f(pages, sleep);
            pages.host.swap_scope(before);
            result
        });
        Some(result)
    }

    fn relax(&mut self) {
        if let Some(sleep) = self.sleep.as_deref_mut() {
            self.pages.hooks.reclaimer.relax(sleep);
        }
    }

    /// Whether no mark holds for the request. Linux: `__gfp_pfmemalloc_flags`.
    fn may_use_reserves(&self) -> bool {
        let frees = |sleep: &Sleep| sleep.scope().contains(Scope::MEMALLOC);
        let is_entitled =
            self.request.has(Gfp::MEMALLOC) || self.sleep.as_deref().is_some_and(frees);
        is_entitled && !self.request.has(Gfp::NOMEMALLOC)
    }

    fn free_lists(&self, with_reserves: bool) -> Option<PageBlock> {
        if with_reserves {
            self.look(Gfp::MEMALLOC, AllowedNodes::ALL)
        } else {
            self.look(Gfp::empty(), self.request.slow_nodes())
        }
    }

    /// Looks through the zones of `nodes` once, with what the request is entitled to and `more`.
    fn look(&self, more: Gfp, nodes: AllowedNodes) -> Option<PageBlock> {
        let gfp = (self.request.req.gfp - Gfp::MEMALLOC) | more;
        self.pages.step(AllocStep::FreeLists(gfp));
        self.pages
            .free_lists(self.request, gfp, nodes)
            .ok()
            .map(|(block, _)| block)
    }
}

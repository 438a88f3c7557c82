//! What the allocator asks of whoever reclaims, compacts, kills and counts; and what it tells.

use core::fmt;

use kmm_frame::{Gfp, NodeId, NodeMask, Order, Pfn, ZoneType};
use kmm_host::{Context, CpuId, Misuse, Sleep};

use super::{AllocFailure, AllocStep};

/// A request as those see it who make room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReclaimReq {
    /// The size of the block that is wanted.
    pub order: Order,
    /// What may be done for it: no input or output without `Gfp::IO`, no file system without `Gfp::FS`.
    pub gfp: Gfp,
    /// The node that it prefers.
    pub node: NodeId,
    /// The nodes that serve it.
    pub allowed: NodeMask,
    /// The highest zone that serves it.
    pub highest: ZoneType,
}

/// How hard compaction tries. Linux: `enum compact_priority`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CompactPriority {
    /// It may wait and looks at every pageblock.
    SyncFull,
    /// It may wait for some.
    SyncLight,
    /// It does not wait.
    Async,
}

impl CompactPriority {
    /// The next stronger one, but not beyond `strongest`.
    pub(crate) fn stronger(self, strongest: Self) -> Option<Self> {
        let next = match self {
            Self::Async => Self::SyncLight,
            Self::SyncLight => Self::SyncFull,
            Self::SyncFull => return None,
        };
        (next >= strongest).then_some(next)
    }
}

/// What became of a compaction. Linux: `enum compact_result`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompactResult {
    /// There is too little free memory to compact: reclaim first. Linux: `COMPACT_SKIPPED`.
    Skipped,
    /// It has failed lately and is not tried again so soon. Linux: `COMPACT_DEFERRED`.
    Deferred,
    /// It stopped, as others wanted the same locks. Linux: `COMPACT_CONTENDED`.
    Contended,
    /// It went through everything and made no block. Linux: `COMPACT_COMPLETE`.
    Complete,
    /// It moved pages. Linux: `COMPACT_SUCCESS`.
    Success,
}

/// What became of a call for the killer. Linux: `out_of_memory`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OomResult {
    /// Somebody ends, or has ended already: memory is going to be free.
    Killed,
    /// It is the caller that has to end: its request fails, so that it gets there. Linux: `tsk_is_oom_victim(current)`.
    Caller,
    /// There is nobody to kill.
    NoVictim,
}

/// Makes memory free. The allocator knows when; how, is up to whoever implements this. Every method may be left out: then
/// nothing is ever freed by it.
///
/// They are called by code that holds no lock. What `reclaim` and `compact` themselves ask for does not reclaim again
/// ([`kmm_host::Scope::MEMALLOC`]).
pub trait Reclaimer: Sync + fmt::Debug {
    /// Zones of a node are below their low marks. Linux: `wakeup_kswapd`.
    ///
    /// # Context
    /// Any, interrupts included.
    fn wake_kswapd(&self, node: NodeId, order: Order, highest: ZoneType) {
        let _ = (node, order, highest);
    }

    /// Has another CPU call [`kmm_zone::Zones::drain_pcp`], by an interrupt or by a task of its own, and is back when that was
    /// done. What lies in its stock is free, but nobody else can reach it; left out, it stays there until that CPU next
    /// fills or empties its stock. Linux: `drain_local_pages_wq`, which `drain_all_pages` sends.
    fn drain_cpu(&self, sleep: &mut Sleep, cpu: CpuId) {
        let _ = (sleep, cpu);
    }

    /// Frees pages for a request; how many. Linux: `try_to_free_pages`.
    fn reclaim(&self, sleep: &mut Sleep, req: &ReclaimReq) -> usize {
        let _ = (sleep, req);
        0
    }

    /// Makes a block of pages that are free here and there. Linux: `try_to_compact_pages`.
    fn compact(
        &self,
        sleep: &mut Sleep,
        req: &ReclaimReq,
        priority: CompactPriority,
    ) -> CompactResult {
        let _ = (sleep, req, priority);
        CompactResult::Skipped
    }

    /// Chooses somebody who has to end. Linux: `out_of_memory`.
    fn out_of_memory(&self, sleep: &mut Sleep, req: &ReclaimReq) -> OomResult {
        let _ = (sleep, req);
        OomResult::NoVictim
    }

    /// Whether others may be freeing memory meanwhile. Without a file system little can be reclaimed, so that a request
    /// without [`Gfp::FS`] proves nothing by failing to: nobody is killed for it, and it waits for others if there are any.
    fn has_others(&self) -> bool {
        false
    }

    /// About how many pages of a zone could be reclaimed. Linux: `zone_reclaimable_pages`.
    fn reclaimable_pages(&self, node: NodeId, zone: ZoneType) -> usize {
        let _ = (node, zone);
        0
    }

    /// Lets others run for a moment, before a request tries again. Linux: `cond_resched`, `schedule_timeout`.
    fn relax(&self, sleep: &mut Sleep) {
        let _ = sleep;
        core::hint::spin_loop();
    }
}

/// Reclaims nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoReclaim;

impl Reclaimer for NoReclaim {}

/// The account of the caller is full: its request fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverLimit;

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("over the limit of the account")
    }
}

impl core::error::Error for OverLimit {}

/// Keeps accounts of pages that were asked for with [`Gfp::ACCOUNT`]. Linux: `__memcg_kmem_charge_page`.
pub trait Accountant: Sync + fmt::Debug {
    /// Counts a block to the caller's account.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing is counted then.
    fn charge(&self, pfn: Pfn, order: Order, gfp: Gfp) -> Result<(), OverLimit> {
        let _ = (pfn, order, gfp);
        Ok(())
    }

    /// A block that was counted is free again, or was never used.
    fn uncharge(&self, pfn: Pfn, order: Order) {
        let _ = (pfn, order);
    }
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoAccounts;

impl Accountant for NoAccounts {}

/// A page that was freed wrongly, and who has it. It is not put back: lost, but harmless.
pub struct BadFree<'a> {
    /// The first frame of what was freed.
    pub pfn: Pfn,
    /// The order with which it was freed.
    pub order: Order,
    /// What is wrong.
    pub misuse: Misuse,
    /// Who took and freed it, as far as the host keeps records ([`kmm_host::Owners`]); else empty.
    pub owner: &'a dyn fmt::Display,
}

impl fmt::Display for BadFree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pfn, order, misuse) = (self.pfn, self.order, self.misuse);
        write!(
            f,
            "bad page: pfn {pfn} order {order}: {misuse}\n{}",
            self.owner
        )
    }
}

impl fmt::Debug for BadFree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BadFree({self})")
    }
}

/// A request that nobody should make. It is served as well as it can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocBug {
    /// It may wait where nobody may. Linux: `sleeping function called from invalid context`. Found in debug builds.
    SleepInAtomic {
        /// Its flags.
        gfp: Gfp,
        /// Where it was made.
        context: Context,
    },
    /// It must not fail, but may not wait: it can fail. Linux: a warning in `__alloc_pages_slowpath`.
    NofailMayNotWait {
        /// Its flags.
        gfp: Gfp,
    },
    /// It must not fail, but is made by who frees memory, or for a block that is hard to find: it may take for ever.
    /// Linux: warnings in `__alloc_pages_slowpath`.
    NofailIsHard {
        /// Its flags.
        gfp: Gfp,
        /// Its size.
        order: Order,
    },
    /// It says both that it cannot wait and that it may. Linux: a warning in `__alloc_pages_slowpath`.
    AtomicMayWait {
        /// Its flags.
        gfp: Gfp,
    },
    /// It was handed out although somebody has it.
    HandedOutTwice {
        /// The first frame.
        pfn: Pfn,
        /// The size.
        order: Order,
    },
}

impl fmt::Display for AllocBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SleepInAtomic { gfp, context } => write!(
                f,
                "BUG: sleeping function called from invalid context: {gfp} in {context}"
            ),
            Self::NofailMayNotWait { gfp } => {
                write!(f, "WARNING: request may neither fail nor wait: {gfp}")
            }
            Self::NofailIsHard { gfp, order } => {
                write!(f, "WARNING: request may not fail: {gfp}, order {order}")
            }
            Self::AtomicMayWait { gfp } => {
                write!(f, "WARNING: request may and may not wait: {gfp}")
            }
            Self::HandedOutTwice { pfn, order } => {
                write!(f, "BUG: pfn {pfn} order {order} was handed out twice")
            }
        }
    }
}

/// Whom the allocator asks and tells. None of the functions may allocate or free memory, and all may run anywhere.
#[derive(Clone, Copy, Debug)]
pub struct AllocHooks {
    /// Makes memory free.
    pub reclaimer: &'static dyn Reclaimer,
    /// Keeps accounts.
    pub accountant: &'static dyn Accountant,
    /// Is told of every step off the fast path. Linux: the trace points of the slow path.
    pub on_step: fn(&AllocStep),
    /// Is told of requests that failed, unless they said [`Gfp::NOWARN`]. Linux: `warn_alloc`.
    pub on_failure: fn(&AllocFailure<'_>),
    /// Is told of pages that are freed wrongly, with their owner. Linux: `bad_page`.
    pub on_bad_free: fn(&BadFree<'_>),
    /// Is told of requests that nobody should make. Linux: `WARN_ON_ONCE`, `might_sleep`.
    pub on_bug: fn(&AllocBug),
}

impl AllocHooks {
    /// Nothing is reclaimed or counted, and nobody is told.
    pub const NONE: Self = Self {
        reclaimer: &NoReclaim,
        accountant: &NoAccounts,
        on_step: |_| {},
        on_failure: |_| {},
        on_bad_free: |_| {},
        on_bug: |_| {},
    };
}

impl Default for AllocHooks {
    fn default() -> Self {
        Self::NONE
    }
}

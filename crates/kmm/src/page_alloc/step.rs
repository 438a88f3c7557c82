//! The slow path as a list of steps, for traces and tests.

use core::fmt;

use kmm_frame::{Gfp, NodeId, Order};

use super::{CompactPriority, CompactResult, OomResult};

/// What the slow path does next, or what came of it. Linux: the trace points of mm/page_alloc.c, mm/vmscan.c,
/// mm/compaction.c and mm/oom_kill.c, by their names as far as there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocStep {
    /// The fast path had nothing.
    Slow {
        /// The request's size.
        order: Order,
        /// The request's flags.
        gfp: Gfp,
    },
    /// kswapd of a node was woken: `mm_vmscan_wakeup_kswapd`.
    WakeKswapd(NodeId),
    /// Zones are looked through with these flags: `get_page_from_freelist`.
    FreeLists(Gfp),
    /// Zones are looked through for one that is above its high mark, before anybody is killed.
    HighMark,
    /// Compaction came back: `mm_compaction_end`.
    Compacted(CompactPriority, CompactResult),
    /// Direct reclaim came back with so many pages: `mm_vmscan_direct_reclaim_end`.
    Reclaimed(usize),
    /// Shrinkers let go of so many things, as reclaim had found nothing: `mm_shrink_slab_end`.
    Shrunk(usize),
    /// So many other CPUs had pages in stock, and were made to give them back: `drain_all_pages`.
    Drained(usize),
    /// A pageblock that was kept back for urgent requests was given up.
    Unreserved,
    /// Reclaim is worth another try after so many without progress: `reclaim_retry_zone`.
    RetryReclaim(u32),
    /// Compaction is worth another try: `compact_retry`.
    RetryCompact(CompactPriority),
    /// Another task is killing somebody: wait for what comes of it.
    OomBusy,
    /// Somebody had to end: `mark_victim`.
    Oom(OomResult),
    /// A request that must not fail begins again.
    RetryNofail,
    /// A block was found after all.
    Got,
    /// The request failed: `warn_alloc`.
    Failed,
}

impl fmt::Display for AllocStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { order, gfp } => write!(f, "slow order={order} gfp_flags={gfp}"),
            Self::WakeKswapd(node) => write!(f, "mm_vmscan_wakeup_kswapd nid={}", node.index()),
            Self::FreeLists(gfp) => write!(f, "freelists gfp_flags={gfp}"),
            Self::HighMark => f.write_str("freelists above high"),
            Self::Compacted(priority, result) => {
                write!(
                    f,
                    "mm_compaction_end priority={priority:?} status={result:?}"
                )
            }
            Self::Reclaimed(count) => {
                write!(f, "mm_vmscan_direct_reclaim_end nr_reclaimed={count}")
            }
            Self::Shrunk(count) => write!(f, "mm_shrink_slab_end freed={count}"),
            Self::Drained(nr_cpus) => write!(f, "drain_all_pages cpus={nr_cpus}"),
            Self::Unreserved => f.write_str("highatomic unreserved"),
            Self::RetryReclaim(loops) => write!(f, "reclaim_retry_zone no_progress_loops={loops}"),
            Self::RetryCompact(priority) => write!(f, "compact_retry priority={priority:?}"),
            Self::OomBusy => f.write_str("oom busy"),
            Self::Oom(result) => write!(f, "mark_victim result={result:?}"),
            Self::RetryNofail => f.write_str("nofail retry"),
            Self::Got => f.write_str("got page"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

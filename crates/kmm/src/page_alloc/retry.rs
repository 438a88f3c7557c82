//! Whether another try is worth it. Linux: `should_reclaim_retry`, `should_compact_retry`, mm/page_alloc.c.

use super::{CompactPriority, CompactResult};

/// So often reclaim is tried without progress. Linux: `MAX_RECLAIM_RETRIES`.
pub(super) const MAX_RECLAIM_RETRIES: u32 = 16;
/// So often compaction is tried at one priority. Linux: `MAX_COMPACT_RETRIES`.
const MAX_COMPACT_RETRIES: u32 = 16;

/// What was tried so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries {
    no_progress_loops: u32,
    compactions: u32,
    pub(super) priority: CompactPriority,
}

/// What decides whether compaction is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompactState {
    pub(super) is_single_page: bool,
    pub(super) is_costly: bool,
    pub(super) result: CompactResult,
    /// Whether some zone has memory enough, were it in one piece. Linux: `compaction_zonelist_suitable`.
    pub(super) could_be_compacted: bool,
}

impl Retries {
    pub(super) const fn new(priority: CompactPriority) -> Self {
        Self {
            no_progress_loops: 0,
            compactions: 0,
            priority,
        }
    }

    pub(super) const fn no_progress_loops(&self) -> u32 {
        self.no_progress_loops
    }

    /// Somebody ends: from now on progress counts anew.
    pub(super) const fn start_over(&mut self) {
        self.no_progress_loops = 0;
    }

    /// After a reclaim. The last resort is what was kept back for urgent requests. For a costly order, pages that were freed say little about the block: they do not count as
    /// progress.
    pub(super) fn after_reclaim(
        &mut self,
        made_progress: bool,
        is_costly: bool,
        could_be_reclaimed: impl FnOnce() -> bool,
        last_resort: impl FnOnce() -> bool,
    ) -> bool {
        if made_progress && !is_costly {
            self.no_progress_loops = 0;
        } else {
            self.no_progress_loops += 1;
        }
        if self.no_progress_loops > MAX_RECLAIM_RETRIES {
            return last_resort();
        }
        could_be_reclaimed()
    }

    /// After a compaction.
    pub(super) fn after_compaction(&mut self, state: CompactState) -> bool {
        if state.is_single_page {
            return false;
        }
        if state.result == CompactResult::Success {
            self.compactions += 1;
        }
        let most = if state.is_costly {
            MAX_COMPACT_RETRIES / 4
        } else {
            MAX_COMPACT_RETRIES
        };
        match state.result {
            CompactResult::Skipped => return state.could_be_compacted,
            CompactResult::Success if self.compactions <= most => return true,
            _ => {}
        }
        let strongest = if state.is_costly {
            CompactPriority::SyncLight
        } else {
            CompactPriority::SyncFull
        };
        match self.priority.stronger(strongest) {
            Some(priority) => {
                self.priority = priority;
                self.compactions = 0;
                true
            }
            None => false,
        }
    }
}

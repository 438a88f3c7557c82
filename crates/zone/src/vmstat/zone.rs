//! What the pages of a zone are used for, and where its requests were served. Linux: `zone::vm_stat`.

use kmm_frame::{NumaCounts, NumaItem, ZoneCounts, ZoneItem};
use kmm_host::{CpuId, CpuPin};
use kmm_kcoll::sync::atomic::{AtomicIsize, AtomicU64, Ordering::Relaxed};
use lock_api::RawMutex;

use super::{CpuCounts, bump, snapshot, with_share};
use crate::Zone;

/// The counts of a zone but for its free pages, which its buddy allocator counts. Linux: `zone::vm_stat`.
#[derive(Debug)]
pub(crate) struct ZoneCounters {
    totals: [AtomicIsize; ZoneItem::COUNT],
    numa: [AtomicU64; NumaItem::COUNT],
    shares: &'static [CpuCounts],
}

impl ZoneCounters {
    /// `shares`: those of the zone's node, one for each CPU, or none.
    pub(crate) fn new(shares: &'static [CpuCounts]) -> Self {
        Self {
            totals: zeros!(AtomicIsize; ZoneItem::COUNT),
            numa: zeros!(AtomicU64; NumaItem::COUNT),
            shares,
        }
    }
}

impl<L: RawMutex> Zone<L> {
    /// Adds pages to a count, or takes them away. Those of the LRU lists are kept by [`crate::Lruvec`], the free pages by
    /// the buddy allocator, nobody else's to change. Linux: `mod_zone_page_state`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn mod_count(&self, pin: CpuPin<'_>, item: ZoneItem, nr_pages: isize) {
        let counters = self.counters();
        let total = &counters.totals[item.index()];
        let counted = with_share(counters.shares, pin, |share| {
            share.zones[self.kind().index()].add(item.index(), nr_pages, total);
        });
        if counted.is_err() {
            total.fetch_add(nr_pages, Relaxed);
        }
    }

    /// As [`Zone::mod_count`], by the total: for who knows no CPU, or counts much at once.
    pub fn mod_total(&self, item: ZoneItem, nr_pages: isize) {
        self.counters().totals[item.index()].fetch_add(nr_pages, Relaxed);
    }

    /// Counts where a request was served, if that is not the rule: [`NumaItem::Hit`] and [`NumaItem::Local`] are what is
    /// left of the zone's requests, and [`NumaItem::Other`] the zone knows from the pagesets and its lock, so that the fast
    /// path need not count them. Linux: `__count_numa_events`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    pub fn count_numa(&self, pin: CpuPin<'_>, item: NumaItem, nr_requests: u64) {
        let counters = self.counters();
        let counted = with_share(counters.shares, pin, |share| {
            bump(&share.numa[self.kind().index()][item.index()], nr_requests);
        });
        if counted.is_err() {
            counters.numa[item.index()].fetch_add(nr_requests, Relaxed);
        }
    }

    /// A count with what CPUs have not passed on; exact while they count nothing, never less than 0.
    /// Linux: `zone_page_state_snapshot`.
    #[must_use]
    pub fn count(&self, item: ZoneItem) -> u64 {
        if let Some(count) = self.count_of_lists(item) {
            return count;
        }
        let counters = self.counters();
        let of_cpu = |cpu: &CpuCounts| cpu.zones[self.kind().index()].diff(item.index());
        let diffs = counters.shares.iter().map(of_cpu);
        snapshot(&counters.totals[item.index()], diffs)
    }

    /// The total of a count, without what CPUs have not passed on; never less than 0. Linux: `zone_page_state`.
    #[must_use]
    pub fn count_total(&self, item: ZoneItem) -> u64 {
        if let Some(count) = self.count_of_lists(item) {
            return count;
        }
        let total = self.counters().totals[item.index()].load(Relaxed);
        u64::try_from(total).unwrap_or(0)
    }

    /// What the buddy allocator counts.
    fn count_of_lists(&self, item: ZoneItem) -> Option<u64> {
        match item {
            ZoneItem::FreePages => Some(self.nr_free_pages() as u64),
            ZoneItem::FreeCma => Some(self.nr_free_cma() as u64),
            _ => None,
        }
    }

    /// All counts as they are now.
    #[must_use]
    pub fn counts(&self) -> ZoneCounts {
        ZoneCounts::from_fn(|item| self.count(item))
    }

    /// Where the zone's requests were served.
    #[must_use]
    pub fn numa_counts(&self) -> NumaCounts {
        let counters = self.counters();
        let of_cpus = |item: NumaItem| {
            let each = counters.shares.iter();
            let each = each.map(|cpu| &cpu.numa[self.kind().index()][item.index()]);
            let all = each.chain([&counters.numa[item.index()]]);
            all.map(|count| count.load(Relaxed)).sum::<u64>()
        };
        let mut counts = NumaCounts::from_fn(of_cpus);
        counts[NumaItem::Other] += self.nr_remote();
        let (nr_requests, _, _) = self.events();
        counts[NumaItem::Hit] += nr_requests.saturating_sub(counts[NumaItem::Miss]);
        counts[NumaItem::Local] += nr_requests.saturating_sub(counts[NumaItem::Other]);
        counts
    }

    /// Passes on what this CPU has counted; whether there was anything. Linux: the zone's part of `refresh_cpu_vm_stats`.
    pub fn fold_counts(&self, pin: CpuPin<'_>) -> bool {
        let counters = self.counters();
        let mut any = false;
        let folded = with_share(counters.shares, pin, |share| {
            any = share.zones[self.kind().index()].fold(&counters.totals);
        });
        folded.is_ok() && any
    }

    /// Passes on what `cpu` has counted, which does not run any more: else counts get wrong. Linux: `cpu_vm_stats_fold`.
    pub fn fold_dead_counts(&self, cpu: CpuId) -> bool {
        let counters = self.counters();
        let share = counters.shares.get(cpu.index());
        share.is_some_and(|share| share.zones[self.kind().index()].fold(&counters.totals))
    }

    /// How far the counts of `cpu` may run ahead of the zone's. Linux: `per_cpu_zonestat::stat_threshold`.
    #[must_use]
    pub fn stat_threshold(&self, cpu: CpuId) -> usize {
        let share = self.counters().shares.get(cpu.index());
        share.map_or(0, |share| share.zones[self.kind().index()].threshold())
    }

    pub(crate) fn set_stat_threshold(&self, threshold: usize) {
        for share in self.counters().shares {
            share.zones[self.kind().index()].set_threshold(threshold);
        }
    }
}

//! Numbers for /proc and for whoever steers.

use kmm_frame::{
    NR_ORDERS, NodeId, NodeItem, NumaCounts, Order, Pfn, VmEvent, VmEventCounts, ZoneCounts,
    ZoneType,
};
use kmm_host::{CpuId, CpuPin, Cpus, PhysMap};
use lock_api::RawMutex;

use crate::vmstat::{normal_threshold, pressure_threshold};
use crate::{PcpLimits, Watermarks, Zone, Zones};

/// A zone at a moment, as /proc/zoneinfo and /proc/buddyinfo show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneStat {
    /// Of which node.
    pub node: NodeId,
    /// Which zone.
    pub kind: ZoneType,
    /// Its first frame.
    pub start_pfn: Pfn,
    /// Frames from the first to the last, holes included.
    pub spanned: usize,
    /// Frames that are RAM.
    pub present: usize,
    /// Frames that were given to the allocator.
    pub managed: usize,
    /// Free frames, those in pagesets not counted.
    pub free: usize,
    /// Frames in pagesets.
    pub pcp_pages: usize,
    /// The marks in force.
    pub watermarks: Watermarks,
    /// What is kept back, by the highest zone of the request.
    pub protection: [usize; ZoneType::COUNT],
    /// Free blocks of each order.
    pub nr_free: [usize; NR_ORDERS],
    /// Limits of the pagesets.
    pub pcp: PcpLimits,
    /// What pages are used for.
    pub counts: ZoneCounts,
    /// Requests by where they were served.
    pub numa: NumaCounts,
    /// Pages handed out since boot. Linux: `pgalloc_normal` and its like.
    pub pgalloc: u64,
    /// Pages taken back since boot. Linux: the zone's part of `pgfree`.
    pub pgfree: u64,
}

/// How close counts are kept to their totals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CountPressure {
    /// By [`crate::normal_threshold`].
    Normal,
    /// By [`crate::pressure_threshold`].
    Short,
}

/// The pageset of a CPU at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcpStat {
    /// Whose.
    pub cpu: CpuId,
    /// Pages in stock.
    pub count: usize,
    /// Limits.
    pub limits: PcpLimits,
    /// How far its counts may run ahead of the zone's. Linux: `vm stats threshold`.
    pub stat_threshold: usize,
}

/// Where all frames are: `free + allocated + reserved = present`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accounting {
    /// Frames that are RAM.
    pub present: usize,
    /// Frames that the allocator never had.
    pub reserved: usize,
    /// Frames on free lists and in pagesets.
    pub free: usize,
    /// Frames that have an owner: handed out less taken back.
    pub allocated: usize,
}

impl Accounting {
    /// Whether every frame is somewhere.
    #[must_use]
    pub const fn adds_up(&self) -> bool {
        self.free + self.allocated + self.reserved == self.present
    }
}

impl<L: RawMutex> Zone<L> {
    /// The zone as it is now.
    #[must_use]
    pub fn stat(&self) -> ZoneStat {
        let (free, nr_free) = self.with_buddy(|buddy| {
            let mut nr_free = [0; NR_ORDERS];
            for order in Order::all() {
                nr_free[order.index()] = buddy.nr_free(order);
            }
            (buddy.nr_free_pages(), nr_free)
        });
        let (_, pgalloc, pgfree) = self.events();
        ZoneStat {
            node: self.node(),
            kind: self.kind(),
            start_pfn: self.range().start(),
            spanned: self.range().nr_pages(),
            present: self.present_pages(),
            managed: self.managed_pages(),
            free,
            pcp_pages: self.pcp_stats().map(|pcp| pcp.count).sum(),
            watermarks: self.watermarks(),
            protection: self.protection(),
            nr_free,
            pcp: self.pcp_limits(),
            counts: self.counts(),
            numa: self.numa_counts(),
            pgalloc,
            pgfree,
        }
    }

    /// The pageset of each CPU; none for a zone without frames.
    pub fn pcp_stats(&self) -> impl Iterator<Item = PcpStat> {
        let limits = self.pcp_limits();
        (0..)
            .map(CpuId::new)
            .zip(self.pcps())
            .map(move |(cpu, pcp)| PcpStat {
                cpu,
                count: pcp.count(),
                limits,
                stat_threshold: self.stat_threshold(cpu),
            })
    }
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Counts events on this CPU. Linux: `count_vm_events`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn count_event(&self, event: VmEvent, more: u64) {
        self.cpus().with_pin(|pin| {
            let node = self.topology().node_of_cpu(pin.cpu().index());
            let counters = self.node(node).counters();
            counters.count_event(pin, event, more);
        });
    }

    /// How often each thing happened, since boot, on all CPUs. Linux: `all_vm_events`.
    #[must_use]
    pub fn events(&self) -> VmEventCounts {
        let mut events = VmEventCounts::default();
        for node in self.nodes() {
            events.add(&node.counters().events());
        }
        for zone in self.all() {
            let (_, pgalloc, pgfree) = zone.events();
            events[VmEvent::pgalloc(zone.kind())] += pgalloc;
            events[VmEvent::Pgfree] += pgfree;
        }
        events
    }

    /// Adds to a count of the node that a frame is of, or takes away, on this CPU. Linux: `mod_node_page_state`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn mod_node_count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        let counters = self.node(self.topology().node_of(pfn)).counters();
        self.cpus().with_pin(|pin| counters.add(pin, item, delta));
    }

    /// Passes on to the totals what this CPU has counted; whether there was anything. To be called now and then by each
    /// CPU, and before it sleeps for long. Linux: `refresh_cpu_vm_stats`.
    pub fn fold_counts(&self, pin: CpuPin<'_>) -> bool {
        let of_nodes = self.nodes().iter().map(|node| node.counters().fold(pin));
        let of_zones = self.all().map(|zone| zone.fold_counts(pin));
        of_nodes.chain(of_zones).fold(false, |any, one| any | one)
    }

    /// Passes on what a CPU has counted that does not run any more. Linux: `cpu_vm_stats_fold`.
    pub fn fold_dead_counts(&self, cpu: CpuId) {
        for node in self.nodes() {
            node.counters().fold_dead(cpu);
        }
        for zone in self.all() {
            zone.fold_dead_counts(cpu);
        }
    }

    /// How far counts of a CPU may run ahead, from what the zones have now. Linux: `refresh_zone_stat_thresholds`.
    pub(crate) fn init_stat_thresholds(&self) {
        let nr_cpus = self.cpus().nr_cpus();
        for node in self.nodes() {
            let mut most = 0;
            for zone in node.zones().iter().filter(|zone| zone.is_populated()) {
                let threshold = normal_threshold(zone.managed_pages(), nr_cpus);
                zone.set_stat_threshold(threshold);
                most = most.max(threshold);
            }
            node.counters().set_threshold(most);
        }
    }

    /// While memory is short, counts are kept so close that all CPUs together do not hide a watermark.
    /// Linux: `set_pgdat_percpu_threshold(calculate_pressure_threshold)`, as kswapd does while it runs.
    pub fn set_pressure_thresholds(&self, pressure: CountPressure) {
        if pressure == CountPressure::Normal {
            return self.init_stat_thresholds();
        }
        let nr_cpus = self.cpus().nr_cpus();
        for zone in self.all().filter(|zone| zone.is_populated()) {
            let marks = zone.watermarks();
            zone.set_stat_threshold(pressure_threshold(marks.low, marks.min, nr_cpus));
        }
    }

    /// Every zone that the machine has, node by node, scarcest first; empty ones too.
    pub fn stats(&self) -> impl Iterator<Item = ZoneStat> {
        self.all()
            .filter(|zone| self.is_configured(zone.kind()))
            .map(Zone::stat)
    }

    /// Free frames of all zones, those in pagesets not counted. Linux: `nr_free_pages`.
    #[must_use]
    pub fn nr_free_pages(&self) -> usize {
        self.all().map(Zone::nr_free_pages).sum()
    }

    /// Frames given to the allocator, of all zones. Linux: `totalram_pages`.
    #[must_use]
    pub fn managed_pages(&self) -> usize {
        self.all().map(Zone::managed_pages).sum()
    }

    /// Where all frames are.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        self.all()
            .map(Zone::stat)
            .fold(Accounting::default(), |sum, zone| Accounting {
                present: sum.present + zone.present,
                reserved: sum.reserved + zone.present.saturating_sub(zone.managed),
                free: sum.free + zone.free + zone.pcp_pages,
                allocated: sum.allocated + nr_allocated(&zone),
            })
    }
}

pub(crate) fn nr_allocated(zone: &ZoneStat) -> usize {
    usize::try_from(zone.pgalloc.saturating_sub(zone.pgfree)).unwrap_or(usize::MAX)
}

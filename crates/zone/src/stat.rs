//! Numbers for /proc and for whoever steers.

use kmm_frame::{NR_ORDERS, Order, Pfn, ZoneType};
use kmm_host::{CpuId, Cpus, PhysMap};
use lock_api::RawMutex;

use crate::{PcpLimits, Watermarks, Zone, ZoneCounts, Zones};

/// A zone at a moment, as /proc/zoneinfo and /proc/buddyinfo show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneStat {
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
    pub numa: NumaStat,
    /// Pages handed out since boot. Linux: `pgalloc_normal` and its like.
    pub pgalloc: u64,
    /// Pages taken back since boot. Linux: the zone's part of `pgfree`.
    pub pgfree: u64,
}

/// Where requests were served. Linux: `enum numa_stat_item`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NumaStat {
    /// From the node that was meant.
    pub hit: u64,
    /// From this node, though another was meant.
    pub miss: u64,
    /// Meant for this node, served by another.
    pub foreign: u64,
    /// By an interleaving policy.
    pub interleave: u64,
    /// From the node of the CPU that asked.
    pub local: u64,
    /// From another node than that of the CPU that asked.
    pub other: u64,
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
        let (allocs, pgalloc, pgfree) = self.events();
        ZoneStat {
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
            // One node: every request is served where it was meant to be, and next to who asked.
            numa: NumaStat {
                hit: allocs,
                local: allocs,
                ..NumaStat::default()
            },
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
            })
    }
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Every zone that the machine has, scarcest first; empty ones too.
    pub fn stats(&self) -> impl Iterator<Item = ZoneStat> {
        self.all()
            .iter()
            .filter(|zone| self.layout().is_configured(zone.kind()))
            .map(Zone::stat)
    }

    /// Free frames of all zones, those in pagesets not counted. Linux: `nr_free_pages`.
    #[must_use]
    pub fn nr_free_pages(&self) -> usize {
        self.all().iter().map(Zone::nr_free_pages).sum()
    }

    /// Frames given to the allocator, of all zones. Linux: `totalram_pages`.
    #[must_use]
    pub fn managed_pages(&self) -> usize {
        self.all().iter().map(Zone::managed_pages).sum()
    }

    /// Where all frames are.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        self.all()
            .iter()
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

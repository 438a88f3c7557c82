//! Watermarks, reserves and the sizes of pagesets, from what the zones have. Linux: `__setup_per_zone_wmarks`,
//! `setup_per_zone_lowmem_reserve`.

use core::sync::atomic::Ordering::Relaxed;

use kmm_frame::{NodeId, ZoneType};
use kmm_host::{Cpus, PhysMap};
use lock_api::RawMutex;

use super::{NOT_YET, Zones};
use crate::{PcpLimits, PcpSizing, Watermarks, Zone, default_min_free_kbytes, lowmem_reserve};

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Computes watermarks, lowmem reserves and the limits of the pagesets from what the zones have now. To be called
    /// when boot has freed its memory, and when one of the arguments changes.
    ///
    /// Linux: `setup_per_zone_wmarks`, `setup_per_zone_lowmem_reserve`, `zone_pcp_update`.
    pub fn init_watermarks(&self, min_free_kbytes: usize, scale_factor: usize) {
        self.min_free_kbytes.store(min_free_kbytes, Relaxed);
        self.scale_factor.store(scale_factor, Relaxed);
        let lowmem = self.lowmem_pages();
        for zone in self.all() {
            let managed = zone.managed_pages();
            let marks =
                Watermarks::for_zone(zone.kind(), managed, lowmem, min_free_kbytes, scale_factor);
            zone.set_watermarks(marks);
            zone.set_pcp_limits(match self.pcp_sizing {
                PcpSizing::ByLowMark => {
                    PcpLimits::by_low_mark(managed, marks.low, self.nr_cpus_near(zone.node()))
                }
                PcpSizing::SixBatches => PcpLimits::six_batches(managed),
            });
        }
        self.init_lowmem_reserve();
        self.init_stat_thresholds();
    }

    /// Computes the same from the same arguments after memory has come or gone; `before` is what
    /// [`Zones::default_min_free_kbytes`] was: if that was in force, what it is now. Linux: `init_per_zone_wmark_min`.
    pub(crate) fn update_watermarks(&self, before: usize) {
        let min_free_kbytes = match self.min_free_kbytes.load(Relaxed) {
            NOT_YET => return,
            unchanged if unchanged != before => unchanged,
            _ => self.default_min_free_kbytes(),
        };
        self.init_watermarks(min_free_kbytes, self.scale_factor.load(Relaxed));
    }

    /// What Linux would keep free on this machine, in KiB. Linux: `calculate_min_free_kbytes`.
    #[must_use]
    pub fn default_min_free_kbytes(&self) -> usize {
        default_min_free_kbytes(self.lowmem_pages())
    }

    /// Changes what share of the zones above each zone keeps back from their requests; 0 for none.
    /// Linux: `lowmem_reserve_ratio` in /proc/sys/vm.
    pub fn set_lowmem_reserve_ratio(&self, ratio: [usize; ZoneType::COUNT]) {
        for (slot, value) in self.reserve_ratio.iter().zip(ratio) {
            slot.store(value, Relaxed);
        }
        self.init_lowmem_reserve();
    }

    /// CPUs that a zone's stocks are shared among. Linux: `zone_highsize`.
    fn nr_cpus_near(&self, node: NodeId) -> usize {
        let all = self.cpus.nr_cpus();
        let is_near = |&cpu: &usize| self.topology.node_of_cpu(cpu) == node;
        match (0..all).filter(is_near).count() {
            0 => all,
            near => near,
        }
    }

    /// Pages to allocate in all zones that the kernel maps permanently. Linux: `nr_free_buffer_pages` at boot.
    fn lowmem_pages(&self) -> usize {
        let is_lowmem = |zone: &&Zone<L>| zone.kind() != ZoneType::HighMem;
        let zones = self.all().filter(is_lowmem);
        zones.map(Zone::managed_pages).sum()
    }

    fn init_lowmem_reserve(&self) {
        let ratio = core::array::from_fn(|i| self.reserve_ratio[i].load(Relaxed));
        for node in self.nodes {
            let managed = ZoneType::ALL.map(|kind| node.zone(kind).managed_pages());
            for (zone, reserve) in node.zones().iter().zip(lowmem_reserve(managed, ratio)) {
                zone.set_protection(reserve);
            }
        }
    }
}

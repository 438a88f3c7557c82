//! /proc/vmstat. Linux: `vmstat_show`, mm/vmstat.c.

use core::fmt;

use crate::{NodeCounts, NumaCounts, VmEventCounts, ZoneCounts};

/// The counts of the whole machine. `Display` is the text.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Vmstat {
    /// Summed over zones.
    pub zone: ZoneCounts,
    /// Summed over zones.
    pub numa: NumaCounts,
    /// Summed over nodes.
    pub node: NodeCounts,
    /// Dirty pages at which writers must wait.
    pub nr_dirty_threshold: u64,
    /// Dirty pages at which writing back begins.
    pub nr_dirty_background_threshold: u64,
    /// Summed over CPUs.
    pub events: VmEventCounts,
}

impl fmt::Display for Vmstat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thresholds = [
            ("nr_dirty_threshold", self.nr_dirty_threshold),
            (
                "nr_dirty_background_threshold",
                self.nr_dirty_background_threshold,
            ),
        ];
        let lines = self.zone.iter().chain(self.numa.iter());
        let lines = lines.chain(self.node.iter()).chain(thresholds);
        for (name, value) in lines.chain(self.events.iter()) {
            writeln!(f, "{name} {value}")?;
        }
        f.write_str("nr_unstable 0\n")
    }
}

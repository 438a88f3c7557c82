//! /proc/zoneinfo. Linux: `zoneinfo_show_print`, mm/vmstat.c.

use core::fmt;

use crate::{NodeCounts, NumaCounts, ZoneCounts};

/// One zone's block of lines. `Display` is the text.
///
/// Zones without memory are shown too, down to `protection`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ZoneInfo<'a> {
    /// The node.
    pub node: u32,
    /// The zone.
    pub zone: &'a str,
    /// The node's counts; only with its first zone that has memory.
    pub node_stats: Option<&'a NodeCounts>,
    /// Free pages.
    pub free: u64,
    /// What the watermarks are raised by after fragmentation.
    pub boost: u64,
    /// Below it, only privileged requests succeed.
    pub min: u64,
    /// Below it, reclaim wakes.
    pub low: u64,
    /// At it, reclaim rests.
    pub high: u64,
    /// Frames from first to last.
    pub spanned: u64,
    /// Without holes.
    pub present: u64,
    /// Without reserved frames.
    pub managed: u64,
    /// In CMA areas.
    pub cma: u64,
    /// Pages kept from requests that prefer each higher zone.
    pub protection: &'a [u64],
    /// The zone's counts.
    pub zone_stats: ZoneCounts,
    /// The zone's allocation counts.
    pub numa_stats: NumaCounts,
    /// Each CPU's page set.
    pub pagesets: &'a [Pageset],
    /// Whether reclaim gave up on the node.
    pub node_unreclaimable: bool,
    /// The first frame.
    pub start_pfn: u64,
}

/// One CPU's page set in a zone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pageset {
    /// The CPU.
    pub cpu: u32,
    /// Pages in it.
    pub count: u64,
    /// Above it, pages go back.
    pub high: u64,
    /// How many move at a time.
    pub batch: u64,
    /// How far the CPU's counts may run ahead of the zone's.
    pub stat_threshold: u64,
}

impl fmt::Display for ZoneInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Node {}, zone {:>8}", self.node, self.zone)?;
        if let Some(stats) = self.node_stats {
            writeln!(f, "  per-node stats")?;
            for (name, value) in stats.iter() {
                writeln!(f, "      {name:<12} {value}")?;
            }
        }
        writeln!(f, "  pages free     {}", self.free)?;
        for (name, value) in [
            ("boost", self.boost),
            ("min", self.min),
            ("low", self.low),
            ("high", self.high),
            ("spanned", self.spanned),
            ("present", self.present),
            ("managed", self.managed),
            ("cma", self.cma),
        ] {
            writeln!(f, "        {name:<8} {value}")?;
        }
        f.write_str("        protection: (")?;
        for (nr, pages) in self.protection.iter().enumerate() {
            let comma = if nr == 0 { "" } else { ", " };
            write!(f, "{comma}{pages}")?;
        }
        f.write_str(")\n")?;
        if self.present == 0 {
            return Ok(());
        }
        for (name, value) in self.zone_stats.iter().chain(self.numa_stats.iter()) {
            writeln!(f, "      {name:<12} {value}")?;
        }
        f.write_str("  pagesets")?;
        for pageset in self.pagesets {
            write!(f, "\n{pageset}")?;
        }
        writeln!(
            f,
            "\n  node_unreclaimable:  {}\n  start_pfn:           {}",
            u8::from(self.node_unreclaimable),
            self.start_pfn
        )
    }
}

impl fmt::Display for Pageset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    cpu: {}", self.cpu)?;
        writeln!(f, "              count: {}", self.count)?;
        writeln!(f, "              high:  {}", self.high)?;
        writeln!(f, "              batch: {}", self.batch)?;
        write!(f, "  vm stats threshold: {}", self.stat_threshold)
    }
}

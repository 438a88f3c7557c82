//! The files of /proc that tell of physical memory, from the zones' figures. Linux: mm/vmstat.c, fs/proc/meminfo.c.
//!
//! `kmm_procfs` knows how they are written, `kmm_zone` what is in them. Counts are shown with what CPUs have not passed on
//! to the totals yet, where Linux shows the totals.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use kmm_frame::{NodeCounts, NodeItem, PAGE_SIZE, ZoneType};
use kmm_host::{Cpus, PhysMap};
use kmm_procfs::buddyinfo::BuddyLine;
use kmm_procfs::meminfo::{Meminfo, available_pages};
use kmm_procfs::pages_to_kb;
use kmm_procfs::pagetypeinfo::{self, PageTypes};
use kmm_procfs::vmstat::Vmstat;
use kmm_procfs::zoneinfo::{Pageset, ZoneInfo};
use kmm_zone::{Node, Zone, ZoneStat, Zones};
use lock_api::RawMutex;

/// /proc/buddyinfo: free blocks by order.
///
/// # Errors
/// When `out` fails.
pub fn write_buddyinfo<L: RawMutex, C: Cpus, P: PhysMap>(
    zones: &Zones<L, C, P>,
    out: &mut dyn Write,
) -> fmt::Result {
    for zone in zones.stats().filter(|zone| zone.present > 0) {
        let line = BuddyLine {
            node: node_number(&zone),
            zone: zone.kind.name(),
            nr_free: zone.nr_free.map(|count| count as u64),
        };
        write!(out, "{line}")?;
    }
    Ok(())
}

/// /proc/zoneinfo: each node's counts with its first zone that has memory, each zone with its pagesets.
///
/// # Errors
/// When `out` fails, or there is no memory for the list of CPUs.
pub fn write_zoneinfo<L: RawMutex, C: Cpus, P: PhysMap>(
    zones: &Zones<L, C, P>,
    out: &mut dyn Write,
) -> fmt::Result {
    for node in zones.nodes() {
        let mut node_stats = Some(node.counters().counts());
        let configured = |zone: &&Zone<L>| zones.is_configured(zone.kind());
        for zone in node.zones().iter().filter(configured) {
            let shown = node_stats.take_if(|_| zone.present_pages() > 0);
            write_zone(zones, zone, shown.as_ref(), out)?;
        }
    }
    Ok(())
}

fn write_zone<L: RawMutex, C: Cpus, P: PhysMap>(
    zones: &Zones<L, C, P>,
    zone: &Zone<L>,
    node_stats: Option<&NodeCounts>,
    out: &mut dyn Write,
) -> fmt::Result {
    let stat = zone.stat();
    let mut protection = [0; ZoneType::COUNT];
    let kinds = ZoneType::ALL.into_iter();
    let kinds = kinds.filter(|&kind| zones.is_configured(kind));
    let mut nr_kinds = 0;
    for (slot, kind) in protection.iter_mut().zip(kinds) {
        *slot = stat.protection[kind.index()] as u64;
        nr_kinds += 1;
    }
    let mut pagesets = Vec::new();
    let nr_pagesets = zone.pcp_stats().count();
    pagesets
        .try_reserve_exact(nr_pagesets)
        .map_err(|_| fmt::Error)?;
    pagesets.extend(zone.pcp_stats().take(nr_pagesets).map(|pcp| Pageset {
        cpu: u32::try_from(pcp.cpu.index()).unwrap_or(u32::MAX),
        count: pcp.count as u64,
        high: pcp.limits.high as u64,
        batch: pcp.limits.batch as u64,
        stat_threshold: pcp.stat_threshold as u64,
    }));
    let info = ZoneInfo {
        node: node_number(&stat),
        zone: stat.kind.name(),
        node_stats,
        free: stat.free as u64,
        boost: 0,
        min: stat.watermarks.min as u64,
        low: stat.watermarks.low as u64,
        high: stat.watermarks.high as u64,
        spanned: stat.spanned as u64,
        present: stat.present as u64,
        managed: stat.managed as u64,
        cma: 0,
        protection: &protection[..nr_kinds],
        zone_stats: stat.counts,
        numa_stats: stat.numa,
        pagesets: &pagesets,
        node_unreclaimable: false,
        start_pfn: stat.start_pfn.index() as u64,
    };
    write!(out, "{info}")
}

/// /proc/pagetypeinfo: free blocks by migrate type and order, pageblocks by type.
///
/// # Errors
/// When `out` fails.
pub fn write_pagetypeinfo<L: RawMutex, C: Cpus, P: PhysMap>(
    zones: &Zones<L, C, P>,
    out: &mut dyn Write,
) -> fmt::Result {
    let mut out = out;
    for node in zones.nodes() {
        let present = node.zones().iter();
        let present = present.filter(|zone| zone.present_pages() > 0);
        pagetypeinfo::write(&mut out, present.map(|zone| page_types(node, zone)))?;
    }
    Ok(())
}

fn page_types<L: RawMutex>(node: &Node<L>, zone: &Zone<L>) -> PageTypes<'static> {
    let (free, blocks) = (zone.nr_free_by_type(), zone.nr_pageblocks());
    PageTypes {
        node: u32::try_from(node.id().index()).unwrap_or(u32::MAX),
        zone: zone.kind().name(),
        nr_free: pagetypeinfo::TYPES.map(|kind| free[kind.index()].map(|count| count as u64)),
        nr_blocks: pagetypeinfo::TYPES.map(|kind| blocks[kind.index()] as u64),
    }
}

/// /proc/vmstat: all counts and events, summed over zones, nodes and CPUs.
#[must_use]
pub fn vmstat<L: RawMutex, C: Cpus, P: PhysMap>(zones: &Zones<L, C, P>) -> Vmstat {
    let mut vmstat = Vmstat {
        node: node_counts(zones),
        events: zones.events(),
        ..Vmstat::default()
    };
    for zone in zones.all() {
        vmstat.zone.add(&zone.counts());
        vmstat.numa.add(&zone.numa_counts());
    }
    vmstat
}

/// /proc/meminfo, as far as the zones know: who calls adds what is mapped where.
#[must_use]
pub fn meminfo<L: RawMutex, C: Cpus, P: PhysMap>(zones: &Zones<L, C, P>) -> Meminfo {
    let (mut free, mut wmark_low, mut reserve) = (0, 0, 0);
    for zone in zones.all() {
        let stat = zone.stat();
        let held_back = stat.protection.iter().max().copied().unwrap_or(0);
        free += stat.free as u64;
        wmark_low += stat.watermarks.low as u64;
        reserve += (held_back + stat.watermarks.high).min(stat.managed) as u64;
    }
    let counts = node_counts(zones);
    let mlocked: u64 = zones
        .all()
        .map(|zone| zone.count(kmm_frame::ZoneItem::Mlock))
        .sum();
    let kb = |item: NodeItem| pages_to_kb(counts[item]);
    let pagecache = counts[NodeItem::ActiveFile] + counts[NodeItem::InactiveFile];
    let reclaimable = counts[NodeItem::SlabReclaimable] + counts[NodeItem::KernelMiscReclaimable];
    let available = available_pages(free, pagecache, reclaimable, wmark_low, reserve);
    Meminfo {
        mem_total_kb: pages_to_kb(zones.managed_pages() as u64),
        mem_free_kb: pages_to_kb(free),
        mem_available_kb: pages_to_kb(available),
        cached_kb: kb(NodeItem::FilePages).saturating_sub(kb(NodeItem::Swapcached)),
        swap_cached_kb: kb(NodeItem::Swapcached),
        active_kb: kb(NodeItem::ActiveAnon) + kb(NodeItem::ActiveFile),
        inactive_kb: kb(NodeItem::InactiveAnon) + kb(NodeItem::InactiveFile),
        active_anon_kb: kb(NodeItem::ActiveAnon),
        inactive_anon_kb: kb(NodeItem::InactiveAnon),
        active_file_kb: kb(NodeItem::ActiveFile),
        inactive_file_kb: kb(NodeItem::InactiveFile),
        unevictable_kb: kb(NodeItem::Unevictable),
        mlocked_kb: pages_to_kb(mlocked),
        dirty_kb: kb(NodeItem::Dirty),
        writeback_kb: kb(NodeItem::Writeback),
        anon_pages_kb: kb(NodeItem::AnonPages),
        mapped_kb: kb(NodeItem::Mapped),
        shmem_kb: kb(NodeItem::Shmem),
        kreclaimable_kb: pages_to_kb(reclaimable),
        slab_kb: kb(NodeItem::SlabReclaimable) + kb(NodeItem::SlabUnreclaimable),
        sreclaimable_kb: kb(NodeItem::SlabReclaimable),
        sunreclaim_kb: kb(NodeItem::SlabUnreclaimable),
        // Counted in KiB.
        kernel_stack_kb: counts[NodeItem::KernelStack],
        page_tables_kb: kb(NodeItem::PageTablePages),
        sec_page_tables_kb: kb(NodeItem::SecPageTablePages),
        hugepagesize_kb: ((1 << 9) * PAGE_SIZE / 1024) as u64,
        ..Meminfo::default()
    }
}

fn node_counts<L: RawMutex, C: Cpus, P: PhysMap>(zones: &Zones<L, C, P>) -> NodeCounts {
    let mut sum = NodeCounts::ZERO;
    for node in zones.nodes() {
        sum.add(&node.counters().counts());
    }
    sum
}

fn node_number(zone: &ZoneStat) -> u32 {
    u32::try_from(zone.node.index()).unwrap_or(u32::MAX)
}

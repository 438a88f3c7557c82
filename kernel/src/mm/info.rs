//! What /proc says of memory, from the manager's figures.

use core::fmt::{self, Write};
use core::panic::Location;

use kmm::frame::{NodeId, PAGE_SIZE, PageFlags, ZoneType};
use kmm::pagetable_walker::{Level, Span};
use kmm::procfs::buddyinfo::BuddyLine;
use kmm::procfs::meminfo::{Meminfo, available_pages};
use kmm::procfs::pagetypeinfo::{self, PageTypes};
use kmm::procfs::slabinfo::{self, SlabLine};
use kmm::procfs::vmallocinfo::{AreaKind, AreaLine};
use kmm::procfs::vmstat::Vmstat;
use kmm::procfs::zoneinfo::{Pageset, ZoneInfo};
use kmm::procfs::{NodeCounts, NodeItem, VmEvent, VmEventCounts, pages_to_kb};
use kmm::vmalloc::AreaFlags;

use super::{machine, manager, stack};
use crate::fallible::{self, Text};

/// Pages by what they hold, counted from the descriptors.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    anon_mapped: u64,
    file: u64,
    file_mapped: u64,
    dirty_file: u64,
    tables: u64,
}

/// Looks at every descriptor.
fn held() -> Held {
    let mut held = Held::default();
    let map = manager().mem_map();
    for page in map.range().iter().filter_map(|pfn| map.get(pfn)) {
        let flags = page.flags();
        let is_mapped = page.map_count() > 0;
        held.anon_mapped += u64::from(flags.contains(PageFlags::ANON) && is_mapped);
        held.tables += u64::from(flags.contains(PageFlags::TABLE));
        if flags.contains(PageFlags::FILE) {
            held.file += 1;
            held.file_mapped += u64::from(is_mapped);
            held.dirty_file += u64::from(flags.contains(PageFlags::DIRTY));
        }
    }
    held
}

/// KiB of the direct map in pages of each size.
fn direct_map_kb() -> [u64; 3] {
    let machine = machine();
    let mut kb = [0; 3];
    machine.manager.vmalloc().with_root(|root, mapper| {
        for frames in machine.memory {
            let start = machine.space.direct_map + frames.start().phys().as_u64();
            let end = machine.space.direct_map + frames.end().phys().as_u64();
            // Memory of the machine lies where the direct map can have it; else there is nothing to count.
            let _ = mapper.for_each(root, start..end, |span| {
                if let Span::Mapped(leaf) = span {
                    let index = match leaf.level {
                        Level::Pte => 0,
                        Level::Pmd => 1,
                        _ => 2,
                    };
                    kb[index] += leaf.level.size_bytes() >> 10;
                }
            });
        }
    });
    kb
}

/// /proc/meminfo.
pub fn write_meminfo(out: &mut dyn Write) -> fmt::Result {
    let manager = manager();
    let held = held();
    let slab = manager.slub().nr_pages();
    let zones = fallible::collect(manager.pages().stats())?;
    let free: u64 = zones.iter().map(|zone| zone.free as u64).sum();
    let wmark_low: u64 = zones.iter().map(|zone| zone.watermarks.low as u64).sum();
    let reserve: u64 = zones
        .iter()
        .map(|zone| {
            let held_back = zone.protection.iter().max().copied().unwrap_or(0);
            (held_back + zone.watermarks.high).min(zone.managed) as u64
        })
        .sum();
    let [direct_4k, direct_2m, direct_1g] = direct_map_kb();
    let reclaimable = slab.reclaimable as u64;
    let info = Meminfo {
        mem_total_kb: pages_to_kb(manager.pages().managed_pages() as u64),
        mem_free_kb: pages_to_kb(free),
        mem_available_kb: pages_to_kb(available_pages(free, 0, reclaimable, wmark_low, reserve)),
        cached_kb: pages_to_kb(held.file),
        dirty_kb: 0,
        anon_pages_kb: pages_to_kb(held.anon_mapped),
        mapped_kb: pages_to_kb(held.file_mapped),
        // Every file lives in memory alone, as in tmpfs.
        shmem_kb: pages_to_kb(held.file),
        kreclaimable_kb: pages_to_kb(reclaimable),
        slab_kb: pages_to_kb((slab.reclaimable + slab.unreclaimable) as u64),
        sreclaimable_kb: pages_to_kb(reclaimable),
        sunreclaim_kb: pages_to_kb(slab.unreclaimable as u64),
        kernel_stack_kb: (stack::nr_stacks() * stack::STACK_BYTES / 1024) as u64,
        page_tables_kb: pages_to_kb(held.tables),
        vmalloc_total_kb: manager.vmalloc().total_bytes() >> 10,
        vmalloc_used_kb: pages_to_kb(manager.vmalloc().nr_pages() as u64),
        hugepagesize_kb: 2048,
        direct_map_4k_kb: direct_4k,
        direct_map_2m_kb: direct_2m,
        direct_map_1g_kb: direct_1g,
        ..Meminfo::default()
    };
    write!(out, "{info}")
}

/// /proc/buddyinfo.
pub fn write_buddyinfo(out: &mut dyn Write) -> fmt::Result {
    for zone in manager().pages().stats().filter(|zone| zone.managed > 0) {
        let line = BuddyLine {
            node: number(zone.node),
            zone: zone.kind.name(),
            nr_free: zone.nr_free.map(|count| count as u64),
        };
        write!(out, "{line}")?;
    }
    Ok(())
}

/// /proc/zoneinfo.
pub fn write_zoneinfo(out: &mut dyn Write) -> fmt::Result {
    let node_stats = node_stats(&held());
    let mut first = true;
    for zone in manager().pages().stats() {
        let kinds = ZoneType::ALL
            .iter()
            .filter(|&&kind| manager().pages().is_configured(kind));
        let protection = fallible::collect(kinds.map(|kind| zone.protection[kind.index()] as u64))?;
        let stats = manager().pages().node(zone.node).zone(zone.kind).pcp_stats();
        let pagesets = fallible::collect(stats.map(|pcp| Pageset {
            cpu: u32::try_from(pcp.cpu.index()).unwrap_or(u32::MAX),
            count: pcp.count as u64,
            high: pcp.limits.high as u64,
            batch: pcp.limits.batch as u64,
            stat_threshold: pcp.stat_threshold as u64,
        }))?;
        let shows_node = first && zone.present > 0;
        first &= !shows_node;
        let info = ZoneInfo {
            node: number(zone.node),
            zone: zone.kind.name(),
            node_stats: shows_node.then_some(&node_stats),
            free: zone.free as u64,
            boost: 0,
            min: zone.watermarks.min as u64,
            low: zone.watermarks.low as u64,
            high: zone.watermarks.high as u64,
            spanned: zone.spanned as u64,
            present: zone.present as u64,
            managed: zone.managed as u64,
            cma: 0,
            protection: &protection,
            zone_stats: zone.counts,
            numa_stats: zone.numa,
            pagesets: &pagesets,
            node_unreclaimable: false,
            start_pfn: zone.start_pfn.index() as u64,
        };
        write!(out, "{info}")?;
    }
    Ok(())
}

/// /proc/vmstat.
pub fn write_vmstat(out: &mut dyn Write) -> fmt::Result {
    let mut stat = Vmstat {
        node: node_stats(&held()),
        events: vm_events(),
        ..Vmstat::default()
    };
    for zone in manager().pages().stats() {
        stat.zone.add(&zone.counts);
        stat.numa.add(&zone.numa);
    }
    write!(out, "{stat}")
}

/// /proc/slabinfo.
pub fn write_slabinfo(out: &mut dyn Write) -> fmt::Result {
    let caches = fallible::collect(manager().slub().cache_infos())?;
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let lines = caches.iter().rev().map(|cache| SlabLine {
        name: cache.name,
        active_objs: cache.active_objs as u64,
        num_objs: cache.num_objs as u64,
        objsize_bytes: number(cache.objsize),
        objs_per_slab: number(cache.objperslab),
        pages_per_slab: number(cache.pagesperslab),
        active_slabs: cache.active_slabs as u64,
        num_slabs: cache.num_slabs as u64,
    });
    let mut out = out;
    slabinfo::write(&mut out, lines)
}

/// /proc/vmallocinfo.
pub fn write_vmallocinfo(out: &mut dyn Write) -> fmt::Result {
    for area in manager().vmalloc().areas() {
        let caller = caller_text(area.caller)?;
        let nodes = [area.nr_pages as u64];
        let is_ioremap = area.flags.contains(AreaFlags::IOREMAP);
        let line = AreaLine {
            start: area.addr,
            end: area.addr + area.size_bytes,
            caller: core::str::from_utf8(&caller.0).ok(),
            nr_pages: area.nr_pages as u64,
            phys: is_ioremap.then_some(area.phys_addr),
            kind: if is_ioremap {
                AreaKind::Ioremap
            } else if area.flags.contains(AreaFlags::ALLOC) {
                AreaKind::Vmalloc
            } else {
                AreaKind::Vmap
            },
            nodes: &nodes,
        };
        write!(out, "{line}")?;
    }
    Ok(())
}

/// Where a call stands in the source, as one word.
fn caller_text(caller: &Location<'_>) -> Result<Text, fmt::Error> {
    let mut text = Text::default();
    write!(text, "{}:{}", caller.file(), caller.line())?;
    Ok(text)
}

fn number(node: NodeId) -> u32 {
    u32::try_from(node.index()).unwrap_or(0)
}

/// /proc/pagetypeinfo.
pub fn write_pagetypeinfo(out: &mut dyn Write) -> fmt::Result {
    let present = manager()
        .pages()
        .all()
        .filter(|zone| zone.present_pages() > 0);
    let zones = fallible::collect(present.map(|zone| {
        let (free, blocks) = (zone.nr_free_by_type(), zone.nr_pageblocks());
        PageTypes {
            node: number(zone.node()),
            zone: zone.kind().name(),
            nr_free: pagetypeinfo::TYPES.map(|kind| free[kind.index()].map(|count| count as u64)),
            nr_blocks: pagetypeinfo::TYPES.map(|kind| blocks[kind.index()] as u64),
        }
    }))?;
    let mut out = out;
    pagetypeinfo::write(&mut out, zones)
}

fn node_stats(held: &Held) -> NodeCounts {
    let slab = manager().slub().nr_pages();
    let mut stats = NodeCounts::ZERO;
    stats[NodeItem::AnonPages] = held.anon_mapped;
    stats[NodeItem::Mapped] = held.file_mapped;
    stats[NodeItem::FilePages] = held.file;
    stats[NodeItem::Shmem] = held.file;
    stats[NodeItem::SlabReclaimable] = slab.reclaimable as u64;
    stats[NodeItem::SlabUnreclaimable] = slab.unreclaimable as u64;
    stats[NodeItem::KernelStack] = (stack::nr_stacks() * stack::STACK_BYTES / 1024) as u64;
    stats[NodeItem::PageTablePages] = held.tables;
    stats
}

fn vm_events() -> VmEventCounts {
    let mut events = manager().pages().events();
    let seen = manager().events();
    events[VmEvent::Pgfault] = seen.pgfault;
    events[VmEvent::Pgmajfault] = seen.pgmajfault;
    events
}

/// Bytes of RAM that the allocator manages, and that are free now: for sysinfo.
pub fn total_and_free_bytes() -> (u64, u64) {
    let pages = manager().pages();
    let bytes = |count: usize| (count * PAGE_SIZE) as u64;
    (bytes(pages.managed_pages()), bytes(pages.nr_free_pages()))
}

/// Pages that somebody holds, those with kernel objects apart: object caches keep a page or two for the next time. For
/// tests: what is done and undone holds no more than before.
pub fn pages_held() -> usize {
    let allocated = manager().pages().accounting().allocated;
    allocated - manager().slub().nr_pages().total()
}

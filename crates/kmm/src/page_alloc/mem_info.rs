//! Mem-Info: where all memory is, as Linux writes it below the line of a request that failed. Linux: `show_mem`,
//! lib/show_mem.c.

use core::fmt;

use kmm_frame::{
    MigrateType, NR_ORDERS, NodeCounts, NodeId, NodeItem, Order, ZoneCounts, ZoneItem, ZoneType,
};
use kmm_zone::Watermarks;

const KB_PER_PAGE: u64 = 4;

/// A node in Mem-Info.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Which.
    pub node: NodeId,
    /// What its pages are used for.
    pub counts: NodeCounts,
    /// Whether reclaim has given it up.
    pub is_unreclaimable: bool,
}

/// A zone in Mem-Info. All in pages.
#[derive(Clone, Debug)]
pub struct ZoneInfo {
    /// Of which node.
    pub node: NodeId,
    /// Its name.
    pub name: &'static str,
    /// On free lists.
    pub free: u64,
    /// By how much the marks are raised.
    pub boost: u64,
    /// The marks.
    pub watermarks: Watermarks,
    /// In pageblocks that are kept back for urgent requests.
    pub reserved_highatomic: u64,
    /// What its pages are used for.
    pub counts: ZoneCounts,
    /// Pages that are RAM.
    pub present: u64,
    /// Pages that were given to the allocator.
    pub managed: u64,
    /// In all pagesets.
    pub free_pcp: u64,
    /// In this CPU's pageset.
    pub local_pcp: u64,
    /// What is kept back from requests, by their highest zone; of the zones that the machine has.
    pub protection: [Option<u64>; ZoneType::COUNT],
    /// Free blocks.
    pub nr_free: [u64; NR_ORDERS],
    /// Of which migrate types there are such blocks.
    pub types: [[bool; MigrateType::COUNT]; NR_ORDERS],
    /// Whether it is high memory, or movable pages alone.
    pub is_highmem: bool,
}

/// What Mem-Info says of the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemTotals {
    /// Swap space that is free, in kB.
    pub free_swap_kb: u64,
    /// Swap space, in kB.
    pub total_swap_kb: u64,
}

/// Writes Mem-Info. `node` and `zone` give what there is, by a number from 0 up; zones without a page are left out.
/// Linux: `show_mem`, `__show_free_areas`.
///
/// # Errors
/// Those of `out`.
pub fn write_mem_info(
    out: &mut (impl fmt::Write + ?Sized),
    node: impl Fn(usize) -> Option<NodeInfo>,
    zone: impl Fn(usize) -> Option<ZoneInfo>,
    totals: MemTotals,
) -> fmt::Result {
    let nodes = || (0..).map_while(&node);
    let zones = || (0..).map_while(&zone);
    writeln!(out, "Mem-Info:")?;
    let mut sum = NodeCounts::ZERO;
    nodes().for_each(|node| sum.add(&node.counts));
    let (mut of_zones, mut free_pcp) = (ZoneCounts::ZERO, 0);
    for zone in zones() {
        of_zones.add(&zone.counts);
        free_pcp += zone.free_pcp;
    }
    write_sums(out, &sum, &of_zones, free_pcp)?;
    nodes().try_for_each(|node| write_node(out, &node))?;
    zones().try_for_each(|zone| write_zone(out, &zone))?;
    zones().try_for_each(|zone| write_free_blocks(out, &zone))?;
    for node in nodes() {
        for kb in [1 << 20, 2 << 10] {
            let node = node.node.index();
            writeln!(
                out,
                "Node {node} hugepages_total=0 hugepages_free=0 hugepages_surp=0 hugepages_size={kb}kB"
            )?;
        }
    }
    writeln!(out, "{} total pagecache pages", sum[NodeItem::FilePages])?;
    writeln!(out, "{} pages in swap cache", sum[NodeItem::Swapcached])?;
    writeln!(out, "Free swap  = {}kB", totals.free_swap_kb)?;
    writeln!(out, "Total swap = {}kB", totals.total_swap_kb)?;
    let present = |zone: ZoneInfo| zone.present;
    writeln!(out, "{} pages RAM", zones().map(present).sum::<u64>())?;
    let high = zones().filter(|zone| zone.is_highmem).map(present);
    writeln!(out, "{} pages HighMem/MovableOnly", high.sum::<u64>())?;
    let reserved = zones().map(|zone| zone.present - zone.managed);
    writeln!(out, "{} pages reserved", reserved.sum::<u64>())
}

fn write_sums(
    out: &mut (impl fmt::Write + ?Sized),
    nodes: &NodeCounts,
    zones: &ZoneCounts,
    free_pcp: u64,
) -> fmt::Result {
    use NodeItem as N;
    let line = |names: &[(&str, u64)], out: &mut _| write_pairs(out, names, ":", "");
    let n = |item: NodeItem| nodes[item];
    line(
        &[
            ("active_anon", n(N::ActiveAnon)),
            (" inactive_anon", n(N::InactiveAnon)),
            (" isolated_anon", n(N::IsolatedAnon)),
            ("\n active_file", n(N::ActiveFile)),
            (" inactive_file", n(N::InactiveFile)),
            (" isolated_file", n(N::IsolatedFile)),
            ("\n unevictable", n(N::Unevictable)),
            (" dirty", n(N::Dirty)),
            (" writeback", n(N::Writeback)),
            ("\n slab_reclaimable", n(N::SlabReclaimable)),
            (" slab_unreclaimable", n(N::SlabUnreclaimable)),
            ("\n mapped", n(N::Mapped)),
            (" shmem", n(N::Shmem)),
            (" pagetables", n(N::PageTablePages)),
            ("\n sec_pagetables", n(N::SecPageTablePages)),
            (" bounce", zones[ZoneItem::Bounce]),
            ("\n kernel_misc_reclaimable", n(N::KernelMiscReclaimable)),
            ("\n free", zones[ZoneItem::FreePages]),
            (" free_pcp", free_pcp),
            (" free_cma", zones[ZoneItem::FreeCma]),
        ],
        out,
    )
}

fn write_node(out: &mut (impl fmt::Write + ?Sized), node: &NodeInfo) -> fmt::Result {
    use NodeItem as N;
    let kb = |item: NodeItem| node.counts[item] * KB_PER_PAGE;
    write!(out, "Node {}", node.node.index())?;
    let pairs = [
        (" active_anon:", kb(N::ActiveAnon)),
        (" inactive_anon:", kb(N::InactiveAnon)),
        (" active_file:", kb(N::ActiveFile)),
        (" inactive_file:", kb(N::InactiveFile)),
        (" unevictable:", kb(N::Unevictable)),
        (" isolated(anon):", kb(N::IsolatedAnon)),
        (" isolated(file):", kb(N::IsolatedFile)),
        (" mapped:", kb(N::Mapped)),
        (" dirty:", kb(N::Dirty)),
        (" writeback:", kb(N::Writeback)),
        (" shmem:", kb(N::Shmem)),
        (" shmem_thp: ", kb(N::ShmemHugepages)),
        (" shmem_pmdmapped: ", kb(N::ShmemPmdmapped)),
        (" anon_thp: ", kb(N::AnonTransparentHugepages)),
        (" writeback_tmp:", kb(N::WritebackTemp)),
        // Stacks are counted in kB.
        (" kernel_stack:", node.counts[N::KernelStack]),
        (" pagetables:", kb(N::PageTablePages)),
        (" sec_pagetables:", kb(N::SecPageTablePages)),
    ];
    for (name, value) in pairs {
        write!(out, "{name}{value}kB")?;
    }
    let verdict = if node.is_unreclaimable { "yes" } else { "no" };
    writeln!(out, " all_unreclaimable? {verdict}")
}

fn write_zone(out: &mut (impl fmt::Write + ?Sized), zone: &ZoneInfo) -> fmt::Result {
    use ZoneItem as Z;
    let marks = zone.watermarks;
    let kb = |item: ZoneItem| zone.counts[item] * KB_PER_PAGE;
    write!(out, "Node {} {}", zone.node.index(), zone.name)?;
    let pairs = [
        (" free", zone.free * KB_PER_PAGE),
        (" boost", zone.boost * KB_PER_PAGE),
        (" min", marks.min as u64 * KB_PER_PAGE),
        (" low", marks.low as u64 * KB_PER_PAGE),
        (" high", marks.high as u64 * KB_PER_PAGE),
    ];
    write_pairs_inline(out, &pairs)?;
    let reserved = zone.reserved_highatomic * KB_PER_PAGE;
    write!(out, " reserved_highatomic:{reserved}KB")?;
    let pairs = [
        (" active_anon", kb(Z::ActiveAnon)),
        (" inactive_anon", kb(Z::InactiveAnon)),
        (" active_file", kb(Z::ActiveFile)),
        (" inactive_file", kb(Z::InactiveFile)),
        (" unevictable", kb(Z::Unevictable)),
        (" writepending", kb(Z::WritePending)),
        (" present", zone.present * KB_PER_PAGE),
        (" managed", zone.managed * KB_PER_PAGE),
        (" mlocked", kb(Z::Mlock)),
        (" bounce", kb(Z::Bounce)),
        (" free_pcp", zone.free_pcp * KB_PER_PAGE),
        (" local_pcp", zone.local_pcp * KB_PER_PAGE),
        (" free_cma", kb(Z::FreeCma)),
    ];
    write_pairs_inline(out, &pairs)?;
    out.write_str("\nlowmem_reserve[]:")?;
    for reserve in zone.protection.iter().flatten() {
        write!(out, " {reserve}")?;
    }
    out.write_char('\n')
}

fn write_free_blocks(out: &mut (impl fmt::Write + ?Sized), zone: &ZoneInfo) -> fmt::Result {
    write!(out, "Node {} {}: ", zone.node.index(), zone.name)?;
    let mut total = 0;
    for order in Order::all() {
        let count = zone.nr_free[order.index()];
        let kb = KB_PER_PAGE << order.get();
        total += count * kb;
        write!(out, "{count}*{kb}kB ")?;
        if count != 0 {
            write_types(out, zone.types[order.index()])?;
        }
    }
    writeln!(out, "= {total}kB")
}

/// Linux: `show_migration_types`.
fn write_types(
    out: &mut (impl fmt::Write + ?Sized),
    has: [bool; MigrateType::COUNT],
) -> fmt::Result {
    out.write_char('(')?;
    for kind in MigrateType::ALL {
        if has[kind.index()] {
            out.write_char(match kind {
                MigrateType::Unmovable => 'U',
                MigrateType::Movable => 'M',
                MigrateType::Reclaimable => 'E',
                MigrateType::HighAtomic => 'H',
                MigrateType::Cma => 'C',
                MigrateType::Isolate => 'I',
            })?;
        }
    }
    out.write_str(") ")
}

fn write_pairs(
    out: &mut (impl fmt::Write + ?Sized),
    pairs: &[(&str, u64)],
    between: &str,
    unit: &str,
) -> fmt::Result {
    for (name, value) in pairs {
        write!(out, "{name}{between}{value}{unit}")?;
    }
    out.write_char('\n')
}

fn write_pairs_inline(out: &mut (impl fmt::Write + ?Sized), pairs: &[(&str, u64)]) -> fmt::Result {
    pairs
        .iter()
        .try_for_each(|(name, value)| write!(out, "{name}:{value}kB"))
}

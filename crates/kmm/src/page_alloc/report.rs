//! Why a request failed: Linux's line, and Mem-Info below it. Linux: `warn_alloc`, `show_mem`, mm/page_alloc.c,
//! lib/show_mem.c.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_frame::{
    Gfp, MAX_NODES, MigrateType, NR_ORDERS, NodeCounts, NodeId, NodeItem, NodeMask, Order,
    ZoneCounts, ZoneItem, ZoneType,
};
use kmm_host::{Cpus, Host};
use kmm_zone::{Node, Watermarks, Zone};
use lock_api::RawMutex;

use super::PageAlloc;
use super::places::Request;

const KB_PER_PAGE: u64 = 4;

/// A request that failed.
pub struct AllocFailure<'a> {
    /// The size of the block that there was not.
    pub order: Order,
    /// What the request said.
    pub gfp: Gfp,
    /// Nodes that it named.
    pub mask: NodeMask,
    /// Nodes that its task may use, of those that exist.
    pub allowed: NodeMask,
    /// Where all memory is.
    pub mem_info: &'a dyn fmt::Display,
}

impl AllocFailure<'_> {
    /// The whole report, as of the program `comm`.
    pub fn of<'b>(&'b self, comm: &'b str) -> impl fmt::Display + 'b {
        Report {
            failure: self,
            comm,
        }
    }
}

struct Report<'a> {
    failure: &'a AllocFailure<'a>,
    comm: &'a str,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.comm, self.failure)
    }
}

impl fmt::Display for AllocFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, gfp, .. } = self;
        write!(
            f,
            "page allocation failure: order:{order}, mode:{:#x}({gfp}), nodemask=",
            gfp.bits()
        )?;
        if self.mask.is_all() {
            f.write_str("(null)")?;
        } else {
            write!(f, "{}", self.mask)?;
        }
        writeln!(f, ",cpuset=/,mems_allowed={}", self.allowed)?;
        write!(f, "{}", self.mem_info)
    }
}

impl fmt::Debug for AllocFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllocFailure")
            .field("order", &self.order)
            .field("gfp", &self.gfp)
            .finish_non_exhaustive()
    }
}

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

/// Mem-Info of an allocator, when it is printed.
pub struct MemInfo<'a, H: Host> {
    pages: &'a PageAlloc<H>,
}

impl<H: Host> fmt::Display for MemInfo<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_mem_info(
            f,
            |n| self.pages.node_info(n),
            |n| self.pages.zone_info(n),
            MemTotals::default(),
        )
    }
}

impl<H: Host> fmt::Debug for MemInfo<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemInfo").finish_non_exhaustive()
    }
}

impl<H: Host> PageAlloc<H> {
    /// Where all memory is, at the moment at which it is printed. Linux: `show_mem`.
    #[must_use]
    pub const fn mem_info(&self) -> MemInfo<'_, H> {
        MemInfo { pages: self }
    }

    /// Linux: `warn_alloc`.
    pub(super) fn warn(&self, request: &Request) {
        let gfp = request.req.gfp;
        // Old drivers try the lowest zone first: nobody wants to know that a machine has none.
        if gfp.contains(Gfp::NOWARN) || (gfp.contains(Gfp::DMA) && !self.has_zone_for(request)) {
            return;
        }
        let online: NodeMask = self.zones.nodes().iter().map(Node::id).collect();
        (self.hooks.on_failure)(&AllocFailure {
            order: request.req.order,
            gfp,
            mask: request.mask,
            allowed: request.allowed.intersect(online),
            mem_info: &self.mem_info(),
        });
    }

    fn node_info(&self, nth: usize) -> Option<NodeInfo> {
        let node = self.zones.nodes().get(nth)?;
        Some(NodeInfo {
            node: node.id(),
            counts: node.counters().counts(),
            is_unreclaimable: false,
        })
    }

    fn zone_info(&self, nth: usize) -> Option<ZoneInfo> {
        let mut populated = self.zones.all().filter(|zone| zone.present_pages() > 0);
        let zone = populated.nth(nth)?;
        let stat = zone.stat();
        let by_type = zone.nr_free_by_type();
        let cpu = self.host.cpus().with_pin(|pin| pin.cpu());
        let local = zone.pcp_stats().find(|pcp| pcp.cpu == cpu);
        let kind = zone.kind();
        Some(ZoneInfo {
            node: zone.node(),
            name: kind.name(),
            free: stat.free as u64,
            boost: 0,
            watermarks: stat.watermarks,
            reserved_highatomic: highatomic_pages(zone),
            counts: stat.counts,
            present: stat.present as u64,
            managed: stat.managed as u64,
            free_pcp: stat.pcp_pages as u64,
            local_pcp: local.map_or(0, |pcp| pcp.count as u64),
            protection: ZoneType::ALL.map(|kind| {
                let reserve = stat.protection[kind.index()] as u64;
                self.zones.is_configured(kind).then_some(reserve)
            }),
            nr_free: stat.nr_free.map(|n| n as u64),
            types: core::array::from_fn(|order| {
                MigrateType::ALL.map(|kind| by_type[kind.index()][order] != 0)
            }),
            is_highmem: matches!(kind, ZoneType::HighMem | ZoneType::Movable),
        })
    }
}

/// Pages in pageblocks that are kept back for urgent requests. Linux: `nr_reserved_highatomic`.
fn highatomic_pages<L: RawMutex>(zone: &Zone<L>) -> u64 {
    zone.nr_reserved_highatomic() as u64
}

/// So many reports in so much time. Linux: `struct ratelimit_state`, lib/ratelimit.c.
#[derive(Debug)]
pub struct RateLimit {
    interval_ns: u64,
    burst: u64,
    /// When the interval began, plus one; 0 for never.
    begin: AtomicU64,
    printed: AtomicU64,
    missed: AtomicU64,
}

impl RateLimit {
    /// Five seconds. Linux: `DEFAULT_RATELIMIT_INTERVAL`.
    pub const INTERVAL_NS: u64 = 5_000_000_000;
    /// Ten. Linux: `DEFAULT_RATELIMIT_BURST`.
    pub const BURST: u64 = 10;

    /// `burst` reports in `interval_ns`.
    #[must_use]
    pub const fn new(interval_ns: u64, burst: u64) -> Self {
        Self {
            interval_ns,
            burst,
            begin: AtomicU64::new(0),
            printed: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// Whether one more is fine at `now_ns`; then also how many were suppressed in the interval that is over.
    /// Linux: `___ratelimit`.
    pub fn allow(&self, now_ns: u64) -> Option<u64> {
        let begin = self.begin.load(Relaxed);
        let mut suppressed = 0;
        if begin == 0 || now_ns >= (begin - 1).saturating_add(self.interval_ns) {
            self.begin.store(now_ns.saturating_add(1), Relaxed);
            self.printed.store(0, Relaxed);
            suppressed = self.missed.swap(0, Relaxed);
        }
        if self.printed.fetch_add(1, Relaxed) < self.burst {
            return Some(suppressed);
        }
        self.missed.fetch_add(suppressed + 1, Relaxed);
        None
    }
}

const _: () = assert!(MAX_NODES <= 64, "a NodeMask has room for every node");

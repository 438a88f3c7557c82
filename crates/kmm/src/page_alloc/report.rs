//! Why a request failed: Linux's line, and Mem-Info below it. Linux: `warn_alloc`, mm/page_alloc.c.

use core::fmt;

use kmm_frame::{Gfp, MigrateType, NodeMask, Order, ZoneType};
use kmm_host::{Cpus, Host};
use kmm_zone::Node;

use super::PageAlloc;
use super::mem_info::{MemTotals, NodeInfo, ZoneInfo, write_mem_info};
use super::places::Request;

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
            reserved_highatomic: zone.nr_reserved_highatomic() as u64,
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

//! Whole-machine checks for tests, self-tests and audits.

use core::fmt;

use kmm_buddy::Broken;
use kmm_frame::{MigrateType, Order, Pfn, PfnRange};
use kmm_host::{CpuId, Cpus, PhysMap};
use lock_api::RawMutex;

use crate::stat::nr_allocated;
use crate::{LruBroken, Node, Zone, ZoneId, Zones};

/// Where a free block was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FreeAt {
    /// On a free list of its zone.
    Buddy,
    /// In the pageset of a CPU.
    Pcp(CpuId),
}

/// What [`Zones::validate`] found wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ZonesBroken {
    /// The free lists of a zone.
    Buddy(ZoneId, Broken),
    /// The number of free frames that watermarks are checked against (INV-4).
    FreeCount(ZoneId),
    /// A page in a pageset that is not of the zone, is free or in use elsewhere, or is not marked (INV-2).
    Pcp(ZoneId, CpuId, Pfn),
    /// Free, in stock and handed out do not add up to what the zone was given (INV-5).
    Accounting(ZoneId),
    /// The LRU lists (INV-6).
    Lru(LruBroken),
}

impl fmt::Display for ZonesBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buddy(zone, broken) => write!(f, "{zone}: {broken}"),
            Self::FreeCount(zone) => write!(f, "{zone}: free frames are miscounted"),
            Self::Pcp(zone, cpu, pfn) => {
                let cpu = cpu.index();
                write!(f, "{zone}: frame {pfn} in the pageset of cpu {cpu}")
            }
            Self::Accounting(zone) => write!(f, "{zone}: frames do not add up"),
            Self::Lru(broken) => write!(f, "lru: {broken}"),
        }
    }
}

impl core::error::Error for ZonesBroken {}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Walks all lists, pagesets and descriptors. O(n) in frames; takes the zone locks.
    ///
    /// # Context
    /// Exact while no CPU allocates or frees; else it may report what is only on its way.
    ///
    /// # Errors
    /// The first violation found.
    pub fn validate(&self) -> Result<(), ZonesBroken> {
        self.all().try_for_each(Zone::validate)?;
        let validate = |node: &Node<L>| node.lruvec().validate();
        let mut nodes = self.nodes().iter();
        nodes.try_for_each(validate).map_err(ZonesBroken::Lru)
    }

    /// Calls `f` with every free block and where it is.
    ///
    /// # Context
    /// Exact while no CPU allocates or frees. The zone lock is held: `f` must not allocate or free.
    pub fn for_each_free(&self, mut f: impl FnMut(Pfn, Order, FreeAt)) {
        for zone in self.all() {
            zone.with_buddy(|buddy| {
                for block in buddy.free_blocks() {
                    f(block.pfn, block.order, FreeAt::Buddy);
                }
            });
            for (cpu, pcp) in (0..).map(CpuId::new).zip(zone.pcps()) {
                for (pfn, order) in pcp.blocks() {
                    f(pfn, order, FreeAt::Pcp(cpu));
                }
            }
        }
    }
}

impl<L: RawMutex> Zone<L> {
    fn validate(&self) -> Result<(), ZonesBroken> {
        let id = self.id();
        let mirrored = self.nr_free_pages();
        self.with_buddy(|buddy| {
            buddy
                .validate()
                .map_err(|broken| ZonesBroken::Buddy(id, broken))?;
            if buddy.nr_free_pages() != mirrored {
                return Err(ZonesBroken::FreeCount(id));
            }
            for (cpu, pcp) in (0..).map(CpuId::new).zip(self.pcps()) {
                for (pfn, order) in pcp.blocks() {
                    let block = PfnRange::with_len(pfn, order.nr_pages());
                    let is_free = |pfn| buddy.free_block_of(pfn).is_some();
                    if !self.is_stock(pfn) || block.iter().any(is_free) {
                        return Err(ZonesBroken::Pcp(id, cpu, pfn));
                    }
                }
            }
            Ok(())
        })?;
        let stat = self.stat();
        // What is isolated does not count as free.
        let isolated = self.with_buddy(|buddy| buddy.nr_free_pages_of(MigrateType::Isolate));
        if stat.free + isolated + stat.pcp_pages + nr_allocated(&stat) != stat.managed
            || stat.managed > stat.present
        {
            return Err(ZonesBroken::Accounting(id));
        }
        Ok(())
    }
}

//! What the tests share: a machine with page tables and a source of frames that can be made to fail.
#![allow(
    dead_code,
    missing_docs,
    unsafe_code,
    unreachable_pub,
    reason = "each test binary uses a part of this; tests may break what they test"
)]

use core::ops::Range;
use std::collections::BTreeSet;

use kmm_frame::VirtAddr;
use kmm_host::TlbTarget;
use kmm_pagetable_walker::{
    KernelHalf, Level, Levels, Mapper, MmuGather, Root, Span, TableCounter,
};
use kmm_sim::{Config, FailNth, FreeListSource, Machine, SimPtes, SimTlb};

pub type Source = FailNth<FreeListSource>;
pub type SimMapper<'a> = Mapper<'a, SimPtes, Source>;
pub type SimGather<'a> = MmuGather<'a, SimPtes, Source, SimTlb>;

pub const PAGE: u64 = 4096;
pub const MIB_2: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;

pub struct World {
    pub machine: &'static Machine,
    pub pages: Source,
    pub tables: TableCounter,
    pub levels: Levels,
}

impl World {
    pub fn new(levels: Levels) -> Self {
        let config = Config::with_mib(16).cpus(2);
        let config = match levels {
            Levels::Four => config,
            Levels::Five => config.five_levels(),
        };
        let machine = Machine::new(config);
        Self {
            machine,
            pages: FailNth::new(FreeListSource::new(machine)),
            tables: TableCounter::new(),
            levels,
        }
    }

    pub fn mapper(&self) -> SimMapper<'_> {
        // SAFETY: the tests map frames that nobody reads or writes except through the simulated MMU; source, store and
        // descriptors belong to one machine.
        unsafe {
            Mapper::new(
                self.machine.ptes(),
                &self.pages,
                self.machine.mem_map(),
                self.levels,
                &self.tables,
            )
        }
    }

    pub fn gather(&self, root: &Root) -> SimGather<'_> {
        let target = TlbTarget::User { root: root.pfn() };
        self.mapper().gather(target, self.machine.tlb())
    }

    pub fn kernel_gather(&self) -> SimGather<'_> {
        self.mapper().gather(TlbTarget::Kernel, self.machine.tlb())
    }

    /// A kernel root with its upper half shared out.
    pub fn kernel(&self) -> (Root, KernelHalf) {
        let mapper = self.mapper();
        let mut root = mapper.alloc_root().unwrap();
        let start = self.levels.kernel_start();
        let range = start..start + 3 * self.levels.top().size_bytes();
        let half = mapper.prealloc_kernel_pgds(&mut root, range).unwrap();
        (root, half)
    }

    pub fn unmap(&self, root: &mut Root, range: Range<VirtAddr>) {
        let mut gather = self.gather(root);
        self.mapper()
            .unmap_range(root, range, &mut gather, |_, _| {})
            .unwrap();
        gather.finish();
    }

    pub fn spans(&self, root: &Root, range: Range<VirtAddr>) -> Vec<Span> {
        let mut spans = Vec::new();
        self.mapper()
            .for_each(root, range, |span| spans.push(span))
            .unwrap();
        spans
    }

    /// The tables that the user half of a root must have, no more and no less, by where its pages are.
    pub fn tables_wanted(&self, root: &Root) -> usize {
        let mut wanted = BTreeSet::new();
        let all = VirtAddr::ZERO..self.levels.user_end();
        for span in self.spans(root, all) {
            if let Span::Mapped(leaf) | Span::NotPresent(leaf) = span {
                for level in Level::ALL {
                    if level >= leaf.level && level < self.levels.top() {
                        wanted.insert((level, leaf.va.as_u64() >> (level.shift() + 9)));
                    }
                }
            }
        }
        wanted.len()
    }
}

pub const fn va(addr: u64) -> VirtAddr {
    VirtAddr::new(addr)
}

pub fn range(start: u64, size_bytes: u64) -> Range<VirtAddr> {
    VirtAddr::new(start)..VirtAddr::new(start + size_bytes)
}

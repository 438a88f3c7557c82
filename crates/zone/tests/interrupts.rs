//! An interrupt after any instruction of a request: its requests, and those it interrupts, get pages of their own, and none is
//! lost (A-9, INV-2, INV-3).
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(missing_docs, reason = "a test")]

mod common;
#[path = "common/single_step.rs"]
mod single_step;

use core::cell::Cell;
use std::collections::BTreeSet;

use common::{TestZones, bare, boot, frames, take_bad};
use kmm_frame::{Gfp, Pfn, PfnRange, ZoneType};
use kmm_host::{Cpus, PageBlock, PageReq, PageSource};
use kmm_zone::{ZoneLayout, ZoneLimits};
use single_step::{MaskingLock, at_any_instruction};

type Zones = TestZones<MaskingLock>;

const PAGE: PageReq = PageReq::page(Gfp::ATOMIC);
const NR_FRAMES: usize = 16_384;

/// Strides where debug builds check one page, and all that are in stock.
const CHECKED: usize = if cfg!(debug_assertions) { 5 } else { 1 };
const CHECKED_STOCK: usize = if cfg!(debug_assertions) { 13 } else { 1 };

/// One zone of 64 MiB, whose stocks take 3 pages at a time.
#[derive(Debug)]
struct Wide;

impl ZoneLimits for Wide {
    const DMA_END: Option<Pfn> = Some(Pfn::new(NR_FRAMES));
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = None;
}

/// A place for a block, which interrupts may reach.
type Place = Cell<Option<PageBlock>>;

struct World {
    zones: &'static Zones,
    /// What the interrupt has, and what the interrupted code has.
    theirs: &'static [Place; 2],
    ours: &'static Place,
}

impl World {
    fn new() -> Self {
        let ram = frames(0, NR_FRAMES);
        let zones = bare(ZoneLayout::new::<Wide>(ram), ram, 1);
        boot(&zones, ram, PfnRange::EMPTY, 0);
        Self {
            zones: Box::leak(Box::new(zones)),
            theirs: Box::leak(Box::new([const { Cell::new(None) }; 2])),
            ours: Box::leak(Box::new(Cell::new(None))),
        }
    }

    /// An interrupt that keeps two pages of three.
    fn busy(&self) -> &'static dyn Fn() {
        let (zones, theirs) = (self.zones, self.theirs);
        Box::leak(Box::new(move || {
            let [one, two, three] = [(); 3].map(|()| zones.alloc(PAGE).unwrap());
            zones.free(two);
            theirs[0].set(Some(one));
            theirs[1].set(Some(three));
        }))
    }

    /// The interrupt of a CPU that wants all stocks emptied.
    fn drain(&self) -> &'static dyn Fn() {
        let zones = self.zones;
        Box::leak(Box::new(move || {
            zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        }))
    }

    fn stock(&self) -> usize {
        let dma = self.zones.zone(ZoneType::Dma);
        dma.pcp_stats().map(|pcp| pcp.count).sum()
    }

    /// Nothing is held twice, and together with what is free it is everything. Afterwards nothing is held, and the stock empty.
    fn check(&self) {
        let [one, two] = self.theirs;
        let held: Vec<_> = [self.ours, one, two]
            .into_iter()
            .filter_map(Cell::take)
            .collect();
        let pfns: BTreeSet<_> = held.iter().map(PageBlock::pfn).collect();
        assert_eq!(pfns.len(), held.len(), "a page is held twice");
        held.into_iter().for_each(|block| self.zones.free(block));
        self.drain()();
        assert_eq!(self.stock(), 0);
        assert_eq!(self.zones.nr_free_pages(), NR_FRAMES, "a page is lost");
        assert_eq!(take_bad(), []);
    }

    /// Pages in stock, so that the next request needs no lock.
    fn fill_stock(&self) {
        let block = self.zones.alloc(PAGE).unwrap();
        self.zones.free(block);
        assert_eq!(self.stock(), 3);
    }

    /// `f` with each interrupt at each `stride`-th instruction, after `prepare`. Signals are slow: where most instructions are
    /// under the lock, or in debug checks, which release builds have not, not each of them.
    fn try_all(&self, stride: usize, prepare: impl Fn(&Self), f: impl Fn(&Self)) {
        for interrupt in [self.busy(), self.drain()] {
            prepare(self);
            let mut nr_steps = 0;
            let count = at_any_instruction(
                || f(self),
                interrupt,
                stride,
                |run| {
                    nr_steps = run.nr_steps;
                    self.check();
                    prepare(self);
                },
            );
            self.check();
            println!("{count} interrupts, {nr_steps} instructions");
            assert!(count > 10, "only {count} interrupts came");
        }
        self.zones.validate().unwrap();
    }
}

#[test]
fn a_page_from_the_stock() {
    let take = |world: &World| world.ours.set(world.zones.alloc(PAGE).ok());
    World::new().try_all(1, World::fill_stock, take);
}

#[test]
fn a_page_into_the_stock() {
    let prepare = |world: &World| {
        world.fill_stock();
        world.ours.set(world.zones.alloc(PAGE).ok());
    };
    let put = |world: &World| world.zones.free(world.ours.take().unwrap());
    World::new().try_all(CHECKED, prepare, put);
}

#[test]
fn a_page_when_the_stock_is_empty() {
    let take = |world: &World| world.ours.set(world.zones.alloc(PAGE).ok());
    World::new().try_all(29, |_| {}, take);
}

#[test]
fn the_stock_when_another_cpu_wants_it() {
    let drain = |world: &World| {
        let zones = world.zones;
        zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    };
    World::new().try_all(CHECKED_STOCK, World::fill_stock, drain);
}

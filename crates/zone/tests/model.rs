//! Random requests over all zones against an oracle that knows only what is held.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; the last reference is given up by hand"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, TestZones, fits_without_mixing, frames, run_on, small, take_bad};
use kmm_frame::{Gfp, MigrateType, NodeId, Order, PfnRange, ZoneType};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};
use kmm_zone::{FreeAt, Pressure};

type Zones = TestZones<spin::Mutex<()>>;

const RAM: usize = 1024;
const NR_CPUS: usize = 3;
/// What the request's zones keep, worked out from the manual's formulas for 96 pages in all and ratios of 16.
#[derive(Debug)]
struct Marks {
    min: [usize; 3],
    low: [usize; 3],
    /// By zone, then by the highest zone of the request.
    reserve: [[usize; 3]; 3],
}

impl Marks {
    fn of(reserved: PfnRange) -> Self {
        let zones = [frames(0, 64), frames(64, 256), frames(256, RAM)];
        let given = zones.map(|zone| zone.nr_pages() - zone.intersect(reserved).nr_pages());
        let total: usize = given.iter().sum();
        let min = given.map(|pages| 96 * pages / total);
        let low = [0, 1, 2].map(|z| min[z] + (min[z] / 4).max(given[z] / 1000));
        let above = [given[1], given[1] + given[2], given[2]].map(|pages| pages / 16);
        let reserve = [[0, above[0], above[1]], [0, 0, above[2]], [0; 3]];
        Self { min, low, reserve }
    }

    /// May a request leave the zone with what it then has?
    fn allow(&self, pages: usize, zone: usize, highest: usize, order: Order, mark: usize) -> bool {
        pages as i64 - (order.nr_pages() as i64 - 1) > (mark + self.reserve[zone][highest]) as i64
    }

    fn entitled(&self, gfp: Gfp, zone: usize) -> usize {
        let mut mark = self.min[zone];
        if gfp.contains(Gfp::HIGH) {
            mark -= mark / 2;
        }
        if gfp.contains(Gfp::ATOMIC_CALLER) {
            mark -= mark / 4;
        }
        mark
    }
}

/// The frames that are held, and those that were never given.
struct Oracle {
    held: BTreeMap<usize, PageBlock>,
    reserved: PfnRange,
    marks: Marks,
}

fn zone_of(pfn: usize) -> usize {
    match pfn {
        ..64 => 0,
        64..256 => 1,
        _ => 2,
    }
}

impl Oracle {
    /// Every frame is held, reserved, or free in one place; and the counts say so.
    fn compare(&self, zones: &Zones) {
        let mut owner = vec![None; RAM];
        let mut claim = |range: PfnRange, who: &'static str| {
            for pfn in range.iter() {
                let before = owner[pfn.index()].replace(who);
                assert_eq!(before, None, "frame {pfn} is {who} too");
            }
        };
        claim(self.reserved, "reserved");
        self.held
            .values()
            .for_each(|block| claim(block.range(), "held"));
        zones.for_each_free(|pfn, order, at| {
            let who = if at == FreeAt::Buddy {
                "free"
            } else {
                "in stock"
            };
            claim(PfnRange::with_len(pfn, order.nr_pages()), who);
        });
        assert!(owner.iter().all(Option::is_some), "a frame is lost");
        let count = |who| owner.iter().filter(|o| **o == Some(who)).count();
        let accounting = zones.accounting();
        assert_eq!(accounting.present, RAM);
        assert_eq!(accounting.reserved, count("reserved"));
        assert_eq!(accounting.allocated, count("held"));
        assert_eq!(accounting.free, count("free") + count("in stock"));
        assert!(accounting.adds_up());
        for (nr, stat) in zones.stats().take(3).enumerate() {
            let inside = |who| {
                let mine = |pfn: &usize| zone_of(*pfn) == nr && owner[*pfn] == Some(who);
                (0..RAM).filter(mine).count()
            };
            assert_eq!(stat.free, inside("free"));
            assert_eq!(stat.pcp_pages, inside("in stock"));
            assert_eq!(stat.pgalloc - stat.pgfree, inside("held") as u64);
        }
    }
}

/// What a zone had on its free lists before a request: pages, and the largest block.
#[derive(Clone, Copy, Default, Debug)]
struct Had {
    pages: usize,
    largest: u8,
}

fn had(zones: &Zones) -> [Had; 3] {
    let mut had = [Had::default(); 3];
    zones.for_each_free(|pfn, order, at| {
        if at == FreeAt::Buddy {
            let zone = &mut had[zone_of(pfn.index())];
            zone.pages += order.nr_pages();
            zone.largest = zone.largest.max(order.get());
        }
    });
    had
}

fn highest(gfp: Gfp) -> usize {
    match gfp.zone() {
        ZoneType::Dma => 0,
        ZoneType::Dma32 => 1,
        _ => 2,
    }
}

fn request(random: &mut Random) -> PageReq {
    let gfp = [
        Gfp::KERNEL,
        Gfp::KERNEL,
        Gfp::HIGHUSER_MOVABLE,
        Gfp::ATOMIC,
        Gfp::NOWAIT,
        Gfp::KERNEL | Gfp::DMA,
        Gfp::KERNEL | Gfp::DMA32,
        Gfp::ATOMIC | Gfp::DMA,
        Gfp::KERNEL | Gfp::MEMALLOC,
    ];
    let mut req = PageReq::new(random.order(6), gfp[random.below(gfp.len())]);
    match random.below(40) {
        0 => req.node = Some(NodeId::new(5)),
        1..6 => req.node = Some(NodeId::ZERO),
        _ => {}
    }
    req
}

fn alloc(zones: &Zones, oracle: &mut Oracle, req: PageReq, cpu: usize) {
    let marks = &oracle.marks;
    let had_before = had(zones);
    let stock = |zone: usize| {
        let mut pcps = zones.zone(ZoneType::ALL[zone]).pcp_stats();
        pcps.nth(cpu).unwrap().count
    };
    let stocks = [0, 1, 2].map(stock);
    let mut kept = Vec::new();
    zones.for_each_free(|pfn, order, at| match at {
        FreeAt::Pcp(owner) if owner.index() == cpu => kept.push((pfn.index(), order)),
        _ => {}
    });
    let top = highest(req.gfp);
    // Single pages come from a stock, which may be of another type than the request.
    let kinds = [req.gfp.migrate_type(), MigrateType::Movable];
    let unmixed = kinds.map(|kind| {
        [0, 1, 2].map(|z| fits_without_mixing(zones.zone(ZoneType::ALL[z]), req.order, kind))
    });
    let result = zones.alloc_pages(req);
    if req.node == Some(NodeId::new(5)) {
        assert_eq!(result, Err(AllocError::NoSuchNode));
        return;
    }
    match result {
        Ok((block, pressure)) => {
            let pfn = block.pfn();
            assert!(pfn.is_aligned(req.order));
            assert_eq!(block.order(), req.order);
            let zone = zone_of(pfn.index());
            assert!(zone <= top, "{req:?} got {pfn}");
            assert_eq!(zone, zone_of(block.range().end().index() - 1));
            let calm = |z: usize| marks.allow(had_before[z].pages, z, top, req.order, marks.low[z]);
            let fits = |z: usize| had_before[z].largest >= req.order.get();
            if pressure == Pressure::WakeKswapd {
                // The low marks of all its zones refused, and it took no more than it is entitled to.
                assert!(
                    !(0..=top).any(|z| calm(z) && fits(z)),
                    "{req:?} {had_before:?}"
                );
                let most = had_before[zone].pages + stocks[zone];
                let mark = marks.entitled(req.gfp, zone);
                let allowed = marks.allow(most, zone, top, req.order, mark);
                assert!(
                    allowed || req.gfp.contains(Gfp::MEMALLOC),
                    "{req:?} {had_before:?}"
                );
            } else {
                // What is in stock of the first zone was above the low mark when it came there.
                let in_stock = zone == top && kept.contains(&(pfn.index(), req.order));
                assert!(
                    calm(zone) || in_stock,
                    "{req:?} from {zone} of {had_before:?}"
                );
                let refused = |z: usize| !calm(z) || !fits(z);
                // Normal is left alone as long as a zone below has what mixes no pageblocks.
                let spared = |unmixed: &[bool; 3]| {
                    let refused = |z: usize| !calm(z) || !unmixed[z];
                    top == 2 && unmixed[zone] && (zone + 1..=top).all(refused)
                };
                assert!(
                    (zone + 1..=top).all(refused) || unmixed.iter().any(spared),
                    "{req:?} skipped a higher zone"
                );
            }
            oracle.held.insert(pfn.index(), block);
        }
        Err(why) => {
            assert_eq!(why, AllocError::OutOfMemory);
            // Everything that this CPU had in stock is back on the lists: they say whether there was enough.
            let had_after = had(zones);
            for (zone, had) in had_after.into_iter().enumerate().take(top + 1) {
                let fits = had.pages > 0 && had.largest >= req.order.get();
                let mark = marks.entitled(req.gfp, zone);
                let allowed = req.gfp.contains(Gfp::MEMALLOC)
                    || marks.allow(had.pages, zone, top, req.order, mark);
                assert!(!(fits && allowed), "{req:?} refused by {had:?}");
            }
        }
    }
}

fn free(zones: &Zones, oracle: &mut Oracle, random: &mut Random) {
    let nth = random.below(oracle.held.len());
    let pfn = *oracle.held.keys().nth(nth).unwrap();
    let block = oracle.held.remove(&pfn).unwrap();
    if block.order() == Order::ZERO && random.below(3) == 0 {
        let (pfn, _) = block.into_raw();
        // SAFETY: the block was the only reference.
        unsafe { zones.put_page(pfn) };
    } else {
        zones.free(block);
    }
}

#[test]
fn random_requests_match_the_oracle() {
    let mut random = Random::new("random_requests_match_the_oracle", 0x12);
    for round in 0..20 {
        let reserved = [PfnRange::EMPTY, frames(60, 70), frames(256, 301)][round % 3];
        let zones = small(96, reserved, NR_CPUS);
        zones.set_lowmem_reserve_ratio([16, 16, 0, 0, 0, 0]);
        let mut oracle = Oracle {
            held: BTreeMap::new(),
            reserved,
            marks: Marks::of(reserved),
        };
        oracle.compare(&zones);
        let mut fill = 50;
        for op in 0..5_000 {
            if op % 300 == 0 {
                fill = [25, 50, 90][random.below(3)];
            }
            let cpu = random.below(NR_CPUS);
            run_on(u32::try_from(cpu).unwrap());
            if random.below(100) < fill || oracle.held.is_empty() {
                alloc(&zones, &mut oracle, request(&mut random), cpu);
            } else {
                free(&zones, &mut oracle, &mut random);
            }
            oracle.compare(&zones);
            if op % 32 == 0 {
                zones.validate().unwrap();
            }
        }
        for (_, block) in core::mem::take(&mut oracle.held) {
            zones.free(block);
        }
        oracle.compare(&zones);
        zones.validate().unwrap();
        // SAFETY: this is the only thread.
        unsafe { zones.drain_all() };
        assert_eq!(zones.accounting().free, RAM - reserved.nr_pages());
        assert_eq!(zones.stats().map(|stat| stat.pcp_pages).sum::<usize>(), 0);
        assert_eq!(take_bad(), []);
    }
}

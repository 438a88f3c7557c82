//! Given frames, whoever has them: what can be moved makes room, what cannot keeps its place, and nothing is lost.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, Tiny, bare, boot, frames, run_on, take_bad};
use kmm_frame::{Gfp, MigrateType, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_zone::{BadReason, ContigFailed, Migrate, Migrated, ZoneLayout};

type Lock = spin::Mutex<()>;
type Zones = common::TestZones<Lock>;

fn machine(nr_cpus: usize) -> Zones {
    let ram = frames(0, 8192);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, nr_cpus);
    boot(&zones, ram, frames(3000, 3010), 16);
    zones
}

/// Who has what, and whether it can be moved.
struct Owners<'a> {
    zones: &'a Zones,
    held: BTreeMap<Pfn, (PageBlock, bool)>,
    nr_moved: usize,
    /// While a range is taken, nothing new comes from its pageblocks.
    wanted: PfnRange,
    nr_cpus: usize,
}

impl Owners<'_> {
    fn overlapping(&self, range: PfnRange) -> Vec<Pfn> {
        let overlaps = |block: &PageBlock| block.range().overlaps(range);
        let blocks = self.held.iter().filter(|(_, (block, _))| overlaps(block));
        blocks.map(|(pfn, _)| *pfn).collect()
    }
}

impl Migrate for Owners<'_> {
    fn migrate(&mut self, run: PfnRange) -> Migrated {
        let pfns = self.overlapping(run);
        assert!(!pfns.is_empty(), "{run:?} is nobody's");
        for pfn in pfns {
            if !self.held[&pfn].1 {
                return Migrated::Busy;
            }
            let order = self.held[&pfn].0.order();
            self.drain_others();
            let Ok(to) = self.zones.alloc(PageReq::new(order, Gfp::HIGHUSER_MOVABLE)) else {
                return Migrated::Busy;
            };
            let block_of = |pfn: Pfn| pfn.index() / 512;
            let (first, last) = (
                block_of(self.wanted.start()),
                block_of(self.wanted.end() - 1),
            );
            let is_apart = !(first..=last).contains(&block_of(to.pfn()));
            let zone = |pfn| self.zones.zone_of(pfn).unwrap().id();
            assert!(is_apart || zone(to.pfn()) != zone(self.wanted.start()));
            let (block, _) = self.held.remove(&pfn).unwrap();
            self.zones.free(block);
            self.held.insert(to.pfn(), (to, true));
            self.nr_moved += 1;
        }
        Migrated::Moved
    }

    fn drain_others(&mut self) {
        // SAFETY: this is the only thread.
        #[allow(unsafe_code, reason = "one thread plays all CPUs")]
        unsafe {
            self.zones.drain_all()
        };
        assert!(self.nr_cpus > 0);
    }
}

#[test]
fn free_frames_are_had_for_the_asking() {
    let zones = machine(1);
    let before = zones.accounting();
    let mut nobody = |_: PfnRange| -> Migrated { panic!("nothing is in use") };
    let range = frames(1100, 2777);
    let taken = zones
        .alloc_contig_range(range, MigrateType::Movable, &mut nobody)
        .unwrap();
    assert_eq!(taken.range(), range);
    assert_eq!(zones.accounting().allocated, before.allocated + 1677);
    zones.for_each_free(|pfn, order, _| {
        assert!(!PfnRange::with_len(pfn, order.nr_pages()).overlaps(range));
    });
    zones.validate().unwrap();
    zones.free_contig_range(taken);
    assert_eq!(zones.accounting(), before);
    zones.validate().unwrap();
}

#[test]
fn ranges_that_cannot_be_had_leave_everything_as_it_was() {
    let zones = machine(1);
    let before: Vec<_> = zones.stats().collect();
    let mut busy = |_: PfnRange| Migrated::Busy;
    let mut ask = |range, kind| {
        let taken = zones.alloc_contig_range(range, kind, &mut busy);
        taken.map(|taken| taken.range())
    };
    let movable = MigrateType::Movable;
    assert_eq!(ask(PfnRange::EMPTY, movable), Err(ContigFailed::Empty));
    assert_eq!(
        ask(frames(200, 300), movable),
        Err(ContigFailed::OutsideZone)
    );
    assert_eq!(
        ask(frames(8000, 9000), movable),
        Err(ContigFailed::OutsideZone)
    );
    let wrapping = PfnRange::with_len(Pfn::new(usize::MAX - 5), 100);
    assert_eq!(ask(wrapping, movable), Err(ContigFailed::OutsideZone));
    assert_eq!(
        ask(frames(1024, 2048), MigrateType::Cma),
        Err(ContigFailed::NotLent)
    );
    // Reserved frames are nobody's to move.
    let reserved = Err(ContigFailed::Busy(Pfn::new(3000)));
    assert_eq!(ask(frames(2900, 3100), movable), reserved);
    assert_eq!(zones.stats().collect::<Vec<_>>(), before);
    let held = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    let range = PfnRange::with_len(held.pfn().align_down(common::order(4)), 16);
    let refused = Err(ContigFailed::Busy(held.pfn()));
    assert_eq!(ask(range, movable), refused);
    let zone = zones.zone_of(held.pfn()).unwrap();
    assert_ne!(zone.pageblock_type(held.pfn()), Some(MigrateType::Isolate));
    zones.free(held);
    zones.validate().unwrap();
}

#[test]
fn a_device_gets_back_what_it_lends() {
    let ram = frames(0, 8192);
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(ram), ram, 1);
    zones.add_present(ram);
    zones.free_at_boot(frames(0, 4096)).unwrap();
    zones.free_cma_at_boot(frames(4096, 6144)).unwrap();
    zones.free_at_boot(frames(6144, 8192)).unwrap();
    zones.init_watermarks(64, 10);
    let mut owners = Owners {
        zones: &zones,
        held: BTreeMap::new(),
        nr_moved: 0,
        wanted: frames(4096, 6144),
        nr_cpus: 1,
    };
    for _ in 0..6000 {
        let block = zones.alloc(PageReq::page(Gfp::HIGHUSER_MOVABLE)).unwrap();
        owners.held.insert(block.pfn(), (block, true));
    }
    let lent = owners.overlapping(frames(4096, 6144)).len();
    assert!(lent > 0, "nobody uses what the device lends");
    let taken = zones
        .alloc_contig_range(frames(4096, 6144), MigrateType::Cma, &mut owners)
        .unwrap();
    assert!(owners.nr_moved >= lent);
    assert_eq!(zones.zone(ZoneType::Normal).nr_free_cma(), 0);
    zones.free_contig_range(taken);
    assert_eq!(zones.zone(ZoneType::Normal).nr_free_cma(), 2048);
    assert_eq!(
        zones.zone(ZoneType::Normal).pageblock_type(Pfn::new(5000)),
        Some(MigrateType::Cma)
    );
    zones.validate().unwrap();
}

#[test]
fn random_ranges_are_taken_exactly_if_all_in_them_can_be_moved() {
    const CPUS: usize = 3;
    let mut random = Random::new("random_ranges_are_taken", 0x18);
    let zones = machine(CPUS);
    let mut owners = Owners {
        zones: &zones,
        held: BTreeMap::new(),
        nr_moved: 0,
        wanted: PfnRange::EMPTY,
        nr_cpus: CPUS,
    };
    let (mut nr_taken, mut nr_refused) = (0, 0);
    for step in 0..4_000 {
        run_on(random.below(CPUS) as u32);
        match random.below(20) {
            0..10 if owners.held.len() < 1500 => {
                let is_movable = random.below(8) != 0;
                let gfp = if is_movable {
                    Gfp::HIGHUSER_MOVABLE
                } else {
                    Gfp::KERNEL
                };
                if let Ok(block) = zones.alloc(PageReq::new(random.order(5), gfp)) {
                    owners.held.insert(block.pfn(), (block, is_movable));
                }
            }
            0..18 => {
                let nth = random.below(owners.held.len() + 1);
                let pfn = owners.held.keys().nth(nth).copied();
                if let Some((block, _)) = pfn.and_then(|pfn| owners.held.remove(&pfn)) {
                    zones.free(block);
                }
            }
            _ => {
                let start = 256 + random.below(7900);
                let range = frames(start, (start + 1 + random.below(900)).min(8192));
                owners.wanted = range;
                let types = || -> Vec<_> {
                    let zone = zones.zone(ZoneType::Normal);
                    (512..8192)
                        .step_by(512)
                        .map(|pfn| zone.pageblock_type(Pfn::new(pfn)))
                        .collect()
                };
                let in_range = owners.overlapping(range);
                let has_fixed = in_range.iter().any(|pfn| !owners.held[pfn].1)
                    || range.overlaps(frames(3000, 3010));
                let taken = zones.alloc_contig_range(range, MigrateType::Movable, &mut owners);
                assert!(!types().contains(&Some(MigrateType::Isolate)));
                match taken {
                    Ok(taken) => {
                        assert!(!has_fixed, "{range:?}");
                        assert_eq!(owners.overlapping(range), []);
                        nr_taken += 1;
                        zones.free_contig_range(taken);
                    }
                    Err(error) => {
                        assert!(matches!(error, ContigFailed::Busy(_)), "{error}");
                        assert!(has_fixed, "{range:?}: {error}, though all can be moved");
                        nr_refused += 1;
                    }
                }
            }
        }
        let held: usize = owners
            .held
            .values()
            .map(|(block, _)| block.order().nr_pages())
            .sum();
        assert_eq!(zones.accounting().allocated, held);
        if step % 64 == 0 {
            zones.validate().unwrap();
        }
    }
    assert!(nr_taken > 50 && nr_refused > 50 && owners.nr_moved > 500);
    for (block, _) in core::mem::take(&mut owners.held).into_values() {
        zones.free(block);
    }
    zones.validate().unwrap();
    assert_eq!(zones.accounting().allocated, 0);
    assert_eq!(take_bad(), []);
}

#[test]
fn pages_that_come_back_together_while_their_frames_are_wanted_are_counted() {
    let zones = machine(1);
    run_on(0);
    let mut pages = [const { None }; 100];
    let gfp = Gfp::HIGHUSER_MOVABLE;
    assert_eq!(zones.alloc_bulk(gfp, None, &mut pages), 100);
    let pfns = || pages.iter().flatten().map(PageBlock::pfn);
    let range = PfnRange::new(pfns().min().unwrap(), pfns().max().unwrap() + 1);
    let mut give_back = |_: PfnRange| {
        zones.free_bulk(&mut pages);
        Migrated::Moved
    };
    let taken = zones.alloc_contig_range(range, MigrateType::Movable, &mut give_back);
    assert!(zones.accounting().adds_up());
    zones.free_contig_range(taken.unwrap());
    assert!(zones.accounting().adds_up());
    zones.validate().unwrap();
}

#[test]
#[cfg(debug_assertions)]
fn a_range_that_was_reserved_meanwhile_is_reported_when_it_comes_back() {
    let zones = machine(1);
    run_on(0);
    let mut nobody = |_: PfnRange| -> Migrated { panic!("nothing is in use") };
    let range = frames(4000, 4100);
    let taken = zones.alloc_contig_range(range, MigrateType::Movable, &mut nobody);
    zones.map().reserve(frames(4050, 4051));
    zones.free_contig_range(taken.unwrap());
    let reasons: Vec<_> = take_bad().iter().map(|bad| bad.reason).collect();
    assert_eq!(reasons, [BadReason::Flags(PageFlags::RESERVED)]);
}

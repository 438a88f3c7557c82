//! Random requests against a list of areas; failures at each point.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use core::sync::atomic::Ordering;
use std::collections::BTreeMap;

use common::{RANGE, Rig, iounmap, rig, rig_with, vfree, vunmap};
use kmm_frame::{Gfp, PAGE_SIZE, PhysAddr, VirtAddr};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_pagetable_walker::{Levels, PteFlags};
use kmm_sim::{Config, Rng, seeded};
use kmm_vmalloc::{CacheMode, VmallocError};

const PAGE: u64 = PAGE_SIZE as u64;

/// Areas by address: pages without the guard, and what they are.
#[derive(Default)]
struct Oracle {
    areas: BTreeMap<u64, Area>,
}

struct Area {
    pages: u64,
    kind: Kind,
}

enum Kind {
    Alloc { id: u64 },
    Map { id: u64, blocks: Vec<PageBlock> },
    Io { phys: PhysAddr },
}

impl Oracle {
    /// The lowest place, found by trying each page.
    fn lowest(&self, pages: u64) -> Option<u64> {
        let mut at = RANGE.start.as_u64();
        for (start, area) in &self.areas {
            if at + (pages + 1) * PAGE <= *start {
                break;
            }
            at = start + (area.pages + 1) * PAGE;
        }
        (at + (pages + 1) * PAGE <= RANGE.end.as_u64()).then_some(at)
    }

    fn pick(&self, rng: &mut Rng) -> Option<u64> {
        let nth = rng.index(self.areas.len().max(1));
        self.areas.keys().nth(nth).copied()
    }
}

/// Whether the pages at the ends of an area hold what they should.
fn check(rig: &Rig, addr: u64, area: &Area) {
    let va = VirtAddr::new(addr);
    let last = va + (area.pages - 1) * PAGE;
    assert!(rig.faults(last + PAGE), "guard page");
    match &area.kind {
        Kind::Alloc { id } | Kind::Map { id, .. } => {
            assert!(rig.holds(va, 64, *id) && rig.holds(last, 64, *id));
        }
        Kind::Io { phys } => {
            let page = rig.machine.translation(rig.root, last).unwrap();
            assert_eq!(page.phys, *phys + (area.pages - 1) * PAGE);
        }
    }
}

fn step(rig: &Rig, oracle: &mut Oracle, rng: &mut Rng, id: u64) -> Result<(), VmallocError> {
    let pages = match rng.below(20) {
        0 => rng.range(100..1500),
        _ => rng.range(1..40),
    };
    let expected = oracle.lowest(pages);
    let (got, kind) = match rng.below(8) {
        0..=2 => {
            let size = (pages - 1) * PAGE + rng.range(1..PAGE + 1);
            let got = rig.vm.vmalloc(size as usize, Gfp::KERNEL)?;
            (got, Kind::Alloc { id })
        }
        3 => {
            let blocks: Vec<_> = (0..pages)
                .map_while(|_| rig.source.alloc(PageReq::page(Gfp::KERNEL)).ok())
                .collect();
            let frames: Vec<_> = blocks.iter().map(PageBlock::pfn).collect();
            let enough = frames.len() as u64 == pages;
            let got = match rig.vm.vmap(&frames, PteFlags::RW | PteFlags::NX) {
                Ok(got) if enough => got,
                other => {
                    if let Ok(got) = other {
                        vunmap(rig.vm, got).unwrap();
                    }
                    blocks.into_iter().for_each(|block| rig.source.free(block));
                    return Err(VmallocError::OutOfMemory);
                }
            };
            (got, Kind::Map { id, blocks })
        }
        4 => {
            let phys = PhysAddr::new(0xd000_0000 + rng.below(1000) * PAGE);
            if pages >= 512 {
                return Ok(());
            }
            let size = pages * PAGE;
            let got = rig.vm.ioremap(phys, size as usize, CacheMode::Uncached)?;
            (got, Kind::Io { phys })
        }
        _ => {
            let Some(addr) = oracle.pick(rng) else {
                return Ok(());
            };
            let area = oracle.areas.remove(&addr).unwrap();
            check(rig, addr, &area);
            let va = VirtAddr::new(addr);
            match area.kind {
                Kind::Alloc { .. } => vfree(rig.vm, va).unwrap(),
                Kind::Map { blocks, .. } => {
                    vunmap(rig.vm, va).unwrap();
                    blocks.into_iter().for_each(|block| rig.source.free(block));
                }
                Kind::Io { .. } => iounmap(rig.vm, va).unwrap(),
            }
            assert!(rig.faults(va));
            return Ok(());
        }
    };
    assert_eq!(Some(got.as_u64()), expected, "the lowest gap");
    if !matches!(kind, Kind::Io { .. }) {
        rig.fill(got, 64, id);
        rig.fill(got + (pages - 1) * PAGE, 64, id);
        if pages == 1 {
            rig.fill(got, 64, id);
        }
    }
    oracle.areas.insert(got.as_u64(), Area { pages, kind });
    Ok(())
}

fn run(seed: u64, nr_ops: u64, per_mille: u64) {
    seeded(seed, |rng| {
        let rig = rig_with(Config::with_mib(16).cpus(2), Levels::Four);
        let mut oracle = Oracle::default();
        let mut nr_failed = 0;
        for id in 0..nr_ops {
            rig.source.inner.set_per_mille(per_mille);
            let before = (rig.outstanding(), rig.mapper.tables().nr_tables());
            if step(&rig, &mut oracle, rng, id).is_err() {
                nr_failed += 1;
                let after = (rig.outstanding(), rig.mapper.tables().nr_tables());
                assert_eq!(after, before, "a failed request changed something");
            }
            rig.source.inner.set_per_mille(0);
            rig.vm.validate().unwrap();
            let listed = rig.vm.areas().map(|vm| (vm.addr.as_u64(), vm.size_bytes));
            let known = oracle.areas.iter();
            assert!(listed.eq(known.map(|(addr, area)| (*addr, (area.pages + 1) * PAGE))));
        }
        assert!(nr_failed > 5, "too easy: {nr_failed} failed");
        for (addr, area) in core::mem::take(&mut oracle.areas) {
            check(&rig, addr, &area);
            let va = VirtAddr::new(addr);
            match area.kind {
                Kind::Alloc { .. } => vfree(rig.vm, va).unwrap(),
                Kind::Map { blocks, .. } => {
                    vunmap(rig.vm, va).unwrap();
                    blocks.into_iter().for_each(|block| rig.source.free(block));
                }
                Kind::Io { .. } => iounmap(rig.vm, va).unwrap(),
            }
        }
        rig.assert_at_rest();
    });
}

#[test]
fn random_operations_match_the_oracle() {
    run(0xa4ea, 800, 0);
}

#[test]
fn random_operations_with_failing_pages_match_the_oracle() {
    run(0xfa11, 800, 10);
}

/// For each page or table that a request takes: let that one fail, and all after it.
#[test]
fn each_page_and_table_may_fail() {
    type Request = fn(&Rig) -> Result<VirtAddr, VmallocError>;
    let requests: [(Request, u64); 3] = [
        (
            |rig| rig.vm.vmalloc(520 * PAGE_SIZE, Gfp::KERNEL),
            520 + 1 + 2,
        ),
        (
            |rig| {
                let frames: Vec<_> = (0..600).map(|nr| kmm_frame::Pfn::new(nr + 0x300)).collect();
                rig.vm.vmap(&frames, PteFlags::NX)
            },
            1 + 2,
        ),
        (
            |rig| {
                let size = 3 << 20;
                rig.vm
                    .ioremap(PhysAddr::new(0xd000_0000), size, CacheMode::Uncached)
            },
            1 + 1,
        ),
    ];
    for (request, nr_pages) in requests {
        let rig = rig();
        let mut nth = 0;
        loop {
            rig.source.left.store(nth, Ordering::Relaxed);
            let got = request(&rig);
            rig.source.left.store(u64::MAX, Ordering::Relaxed);
            match got {
                Ok(addr) => {
                    rig.vm.validate().unwrap();
                    let released = vfree(rig.vm, addr)
                        .or_else(|_| vunmap(rig.vm, addr))
                        .or_else(|_| iounmap(rig.vm, addr));
                    released.unwrap();
                    break;
                }
                Err(error) => assert_eq!(error, VmallocError::OutOfMemory),
            }
            rig.assert_at_rest();
            nth += 1;
        }
        rig.assert_at_rest();
        assert_eq!(nth, nr_pages, "pages and tables");
    }
}

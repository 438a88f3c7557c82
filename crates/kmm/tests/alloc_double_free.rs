//! Folios, exact pages and single references that are given back twice, in part, with another order, or while others hold
//! them: each is found, changes nothing, and memory is whole in the end. Debug builds look for this; others trust the caller.
//! That a single page is freed as a larger block is found by records of owners only, as what lies beside it may be in a stock.
#![cfg(debug_assertions)]
#![allow(
    missing_docs,
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "tests; they break rules on purpose"
)]

mod common;

use core::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::collections::BTreeMap;

use common::{TELL, World, forged, order, take_texts, tracked_with, world_with};
use kmm::frame::{Folio, Gfp, Order, PAGE_SIZE, PageFlags, Pfn, PfnRange};
use kmm::host::{Owners, PhysMap as _};
use kmm::{Accountant, AllocHooks, ExactPages, NoWait, OverLimit};
use kmm_sim::{Rng, seeded};

const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);
const MOST_LIVE: usize = 40;

/// Counts pages that are on some account.
#[derive(Debug, Default)]
struct Charged(AtomicIsize);

impl Accountant for Charged {
    fn charge(&self, _: Pfn, order: Order, _: Gfp) -> Result<(), OverLimit> {
        self.0.fetch_add(order.nr_pages() as isize, Relaxed);
        Ok(())
    }

    fn uncharge(&self, _: Pfn, order: Order) {
        self.0.fetch_sub(order.nr_pages() as isize, Relaxed);
    }
}

/// Flags, order, references, mappings, private word.
type Descriptor = (PageFlags, Option<Order>, i32, i32, u64);

enum Owned {
    Folio { order: u8, nr_refs: u32 },
    Exact(ExactPages),
}

/// What the test has, and what it had and nobody has had since.
struct Model<'a, O: Owners + Sync + 'static> {
    world: &'a World<O>,
    charged: &'static Charged,
    live: BTreeMap<Pfn, (Owned, bool)>,
    gone: Vec<PfnRange>,
}

impl Owned {
    fn nr_pages(&self) -> usize {
        match self {
            Self::Folio { order: n, .. } => order(*n).nr_pages(),
            Self::Exact(pages) => pages.frames().nr_pages(),
        }
    }
}

impl<O: Owners + Sync + 'static> Model<'_, O> {
    fn take(&mut self, rng: &mut Rng) {
        let is_charged = rng.one_in(3);
        let gfp = if is_charged {
            QUIET | Gfp::ACCOUNT
        } else {
            QUIET
        };
        let pages = self.world.pages;
        let (start, owned) = if rng.one_in(2) {
            let n = rng.below(4) as u8;
            let folio: Folio = pages.folio_alloc(&mut NoWait, gfp, order(n)).unwrap();
            (
                folio.pfn(),
                Owned::Folio {
                    order: n,
                    nr_refs: 1,
                },
            )
        } else {
            let size_bytes = 1 + rng.index(7 * PAGE_SIZE);
            let exact = pages
                .alloc_pages_exact(&mut NoWait, size_bytes, gfp)
                .unwrap();
            (exact.frames().start(), Owned::Exact(exact))
        };
        let range = PfnRange::with_len(start, owned.nr_pages());
        self.gone.retain(|gone| !gone.overlaps(range));
        self.live.insert(start, (owned, is_charged));
    }

    /// Gives one back as it should be, or one reference of it.
    fn give(&mut self, rng: &mut Rng) {
        let start = *self.live.keys().nth(rng.index(self.live.len())).unwrap();
        let (owned, is_charged) = self.live.remove(&start).unwrap();
        let range = PfnRange::with_len(start, owned.nr_pages());
        let pages = self.world.pages;
        match owned {
            Owned::Folio { order, nr_refs } => {
                // SAFETY: one of the references that the model counts.
                unsafe { pages.put_page(start + rng.index(range.nr_pages())) };
                if nr_refs > 1 {
                    let nr_refs = nr_refs - 1;
                    let folio = Owned::Folio { order, nr_refs };
                    self.live.insert(start, (folio, is_charged));
                    return;
                }
            }
            Owned::Exact(exact) => pages.free_pages_exact(exact),
        }
        self.gone.push(range);
    }

    fn share(&mut self, rng: &mut Rng) {
        let nth = rng.index(self.live.len());
        let (&start, (owned, _)) = self.live.iter_mut().nth(nth).unwrap();
        let nr_pages = owned.nr_pages();
        if let Owned::Folio { nr_refs, .. } = owned {
            self.world.pages.get_page(start + rng.index(nr_pages));
            *nr_refs += 1;
        }
    }

    /// Something that nobody should do; a word for it.
    fn attack(&self, rng: &mut Rng) -> Option<&'static str> {
        if rng.one_in(2) {
            let gone = self.gone.get(rng.index(self.gone.len().max(1)))?;
            return Some(self.free_again(*gone, rng));
        }
        let nth = rng.index(self.live.len().max(1));
        let (&start, (owned, _)) = self.live.iter().nth(nth)?;
        match *owned {
            Owned::Folio { order, nr_refs } => self.free_held(start, order, nr_refs, rng),
            Owned::Exact(ref exact) => self.free_as_block(exact, rng),
        }
    }

    fn free_again(&self, gone: PfnRange, rng: &mut Rng) -> &'static str {
        let (pages, phys) = (self.world.pages, self.world.machine.phys());
        let pfn = gone.start() + rng.index(gone.nr_pages());
        let n = rng.below(4) as u8;
        let start = pfn.align_down(order(n));
        match rng.below(4) {
            // SAFETY: nobody has the frame, and the allocator has to find that out.
            0 => unsafe { pages.put_page(pfn) },
            1 => pages.free_page(forged(pfn, 0)),
            2 if gone.contains(start) => pages.free_pages(forged(start, n)),
            // SAFETY: as above.
            _ => unsafe { pages.free_page_at(phys.direct(pfn).unwrap()) },
        }
        "again"
    }

    fn free_held(&self, start: Pfn, n: u8, nr_refs: u32, rng: &mut Rng) -> Option<&'static str> {
        let tail = start + rng.index(order(n).nr_pages());
        let other = rng.below(4) as u8;
        let (what, block) = if nr_refs > 1 {
            ("shared", forged(start, n))
        } else if tail != start {
            ("part", forged(tail, 0))
        } else if other != n && start.is_aligned(order(other)) && (n > 0 || O::ENABLED) {
            ("wrong order", forged(start, other))
        } else {
            return None;
        };
        self.world.pages.free_pages(block);
        Some(what)
    }

    fn free_as_block(&self, exact: &ExactPages, rng: &mut Rng) -> Option<&'static str> {
        let start = exact.frames().start();
        let n = 1 + rng.below(3) as u8;
        if !start.is_aligned(order(n)) || exact.frames().nr_pages() == 1 && !O::ENABLED {
            return None;
        }
        self.world.pages.free_pages(forged(start, n));
        Some("exact as a block")
    }

    /// All that the descriptors say.
    fn state(&self) -> Vec<Descriptor> {
        let map = self.world.zones.map();
        let say = |pfn| {
            let page = map.page(pfn);
            (
                page.flags(),
                page.compound_order(),
                page.ref_count(),
                page.map_count(),
                page.private(),
            )
        };
        map.range().iter().map(say).collect()
    }

    fn check(&self) {
        let nr_live: usize = self.live.values().map(|(owned, _)| owned.nr_pages()).sum();
        assert_eq!(self.world.nr_free(), common::NR_FRAMES - nr_live);
        let charged = self.live.values().filter(|(_, is_charged)| *is_charged);
        let nr_charged: usize = charged.map(|(owned, _)| owned.nr_pages()).sum();
        assert_eq!(self.charged.0.load(Relaxed), nr_charged as isize);
    }
}

fn frees_that_nobody_should_make<O: Owners + Sync + 'static>(
    seed: u64,
    world: impl Fn(AllocHooks) -> World<O>,
) {
    seeded(seed, |rng| {
        let charged: &'static Charged = Box::leak(Box::default());
        let hooks = AllocHooks {
            accountant: charged,
            ..TELL
        };
        let world = &world(hooks);
        let mut model = Model {
            world,
            charged,
            live: BTreeMap::new(),
            gone: Vec::new(),
        };
        let mut nr_attacks: BTreeMap<&str, usize> = BTreeMap::new();
        for _ in 0..1500 {
            match rng.below(6) {
                0 | 1 if model.live.len() < MOST_LIVE => model.take(rng),
                2 if !model.live.is_empty() => model.give(rng),
                3 if !model.live.is_empty() => model.share(rng),
                _ => {
                    let before = model.state();
                    if let Some(what) = model.attack(rng) {
                        let texts = take_texts();
                        assert_eq!(texts.len(), 1, "{what}: {texts:?}");
                        assert!(before == model.state(), "{what} changed something");
                        *nr_attacks.entry(what).or_default() += 1;
                    }
                }
            }
            assert_eq!(take_texts(), Vec::<String>::new());
            model.check();
        }
        assert_eq!(nr_attacks.len(), 5, "each was tried: {nr_attacks:?}");
        while !model.live.is_empty() {
            model.give(rng);
        }
        model.check();
        world.assert_whole();
    });
}

#[test]
fn without_records_they_are_found_and_change_nothing() {
    frees_that_nobody_should_make(0xd0b1, |hooks| world_with(0, hooks));
}

#[test]
fn with_records_they_are_found_and_change_nothing() {
    frees_that_nobody_should_make(0xd0b2, |hooks| tracked_with(0, hooks));
}

#[test]
fn exact_pages_of_which_one_is_gone_give_back_the_others() {
    let world = world_with(0, TELL);
    let pages = world.pages;
    let exact = pages
        .alloc_pages_exact(&mut NoWait, 5 * PAGE_SIZE, QUIET)
        .unwrap();
    pages.free_page(forged(exact.frames().start() + 2, 0));
    assert_eq!(take_texts(), Vec::<String>::new());
    pages.free_pages_exact(exact);
    assert_eq!(take_texts().len(), 1);
    world.assert_whole();
}

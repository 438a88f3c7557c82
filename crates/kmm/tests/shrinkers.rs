//! Who is asked to let go of things, how hard, and when the slow path does.
#![allow(missing_docs, reason = "names of tests say what they prove")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use common::{drain_here, finish, short, take_steps};
use kmm::frame::{Gfp, NodeId};
use kmm::host::{PageBlock, PageSource as _, ShrinkControl, Shrinker, Sleep};
use kmm::{AllocStep, MAX_SHRINKERS, NoWait, Pages, Shrinkers, TooManyShrinkers};
use kmm_sim::SimLock;

const NODE: NodeId = NodeId::ZERO;

/// Has some things, and notes how many it was asked to look at.
struct Hoard {
    things: AtomicUsize,
    seeks: usize,
    batch: usize,
    stops: bool,
    scans: Mutex<Vec<usize>>,
}

impl Hoard {
    fn of(things: usize) -> Self {
        Self {
            things: AtomicUsize::new(things),
            seeks: 2,
            batch: 128,
            stops: false,
            scans: Mutex::default(),
        }
    }

    fn keep(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    fn scans(&self) -> Vec<usize> {
        core::mem::take(&mut self.scans.lock().unwrap())
    }
}

impl Shrinker for Hoard {
    fn name(&self) -> &'static str {
        "hoard"
    }

    fn count_objects(&self, _: &ShrinkControl) -> usize {
        self.things.load(Ordering::Relaxed)
    }

    fn scan_objects(&self, control: &ShrinkControl) -> Option<usize> {
        self.scans.lock().unwrap().push(control.nr_to_scan);
        if self.stops {
            return None;
        }
        let had = self.things.load(Ordering::Relaxed);
        let freed = had.min(control.nr_to_scan);
        self.things.store(had - freed, Ordering::Relaxed);
        Some(freed)
    }

    fn seeks(&self) -> usize {
        self.seeks
    }

    fn batch(&self) -> usize {
        self.batch
    }
}

fn registered(hoard: &'static Hoard) -> Shrinkers<SimLock> {
    let shrinkers = Shrinkers::new();
    assert!(shrinkers.register(hoard).is_ok());
    shrinkers
}

/// Linux's `do_shrink_slab`: `4 / seeks` of what there is, halved with each priority, in batches.
#[test]
fn each_is_asked_for_its_share() {
    for (seeks, priority, share) in [
        (2, 12, 8),
        (2, 3, 4096),
        (4, 3, 2048),
        (1, 2, 16_384),
        (0, 9, 8192),
    ] {
        let hoard = Hoard {
            seeks,
            batch: 1,
            ..Hoard::of(16_384)
        };
        let hoard = hoard.keep();
        let freed = registered(hoard).shrink(Gfp::KERNEL, NODE, priority);
        assert_eq!(
            (freed, hoard.scans().len()),
            (share, share),
            "seeks {seeks}"
        );
    }
}

#[test]
fn what_is_less_than_a_batch_is_asked_for_later() {
    let hoard = Hoard {
        batch: 600,
        ..Hoard::of(1000)
    };
    let hoard = hoard.keep();
    let shrinkers = registered(hoard);
    // Half of them, which is no batch.
    assert_eq!(shrinkers.shrink(Gfp::KERNEL, NODE, 2), 0);
    assert_eq!(hoard.scans(), []);
    // Half of them again, and a quarter of what was put off.
    assert_eq!(shrinkers.shrink(Gfp::KERNEL, NODE, 2), 600);
    assert_eq!(hoard.scans(), [600]);
}

#[test]
fn a_small_hoard_goes_whole_at_the_last_priority() {
    let hoard = Hoard::of(5).keep();
    let shrinkers = registered(hoard);
    assert_eq!(shrinkers.shrink(Gfp::KERNEL, NODE, 12), 0);
    assert_eq!(shrinkers.shrink(Gfp::KERNEL, NODE, 0), 5);
    assert_eq!(hoard.scans(), [10], "never more than twice of it");
    assert_eq!(shrinkers.shrink(Gfp::KERNEL, NODE, 0), 0);
    assert_eq!(hoard.scans(), [], "nobody asks for nothing");
}

#[test]
fn who_cannot_now_is_asked_once() {
    let hoard = Hoard {
        stops: true,
        ..Hoard::of(1000)
    };
    let hoard = hoard.keep();
    assert_eq!(registered(hoard).shrink(Gfp::KERNEL, NODE, 0), 0);
    assert_eq!(hoard.scans(), [128]);
}

#[test]
fn there_is_room_for_so_many() {
    let shrinkers = Shrinkers::<SimLock>::new();
    let hoard = Hoard::of(1).keep();
    let ids: Vec<_> = (0..MAX_SHRINKERS)
        .map(|_| shrinkers.register(hoard).unwrap())
        .collect();
    assert_eq!(shrinkers.register(hoard), Err(TooManyShrinkers));
    for id in ids {
        shrinkers.unregister(id);
    }
    assert_eq!(shrinkers.shrink(Gfp::KERNEL, NODE, 0), 0);
    assert_eq!(hoard.scans(), []);
    assert!(shrinkers.register(hoard).is_ok());
}

/// Has pages, and no other use for them.
struct PageHoard {
    zones: &'static Pages<common::TestHost<()>>,
    blocks: Mutex<Vec<PageBlock>>,
}

impl Shrinker for PageHoard {
    fn name(&self) -> &'static str {
        "pages"
    }

    fn count_objects(&self, _: &ShrinkControl) -> usize {
        self.blocks.lock().unwrap().len()
    }

    fn scan_objects(&self, control: &ShrinkControl) -> Option<usize> {
        let mut blocks = self.blocks.lock().unwrap();
        let from = blocks.len().saturating_sub(control.nr_to_scan);
        let gone = blocks.split_off(from);
        let count = gone.len();
        gone.into_iter().for_each(|block| self.zones.free(block));
        drain_here(self.zones);
        Some(count)
    }
}

#[test]
fn the_slow_path_asks_when_reclaim_finds_nothing() {
    let (world, fake, blocks) = short(64, 40);
    let hoard: &'static PageHoard = Box::leak(Box::new(PageHoard {
        zones: world.zones,
        blocks: Mutex::new(core::mem::take(&mut fake.state().held)),
    }));
    assert!(world.pages.shrinkers().register(hoard).is_ok());
    let left = || hoard.blocks.lock().unwrap().len();

    // Who may not wait does not ask.
    assert!(
        world
            .pages
            .alloc_page(&mut NoWait, Gfp::NOWAIT | Gfp::NOWARN)
            .is_err()
    );
    assert_eq!(
        (left(), take_steps().contains(&AllocStep::Shrunk(40))),
        (40, false)
    );

    let page = world
        .pages
        .alloc_page(&mut Sleep::grant(), Gfp::KERNEL)
        .unwrap();
    assert_eq!(left(), 0);
    let steps = take_steps();
    let at = |step| steps.iter().position(|seen| *seen == step);
    assert!(
        at(AllocStep::Reclaimed(0)) < at(AllocStep::Shrunk(40)),
        "{steps:?}"
    );
    assert!(at(AllocStep::Shrunk(40)).is_some());
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

//! Free pages that lie in the stocks of other CPUs: no request that may wait fails for want of them (FIX-5).
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{Fake, NR_CPUS, World, finish, order, take_steps, world_with};
use kmm::frame::Gfp;
use kmm::host::{CpuId, PageBlock, Sleep};
use kmm::{AllocStep, NoWait, OomResult};
use kmm_sim::seeded;

const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);
/// Fewer than a stock takes.
const IN_STOCK: usize = 2;

fn on<R>(world: &World, cpu: usize, f: impl FnOnce() -> R) -> R {
    let cpu = CpuId::new(u32::try_from(cpu).unwrap());
    world.machine.cpus().run_on(cpu, f)
}

/// Everything is taken, but for [`IN_STOCK`] pages in the stock of each CPU but the first.
fn stocked() -> (World, &'static Fake, Vec<PageBlock>) {
    let fake = Fake::new();
    let world = world_with(0, fake.hooks());
    fake.set_zones(&world);
    fake.state().drains = true;
    let mut blocks = world.exhaust(QUIET);
    assert_eq!(world.nr_free(), 0);
    for cpu in 1..NR_CPUS {
        // The first pages are of the zone with the largest stocks.
        let few: Vec<_> = blocks.drain(..IN_STOCK).collect();
        on(&world, cpu, || world.give_back(few));
    }
    let on_lists: usize = world.zones.all().map(|zone| zone.stat().free).sum();
    assert_eq!((world.nr_free(), on_lists), (IN_STOCK * (NR_CPUS - 1), 0));
    take_steps();
    (world, fake, blocks)
}

#[test]
fn stocks_of_others_come_before_anybody_is_killed() {
    let (world, fake, mut blocks) = stocked();
    fake.state().oom = Some(OomResult::Killed);
    let sleep = &mut Sleep::grant();
    blocks.push(world.pages.alloc_page(sleep, QUIET).unwrap());
    let steps = take_steps();
    let drained = steps
        .iter()
        .position(|step| *step == AllocStep::Drained(NR_CPUS - 1));
    let reclaimed = steps
        .iter()
        .position(|step| *step == AllocStep::Reclaimed(0));
    assert!(reclaimed.is_some() && reclaimed < drained, "{steps:?}");
    assert_eq!(fake.state().kills, []);
    for _ in 1..IN_STOCK * (NR_CPUS - 1) {
        blocks.push(world.pages.alloc_page(sleep, QUIET).unwrap());
    }
    assert_eq!(world.nr_free(), 0);
    assert_eq!(fake.state().kills, []);
    assert!(!take_steps().contains(&AllocStep::Drained(NR_CPUS - 1)));
    finish(&world, fake, blocks);
}

#[test]
fn who_neither_reclaims_nor_tries_again_gets_them_too() {
    // Who has another way, for a large block: the pages do not make one.
    let (world, fake, blocks) = stocked();
    let sleep = &mut Sleep::grant();
    let gfp = QUIET | Gfp::NORETRY;
    assert!(world.pages.alloc_pages(sleep, gfp, order(4)).is_err());
    assert!(take_steps().contains(&AllocStep::Drained(NR_CPUS - 1)));
    assert_eq!(fake.state().reclaims, []);
    finish(&world, fake, blocks);
    // Who frees memory.
    let (world, fake, mut blocks) = stocked();
    let page = sleep.memalloc(|sleep| world.pages.alloc_page(sleep, QUIET));
    blocks.push(page.unwrap());
    assert_eq!(fake.state().reclaims, []);
    finish(&world, fake, blocks);
}

#[test]
fn who_may_not_wait_does_not_wait_for_other_cpus() {
    let (world, fake, blocks) = stocked();
    assert!(world.pages.alloc_page(&mut NoWait, QUIET).is_err());
    assert!(
        (1..NR_CPUS).all(|cpu| is_drained(&world, cpu)),
        "nobody has asked"
    );
    finish(&world, fake, blocks);
}

#[test]
fn without_a_way_to_reach_them_other_cpus_are_asked_all_the_same() {
    let (world, fake, mut blocks) = stocked();
    fake.state().drains = false;
    let sleep = &mut Sleep::grant();
    assert!(world.pages.alloc_page(sleep, QUIET).is_err());
    // When one does something slow by itself, it gives back what it has.
    assert!(!is_drained(&world, 1));
    let back = blocks.split_off(blocks.len() - 500);
    on(&world, 1, || world.give_back(back));
    assert!(is_drained(&world, 1));
    finish(&world, fake, blocks);
}

fn is_drained(world: &World, cpu: usize) -> bool {
    world
        .zones
        .is_drained(CpuId::new(u32::try_from(cpu).unwrap()))
}

#[test]
fn of_random_requests_on_many_cpus_a_page_fails_only_when_there_is_none() {
    seeded(0x570c, |rng| {
        let fake = Fake::new();
        let world = world_with(0, fake.hooks());
        fake.set_zones(&world);
        fake.state().drains = true;
        let mut live = world.exhaust(QUIET);
        let mut nr_failed = 0;
        for _ in 0..4000 {
            let cpu = rng.index(NR_CPUS);
            if rng.below(100) < 45 && !live.is_empty() {
                let block = live.swap_remove(rng.index(live.len()));
                on(&world, cpu, || world.pages.free_pages(block));
            } else {
                let got = on(&world, cpu, || {
                    world.pages.alloc_page(&mut Sleep::grant(), QUIET)
                });
                match got {
                    Ok(block) => live.push(block),
                    Err(_) => {
                        assert_eq!(world.nr_free(), 0, "CPU {cpu}");
                        nr_failed += 1;
                    }
                }
            }
            take_steps();
        }
        assert!(nr_failed > 0, "memory was never short");
        finish(&world, fake, live);
    });
}

#[test]
fn cpus_that_drain_each_other_do_not_wait_for_each_other() {
    let fake = Fake::new();
    let world = &world_with(0, fake.hooks());
    fake.set_zones(world);
    fake.state().drains = true;
    let mut held = world.exhaust(QUIET);
    world.give_back(held.split_off(held.len() - 64));
    let rounds = || {
        let mut live = Vec::new();
        for _ in 0..300 {
            live.extend(
                (0..20).map_while(|_| world.pages.alloc_page(&mut Sleep::grant(), QUIET).ok()),
            );
            live.drain(..).for_each(|page| world.pages.free_page(page));
        }
    };
    std::thread::scope(|threads| {
        let all: Vec<_> = (0..NR_CPUS)
            .map(|cpu| threads.spawn(move || on(world, cpu, rounds)))
            .collect();
        all.into_iter().for_each(|thread| thread.join().unwrap());
    });
    finish(world, fake, held);
}

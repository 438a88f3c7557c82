//! The slow path, step by step (F24); watermarks and who may go below them (F14, F15).
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{
    Fake, NR_FRAMES, World, drain_here, finish, frames, large_zone, order, short, take_bugs,
    take_steps, take_texts, two_nodes, world_with,
};
use kmm::frame::{Gfp, NodeId, NodeMask, Order, VmEvent, ZoneType};
use kmm::host::{AllocError, PageBlock, PageReq, PageSource, Scope, Sleep};
use kmm::zone::{Mark, Pressure};
use kmm::{AllocBug, AllocStep, CompactPriority, CompactResult, NoWait, OomResult};

const NODE: NodeId = NodeId::ZERO;

/// The steps without those that look and wake.
fn deeds() -> Vec<AllocStep> {
    let is_deed = |step: &AllocStep| {
        !matches!(
            step,
            AllocStep::WakeKswapd(_) | AllocStep::FreeLists(_) | AllocStep::Slow { .. }
        )
    };
    take_steps().into_iter().filter(is_deed).collect()
}

/// What the slow path begins with, and what comes then.
fn looked_twice(order: Order, gfp: Gfp, then: &[AllocStep]) -> Vec<AllocStep> {
    let look = [AllocStep::WakeKswapd(NODE), AllocStep::FreeLists(gfp)];
    [&[AllocStep::Slow { order, gfp }], &look[..], &look, then].concat()
}

/// A page for somebody who waits.
fn page(world: &World, gfp: Gfp) -> PageBlock {
    world.pages.alloc_page(&mut Sleep::grant(), gfp).unwrap()
}

fn is_refused(world: &World, gfp: Gfp, order: Order) -> bool {
    let sleep = &mut Sleep::grant();
    world.pages.alloc_pages(sleep, gfp, order).is_err()
}

#[test]
fn the_fast_path_takes_no_step() {
    let fake = Fake::new();
    let world = world_with(64, fake.hooks());
    let block = page(&world, Gfp::KERNEL);
    assert_eq!(take_steps(), []);
    world.pages.free_page(block);
    world.assert_whole();
}

#[test]
fn a_short_request_wakes_looks_and_reclaims() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().per_reclaim = 32;
    let gfp = Gfp::KERNEL;
    let page = page(&world, gfp);
    let order = Order::ZERO;
    let then = [
        AllocStep::Reclaimed(32),
        AllocStep::FreeLists(gfp),
        AllocStep::Got,
    ];
    assert_eq!(take_steps(), looked_twice(order, gfp, &then));
    let (req, scope) = fake.state().reclaims[0];
    assert_eq!((req.order, req.gfp, req.node), (order, gfp, NODE));
    assert_eq!(
        (req.highest, req.allowed),
        (ZoneType::Normal, NodeMask::ALL)
    );
    assert_eq!(scope, Scope::MEMALLOC);
    assert_eq!(world.zones.events()[VmEvent::AllocstallNormal], 1);
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn a_request_that_may_not_wait_looks_twice_and_fails() {
    let (world, fake, blocks) = short(64, 40);
    let gfp = Gfp::NOWAIT;
    assert!(world.pages.alloc_page(&mut NoWait, gfp).is_err());
    let order = Order::ZERO;
    assert_eq!(take_steps(), looked_twice(order, gfp, &[AllocStep::Failed]));
    assert_eq!(take_texts().len(), 1);
    finish(&world, fake, blocks);
}

#[test]
fn large_blocks_are_compacted_first() {
    for (gfp, n, first) in [
        (Gfp::KERNEL, 4, true),
        (Gfp::KERNEL, 2, true),
        (Gfp::KERNEL | Gfp::MOVABLE_PAGE, 4, true),
        (Gfp::KERNEL | Gfp::MOVABLE_PAGE, 2, false),
        (Gfp::KERNEL, 0, false),
    ] {
        let (world, fake, blocks) = short(64, 0);
        let gfp = gfp | Gfp::NORETRY | Gfp::NOWARN;
        assert!(is_refused(&world, gfp, order(n)));
        let deeds = deeds();
        let async_first = AllocStep::Compacted(CompactPriority::Async, CompactResult::Skipped);
        assert_eq!(deeds[0] == async_first, first, "{gfp} {n}: {deeds:?}");
        if n == 4 {
            // Who has another way does not reclaim for a block that cannot be compacted.
            assert_eq!(deeds, [async_first, AllocStep::Failed]);
        }
        finish(&world, fake, blocks);
    }
}

#[test]
fn a_block_that_compaction_makes_is_taken() {
    let fake = Fake::new();
    let world = world_with(64, fake.hooks());
    fake.set_zones(&world);
    let block = world
        .zones
        .alloc_pages(PageReq::new(order(5), Gfp::KERNEL))
        .unwrap()
        .0;
    let blocks = world.exhaust(Gfp::KERNEL);
    take_steps();
    fake.state().compacted = vec![block];
    fake.state().compactions = vec![CompactResult::Success];
    // The block is as large as the marks want it to be: more than one is needed to stay above them.
    let sleep = &mut Sleep::grant();
    let got = world.pages.alloc_pages(sleep, Gfp::KERNEL, order(4));
    let made = got.unwrap();
    assert_eq!(
        deeds(),
        [
            AllocStep::Compacted(CompactPriority::Async, CompactResult::Success),
            AllocStep::Got
        ]
    );
    let events = world.zones.events();
    assert_eq!(events[VmEvent::CompactStall], 1);
    assert_eq!(events[VmEvent::CompactSuccess], 1);
    assert_eq!(fake.state().reclaims, []);
    world.pages.free_pages(made);
    finish(&world, fake, blocks);
}

#[test]
fn reclaim_without_progress_is_tried_sixteen_times_more() {
    for (reclaimable, tries) in [(NR_FRAMES, 17), (0, 1)] {
        let (world, fake, blocks) = short(64, 0);
        fake.state().reclaimable = reclaimable;
        let gfp = Gfp::KERNEL | Gfp::NOWARN;
        assert!(is_refused(&world, gfp, Order::ZERO));
        let mut expected = Vec::new();
        for n in 1..tries {
            expected.push(AllocStep::Reclaimed(0));
            expected.push(AllocStep::RetryReclaim(n));
        }
        expected.push(AllocStep::Reclaimed(0));
        expected.push(AllocStep::Oom(OomResult::NoVictim));
        expected.push(AllocStep::Failed);
        assert_eq!(deeds(), expected);
        assert_eq!(fake.state().kills.len(), 1);
        finish(&world, fake, blocks);
    }
}

#[test]
fn what_was_kept_back_for_urgent_requests_goes_last() {
    let fake = Fake::new();
    let world = large_zone(1024, fake.hooks());
    fake.set_zones(&world);
    let large = |gfp| world.zones.alloc_pages(PageReq::new(order(3), gfp)).ok();
    let mut blocks = Vec::new();
    // An urgent request below the low mark keeps its pageblock back.
    loop {
        let (block, pressure) = large(Gfp::NOWAIT).unwrap();
        blocks.push(block);
        if pressure == Pressure::WakeKswapd {
            break;
        }
    }
    let urgent = world.pages.alloc_pages(&mut NoWait, Gfp::ATOMIC, order(3));
    blocks.push(urgent.unwrap());
    let zone = world.zones.zone(ZoneType::Normal);
    assert!(zone.nr_reserved_highatomic() > 0);
    // A request that may wait gets it, but only when nothing else helped.
    fake.state().reclaimable = world.zones.managed_pages();
    let gfp = Gfp::KERNEL | Gfp::NOWARN;
    let next = || large(Gfp::NOWAIT).map(|(block, _)| block);
    blocks.extend(core::iter::from_fn(next));
    blocks.extend(world.exhaust(Gfp::NOWAIT));
    take_steps();
    let sleep = &mut Sleep::grant();
    blocks.extend(world.pages.alloc_page(sleep, gfp));
    let deeds = deeds();
    let tried = deeds
        .iter()
        .position(|step| *step == AllocStep::RetryReclaim(16));
    let gone = deeds.iter().position(|step| *step == AllocStep::Unreserved);
    assert!(tried.is_some() && tried < gone, "{deeds:?}");
    assert_eq!(zone.nr_reserved_highatomic(), 0);
    finish(&world, fake, blocks);
}

#[test]
fn progress_starts_the_count_again() {
    // Somebody else takes what is freed: reclaim says it made progress, a thousand times over.
    let (world, fake, blocks) = short(64, 40);
    {
        let mut state = fake.state();
        state.reclaimable = NR_FRAMES;
        state.pretended = 1;
        state.within = Some(|fake, _| {
            if fake.state().reclaims.len() == 100 {
                fake.free(40);
            }
        });
    }
    let page = page(&world, Gfp::KERNEL);
    assert_eq!(fake.state().reclaims.len(), 100);
    let retries = deeds();
    assert!(
        retries
            .iter()
            .all(|step| !matches!(step, AllocStep::RetryReclaim(n) if *n > 0))
    );
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn compaction_is_tried_harder_and_harder() {
    use CompactPriority::{Async, SyncFull, SyncLight};
    let many = |priority, count| core::iter::repeat_n(priority, count);
    for (result, n, expected) in [
        (CompactResult::Complete, 2, vec![Async, SyncLight, SyncFull]),
        (
            CompactResult::Success,
            2,
            [Async]
                .into_iter()
                .chain(many(SyncLight, 17))
                .chain(many(SyncFull, 17))
                .collect(),
        ),
        // Nobody waits that long for a costly block: a quarter of the tries, and not at full strength.
        (
            CompactResult::Success,
            4,
            [Async].into_iter().chain(many(SyncLight, 5)).collect(),
        ),
        (CompactResult::Complete, 4, vec![Async, SyncLight]),
        // Too little memory: one reclaim has to be enough to make it worth another.
        (CompactResult::Skipped, 2, vec![Async, SyncLight]),
    ] {
        let (world, fake, blocks) = short(64, 0);
        {
            let mut state = fake.state();
            state.pretended = 1;
            state.compactions = vec![result; 100];
        }
        let gfp = Gfp::KERNEL | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
        assert!(is_refused(&world, gfp, order(n)));
        assert_eq!(fake.state().priorities, expected, "{result:?} {n}");
        finish(&world, fake, blocks);
    }
}

#[test]
fn killing_somebody_makes_room() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().oom = Some(OomResult::Killed);
    fake.state().per_kill = 40;
    let page = page(&world, Gfp::KERNEL);
    assert_eq!(
        deeds(),
        [
            AllocStep::Reclaimed(0),
            AllocStep::Oom(OomResult::Killed),
            AllocStep::Got
        ]
    );
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn nobody_is_killed_for_requests_that_it_would_not_help() {
    let this = PageReq {
        node: Some(NODE),
        ..PageReq::page(Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN)
    };
    for req in [
        PageReq::page(Gfp::KERNEL | Gfp::RETRY_MAYFAIL | Gfp::NOWARN),
        PageReq::page(Gfp::KERNEL | Gfp::DMA | Gfp::NOWARN),
        PageReq::page(Gfp::KERNEL | Gfp::DMA32 | Gfp::NOWARN),
        PageReq::page(Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN),
        PageReq::new(order(4), Gfp::KERNEL | Gfp::NOWARN),
        this,
    ] {
        let fake = Fake::new();
        let world = world_with(64, fake.hooks());
        fake.set_zones(&world);
        let mut blocks = world.exhaust(Gfp::KERNEL);
        blocks.extend(world.exhaust(Gfp::KERNEL | Gfp::DMA32));
        blocks.extend(world.exhaust(Gfp::KERNEL | Gfp::DMA));
        fake.state().oom = Some(OomResult::Killed);
        let sleep = &mut Sleep::grant();
        let result = world.pages.alloc_pages_nodemask(sleep, req, NodeMask::ALL);
        assert_eq!(result, Err(AllocError::OutOfMemory), "{req:?}");
        assert_eq!(fake.state().kills, []);
        finish(&world, fake, blocks);
    }
}

#[test]
fn nobody_is_killed_when_others_made_room_meanwhile() {
    let (world, fake, blocks) = short(64, 400);
    fake.state().oom = Some(OomResult::Killed);
    // When all three zones were found to have nothing, but before anybody is killed.
    fake.state().free_at_look = 3;
    let page = page(&world, Gfp::KERNEL);
    assert_eq!(
        deeds(),
        [AllocStep::Reclaimed(0), AllocStep::HighMark, AllocStep::Got]
    );
    assert_eq!(fake.state().kills, []);
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn without_a_file_system_one_waits_instead_of_killing() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().oom = Some(OomResult::Killed);
    fake.state().per_relax = 40;
    let page = page(&world, Gfp::NOFS);
    assert_eq!(fake.state().kills, []);
    assert_eq!(fake.state().nr_relaxed, 1);
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn without_others_there_is_nobody_to_wait_for() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().oom = Some(OomResult::Killed);
    let gfp = Gfp::NOFS | Gfp::NOWARN;
    assert!(is_refused(&world, gfp, Order::ZERO));
    assert_eq!(fake.state().kills, []);
    finish(&world, fake, blocks);
}

#[test]
fn who_is_to_end_gets_some_reserve_and_no_second_try() {
    let (world, fake, mut blocks) = short(256, 0);
    fake.state().oom = Some(OomResult::Caller);
    let gfp = Gfp::KERNEL | Gfp::NOWARN;
    let sleep = &mut Sleep::grant();
    let page = world.pages.alloc_page(sleep, gfp).unwrap();
    assert!(deeds().ends_with(&[AllocStep::Oom(OomResult::Caller), AllocStep::Got]));
    blocks.push(page);
    let next = || world.pages.alloc_page(sleep, gfp).ok();
    blocks.extend(core::iter::from_fn(next));
    assert!(world.nr_free() > 0);
    assert!(deeds().ends_with(&[AllocStep::Oom(OomResult::Caller), AllocStep::Failed]));
    finish(&world, fake, blocks);
}

#[test]
fn while_somebody_is_chosen_others_wait() {
    let (world, fake, blocks) = short(64, 40);
    {
        let mut state = fake.state();
        state.oom = Some(OomResult::Killed);
        state.per_relax = 20;
        state.within_oom = Some(|fake| {
            let other = || {
                let page = fake.pages().alloc_page(&mut Sleep::grant(), Gfp::KERNEL);
                (page.unwrap(), deeds())
            };
            let (page, deeds) = std::thread::scope(|threads| threads.spawn(other).join().unwrap());
            assert_eq!(
                deeds,
                [AllocStep::Reclaimed(0), AllocStep::OomBusy, AllocStep::Got]
            );
            fake.pages().free_page(page);
        });
    }
    let page = page(&world, Gfp::KERNEL);
    assert_eq!(fake.state().kills.len(), 1);
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn who_reclaims_does_not_reclaim_again() {
    let (world, fake, blocks) = short(256, 40);
    {
        let mut state = fake.state();
        state.per_reclaim = 40;
        state.within = Some(|fake, sleep| {
            let pages = fake.pages();
            // Both ways use the reserves; with those gone, neither waits.
            let one = pages.alloc_page(sleep, Gfp::KERNEL).unwrap();
            let two = pages.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
            let all: Vec<_> =
                core::iter::from_fn(|| pages.alloc_page(sleep, Gfp::KERNEL | Gfp::NOWARN).ok())
                    .collect();
            let none = pages.alloc(PageReq::page(Gfp::KERNEL | Gfp::NOWARN));
            assert_eq!(none, Err(AllocError::OutOfMemory));
            all.into_iter()
                .chain([one, two])
                .for_each(|page| pages.free_page(page));
        });
    }
    let page = page(&world, Gfp::KERNEL);
    assert_eq!(fake.state().reclaims.len(), 1);
    world.pages.free_page(page);
    finish(&world, fake, blocks);
}

#[test]
fn requests_through_the_seam_wait_too() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().per_reclaim = 32;
    let page = world.pages.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    assert_eq!(fake.state().reclaims.len(), 1);
    world.pages.free(page);
    finish(&world, fake, blocks);
}

#[test]
fn bulk_requests_wait_for_one_page_only() {
    let (world, fake, blocks) = short(64, 3);
    fake.state().per_reclaim = 3;
    let mut out: Vec<Option<PageBlock>> = (0..100).map(|_| None).collect();
    let count = world
        .pages
        .alloc_pages_bulk(&mut Sleep::grant(), Gfp::KERNEL, None, &mut out);
    assert_eq!((count, fake.state().reclaims.len()), (1, 1));
    world.pages.free_pages_bulk(&mut out);
    finish(&world, fake, blocks);
}

#[test]
fn what_must_not_fail_leaves_its_cpuset() {
    let fake = Fake::new();
    let world = two_nodes(64, fake.hooks());
    fake.set_zones(&world);
    let node = NodeId::new(1);
    let gfp = Gfp::USER | Gfp::NOFAIL;
    let on_one = |block: &PageBlock| frames(3072, NR_FRAMES).contains(block.pfn());
    Sleep::grant().within(NodeMask::of(node), |sleep| {
        let mut blocks = Vec::new();
        loop {
            let page = world.pages.alloc_page(sleep, gfp).unwrap();
            let is_on_one = on_one(&page);
            blocks.push(page);
            if !is_on_one {
                break;
            }
        }
        // Not before the node had given what it could.
        assert!(blocks.len() > 900);
        world.give_back(blocks);
    });
    take_steps();
    world.assert_whole();
}

#[test]
fn what_must_not_fail_but_is_hard_to_get_is_a_bug() {
    let fake = Fake::new();
    let world = world_with(64, fake.hooks());
    fake.set_zones(&world);
    let large = PageReq::new(order(5), Gfp::KERNEL);
    fake.state().held = vec![world.zones.alloc_pages(large).unwrap().0];
    let blocks = world.exhaust(Gfp::KERNEL);
    fake.state().per_relax = 1;
    let gfp = Gfp::KERNEL | Gfp::NOFAIL;
    let sleep = &mut Sleep::grant();
    let block = world.pages.alloc_pages(sleep, gfp, order(5)).unwrap();
    assert!(deeds().contains(&AllocStep::RetryNofail));
    let order = order(5);
    assert_eq!(take_bugs(), [AllocBug::NofailIsHard { gfp, order }]);
    world.pages.free_pages(block);
    finish(&world, fake, blocks);
}

/// F14: crossing low wakes kswapd, which stops at high; below min only the privileged get anything.
#[test]
fn marks_say_who_gets_what() {
    let fake = Fake::new();
    let world = world_with(400, fake.hooks());
    fake.set_zones(&world);
    let zones = || world.zones.all().filter(|zone| zone.is_managed());
    let ok = |mark| zones().any(|zone| zone.watermark_ok(Order::ZERO, mark, ZoneType::Normal));
    let mut blocks = Vec::new();
    while fake.state().wakes.is_empty() {
        blocks.push(world.pages.alloc_page(&mut NoWait, Gfp::NOWAIT).unwrap());
    }
    assert!(
        !ok(Mark::Low) && ok(Mark::Min),
        "woken where low is crossed"
    );
    // kswapd: as many as it takes, and no more.
    while !zones().all(|zone| zone.watermark_ok(Order::ZERO, Mark::High, ZoneType::Normal)) {
        world.give_back(blocks.pop());
        drain_here(world.zones);
    }
    fake.state().wakes.clear();
    let free = world.nr_free();
    let high: usize = zones().map(|zone| zone.watermarks().high).sum();
    assert!(free >= high, "{free} pages, high marks of {high}");
    blocks.push(world.pages.alloc_page(&mut NoWait, Gfp::NOWAIT).unwrap());
    assert_eq!(fake.state().wakes, [], "there is enough again");
    let next = || {
        world
            .pages
            .alloc_page(&mut NoWait, Gfp::NOWAIT | Gfp::NOWARN)
            .ok()
    };
    blocks.extend(core::iter::from_fn(next));
    assert!(!ok(Mark::Min));
    for zone in zones() {
        let kept = zone.watermarks().min + zone.protection()[ZoneType::Normal.index()];
        assert!(zone.nr_free_pages() <= kept, "{}", zone.name());
    }
    let privileged = world.pages.alloc_page(&mut NoWait, Gfp::ATOMIC).unwrap();
    blocks.push(privileged);
    finish(&world, fake, blocks);
}

/// F15: who could be served by a higher zone leaves the reserve of a lower one.
#[test]
fn lower_zones_keep_a_reserve_from_who_has_another() {
    let fake = Fake::new();
    let world = world_with(4, fake.hooks());
    let reserve = 300;
    let mut ratio = [0; ZoneType::COUNT];
    ratio[ZoneType::Dma.index()] = 3072 / reserve;
    world.zones.set_lowmem_reserve_ratio(ratio);
    let next = |gfp| world.pages.alloc_page(&mut NoWait, gfp | Gfp::NOWARN).ok();
    let mut blocks: Vec<_> = core::iter::from_fn(|| next(Gfp::NOWAIT)).collect();
    assert!(world.free_of(ZoneType::Dma) >= reserve);
    assert!(world.free_of(ZoneType::Normal) < 16);
    let dma: Vec<_> = core::iter::from_fn(|| next(Gfp::NOWAIT | Gfp::DMA)).collect();
    assert!(dma.len() >= reserve - 16, "its own requests get it");
    blocks.extend(dma);
    take_steps();
    world.give_back(blocks);
    world.assert_whole();
}

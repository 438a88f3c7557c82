//! Which zones a request names, what the compositions are, who may use which (F23), and what urgent requests do (F25).
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{NR_FRAMES, finish, frames, run_in, short, take_bugs, with_highmem, world};
use kmm::frame::{Gfp, Order, ZoneType};
use kmm::host::{Context, Sleep};
use kmm::zone::Mark;
use kmm::{AllocBug, NoWait, OomResult};

#[test]
fn zone_modifiers_name_the_highest_zone() {
    let world = with_highmem(0);
    for (gfp, zone, range) in [
        (Gfp::KERNEL, ZoneType::Normal, frames(2048, 3072)),
        (Gfp::KERNEL | Gfp::DMA, ZoneType::Dma, frames(0, 1024)),
        (Gfp::DMA, ZoneType::Dma, frames(0, 1024)),
        (
            Gfp::KERNEL | Gfp::DMA32,
            ZoneType::Dma32,
            frames(1024, 2048),
        ),
        (Gfp::HIGHUSER, ZoneType::HighMem, frames(3072, NR_FRAMES)),
        (
            Gfp::HIGHUSER_MOVABLE,
            ZoneType::Movable,
            frames(3072, NR_FRAMES),
        ),
    ] {
        assert_eq!(gfp.zone(), zone);
        let page = world.pages.alloc_page(&mut NoWait, gfp).unwrap();
        assert!(range.contains(page.pfn()), "{gfp} gave {}", page.pfn());
        world.pages.free_page(page);
    }
    world.assert_whole();
}

#[test]
fn compositions_are_those_of_the_books() {
    for (gfp, parts) in [
        (
            Gfp::ATOMIC,
            Gfp::HIGH | Gfp::ATOMIC_CALLER | Gfp::KSWAPD_RECLAIM,
        ),
        (Gfp::NOWAIT, Gfp::KSWAPD_RECLAIM),
        (Gfp::NOIO, Gfp::WAIT),
        (Gfp::NOFS, Gfp::WAIT | Gfp::IO),
        (Gfp::KERNEL, Gfp::WAIT | Gfp::IO | Gfp::FS),
        (Gfp::USER, Gfp::WAIT | Gfp::IO | Gfp::FS | Gfp::HARDWALL),
        (Gfp::HIGHUSER, Gfp::USER | Gfp::HIGHMEM),
        (Gfp::HIGHUSER_MOVABLE, Gfp::HIGHUSER | Gfp::MOVABLE_PAGE),
        (Gfp::KERNEL_ACCOUNT, Gfp::KERNEL | Gfp::ACCOUNT),
    ] {
        assert_eq!(gfp, parts);
    }
}

/// S3's table: which flag when.
#[test]
fn who_may_not_sleep_uses_atomic() {
    let world = world(64);
    let may = |context, gfp: Gfp| {
        run_in(context, || {
            let block = world.pages.alloc_page(&mut Sleep::grant(), gfp).unwrap();
            world.pages.free_page(block);
            let found = take_bugs();
            let expected = [AllocBug::SleepInAtomic { gfp, context }];
            assert!(found.is_empty() || found == expected);
            found.is_empty()
        })
    };
    for (context, sleeps) in [
        (Context::Process, true),
        (Context::Atomic, false),
        (Context::SoftIrq, false), // tasklets are softirqs
        (Context::HardIrq, false),
        (Context::Nmi, false),
    ] {
        let checked = cfg!(debug_assertions);
        for gfp in [
            Gfp::KERNEL,
            Gfp::DMA | Gfp::KERNEL,
            Gfp::NOIO,
            Gfp::NOFS,
            Gfp::USER,
        ] {
            assert_eq!(may(context, gfp), sleeps || !checked, "{gfp} in {context}");
        }
        for gfp in [Gfp::ATOMIC, Gfp::DMA | Gfp::ATOMIC, Gfp::NOWAIT] {
            assert!(may(context, gfp), "{gfp} in {context}");
        }
    }
    world.assert_whole();
}

#[test]
fn who_may_not_sleep_does_not_even_by_mistake() {
    if !cfg!(debug_assertions) {
        return;
    }
    let (world, fake, blocks) = short(64, 40);
    fake.state().per_reclaim = 40;
    run_in(Context::HardIrq, || {
        let gfp = Gfp::KERNEL | Gfp::NOWARN;
        assert!(world.pages.alloc_page(&mut Sleep::grant(), gfp).is_err());
    });
    assert_eq!(fake.state().reclaims, []);
    assert_eq!(take_bugs().len(), 1);
    finish(&world, fake, blocks);
}

/// F25.
#[test]
fn atomic_requests_never_wait_and_nowait_leaves_reserves_alone() {
    let (world, fake, mut blocks) = short(256, 40);
    fake.state().per_reclaim = 40;
    fake.state().oom = Some(OomResult::Killed);
    let sleep = &mut Sleep::grant();
    let at_min = world.nr_free();
    assert!(
        world
            .pages
            .alloc_page(sleep, Gfp::NOWAIT | Gfp::NOWARN)
            .is_err()
    );
    assert_eq!(world.nr_free(), at_min);
    let next = || {
        world
            .pages
            .alloc_page(sleep, Gfp::ATOMIC | Gfp::NOWARN)
            .ok()
    };
    let dipped: Vec<_> = core::iter::from_fn(next).collect();
    assert!(!dipped.is_empty());
    assert!(world.nr_free() > 0, "the rest is for those who free memory");
    for zone in world.zones.all().filter(|zone| zone.is_managed()) {
        assert!(!zone.watermark_ok(Order::ZERO, Mark::Min, ZoneType::Normal));
    }
    assert_eq!(fake.state().reclaims, []);
    assert_eq!(fake.state().kills, []);
    assert_eq!(fake.state().nr_relaxed, 0);
    blocks.extend(dipped);
    finish(&world, fake, blocks);
}

#[test]
fn a_request_cannot_both_wait_and_not() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().per_reclaim = 32;
    let gfp = Gfp::ATOMIC_CALLER | Gfp::DIRECT_RECLAIM | Gfp::NOWARN;
    // Nothing is said while the fast path has pages: more than there are is asked for.
    let next = |_| world.pages.alloc_page(&mut Sleep::grant(), gfp).ok();
    let got: Vec<_> = (0..=NR_FRAMES).map_while(next).collect();
    let found = take_bugs();
    assert!(!found.is_empty());
    assert!(
        found
            .iter()
            .all(|bug| *bug == AllocBug::AtomicMayWait { gfp })
    );
    world.give_back(got);
    finish(&world, fake, blocks);
}

//! What each flag of a request does (F22).
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::sync::Mutex;

use common::{
    Fake, NR_FRAMES, TELL, World, finish, frames, order, short, take_bugs, take_steps, take_texts,
    two_nodes, world, world_with,
};
use kmm::frame::{Gfp, MigrateType, NodeId, NodeMask, Order, PageFlags, Pfn, ZoneType};
use kmm::host::{AllocError, PageBlock, PageReq, Sleep};
use kmm::{Accountant, AllocBug, AllocHooks, AllocStep, NoWait, OomResult, OverLimit};

#[test]
fn wait_lets_a_request_reclaim() {
    for gfp in [Gfp::WAIT, Gfp::DIRECT_RECLAIM, Gfp::KERNEL] {
        let (world, fake, blocks) = short(64, 40);
        fake.state().per_reclaim = 32;
        let sleep = &mut Sleep::grant();
        let nowait = (gfp - Gfp::DIRECT_RECLAIM) | Gfp::NOWARN;
        assert!(world.pages.alloc_page(sleep, nowait).is_err());
        assert_eq!(fake.state().reclaims.len(), 0);
        let page = world.pages.alloc_page(sleep, gfp).unwrap();
        assert_eq!(fake.state().reclaims.len(), 1);
        world.pages.free_page(page);
        finish(&world, fake, blocks);
    }
}

#[test]
fn kswapd_reclaim_wakes_kswapd() {
    let (world, fake, blocks) = short(64, 0);
    let wants = |gfp: Gfp| {
        let _ = world.pages.alloc_page(&mut NoWait, gfp | Gfp::NOWARN);
        core::mem::take(&mut fake.state().wakes)
    };
    assert_eq!(wants(Gfp::empty()), []);
    let woken = wants(Gfp::NOWAIT);
    assert!(!woken.is_empty());
    let wake = (NodeId::ZERO, Order::ZERO, ZoneType::Normal);
    assert!(woken.iter().all(|one| *one == wake));
    finish(&world, fake, blocks);
}

#[test]
fn high_reaches_below_the_min_mark() {
    let (world, fake, mut blocks) = short(256, 0);
    let before = world.nr_free();
    assert!(
        world
            .pages
            .alloc_page(&mut NoWait, Gfp::NOWAIT | Gfp::NOWARN)
            .is_err()
    );
    let high = || {
        world
            .pages
            .alloc_page(&mut NoWait, Gfp::HIGH | Gfp::NOWARN)
            .ok()
    };
    blocks.extend(core::iter::from_fn(high));
    let with_high = world.nr_free();
    assert!(with_high < before);
    // Half of it, not all.
    let managed = || world.zones.all().filter(|zone| zone.is_managed());
    let marks: usize = managed()
        .map(|zone| zone.watermarks().min - zone.watermarks().min / 2)
        .sum();
    let reserve: usize = managed()
        .map(|zone| zone.protection()[ZoneType::Normal.index()])
        .sum();
    assert_eq!(with_high, marks + reserve);
    let atomic = || {
        world
            .pages
            .alloc_page(&mut NoWait, Gfp::ATOMIC | Gfp::NOWARN)
            .ok()
    };
    blocks.extend(core::iter::from_fn(atomic));
    assert!(
        world.nr_free() < with_high,
        "an urgent caller gets a quarter more"
    );
    finish(&world, fake, blocks);
}

#[test]
fn io_and_fs_are_seen_by_who_reclaims() {
    for gfp in [Gfp::NOIO, Gfp::NOFS, Gfp::KERNEL] {
        let (world, fake, blocks) = short(64, 40);
        fake.state().per_reclaim = 32;
        let page = world.pages.alloc_page(&mut Sleep::grant(), gfp).unwrap();
        let (seen, _) = fake.state().reclaims[0];
        assert_eq!(seen.gfp & (Gfp::IO | Gfp::FS), gfp & (Gfp::IO | Gfp::FS));
        world.pages.free_page(page);
        finish(&world, fake, blocks);
    }
    // A scope takes them from every request in it, and only from these.
    type Request = fn(&World, &mut Sleep) -> Result<PageBlock, AllocError>;
    fn page(world: &World, sleep: &mut Sleep) -> Result<PageBlock, AllocError> {
        world.pages.alloc_page(sleep, Gfp::KERNEL)
    }
    let cases: [(Request, Gfp); 4] = [
        (
            |world, sleep| sleep.noio(|sleep| page(world, sleep)),
            Gfp::empty(),
        ),
        (
            |world, sleep| sleep.nofs(|sleep| page(world, sleep)),
            Gfp::IO,
        ),
        (
            |world, sleep| sleep.nofs(|sleep| sleep.noio(|sleep| page(world, sleep))),
            Gfp::empty(),
        ),
        (
            |world, sleep| {
                sleep.noio(|_| ());
                page(world, sleep)
            },
            Gfp::IO | Gfp::FS,
        ),
    ];
    for (request, expected) in cases {
        let (world, fake, blocks) = short(64, 40);
        fake.state().per_reclaim = 32;
        let page = request(&world, &mut Sleep::grant()).unwrap();
        let (seen, _) = fake.state().reclaims[0];
        assert_eq!(seen.gfp & (Gfp::IO | Gfp::FS), expected);
        world.pages.free_page(page);
        finish(&world, fake, blocks);
    }
}

#[test]
fn cold_asks_for_nothing() {
    let (one, two) = (world(64), world(64));
    let cold = one
        .pages
        .alloc_page(&mut NoWait, Gfp::KERNEL | Gfp::COLD)
        .unwrap();
    let warm = two.pages.alloc_page(&mut NoWait, Gfp::KERNEL).unwrap();
    assert_eq!(cold.pfn(), warm.pfn());
    one.pages.free_page(cold);
    two.pages.free_page(warm);
}

#[test]
fn nowarn_says_nothing() {
    let (world, fake, blocks) = short(64, 0);
    for (gfp, reports) in [(Gfp::NOWAIT, 1), (Gfp::NOWAIT | Gfp::NOWARN, 0)] {
        assert!(world.pages.alloc_page(&mut NoWait, gfp).is_err());
        assert_eq!(take_texts().len(), reports);
    }
    finish(&world, fake, blocks);
}

#[test]
fn repeat_tries_hard_for_large_blocks_but_kills_nobody() {
    for (gfp, reclaims) in [(Gfp::KERNEL, 1), (Gfp::KERNEL | Gfp::REPEAT, 17)] {
        let fake = Fake::new();
        let world = world_with(256, fake.hooks());
        fake.set_zones(&world);
        // What is kept back are large blocks.
        let req = PageReq::new(order(4), Gfp::KERNEL);
        let next = || world.zones.alloc_pages(req).ok().map(|(block, _)| block);
        let blocks: Vec<_> = core::iter::from_fn(next).collect();
        {
            let mut state = fake.state();
            state.reclaimable = NR_FRAMES;
            state.oom = Some(OomResult::Killed);
        }
        let sleep = &mut Sleep::grant();
        let result = world.pages.alloc_pages(sleep, gfp | Gfp::NOWARN, order(4));
        assert_eq!(result, Err(AllocError::OutOfMemory));
        assert_eq!(fake.state().reclaims.len(), reclaims, "{gfp}");
        assert_eq!(fake.state().kills, []);
        finish(&world, fake, blocks);
    }
}

#[test]
fn nofail_waits_until_there_is_a_page() {
    let (world, fake, blocks) = short(64, 40);
    fake.state().oom = Some(OomResult::NoVictim);
    let sleep = &mut Sleep::grant();
    let gfp = Gfp::KERNEL | Gfp::NOWARN;
    assert!(world.pages.alloc_page(sleep, gfp).is_err());
    // Its deeper reserves are used first.
    let nofail = || {
        world
            .pages
            .alloc_page(&mut Sleep::grant(), gfp | Gfp::NOFAIL)
            .unwrap()
    };
    let mut pages = Vec::new();
    fake.state().per_relax = 1;
    while fake.state().nr_relaxed == 0 {
        pages.push(nofail());
    }
    let held = fake.state().held.len();
    assert!(held < 40, "only waiting made room");
    assert!(take_steps().contains(&AllocStep::RetryNofail));
    world.give_back(pages);
    finish(&world, fake, blocks);
}

#[test]
fn nofail_that_may_not_wait_is_a_bug() {
    let (world, fake, blocks) = short(64, 40);
    let gfp = Gfp::NOWAIT | Gfp::NOFAIL | Gfp::NOWARN;
    assert!(world.pages.alloc_page(&mut Sleep::grant(), gfp).is_err());
    assert_eq!(take_bugs(), [AllocBug::NofailMayNotWait { gfp }]);
    finish(&world, fake, blocks);
}

#[test]
fn noretry_gives_up_after_one_reclaim() {
    let (world, fake, blocks) = short(64, 0);
    fake.state().reclaimable = NR_FRAMES;
    fake.state().oom = Some(OomResult::Killed);
    let gfp = Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN;
    assert!(world.pages.alloc_page(&mut Sleep::grant(), gfp).is_err());
    assert_eq!(fake.state().reclaims.len(), 1);
    assert_eq!(fake.state().kills, []);
    finish(&world, fake, blocks);
}

#[test]
fn memalloc_uses_every_reserve_and_nomemalloc_none() {
    for (gfp, all) in [
        (Gfp::NOWAIT | Gfp::MEMALLOC, true),
        (Gfp::NOWAIT | Gfp::MEMALLOC | Gfp::NOMEMALLOC, false),
    ] {
        let (world, fake, mut blocks) = short(256, 0);
        let next = || world.pages.alloc_page(&mut NoWait, gfp | Gfp::NOWARN).ok();
        let got: Vec<_> = core::iter::from_fn(next).collect();
        assert_eq!(got.is_empty(), !all);
        assert_eq!(world.nr_free() == 0, all);
        blocks.extend(got);
        finish(&world, fake, blocks);
    }
    // A task that frees memory gets them too, and does not reclaim.
    let (world, fake, mut blocks) = short(256, 0);
    let mut sleep = Sleep::grant();
    sleep.memalloc(|sleep| {
        let next = || {
            world
                .pages
                .alloc_page(sleep, Gfp::KERNEL | Gfp::NOWARN)
                .ok()
        };
        blocks.extend(core::iter::from_fn(next));
        assert_eq!(world.nr_free(), 0);
        assert!(
            world
                .pages
                .alloc_page(sleep, Gfp::KERNEL | Gfp::NOWARN)
                .is_err()
        );
    });
    assert_eq!(fake.state().reclaims, []);
    finish(&world, fake, blocks);
}

#[test]
fn hardwall_keeps_a_request_to_its_cpuset() {
    let world = two_nodes(0, TELL);
    let one = NodeMask::of(NodeId::new(1));
    let mut sleep = Sleep::grant();
    let on_one = |block: &PageBlock| frames(3072, NR_FRAMES).contains(block.pfn());
    sleep.within(one, |sleep| {
        let mut got = Vec::new();
        let gfp = Gfp::USER | Gfp::NOWARN;
        got.extend(core::iter::from_fn(|| {
            world.pages.alloc_page(sleep, gfp).ok()
        }));
        assert_eq!(got.len(), 1024);
        assert!(got.iter().all(on_one));
        // Kernel memory may leave it in need, and so may who cannot wait.
        let kernel = world.pages.alloc_page(sleep, Gfp::KERNEL).unwrap();
        let atomic = world
            .pages
            .alloc_page(sleep, Gfp::ATOMIC | Gfp::HARDWALL)
            .unwrap();
        assert!(!on_one(&kernel) && !on_one(&atomic));
        got.extend([kernel, atomic]);
        world.give_back(got);
        let kernel = world.pages.alloc_page(sleep, Gfp::KERNEL).unwrap();
        assert!(on_one(&kernel), "without need it stays within");
        world.pages.free_page(kernel);
    });
    world.assert_whole();
}

#[test]
fn thisnode_keeps_a_request_to_the_node() {
    let world = two_nodes(0, TELL);
    let node = NodeId::new(1);
    let gfp = Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN;
    let next = || {
        world
            .pages
            .alloc_pages_node(&mut NoWait, node, gfp, Order::ZERO)
            .ok()
    };
    let got: Vec<_> = core::iter::from_fn(next).collect();
    assert_eq!(got.len(), 1024);
    assert!(
        got.iter()
            .all(|block| frames(3072, NR_FRAMES).contains(block.pfn()))
    );
    let other = world
        .pages
        .alloc_pages_node(&mut NoWait, node, Gfp::KERNEL, Order::ZERO)
        .unwrap();
    assert!(frames(0, 3072).contains(other.pfn()));
    world.pages.free_page(other);
    world.give_back(got);
    world.assert_whole();
}

#[test]
fn a_mask_names_the_nodes() {
    let world = two_nodes(0, TELL);
    for (n, range) in [(0, frames(0, 3072)), (1, frames(3072, NR_FRAMES))] {
        let mask = NodeMask::of(NodeId::new(n));
        let req = PageReq::page(Gfp::KERNEL | Gfp::NOWARN);
        let next = || {
            world
                .pages
                .alloc_pages_nodemask(&mut NoWait, req, mask)
                .ok()
        };
        let got: Vec<_> = core::iter::from_fn(next).collect();
        assert_eq!(got.len(), range.nr_pages());
        assert!(got.iter().all(|block| range.contains(block.pfn())));
        world.give_back(got);
    }
    world.assert_whole();
}

#[test]
fn reclaimable_and_movable_name_the_free_lists() {
    for (gfp, kind) in [
        (Gfp::KERNEL, MigrateType::Unmovable),
        (Gfp::KERNEL | Gfp::RECLAIMABLE, MigrateType::Reclaimable),
        (Gfp::KERNEL | Gfp::MOVABLE_PAGE, MigrateType::Movable),
    ] {
        assert_eq!(gfp.migrate_type(), kind);
        let world = world(0);
        let block = world.pages.alloc_pages(&mut NoWait, gfp, order(4)).unwrap();
        let zone = world.zones.zone_of(block.pfn()).unwrap();
        assert_eq!(zone.pageblock_type(block.pfn()), Some(kind), "{gfp}");
        world.pages.free_pages(block);
        world.assert_whole();
    }
}

#[test]
fn pinning_takes_movable_from_requests() {
    let world = world(0);
    let mut sleep = Sleep::grant();
    let gfp = Gfp::HIGHUSER_MOVABLE;
    let block = sleep
        .pinning(|sleep| world.pages.alloc_pages(sleep, gfp, order(4)))
        .unwrap();
    let zone = world.zones.zone_of(block.pfn()).unwrap();
    let kind = zone.pageblock_type(block.pfn());
    assert_eq!(kind, Some(MigrateType::Unmovable));
    world.pages.free_pages(block);
    world.assert_whole();
}

#[test]
fn comp_makes_one_page_of_a_block() {
    let world = world(0);
    let plain = world
        .pages
        .alloc_pages(&mut NoWait, Gfp::KERNEL, order(3))
        .unwrap();
    let comp = world
        .pages
        .alloc_pages(&mut NoWait, Gfp::KERNEL | Gfp::COMP, order(3))
        .unwrap();
    let map = world.zones.map();
    assert!(!map.page(plain.pfn()).test(PageFlags::HEAD));
    assert!(map.page(comp.pfn()).test(PageFlags::HEAD));
    assert_eq!(map.compound_head(comp.pfn() + 7), comp.pfn());
    world.pages.free_pages(plain);
    world.pages.free_pages(comp);
    world.assert_whole();
}

#[test]
fn zero_fills_with_zeros() {
    let world = world(0);
    frames(0, NR_FRAMES)
        .iter()
        .for_each(|pfn| world.machine.fill_frame(pfn, 1));
    for n in [0, 3] {
        let sum = |gfp: Gfp| -> u64 {
            let block = world.pages.alloc_pages(&mut NoWait, gfp, order(n)).unwrap();
            let mut bytes = [0; 4096];
            let mut sum = 0;
            for pfn in block.range().iter() {
                world.machine.read_phys(pfn.phys(), &mut bytes);
                sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
            let _ = block.into_raw();
            sum
        };
        assert_eq!(sum(Gfp::KERNEL), 4096 << n);
        assert_eq!(sum(Gfp::KERNEL | Gfp::ZERO), 0);
    }
}

#[derive(Debug, Default)]
struct Ledger {
    used: Mutex<Vec<(Pfn, usize)>>,
    limit: usize,
}

impl Accountant for Ledger {
    fn charge(&self, pfn: Pfn, order: Order, gfp: Gfp) -> Result<(), OverLimit> {
        assert!(gfp.contains(Gfp::ACCOUNT));
        let mut used = self.used.lock().unwrap();
        let sum: usize = used.iter().map(|(_, count)| count).sum();
        if sum + order.nr_pages() > self.limit {
            return Err(OverLimit);
        }
        used.push((pfn, order.nr_pages()));
        Ok(())
    }

    fn uncharge(&self, pfn: Pfn, order: Order) {
        let mut used = self.used.lock().unwrap();
        // A block that was split comes back in parts.
        let at = used
            .iter()
            .position(|(first, count)| (*first..*first + *count).contains(&pfn))
            .unwrap_or_else(|| panic!("{pfn} is not charged"));
        let (first, count) = used.remove(at);
        for n in 0..count {
            if !(pfn..pfn + order.nr_pages()).contains(&(first + n)) {
                used.push((first + n, 1));
            }
        }
    }
}

#[test]
fn account_counts_pages_until_they_are_freed() {
    let ledger: &'static Ledger = Box::leak(Box::new(Ledger {
        limit: 20,
        ..Ledger::default()
    }));
    let world = world_with(
        0,
        AllocHooks {
            accountant: ledger,
            ..TELL
        },
    );
    let pages = world.pages;
    let used = || -> usize {
        ledger
            .used
            .lock()
            .unwrap()
            .iter()
            .map(|(_, count)| count)
            .sum()
    };
    let gfp = Gfp::KERNEL_ACCOUNT;
    let plain = pages.alloc_page(&mut NoWait, Gfp::KERNEL).unwrap();
    assert_eq!(used(), 0);
    let block = pages.alloc_pages(&mut NoWait, gfp, order(3)).unwrap();
    let comp = pages
        .alloc_pages(&mut NoWait, gfp | Gfp::COMP, order(2))
        .unwrap();
    assert_eq!(used(), 12);
    // Over the limit: it fails, and nothing is lost.
    let free = world.nr_free();
    assert!(pages.alloc_pages(&mut NoWait, gfp, order(4)).is_err());
    assert_eq!((used(), world.nr_free()), (12, free));
    let mut slots = [const { None }; 10];
    assert_eq!(
        pages.alloc_pages_bulk(&mut NoWait, gfp, None, &mut slots),
        8
    );
    assert_eq!(used(), 20);
    pages.free_pages_bulk(&mut slots);
    let parts = pages.split_page(block).unwrap();
    parts.for_each(|part| pages.free_page(part));
    assert_eq!(used(), 4);
    let (pfn, _) = comp.into_raw();
    // SAFETY: the one reference, of this test.
    #[expect(unsafe_code, reason = "gives up its reference")]
    unsafe {
        pages.put_page(pfn);
    }
    pages.free_page(plain);
    let exact = pages.alloc_pages_exact(&mut NoWait, 5 * 4096, gfp).unwrap();
    assert_eq!(used(), 5);
    pages.free_pages_exact(exact);
    assert_eq!(used(), 0);
    world.assert_whole();
}

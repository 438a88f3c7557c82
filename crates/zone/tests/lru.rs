//! The LRU lists against five plain vectors (A-10, A-11, INV-6).
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; the last reference is given up by hand"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, TestZones, Tiny, bare, frames, run_on, small, take_bad};
use kmm_frame::{Gfp, NodeId, PageFlags, Pfn, PfnRange, ZoneItem, ZoneType};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_zone::{BadReason, LruBroken, LruError, LruList, ZoneLayout, ZonesBroken};

type Lock = spin::Mutex<()>;

/// Front first.
#[derive(Default)]
struct Oracle {
    lists: [Vec<Pfn>; 5],
}

impl Oracle {
    fn place(&self, pfn: Pfn) -> Option<(usize, usize)> {
        self.lists
            .iter()
            .enumerate()
            .find_map(|(list, pages)| Some((list, pages.iter().position(|&other| other == pfn)?)))
    }

    fn remove(&mut self, pfn: Pfn) -> Option<usize> {
        let (list, at) = self.place(pfn)?;
        self.lists[list].remove(at);
        Some(list)
    }
}

fn active_twin(list: usize) -> usize {
    [1, 1, 3, 3, 4][list]
}

fn inactive_twin(list: usize) -> usize {
    [0, 0, 2, 2, 4][list]
}

/// Which flags a page of each list carries, of those that belong to the lists.
fn flags_of(list: usize) -> PageFlags {
    [
        PageFlags::LRU | PageFlags::SWAPBACKED,
        PageFlags::LRU | PageFlags::SWAPBACKED | PageFlags::ACTIVE,
        PageFlags::LRU,
        PageFlags::LRU | PageFlags::ACTIVE,
        PageFlags::LRU | PageFlags::UNEVICTABLE,
    ][list]
}

fn compare(zones: &TestZones, oracle: &Oracle, held: &BTreeMap<Pfn, PageBlock>) {
    let lruvec = zones.node(NodeId::ZERO).lruvec();
    for (list, expected) in LruList::ALL.into_iter().zip(&oracle.lists) {
        assert_eq!(&lruvec.pages(list).collect::<Vec<_>>(), expected);
        assert_eq!(lruvec.nr_pages(list), expected.len());
        assert_eq!(lruvec.tail(list), expected.last().copied());
        assert_eq!(zones.lru_pages(list), expected.len() as u64);
    }
    for (kind, end) in [
        (ZoneType::Dma, 0..64),
        (ZoneType::Dma32, 64..256),
        (ZoneType::Normal, 256..1024),
    ] {
        let stat = zones.zone(kind).stat();
        for (item, list) in ZoneItem::ALL[1..].iter().zip(&oracle.lists) {
            let inside = list.iter().filter(|pfn| end.contains(&pfn.index()));
            assert_eq!(stat.counts[*item], inside.count() as u64, "{kind} {item:?}");
        }
    }
    let own = PageFlags::LRU | PageFlags::ACTIVE | PageFlags::UNEVICTABLE;
    for &pfn in held.keys() {
        let flags = zones.map().page(pfn).flags();
        match oracle.place(pfn) {
            None => assert!(!flags.intersects(own), "{pfn} {flags:?}"),
            Some((4, _)) => assert_eq!(flags & own, flags_of(4)),
            Some((list, _)) => assert_eq!(flags & (own | PageFlags::SWAPBACKED), flags_of(list)),
        }
    }
}

#[test]
fn random_pages_match_the_oracle() {
    let mut random = Random::new("random_pages_match_the_oracle", 0x72);
    for _ in 0..6 {
        let zones = small::<Lock>(16, frames(60, 70), 2);
        zones.set_lowmem_reserve_ratio([0; 6]);
        let mut oracle = Oracle::default();
        let mut held: BTreeMap<Pfn, PageBlock> = BTreeMap::new();
        let most = [3, 40, 1000][random.below(3)];
        for op in 0..4_000 {
            run_on(u32::try_from(random.below(2)).unwrap());
            if held.len() < most && random.below(4) == 0 {
                let gfp = [Gfp::KERNEL, Gfp::DMA, Gfp::DMA32][random.below(3)];
                if let Ok(block) = zones.alloc(PageReq::page(gfp)) {
                    held.insert(block.pfn(), block);
                }
            }
            // Mostly pages that are held, some free or reserved or beyond memory.
            let pfn = match held.keys().nth(random.below(held.len().max(1))) {
                Some(&pfn) if random.below(20) != 0 => pfn,
                _ => Pfn::new(random.below(1030)),
            };
            let list = random.below(5);
            let to = LruList::ALL[list];
            let known = pfn.index() < 1024;
            let place = oracle.place(pfn).map(|(list, _)| list);
            // What every operation on a page that is on no list says.
            let missing = if known {
                LruError::NotListed
            } else {
                LruError::Foreign
            };
            let told = |list: usize| LruList::ALL[list];
            let mut lruvec = zones.node(NodeId::ZERO).lruvec();
            match random.below(10) {
                op @ 0..4 => {
                    let result = if op < 3 {
                        lruvec.add(pfn, to)
                    } else {
                        lruvec.add_tail(pfn, to)
                    };
                    if place.is_some() {
                        assert_eq!(result, Err(LruError::AlreadyListed));
                    } else if held.contains_key(&pfn) {
                        assert_eq!(result, Ok(()));
                        if op < 3 {
                            oracle.lists[list].insert(0, pfn);
                        } else {
                            oracle.lists[list].push(pfn);
                        }
                    } else if !known {
                        assert_eq!(result, Err(LruError::Foreign));
                    } else if (60..70).contains(&pfn.index()) {
                        assert_eq!(result, Err(LruError::OtherUse(PageFlags::RESERVED)));
                    } else {
                        let buddy = LruError::OtherUse(PageFlags::BUDDY);
                        let result = result.unwrap_err();
                        assert!(result == LruError::NotHeld || result == buddy);
                    }
                }
                4 => {
                    let result = lruvec.del(pfn);
                    assert_eq!(result, oracle.remove(pfn).map(told).ok_or(missing));
                }
                5 => {
                    assert_eq!(lruvec.move_to_tail(pfn), place.map(told).ok_or(missing));
                    if let Some(list) = oracle.remove(pfn) {
                        oracle.lists[list].push(pfn);
                    }
                }
                6 => {
                    assert_eq!(lruvec.move_to_front(pfn), place.map(told).ok_or(missing));
                    if let Some(list) = oracle.remove(pfn) {
                        oracle.lists[list].insert(0, pfn);
                    }
                }
                7 => {
                    assert_eq!(lruvec.move_to(pfn, to), place.map(told).ok_or(missing));
                    if oracle.remove(pfn).is_some() {
                        oracle.lists[list].insert(0, pfn);
                    }
                }
                op => {
                    let twin = if op == 8 { active_twin } else { inactive_twin };
                    let result = if op == 8 {
                        lruvec.activate(pfn)
                    } else {
                        lruvec.deactivate(pfn)
                    };
                    assert_eq!(result, place.map(|list| told(twin(list))).ok_or(missing));
                    if let Some(list) = place {
                        if twin(list) != list {
                            oracle.remove(pfn);
                            oracle.lists[twin(list)].insert(0, pfn);
                        }
                    }
                }
            }
            drop(lruvec);
            if random.below(12) == 0 && place.is_none() {
                if let Some(block) = held.remove(&pfn) {
                    if oracle.place(pfn).is_none() {
                        zones.free(block);
                    } else {
                        held.insert(pfn, block);
                    }
                }
            }
            compare(&zones, &oracle, &held);
            if op % 64 == 0 {
                zones.validate().unwrap();
            }
        }
        for pages in &oracle.lists {
            for &pfn in pages {
                zones.node(NodeId::ZERO).lruvec().del(pfn).unwrap();
            }
        }
        held.into_values().for_each(|block| zones.free(block));
        zones.validate().unwrap();
        assert_eq!(take_bad(), []);
        assert_eq!(zones.accounting().allocated, 0);
    }
}

/// A zone with `count` pages held.
fn pages(zones: &TestZones, count: usize) -> Vec<Pfn> {
    (0..count)
        .map(|_| {
            zones
                .alloc(PageReq::page(Gfp::KERNEL))
                .unwrap()
                .into_raw()
                .0
        })
        .collect()
}

#[test]
fn flags_of_others_stay() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 1);
    let pfn = pages(&zones, 1)[0];
    let page = zones.map().page(pfn);
    let others = PageFlags::REFERENCED | PageFlags::DIRTY | PageFlags::ANON | PageFlags::UPTODATE;
    page.set(others | PageFlags::SWAPBACKED);
    page.set_private(77);
    let mut lruvec = zones.node(NodeId::ZERO).lruvec();
    lruvec.add(pfn, LruList::Unevictable).unwrap();
    assert!(page.test(others | PageFlags::SWAPBACKED | PageFlags::UNEVICTABLE));
    lruvec.move_to(pfn, LruList::ActiveAnon).unwrap();
    assert!(page.test(others | PageFlags::SWAPBACKED | PageFlags::ACTIVE));
    assert!(!page.test(PageFlags::UNEVICTABLE));
    lruvec.move_to(pfn, LruList::InactiveFile).unwrap();
    lruvec.del(pfn).unwrap();
    assert_eq!(page.flags(), others);
    assert_eq!((page.private(), page.ref_count()), (77, 1));
    assert_eq!((page.lru_prev(), page.lru_next()), (None, None));
}

#[test]
fn pages_of_other_users_are_refused() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 1);
    let pfn = pages(&zones, 1)[0];
    let page = zones.map().page(pfn);
    for flag in [
        PageFlags::SLAB,
        PageFlags::TABLE,
        PageFlags::VMALLOC,
        PageFlags::HEAD,
        PageFlags::TAIL,
        PageFlags::RESERVED,
    ] {
        page.set(flag);
        let refused = zones
            .node(NodeId::ZERO)
            .lruvec()
            .add(pfn, LruList::ActiveFile);
        assert_eq!(refused, Err(LruError::OtherUse(flag)));
        page.clear(flag);
    }
    page.set_ref_count(0);
    let refused = zones
        .node(NodeId::ZERO)
        .lruvec()
        .add(pfn, LruList::ActiveFile);
    assert_eq!(refused, Err(LruError::NotHeld));
    page.set_ref_count(1);
    assert_eq!(
        zones
            .node(NodeId::ZERO)
            .lruvec()
            .add(pfn, LruList::ActiveFile),
        Ok(())
    );
    zones.validate().unwrap();
}

#[test]
fn pages_of_no_zone_are_refused() {
    // More descriptors than zones have frames.
    let zones = bare::<Lock>(ZoneLayout::new::<Tiny>(frames(0, 500)), frames(0, 600), 1);
    let pfn = Pfn::new(550);
    zones.map().page(pfn).clear(PageFlags::RESERVED);
    zones.map().page(pfn).set_ref_count(1);
    for pfn in [pfn, Pfn::new(600), Pfn::new(usize::MAX)] {
        let refused = zones
            .node(NodeId::ZERO)
            .lruvec()
            .add(pfn, LruList::ActiveFile);
        assert_eq!(refused, Err(LruError::Foreign));
    }
    assert_eq!(zones.lru_pages(LruList::ActiveFile), 0);
    assert_eq!(zones.map().page(pfn).flags(), PageFlags::empty());
}

#[test]
fn spoiled_pages_are_refused_and_found() {
    let list = LruList::InactiveAnon;
    let mut seen = Vec::new();
    // Each spoils the middle one, the first or the last of three pages on a list; others are on another.
    let spoils: [fn(&kmm_frame::Page); 6] = [
        |page| page.set(PageFlags::ACTIVE),
        |page| page.clear(PageFlags::SWAPBACKED),
        |page| page.set(PageFlags::UNEVICTABLE),
        |page| page.set_lru_next(Some(Pfn::new(3))),
        |page| page.set_lru_prev(Some(Pfn::new(1 << 40))),
        |page| page.clear(PageFlags::LRU),
    ];
    for (nr, spoil) in spoils.into_iter().enumerate() {
        for at in 0..3 {
            let zones = small::<Lock>(16, PfnRange::EMPTY, 1);
            let pfns = pages(&zones, 6);
            for (nr, &pfn) in pfns.iter().enumerate() {
                let list = [list, LruList::ActiveAnon][nr % 2];
                zones
                    .node(NodeId::ZERO)
                    .lruvec()
                    .add_tail(pfn, list)
                    .unwrap();
            }
            zones.validate().unwrap();
            let victim = pfns[at * 2];
            let page = zones.map().page(victim);
            let (flags, prev, next) = (page.flags(), page.lru_prev(), page.lru_next());
            spoil(page);
            let expected = if nr == 5 {
                LruError::NotListed
            } else {
                LruError::Spoiled
            };
            let mut lruvec = zones.node(NodeId::ZERO).lruvec();
            assert_eq!(lruvec.del(victim), Err(expected));
            assert_eq!(lruvec.move_to_tail(victim), Err(expected));
            assert_eq!(lruvec.activate(victim), Err(expected));
            assert_eq!(lruvec.nr_pages(list), 3);
            drop(lruvec);
            let Err(ZonesBroken::Lru(broken)) = zones.validate() else {
                panic!("spoil {nr} of page {at} was not found");
            };
            seen.push(broken);
            // Nothing has changed: put right, it is as before.
            page.reset_flags(flags);
            page.set_lru_prev(prev);
            page.set_lru_next(next);
            zones.validate().unwrap();
            let left: Vec<_> = zones.node(NodeId::ZERO).lruvec().pages(list).collect();
            assert_eq!(left, [pfns[0], pfns[2], pfns[4]]);
        }
    }
    let has = |f: fn(&LruBroken) -> bool| seen.iter().any(f);
    assert!(has(|b| matches!(
        b,
        LruBroken::Flags(LruList::InactiveAnon, _)
    )));
    assert!(has(|b| matches!(
        b,
        LruBroken::Link(LruList::InactiveAnon, _)
    )));
}

#[test]
fn validate_finds_miscounts_and_pages_on_no_list() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 1);
    let pfns = pages(&zones, 2);
    zones
        .node(NodeId::ZERO)
        .lruvec()
        .add(pfns[0], LruList::ActiveFile)
        .unwrap();
    let normal = zones.zone(ZoneType::Normal);
    normal.mod_total(ZoneItem::ActiveFile, 1);
    let broken = LruBroken::ZoneCount(ZoneType::Normal, LruList::ActiveFile);
    assert_eq!(zones.validate(), Err(ZonesBroken::Lru(broken)));
    normal.mod_total(ZoneItem::ActiveFile, -1);
    zones.map().page(pfns[1]).set(PageFlags::LRU);
    let broken = LruBroken::Unlisted(pfns[1]);
    assert_eq!(zones.validate(), Err(ZonesBroken::Lru(broken)));
    assert_eq!(
        zones.node(NodeId::ZERO).lruvec().del(pfns[1]),
        Err(LruError::Spoiled)
    );
    zones.map().page(pfns[1]).clear(PageFlags::LRU);
    // Links that agree with each other, but not with where the list ends.
    zones
        .node(NodeId::ZERO)
        .lruvec()
        .add(pfns[1], LruList::ActiveFile)
        .unwrap();
    let third = pages(&zones, 1)[0];
    zones
        .node(NodeId::ZERO)
        .lruvec()
        .add(third, LruList::ActiveFile)
        .unwrap();
    let relink = |order: [Pfn; 3]| {
        for (nr, pfn) in order.into_iter().enumerate() {
            let page = zones.map().page(pfn);
            page.set_lru_prev(nr.checked_sub(1).map(|before| order[before]));
            page.set_lru_next(order.get(nr + 1).copied());
        }
    };
    relink([third, pfns[0], pfns[1]]);
    let found = zones.node(NodeId::ZERO).lruvec().validate();
    assert_eq!(found, Err(LruBroken::Count(LruList::ActiveFile)));
    relink([third, pfns[1], pfns[0]]);
    zones.validate().unwrap();
    zones.node(NodeId::ZERO).lruvec().del(pfns[1]).unwrap();
    zones.node(NodeId::ZERO).lruvec().del(third).unwrap();
    // A ring ends the walk.
    zones.map().page(pfns[0]).set_lru_next(Some(pfns[0]));
    let found = zones.node(NodeId::ZERO).lruvec().validate();
    assert_eq!(found, Err(LruBroken::Link(LruList::ActiveFile, pfns[0])));
}

#[test]
fn a_page_freed_while_listed_is_reported_and_the_list_stays() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 1);
    let pfns = pages(&zones, 3);
    for &pfn in &pfns {
        zones
            .node(NodeId::ZERO)
            .lruvec()
            .add(pfn, LruList::InactiveFile)
            .unwrap();
    }
    // SAFETY: the reference is the only one, and nobody uses the frame.
    unsafe { zones.put_page(pfns[1]) };
    let reasons: Vec<_> = take_bad().iter().map(|bad| bad.reason).collect();
    assert_eq!(reasons, [BadReason::Flags(PageFlags::LRU)]);
    zones.validate().unwrap();
    // Off the list, it can go.
    assert_eq!(
        zones.node(NodeId::ZERO).lruvec().del(pfns[1]),
        Ok(LruList::InactiveFile)
    );
    zones.map().page(pfns[1]).set_ref_count(1);
    // SAFETY: as above.
    unsafe { zones.put_page(pfns[1]) };
    assert_eq!(take_bad(), []);
    let left: Vec<_> = zones
        .node(NodeId::ZERO)
        .lruvec()
        .pages(LruList::InactiveFile)
        .collect();
    assert_eq!(left, [pfns[2], pfns[0]]);
}

#[test]
fn two_cpus_share_the_lists() {
    let zones = small::<Lock>(16, PfnRange::EMPTY, 2);
    let mine: Vec<Vec<Pfn>> = (0..2).map(|_| pages(&zones, 20)).collect();
    std::thread::scope(|scope| {
        for (cpu, pfns) in (0..).zip(&mine) {
            let zones = &zones;
            scope.spawn(move || {
                let mut random = Random::new("two_cpus_share_the_lists", 0x40 + cpu);
                let mut on = [None; 20];
                for _ in 0..30_000 {
                    let nr = random.below(20);
                    let list = LruList::ALL[random.below(5)];
                    let mut lruvec = zones.node(NodeId::ZERO).lruvec();
                    match on[nr] {
                        None => {
                            lruvec.add(pfns[nr], list).unwrap();
                            on[nr] = Some(list);
                        }
                        Some(from) if random.below(2) == 0 => {
                            assert_eq!(lruvec.del(pfns[nr]), Ok(from));
                            on[nr] = None;
                        }
                        Some(from) => {
                            assert_eq!(lruvec.move_to(pfns[nr], list), Ok(from));
                            on[nr] = Some(list);
                        }
                    }
                }
                for (nr, list) in on.into_iter().enumerate() {
                    if let Some(list) = list {
                        assert_eq!(zones.node(NodeId::ZERO).lruvec().del(pfns[nr]), Ok(list));
                    }
                }
            });
        }
    });
    zones.validate().unwrap();
    assert!(
        LruList::ALL
            .into_iter()
            .all(|list| zones.lru_pages(list) == 0)
    );
}

//! Who has a page, who freed it, and who must not.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use core::cell::Cell;
use std::collections::BTreeMap;

use common::{Lock, Log, forged, frames, machine, order, req, source};
use kmm_frame::{Gfp, Order, Pfn, PfnRange};
use kmm_host::{Backtrace, Misuse, Owners, PageSource};
use kmm_layers::{BadFree, OwnerSlot, OwnerTable, PageOwner};
use kmm_sim::seeded;

/// A caller that says where it is.
#[derive(Default)]
struct Caller(Cell<usize>);

impl Backtrace for Caller {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        let depth = (self.0.get() % 5).min(addresses.len());
        for (n, address) in addresses[..depth].iter_mut().enumerate() {
            *address = self.0.get() * 16 + n;
        }
        depth
    }

    fn tag(&self) -> u64 {
        self.0.get() as u64
    }
}

fn stack(call: usize) -> Vec<usize> {
    (0..(call % 5).min(3)).map(|n| call * 16 + n).collect()
}

fn table(range: PfnRange, caller: &Caller) -> OwnerTable<Lock, &Caller, 3> {
    let slots = Vec::leak(vec![OwnerSlot::EMPTY; range.nr_pages()]);
    OwnerTable::new(range, slots, caller)
}

#[test]
fn every_frame_of_a_block_tells_who_took_and_who_freed_it() {
    seeded(0x0e0e, |rng| {
        let machine = machine();
        let caller = Caller::default();
        let table = table(frames(machine), &caller);
        let log: Log<BadFree> = Log::new();
        let source = source(machine);
        let pages = PageOwner::new(&source, &table, |bad| log.push(bad));
        // By frame: the block that it is in or was in last, who took it, who freed it.
        let mut oracle: BTreeMap<Pfn, (Pfn, Order, usize, Option<usize>)> = BTreeMap::new();
        let mut live = Vec::new();
        for call in 1..4000 {
            caller.0.set(call);
            match rng.below(5) {
                0 | 1 => {
                    let Ok(block) = pages.alloc(req(rng.below(4) as u8, Gfp::KERNEL)) else {
                        continue;
                    };
                    for pfn in block.range().iter() {
                        oracle.insert(pfn, (block.pfn(), block.order(), call, None));
                    }
                    live.push(block);
                }
                2 | 3 if !live.is_empty() => {
                    let block = live.swap_remove(rng.index(live.len()));
                    for pfn in block.range().iter() {
                        oracle.insert(
                            pfn,
                            (block.pfn(), block.order(), oracle[&pfn].2, Some(call)),
                        );
                    }
                    pages.free(block);
                }
                4 => {
                    // A free that is wrong; unless by chance it is right, then nobody does it.
                    let pfn = frames(machine).start() + rng.index(400);
                    let n = rng.below(3) as u8;
                    let pfn = pfn.align_down(order(n));
                    match oracle.get(&pfn) {
                        Some((head, of, _, None)) if (*head, *of) == (pfn, order(n)) => continue,
                        Some((head, of, _, None)) => {
                            pages.free(forged(pfn, n));
                            let misuse = Misuse::WrongOrder {
                                head: *head,
                                order: *of,
                            };
                            assert_eq!(
                                log.take(),
                                [BadFree {
                                    pfn,
                                    order: order(n),
                                    misuse
                                }]
                            );
                        }
                        Some((.., Some(_))) => {
                            pages.free(forged(pfn, n));
                            let [bad] = log.take()[..] else {
                                panic!("nothing was said")
                            };
                            // Who took the head later wipes out what was known of the rest.
                            assert!(matches!(bad.misuse, Misuse::DoubleFree | Misuse::Foreign));
                        }
                        None => {
                            pages.free(forged(pfn, n));
                            let misuse = Misuse::Foreign;
                            assert_eq!(
                                log.take(),
                                [BadFree {
                                    pfn,
                                    order: order(n),
                                    misuse
                                }]
                            );
                        }
                    }
                }
                _ => {}
            }
            assert_eq!(log.take(), []);
            let pfn = frames(machine).start() + rng.index(400);
            match (oracle.get(&pfn), table.owner_of(pfn)) {
                (Some(&(head, order, by, None)), Some((found, record))) => {
                    assert_eq!((found, record.order, record.tag), (head, order, by as u64));
                    assert_eq!(record.alloc_stack.addresses(), stack(by));
                    assert!(record.is_allocated());
                }
                (None | Some((.., Some(_))), None) => {}
                (oracle, found) => panic!("{pfn}: {found:?} instead of {oracle:?}"),
            }
            // A head that nobody took since knows who freed it.
            if let Some(&(head, order, by, Some(freed_by))) = oracle.get(&pfn) {
                if head == pfn && order == Order::ZERO {
                    let (found, record) = table.last_owner_of(pfn).unwrap();
                    assert_eq!(
                        (found, record.tag, record.free_tag),
                        (head, by as u64, freed_by as u64)
                    );
                    assert_eq!(record.free_stack.addresses(), stack(freed_by));
                }
            }
        }
        let mut listed = Vec::new();
        table.for_each(|pfn, record| listed.push((pfn, record.order)));
        let mut heads: Vec<_> = live
            .iter()
            .map(|block| (block.pfn(), block.order()))
            .collect();
        heads.sort();
        assert_eq!(listed, heads);
        live.into_iter().for_each(|block| pages.free(block));
        source.assert_nothing_outstanding();
    });
}

#[test]
fn a_source_that_hands_out_twice_is_found_out() {
    let caller = Caller::default();
    let range = PfnRange::new(Pfn::new(0), Pfn::new(16));
    let table = table(range, &caller);
    assert_eq!(table.took(Pfn::new(4), order(2), Gfp::KERNEL), Ok(()));
    assert_eq!(
        table.took(Pfn::new(6), order(0), Gfp::KERNEL),
        Err(Misuse::HandedOutTwice)
    );
    assert_eq!(table.owner_of(Pfn::new(6)).unwrap().1.order, order(0));
    assert_eq!(
        table.took(Pfn::new(0), order(3), Gfp::KERNEL),
        Err(Misuse::HandedOutTwice)
    );
    assert_eq!(table.owner_of(Pfn::new(6)).unwrap().0, Pfn::new(0));
}

#[test]
fn a_split_block_has_its_owner_in_every_part() {
    let caller = Caller::default();
    let range = PfnRange::new(Pfn::new(0), Pfn::new(16));
    let table = table(range, &caller);
    caller.0.set(7);
    table.took(Pfn::new(8), order(3), Gfp::KERNEL).unwrap();
    table.split(Pfn::new(8), order(3), order(1));
    for n in 8..16 {
        let (head, record) = table.owner_of(Pfn::new(n)).unwrap();
        assert_eq!(
            (head.index(), record.order, record.tag),
            (n & !1, order(1), 7)
        );
    }
    assert_eq!(
        table.gave(Pfn::new(8), order(3)),
        Err(Misuse::WrongOrder {
            head: Pfn::new(8),
            order: order(1)
        })
    );
    for n in (8..16).step_by(2) {
        assert_eq!(table.gave(Pfn::new(n), order(1)), Ok(()));
    }
    assert_eq!(table.gave(Pfn::new(10), order(1)), Err(Misuse::DoubleFree));
}

#[test]
fn bulk_frees_drop_the_bad_and_free_the_rest() {
    let machine = machine();
    let caller = Caller::default();
    let table = table(frames(machine), &caller);
    let log = Log::new();
    let source = source(machine);
    let pages = PageOwner::new(&source, &table, |bad: BadFree| log.push(bad));
    let mut blocks = [const { None }; 4];
    assert_eq!(pages.alloc_bulk(Gfp::KERNEL, None, &mut blocks[..3]), 3);
    let pfn = frames(machine).end() - 1;
    blocks[3] = Some(forged(pfn, 0));
    blocks.swap(1, 3);
    pages.free_bulk(&mut blocks);
    assert!(blocks.iter().all(Option::is_none));
    assert_eq!(
        log.take(),
        [BadFree {
            pfn,
            order: Order::ZERO,
            misuse: Misuse::Foreign
        }]
    );
    source.assert_nothing_outstanding();
}

#[test]
fn texts_are_those_of_page_owner() {
    let caller = Caller::default();
    let range = PfnRange::new(Pfn::new(0x400), Pfn::new(0x410));
    let table = table(range, &caller);
    let describe = |pfn| {
        let mut text = String::new();
        table.describe(Pfn::new(pfn), &mut text).unwrap();
        text
    };
    caller.0.set(2);
    table
        .took(Pfn::new(0x402), order(1), Gfp::KERNEL | Gfp::ZERO)
        .unwrap();
    let mut list = String::new();
    table
        .write_list(&mut list, |pfn, out| {
            core::fmt::Write::write_fmt(out, format_args!(" Flags of {pfn}"))
        })
        .unwrap();
    assert_eq!(
        list,
        "Page allocated via order 1, mask 0xdc0(GFP_KERNEL|__GFP_ZERO), pid 2, ts 1, free_ts 0\n\
         PFN 1026 type Unmovable Block 2 Flags of 0x402\n \
         0x0000000000000020\n \
         0x0000000000000021\n\n"
    );
    assert_eq!(
        describe(0x403),
        "page_owner tracks the page as allocated\n\
         page last allocated via order 1, migratetype Unmovable, gfp_mask 0xdc0(GFP_KERNEL|__GFP_ZERO), pid 2, ts 1, free_ts 0\n \
         0x0000000000000020\n \
         0x0000000000000021\n\
         page_owner free stack trace missing\n"
    );
    caller.0.set(6);
    table.gave(Pfn::new(0x402), order(1)).unwrap();
    assert!(describe(0x402).ends_with(
        "ts 1, free_ts 2\n 0x0000000000000020\n 0x0000000000000021\npage last free pid 6 stack trace:\n 0x0000000000000060\n"
    ));
    assert_eq!(
        describe(0x404),
        "page_owner info is not present (never set?)\n"
    );
    let bad = BadFree {
        pfn: Pfn::new(0x404),
        order: order(0),
        misuse: Misuse::DoubleFree,
    };
    assert_eq!(bad.to_string(), "bad page: pfn 0x404 order 0: double free");
}

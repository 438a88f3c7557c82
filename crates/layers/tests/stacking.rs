//! Layers in any order: whatever stands on top, the source keeps its promises and everything comes back.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use common::{Lock, Pool, bits, fill, frames, machine, read, req};
use kmm_frame::{Gfp, Pfn};
use kmm_host::PageSource;
use kmm_layers::{
    FailAttr, FailNth, FailRandom, OwnerSlot, OwnerTable, PageOwner, Poisoner, Quarantine, Tracer,
};
use kmm_sim::{Machine, Rng, seeded};

type Pages = &'static dyn PageSource;

/// One more layer; and what makes it let go of what it holds.
fn layer(rng: &mut Rng, machine: &'static Machine, inner: Pages) -> (Pages, Option<Box<dyn Fn()>>) {
    let range = frames(machine);
    match rng.below(6) {
        0 => {
            let pages = FailNth::new(inner);
            pages.fail_at(rng.below(100));
            (Box::leak(Box::new(pages)), None)
        }
        1 => {
            let attr = FailAttr {
                interval: 2,
                ..FailAttr::per_mille(100)
            };
            let pages = FailRandom::with_attr(inner, rng.next_u64(), attr);
            (Box::leak(Box::new(pages)), None)
        }
        2 => (Box::leak(Box::new(Tracer::new(inner, |_| ()))), None),
        3 => {
            let pages = Poisoner::new(inner, *machine.phys(), range, bits(range), |corruption| {
                panic!("{corruption}");
            });
            (Box::leak(Box::new(pages)), None)
        }
        4 => {
            let ring = Vec::leak((0..rng.below(30)).map(|_| None).collect());
            let pages = Quarantine::<_, Lock>::new(inner, ring, rng.index(60));
            let pages = Box::leak(Box::new(pages));
            (
                pages,
                Some(Box::new(|| {
                    pages.drain();
                })),
            )
        }
        _ => {
            let slots = Vec::leak(vec![OwnerSlot::<2>::EMPTY; range.nr_pages()]);
            let table = OwnerTable::<Lock, (), 2>::new(range, slots, ());
            let pages = PageOwner::new(inner, table, |bad| panic!("{bad}"));
            (Box::leak(Box::new(pages)), None)
        }
    }
}

#[test]
fn any_stack_of_layers_is_a_source() {
    seeded(0x57ac, |rng| {
        for _ in 0..60 {
            let machine = machine();
            let base: &'static Pool = Box::leak(Box::new(Pool::new(machine)));
            let mut pages: Pages = base;
            let mut drains = Vec::new();
            for _ in 0..rng.below(6) {
                let (next, drain) = layer(rng, machine, pages);
                pages = next;
                drains.extend(drain);
            }
            run(rng, machine, &pages);
            // From the top down: what an upper one lets go, a lower one may keep.
            drains.iter().rev().for_each(|drain| drain());
            base.assert_nothing_outstanding();
        }
    });
}

/// Random use, compared with a set of frames that are taken.
fn run(rng: &mut Rng, machine: &Machine, pages: &Pages) {
    let mut taken: BTreeSet<Pfn> = BTreeSet::new();
    let mut live = Vec::new();
    for step in 0..150 {
        if rng.below(5) < 3 {
            let gfp = *rng.pick(&[Gfp::KERNEL, Gfp::KERNEL | Gfp::ZERO]);
            let mut out = [const { None }; 3];
            if rng.one_in(4) {
                pages.alloc_bulk(gfp, None, &mut out);
            } else {
                let wanted = rng.below(4) as u8;
                out[0] = pages.alloc(req(wanted, gfp)).ok();
                let aligned = out[0]
                    .as_ref()
                    .is_none_or(|b| b.pfn().is_aligned(b.order()) && b.order().get() == wanted);
                assert!(aligned);
            }
            for mut block in out.into_iter().flatten() {
                for pfn in block.range().iter() {
                    assert!(taken.insert(pfn), "{pfn} was handed out twice");
                    if gfp.contains(Gfp::ZERO) {
                        assert!(read(machine, pfn).iter().all(|byte| *byte == 0));
                    }
                }
                fill(machine, &mut block, step as u8);
                live.push((block, step as u8));
            }
        } else if !live.is_empty() {
            let count = rng.index(live.len().min(4)) + 1;
            let mut blocks: Vec<_> = (0..count)
                .map(|_| {
                    let (block, byte) = live.swap_remove(rng.index(live.len()));
                    for pfn in block.range().iter() {
                        assert!(taken.remove(&pfn));
                        assert!(
                            read(machine, pfn).iter().all(|b| *b == byte),
                            "{pfn} was written to"
                        );
                    }
                    Some(block)
                })
                .collect();
            pages.free_bulk(&mut blocks);
            assert!(blocks.iter().all(Option::is_none));
        }
    }
    live.into_iter().for_each(|(block, _)| pages.free(block));
}

//! Blocks wait their turn.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::VecDeque;

use common::{Lock, Log, machine, order, req, source};
use kmm_frame::{Gfp, Order, Pfn};
use kmm_host::PageSource;
use kmm_layers::{PageEvent, Quarantine, Tracer};
use kmm_sim::seeded;

#[test]
fn blocks_leave_in_the_order_in_which_they_came() {
    seeded(0xf1f0, |rng| {
        for _ in 0..40 {
            let machine = machine();
            let (slots, most) = (rng.index(6), rng.index(20));
            let log = Log::new();
            let source = source(machine);
            let below = Tracer::new(&source, |event| log.push(event));
            let ring = Vec::leak((0..slots).map(|_| None).collect());
            let pages = Quarantine::<_, Lock>::new(below, ring, most);
            let mut waiting: VecDeque<(Pfn, Order)> = VecDeque::new();
            let mut live = Vec::new();
            let waits = |queue: &VecDeque<(Pfn, Order)>| -> usize {
                queue.iter().map(|(_, order)| order.nr_pages()).sum()
            };
            for _ in 0..200 {
                if rng.one_in(2) {
                    let wanted = rng.below(4) as u8;
                    let result = pages.alloc(req(wanted, Gfp::KERNEL));
                    let events = log.take();
                    let refused = events.first()
                        == Some(&PageEvent::Alloc {
                            pfn: None,
                            order: order(wanted),
                            gfp: Gfp::KERNEL,
                        });
                    let freed: Vec<_> = freed(&events);
                    if refused {
                        // All of them have to leave, in order, before it is said to fail.
                        assert_eq!(freed, waiting.drain(..).collect::<Vec<_>>());
                        let tries = events.len() - freed.len();
                        assert_eq!(tries, if freed.is_empty() { 1 } else { 2 });
                    } else {
                        assert!(freed.is_empty());
                    }
                    live.extend(result);
                } else if !live.is_empty() {
                    let block = live.swap_remove(rng.index(live.len()));
                    let entry = (block.pfn(), block.order());
                    pages.free(block);
                    let mut expected = Vec::new();
                    if slots == 0 || entry.1.nr_pages() > most {
                        expected.push(entry);
                    } else {
                        waiting.push_back(entry);
                        while waiting.len() > slots || waits(&waiting) > most {
                            expected.extend(waiting.pop_front());
                        }
                    }
                    assert_eq!(freed(&log.take()), expected);
                }
                assert_eq!(pages.nr_pages(), waits(&waiting));
            }
            live.into_iter().for_each(|block| pages.free(block));
            pages.drain();
            assert_eq!(pages.nr_pages(), 0);
            source.assert_nothing_outstanding();
        }
    });
}

fn freed(events: &[PageEvent]) -> Vec<(Pfn, Order)> {
    let freed = |event: &PageEvent| match *event {
        PageEvent::Free { pfn, order } => Some((pfn, order)),
        _ => None,
    };
    events.iter().filter_map(freed).collect()
}

#[test]
fn a_source_that_has_nothing_left_gets_what_waits() {
    let source = source(machine());
    let ring = Vec::leak((0..1024).map(|_| None).collect());
    let pages = Quarantine::<_, Lock>::new(&source, ring, 1024);
    let all: Vec<_> = core::iter::from_fn(|| pages.alloc(req(0, Gfp::KERNEL)).ok()).collect();
    let count = all.len();
    all.into_iter().for_each(|block| pages.free(block));
    assert_eq!((pages.nr_pages(), source.nr_free()), (count, 0));
    let block = pages.alloc(req(3, Gfp::KERNEL)).unwrap();
    assert_eq!(pages.nr_pages(), 0);
    pages.free(block);
}

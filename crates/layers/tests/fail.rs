//! Failure strikes when it was told to, and at no other time.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{free_all, machine, order, req, source};
use kmm_frame::{Gfp, Order};
use kmm_host::{AllocError, PageReq, PageSource};
use kmm_layers::{FailAttr, FailNth, FailRandom};
use kmm_sim::seeded;

#[test]
fn the_nth_request_fails_and_only_that() {
    for nth in 0..20 {
        let pages = FailNth::new(source(machine()));
        pages.fail_at(nth);
        let results: Vec<_> = (0..20)
            .map(|_| pages.alloc(PageReq::page(Gfp::KERNEL)))
            .collect();
        for (n, result) in (0..).zip(&results) {
            assert_eq!(result.is_err(), n == nth, "request {n}");
        }
        assert_eq!(pages.nr_failed(), 1);
        free_all(&pages, results.into_iter().flatten());
        pages.inner().assert_nothing_outstanding();
    }
}

#[test]
fn bulk_requests_fail_page_by_page_and_disarming_ends_it() {
    let pages = FailNth::new(source(machine()));
    pages.fail_at(3);
    let mut out = [const { None }; 8];
    assert_eq!(pages.alloc_bulk(Gfp::KERNEL, None, &mut out), 3);
    assert_eq!(out.iter().flatten().count(), 3);
    pages.fail_at(0);
    pages.disarm();
    assert_eq!(pages.alloc_bulk(Gfp::KERNEL, None, &mut out[3..]), 5);
    pages.free_bulk(&mut out);
    pages.inner().assert_nothing_outstanding();
    assert_eq!(pages.nr_failed(), 1);
}

/// Linux's `should_fail`, written down again for requests that always lose the draw.
struct Oracle {
    attr: FailAttr,
    count: u64,
    times: Option<u64>,
    space: u64,
}

impl Oracle {
    fn fails(&mut self, order: Order, gfp: Gfp) -> bool {
        let spared = order < self.attr.min_order
            || gfp.contains(Gfp::NOFAIL)
            || gfp.intersects(self.attr.ignored);
        if spared || self.times == Some(0) {
            return false;
        }
        let size = 1u64 << order.get();
        if self.space > size {
            self.space -= size;
            return false;
        }
        if self.attr.interval > 1 {
            self.count += 1;
            if self.count % self.attr.interval != 0 {
                return false;
            }
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

#[test]
fn the_knobs_are_those_of_linux() {
    seeded(0xfa11, |rng| {
        for _ in 0..300 {
            let attr = FailAttr {
                interval: rng.below(4),
                times: rng.one_in(2).then(|| rng.below(5)),
                space_pages: rng.below(20),
                min_order: *rng.pick(&[order(0), order(0), order(1), order(2)]),
                ignored: *rng.pick(&[Gfp::empty(), Gfp::DIRECT_RECLAIM, Gfp::HIGHMEM]),
                ..FailAttr::per_mille(1000)
            };
            let mut oracle = Oracle {
                attr,
                count: 0,
                times: attr.times,
                space: attr.space_pages,
            };
            let pages = FailRandom::with_attr(source(machine()), rng.next_u64(), attr);
            let mut failed = 0;
            for _ in 0..30 {
                let order = *rng.pick(&[order(0), order(1), order(2)]);
                let gfp = *rng.pick(&[
                    Gfp::KERNEL,
                    Gfp::ATOMIC,
                    Gfp::HIGHUSER,
                    Gfp::KERNEL | Gfp::NOFAIL,
                ]);
                let result = pages.alloc(PageReq::new(order, gfp));
                let fails = oracle.fails(order, gfp);
                assert_eq!(result.is_err(), fails, "{attr:?} {order:?} {gfp}");
                failed += u64::from(fails);
                free_all(&pages, result);
            }
            assert_eq!(pages.nr_failed(), failed);
            pages.inner().assert_nothing_outstanding();
        }
    });
}

#[test]
fn so_many_of_a_thousand_fail_and_the_seed_says_which() {
    let draw = |seed, per_mille| -> Vec<bool> {
        let pages = FailRandom::new(source(machine()), seed, per_mille);
        let fails = |_| {
            let result = pages.alloc(req(0, Gfp::KERNEL));
            let failed = result == Err(AllocError::OutOfMemory);
            free_all(&pages, result);
            failed
        };
        (0..2000).map(fails).collect()
    };
    let count = |fails: &[bool]| fails.iter().filter(|failed| **failed).count();
    assert_eq!(draw(1, 300), draw(1, 300));
    assert_ne!(draw(1, 300), draw(2, 300));
    assert!((540..=660).contains(&count(&draw(1, 300))));
    assert_eq!(count(&draw(1, 0)), 0);
    assert_eq!(count(&draw(1, 1000)), 2000);

    let pages = FailRandom::new(source(machine()), 1, 0);
    pages.set_per_mille(1000);
    assert!(pages.alloc(req(0, Gfp::KERNEL)).is_err());
}

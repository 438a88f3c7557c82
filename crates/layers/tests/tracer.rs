//! Traces say what happened, in Linux's words. `linux-6.1/trace` was read from that kernel's tracing/trace.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::collections::VecDeque;

use common::{Lock, Log, machine, order, req, source};
use kmm_frame::{Gfp, Order, Pfn};
use kmm_host::PageSource;
use kmm_layers::{FailNth, PageEvent, TraceRing, Tracer};
use kmm_sim::seeded;

const TRACE: &str = include_str!("linux-6.1/trace");

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
    rest.split(' ').next().unwrap()
}

fn parse(line: &str) -> PageEvent {
    let pfn = usize::from_str_radix(&field(line, "pfn")[2..], 16).unwrap();
    let pfn = Pfn::new(pfn);
    let order = order(field(line, "order").parse().unwrap());
    if line.starts_with("mm_page_free:") {
        return PageEvent::Free { pfn, order };
    }
    let gfp = match field(line, "gfp_flags") {
        "GFP_KERNEL_ACCOUNT|__GFP_ZERO" => Gfp::KERNEL_ACCOUNT | Gfp::ZERO,
        "GFP_HIGHUSER_MOVABLE|__GFP_COMP" => Gfp::HIGHUSER_MOVABLE | Gfp::COMP,
        "GFP_NOWAIT|__GFP_NOWARN" => Gfp::NOWAIT | Gfp::NOWARN,
        other => panic!("flags {other} in the golden trace"),
    };
    PageEvent::Alloc {
        pfn: Some(pfn),
        order,
        gfp,
    }
}

#[test]
fn events_print_as_in_a_trace_of_linux() {
    // Linux hashes the address of the descriptor.
    let without_address = |line: &str| line.replace(field(line, "page"), "");
    let mut count = 0;
    for line in TRACE.lines() {
        let ours = parse(line).to_string();
        assert_eq!(without_address(&ours), without_address(line));
        assert_eq!(field(&ours, "page").len(), 16);
        count += 1;
    }
    assert!(count >= 20);
    let pfn = None;
    let event = PageEvent::Alloc {
        pfn,
        order: Order::ZERO,
        gfp: Gfp::empty(),
    };
    assert_eq!(
        event.to_string(),
        "mm_page_alloc: page=0000000000000000 pfn=0x0 order=0 migratetype=0 gfp_flags=none"
    );
    let pfn = Pfn::new(0x123);
    let event = PageEvent::FreeBatched {
        pfn,
        order: Order::ZERO,
    };
    assert_eq!(
        event.to_string(),
        "mm_page_free_batched: page=ffffea00000048c0 pfn=0x123 order=0"
    );
}

#[test]
fn every_block_that_comes_and_goes_is_told() {
    let log = Log::new();
    let failing = FailNth::new(source(machine()));
    let pages = Tracer::new(&failing, |event| log.push(event));
    let block = pages.alloc(req(2, Gfp::KERNEL)).unwrap();
    let (pfn, order) = (block.pfn(), block.order());
    pages.free(block);
    failing.fail_at(0);
    assert!(pages.alloc(req(1, Gfp::ATOMIC)).is_err());
    let gfp = Gfp::KERNEL;
    assert_eq!(
        log.take(),
        [
            PageEvent::Alloc {
                pfn: Some(pfn),
                order,
                gfp
            },
            PageEvent::Free { pfn, order },
            PageEvent::Alloc {
                pfn: None,
                order: Order::new(1).unwrap(),
                gfp: Gfp::ATOMIC
            },
        ]
    );
    let mut out = [const { None }; 3];
    assert_eq!(pages.alloc_bulk(Gfp::KERNEL, None, &mut out), 3);
    let pfns: Vec<_> = out.iter().flatten().map(|block| block.pfn()).collect();
    pages.free_bulk(&mut out);
    let order = Order::ZERO;
    let taken = pfns.iter().map(|&pfn| PageEvent::Alloc {
        pfn: Some(pfn),
        order,
        gfp,
    });
    let given = pfns
        .iter()
        .map(|&pfn| PageEvent::FreeBatched { pfn, order });
    assert_eq!(log.take(), taken.chain(given).collect::<Vec<_>>());
    failing.inner().assert_nothing_outstanding();
}

#[test]
fn the_ring_holds_the_last_events_in_order() {
    seeded(0x4146, |rng| {
        for capacity in 0..6 {
            let ring = TraceRing::<Lock>::new(Vec::leak(vec![None; capacity]));
            let mut oracle = VecDeque::new();
            for n in 0..rng.below(20) {
                let event = PageEvent::Free {
                    pfn: Pfn::new(rng.index(100)),
                    order: Order::ZERO,
                };
                ring.push(event);
                oracle.push_back(event);
                if oracle.len() > capacity {
                    oracle.pop_front();
                }
                let mut held = VecDeque::new();
                ring.for_each(|event| held.push_back(event));
                assert_eq!((held, ring.nr_events()), (oracle.clone(), n + 1));
            }
        }
    });
}

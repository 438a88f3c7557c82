//! Counts of two CPUs that add, pass on and are read meanwhile, in every order that loom finds (INV-7).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-zone --test loom_counters`.
#![cfg(loom)]
#![allow(unsafe_code, missing_docs, reason = "a test that pins CPUs")]

use kmm_frame::{NodeItem, VmEvent};
use kmm_host::{CpuId, CpuPin};
use kmm_zone::{CpuCounts, NodeCounters};
use loom::sync::Arc;
use loom::thread;

fn pin(cpu: u32) -> CpuPin<'static> {
    // SAFETY: each CPU is played by one thread.
    unsafe { CpuPin::new(CpuId::new(cpu)) }
}

fn node(threshold: usize) -> Arc<NodeCounters> {
    let shares = Vec::leak((0..2).map(|_| CpuCounts::new()).collect());
    let node = NodeCounters::new(shares);
    node.set_threshold(threshold);
    Arc::new(node)
}

const ITEM: NodeItem = NodeItem::AnonPages;

#[test]
fn nothing_is_lost_between_counting_and_passing_on() {
    loom::model(|| {
        let node = node(2);
        let other = Arc::clone(&node);
        let cpu1 = thread::spawn(move || {
            other.add(pin(1), ITEM, 1);
            other.add(pin(1), ITEM, 3);
            other.fold(pin(1));
            other.count_event(pin(1), VmEvent::Pgfault, 1);
        });
        node.add(pin(0), ITEM, 3);
        node.add(pin(0), ITEM, -1);
        node.fold(pin(0));
        node.count_event(pin(0), VmEvent::Pgfault, 1);
        cpu1.join().unwrap();
        assert_eq!((node.snapshot(ITEM), node.total(ITEM)), (6, 6));
        assert_eq!(node.events()[VmEvent::Pgfault], 2);
    });
}

#[test]
fn who_reads_meanwhile_is_off_by_what_moves_now() {
    loom::model(|| {
        let node = node(2);
        let other = Arc::clone(&node);
        let cpu1 = thread::spawn(move || {
            other.add(pin(1), ITEM, 2);
            other.add(pin(1), ITEM, 2);
            other.fold(pin(1));
        });
        // Never more than all, counted twice where a difference has just gone to the total.
        assert!(node.snapshot(ITEM) <= 4 + 2);
        // The total lags by the threshold at most, and never leads.
        assert!(node.total(ITEM) <= 4);
        cpu1.join().unwrap();
        assert_eq!((node.snapshot(ITEM), node.total(ITEM)), (4, 4));
    });
}

#[test]
fn a_dead_cpu_passes_on_by_others() {
    loom::model(|| {
        let node = node(5);
        let other = Arc::clone(&node);
        let cpu1 = thread::spawn(move || other.add(pin(1), ITEM, 5));
        node.add(pin(0), ITEM, 1);
        cpu1.join().unwrap();
        assert!(node.fold_dead(CpuId::new(1)));
        assert_eq!((node.snapshot(ITEM), node.total(ITEM)), (6, 5));
    });
}

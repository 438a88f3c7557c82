//! Two CPUs at once.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test; the last drain wants a promise"
)]

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};

use common::{Random, TestZones, run_on, small, take_bad};
use kmm_frame::{Gfp, PfnRange};
use kmm_host::{PageBlock, PageReq, PageSource};

type Zones = TestZones<spin::Mutex<()>>;

#[test]
fn two_cpus_never_hold_the_same_frame() {
    let zones: Zones = small(32, PfnRange::EMPTY, 2);
    let taken: Vec<AtomicBool> = (0..1024).map(|_| AtomicBool::new(false)).collect();
    // Blocks that one thread allocates and the other frees.
    let handed_over: Mutex<Vec<PageBlock>> = Mutex::new(Vec::new());
    let start = Barrier::new(2);
    let release = |block: PageBlock| {
        for pfn in block.range().iter() {
            assert!(taken[pfn.index()].swap(false, Ordering::AcqRel));
        }
        zones.free(block);
    };
    let work = |cpu: u32| {
        run_on(cpu);
        let mut random = Random::new("two_cpus_never_hold_the_same_frame", u64::from(cpu) + 1);
        let mut held = Vec::new();
        start.wait();
        for _ in 0..300_000 {
            let gfp = [Gfp::KERNEL, Gfp::ATOMIC, Gfp::NOWAIT | Gfp::DMA32][random.below(3)];
            match random.below(8) {
                0..4 => {
                    let req = PageReq::new(random.order(4), gfp);
                    if let Ok(block) = zones.alloc(req) {
                        for pfn in block.range().iter() {
                            let twice = taken[pfn.index()].swap(true, Ordering::AcqRel);
                            assert!(!twice, "frame {pfn} is held twice");
                        }
                        held.push(block);
                    }
                }
                4..6 if !held.is_empty() => release(held.swap_remove(random.below(held.len()))),
                6 => handed_over.lock().unwrap().extend(held.pop()),
                7 => {
                    let block = handed_over.lock().unwrap().pop();
                    block.into_iter().for_each(release);
                }
                _ => {}
            }
            // Statistics may be read at any time.
            if random.below(1000) == 0 {
                let seen = zones.accounting();
                assert_eq!(seen.present, 1024);
            }
        }
        held.into_iter().for_each(release);
        assert_eq!(take_bad(), []);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(0));
        scope.spawn(|| work(1));
    });
    let left = core::mem::take(&mut *handed_over.lock().unwrap());
    left.into_iter().for_each(release);
    zones.validate().unwrap();
    // SAFETY: the other threads are gone.
    unsafe { zones.drain_all() };
    zones.validate().unwrap();
    assert!(zones.accounting().adds_up());
    assert_eq!(zones.nr_free_pages(), 1024);
}

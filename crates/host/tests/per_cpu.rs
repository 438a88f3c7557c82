//! Per-CPU slots: reached by their own CPU, by one caller at a time.
#![allow(unsafe_code, missing_docs, reason = "tests mint their own pins")]

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use kmm_host::{CpuId, CpuPin, InUse, PerCpu, Slot};

fn slots(nr_cpus: u32) -> PerCpu<Vec<u32>> {
    let slots: Vec<Slot<Vec<u32>>> = (0..nr_cpus).map(|cpu| Slot::new(vec![cpu])).collect();
    PerCpu::new(slots.leak())
}

/// The pin of a CPU that this thread plays.
fn pin(cpu: u32) -> CpuPin<'static> {
    // SAFETY: each test has its own slots and runs in one thread, which is all the CPUs there are.
    unsafe { CpuPin::new(CpuId::new(cpu)) }
}

#[test]
fn each_cpu_reaches_its_own_slot() {
    let per_cpu = slots(3);
    assert_eq!((per_cpu.len(), per_cpu.is_empty()), (3, false));
    for cpu in 0..3 {
        per_cpu.with(pin(cpu), |slot| slot.push(cpu + 10)).unwrap();
    }
    for cpu in 0..3 {
        let value = per_cpu.with(pin(cpu), |slot| slot.clone());
        assert_eq!(value, Ok(vec![cpu, cpu + 10]));
    }
}

#[test]
fn an_interrupt_finds_the_mark_and_the_value_untouched() {
    let per_cpu = slots(2);
    let inner = per_cpu.with(pin(0), |slot| {
        slot.push(7);
        // As if an interrupt came here, on this CPU.
        let interrupt = per_cpu.with(pin(0), |slot| slot.push(666));
        // Another CPU is not concerned.
        assert_eq!(per_cpu.with(pin(1), |slot| slot.len()), Ok(1));
        slot.push(8);
        interrupt
    });
    assert_eq!(inner, Ok(Err(InUse)));
    assert_eq!(
        per_cpu.with(pin(0), |slot| slot.clone()),
        Ok(vec![0, 7, 8]),
        "the mark is gone, the interrupt wrote nothing"
    );
    assert_eq!(InUse.to_string(), "per-CPU slot is in use");
}

#[test]
fn a_panic_takes_the_mark_away() {
    let per_cpu = slots(1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = per_cpu.with(pin(0), |_| panic!("in the fast path"));
    }));
    assert!(panicked.is_err());
    assert_eq!(per_cpu.with(pin(0), |slot| slot.len()), Ok(1));
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_cpu_without_a_slot_is_refused() {
    let _ = slots(2).with(pin(2), |slot| slot.len());
}

#[test]
fn slots_share_no_cache_line() {
    assert_eq!(align_of::<Slot<u8>>(), 128);
    assert_eq!(size_of::<Slot<u8>>() % 128, 0);
}

#[test]
fn a_quiescent_visit_sees_every_slot_once() {
    let per_cpu = slots(4);
    let mut seen = Vec::new();
    // SAFETY: nobody else uses the slots.
    unsafe { per_cpu.for_each_quiescent(|cpu, slot| seen.push((cpu.index(), slot[0]))) };
    assert_eq!(seen, [(0, 0), (1, 1), (2, 2), (3, 3)]);
}

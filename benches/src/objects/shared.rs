//! Two CPUs that use one heap.
#![expect(unsafe_code, reason = "gives back what it took")]

use core::ptr::with_exposed_provenance_mut;
use std::sync::{Mutex, PoisonError};

use super::single::Live;
use super::{Heap, layout_of, touch};
use crate::rng::{REPLACEMENTS_SEED, Sizes};
use crate::rounds::{Plan, Reading, Workload};
use crate::threads::{Apart, calibrate, race, relay};

/// Each CPU has 10 000 live objects and replaces them. First uniform sizes, then log-uniform ones.
pub(super) struct Threads<H> {
    heap: H,
    ageing: usize,
    piece_ns: f64,
}

impl<H: Heap> Threads<H> {
    /// Replacements in a row.
    const BATCH: usize = 16;

    pub(super) fn new(heap: H, plan: &Plan, slow: bool) -> Self {
        Self {
            heap,
            ageing: if slow { 2000 } else { 50_000 },
            piece_ns: plan.piece_ns,
        }
    }

    fn measure(&self, figure: &'static str, sizes: Sizes) -> Reading {
        let heap = &self.heap;
        let sets: [Apart<Mutex<Option<Live>>>; 2] = [const { Apart(Mutex::new(None)) }; 2];
        let work = |cpu: usize, n: usize| {
            let Apart(set) = &sets[cpu];
            let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
            let live = set.get_or_insert_with(|| {
                let mut live = Live::fill(heap, sizes, REPLACEMENTS_SEED + cpu as u64);
                live.replace(heap, self.ageing);
                live
            });
            live.replace(heap, n * Self::BATCH);
            2 * n * Self::BATCH
        };
        let n = calibrate(self.piece_ns, work);
        let pace = race(2, n, work);
        for Apart(set) in sets {
            let live = set.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(live) = live {
                live.empty(heap);
            }
        }
        Reading {
            figure,
            value: pace.mops,
            clean: pace.clean,
        }
    }
}

impl<H: Heap> Workload for Threads<H> {
    fn turn(&mut self) -> Vec<Reading> {
        vec![
            self.measure("d", Sizes::Uniform),
            self.measure("d2", Sizes::LogUniform),
        ]
    }
}

/// One CPU allocates objects, the other frees them.
pub(super) struct Remote<H> {
    heap: H,
    objects: usize,
}

impl<H: Heap> Remote<H> {
    const SIZE: usize = 128;
    const BATCH: usize = 64;

    pub(super) fn new(heap: H, slow: bool) -> Self {
        let batches = if slow { 60 } else { 1500 };
        Self {
            heap,
            objects: batches * Self::BATCH,
        }
    }
}

impl<H: Heap> Workload for Remote<H> {
    fn turn(&mut self) -> Vec<Reading> {
        let heap = &self.heap;
        let pace = relay(
            self.objects,
            |nr| {
                let ptr = heap.alloc(layout_of(Self::SIZE));
                touch(ptr, nr);
                ptr.expose_provenance()
            },
            |address| {
                let ptr = with_exposed_provenance_mut(address);
                // SAFETY: allocated by the other side, handed over once.
                unsafe { heap.free(ptr, layout_of(Self::SIZE)) };
            },
        );
        vec![Reading {
            figure: "remote",
            value: pace.mops,
            clean: pace.clean,
        }]
    }
}

//! Two CPUs that use one allocator.

use super::Frames;
use crate::rounds::{Plan, Reading, Workload};
use crate::threads::{calibrate, race, relay};

/// Frames of a batch.
const BATCH: usize = 64;

/// Each CPU takes 64 frames out and gives them back, by itself and both at once.
pub(super) struct Threads<A> {
    allocator: A,
    batches: usize,
}

impl<A: Frames> Threads<A> {
    pub(super) fn new(allocator: A, plan: &Plan) -> Self {
        let batches = calibrate(plan.piece_ns, |_, n| run_batches(&allocator, n));
        Self { allocator, batches }
    }
}

/// `n` batches; how many operations that were.
fn run_batches<A: Frames>(allocator: &A, n: usize) -> usize {
    let mut frames = [0u32; BATCH];
    for _ in 0..n {
        for slot in &mut frames {
            *slot = allocator.alloc(0).expect("a free frame") as u32;
        }
        for &frame in &frames {
            allocator.free(frame as usize, 0);
        }
    }
    2 * n * BATCH
}

impl<A: Frames> Workload for Threads<A> {
    fn turn(&mut self) -> Vec<Reading> {
        let work = |_: usize, n: usize| run_batches(&self.allocator, n);
        let one = race(1, self.batches, work);
        let two = race(2, self.batches, work);
        vec![
            Reading {
                figure: "mt",
                value: two.mops,
                clean: two.clean,
            },
            Reading {
                figure: "mt-scaling",
                value: two.mops / one.mops,
                clean: one.clean && two.clean,
            },
        ]
    }
}

/// One CPU takes frames out, the other gives them back.
pub(super) struct Remote<A> {
    allocator: A,
}

impl<A: Frames> Remote<A> {
    const FRAMES: usize = 1500 * BATCH;

    pub(super) fn new(allocator: A) -> Self {
        Self { allocator }
    }
}

impl<A: Frames> Workload for Remote<A> {
    fn turn(&mut self) -> Vec<Reading> {
        let allocator = &self.allocator;
        let pace = relay(
            Self::FRAMES,
            |_| allocator.alloc(0).expect("a free frame"),
            |frame| allocator.free(frame, 0),
        );
        vec![Reading {
            figure: "remote",
            value: pace.mops,
            clean: pace.clean,
        }]
    }
}

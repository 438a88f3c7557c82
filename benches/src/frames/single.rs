//! One CPU: pairs, bulk, huge pages, mixed orders.

use core::hint::black_box;

use super::{Frames, fill};
use crate::clock::timed;
use crate::rng::{FRAMES_SEED, Rng};
use crate::rounds::{Plan, Reading, Workload, calibrate};

/// One frame out and in, again and again.
pub(super) struct Pair<A> {
    allocator: A,
    figure: &'static str,
    steps: usize,
}

impl<A: Frames> Pair<A> {
    pub(super) fn new(allocator: A, figure: &'static str, plan: &Plan) -> Self {
        const MOST: usize = 1 << 22;
        // One frame stays out, so that its block does not merge and split with each pair.
        allocator.alloc(0).expect("a free frame");
        let steps = calibrate(plan.piece_ns, MOST, |n| pairs(&allocator, n));
        Self {
            allocator,
            figure,
            steps,
        }
    }
}

fn pairs<A: Frames>(allocator: &A, n: usize) {
    for _ in 0..n {
        let frame = black_box(allocator.alloc(0).expect("a free frame"));
        allocator.free(frame, 0);
    }
}

impl<A: Frames> Workload for Pair<A> {
    fn turn(&mut self) -> Vec<Reading> {
        pairs(&self.allocator, self.steps / 16);
        let took = timed(|| pairs(&self.allocator, self.steps));
        vec![Reading {
            figure: self.figure,
            value: took.cpu_ns / self.steps as f64,
            clean: took.clean,
        }]
    }
}

/// Takes out all frames of an allocator that was just made.
pub(super) struct BulkFresh<A> {
    make: fn() -> A,
    frames: Vec<u32>,
}

impl<A: Frames> BulkFresh<A> {
    pub(super) fn new(make: fn() -> A) -> Self {
        Self {
            make,
            frames: vec![0; super::NR_FRAMES],
        }
    }
}

impl<A: Frames> Workload for BulkFresh<A> {
    fn turn(&mut self) -> Vec<Reading> {
        let allocator = (self.make)();
        let frames = &mut self.frames;
        frames.clear();
        let took = timed(|| fill(&allocator, frames, allocator.nr_frames()));
        vec![Reading {
            figure: "b0",
            value: took.cpu_ns / frames.len().max(1) as f64,
            clean: took.clean,
        }]
    }
}

/// Takes out all frames, and gives them back in random order.
pub(super) struct Bulk<A> {
    allocator: A,
    frames: Vec<u32>,
    rng: Rng,
}

impl<A: Frames> Bulk<A> {
    pub(super) fn new(allocator: A) -> Self {
        Self {
            allocator,
            frames: vec![0; super::NR_FRAMES],
            rng: Rng::new(FRAMES_SEED),
        }
    }

    fn cycle(&mut self) -> Vec<Reading> {
        let (allocator, frames) = (&self.allocator, &mut self.frames);
        frames.clear();
        let out = timed(|| fill(allocator, frames, allocator.nr_frames()));
        self.rng.shuffle(frames);
        let back = timed(|| {
            for &frame in frames.iter() {
                allocator.free(frame as usize, 0);
            }
        });
        let count = frames.len().max(1) as f64;
        vec![
            Reading {
                figure: "b1",
                value: out.cpu_ns / count,
                clean: out.clean,
            },
            Reading {
                figure: "b2",
                value: back.cpu_ns / count,
                clean: back.clean,
            },
        ]
    }
}

impl<A: Frames> Workload for Bulk<A> {
    /// The first cycle brings the descriptors back that the others pushed out of the caches.
    fn turn(&mut self) -> Vec<Reading> {
        self.cycle();
        self.cycle()
    }
}

/// 500 huge pages out, and in at random.
pub(super) struct Huge<A> {
    allocator: A,
    blocks: Vec<usize>,
    rng: Rng,
}

impl<A: Frames> Huge<A> {
    const ORDER: usize = 9;
    const BLOCKS: usize = 500;
    const CYCLES: usize = 40;

    pub(super) fn new(allocator: A) -> Self {
        Self {
            allocator,
            blocks: Vec::with_capacity(Self::BLOCKS),
            rng: Rng::new(FRAMES_SEED),
        }
    }
}

impl<A: Frames> Workload for Huge<A> {
    fn turn(&mut self) -> Vec<Reading> {
        let (mut out_ns, mut back_ns, mut count, mut clean) = (0.0, 0.0, 0, true);
        for cycle in 0..=Self::CYCLES {
            let (allocator, blocks) = (&self.allocator, &mut self.blocks);
            blocks.clear();
            let out = timed(|| {
                while blocks.len() < Self::BLOCKS {
                    match allocator.alloc(Self::ORDER) {
                        Some(block) => blocks.push(block),
                        None => break,
                    }
                }
            });
            self.rng.shuffle(blocks);
            let back = timed(|| {
                for &block in blocks.iter() {
                    allocator.free(block, Self::ORDER);
                }
            });
            if cycle > 0 {
                out_ns += out.cpu_ns;
                back_ns += back.cpu_ns;
                count += blocks.len();
                clean &= out.clean && back.clean;
            }
        }
        let reading = |figure, ns: f64| Reading {
            figure,
            value: ns / count.max(1) as f64,
            clean,
        };
        vec![reading("c-alloc", out_ns), reading("c-free", back_ns)]
    }
}

/// Blocks of all orders at 70 % load: a random one goes, another comes.
pub(super) struct Mixed<A> {
    allocator: A,
    live: Live,
    steps: usize,
}

struct Live {
    blocks: Vec<(u32, u8)>,
    used: usize,
    target: usize,
    rng: Rng,
}

impl Live {
    /// How far above the target the load may go before only single frames come.
    const MARGIN: usize = 8192;

    fn fill<A: Frames>(allocator: &A) -> Self {
        const MOST_FAILURES: usize = 1000;
        let mut live = Self {
            blocks: Vec::with_capacity(super::NR_FRAMES),
            used: 0,
            target: allocator.nr_frames() * 7 / 10,
            rng: Rng::new(FRAMES_SEED),
        };
        let mut failures = 0;
        while live.used < live.target && failures <= MOST_FAILURES {
            let order = live.rng.order();
            match allocator.alloc(order) {
                Some(frame) => {
                    live.blocks.push((frame as u32, order as u8));
                    live.used += 1 << order;
                }
                None => failures += 1,
            }
        }
        live
    }

    fn replace<A: Frames>(&mut self, allocator: &A, n: usize) {
        for _ in 0..n {
            let at = self.rng.below(self.blocks.len());
            let (frame, order) = self.blocks[at];
            allocator.free(frame as usize, order as usize);
            self.used -= 1 << order;
            let mut order = self.rng.order();
            if self.used + (1 << order) > self.target + Self::MARGIN {
                order = 0;
            }
            let block = allocator.alloc(order).map(|frame| (frame, order));
            match block.or_else(|| allocator.alloc(0).map(|frame| (frame, 0))) {
                Some((frame, order)) => {
                    self.used += 1 << order;
                    self.blocks[at] = (frame as u32, order as u8);
                }
                None => {
                    self.blocks.swap_remove(at);
                }
            }
        }
    }
}

impl<A: Frames> Mixed<A> {
    const AGEING: usize = 300_000;

    pub(super) fn new(allocator: A, plan: &Plan) -> Self {
        const MOST: usize = 1 << 20;
        let mut live = Live::fill(&allocator);
        live.replace(&allocator, Self::AGEING);
        let steps = calibrate(plan.piece_ns, MOST, |n| live.replace(&allocator, n));
        Self {
            allocator,
            live,
            steps,
        }
    }
}

impl<A: Frames> Workload for Mixed<A> {
    fn turn(&mut self) -> Vec<Reading> {
        self.live.replace(&self.allocator, self.steps / 4);
        let took = timed(|| self.live.replace(&self.allocator, self.steps));
        let operations = 2 * self.steps;
        vec![Reading {
            figure: "d",
            value: took.cpu_ns / operations as f64,
            clean: took.clean,
        }]
    }
}

//! After long use: the slowest of many allocations, and the huge pages that are left.

use super::{Frames, fill};
use crate::clock::wall_ns;
use crate::rng::{FRAMES_SEED, Rng};
use crate::rounds::{Reading, Workload};

/// Takes all frames out and gives half of them back, in random order. What stays out.
pub(super) fn half_free<A: Frames>(allocator: &A) -> Vec<u32> {
    let mut frames = Vec::with_capacity(super::NR_FRAMES);
    fill(allocator, &mut frames, allocator.nr_frames());
    Rng::new(FRAMES_SEED).shuffle(&mut frames);
    for frame in frames.drain(..allocator.nr_frames() / 2) {
        allocator.free(frame as usize, 0);
    }
    frames
}

/// Every single allocation is timed while the load goes from 50 to 85 %.
pub(super) struct Latency<A> {
    allocator: A,
    out: Vec<u32>,
    rng: Rng,
}

impl<A: Frames> Latency<A> {
    pub(super) fn new(allocator: A) -> Self {
        Self {
            out: half_free(&allocator),
            allocator,
            rng: Rng::new(FRAMES_SEED),
        }
    }
}

impl<A: Frames> Workload for Latency<A> {
    fn turn(&mut self) -> Vec<Reading> {
        const PER_MILLE: usize = 999;
        let nr_frames = self.allocator.nr_frames();
        let goal = nr_frames * 85 / 100;
        let mut took_ns = Vec::with_capacity(nr_frames);
        while self.out.len() < goal {
            let start = wall_ns();
            let frame = self.allocator.alloc(0);
            took_ns.push(wall_ns() - start);
            match frame {
                Some(frame) => self.out.push(frame as u32),
                None => break,
            }
        }
        self.rng.shuffle(&mut self.out);
        for frame in self.out.drain(nr_frames / 2..) {
            self.allocator.free(frame as usize, 0);
        }
        took_ns.sort_unstable();
        let nth = (took_ns.len() * PER_MILLE / 1000).min(took_ns.len() - 1);
        vec![Reading {
            figure: "p99.9",
            value: took_ns[nth] as f64,
            // A preemption is one reading in a thousand or less; the median over the rounds leaves it out.
            clean: true,
        }]
    }
}

/// A life of loads and bursts; at its stations, the huge pages that could be had, of those that ideally could.
pub(super) struct Fragmentation<A> {
    make: fn() -> A,
}

impl<A: Frames> Fragmentation<A> {
    pub(super) fn new(make: fn() -> A) -> Self {
        Self { make }
    }
}

const HUGE: usize = 9;
const FRAMES_PER_HUGE: usize = 1 << HUGE;

impl<A: Frames> Workload for Fragmentation<A> {
    fn turn(&mut self) -> Vec<Reading> {
        let allocator = (self.make)();
        let mut rng = Rng::new(FRAMES_SEED);
        let after_mixed_fill = mixed_fill_half_freed(&allocator, &mut rng);
        let mut life = Life {
            nr_frames: allocator.nr_frames(),
            allocator: &allocator,
            rng,
            out: Vec::with_capacity(super::NR_FRAMES),
            failures: 0,
        };
        let mut readings = vec![reading("f1", after_mixed_fill)];
        life.fill_to_percent(50);
        life.replace(2_000_000);
        life.take_all_huge();
        life.bursts(2000);
        readings.push(reading("f3", life.recovered_percent()));
        for _ in 0..10 {
            life.fill_to_percent(90);
            life.free_to_percent(50);
            life.replace(200_000);
        }
        readings.push(reading("f4", life.recovered_percent()));
        life.free_to_percent(25);
        life.take_all_huge();
        life.replace(4_000_000);
        readings.push(reading("f6", life.recovered_percent()));
        life.bursts(4000);
        readings.push(reading("f7", life.recovered_percent()));
        readings.push(reading("spurious", life.failures as f64));
        readings
    }
}

fn reading(figure: &'static str, value: f64) -> Reading {
    Reading {
        figure,
        value,
        clean: true,
    }
}

/// Half of the frames as blocks of all orders, of which a random half goes back; all of them do in the end.
fn mixed_fill_half_freed<A: Frames>(allocator: &A, rng: &mut Rng) -> f64 {
    let nr_frames = allocator.nr_frames();
    let (mut live, mut used) = (Vec::new(), 0);
    while used < nr_frames / 2 {
        let order = rng.order();
        if let Some(frame) = allocator.alloc(order) {
            live.push((frame, order));
            used += 1 << order;
        }
    }
    rng.shuffle(&mut live);
    for (frame, order) in live.drain(..live.len() / 2) {
        allocator.free(frame, order);
        used -= 1 << order;
    }
    let percent = percent_of_ideal(allocator, nr_frames - used);
    for (frame, order) in live {
        allocator.free(frame, order);
    }
    percent
}

/// How many huge pages can be taken out, of those that `nr_free` frames could be.
pub(super) fn percent_of_ideal<A: Frames>(allocator: &A, nr_free: usize) -> f64 {
    let huge: Vec<usize> = core::iter::from_fn(|| allocator.alloc_to_the_last(HUGE)).collect();
    let count = huge.len();
    for frame in huge {
        allocator.free(frame, HUGE);
    }
    let ideal = (nr_free / FRAMES_PER_HUGE).max(count);
    100.0 * count as f64 / ideal as f64
}

struct Life<'a, A> {
    allocator: &'a A,
    nr_frames: usize,
    rng: Rng,
    out: Vec<u32>,
    /// Allocations that failed though at least a tenth was free.
    failures: usize,
}

impl<A: Frames> Life<'_, A> {
    const BURST: usize = 1024;

    fn take(&mut self) -> bool {
        let frame = self.allocator.alloc(0);
        match frame {
            Some(frame) => self.out.push(frame as u32),
            None => self.failures += 1,
        }
        frame.is_some()
    }

    fn free_one(&mut self) {
        let frame = self.rng.take(&mut self.out);
        self.allocator.free(frame as usize, 0);
    }

    fn fill_to_percent(&mut self, percent: usize) {
        while self.out.len() < self.nr_frames * percent / 100 && self.take() {}
    }

    fn free_to_percent(&mut self, percent: usize) {
        while self.out.len() > self.nr_frames * percent / 100 {
            self.free_one();
        }
    }

    fn replace(&mut self, n: usize) {
        for _ in 0..n {
            self.free_one();
            self.take();
        }
    }

    fn bursts(&mut self, n: usize) {
        for _ in 0..n {
            for _ in 0..Self::BURST {
                self.free_one();
            }
            for _ in 0..Self::BURST {
                self.take();
            }
        }
    }

    /// An event of this life too: it changes the order of free lists.
    fn take_all_huge(&self) {
        self.recovered_percent();
    }

    fn recovered_percent(&self) -> f64 {
        percent_of_ideal(self.allocator, self.nr_frames - self.out.len())
    }
}

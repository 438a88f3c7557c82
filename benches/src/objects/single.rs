//! One CPU: pairs, bulk, steady replacement.
#![expect(unsafe_code, reason = "gives back what it took")]

use core::hint::black_box;

use super::{Heap, LIVE, layout_of, touch};
use crate::clock::timed;
use crate::rng::{OBJECTS_SEED, REPLACEMENTS_SEED, Rng, Sizes};
use crate::rounds::{Plan, Reading, Workload, calibrate};

/// The size of the hot pair and of the bulk.
const SIZE: usize = 64;

/// One object out, written, and in.
pub(super) struct Pair<H> {
    heap: H,
    steps: usize,
}

impl<H: Heap> Pair<H> {
    pub(super) fn new(heap: H, plan: &Plan) -> Self {
        const MOST: usize = 1 << 22;
        // One object stays out, so that its slab does not come and go with each pair.
        touch(heap.alloc(layout_of(SIZE)), 0);
        let steps = calibrate(plan.piece_ns, MOST, |n| pairs(&heap, n));
        Self { heap, steps }
    }
}

fn pairs<H: Heap>(heap: &H, n: usize) {
    for _ in 0..n {
        let ptr = heap.alloc(layout_of(SIZE));
        touch(ptr, 1);
        // SAFETY: allocated just now.
        unsafe { heap.free(black_box(ptr), layout_of(SIZE)) };
    }
}

impl<H: Heap> Workload for Pair<H> {
    fn turn(&mut self) -> Vec<Reading> {
        pairs(&self.heap, self.steps / 16);
        let took = timed(|| pairs(&self.heap, self.steps));
        vec![Reading {
            figure: "a",
            value: took.cpu_ns / self.steps as f64,
            clean: took.clean,
        }]
    }
}

/// 10 000 objects out, and in at random.
pub(super) struct Bulk<H> {
    heap: H,
    objects: Vec<*mut u8>,
    cycles: usize,
    rng: Rng,
}

impl<H: Heap> Bulk<H> {
    pub(super) fn new(heap: H, slow: bool) -> Self {
        Self {
            heap,
            objects: vec![core::ptr::null_mut(); LIVE],
            cycles: if slow { 1 } else { 20 },
            rng: Rng::new(OBJECTS_SEED),
        }
    }
}

impl<H: Heap> Workload for Bulk<H> {
    fn turn(&mut self) -> Vec<Reading> {
        let (mut out_ns, mut back_ns, mut clean) = (0.0, 0.0, true);
        for cycle in 0..=self.cycles {
            let heap = &self.heap;
            let out = timed(|| {
                for ptr in &mut self.objects {
                    *ptr = heap.alloc(layout_of(SIZE));
                    touch(*ptr, 1);
                }
            });
            self.rng.shuffle(&mut self.objects);
            let back = timed(|| {
                for &ptr in &self.objects {
                    // SAFETY: allocated in this cycle, freed once.
                    unsafe { heap.free(ptr, layout_of(SIZE)) };
                }
            });
            if cycle > 0 {
                out_ns += out.cpu_ns;
                back_ns += back.cpu_ns;
                clean &= out.clean && back.clean;
            }
        }
        let reading = |figure, ns: f64| Reading {
            figure,
            value: ns / (self.cycles * LIVE) as f64,
            clean,
        };
        vec![reading("b-alloc", out_ns), reading("b-free", back_ns)]
    }
}

/// Live objects of random sizes.
pub(super) struct Live {
    objects: Vec<(*mut u8, u32)>,
    sizes: Sizes,
    rng: Rng,
}

// SAFETY: the objects belong to a heap that any thread may use, and to this set alone.
unsafe impl Send for Live {}

impl Live {
    /// Allocates 10 000 objects.
    pub(super) fn fill<H: Heap>(heap: &H, sizes: Sizes, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let objects = (0..LIVE)
            .map(|_| {
                let size = sizes.draw(&mut rng);
                let ptr = heap.alloc(layout_of(size));
                touch(ptr, size);
                (ptr, size as u32)
            })
            .collect();
        Self {
            objects,
            sizes,
            rng,
        }
    }

    /// Frees a random object and allocates another, `n` times.
    #[inline]
    pub(super) fn replace<H: Heap>(&mut self, heap: &H, n: usize) {
        for _ in 0..n {
            let at = self.rng.below(self.objects.len());
            let (ptr, size) = self.objects[at];
            // SAFETY: live until now, and replaced below.
            unsafe { heap.free(ptr, layout_of(size as usize)) };
            let size = self.sizes.draw(&mut self.rng);
            let ptr = heap.alloc(layout_of(size));
            touch(ptr, size);
            self.objects[at] = (ptr, size as u32);
        }
    }

    /// Frees all.
    pub(super) fn empty<H: Heap>(self, heap: &H) {
        for (ptr, size) in self.objects {
            // SAFETY: live until now; the set ends.
            unsafe { heap.free(ptr, layout_of(size as usize)) };
        }
    }
}

/// 10 000 live objects: a random one goes, another comes. First uniform sizes, then log-uniform ones.
pub(super) struct Steady<H> {
    heap: H,
    ageing: usize,
    piece_ns: f64,
}

impl<H: Heap> Steady<H> {
    pub(super) fn new(heap: H, plan: &Plan, slow: bool) -> Self {
        Self {
            heap,
            ageing: if slow { 5000 } else { 200_000 },
            piece_ns: plan.piece_ns,
        }
    }

    fn measure(&self, figure: &'static str, sizes: Sizes) -> Reading {
        const MOST: usize = 1 << 20;
        let mut live = Live::fill(&self.heap, sizes, REPLACEMENTS_SEED);
        live.replace(&self.heap, self.ageing);
        let steps = calibrate(self.piece_ns, MOST, |n| live.replace(&self.heap, n));
        let took = timed(|| live.replace(&self.heap, steps));
        live.empty(&self.heap);
        Reading {
            figure,
            value: took.cpu_ns / (2 * steps) as f64,
            clean: took.clean,
        }
    }
}

impl<H: Heap> Workload for Steady<H> {
    fn turn(&mut self) -> Vec<Reading> {
        vec![
            self.measure("c", Sizes::Uniform),
            self.measure("c2", Sizes::LogUniform),
        ]
    }
}

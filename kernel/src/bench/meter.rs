//! Reads the time-stamp counter around many repetitions, and takes off what reading and repeating cost themselves.
#![expect(unsafe_code, reason = "hides values from the compiler")]

use core::arch::asm;

use alloc::vec::Vec;

use crate::arch::cpu;

/// Each sample repeats an operation so often, if it is a short one.
pub(super) const MANY: usize = 1000;
/// Samples per figure. The least may be luck; the median shows whether it is the rule.
const NR_SAMPLES: usize = 9;
/// Runs whose numbers nobody sees: caches of pages and objects, page tables and translations are then as they stay.
const NR_WARM_UPS: usize = 3;
/// Numbers are kept in hundredths.
const HUNDREDTHS: u64 = 100;

/// What the compiler may know nothing about, for no instruction at all: `value` comes back in a register, and memory may
/// have changed in between.
#[inline(always)]
pub(super) fn opaque(mut value: usize) -> usize {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Runs `work` so many times; whatever it leaves in memory counts as used.
#[inline(always)]
pub(super) fn repeat(n: usize, mut work: impl FnMut()) {
    for _ in 0..n {
        work();
        opaque(0);
    }
}

/// What measuring costs.
#[derive(Debug)]
pub(super) struct Meter {
    /// Two readings of the counter with nothing in between.
    clock: u64,
    /// `MANY` empty repetitions.
    empty_loop: u64,
    /// `MANY` repetitions that store a number into an array.
    empty_fill: u64,
    /// `MANY` repetitions that read an array.
    empty_drain: u64,
}

/// What was found, in hundredths of a tick per operation.
#[derive(Clone, Copy, Debug)]
struct Reading {
    least: u64,
    median: u64,
}

impl Meter {
    /// Measures measuring.
    pub(super) fn calibrate() -> Self {
        let clock = least(&samples(|| ticks(|| {})));
        let mut array = [0; MANY];
        let of = |samples: &[u64]| least(samples).saturating_sub(clock);
        Self {
            clock,
            empty_loop: of(&samples(|| ticks(|| repeat(MANY, || {})))),
            empty_fill: of(&samples(|| ticks(|| fill(&mut array, || opaque(0))))),
            empty_drain: of(&samples(|| {
                ticks(|| {
                    drain(&array, |value| {
                        opaque(value);
                    });
                })
            })),
        }
    }

    /// Says what was taken off.
    pub(super) fn print(&self) {
        let each = |sum: u64| Hundredths(sum * HUNDREDTHS / MANY as u64);
        println!(
            "bench: taken off: clock {}, loop {} each, array written {} each, array read {} each",
            self.clock,
            each(self.empty_loop),
            each(self.empty_fill),
            each(self.empty_drain)
        );
    }

    /// An operation that leaves everything as it was: `MANY` of them in a row.
    #[inline(always)]
    pub(super) fn each(&self, id: impl core::fmt::Display, mut work: impl FnMut()) {
        let all = samples(|| self.net(self.empty_loop, || repeat(MANY, &mut work)));
        print(id, reading(&all, MANY));
    }

    /// As [`Self::each`], with something at hand: it is in registers, as it is for a caller who uses it more than once.
    #[inline(always)]
    pub(super) fn each_with<S: Copy>(
        &self,
        id: impl core::fmt::Display,
        state: S,
        work: impl Fn(S) + Copy,
    ) {
        let all = samples(|| {
            let (state, work) = (state, work);
            self.net(self.empty_loop, || repeat(MANY, || work(state)))
        });
        print(id, reading(&all, MANY));
    }

    /// A long operation: `n` of them in a row.
    #[inline(always)]
    pub(super) fn few(&self, id: impl core::fmt::Display, n: usize, mut work: impl FnMut()) {
        let overhead = self.empty_loop * n as u64 / MANY as u64;
        let all = samples(|| self.net(overhead, || repeat(n, &mut work)));
        print(id, reading(&all, n));
    }

    /// `MANY` things made, kept in an array, and undone in the same order: both halves by themselves.
    #[inline(always)]
    pub(super) fn halves(
        &self,
        [made, undone]: [&str; 2],
        mut make: impl FnMut() -> usize,
        mut undo: impl FnMut(usize),
    ) {
        let mut kept = [0; MANY];
        let mut halves = [Vec::new(), Vec::new()];
        for nr in 0..NR_WARM_UPS + NR_SAMPLES {
            let out = self.net(self.empty_fill, || fill(&mut kept, &mut make));
            let back = self.net(self.empty_drain, || drain(&kept, &mut undo));
            if nr >= NR_WARM_UPS {
                halves[0].push(out);
                halves[1].push(back);
            }
        }
        print(made, reading(&halves[0], MANY));
        print(undone, reading(&halves[1], MANY));
    }

    /// Two calls, each for `n` things at once: both by themselves.
    #[inline(always)]
    pub(super) fn calls<S>(
        &self,
        [made, undone]: [&str; 2],
        n: usize,
        state: &mut S,
        mut make: impl FnMut(&mut S),
        mut undo: impl FnMut(&mut S),
    ) {
        let mut halves = [Vec::new(), Vec::new()];
        for nr in 0..NR_WARM_UPS + NR_SAMPLES {
            let out = self.net(0, || make(state));
            let back = self.net(0, || undo(state));
            if nr >= NR_WARM_UPS {
                halves[0].push(out);
                halves[1].push(back);
            }
        }
        print(made, reading(&halves[0], n));
        print(undone, reading(&halves[1], n));
    }

    #[inline(always)]
    fn net(&self, overhead: u64, work: impl FnOnce()) -> u64 {
        ticks(work).saturating_sub(self.clock + overhead)
    }
}

/// The loop around an operation that makes something.
#[inline(always)]
fn fill(kept: &mut [usize; MANY], mut make: impl FnMut() -> usize) {
    for slot in kept {
        *slot = make();
        opaque(0);
    }
}

/// The loop around an operation that undoes it.
#[inline(always)]
fn drain(kept: &[usize; MANY], mut undo: impl FnMut(usize)) {
    for &value in kept {
        undo(value);
        opaque(0);
    }
}

#[inline(always)]
fn ticks(work: impl FnOnce()) -> u64 {
    let start = cpu::rdtsc();
    work();
    cpu::rdtsc() - start
}

fn samples(mut sample: impl FnMut() -> u64) -> Vec<u64> {
    (0..NR_WARM_UPS).for_each(|_| {
        sample();
    });
    (0..NR_SAMPLES).map(|_| sample()).collect()
}

fn least(samples: &[u64]) -> u64 {
    samples.iter().copied().min().unwrap_or(0)
}

fn reading(samples: &[u64], n: usize) -> Reading {
    let mut sorted: Vec<u64> = samples.to_vec();
    sorted.sort_unstable();
    let each = |sum: u64| sum * HUNDREDTHS / n as u64;
    Reading {
        least: each(least(&sorted)),
        median: each(sorted.get(sorted.len() / 2).copied().unwrap_or(0)),
    }
}

/// The line that `cargo xtask bench --guest` reads: id, least, median.
fn print(id: impl core::fmt::Display, reading: Reading) {
    println!(
        "bench: {id} {} {}",
        Hundredths(reading.least),
        Hundredths(reading.median)
    );
}

/// Printed with two digits after the point.
struct Hundredths(u64);

impl core::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{:02}", self.0 / HUNDREDTHS, self.0 % HUNDREDTHS)
    }
}

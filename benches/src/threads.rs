//! Two threads, each on a CPU of its own.
#![expect(unsafe_code, reason = "threads stand for CPUs")]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::clock::{timed, wall_ns};
use crate::cpu;

/// What one thread writes all the time, on lines that no other's data is on. Without it the state of one thread's random
/// numbers shared a line with the other's, and two allocators that share nothing slowed each other down.
#[derive(Debug)]
#[repr(align(128))]
pub struct Apart<T>(pub T);

/// What threads got done together.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Millions of operations per second, summed over the threads.
    pub mops: f64,
    /// How long the slowest took.
    pub longest_ns: f64,
    /// Whether every thread had its CPU all the while.
    pub clean: bool,
}

/// Runs `work(cpu, n)` on as many CPUs as said (one or two), all starting at once and warm. It returns its operations.
///
/// # Panics
/// When a thread does.
pub fn race(nr_threads: usize, n: usize, work: impl Fn(usize, usize) -> usize + Sync) -> Pace {
    let ready = AtomicUsize::new(0);
    let run = |cpu: usize| {
        // SAFETY: the threads of a race have different numbers, and whoever started it waits for them.
        unsafe { cpu::stand_for(cpu) };
        work(cpu, n / 8 + 1);
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < nr_threads {
            core::hint::spin_loop();
        }
        (wall_ns(), timed(|| work(cpu, n)))
    };
    let run = &run;
    let cpus = cpu::NR_CPUS - nr_threads..cpu::NR_CPUS;
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = cpus.map(|cpu| scope.spawn(move || run(cpu))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect()
    });
    let times = done.iter().map(|(_, timed)| timed);
    let longest_ns = times.clone().map(|timed| timed.cpu_ns).fold(0.0, f64::max);
    Pace {
        mops: times
            .clone()
            .map(|timed| timed.result as f64 * 1e3 / timed.cpu_ns.max(1.0))
            .sum(),
        longest_ns,
        clean: times.clone().all(|timed| timed.clean) && started_together(&done, longest_ns),
    }
}

/// Whether the threads ran side by side. One that another process delayed at the start would have the other's caches
/// and locks for itself.
fn started_together<R>(done: &[(u64, R)], longest_ns: f64) -> bool {
    const MOST_ALONE: f64 = 0.1;
    let starts = done.iter().map(|(start, _)| *start);
    let first = starts.clone().min().unwrap_or(0);
    let last = starts.max().unwrap_or(0);
    ((last - first) as f64) < longest_ns * MOST_ALONE
}

/// How many of `work` make a race on one CPU about `piece_ns` long.
pub fn calibrate(piece_ns: f64, work: impl Fn(usize, usize) -> usize + Sync) -> usize {
    const MOST: usize = 1 << 22;
    let mut n = 8;
    while n < MOST && race(1, n, &work).longest_ns < piece_ns / 2.0 {
        n *= 2;
    }
    n
}

const RING: usize = 8192;
const BATCH: usize = 64;

/// One CPU makes `total` items and hands them to the other in batches of 64, which ends them; millions per second.
///
/// # Panics
/// When a thread does.
pub fn relay(
    total: usize,
    make: impl Fn(usize) -> usize + Sync,
    end: impl Fn(usize) + Sync,
) -> Pace {
    let ring: Vec<AtomicUsize> = (0..RING).map(|_| AtomicUsize::new(0)).collect();
    let (made, ended) = (Apart(AtomicUsize::new(0)), Apart(AtomicUsize::new(0)));
    let (Apart(made), Apart(ended)) = (&made, &ended);
    let (started_at, ended_at) = (AtomicU64::new(0), AtomicU64::new(0));
    let total = total.next_multiple_of(BATCH);
    let maker = || {
        // SAFETY: the two threads have different numbers, and whoever started them waits.
        unsafe { cpu::stand_for(0) };
        started_at.store(wall_ns(), Ordering::SeqCst);
        timed(|| {
            for batch in (0..total).step_by(BATCH) {
                while batch + BATCH - ended.load(Ordering::Acquire) > RING {
                    core::hint::spin_loop();
                }
                for nr in batch..batch + BATCH {
                    ring[nr % RING].store(make(nr), Ordering::Relaxed);
                }
                made.store(batch + BATCH, Ordering::Release);
            }
        })
        .clean
    };
    let ender = || {
        // SAFETY: as above.
        unsafe { cpu::stand_for(1) };
        let done = timed(|| {
            for batch in (0..total).step_by(BATCH) {
                while made.load(Ordering::Acquire) < batch + BATCH {
                    core::hint::spin_loop();
                }
                for nr in batch..batch + BATCH {
                    end(ring[nr % RING].load(Ordering::Relaxed));
                }
                ended.store(batch + BATCH, Ordering::Release);
            }
        });
        ended_at.store(wall_ns(), Ordering::SeqCst);
        done.clean
    };
    let clean = std::thread::scope(|scope| {
        let (maker, ender) = (scope.spawn(maker), scope.spawn(ender));
        let made = maker.join().expect("no thread panics");
        ender.join().expect("no thread panics") && made
    });
    let took = ended_at
        .into_inner()
        .saturating_sub(started_at.into_inner());
    Pace {
        mops: total as f64 * 1e3 / took.max(1) as f64,
        longest_ns: took as f64,
        clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_hands_over_every_item_once() {
        let sum = AtomicUsize::new(0);
        let total = 3 * RING;
        relay(
            total,
            |nr| nr + 1,
            |item| {
                sum.fetch_add(item, Ordering::SeqCst);
            },
        );
        assert_eq!(sum.into_inner(), total * (total + 1) / 2);
    }

    #[test]
    fn a_race_of_two_runs_on_both_cpus() {
        let seen = [AtomicUsize::new(0), AtomicUsize::new(0)];
        race(2, 80, |cpu, n| {
            assert_eq!(cpu, cpu::current());
            seen[cpu].fetch_add(n, Ordering::SeqCst)
        });
        assert_eq!(seen.map(AtomicUsize::into_inner), [91, 91]);
    }
}

//! Time as the thread spent it, so that a preemption by another process is not billed to an allocator.
#![expect(unsafe_code, reason = "asks the system for the time of a thread")]

use std::sync::OnceLock;

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Timed<R> {
    /// CPU time of this thread, without the cost of asking for it.
    pub cpu_ns: f64,
    /// Whether the thread had its CPU nearly all the while; else the caches were somebody else's in between.
    pub clean: bool,
    /// What the work returned.
    pub result: R,
}

/// A share of this is what a thread may be off its CPU and the reading still counts as clean.
const MOST_LOST: f64 = 0.1;
/// Asking for the times costs this much, whatever the work.
const SLACK_NS: u64 = 6000;

/// Runs `work` and says how long it took.
pub fn timed<R>(work: impl FnOnce() -> R) -> Timed<R> {
    let raw = raw_timed(work);
    Timed {
        cpu_ns: (raw.cpu_ns - overhead_ns()).max(0.0),
        ..raw
    }
}

/// Nanoseconds since some moment.
#[must_use]
pub fn wall_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

fn raw_timed<R>(work: impl FnOnce() -> R) -> Timed<R> {
    let cpu_start = read(libc::CLOCK_THREAD_CPUTIME_ID);
    let wall_start = read(libc::CLOCK_MONOTONIC);
    let result = work();
    let wall = read(libc::CLOCK_MONOTONIC) - wall_start;
    let cpu = read(libc::CLOCK_THREAD_CPUTIME_ID) - cpu_start;
    let allowed = cpu as f64 * (1.0 + MOST_LOST) + SLACK_NS as f64;
    Timed {
        cpu_ns: cpu as f64,
        clean: (wall as f64) < allowed,
        result,
    }
}

/// What timing nothing takes: the median of many.
fn overhead_ns() -> f64 {
    static OVERHEAD: OnceLock<f64> = OnceLock::new();
    *OVERHEAD.get_or_init(|| {
        let mut empty: Vec<f64> = (0..501).map(|_| raw_timed(|| ()).cpu_ns).collect();
        empty.sort_by(f64::total_cmp);
        empty[empty.len() / 2]
    })
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writes.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(failed, 0, "the system has no clock {clock}");
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

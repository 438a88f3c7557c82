//! No more reports than somebody can read.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// So many reports in so much time. Linux: `struct ratelimit_state`, lib/ratelimit.c.
#[derive(Debug)]
pub struct RateLimit {
    interval_ns: u64,
    burst: u64,
    /// When the interval began, plus one; 0 for never.
    begin: AtomicU64,
    printed: AtomicU64,
    missed: AtomicU64,
}

impl RateLimit {
    /// Five seconds. Linux: `DEFAULT_RATELIMIT_INTERVAL`.
    pub const INTERVAL_NS: u64 = 5_000_000_000;
    /// Ten. Linux: `DEFAULT_RATELIMIT_BURST`.
    pub const BURST: u64 = 10;

    /// `burst` reports in `interval_ns`.
    #[must_use]
    pub const fn new(interval_ns: u64, burst: u64) -> Self {
        Self {
            interval_ns,
            burst,
            begin: AtomicU64::new(0),
            printed: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// Whether one more is fine at `now_ns`; then also how many were suppressed in the interval that is over.
    /// Linux: `___ratelimit`.
    pub fn allow(&self, now_ns: u64) -> Option<u64> {
        let begin = self.begin.load(Relaxed);
        let mut suppressed = 0;
        if begin == 0 || now_ns >= (begin - 1).saturating_add(self.interval_ns) {
            self.begin.store(now_ns.saturating_add(1), Relaxed);
            self.printed.store(0, Relaxed);
            suppressed = self.missed.swap(0, Relaxed);
        }
        if self.printed.fetch_add(1, Relaxed) < self.burst {
            return Some(suppressed);
        }
        self.missed.fetch_add(suppressed + 1, Relaxed);
        None
    }
}

//! Who can be asked to let go of things when memory is short, and how hard each is asked.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm_frame::{Gfp, NodeId};
use kmm_host::{ShrinkControl, Shrinker};
use lock_api::{Mutex, RawMutex};

/// How many can be registered.
pub const MAX_SHRINKERS: usize = 32;

/// There is no room for another shrinker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyShrinkers;

impl fmt::Display for TooManyShrinkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room for another shrinker")
    }
}

impl core::error::Error for TooManyShrinkers {}

/// A shrinker that was registered; unregister it by this.
#[derive(Debug, PartialEq, Eq)]
pub struct ShrinkerId(usize);

/// The shrinkers of a machine. Linux: `shrinker_list`, mm/shrinker.c.
pub struct Shrinkers<L: RawMutex> {
    all: Mutex<L, [Option<&'static dyn Shrinker>; MAX_SHRINKERS]>,
    /// What each was asked for and was too little for a batch. Linux: `nr_deferred`.
    deferred: [AtomicUsize; MAX_SHRINKERS],
}

impl<L: RawMutex> Shrinkers<L> {
    /// Nobody yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            all: Mutex::const_new(L::INIT, [None; MAX_SHRINKERS]),
            deferred: [const { AtomicUsize::new(0) }; MAX_SHRINKERS],
        }
    }

    /// From now on `shrinker` is asked, too. Linux: `shrinker_register`.
    ///
    /// # Errors
    /// [`TooManyShrinkers`].
    pub fn register(
        &self,
        shrinker: &'static dyn Shrinker,
    ) -> Result<ShrinkerId, TooManyShrinkers> {
        let mut all = self.all.lock();
        let free = all.iter().position(Option::is_none);
        let nr = free.ok_or(TooManyShrinkers)?;
        all[nr] = Some(shrinker);
        self.deferred[nr].store(0, Ordering::Relaxed);
        Ok(ShrinkerId(nr))
    }

    /// No more calls of the shrinker begin; one that has begun may still be running on another CPU. Linux: `shrinker_free`.
    pub fn unregister(&self, id: ShrinkerId) {
        self.all.lock()[id.0] = None;
    }

    /// Asks everybody for a share of what they have, `1 / 2^priority` of it for those of usual cost; how many things were let
    /// go of. Linux: `shrink_slab`.
    ///
    /// # Context
    /// May sleep. The caller holds no lock that a shrinker could want.
    pub fn shrink(&self, gfp: Gfp, node: NodeId, priority: u32) -> usize {
        let ask = |nr: usize| {
            // Called without the lock: they may take long, and register others.
            let shrinker = self.all.lock()[nr];
            shrinker.map_or(0, |shrinker| {
                self.shrink_one(nr, shrinker, gfp, node, priority)
            })
        };
        (0..MAX_SHRINKERS).map(ask).sum()
    }

    /// Linux: `do_shrink_slab`.
    fn shrink_one(
        &self,
        nr: usize,
        shrinker: &dyn Shrinker,
        gfp: Gfp,
        node: NodeId,
        priority: u32,
    ) -> usize {
        let control = |nr_to_scan| ShrinkControl {
            gfp,
            node,
            nr_to_scan,
        };
        let freeable = shrinker.count_objects(&control(0));
        if freeable == 0 {
            return 0;
        }
        let shifted = |count: usize| count.checked_shr(priority).unwrap_or(0);
        let deferred = self.deferred[nr].swap(0, Ordering::Relaxed);
        let wanted = match shrinker.seeks() {
            0 => freeable / 2,
            seeks => shifted(freeable).saturating_mul(4) / seeks,
        };
        let most = freeable.saturating_mul(2);
        let mut left = shifted(deferred).saturating_add(wanted).min(most);
        let (mut scanned, mut freed) = (0, 0);
        let batch = shrinker.batch().max(1);
        while left > 0 && (left >= batch || left >= freeable) {
            let now = left.min(batch);
            let Some(count) = shrinker.scan_objects(&control(now)) else {
                break;
            };
            freed += count;
            scanned += now;
            left -= now;
        }
        let rest = deferred.saturating_add(wanted).saturating_sub(scanned);
        self.deferred[nr].fetch_add(rest.min(most), Ordering::Relaxed);
        freed
    }
}

impl<L: RawMutex> Default for Shrinkers<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: RawMutex> fmt::Debug for Shrinkers<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = *self.all.lock();
        let names = all.iter().flatten().map(|shrinker| shrinker.name());
        f.debug_list().entries(names).finish()
    }
}

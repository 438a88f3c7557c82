//! Per-CPU pagesets: a CPU's own stock of single pages of one zone. Linux: `struct per_cpu_pages`.
//!
//! An array of frame numbers, used as a stack, so that the hot pair of alloc and free touches neither the zone lock nor
//! a list of descriptors. Only its own CPU takes and puts, under the in-use mark; a second user on that CPU (an
//! interrupt) finds the mark and goes to the zone lock instead. Every word is an atomic that is loaded and stored
//! relaxed: plain moves, yet statistics and audits may read them from anywhere.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use kmm_frame::Pfn;
use kmm_host::{InUse, UseMark};

/// The pageset of one CPU for one zone, alone on its cache lines.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Pcp {
    mark: UseMark,
    count: AtomicU32,
    /// Where the oldest page lies; the newest is `count - 1` further, around the ring.
    bottom: AtomicU32,
    nr_allocs: AtomicU64,
    nr_frees: AtomicU64,
    ring: [AtomicUsize; Self::CAPACITY],
}

const MASK: u32 = 511;

impl Pcp {
    /// How many pages fit; no `high` is above it.
    pub const CAPACITY: usize = MASK as usize + 1;

    /// An empty pageset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mark: UseMark::new(),
            count: AtomicU32::new(0),
            bottom: AtomicU32::new(0),
            nr_allocs: AtomicU64::new(0),
            nr_frees: AtomicU64::new(0),
            ring: [const { AtomicUsize::new(0) }; Self::CAPACITY],
        }
    }

    /// Runs `f` with exclusive use of the pageset, which the caller reached through its own pin (INV-3).
    pub(crate) fn with<R>(&self, f: impl FnOnce(PcpUse<'_>) -> R) -> Result<R, InUse> {
        self.mark.hold(|| f(PcpUse(self)))
    }

    /// How many pages are in stock.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed) as usize
    }

    /// Pages handed out and taken back so far.
    pub(crate) fn events(&self) -> (u64, u64) {
        (self.nr_allocs.load(Relaxed), self.nr_frees.load(Relaxed))
    }

    /// The pages in stock, oldest first. Exact while the CPU stands still.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Pfn> {
        (0..self.count.load(Relaxed).min(MASK + 1)).map(|nr| Pfn::new(self.slot(nr).load(Relaxed)))
    }

    fn slot(&self, nr: u32) -> &AtomicUsize {
        let place = self.bottom.load(Relaxed).wrapping_add(nr) & MASK;
        &self.ring[place as usize]
    }
}

impl Default for Pcp {
    fn default() -> Self {
        Self::new()
    }
}

/// A pageset under its mark.
#[derive(Debug)]
pub(crate) struct PcpUse<'a>(&'a Pcp);

impl PcpUse<'_> {
    /// The page that came last: its lines are the warmest.
    pub(crate) fn pop(&self) -> Option<Pfn> {
        let top = self.0.count.load(Relaxed).checked_sub(1)?;
        let pfn = Pfn::new(self.0.slot(top).load(Relaxed));
        self.0.count.store(top, Relaxed);
        Some(pfn)
    }

    /// Puts a page on top; how many are in stock then. There must be room.
    pub(crate) fn push(&self, pfn: Pfn) -> usize {
        let count = self.0.count.load(Relaxed);
        debug_assert!(count <= MASK, "pageset overflows");
        self.0.slot(count).store(pfn.index(), Relaxed);
        self.0.count.store(count + 1, Relaxed);
        count as usize + 1
    }

    /// Puts a page below all others. There must be room.
    pub(crate) fn push_bottom(&self, pfn: Pfn) {
        let count = self.0.count.load(Relaxed);
        debug_assert!(count <= MASK, "pageset overflows");
        let bottom = self.0.bottom.load(Relaxed).wrapping_sub(1);
        self.0.bottom.store(bottom, Relaxed);
        self.0.slot(0).store(pfn.index(), Relaxed);
        self.0.count.store(count + 1, Relaxed);
    }

    /// The page that has been here longest: its lines are the coldest.
    pub(crate) fn pop_bottom(&self) -> Option<Pfn> {
        let left = self.0.count.load(Relaxed).checked_sub(1)?;
        let pfn = Pfn::new(self.0.slot(0).load(Relaxed));
        let bottom = self.0.bottom.load(Relaxed).wrapping_add(1);
        self.0.bottom.store(bottom, Relaxed);
        self.0.count.store(left, Relaxed);
        Some(pfn)
    }

    pub(crate) fn note_alloc(&self) {
        let before = self.0.nr_allocs.load(Relaxed);
        self.0.nr_allocs.store(before + 1, Relaxed);
    }

    pub(crate) fn note_free(&self) {
        let before = self.0.nr_frees.load(Relaxed);
        self.0.nr_frees.store(before + 1, Relaxed);
    }
}

/// How many pages move at once, and how many may be in stock. Linux: `per_cpu_pages::batch` and `high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcpLimits {
    /// Pages that move between zone and pageset under one lock.
    pub batch: usize,
    /// At so many in stock a batch goes back.
    pub high: usize,
}

/// Which formula gives [`PcpLimits::high`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PcpSizing {
    /// All pagesets together hold as much as the low watermark, as Linux does since 5.14.
    #[default]
    ByLowMark,
    /// Six batches, as Linux did before.
    SixBatches,
}

impl PcpLimits {
    /// Before the zones have their watermarks: nothing is kept. Linux: `BOOT_PAGESET_HIGH`, `BOOT_PAGESET_BATCH`.
    pub(crate) const BOOT: Self = Self { batch: 1, high: 0 };

    /// Limits of a zone with `managed` pages and this low watermark. Linux: `zone_batchsize`, `zone_highsize`.
    #[must_use]
    pub fn by_low_mark(managed: usize, low: usize, nr_cpus: usize) -> Self {
        let batch = batch_size(managed);
        let share = low / nr_cpus.max(1);
        Self::clamped(batch, share.max(4 * batch))
    }

    /// Limits of a zone with `managed` pages. Linux before 5.14: `pageset_set_high_and_batch`.
    #[must_use]
    pub fn six_batches(managed: usize) -> Self {
        let batch = batch_size(managed);
        Self::clamped(batch, 6 * batch)
    }

    fn clamped(batch: usize, high: usize) -> Self {
        Self {
            batch,
            high: high.min(Pcp::CAPACITY),
        }
    }
}

/// About a quarter of a thousandth of the zone and at most 256 KiB; one less than a power of two, so that the batches
/// of several CPUs do not all start on the same cache colour. Linux: `zone_batchsize`.
fn batch_size(managed: usize) -> usize {
    const MOST: usize = (1 << 20) / kmm_frame::PAGE_SIZE;
    let quarter = ((managed / 1024).min(MOST) / 4).max(1);
    let rounded = 1 << (quarter + quarter / 2).ilog2();
    (rounded - 1).max(1)
}

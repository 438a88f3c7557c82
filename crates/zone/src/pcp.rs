//! Per-CPU pagesets: a CPU's own stock of single pages of one zone. Linux: `struct per_cpu_pages`.
//!
//! An array of frame numbers, used as a stack, so that the hot pair of alloc and free touches neither the zone lock nor
//! a descriptor. Only its own CPU takes and puts, under the in-use mark; a second user on that CPU (an interrupt) finds
//! the mark and goes to the zone lock instead. Every word is an atomic that is loaded and stored relaxed: plain moves,
//! yet statistics and audits may read them from anywhere.
//!
//! A stack that takes every freed page back hands the same pages out for ever, wherever they lie: no large block comes
//! together again. So only pages of the window go into the stock: the first so many frames of the zone as are in use.
//! If nothing were scattered, all would be there. Pages above go home, a batch at a time, and as new ones come from the
//! lowest fragments, what is in use moves down. The window is measured anew when the stock is filled, and after
//! [`REVIEW`] pages that it took. With it 100 % of the huge pages are left after 4 M replacements at a quarter of the
//! memory, without it 13 % (figure f6 of `benches/`); it costs a subtraction and a comparison for each page freed.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use kmm_frame::{Order, Pfn, PfnRange};
use kmm_host::{InUse, UseMark};

/// The pageset of one CPU for one zone, alone on its cache lines.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Pcp {
    mark: UseMark,
    /// How many pages are in stock, in the low 16 bits; above them, how many were put there by owners, where the bit
    /// [`DUE`] is left out in counting.
    state: AtomicU64,
    /// Up to so many pages the stock takes.
    most: AtomicU64,
    /// The first frame of the zone, and of the window.
    start: AtomicUsize,
    /// How many frames the window has.
    window: AtomicUsize,
    /// How many frames the zone has from there, up to those of another zone.
    spanned: AtomicUsize,
    /// How many pages are to go home.
    nr_home: AtomicUsize,
    /// At so many they go.
    batch: AtomicUsize,
    /// Pages that came to the stock from the free lists, less those that went back there from it. Wraps.
    nr_filled: AtomicU64,
    /// Pages that owners gave back to go home.
    nr_homed: AtomicU64,
    stock: [AtomicUsize; Self::CAPACITY],
    home: [AtomicUsize; HOME],
}

const MASK: usize = Pcp::CAPACITY - 1;
/// No batch is larger.
const HOME: usize = 64;
const COUNT: u64 = 0xffff;
/// One page more in stock that an owner put there.
const PUT: u64 = COUNT + 2;
/// After so many pages that went into the stock the window is measured anew.
const REVIEW: u64 = 256;
/// So many have. It is above every count, so that no page goes into the stock while it is set.
const DUE: u64 = REVIEW * (COUNT + 1);

impl Pcp {
    /// How many pages fit into the stock; no `high` is above it.
    pub const CAPACITY: usize = 512;

    /// An empty pageset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mark: UseMark::new(),
            state: AtomicU64::new(0),
            most: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            window: AtomicUsize::new(0),
            spanned: AtomicUsize::new(0),
            nr_home: AtomicUsize::new(0),
            batch: AtomicUsize::new(PcpLimits::BOOT.batch),
            nr_filled: AtomicU64::new(0),
            nr_homed: AtomicU64::new(0),
            stock: [const { AtomicUsize::new(0) }; Self::CAPACITY],
            home: [const { AtomicUsize::new(0) }; HOME],
        }
    }

    /// Runs `f` with exclusive use of the pageset, which the caller reached through its own pin (INV-3).
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(PcpUse<'_>) -> R) -> Result<R, InUse> {
        self.mark.hold(|| f(PcpUse(self)))
    }

    /// A page of the stock. `None` also when the pageset is in use.
    #[inline]
    pub(crate) fn take(&self) -> Option<Pfn> {
        self.with(|pcp| pcp.pop()).ok().flatten()
    }

    /// Puts a page into the stock if it belongs there; whether it did. Not when the pageset is in use.
    #[inline]
    pub(crate) fn keep(&self, pfn: Pfn) -> bool {
        self.with(|pcp| pcp.push(pfn)).unwrap_or(false)
    }

    /// As [`Pcp::keep`]; and takes pages of the zone that go home as long as they have to wait for others.
    #[inline]
    pub(crate) fn put(&self, pfn: Pfn) -> bool {
        self.with(|pcp| pcp.push(pfn) || pcp.wait(pfn))
            .unwrap_or(false)
    }

    /// Whether the stock takes a page, unless the pageset is in use.
    #[inline]
    pub(crate) fn belongs(&self, pfn: Pfn) -> bool {
        self.takes(pfn, self.state.load(Relaxed))
    }

    #[inline]
    fn takes(&self, pfn: Pfn, state: u64) -> bool {
        let offset = pfn.index().wrapping_sub(self.start.load(Relaxed));
        let has_room = state & (COUNT | DUE) < self.most.load(Relaxed);
        offset < self.window.load(Relaxed) && has_room
    }

    /// The zone that it is for: `own` are its first frames, up to those of another zone.
    pub(crate) fn set_zone(&self, own: PfnRange) {
        self.start.store(own.start().index(), Relaxed);
        self.spanned.store(own.nr_pages(), Relaxed);
    }

    /// Changes the limits; what is in stock stays.
    pub(crate) fn set_limits(&self, limits: PcpLimits) {
        let batch = limits.batch.clamp(1, HOME);
        self.batch.store(batch, Relaxed);
        self.most
            .store(limits.high.saturating_sub(batch) as u64, Relaxed);
    }

    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        self.nr_stock() + self.nr_home.load(Relaxed)
    }

    /// Pages handed out and taken back so far.
    pub(crate) fn events(&self) -> (u64, u64) {
        let state = self.state.load(Relaxed);
        let counted = (state + (state & DUE)) >> 16;
        let puts = counted / (2 * REVIEW) * REVIEW + counted % REVIEW;
        let allocs = self.nr_filled.load(Relaxed).wrapping_add(puts);
        let allocs = allocs.wrapping_sub(state & COUNT);
        (allocs, puts + self.nr_homed.load(Relaxed))
    }

    /// The pages that it has. Exact while the CPU stands still.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Pfn> {
        let stock = self.stock.iter().take(self.nr_stock());
        let home = self.home.iter().take(self.nr_home.load(Relaxed));
        stock.chain(home).map(|page| Pfn::new(page.load(Relaxed)))
    }

    fn note_filled(&self, more: u64) {
        let before = self.nr_filled.load(Relaxed);
        self.nr_filled.store(before.wrapping_add(more), Relaxed);
    }

    fn nr_stock(&self) -> usize {
        (self.state.load(Relaxed) & COUNT) as usize
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
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "masked")]
    pub(crate) fn pop(&self) -> Option<Pfn> {
        let state = self.0.state.load(Relaxed);
        if state & COUNT == 0 {
            return None;
        }
        let state = state - 1;
        let pfn = self.0.stock[state as usize & MASK].load(Relaxed);
        self.0.state.store(state, Relaxed);
        Some(Pfn::new(pfn))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "masked")]
    pub(crate) fn push(&self, pfn: Pfn) -> bool {
        let state = self.0.state.load(Relaxed);
        if !self.0.takes(pfn, state) {
            return false;
        }
        self.0.stock[state as usize & MASK].store(pfn.index(), Relaxed);
        self.0.state.store(state + PUT, Relaxed);
        true
    }

    /// Whether it is time to measure the window, anew or for the first time.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.0.state.load(Relaxed) & DUE != 0 || self.0.window.load(Relaxed) == 0
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count()
    }

    /// Opens the window on the first `nr_pages` of the zone, up to the end of a pageblock; never on frames of others.
    pub(crate) fn set_window(&self, nr_pages: usize) {
        const BLOCK: usize = Order::PAGEBLOCK.nr_pages();
        let spanned = self.0.spanned.load(Relaxed);
        let window = nr_pages.next_multiple_of(BLOCK).min(spanned);
        self.0.window.store(window, Relaxed);
        let state = self.0.state.load(Relaxed);
        self.0.state.store(state + (state & DUE), Relaxed);
    }

    /// To fill the stock, which is empty, with up to `most` pages.
    pub(crate) fn filler(&self, most: usize) -> Filler<'_> {
        let most = most.min(Pcp::CAPACITY);
        Filler {
            pcp: self.0,
            most,
            left: most,
        }
    }

    /// Takes a page that goes home if it is of the zone and not the last of a batch; whether it did.
    #[inline(never)]
    fn wait(&self, pfn: Pfn) -> bool {
        let offset = pfn.index().wrapping_sub(self.0.start.load(Relaxed));
        let count = self.0.nr_home.load(Relaxed);
        let waits = offset < self.0.spanned.load(Relaxed)
            && count + 1 < self.0.batch.load(Relaxed)
            && !self.is_due();
        if waits {
            self.send_home(pfn);
        }
        waits
    }

    /// Takes a page that goes home; whether it is time for those that wait.
    #[inline]
    pub(crate) fn send_home(&self, pfn: Pfn) -> bool {
        let count = self.0.nr_home.load(Relaxed);
        self.0.home[count % HOME].store(pfn.index(), Relaxed);
        self.0.nr_home.store(count + 1, Relaxed);
        let homed = self.0.nr_homed.load(Relaxed);
        self.0.nr_homed.store(homed + 1, Relaxed);
        count + 1 >= self.0.batch.load(Relaxed)
    }

    /// The pages that wait to go home; none do afterwards.
    pub(crate) fn going_home(&self) -> impl Iterator<Item = Pfn> {
        let count = self.0.nr_home.load(Relaxed).min(HOME);
        self.0.nr_home.store(0, Relaxed);
        self.0.home[..count]
            .iter()
            .map(|page| Pfn::new(page.load(Relaxed)))
    }

    /// Takes a page out to give it back to the free lists.
    pub(crate) fn pop_unused(&self) -> Option<Pfn> {
        let page = self.pop()?;
        self.0.note_filled(u64::MAX);
        Some(page)
    }
}

/// Fills a stock from the top, so that the first page to come is the first to go.
#[derive(Debug)]
pub(crate) struct Filler<'a> {
    pcp: &'a Pcp,
    most: usize,
    left: usize,
}

impl Filler<'_> {
    #[inline]
    pub(crate) fn push(&mut self, pfn: Pfn) {
        debug_assert!(self.left > 0, "more pages than were asked for");
        self.left = self.left.wrapping_sub(1);
        self.pcp.stock[self.left & MASK].store(pfn.index(), Relaxed);
    }

    /// Puts the pages in force.
    pub(crate) fn finish(self) {
        let count = self.most - self.left;
        if count == 0 {
            return;
        }
        if self.left > 0 {
            for nr in 0..count {
                let page = self.pcp.stock[(self.left + nr) & MASK].load(Relaxed);
                self.pcp.stock[nr & MASK].store(page, Relaxed);
            }
        }
        let state = self.pcp.state.load(Relaxed);
        self.pcp.state.store(state + count as u64, Relaxed);
        self.pcp.note_filled(count as u64);
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

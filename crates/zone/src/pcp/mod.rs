//! Per-CPU pagesets: a CPU's own stock of small blocks of one zone. Linux: `struct per_cpu_pages`.
//!
//! For each size ([`Size`]) and each of three migrate types an array of frame numbers, used as a stack, so that the hot pair
//! of alloc and free touches neither the zone lock nor a descriptor. Only its own CPU takes and puts, under the in-use
//! mark; a second user on that CPU (an interrupt) finds the mark and goes to the zone lock instead. Every word is an atomic
//! that is loaded and stored relaxed: plain moves, yet statistics and audits may read them from anywhere.
//!
//! | word | what |
//! |---|---|
//! | mark | [`IDLE`], or [`BUSY`] while somebody is at it |
//! | state | low 16 bits: the cell where the next block goes; above them, how many blocks owners have put there |
//! | limit | up to so many cells the stack may grow; 0 for types that are not kept |
//! | window | in front of this offset blocks are kept |
//!
//! The stacks of a size lie side by side: cell `3 * n + t` is the n-th block of type `t`. So the number of the next cell says
//! whether the stack has a block (it is above 2), and the check for that and the look at the mark are one comparison.
//!
//! A stack that takes every freed page back hands the same pages out for ever, wherever they lie: no large block comes
//! together again. So only blocks of the window go into the stock: the first so many frames of the zone as are in use.
//! If nothing were scattered, all would be there. Pages above go home, a batch at a time, and as new ones come from the
//! lowest fragments, what is in use moves down. It is measured anew whenever stock and free lists exchange
//! something. With it 100 % of the huge pages are left after 4 M replacements at a quarter of the memory, without it 13 %
//! (figure f6 of `benches/`); it costs a subtraction and two comparisons for each page freed.

use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

use kmm_buddy::{Pageblock, Pageblocks};
use kmm_frame::{MemMap, MigrateType, Order, Page, Pfn, PfnRange};
use kmm_host::InUse;

use core::sync::atomic;

mod drain;
mod first;
mod held;
mod hot;
mod limits;
mod size;
mod span;

pub(crate) use drain::DrainRequest;
pub(crate) use first::{NOBODY, Way};
pub(crate) use held::PcpUse;
pub(crate) use hot::{Kept, Put};

pub use limits::{PcpLimits, PcpSizing};
pub(crate) use size::Size;
use span::NextSpan;

/// The pageset of one CPU for one zone, alone on its cache lines.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Pcp {
    mark: AtomicU32,
    /// What came home but not yet to the free lists.
    nr_home: AtomicU32,
    nr_home_pages: AtomicUsize,
    /// The first frame of the zone.
    start: AtomicUsize,
    /// How many frames from there on are the zone's alone.
    spanned: AtomicUsize,
    /// The same, as of the last time that memory came or went; and whether that or the limits are new.
    next: NextSpan,
    /// Where the pageblock of frame 0 would be, if the zone had it.
    pageblocks: AtomicPtr<Pageblock>,
    /// Where the descriptor of frame 0 would be, if it had one; null if descriptors do not lie in an array.
    pages: AtomicPtr<Page>,
    windows: [AtomicUsize; Size::COUNT],
    states: [[AtomicU64; NR_ROUTES]; Size::COUNT],
    /// A row of routes for each size, and behind them as much as the byte of a pageblock can lead: of isolated ones it says
    /// more than the route, and leads to another row. There the place of isolated pageblocks has 0, as in every row.
    limits: [AtomicU32; Size::COUNT * NR_ROUTES + SPARE],
    /// Up to so many pages the small sizes, and the large ones, may have in all.
    most: [AtomicUsize; 2],
    /// Whether there was ever room for a large block.
    has_large: AtomicBool,
    /// At so many pages those that wait go home.
    batch: AtomicUsize,
    /// Blocks that came to the stock from the free lists, less those that went back there from it. Wraps.
    nr_filled: [AtomicU64; Size::COUNT],
    /// Blocks that owners gave back to go home.
    nr_homed: [AtomicU64; Size::COUNT],
    drain: DrainRequest,
    home: [AtomicU64; HOME],
    cells: [AtomicU32; Size::CELLS],
}

/// What `route` may be: [`Pageblock::route`].
const NR_ROUTES: usize = Pageblock::NR_ROUTES;
/// From the end of the row of the largest size to where a byte may lead.
const SPARE: usize = u8::MAX as usize + 1 - NR_ROUTES;
/// From one block of a stack to the next, in cells.
const STEP: u32 = 3;
const _: () = assert!(STEP as usize == size::KINDS);
/// Nobody uses the pageset. No next cell of an empty stack is above it.
const IDLE: u32 = STEP - 1;
/// Somebody does. Above every next cell, and the sum of both is above every limit.
const BUSY: u32 = 1 << 31;
/// One block more, which an owner put there.
const ONE_PUT: u64 = (1 << PUTS) + STEP as u64;
/// The next cell.
const NEXT: u64 = (1 << PUTS) - 1;
/// Where the count of blocks that owners have put there begins.
const PUTS: u32 = 16;
/// No batch is larger.
const HOME: usize = 64;
/// In what waits to go home, the order is below the offset.
const ORDER_BITS: u32 = 4;

/// Types that are kept, by route.
const KEPT: [usize; size::KINDS] = [
    Pageblock::route_of(MigrateType::Unmovable),
    Pageblock::route_of(MigrateType::Movable),
    Pageblock::route_of(MigrateType::Reclaimable),
];

impl Pcp {
    /// How many single pages of a type fit into the stock; no `high` is above it.
    pub const CAPACITY: usize = Size::PAGE.capacity();

    /// An empty pageset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mark: AtomicU32::new(IDLE),
            nr_home: AtomicU32::new(0),
            nr_home_pages: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            spanned: AtomicUsize::new(0),
            next: NextSpan::new(
                AtomicUsize::new(0),
                AtomicUsize::new(0),
                AtomicBool::new(false),
            ),
            pageblocks: AtomicPtr::new(core::ptr::null_mut()),
            pages: AtomicPtr::new(core::ptr::null_mut()),
            windows: [const { AtomicUsize::new(0) }; Size::COUNT],
            states: [const { [const { AtomicU64::new(0) }; NR_ROUTES] }; Size::COUNT],
            limits: [const { AtomicU32::new(0) }; Size::COUNT * NR_ROUTES + SPARE],
            most: [const { AtomicUsize::new(0) }; 2],
            has_large: AtomicBool::new(false),
            batch: AtomicUsize::new(PcpLimits::BOOT.batch),
            nr_filled: [const { AtomicU64::new(0) }; Size::COUNT],
            nr_homed: [const { AtomicU64::new(0) }; Size::COUNT],
            drain: DrainRequest::new(AtomicU32::new(0), AtomicU32::new(0)),
            home: [const { AtomicU64::new(0) }; HOME],
            cells: [const { AtomicU32::new(0) }; Size::CELLS],
        }
    }

    /// Runs `f` with exclusive use of the pageset, which the caller reached through its own pin (INV-3).
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(PcpUse<'_>) -> R) -> Result<R, InUse> {
        if self.mark.load(Relaxed) != IDLE {
            return Err(InUse);
        }
        self.mark.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        let mark = Mark(&self.mark);
        let result = f(PcpUse::new(self));
        drop(mark);
        Ok(result)
    }

    /// Takes a page that goes home if it is not the last of a batch and lies behind the window; whether it did.
    #[inline(never)]
    pub(crate) fn wait(&self, size: Size, pfn: Pfn) -> bool {
        let has_to = self.holds(pfn) && self.place_of(size, pfn).is_none() && !size.is_large();
        has_to && self.with(|pcp| pcp.wait(size, pfn)).unwrap_or(false)
    }

    /// The offset and the route of a block that lies in the window, in a pageblock whose type is kept.
    pub(crate) fn place_of(&self, size: Size, pfn: Pfn) -> Option<(u32, usize)> {
        let offset = self.offset_of(size, pfn)?;
        let route = self.route_at(pfn);
        let is_kept = KEPT.contains(&route) && self.is_of_one_type(size, pfn);
        is_kept.then_some((offset, route))
    }

    /// The zone that it is for: `own` are frames from the first on that no other zone has in between. One that is larger
    /// than numbers of 32 bits reach is served without a stock.
    pub(crate) fn attach(&self, own: PfnRange, pageblocks: Pageblocks, map: MemMap) {
        if i32::try_from(own.nr_pages()).is_err() {
            return;
        }
        for states in &self.states {
            for (lane, &route) in KEPT.iter().enumerate() {
                states[route].store(lane as u64, Relaxed);
            }
        }
        let first_block = pageblocks.range().start().index() >> Order::PAGEBLOCK.get();
        let entries = pageblocks.entries().as_ptr().cast_mut();
        self.pageblocks
            .store(entries.wrapping_sub(first_block), Relaxed);
        if let Some(pages) = map.flat() {
            let first = pages.as_ptr().wrapping_sub(map.range().start().index());
            self.pages.store(first.cast_mut(), Relaxed);
        }
        self.start.store(own.start().index(), Relaxed);
        self.spanned.store(own.nr_pages(), Relaxed);
        self.set_span(own);
    }

    /// Whether the descriptors of the zone lie in an array.
    pub(crate) fn has_pages(&self) -> bool {
        !self.pages.load(Relaxed).is_null()
    }

    /// Memory has come or gone. In force after the next slow step of the owner: until then, what comes back from new frames
    /// goes to the free lists, and nothing comes back from those that have gone.
    pub(crate) fn set_span(&self, own: PfnRange) {
        let fits = i32::try_from(own.nr_pages()).is_ok();
        let nr_pages = if fits { own.nr_pages() } else { 0 };
        self.next.set(own.start().index(), nr_pages);
    }

    /// Changes the limits. They are in force after the next slow step of the owner; what is in stock stays.
    pub(crate) fn set_limits(&self, limits: PcpLimits, nr_huge: usize) {
        let batch = limits.batch.clamp(1, HOME);
        self.batch.store(batch, Relaxed);
        self.most[0].store(limits.high.saturating_sub(batch), Relaxed);
        let nr_huge = nr_huge.min(Size::of(Order::PAGEBLOCK).capacity());
        self.most[1].store(nr_huge << Order::PAGEBLOCK.get(), Relaxed);
        self.next.tell();
    }

    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        self.nr_pages_of(Size::SMALL)
            + self.nr_pages_of(Size::LARGE)
            + self.nr_home_pages.load(Relaxed)
    }

    /// How many pages of some sizes are in stock.
    fn nr_pages_of(&self, sizes: &[Size]) -> usize {
        let pages = |size: &Size| self.nr_blocks(*size) << size.order().get();
        sizes.iter().map(pages).sum()
    }

    /// What was handed out and taken back so far.
    pub(crate) fn events(&self) -> PcpEvents {
        let mut sum = PcpEvents::default();
        for size in Size::ALL {
            let states = &self.states[size.index()];
            let puts = KEPT
                .iter()
                .map(|&route| states[route].load(Relaxed) >> PUTS);
            let puts: u64 = puts.sum();
            let allocs = self.nr_filled[size.index()]
                .load(Relaxed)
                .wrapping_add(puts);
            let allocs = allocs.wrapping_sub(self.nr_blocks(size) as u64);
            let frees = puts + self.nr_homed[size.index()].load(Relaxed);
            sum.nr_allocs += allocs;
            sum.nr_pages_alloced += allocs << size.order().get();
            sum.nr_pages_freed += frees << size.order().get();
        }
        sum
    }

    /// The blocks that it has. Exact while the CPU stands still.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (Pfn, Order)> {
        let start = self.start.load(Relaxed);
        let stock = Size::ALL.into_iter().flat_map(move |size| {
            KEPT.into_iter().flat_map(move |route| {
                let lane = lane_of(route);
                (0..self.nr_of(size, route)).map(move |nr| {
                    let cell = size.first_cell() + nr * STEP as usize + lane;
                    (at(start, self.cells[cell].load(Relaxed)), size.order())
                })
            })
        });
        let nr_home = self.nr_home.load(Relaxed) as usize;
        let home = self.home.iter().take(nr_home);
        stock.chain(home.map(move |entry| homeward(start, entry.load(Relaxed))))
    }

    /// Whether the frame is one of the zone's alone.
    pub(crate) fn holds(&self, pfn: Pfn) -> bool {
        pfn.index().wrapping_sub(self.start.load(Relaxed)) < self.spanned.load(Relaxed)
    }

    /// Whether blocks of a size are kept at all: large ones, where there are many (FIX-9).
    pub(crate) fn keeps(&self, size: Size) -> bool {
        !size.is_large() || self.most[1].load(Relaxed) > 0
    }

    /// Whether it is for a zone.
    pub(crate) fn is_attached(&self) -> bool {
        self.next.nr_pages() > 0
    }

    /// Requests to empty it.
    pub(crate) const fn drain_request(&self) -> &DrainRequest {
        &self.drain
    }

    /// Opens the windows on the first `in_use` frames of the zone, up to the end of a pageblock. Of the largest blocks all
    /// may be kept: no larger one is waiting for them.
    pub(crate) fn set_windows(&self, in_use: usize) {
        const BLOCK: usize = Order::PAGEBLOCK.nr_pages();
        let most = self.spanned.load(Relaxed);
        let in_use = in_use.next_multiple_of(BLOCK).min(most);
        let [smaller @ .., largest] = &self.windows;
        largest.store(most, Relaxed);
        if smaller[0].load(Relaxed) != in_use {
            let set = |window: &AtomicUsize| window.store(in_use, Relaxed);
            smaller.iter().for_each(set);
        }
    }

    /// Whether the pageblocks of a block have the same type: only the largest have two.
    fn is_of_one_type(&self, size: Size, pfn: Pfn) -> bool {
        size != Size::LARGEST || self.route_at(pfn) == self.route_at(second_half(pfn))
    }

    /// How many blocks of a size are in stock.
    fn nr_blocks(&self, size: Size) -> usize {
        KEPT.iter().map(|&route| self.nr_of(size, route)).sum()
    }

    /// How many of one type.
    fn nr_of(&self, size: Size, route: usize) -> usize {
        let state = self.states[size.index()][route].load(Relaxed);
        (state & NEXT) as usize / STEP as usize
    }

    fn note_filled(&self, size: Size, more: u64) {
        let filled = &self.nr_filled[size.index()];
        filled.store(filled.load(Relaxed).wrapping_add(more), Relaxed);
    }
}

impl Default for Pcp {
    fn default() -> Self {
        Self::new()
    }
}

/// What went through a pageset.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PcpEvents {
    pub(crate) nr_allocs: u64,
    pub(crate) nr_pages_alloced: u64,
    pub(crate) nr_pages_freed: u64,
}

/// The frame that a cell says. Offsets are signed: a zone may grow downwards.
#[inline(always)]
const fn at(start: usize, offset: u32) -> Pfn {
    let offset = i32::from_ne_bytes(offset.to_ne_bytes());
    Pfn::new(start.wrapping_add_signed(offset as isize))
}

/// Where the second pageblock of a block of the largest size begins.
#[inline(always)]
const fn second_half(pfn: Pfn) -> Pfn {
    Pfn::new(pfn.index() + Order::PAGEBLOCK.nr_pages())
}

/// The place of a type among its neighbours.
const fn lane_of(route: usize) -> usize {
    let mut lane = 0;
    while lane + 1 < size::KINDS && KEPT[lane] != route {
        lane += 1;
    }
    lane
}

fn homeward(start: usize, entry: u64) -> (Pfn, Order) {
    let order = Order::new((entry & ((1 << ORDER_BITS) - 1)) as u8).unwrap_or(Order::ZERO);
    (Pfn::new(start + (entry >> ORDER_BITS) as usize), order)
}

/// Takes the mark away also when the closure panics.
struct Mark<'a>(&'a AtomicU32);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        self.0.store(IDLE, Relaxed);
    }
}

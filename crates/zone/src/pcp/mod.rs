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
//! together again. So only blocks of the window are kept: the first so many frames of the zone as are in use.
//! If nothing were scattered, all would be there. Pages above go home, a batch at a time, and as new ones come from the
//! lowest fragments, what is in use moves down. It is measured anew whenever stock and free lists exchange
//! something. With it 100 % of the huge pages are left after 4 M replacements at a quarter of the memory, without it 13 %
//! (figure f6 of `benches/`).
//!
//! The window is a bit of each of its pageblocks, so the route of a block says it too, at no cost; and it is one for all CPUs,
//! so that who never leaves his stock does not keep an old one. Blocks behind it have stacks of their own, from which nothing
//! is taken but to go home: what a page costs that comes back does not hang on where it lies, and there is no jump
//! that cannot be foreseen. All frames back in random order: 15.4 ns each where the fast path compared with the
//! window and left the others to the slow one, 11.3 so.

use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

use kmm_buddy::{Pageblock, Pageblocks};
use kmm_frame::{MemMap, MigrateType, Order, Page, Pfn, PfnRange};
use kmm_host::{DrainRequest, InUse};

use core::sync::atomic;

mod first;
mod held;
mod hot;
mod limits;
mod size;
mod span;

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
    states: [[AtomicU64; NR_ROUTES]; Size::COUNT],
    /// A row of routes for each size, and behind them as much as the byte of a pageblock can lead: of isolated ones it says
    /// more than the route, and leads to another row. There the place of isolated pageblocks has 0, as in every row.
    limits: [AtomicU32; Size::COUNT * NR_ROUTES + SPARE],
    /// How many pages the stacks of each [`Pool`] may have in all.
    most: [AtomicUsize; Pool::COUNT],
    /// Whether there was ever room for a large block.
    has_large: AtomicBool,
    /// How many pages the large blocks had when the zone was told. Written under its lock.
    told_large: AtomicUsize,
    /// So many pages go home at once.
    batch: AtomicUsize,
    /// Whether the pages that the stock was last filled with were scattered.
    is_scattered: AtomicBool,
    /// Blocks that came to the stock from the free lists, less those that went back there from it. Wraps.
    nr_filled: [AtomicU64; Size::COUNT],
    drain: DrainRequest,
    cells: [AtomicU32; CELLS],
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
/// The next cell, also of the sum of three states.
const NEXT: u64 = (1 << PUTS) - 1;
const _: () = assert!(3 * CELLS < 1 << PUTS);
/// Where the count of blocks that owners have put there begins.
const PUTS: u32 = 16;
/// No batch is larger.
const MOST_BATCH: usize = 64;

/// The routes of what goes home, by type.
const HOME: [usize; size::KINDS] = [
    Pageblock::route_of(MigrateType::Unmovable),
    Pageblock::route_of(MigrateType::Movable),
    Pageblock::route_of(MigrateType::Reclaimable),
];
/// The routes of what is kept, by type.
const KEPT: [usize; size::KINDS] = [near(HOME[0]), near(HOME[1]), near(HOME[2])];

/// Cells of what goes home: behind the others, counted from the first of the size, in blocks.
const HOME_ROWS: [usize; Size::SMALL.len()] = {
    let (mut rows, mut nr) = ([0; Size::SMALL.len()], 0);
    let mut next = Size::CELLS / size::KINDS;
    while nr < Size::SMALL.len() {
        rows[nr] = next - Size::SMALL[nr].first_cell() / size::KINDS;
        next += MOST_BATCH >> nr;
        nr += 1;
    }
    rows
};
const CELLS: usize = Size::CELLS + size::KINDS * 2 * MOST_BATCH;

impl Pcp {
    /// How many single pages of a type fit into the stock; no `high` is above it.
    pub const CAPACITY: usize = Size::PAGE.capacity();

    /// An empty pageset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mark: AtomicU32::new(IDLE),
            start: AtomicUsize::new(0),
            spanned: AtomicUsize::new(0),
            next: NextSpan::new(
                AtomicUsize::new(0),
                AtomicUsize::new(0),
                AtomicBool::new(false),
            ),
            pageblocks: AtomicPtr::new(core::ptr::null_mut()),
            pages: AtomicPtr::new(core::ptr::null_mut()),
            states: [const { [const { AtomicU64::new(0) }; NR_ROUTES] }; Size::COUNT],
            limits: [const { AtomicU32::new(0) }; Size::COUNT * NR_ROUTES + SPARE],
            most: [const { AtomicUsize::new(0) }; Pool::COUNT],
            has_large: AtomicBool::new(false),
            told_large: AtomicUsize::new(0),
            batch: AtomicUsize::new(PcpLimits::BOOT.batch),
            is_scattered: AtomicBool::new(false),
            nr_filled: [const { AtomicU64::new(0) }; Size::COUNT],
            drain: DrainRequest::new(AtomicU32::new(0), AtomicU32::new(0)),
            cells: [const { AtomicU32::new(0) }; CELLS],
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

    /// The offset and the route of a block of the zone: what is not kept goes home.
    pub(crate) fn place_of(&self, size: Size, pfn: Pfn) -> Option<(u32, usize)> {
        let offset = self.offset_of(pfn)?;
        let route = self
            .route_of(size, pfn)
            .filter(|route| KEPT.contains(route) || HOME.contains(route));
        Some((offset, route.unwrap_or(HOME[0])))
    }

    /// The zone that it is for: `own` are frames from the first on that no other zone has in between. One that is larger
    /// than numbers of 32 bits reach is served without a stock.
    pub(crate) fn attach(&self, own: PfnRange, pageblocks: Pageblocks, map: MemMap) {
        if i32::try_from(own.nr_pages()).is_err() {
            return;
        }
        for pool in Pool::ALL {
            for (size, route) in pool.stacks() {
                let next = bottom(size, route) as u64;
                self.states[size.index()][route].store(next, Relaxed);
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
        let batch = limits.batch.clamp(1, MOST_BATCH);
        self.batch.store(batch, Relaxed);
        let nr_huge = nr_huge.min(Size::of(Order::PAGEBLOCK).capacity());
        let set = |pool: Pool, most| self.most[pool as usize].store(most, Relaxed);
        set(Pool::Small, limits.high.saturating_sub(batch));
        set(Pool::Large, nr_huge << Order::PAGEBLOCK.get());
        set(Pool::Home, batch - 1);
        self.next.tell();
    }

    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        Pool::ALL.map(|pool| self.nr_pages_of(pool)).iter().sum()
    }

    /// How many pages the stacks of a pool have.
    #[inline]
    fn nr_pages_of(&self, pool: Pool) -> usize {
        let (sizes, [one, two, three]) = pool.rows();
        let mut sum = 0;
        for &size in sizes {
            let states = &self.states[size.index()];
            let state = |route: usize| states[route].load(Relaxed);
            let cells = state(one)
                .wrapping_add(state(two))
                .wrapping_add(state(three));
            // The numbers of the lanes add up to that of a block more.
            let below = 1 + size::KINDS * rows_below(size, one);
            let rows = (cells & NEXT) as usize / STEP as usize;
            sum += rows.saturating_sub(below) << size.order().get();
        }
        sum
    }

    /// How many pages the large blocks have: [`Pcp::nr_pages_of`] with sizes that the compiler knows, 70 instructions for 110.
    #[inline]
    fn nr_large_pages(&self) -> usize {
        if !self.has_large.load(Relaxed) {
            return 0;
        }
        let mut sum = 0;
        for &size in Size::LARGE {
            let states = &self.states[size.index()];
            let cells = KEPT.iter().fold(0, |sum: u64, &route| {
                sum.wrapping_add(states[route].load(Relaxed))
            });
            sum += ((cells & NEXT) as usize / STEP as usize - 1) << size.order().get();
        }
        sum
    }

    /// What was handed out and taken back so far.
    pub(crate) fn events(&self) -> PcpEvents {
        let mut sum = PcpEvents::default();
        for size in Size::ALL {
            let states = &self.states[size.index()];
            let sum_of = |routes: &[usize]| -> u64 {
                let puts = routes
                    .iter()
                    .map(|&route| states[route].load(Relaxed) >> PUTS);
                puts.sum()
            };
            let puts = sum_of(&KEPT);
            let allocs = self.nr_filled[size.index()]
                .load(Relaxed)
                .wrapping_add(puts);
            let allocs = allocs.wrapping_sub(self.nr_blocks(size) as u64);
            let frees = puts + sum_of(&HOME);
            sum.nr_allocs += allocs;
            sum.nr_pages_alloced += allocs << size.order().get();
            sum.nr_pages_freed += frees << size.order().get();
        }
        sum
    }

    /// The blocks that it has. Exact while the CPU stands still.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (Pfn, Order)> {
        let start = self.start.load(Relaxed);
        let stacks = Pool::ALL.into_iter().flat_map(Pool::stacks);
        stacks.flat_map(move |(size, route)| {
            let cells = self.cells_of(size, route);
            cells.map(move |cell| (at(start, cell.load(Relaxed)), size.order()))
        })
    }

    /// What a stack has, the lowest first.
    fn cells_of(&self, size: Size, route: usize) -> impl ExactSizeIterator<Item = &AtomicU32> {
        self.rows(size, route, 0, self.nr_of(size, route))
    }

    /// Some cells of a stack.
    #[inline]
    fn rows(
        &self,
        size: Size,
        route: usize,
        first: usize,
        count: usize,
    ) -> impl ExactSizeIterator<Item = &AtomicU32> {
        let first = size.first_cell() + STEP as usize * (rows_below(size, route) + first);
        let rows = &self.cells[first..first + STEP as usize * count];
        let lane = lane_of(route) % size::KINDS;
        rows.chunks_exact(STEP as usize).map(move |row| &row[lane])
    }

    /// Whether the frame is one of the zone's alone.
    pub(crate) fn holds(&self, pfn: Pfn) -> bool {
        pfn.index().wrapping_sub(self.start.load(Relaxed)) < self.spanned.load(Relaxed)
    }

    /// Whether blocks of a size are kept at all: large ones, where there are many (FIX-9).
    pub(crate) fn keeps(&self, size: Size) -> bool {
        !size.is_large() || self.most[Pool::Large as usize].load(Relaxed) > 0
    }

    /// Whether it is for a zone.
    pub(crate) fn is_attached(&self) -> bool {
        self.next.nr_pages() > 0
    }

    /// Requests to empty it.
    pub(crate) const fn drain_request(&self) -> &DrainRequest {
        &self.drain
    }

    /// How many blocks of a size are in stock.
    fn nr_blocks(&self, size: Size) -> usize {
        KEPT.iter().map(|&route| self.nr_of(size, route)).sum()
    }

    /// How many of one type.
    fn nr_of(&self, size: Size, route: usize) -> usize {
        let rows = usize::from(self.next_of(size, route)) / STEP as usize;
        rows.saturating_sub(rows_below(size, route))
    }

    /// Where the next block of a stack would go.
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    fn next_of(&self, size: Size, route: usize) -> u16 {
        self.states[size.index()][route].load(Relaxed) as u16
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

/// Stacks that share their room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pool {
    /// What is kept of [`Size::SMALL`].
    Small,
    /// Of [`Size::LARGE`].
    Large,
    /// What goes home: large blocks do so at once.
    Home,
}

impl Pool {
    const COUNT: usize = 3;
    const ALL: [Self; Self::COUNT] = [Self::Small, Self::Large, Self::Home];

    fn of(size: Size, route: usize) -> Self {
        if HOME.contains(&route) {
            Self::Home
        } else if size.is_large() {
            Self::Large
        } else {
            Self::Small
        }
    }

    /// Its sizes and routes.
    fn rows(self) -> (&'static [Size], [usize; size::KINDS]) {
        match self {
            Self::Small => (Size::SMALL, KEPT),
            Self::Large => (Size::LARGE, KEPT),
            Self::Home => (Size::SMALL, HOME),
        }
    }

    fn stacks(self) -> impl Iterator<Item = (Size, usize)> + Clone {
        let (sizes, routes) = self.rows();
        sizes
            .iter()
            .flat_map(move |&size| routes.into_iter().map(move |route| (size, route)))
    }
}

/// The route of pageblocks in the window.
#[inline(always)]
const fn near(route: usize) -> usize {
    route | Pageblock::NEAR_ROUTE
}

/// The cell of the first block of a stack, counted from the first cell of its size.
#[inline]
const fn bottom(size: Size, route: usize) -> usize {
    rows_below(size, route) * STEP as usize + lane_of(route)
}

/// From the first cells of a size to those of stacks of it, in blocks.
#[inline]
const fn rows_below(size: Size, route: usize) -> usize {
    if near(route) == route || size.is_large() {
        0
    } else {
        HOME_ROWS[size.index()]
    }
}

/// How many blocks fit into a stack.
const fn capacity(size: Size, route: usize) -> usize {
    if near(route) == route {
        size.capacity()
    } else {
        MOST_BATCH >> size.order().get()
    }
}

/// The place of a type among its neighbours.
#[inline]
const fn lane_of(route: usize) -> usize {
    route % Pageblock::route_of(MigrateType::Unmovable)
}

const _: () = {
    let mut lane = 0;
    while lane < size::KINDS {
        assert!(lane_of(KEPT[lane]) == lane && lane_of(HOME[lane]) == lane);
        lane += 1;
    }
};

/// Takes the mark away also when the closure panics.
struct Mark<'a>(&'a AtomicU32);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        self.0.store(IDLE, Relaxed);
    }
}

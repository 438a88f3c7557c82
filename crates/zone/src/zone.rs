//! One zone: its buddy allocator behind the host's lock, its pagesets, its marks and counts. Linux: `struct zone`.

use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use kmm_buddy::{Buddy, Pageblocks};
use kmm_frame::{MemMap, MigrateType, NodeId, Order, Page, Pfn, PfnRange, Topology, ZoneType};
use lock_api::{Mutex, RawMutex};

use crate::effort::Effort;
use crate::node::by_node;
use crate::pcp::PcpEvents;
use crate::span::Span;
use crate::vmstat::ZoneCounters;
use crate::{CpuCounts, Mark, Pcp, PcpLimits, Watermarks};

mod moves;

/// What `private` says of a page that was freed, so that freeing it again is noticed. In debug builds, every page of a
/// pageset has it, and audits check that; in others, pages that were freed by their count have it until they are counted
/// again.
pub(crate) const FREED: u64 = u64::MAX - 1;

const BLOCK: usize = Order::PAGEBLOCK.nr_pages();

/// Frames that the same requests may use.
///
/// Everything here is safe to read at any time; numbers that belong together are exact while the zone stands still.
pub struct Zone<L> {
    node: NodeId,
    kind: ZoneType,
    /// Where it is now.
    span: Span,
    /// The frames that the stocks of CPUs take: of the first run of the zone's own.
    window: Span,
    /// So many of its pageblocks, from the first on, are marked as near: what comes back from there is kept. Written under
    /// the lock.
    nr_near: AtomicUsize,
    /// Pages of large blocks in stock, as far as the CPUs have told. Written under the lock.
    nr_large_in_stock: AtomicUsize,
    topology: &'static Topology,
    map: MemMap,
    pcps: &'static [Pcp],
    pageblocks: Pageblocks,
    counters: ZoneCounters,
    /// Mirror of the buddy's count, written under its lock, read by the watermark check without it.
    nr_free: AtomicUsize,
    /// Of these, what is kept back for urgent requests, and what devices lend.
    nr_free_highatomic: AtomicUsize,
    nr_free_cma: AtomicUsize,
    min: AtomicUsize,
    low: AtomicUsize,
    high: AtomicUsize,
    reserve: [AtomicUsize; ZoneType::COUNT],
    pcp_batch: AtomicUsize,
    pcp_high: AtomicUsize,
    present: AtomicUsize,
    managed: AtomicUsize,
    /// Events that went past the pagesets, counted under the lock.
    nr_allocs: AtomicU64,
    nr_pages_alloced: AtomicU64,
    nr_pages_freed: AtomicU64,
    /// Of the requests served past the pagesets, those by CPUs of other nodes. Written under the lock.
    nr_remote: AtomicU64,
    buddy: Mutex<L, Buddy>,
}

/// Which zone of which node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ZoneId {
    /// Whose zone it is.
    pub node: NodeId,
    /// Which of the node's.
    pub kind: ZoneType,
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} zone {}", self.node.index(), self.kind)
    }
}

/// What a zone is made from.
pub(crate) struct ZoneParts {
    pub(crate) node: NodeId,
    pub(crate) kind: ZoneType,
    /// Where it is at first.
    pub(crate) range: PfnRange,
    pub(crate) topology: &'static Topology,
    pub(crate) map: MemMap,
    pub(crate) pcps: &'static [Pcp],
    pub(crate) shares: &'static [CpuCounts],
    pub(crate) pageblocks: Pageblocks,
    pub(crate) buddy: Buddy,
}

impl<L: RawMutex> Zone<L> {
    pub(crate) fn new(parts: ZoneParts) -> Self {
        let ZoneParts {
            node,
            kind,
            range,
            topology,
            map,
            pcps,
            shares,
            pageblocks,
            buddy,
        } = parts;
        let own = first_of_node(topology, range, node);
        pcps.iter().for_each(|pcp| pcp.attach(own, pageblocks, map));
        Self {
            node,
            kind,
            span: Span::new(range),
            window: Span::new(own),
            nr_near: AtomicUsize::new(0),
            nr_large_in_stock: AtomicUsize::new(0),
            topology,
            map,
            pcps,
            pageblocks,
            counters: ZoneCounters::new(shares),
            nr_free: AtomicUsize::new(0),
            nr_free_highatomic: AtomicUsize::new(0),
            nr_free_cma: AtomicUsize::new(0),
            min: AtomicUsize::new(0),
            low: AtomicUsize::new(0),
            high: AtomicUsize::new(0),
            reserve: [const { AtomicUsize::new(0) }; ZoneType::COUNT],
            pcp_batch: AtomicUsize::new(PcpLimits::BOOT.batch),
            pcp_high: AtomicUsize::new(PcpLimits::BOOT.high),
            present: AtomicUsize::new(0),
            managed: AtomicUsize::new(0),
            nr_allocs: AtomicU64::new(0),
            nr_pages_alloced: AtomicU64::new(0),
            nr_pages_freed: AtomicU64::new(0),
            nr_remote: AtomicU64::new(0),
            buddy: Mutex::new(buddy),
        }
    }

    /// Whose zone it is. Linux: `zone_to_nid`.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Which zone it is, of which node.
    #[must_use]
    pub const fn id(&self) -> ZoneId {
        ZoneId {
            node: self.node,
            kind: self.kind,
        }
    }

    /// Which kind of zone it is.
    #[must_use]
    pub const fn kind(&self) -> ZoneType {
        self.kind
    }

    /// The name in /proc/zoneinfo.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// All frames from the first to the last, holes included. Linux: `zone_start_pfn`, `spanned_pages`.
    #[must_use]
    pub fn range(&self) -> PfnRange {
        self.span.range()
    }

    /// Whether the frame is one of the zone: in its range, and of its node.
    #[inline]
    #[must_use]
    pub fn owns(&self, pfn: Pfn) -> bool {
        self.span.contains(pfn) && self.topology.node_of(pfn) == self.node
    }

    /// Whether all frames of `range` are the zone's.
    #[must_use]
    pub fn owns_range(&self, range: PfnRange) -> bool {
        let is_own = |(node, _): (NodeId, PfnRange)| node == self.node;
        self.range().contains_range(range) && by_node(self.topology, range).all(is_own)
    }

    /// The zone's own frames of `range`, in pieces.
    pub(crate) fn own_parts(&self, range: PfnRange) -> impl Iterator<Item = PfnRange> {
        let node = self.node;
        by_node(self.topology, range.intersect(self.range()))
            .filter(move |part| part.0 == node)
            .map(|part| part.1)
    }

    /// Whether any frame is RAM. Linux: `populated_zone`.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        self.present_pages() != 0
    }

    /// Frames that are RAM. Linux: `present_pages`.
    #[must_use]
    pub fn present_pages(&self) -> usize {
        self.present.load(Relaxed)
    }

    /// Frames that were given to the allocator. Linux: `managed_pages`.
    #[must_use]
    pub fn managed_pages(&self) -> usize {
        self.managed.load(Relaxed)
    }

    /// Whether the zone has a frame to allocate. Linux: `managed_zone`.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.managed_pages() != 0
    }

    /// Free frames, those in pagesets not counted. Linux: `NR_FREE_PAGES`.
    #[must_use]
    pub fn nr_free_pages(&self) -> usize {
        self.nr_free.load(Relaxed)
    }

    /// Free frames that a device lends: for movable pages only. Linux: `NR_FREE_CMA_PAGES`.
    #[must_use]
    pub fn nr_free_cma(&self) -> usize {
        self.nr_free_cma.load(Relaxed)
    }

    /// The marks in force.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        Watermarks {
            min: self.min.load(Relaxed),
            low: self.low.load(Relaxed),
            high: self.high.load(Relaxed),
        }
    }

    /// What is kept back from requests by the highest zone that could serve them. Linux: `lowmem_reserve`.
    #[must_use]
    pub fn protection(&self) -> [usize; ZoneType::COUNT] {
        core::array::from_fn(|i| self.reserve[i].load(Relaxed))
    }

    /// Limits of the pagesets.
    #[must_use]
    pub fn pcp_limits(&self) -> PcpLimits {
        PcpLimits {
            batch: self.pcp_batch.load(Relaxed),
            high: self.pcp_high.load(Relaxed),
        }
    }

    /// Whether a request of `order` that `highest` could serve would leave more than `mark` and the reserve, and whether
    /// there is a block for it. Linux: `zone_watermark_ok`.
    ///
    /// # Context
    /// Takes the zone lock when `order` is above 0.
    #[must_use]
    pub fn watermark_ok(&self, order: Order, mark: Mark, highest: ZoneType) -> bool {
        let has_block = || {
            let request = MigrateType::Movable;
            order == Order::ZERO || self.with_buddy(|buddy| buddy.has_free(order, request))
        };
        self.may_take(order, Effort::down_to(mark), highest) && has_block()
    }

    /// Linux: `__zone_watermark_ok`: `free - unusable - (2^order - 1) <= min + reserve` refuses.
    pub(crate) fn may_take(&self, order: Order, effort: Effort, highest: ZoneType) -> bool {
        self.spare(effort, highest) >= order.nr_pages()
    }

    /// How many pages a request may take before it meets its mark.
    pub(crate) fn spare(&self, effort: Effort, highest: ZoneType) -> usize {
        let Some(floor) = self.floor(effort, highest) else {
            return usize::MAX;
        };
        self.nr_usable(effort).saturating_sub(floor)
    }

    /// Free pages that are for the request. Linux: `__zone_watermark_unusable_free`.
    fn nr_usable(&self, effort: Effort) -> usize {
        let mut unusable = 0;
        if !effort.may_use_reserve() {
            unusable += self.nr_free_highatomic.load(Relaxed);
        }
        if !effort.may_use_cma() {
            unusable += self.nr_free_cma.load(Relaxed);
        }
        self.nr_free_pages().saturating_sub(unusable)
    }

    /// How many pages the request must leave.
    fn floor(&self, effort: Effort, highest: ZoneType) -> Option<usize> {
        let mark = effort.floor(|mark| match mark {
            Mark::Min => self.min.load(Relaxed),
            Mark::Low => self.low.load(Relaxed),
            Mark::High => self.high.load(Relaxed),
        })?;
        Some(mark + self.reserve[highest.index()].load(Relaxed))
    }

    /// Calls `f` with the buddy allocator under the lock, and keeps the mirrors of its counts true (INV-4).
    pub(crate) fn with_buddy<R>(&self, f: impl FnOnce(&mut Buddy) -> R) -> R {
        self.with_buddy_here(f)
    }

    /// As [`Zone::with_buddy`], in line: for where nearly every request of higher order comes by.
    #[inline(always)]
    fn with_buddy_here<R>(&self, f: impl FnOnce(&mut Buddy) -> R) -> R {
        let mut buddy = self.buddy.lock();
        let result = f(&mut buddy);
        let nr_free = buddy.nr_free_pages();
        self.nr_free.store(nr_free, Relaxed);
        self.open_window(nr_free);
        let reserved = buddy.nr_free_highatomic();
        self.nr_free_highatomic.store(reserved, Relaxed);
        self.nr_free_cma.store(buddy.nr_free_cma(), Relaxed);
        result
    }

    /// Whether the descriptor allows that the page is in a pageset of this zone.
    pub(crate) fn is_stock(&self, pfn: Pfn) -> bool {
        let is_marked = |page: &Page| !cfg!(debug_assertions) || page.private() == FREED;
        let marked = |page: &Page| is_marked(page) && page.ref_count() == 0;
        self.owns(pfn) && self.map.get(pfn).is_some_and(marked)
    }

    pub(crate) const fn pcps(&self) -> &'static [Pcp] {
        self.pcps
    }

    pub(crate) const fn pageblocks(&self) -> &Pageblocks {
        &self.pageblocks
    }

    pub(crate) fn add_present(&self, range: PfnRange) {
        self.with_buddy(|_| self.pageblocks.add_present(range));
        self.present.fetch_add(range.nr_pages(), Relaxed);
    }

    pub(crate) fn add_managed(&self, nr_pages: usize) {
        self.managed.fetch_add(nr_pages, Relaxed);
    }

    pub(crate) fn remove_managed(&self, nr_pages: usize) {
        self.managed.fetch_sub(nr_pages, Relaxed);
    }

    /// Whole pageblocks are RAM no more.
    pub(crate) fn remove_present(&self, range: PfnRange) {
        self.with_buddy(|_| self.pageblocks.remove_present(range));
        self.present.fetch_sub(range.nr_pages(), Relaxed);
    }

    /// Where the zone is from now on. The window of the stocks keeps its beginning as long as there may be anything in
    /// them, so that only one word of it changes; what comes below is not kept in stocks, and nothing is where the
    /// beginning has gone.
    pub(crate) fn set_span(&self, range: PfnRange) {
        self.span.set(range);
        let window = self.window.range();
        let own = first_of_node(self.topology, range, self.node);
        let next = if window.is_empty() || own.is_empty() {
            own
        } else if own.start() <= window.start() {
            let rest = PfnRange::new(window.start(), range.end());
            first_of_node(self.topology, rest, self.node)
        } else {
            PfnRange::new(window.start(), window.start())
        };
        self.with_buddy(|_| {
            self.set_near(self.nr_near.load(Relaxed), 0);
            self.window.set(next);
        });
        self.pcps.iter().for_each(|pcp| pcp.set_span(next));
    }

    /// Has the stocks keep what comes back from the first so many frames as are in use, up to the end of a pageblock. A block
    /// more may stay: so no mark comes and goes with each batch. The lock is held.
    #[inline(always)]
    fn open_window(&self, nr_free: usize) {
        let (before, wanted) = (self.nr_near.load(Relaxed), self.nr_blocks_in_use(nr_free));
        if wanted > before || wanted + 1 < before {
            self.set_near(before, wanted);
        }
    }

    /// How many pageblocks what is in use would fill, and begin.
    #[inline(always)]
    fn nr_blocks_in_use(&self, nr_free: usize) -> usize {
        // Small blocks in stock count as in use: they are less than a pageblock.
        let others = nr_free + self.nr_large_in_stock.load(Relaxed);
        self.present_pages().saturating_sub(others) / BLOCK + 1
    }

    /// Where the window should end.
    pub(crate) fn window_end(&self) -> Pfn {
        self.window.range().start() + self.nr_blocks_in_use(self.nr_free_pages()) * BLOCK
    }

    #[cold]
    #[inline(never)]
    fn set_near(&self, before: usize, after: usize) {
        let start = self.window.range().start();
        // One more where the zone begins within a pageblock.
        let more = usize::from(!start.is_aligned(Order::PAGEBLOCK));
        let blocks = |from: usize, to: usize| {
            let nth = |nr: usize| match nr {
                0 => start,
                nr => start.align_down(Order::PAGEBLOCK) + (nr + more) * BLOCK,
            };
            PfnRange::new(nth(from), nth(to))
        };
        if before < after {
            self.pageblocks.set_near(blocks(before, after), true);
        } else {
            self.pageblocks.set_near(blocks(after, before), false);
        }
        self.nr_near.store(after, Relaxed);
    }

    pub(crate) fn set_watermarks(&self, marks: Watermarks) {
        self.min.store(marks.min, Relaxed);
        self.low.store(marks.low, Relaxed);
        self.high.store(marks.high, Relaxed);
    }

    pub(crate) fn set_protection(&self, reserve: [usize; ZoneType::COUNT]) {
        for (slot, value) in self.reserve.iter().zip(reserve) {
            slot.store(value, Relaxed);
        }
    }

    pub(crate) fn set_pcp_limits(&self, limits: PcpLimits) {
        self.pcp_batch.store(limits.batch, Relaxed);
        self.pcp_high.store(limits.high, Relaxed);
        let nr_huge = PcpLimits::nr_huge(self.managed_pages(), self.pcps.len());
        let set = |pcp: &Pcp| pcp.set_limits(limits, nr_huge);
        self.pcps.iter().for_each(set);
    }

    /// Counts frames that were taken and given back by number. They are no requests.
    pub(crate) fn count_contig(&self, taken: usize, given: usize) {
        self.with_buddy(|_| {
            let count = |counter: &AtomicU64, by: usize| {
                counter.store(counter.load(Relaxed) + by as u64, Relaxed);
            };
            count(&self.nr_pages_alloced, taken);
            count(&self.nr_pages_freed, given);
        });
    }

    /// Requests that CPUs of other nodes made here.
    pub(crate) fn nr_remote(&self) -> u64 {
        let is_remote = |(cpu, _): &(usize, &Pcp)| self.topology.node_of_cpu(*cpu) != self.node;
        let pcps = self.pcps.iter().enumerate().filter(is_remote);
        let from_stock: u64 = pcps.map(|(_, pcp)| pcp.events().nr_allocs).sum();
        from_stock + self.nr_remote.load(Relaxed)
    }

    /// Requests served, pages handed out, pages taken back.
    pub(crate) fn events(&self) -> (u64, u64, u64) {
        let mut sum = (
            self.nr_allocs.load(Relaxed),
            self.nr_pages_alloced.load(Relaxed),
            self.nr_pages_freed.load(Relaxed),
        );
        for pcp in self.pcps {
            let PcpEvents {
                nr_allocs,
                nr_pages_alloced,
                nr_pages_freed,
            } = pcp.events();
            sum = (
                sum.0 + nr_allocs,
                sum.1 + nr_pages_alloced,
                sum.2 + nr_pages_freed,
            );
        }
        sum
    }
}

/// The first frames of `range` that are the node's, up to another node's.
/// None of a zone so large that the stocks' offsets of 32 bits do not reach: 8 TiB.
fn first_of_node(topology: &'static Topology, range: PfnRange, node: NodeId) -> PfnRange {
    if i32::try_from(range.nr_pages()).is_err() {
        return PfnRange::EMPTY;
    }
    let mut own = by_node(topology, range)
        .skip_while(|(other, _)| *other != node)
        .take_while(|(other, _)| *other == node)
        .map(|(_, piece)| piece);
    let first = own.next().unwrap_or_default();
    own.fold(first, |sum, piece| PfnRange::new(sum.start(), piece.end()))
}

impl<L> Zone<L> {
    pub(crate) const fn counters(&self) -> &ZoneCounters {
        &self.counters
    }
}

impl<L> fmt::Debug for Zone<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone")
            .field("kind", &self.kind)
            .field("range", &self.span.range())
            .field("nr_free", &self.nr_free)
            .field("managed", &self.managed)
            .finish_non_exhaustive()
    }
}

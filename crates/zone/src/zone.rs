//! One zone: its buddy allocator behind the host's lock, its pagesets, its marks and counts. Linux: `struct zone`.

use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use kmm_buddy::{Buddy, FreeError, Pageblocks};
use kmm_frame::{MemMap, Order, Page, Pfn, PfnRange, ZoneType};
use kmm_host::CpuPin;
use lock_api::{Mutex, RawMutex};

use crate::pcp::PcpUse;
use crate::vmstat::ZoneCounters;
use crate::watermark::Effort;
use crate::{Mark, Pcp, PcpLimits, Watermarks};

/// What `private` of a page says while the page is in a pageset: finds double frees, and audits check it.
pub(crate) const IN_PCP: u64 = u64::MAX - 1;

/// Frames that the same requests may use.
///
/// Everything here is safe to read at any time; numbers that belong together are exact while the zone stands still.
pub struct Zone<L> {
    kind: ZoneType,
    range: PfnRange,
    map: MemMap,
    pcps: &'static [Pcp],
    pageblocks: Pageblocks,
    counters: ZoneCounters,
    /// Mirror of the buddy's count, written under its lock, read by the watermark check without it.
    nr_free: AtomicUsize,
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
    buddy: Mutex<L, Buddy>,
}

impl<L: RawMutex> Zone<L> {
    pub(crate) fn new(
        kind: ZoneType,
        range: PfnRange,
        map: MemMap,
        pcps: &'static [Pcp],
        pageblocks: Pageblocks,
    ) -> Self {
        Self {
            kind,
            range,
            map,
            pcps,
            pageblocks,
            counters: ZoneCounters::new(),
            nr_free: AtomicUsize::new(0),
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
            buddy: Mutex::new(Buddy::new(range, map)),
        }
    }

    /// Which zone it is.
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
    pub const fn range(&self) -> PfnRange {
        self.range
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

    /// Whether a request of `order` that `highest` could serve would leave more than `mark` and the reserve.
    /// Linux: `zone_watermark_ok`.
    #[must_use]
    pub fn watermark_ok(&self, order: Order, mark: Mark, highest: ZoneType) -> bool {
        self.may_take(order, Effort::down_to(mark), highest)
    }

    /// Linux: `__zone_watermark_ok`: `free - (2^order - 1) <= min + reserve` refuses.
    pub(crate) fn may_take(&self, order: Order, effort: Effort, highest: ZoneType) -> bool {
        let floor = effort.floor(|mark| match mark {
            Mark::Min => self.min.load(Relaxed),
            Mark::Low => self.low.load(Relaxed),
            Mark::High => self.high.load(Relaxed),
        });
        let Some(floor) = floor else { return true };
        let reserve = self.reserve[highest.index()].load(Relaxed);
        self.nr_free_pages() > floor + reserve + (order.nr_pages() - 1)
    }

    /// Takes a block, a single page from this CPU's stock if there is one. Linux: `rmqueue`.
    pub(crate) fn take(&self, pin: CpuPin<'_>, order: Order) -> Option<Pfn> {
        if order == Order::ZERO {
            if let Some(pcp) = self.pcp(pin) {
                if let Ok(page) = pcp.with(|pcp| self.take_from_pcp(&pcp)) {
                    return page;
                }
            }
        }
        self.take_locked(order)
    }

    /// Puts back a block whose owner gave it up, a single page into this CPU's stock. Linux: `free_unref_page`.
    ///
    /// # Errors
    /// A frame that the buddy allocator refused, and why: its books were spoiled before. It may be another frame than
    /// `pfn`, and is dropped.
    pub(crate) fn put(
        &self,
        pin: CpuPin<'_>,
        pfn: Pfn,
        order: Order,
    ) -> Result<(), (Pfn, FreeError)> {
        if order == Order::ZERO {
            if let Some(pcp) = self.pcp(pin) {
                if let Ok(result) = pcp.with(|pcp| self.put_to_pcp(&pcp, pfn)) {
                    return result;
                }
            }
        }
        self.put_locked(pfn, order)
    }

    /// Gives all of this CPU's stock back; how many pages. Linux: `drain_pages_zone`.
    ///
    /// # Errors
    /// As for [`Zone::put`]; every page left the stock all the same.
    pub(crate) fn drain(&self, pin: CpuPin<'_>) -> Result<usize, (Pfn, FreeError)> {
        match self.pcp(pin) {
            Some(pcp) => self.drain_one(pcp),
            None => Ok(0),
        }
    }

    /// As [`Zone::drain`], of any CPU, which must stand still (INV-3).
    pub(crate) fn drain_one(&self, pcp: &Pcp) -> Result<usize, (Pfn, FreeError)> {
        // A stock that is in use further out stays: its user goes on with it.
        pcp.with(|pcp| self.drain_from(&pcp, usize::MAX))
            .unwrap_or(Ok(0))
    }

    /// Calls `f` with the buddy allocator under the lock, and keeps the mirror of its count true (INV-4).
    pub(crate) fn with_buddy<R>(&self, f: impl FnOnce(&mut Buddy) -> R) -> R {
        let mut buddy = self.buddy.lock();
        let result = f(&mut buddy);
        self.nr_free.store(buddy.nr_free_pages(), Relaxed);
        result
    }

    /// Whether the descriptor says that the page is in a pageset of this zone.
    pub(crate) fn is_stock(&self, pfn: Pfn) -> bool {
        let marked = |page: &Page| page.private() == IN_PCP && page.ref_count() == 0;
        self.range.contains(pfn) && self.map.get(pfn).is_some_and(marked)
    }

    pub(crate) const fn pcps(&self) -> &'static [Pcp] {
        self.pcps
    }

    pub(crate) const fn pageblocks(&self) -> &Pageblocks {
        &self.pageblocks
    }

    pub(crate) fn add_present(&self, range: PfnRange) {
        self.pageblocks.add_present(range);
        self.present.fetch_add(range.nr_pages(), Relaxed);
    }

    pub(crate) fn add_managed(&self, nr_pages: usize) {
        self.managed.fetch_add(nr_pages, Relaxed);
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
    }

    /// Requests served, pages handed out, pages taken back.
    pub(crate) fn events(&self) -> (u64, u64, u64) {
        let mut sum = (
            self.nr_allocs.load(Relaxed),
            self.nr_pages_alloced.load(Relaxed),
            self.nr_pages_freed.load(Relaxed),
        );
        for pcp in self.pcps {
            let (allocs, frees) = pcp.events();
            sum = (sum.0 + allocs, sum.1 + allocs, sum.2 + frees);
        }
        sum
    }

    fn pcp(&self, pin: CpuPin<'_>) -> Option<&'static Pcp> {
        self.pcps.get(pin.cpu().index())
    }

    fn take_from_pcp(&self, pcp: &PcpUse<'_>) -> Option<Pfn> {
        let page = match pcp.pop() {
            Some(page) => page,
            None => self.refill(pcp)?,
        };
        pcp.note_alloc();
        Some(page)
    }

    fn put_to_pcp(&self, pcp: &PcpUse<'_>, pfn: Pfn) -> Result<(), (Pfn, FreeError)> {
        self.map.page(pfn).set_private(IN_PCP);
        pcp.note_free();
        let count = pcp.push(pfn);
        if count < self.pcp_high.load(Relaxed) {
            return Ok(());
        }
        self.drain_from(pcp, self.pcp_batch.load(Relaxed))
            .map(|_| ())
    }

    /// Stocks up by a batch and takes one of it. Pages come out in the order of the free lists. Linux: `rmqueue_bulk`.
    #[cold]
    fn refill(&self, pcp: &PcpUse<'_>) -> Option<Pfn> {
        let batch = self.pcp_batch.load(Relaxed).min(Pcp::CAPACITY);
        self.with_buddy(|buddy| {
            for _ in 0..batch {
                let Ok(pfn) = buddy.take(Order::ZERO) else {
                    break;
                };
                self.map.page(pfn).set_private(IN_PCP);
                pcp.push_bottom(pfn);
            }
        });
        pcp.pop()
    }

    /// Linux: `free_pcppages_bulk`.
    fn drain_from(&self, pcp: &PcpUse<'_>, most: usize) -> Result<usize, (Pfn, FreeError)> {
        let mut count = 0;
        let mut refused = None;
        self.with_buddy(|buddy| {
            while count < most {
                let Some(pfn) = pcp.pop_bottom() else { break };
                self.map.page(pfn).set_private(0);
                if let Err(why) = buddy.put(pfn, Order::ZERO) {
                    refused = refused.or(Some((pfn, why)));
                }
                count += 1;
            }
        });
        refused.map_or(Ok(count), Err)
    }

    fn take_locked(&self, order: Order) -> Option<Pfn> {
        self.with_buddy(|buddy| {
            let pfn = buddy.take(order).ok()?;
            bump(&self.nr_allocs, 1);
            bump(&self.nr_pages_alloced, order.nr_pages());
            Some(pfn)
        })
    }

    fn put_locked(&self, pfn: Pfn, order: Order) -> Result<(), (Pfn, FreeError)> {
        self.with_buddy(|buddy| {
            buddy.put(pfn, order).map_err(|why| (pfn, why))?;
            bump(&self.nr_pages_freed, order.nr_pages());
            Ok(())
        })
    }
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
            .field("range", &self.range)
            .field("nr_free", &self.nr_free)
            .field("managed", &self.managed)
            .finish_non_exhaustive()
    }
}

/// Adds to a counter that is written under the zone lock only, so without a locked instruction.
fn bump(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Relaxed) + by as u64, Relaxed);
}

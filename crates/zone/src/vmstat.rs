//! What memory is used for and what happened, by count. Linux: mm/vmstat.c.
//!
//! Each count is a total that all CPUs share, and a small difference for each CPU ([`CpuCounts`]). A CPU counts in its own
//! difference: loads and stores of its own line, no locked instruction. Only when the difference leaves
//! `-threshold..=threshold`, it goes to the total at once. So a total is off by no more than the threshold for each CPU,
//! and a sum over all differences ([`NodeCounters::snapshot`]) by what is being counted at this moment.
//!
//! | word | written by | read by |
//! |---|---|---|
//! | difference, event | its own CPU, under its in-use mark | anybody |
//! | total | anybody, `fetch_add` | anybody |
//! | threshold | who changes watermarks | its CPU |
//!
//! An interrupt that counts while the code below it has the mark adds to the total itself: nothing is lost, and nothing
//! needs interrupts off (INV-7). Linux's `cmpxchg_local` does the same for one word at a time.

use core::fmt;

use kmm_frame::{NodeCounts, NodeItem, NumaItem, VmEvent, VmEventCounts, ZoneItem, ZoneType};
use kmm_host::{CpuId, CpuPin, InUse, UseMark};
use kmm_kcoll::sync::atomic::{AtomicI8, AtomicIsize, AtomicU64, Ordering::Relaxed};

use crate::LruList;

/// No difference gets larger, so that it fits into a byte. Linux: 125 too.
const MOST: usize = 125;

/// An array of atomics at zero. Loom's are not made in constants.
macro_rules! zeros {
    ($atomic:ident; $count:expr) => {{
        #[cfg(not(loom))]
        {
            [const { $atomic::new(0) }; $count]
        }
        #[cfg(loom)]
        {
            core::array::from_fn(|_| $atomic::new(0))
        }
    }};
}

/// A function that is `const` but under loom.
macro_rules! const_unless_loom {
    ($(#[$attribute:meta])* $vis:vis fn $name:ident() -> Self $body:block) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        $vis const fn $name() -> Self $body
        #[cfg(loom)]
        $(#[$attribute])*
        $vis fn $name() -> Self $body
    };
}

mod zone;

pub(crate) use zone::ZoneCounters;

/// How far the counts of one CPU may run ahead of a zone's, in pages. Grows with the zone and with the CPUs.
/// Linux: `calculate_normal_threshold`.
#[must_use]
pub const fn normal_threshold(managed_pages: usize, nr_cpus: usize) -> usize {
    let blocks_of_128_mib = managed_pages >> (27 - kmm_frame::PAGE_SHIFT);
    let threshold = 2 * bits(nr_cpus) * (1 + bits(blocks_of_128_mib));
    if threshold < MOST { threshold } else { MOST }
}

/// As [`normal_threshold`], when memory is so short that `min` may be passed unseen: all CPUs together stay below the
/// distance of the marks. Linux: `calculate_pressure_threshold`.
#[must_use]
pub const fn pressure_threshold(low: usize, min: usize, nr_cpus: usize) -> usize {
    let cpus = if nr_cpus == 0 { 1 } else { nr_cpus };
    match low.saturating_sub(min) / cpus {
        0 => 1,
        share if share < MOST => share,
        _ => MOST,
    }
}

/// Linux: `fls`.
const fn bits(value: usize) -> usize {
    (usize::BITS - value.leading_zeros()) as usize
}

/// What one CPU has counted of one node, alone on its cache lines. Linux: `per_cpu_zonestat`, `per_cpu_nodestat`,
/// `vm_event_states`.
#[derive(Debug)]
#[repr(align(128))]
pub struct CpuCounts {
    mark: UseMark,
    node: Diffs<{ NodeItem::COUNT }>,
    zones: [Diffs<{ ZoneItem::COUNT }>; ZoneType::COUNT],
    numa: [[AtomicU64; NumaItem::COUNT]; ZoneType::COUNT],
    events: [AtomicU64; VmEvent::COUNT],
}

impl CpuCounts {
    const_unless_loom! {
        /// Nothing counted yet.
        #[must_use]
        pub fn new() -> Self {
            #[cfg(not(loom))]
            let (zones, numa) = (
                [const { Diffs::new() }; ZoneType::COUNT],
                [const { [const { AtomicU64::new(0) }; NumaItem::COUNT] }; ZoneType::COUNT],
            );
            #[cfg(loom)]
            let (zones, numa) = (
                core::array::from_fn(|_| Diffs::new()),
                core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))),
            );
            Self {
                mark: UseMark::new(),
                node: Diffs::new(),
                zones,
                numa,
                events: zeros!(AtomicU64; VmEvent::COUNT),
            }
        }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<CpuCounts>() == 1280);

impl Default for CpuCounts {
    fn default() -> Self {
        Self::new()
    }
}

/// The differences of one CPU.
#[derive(Debug)]
struct Diffs<const N: usize> {
    /// At 0, everything goes to the total at once.
    threshold: AtomicI8,
    diffs: [AtomicI8; N],
}

impl<const N: usize> Diffs<N> {
    const_unless_loom! {
        fn new() -> Self {
            Self {
                threshold: AtomicI8::new(0),
                diffs: zeros!(AtomicI8; N),
            }
        }
    }

    fn set_threshold(&self, threshold: usize) {
        let threshold = i8::try_from(threshold.min(MOST)).unwrap_or(i8::MAX);
        self.threshold.store(threshold, Relaxed);
    }

    fn threshold(&self) -> usize {
        usize::from(self.threshold.load(Relaxed).unsigned_abs())
    }

    /// Under the mark. What goes over the threshold goes to the total; one page more or less takes half a threshold of its
    /// like along, so that counting up and down at the edge does not go there every time.
    #[inline]
    fn add(&self, index: usize, delta: isize, total: &AtomicIsize) {
        let diff = &self.diffs[index];
        let threshold = self.threshold.load(Relaxed);
        let sum = delta.wrapping_add(isize::from(diff.load(Relaxed)));
        match i8::try_from(sum) {
            Ok(small) if small.unsigned_abs() <= threshold.unsigned_abs() => {
                diff.store(small, Relaxed);
            }
            _ => {
                let ahead = match delta {
                    1 => threshold / 2,
                    -1 => -(threshold / 2),
                    _ => 0,
                };
                diff.store(-ahead, Relaxed);
                total.fetch_add(sum.wrapping_add(isize::from(ahead)), Relaxed);
            }
        }
    }

    fn diff(&self, index: usize) -> isize {
        isize::from(self.diffs[index].load(Relaxed))
    }

    /// By the CPU itself under the mark, or while it does not run. Whether there was anything.
    fn fold(&self, totals: &[AtomicIsize; N]) -> bool {
        let mut any = false;
        for (diff, total) in self.diffs.iter().zip(totals) {
            let ahead = diff.load(Relaxed);
            if ahead != 0 {
                any = true;
                diff.store(0, Relaxed);
                total.fetch_add(isize::from(ahead), Relaxed);
            }
        }
        any
    }
}

/// The share of the pinned CPU, if it has one.
#[inline]
fn share_of(shares: &'static [CpuCounts], pin: CpuPin<'_>) -> Option<&'static CpuCounts> {
    shares.get(pin.cpu().index())
}

/// Runs `f` with the share of the pinned CPU under its mark.
#[inline]
fn with_share(
    shares: &'static [CpuCounts],
    pin: CpuPin<'_>,
    f: impl FnOnce(&'static CpuCounts),
) -> Result<(), InUse> {
    let share = share_of(shares, pin).ok_or(InUse)?;
    share.mark.hold(|| f(share))
}

/// One writer at a time, no locked instruction.
#[inline]
fn bump(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
}

/// The sum of a total and of the differences of all CPUs. Two changes that belong together may be seen apart: never less
/// than 0.
fn snapshot(total: &AtomicIsize, diffs: impl Iterator<Item = isize>) -> u64 {
    let sum = diffs.fold(total.load(Relaxed), isize::wrapping_add);
    u64::try_from(sum).unwrap_or(0)
}

/// The counts of a node, and the events counted by its CPUs' shares. Linux: `pglist_data::vm_stat`.
pub struct NodeCounters {
    totals: [AtomicIsize; NodeItem::COUNT],
    /// Of CPUs that have no share, and of interrupts that found it in use.
    events: [AtomicU64; VmEvent::COUNT],
    shares: &'static [CpuCounts],
}

impl NodeCounters {
    /// Nothing counted yet; a CPU without a share counts in the totals.
    #[must_use]
    pub fn new(shares: &'static [CpuCounts]) -> Self {
        Self {
            totals: zeros!(AtomicIsize; NodeItem::COUNT),
            events: zeros!(AtomicU64; VmEvent::COUNT),
            shares,
        }
    }

    /// Adds to a count, or takes away. Linux: `mod_node_page_state`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn add(&self, pin: CpuPin<'_>, item: NodeItem, delta: isize) {
        let total = &self.totals[item.index()];
        let counted = with_share(self.shares, pin, |share| {
            share.node.add(item.index(), delta, total);
        });
        if counted.is_err() {
            total.fetch_add(delta, Relaxed);
        }
    }

    /// As [`NodeCounters::add`], by the total: for who knows no CPU, or counts much at once.
    pub fn add_to_total(&self, item: NodeItem, delta: isize) {
        self.totals[item.index()].fetch_add(delta, Relaxed);
    }

    /// Counts events. Linux: `count_vm_events`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn count_event(&self, pin: CpuPin<'_>, event: VmEvent, more: u64) {
        let counted = with_share(self.shares, pin, |share| {
            bump(&share.events[event.index()], more);
        });
        if counted.is_err() {
            self.events[event.index()].fetch_add(more, Relaxed);
        }
    }

    /// The total, without what CPUs have not passed on; never less than 0. Linux: `node_page_state`.
    #[must_use]
    pub fn total(&self, item: NodeItem) -> u64 {
        u64::try_from(self.totals[item.index()].load(Relaxed)).unwrap_or(0)
    }

    /// The count with what CPUs have not passed on; exact while they count nothing. Linux: `node_page_state_snapshot`.
    #[must_use]
    pub fn snapshot(&self, item: NodeItem) -> u64 {
        let diffs = self.shares.iter().map(|cpu| cpu.node.diff(item.index()));
        snapshot(&self.totals[item.index()], diffs)
    }

    /// All counts, as [`NodeCounters::snapshot`].
    #[must_use]
    pub fn counts(&self) -> NodeCounts {
        NodeCounts::from_fn(|item| self.snapshot(item))
    }

    /// How often each thing happened. Linux: `all_vm_events`.
    #[must_use]
    pub fn events(&self) -> VmEventCounts {
        VmEventCounts::from_fn(|event| {
            let each = self.shares.iter().map(|cpu| &cpu.events[event.index()]);
            let all = each.chain([&self.events[event.index()]]);
            all.map(|count| count.load(Relaxed)).sum()
        })
    }

    /// Passes on what this CPU has counted; whether there was anything. Not while code below it is counting.
    /// Linux: the node's part of `refresh_cpu_vm_stats`.
    pub fn fold(&self, pin: CpuPin<'_>) -> bool {
        let mut any = false;
        let folded = with_share(self.shares, pin, |share| {
            any = share.node.fold(&self.totals);
        });
        folded.is_ok() && any
    }

    /// Passes on what `cpu` has counted, which does not run any more: else counts get wrong. Linux: `cpu_vm_stats_fold`.
    pub fn fold_dead(&self, cpu: CpuId) -> bool {
        let share = self.shares.get(cpu.index());
        share.is_some_and(|share| share.node.fold(&self.totals))
    }

    /// How far each CPU may run ahead; at most 125.
    pub fn set_threshold(&self, threshold: usize) {
        for share in self.shares {
            share.node.set_threshold(threshold);
        }
    }

    /// How far `cpu` may run ahead.
    #[must_use]
    pub fn threshold(&self, cpu: CpuId) -> usize {
        let share = self.shares.get(cpu.index());
        share.map_or(0, |share| share.node.threshold())
    }
}

impl fmt::Debug for NodeCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCounters")
            .field("totals", &self.totals)
            .field("nr_shares", &self.shares.len())
            .finish_non_exhaustive()
    }
}

impl From<LruList> for ZoneItem {
    fn from(list: LruList) -> Self {
        match list {
            LruList::InactiveAnon => Self::InactiveAnon,
            LruList::ActiveAnon => Self::ActiveAnon,
            LruList::InactiveFile => Self::InactiveFile,
            LruList::ActiveFile => Self::ActiveFile,
            LruList::Unevictable => Self::Unevictable,
        }
    }
}

impl From<LruList> for NodeItem {
    fn from(list: LruList) -> Self {
        match list {
            LruList::InactiveAnon => Self::InactiveAnon,
            LruList::ActiveAnon => Self::ActiveAnon,
            LruList::InactiveFile => Self::InactiveFile,
            LruList::ActiveFile => Self::ActiveFile,
            LruList::Unevictable => Self::Unevictable,
        }
    }
}

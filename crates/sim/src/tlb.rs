//! What each CPU remembers of the tables.
//!
//! A TLB here never forgets by itself: whatever a real one may remember, it does. Entries belong to a root, as with
//! PCIDs, or to all when they are global.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kmm_frame::{Pfn, PfnRange, VirtAddr};
use kmm_host::{CpuId, TlbControl, TlbTarget};

use crate::machine::Inner;
use crate::mmu::Translation;

/// Sizes of page: 4 KiB, 2 MiB, 1 GiB.
const SHIFTS: [u32; 3] = [12, 21, 30];
/// Ranges up to so many pages are looked up page by page; for longer ones, everything remembered is gone through.
const FEW_PAGES: u64 = 64;

/// Whose translation one is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Space {
    /// Of the address space with this top table.
    Root(Pfn),
    /// Of all.
    Global,
}

impl Space {
    pub(crate) const fn of(root: Pfn, global: bool) -> Self {
        if global {
            Self::Global
        } else {
            Self::Root(root)
        }
    }
}

/// What one CPU remembers.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    pages: HashMap<Space, HashMap<(u32, u64), Translation>>,
    /// Tables that the CPU saw on its way and may go on walking: of the user half, of the kernel half.
    tables: HashMap<Pfn, [HashSet<Pfn>; 2]>,
}

impl Tlb {
    pub(crate) fn find(&self, root: Pfn, va: VirtAddr) -> Option<Translation> {
        let spaces = [Space::Root(root), Space::Global];
        let spaces = spaces.iter().filter_map(|space| self.pages.get(space));
        let mut found = spaces.flat_map(|pages| {
            SHIFTS
                .iter()
                .filter_map(|shift| pages.get(&key(*shift, va)))
        });
        found.next().copied()
    }

    pub(crate) fn remember(&mut self, space: Space, page: Translation) {
        self.pages
            .entry(space)
            .or_default()
            .insert(key(page.shift, page.va), page);
    }

    pub(crate) fn forget(&mut self, root: Pfn, va: VirtAddr) {
        for space in [Space::Root(root), Space::Global] {
            self.forget_page(space, va);
        }
    }

    pub(crate) fn saw_tables(&mut self, root: Pfn, va: VirtAddr, path: &[Pfn]) {
        self.tables.entry(root).or_default()[half(va)].extend(path);
    }

    fn may_walk(&self, table: Pfn) -> bool {
        self.tables
            .values()
            .flatten()
            .any(|tables| tables.contains(&table))
    }

    fn maps_any_of(&self, frames: PfnRange) -> Option<&Translation> {
        let mut all = self.pages.values().flat_map(HashMap::values);
        all.find(|page| {
            PfnRange::with_len(page.phys.pfn(), 1 << (page.shift - 12)).overlaps(frames)
        })
    }

    fn forget_page(&mut self, space: Space, va: VirtAddr) {
        if let Some(pages) = self.pages.get_mut(&space) {
            for shift in SHIFTS {
                pages.remove(&key(shift, va));
            }
        }
    }

    fn forget_range(&mut self, space: Space, range: &Range<VirtAddr>) {
        let last = VirtAddr::new(range.end.as_u64().wrapping_sub(1));
        if (last.as_u64().wrapping_sub(range.start.as_u64()) >> 12) < FEW_PAGES {
            let first = range.start.page_number();
            for page_number in first..=last.page_number() {
                self.forget_page(space, VirtAddr::new(page_number << 12));
            }
        } else if let Some(pages) = self.pages.get_mut(&space) {
            pages.retain(|_, page| {
                let page_last = page.va.as_u64() + ((1 << page.shift) - 1);
                last < page.va || page_last < range.start.as_u64()
            });
        }
    }

    /// Flushing any page drops everything remembered of tables above the last level (SDM 3A 4.10.4.1, INVLPG).
    fn flush_range(&mut self, target: TlbTarget, range: &Range<VirtAddr>) {
        match target {
            TlbTarget::User { root } => {
                self.forget_range(Space::Root(root), range);
                self.tables.entry(root).or_default()[0].clear();
            }
            TlbTarget::Kernel => {
                let spaces: Vec<_> = self.pages.keys().copied().collect();
                for space in spaces {
                    self.forget_range(space, range);
                }
                self.tables
                    .values_mut()
                    .for_each(|halves| halves[1].clear());
            }
        }
    }

    /// Loading CR3 drops all that is remembered of its tables, whatever half they are for (SDM 3A 4.10.4.1, MOV to CR3).
    fn flush_all(&mut self, target: TlbTarget) {
        match target {
            TlbTarget::User { root } => {
                if let Some(pages) = self.pages.get_mut(&Space::Root(root)) {
                    pages.retain(|_, page| half(page.va) == 1);
                }
                self.tables.remove(&root);
            }
            TlbTarget::Kernel => {
                for pages in self.pages.values_mut() {
                    pages.retain(|_, page| half(page.va) == 0);
                }
                self.tables
                    .values_mut()
                    .for_each(|halves| halves[1].clear());
            }
        }
    }
}

const fn key(shift: u32, va: VirtAddr) -> (u32, u64) {
    (shift, va.as_u64() >> shift)
}

/// 0 for the user half, 1 for the kernel's.
const fn half(va: VirtAddr) -> usize {
    (va.as_u64() >> 63) as usize
}

/// The TLBs of all CPUs.
#[derive(Debug)]
pub(crate) struct Tlbs {
    cpus: Vec<Mutex<Tlb>>,
    nr_flushes: AtomicU64,
}

impl Tlbs {
    pub(crate) fn new(nr_cpus: usize) -> Self {
        Self {
            cpus: (0..nr_cpus).map(|_| Mutex::default()).collect(),
            nr_flushes: AtomicU64::new(0),
        }
    }

    pub(crate) fn of(&self, cpu: CpuId) -> MutexGuard<'_, Tlb> {
        let tlb = self.cpus.get(cpu.index());
        lock(tlb.unwrap_or_else(|| panic!("there is no CPU {}", cpu.index())))
    }

    pub(crate) fn cpu_that_may_walk(&self, table: Pfn) -> Option<usize> {
        self.cpus.iter().position(|tlb| lock(tlb).may_walk(table))
    }

    fn each(&self, f: impl Fn(&mut Tlb)) {
        self.nr_flushes.fetch_add(1, Ordering::Relaxed);
        self.cpus.iter().for_each(|tlb| f(&mut lock(tlb)));
    }
}

/// A test that panicked while it held a TLB leaves it whole: no operation stops half way.
fn lock(tlb: &Mutex<Tlb>) -> MutexGuard<'_, Tlb> {
    tlb.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Flushes the TLBs of all CPUs, and shows what they remember.
#[derive(Clone, Copy, Debug)]
pub struct SimTlb {
    machine: &'static Inner,
}

impl SimTlb {
    pub(crate) const fn new(machine: &'static Inner) -> Self {
        Self { machine }
    }

    /// How many flushes there were, of ranges and of all: shootdowns, on a real machine.
    #[must_use]
    pub fn nr_flushes(&self) -> u64 {
        self.machine.tlbs.nr_flushes.load(Ordering::Relaxed)
    }

    /// A CPU that remembers a translation to one of `frames`, and the translation: they may not be freed.
    #[must_use]
    pub fn remembers_frames(&self, frames: PfnRange) -> Option<(CpuId, Translation)> {
        (0..).zip(&self.machine.tlbs.cpus).find_map(|(cpu, tlb)| {
            let page = lock(tlb).maps_any_of(frames).copied()?;
            Some((CpuId::new(cpu), page))
        })
    }

    /// Panics when a CPU remembers a translation to one of `frames`.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn assert_forgotten(&self, frames: PfnRange) {
        if let Some((cpu, page)) = self.remembers_frames(frames) {
            panic!(
                "{frames:?} is freed, but CPU {} remembers {page}",
                cpu.index()
            );
        }
    }
}

impl TlbControl for SimTlb {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        let aligned = range.start.is_page_aligned() && range.end.is_page_aligned();
        assert!(aligned, "flush of {range:?}, not aligned to pages");
        self.machine
            .tlbs
            .each(|tlb| tlb.flush_range(target, &range));
    }

    fn flush_all(&self, target: TlbTarget) {
        self.machine.tlbs.each(|tlb| tlb.flush_all(target));
    }
}

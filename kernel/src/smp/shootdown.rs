//! TLB shootdown: what another CPU remembers of a page table that has changed is flushed there.
//!
//! The asker writes what to flush into its own mailbox, sets its bit in the words of all CPUs that may remember it, interrupts them,
//! flushes its own TLB and waits until each has taken its bit out of `waiting`. It asks with interrupts off, so it has one request at a
//! time. Two that ask each other answer each other in their waits, and so does whoever waits for a lock that an asker holds.
//!
//! Of a program's addresses only those CPUs are told that have its top table in CR3: loading CR3 forgets all that is not global. A
//! CPU says so before it loads the table; while it is between two, it is told everything. Linux: `flush_tlb_mm_range`, `mm_cpumask`.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use kmm::frame::{Pfn, VirtAddr};
use kmm::host::TlbTarget;

use super::{bit, each, mailbox, notify, others, root_word};
use crate::arch::{interrupts, percpu};
use crate::mm;
use crate::sync::Patience;

/// In a request: the kernel's addresses. No top table lies in frame 0.
const KERNEL: u64 = 0;
/// In CR3's word: about to change.
const CHANGING: u64 = u64::MAX;

/// How much to flush.
#[derive(Clone, Debug)]
pub enum Flush {
    /// Everything of the target.
    All,
    /// These pages.
    Range(Range<VirtAddr>),
}

/// What one CPU wants of others.
pub(super) struct Request {
    /// Frame of the top table, or [`KERNEL`].
    root: AtomicU64,
    /// First address, and the one behind the last; equal for everything.
    start: AtomicU64,
    end: AtomicU64,
    /// Who has not answered.
    waiting: AtomicU64,
}

impl Request {
    pub(super) const fn new() -> Self {
        Self {
            root: AtomicU64::new(KERNEL),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    fn write(&self, target: TlbTarget, flush: &Flush, cpus: u64) {
        let root = match target {
            TlbTarget::Kernel => KERNEL,
            TlbTarget::User { root } => root_word(root),
        };
        let (start, end) = match flush {
            Flush::All => (0, 0),
            Flush::Range(range) => (range.start.as_u64(), range.end.as_u64()),
        };
        self.root.store(root, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.waiting.store(cpus, Ordering::Relaxed);
    }

    fn read(&self) -> (TlbTarget, Flush) {
        let target = match self.root.load(Ordering::Relaxed) {
            KERNEL => TlbTarget::Kernel,
            root => TlbTarget::User {
                root: Pfn::new(usize::try_from(root).unwrap_or(usize::MAX)),
            },
        };
        let (start, end) = (
            self.start.load(Ordering::Relaxed),
            self.end.load(Ordering::Relaxed),
        );
        if start == end {
            (target, Flush::All)
        } else {
            (
                target,
                Flush::Range(VirtAddr::new(start)..VirtAddr::new(end)),
            )
        }
    }
}

/// This CPU is about to load another top table, or has done so.
pub fn note_root(root: Option<Pfn>) {
    let word = root.map_or(CHANGING, root_word);
    // Before the first walk of the new tables: whoever has changed them and looks here afterwards sees it, or the walk sees the change.
    mailbox(percpu::cpu()).root.swap(word, Ordering::SeqCst);
}

/// The CPUs that may remember something of the target, this one left out.
fn who_remembers(target: TlbTarget) -> u64 {
    let others = others();
    let TlbTarget::User { root } = target else {
        return others;
    };
    // The entries were changed before; see `note_root`.
    fence(Ordering::SeqCst);
    let knows = |&cpu: &u32| {
        let loaded = mailbox(cpu).root.load(Ordering::SeqCst);
        loaded == root_word(root) || loaded == CHANGING
    };
    each(others)
        .filter(knows)
        .fold(0, |mask, cpu| mask | bit(cpu))
}

/// Flushes translations here and wherever else they may be remembered. When it returns, none of them is used any more.
///
/// # Context
/// Any but NMI; does not sleep. Locks may be held: who waits for one answers.
///
/// # Panics
/// When a CPU does not answer for seconds.
pub fn flush_tlb(target: TlbTarget, flush: &Flush) {
    if others() == 0 {
        return mm::flush_tlb_here(target, flush);
    }
    interrupts::push_off();
    let cpus = who_remembers(target);
    let me = percpu::cpu();
    let request = &mailbox(me).request;
    if cpus != 0 {
        request.write(target, flush, cpus);
        for cpu in each(cpus) {
            mailbox(cpu)
                .flushes_wanted
                .fetch_or(bit(me), Ordering::SeqCst);
        }
        notify(cpus);
    }
    mm::flush_tlb_here(target, flush);
    let mut patience = Patience::default();
    while request.waiting.load(Ordering::Acquire) != 0 {
        assert!(
            patience.spin(),
            "CPUs {:#x} do not flush their TLBs",
            request.waiting.load(Ordering::Relaxed)
        );
    }
    interrupts::pop_off();
}

/// Does what other CPUs are waiting for, if there is something: flushes of the TLB.
///
/// # Context
/// Any but NMI, locks held or not.
#[inline]
pub fn poll() {
    let me = percpu::cpu();
    if mailbox(me).flushes_wanted.load(Ordering::Relaxed) != 0 {
        answer(me);
    }
}

#[cold]
fn answer(me: u32) {
    // An interrupt in between would answer for the rest, and the asker must not go on before this one is done: so none comes.
    interrupts::without(|| {
        for asker in each(mailbox(me).flushes_wanted.swap(0, Ordering::SeqCst)) {
            let request = &mailbox(asker).request;
            let (target, flush) = request.read();
            mm::flush_tlb_here(target, &flush);
            mailbox(me).nr_flushes.fetch_add(1, Ordering::Relaxed);
            request.waiting.fetch_and(!bit(me), Ordering::Release);
        }
    });
}

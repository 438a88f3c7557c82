//! What the tests share: a shadow for addresses that nobody touches, and reports kept.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part of it"
)]

use core::cell::Cell;
use core::sync::atomic::AtomicU8;
use std::sync::Mutex;

use kmm_frame::VirtAddr;
use kmm_host::Backtrace;
use kmm_kasan::{
    Access, AccessKind, BugKind, Kasan, KasanConfig, KasanStorage, Report, SliceShadow,
};

/// Where the watched memory begins.
pub const START: VirtAddr = VirtAddr::new(0xffff_8880_0123_0000);

pub type Lock = spin::Mutex<()>;
pub type OnBug = fn(&Report);
pub type Rig = Kasan<SliceShadow<'static>, Lock, Caller, OnBug>;

/// The stack of whoever is named.
#[derive(Debug)]
pub struct Caller;

std::thread_local! {
    static WHO: Cell<usize> = const { Cell::new(0) };
}
static REPORTS: Mutex<Vec<(std::thread::ThreadId, Report)>> = Mutex::new(Vec::new());

/// From now on, this code runs: task `who` with the stack `who * 16, who * 16 + 1`.
pub fn run_as(who: usize) {
    WHO.set(who);
}

impl Backtrace for Caller {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        let who = WHO.get();
        addresses[0] = who * 16;
        addresses[1] = who * 16 + 1;
        2
    }

    fn tag(&self) -> u64 {
        WHO.get() as u64
    }
}

pub fn keep(report: &Report) {
    let me = std::thread::current().id();
    REPORTS.lock().unwrap().push((me, *report));
}

/// What was reported on this thread since the last call.
pub fn reports() -> Vec<Report> {
    let me = std::thread::current().id();
    let mut all = REPORTS.lock().unwrap();
    let (mine, others) = all.drain(..).partition(|(thread, _)| *thread == me);
    *all = others;
    let mine: Vec<(std::thread::ThreadId, Report)> = mine;
    mine.into_iter().map(|(_, report)| report).collect()
}

/// The classes of what was reported.
pub fn kinds() -> Vec<BugKind> {
    reports().iter().map(|report| report.kind).collect()
}

pub fn shadow(size_bytes: usize) -> SliceShadow<'static> {
    let bytes: Vec<AtomicU8> = (0..size_bytes / 8).map(|_| AtomicU8::new(0)).collect();
    SliceShadow::new(START, bytes.leak())
}

/// A sanitizer for `size_bytes` from [`START`] on, which remembers `nr_records` objects and lets `nr_waiting` wait.
pub fn rig(
    size_bytes: usize,
    nr_records: usize,
    nr_waiting: usize,
    quarantine_bytes: usize,
) -> Rig {
    let storage = KasanStorage {
        records: vec![None; nr_records].leak(),
        waiting: vec![None; nr_waiting].leak(),
    };
    let mut config = KasanConfig::new(keep as OnBug);
    config.quarantine_bytes = quarantine_bytes;
    Kasan::new(shadow(size_bytes), Caller, storage, config)
}

pub fn access(addr: VirtAddr, size_bytes: usize, kind: AccessKind) -> Access {
    Access {
        addr,
        size_bytes,
        kind,
    }
}

//! The whole: shadow, records, quarantine, reports.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kmm_frame::VirtAddr;
use kmm_host::{Backtrace, Freed, ObjectSlot, Sanitizer};
use lock_api::{Mutex, RawMutex};

use crate::bug::{Access, BugKind};
use crate::poison::Poison;
use crate::quarantine::Quarantine;
use crate::record::{IsOwn, NameOf, Record, Records, Track};
use crate::report::{self, Report};
use crate::shadow::{GRANULE_BYTES, Shadow};

/// What the host lends.
#[derive(Debug)]
pub struct KasanStorage {
    /// Room for what is known of so many objects and areas. Without room reports name no object.
    pub records: &'static mut [Option<Record>],
    /// Room for so many objects that wait. Without room none waits.
    pub waiting: &'static mut [Option<ObjectSlot>],
}

/// What the host decides.
pub struct KasanConfig<F> {
    /// So many bytes of freed objects wait at most. Linux: `quarantine_max_size`, a thirty-second of all memory.
    pub quarantine_bytes: usize,
    /// The names of addresses.
    pub name_of: NameOf,
    /// Whether stacks are told without an address at their inner end.
    pub is_own: IsOwn,
    /// Is told of each bug, without any lock. Then the allocator goes on, unless this panics.
    pub on_bug: F,
}

impl<F: Fn(&Report)> KasanConfig<F> {
    /// A quarantine of 1 MiB; addresses are printed as numbers.
    pub const fn new(on_bug: F) -> Self {
        Self {
            quarantine_bytes: 1 << 20,
            name_of: report::hexadecimal,
            is_own: |_| false,
            on_bug,
        }
    }
}

impl<F> fmt::Debug for KasanConfig<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KasanConfig")
            .field("quarantine_bytes", &self.quarantine_bytes)
            .finish_non_exhaustive()
    }
}

/// Knows of every byte whether it may be touched.
pub struct Kasan<S, L, B, F> {
    shadow: S,
    backtrace: B,
    config: KasanConfig<F>,
    records: Mutex<L, Records>,
    waiting: Mutex<L, Quarantine>,
    nr_bugs: AtomicUsize,
}

impl<S: Shadow, L: RawMutex, B: Backtrace, F: Fn(&Report)> Kasan<S, L, B, F> {
    /// Nothing is known yet: what the shadow says holds.
    pub const fn new(
        shadow: S,
        backtrace: B,
        storage: KasanStorage,
        config: KasanConfig<F>,
    ) -> Self {
        let waiting = Quarantine::new(storage.waiting, config.quarantine_bytes);
        Self {
            shadow,
            backtrace,
            config,
            records: Mutex::from_raw(L::INIT, Records::new(storage.records)),
            waiting: Mutex::from_raw(L::INIT, waiting),
            nr_bugs: AtomicUsize::new(0),
        }
    }

    /// Where it is written down.
    pub const fn shadow(&self) -> &S {
        &self.shadow
    }

    /// How many bugs were reported.
    #[must_use]
    pub fn nr_bugs(&self) -> usize {
        self.nr_bugs.load(Relaxed)
    }

    /// How many bytes of freed objects wait.
    #[must_use]
    pub fn quarantine_bytes(&self) -> usize {
        self.waiting.lock().size_bytes()
    }

    /// Whether memory may be touched; if not, it is reported, with `ip` as the culprit. Linux: `kasan_check_range`.
    #[inline]
    pub fn check(&self, access: Access, ip: Option<usize>) -> bool {
        match self.shadow.first_bad(access.addr, access.size_bytes) {
            None => true,
            Some(bad) => {
                self.report_access(access, bad, ip);
                false
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn report_access(&self, access: Access, bad: VirtAddr, ip: Option<usize>) {
        let kind = BugKind::of(&self.shadow, access, bad);
        let track = Track::here(&self.backtrace);
        let track = ip.map_or(track, |ip| track.from(ip));
        let mut report = Report::new(&self.shadow, kind, bad, track);
        report.access = Some(access);
        report.ip = ip;
        // In the shadow's words: what is free or wild has no neighbours worth telling of.
        if matches!(
            kind,
            BugKind::SlabOutOfBounds | BugKind::SlabUseAfterFree | BugKind::VmallocOutOfBounds
        ) {
            report.object = self.records.lock().nearest(bad);
        }
        self.tell(report);
    }

    #[cold]
    #[inline(never)]
    fn report_free(&self, kind: BugKind, at: VirtAddr) {
        let mut report = Report::new(&self.shadow, kind, at, Track::here(&self.backtrace));
        report.object = self.records.lock().nearest(at);
        self.tell(report);
    }

    fn tell(&self, report: Report) {
        self.nr_bugs.fetch_add(1, Relaxed);
        let config = &self.config;
        (config.on_bug)(&report.told_by(config.name_of, config.is_own));
    }

    /// Marks the first granule of an object as freed; what is wrong if it was not in use. Of two who free it at once, one succeeds.
    fn mark_freed(&self, start: VirtAddr) -> Result<(), BugKind> {
        let Some(byte) = self.shadow.byte(start) else {
            return Err(BugKind::InvalidFree);
        };
        let usable = |byte| (byte < 8).then_some(Poison::SLAB_FREE_TRACK.byte());
        match byte.fetch_update(Relaxed, Relaxed, usable) {
            Ok(_) => Ok(()),
            Err(byte) => Err(match Poison(byte) {
                Poison::SLAB_FREE | Poison::SLAB_FREE_TRACK => BugKind::DoubleFree,
                _ => BugKind::InvalidFree,
            }),
        }
    }
}

/// Around objects, by their size. Linux: `optimal_redzone`.
#[must_use]
pub const fn redzone_bytes(size_bytes: usize) -> usize {
    match size_bytes {
        0..=48 => 16,
        49..=96 => 32,
        97..=448 => 64,
        449..=3968 => 128,
        _ => 256,
    }
}

impl<S: Shadow, L: RawMutex, B: Backtrace, F: Fn(&Report)> Sanitizer for Kasan<S, L, B, F> {
    fn redzone_bytes(&self, size_bytes: usize) -> usize {
        redzone_bytes(size_bytes)
    }

    fn pages_taken(&self, start: VirtAddr, size_bytes: usize) {
        self.shadow.unpoison(start, size_bytes);
    }

    fn pages_given(&self, start: VirtAddr, size_bytes: usize) -> bool {
        let is_free = |byte: u8| byte == Poison::PAGE_FREE.byte();
        let first = self.shadow.byte(start).map(|byte| byte.load(Relaxed));
        if first.is_some_and(is_free) {
            self.report_free(BugKind::DoubleFree, start);
            return false;
        }
        self.shadow.poison(start, size_bytes, Poison::PAGE_FREE);
        true
    }

    fn vmalloc(&self, start: VirtAddr, size_bytes: usize) {
        self.shadow.unpoison(start, size_bytes);
        let slot = ObjectSlot {
            start,
            size_bytes,
            align: 1,
        };
        let track = Track::here(&self.backtrace);
        let mut records = self.records.lock();
        records.allocated(slot, size_bytes, None, track);
    }

    fn vfree(&self, start: VirtAddr, size_bytes: usize) {
        let why = Poison::VMALLOC_INVALID;
        self.shadow.poison(start, size_bytes, why);
        let track = Track::here(&self.backtrace);
        self.records.lock().freed(start, track);
    }

    fn slab_taken(&self, start: VirtAddr, size_bytes: usize) {
        self.shadow.poison(start, size_bytes, Poison::SLAB_REDZONE);
    }

    fn object_taken(&self, slot: ObjectSlot, requested_bytes: usize, cache: &str) {
        // Of an object of no bytes the first may be touched, or freeing it could not be told from freeing it twice.
        let usable = requested_bytes.max(1);
        let rounded = usable.next_multiple_of(GRANULE_BYTES);
        self.shadow.unpoison(slot.start, usable);
        let rest = slot.size_bytes.saturating_sub(rounded);
        let behind = slot.start + rounded as u64;
        self.shadow.poison(behind, rest, Poison::SLAB_REDZONE);
        let track = Track::here(&self.backtrace);
        let mut records = self.records.lock();
        records.allocated(slot, requested_bytes, Some(cache), track);
    }

    fn object_given(
        &self,
        at: VirtAddr,
        slot: Option<ObjectSlot>,
        let_go: &mut dyn FnMut(ObjectSlot),
    ) -> Freed {
        let Some(slot) = slot.filter(|slot| slot.start == at) else {
            self.report_free(BugKind::InvalidFree, at);
            return Freed::Refused;
        };
        if let Err(kind) = self.mark_freed(at) {
            self.report_free(kind, at);
            return Freed::Refused;
        }
        let rest = slot.size_bytes.saturating_sub(GRANULE_BYTES);
        let behind = slot.start + GRANULE_BYTES as u64;
        self.shadow.poison(behind, rest, Poison::SLAB_FREE);
        let track = Track::here(&self.backtrace);
        self.records.lock().freed(slot.start, track);
        let waits = self.waiting.lock().push(slot);
        loop {
            let oldest = self.waiting.lock().reduce();
            let Some(oldest) = oldest else {
                break;
            };
            let_go(oldest);
        }
        if waits { Freed::Later } else { Freed::Now }
    }

    fn drain(&self, let_go: &mut dyn FnMut(ObjectSlot)) {
        loop {
            // The lock is not held while the allocator works.
            let oldest = self.waiting.lock().pop();
            let Some(oldest) = oldest else {
                return;
            };
            let_go(oldest);
        }
    }

    fn may_touch(&self, addr: VirtAddr) -> bool {
        self.shadow.first_bad(addr, 1).is_none()
    }
}

impl<S, L: RawMutex, B, F> fmt::Debug for Kasan<S, L, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kasan")
            .field("nr_bugs", &self.nr_bugs)
            .finish_non_exhaustive()
    }
}

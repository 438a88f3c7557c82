//! What one CPU has: for each cache, the way to its array.

#![expect(unsafe_code, reason = "entries of tables are references")]

use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use kmm_host::{CpuPin, DrainRequest};
use lock_api::{Mutex, MutexGuard, RawMutex};

use super::array::{CpuArray, NOBODY};
use crate::depot::Stock;

/// Slots of caches, at most: their numbers are bytes.
pub const MAX_CACHES: usize = 256;

/// For each slot, what one CPU has behind its array.
pub(crate) type Stocks = [Stock; MAX_CACHES];

/// For each slot, the array of one CPU.
pub(crate) type Table = [AtomicPtr<CpuArray>; MAX_CACHES];

/// No arrays at all: for frees that must not go into a stock before their node is known.
pub(crate) static BARRED: Table =
    [const { AtomicPtr::new(ptr::from_ref(&NOBODY).cast_mut()) }; MAX_CACHES];

/// So many objects of other nodes wait before they go home together.
#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const AWAY: u32 = super::CELLS as u32;

/// Room for what one CPU has: the caller hands an array of them to [`Slub::new`](crate::Slub), one for each CPU.
///
/// 12.1 KiB; arrays of objects are made when the CPU first needs them.
#[repr(C, align(128))]
pub struct CpuSlot<L: RawMutex> {
    /// Entries point to an array that lives until [`CpuSlot::detach`], or to `none`.
    table: Table,
    /// Stands for the arrays that are not there: empty, and takes nothing.
    none: CpuArray,
    /// Objects of other nodes, on their way home.
    away: CpuArray,
    /// What `mapping` of this CPU's node is sealed with.
    key: AtomicU64,
    node: AtomicUsize,
    drain: DrainRequest,
    /// For each slot, what is behind the array. Held also while entries of the table change, and by other CPUs that look at arrays.
    stocks: Mutex<L, Stocks>,
}

impl<L: RawMutex> CpuSlot<L> {
    /// A CPU without arrays.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            table: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CACHES],
            none: CpuArray::new(0, 0),
            away: CpuArray::new(AWAY, AWAY),
            key: AtomicU64::new(0),
            node: AtomicUsize::new(0),
            drain: DrainRequest::new(AtomicU32::new(0), AtomicU32::new(0)),
            stocks: Mutex::const_new(L::INIT, [const { Stock::new() }; MAX_CACHES]),
        }
    }

    /// Before anybody uses the CPU; once. `key` is that of its node's labels.
    pub(crate) fn init(&'static self, node: usize, key: u64) {
        for entry in &self.table {
            entry.store(self.none(), Relaxed);
        }
        self.node.store(node, Relaxed);
        self.key.store(key, Release);
    }

    /// Whether [`CpuSlot::init`] has been called.
    pub(crate) fn is_taken(&self) -> bool {
        !self.table[0].load(Relaxed).is_null()
    }

    #[inline(always)]
    pub(crate) fn table(&'static self) -> &'static Table {
        &self.table
    }

    #[inline(always)]
    pub(crate) fn key(&self) -> u64 {
        self.key.load(Relaxed)
    }

    /// The node that it is of.
    #[inline(always)]
    pub(crate) fn node(&self) -> usize {
        self.node.load(Relaxed)
    }

    pub(crate) fn away(&self) -> &CpuArray {
        &self.away
    }

    pub(crate) fn drain_request(&self) -> &DrainRequest {
        &self.drain
    }

    /// What the CPU has behind its arrays, for any CPU. Taken before the lock of a cache, if both are.
    #[inline]
    pub(crate) fn stocks(&self) -> MutexGuard<'_, L, Stocks> {
        self.stocks.lock()
    }

    /// This CPU's array of a cache, if there is one. For code of this CPU, and [`CpuSlot::inspect`].
    pub(crate) fn array(&'static self, slot: u8, _: CpuPin<'_>) -> Option<&'static CpuArray> {
        self.peek(slot)
    }

    /// Puts an array in, by code of this CPU, and lets it have `most` objects behind it; whether there was none.
    pub(crate) fn attach(
        &'static self,
        slot: u8,
        array: NonNull<CpuArray>,
        most: u32,
        _: CpuPin<'_>,
    ) -> bool {
        let mut stocks = self.stocks();
        let entry = &self.table[usize::from(slot)];
        let is_free = ptr::eq(entry.load(Relaxed), self.none());
        if is_free {
            entry.store(array.as_ptr(), Release);
            stocks[usize::from(slot)].set_most(most);
        }
        is_free
    }

    /// Takes an array out that nobody uses any more.
    pub(crate) fn detach(&'static self, slot: u8) -> Option<&'static CpuArray> {
        let mut stocks = self.stocks();
        let array = self.peek(slot);
        stocks[usize::from(slot)].set_most(0);
        self.table[usize::from(slot)].store(self.none(), Release);
        array
    }

    /// Calls `f` with an array, which stays while `f` runs.
    pub(crate) fn inspect<R>(&'static self, slot: u8, f: impl FnOnce(&CpuArray) -> R) -> Option<R> {
        let _guard = self.stocks();
        self.peek(slot).map(f)
    }

    fn peek(&'static self, slot: u8) -> Option<&'static CpuArray> {
        let entry = self.table[usize::from(slot)].load(Acquire);
        if ptr::eq(entry, self.none()) {
            return None;
        }
        // SAFETY: INV-9: an array that lives while the entry is there.
        unsafe { entry.as_ref() }
    }

    fn none(&'static self) -> *mut CpuArray {
        ptr::from_ref(&self.none).cast_mut()
    }
}

/// The array behind an entry.
///
/// # Safety
/// The table is one of this CPU's, initialized, or [`BARRED`].
#[inline(always)]
pub(crate) unsafe fn entry(table: &Table, slot: u8) -> &CpuArray {
    let array = table[usize::from(slot)].load(Relaxed);
    // SAFETY: the caller's obligation: INV-9.
    unsafe { &*array }
}

impl<L: RawMutex> Default for CpuSlot<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: RawMutex> fmt::Debug for CpuSlot<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuSlot").finish_non_exhaustive()
    }
}

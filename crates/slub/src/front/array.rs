//! One CPU's own stock of objects of one cache. Linux: `struct slab_sheaf`, `struct kmem_cache_cpu`; Bonwick: the magazine.
//!
//! An array of pointers, used as a stack, so that the hot pair of alloc and free touches neither the cache's lock nor a
//! slab. Only its own CPU takes and puts, under the in-use mark; a second user on that CPU (an interrupt) finds the mark and
//! goes past it. Every word is an atomic that is loaded and stored relaxed: plain moves, yet statistics may read them.
//!
//! The mark costs no comparison of its own. It is [`IDLE`] or [`BUSY`]: no empty stack's length is above the one, no
//! stack's above the other, and BUSY plus a length is above every limit. Setting it is a load and a store, not one
//! instruction: an interrupt in between finds the array free, uses it, and leaves the mark as it was.
#![expect(
    unsafe_code,
    reason = "indices within bounds by INV-8, without a comparison"
)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

/// No array holds more objects.
pub(crate) const CELLS: usize = 120;
/// Nobody uses the array.
const IDLE: u32 = 0;
/// Somebody does.
const BUSY: u32 = 1 << 31;
/// One object more, which an owner put there.
const ONE_PUT: u64 = (1 << PUTS) + 1;
/// Where the count of objects that owners have put there begins; below it is the length.
const PUTS: u32 = 16;
const LEN: u64 = (1 << PUTS) - 1;

/// One CPU's objects of one cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct CpuArray {
    mark: AtomicU32,
    /// At most so many objects; 0 for caches of which CPUs keep none.
    limit: AtomicU32,
    /// Low 16 bits: how many objects there are; above: how many owners have put there.
    state: AtomicU64,
    /// Objects that came from elsewhere, less those that went there. Wraps.
    nr_filled: AtomicU64,
    batch: AtomicU32,
    events: [AtomicU64; Event::COUNT],
    cells: [AtomicPtr<u8>; CELLS],
}

/// What an array counts besides: slow steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// It was empty, and got a batch.
    Refill,
    /// It was full, and gave a batch.
    Flush,
    /// That batch came from the CPU's stock, or from the depot.
    FromDepot,
}

impl Event {
    pub(crate) const COUNT: usize = 3;
}

/// The sums of an array's life.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ArrayTotals {
    pub(crate) nr_allocs: u64,
    pub(crate) nr_frees: u64,
    pub(crate) events: [u64; Event::COUNT],
    /// Batches that went behind it.
    pub(crate) batches_put: u64,
}

impl ArrayTotals {
    pub(crate) const NONE: Self = Self {
        nr_allocs: 0,
        nr_frees: 0,
        events: [0; Event::COUNT],
        batches_put: 0,
    };

    pub(crate) fn add(&mut self, other: Self) {
        self.nr_allocs += other.nr_allocs;
        self.nr_frees += other.nr_frees;
        self.batches_put += other.batches_put;
        for (sum, more) in self.events.iter_mut().zip(other.events) {
            *sum += more;
        }
    }
}

/// Keeps nothing for ever: it is empty, and its limit is 0. Stands where there is no array, so that no fast path asks whether
/// there is one.
pub(crate) static NOBODY: CpuArray = CpuArray::new(0, 0);

impl CpuArray {
    pub(crate) const fn new(limit: u32, batch: u32) -> Self {
        Self {
            mark: AtomicU32::new(IDLE),
            limit: AtomicU32::new(limit),
            state: AtomicU64::new(0),
            nr_filled: AtomicU64::new(0),
            batch: AtomicU32::new(batch),
            events: [const { AtomicU64::new(0) }; Event::COUNT],
            cells: [const { AtomicPtr::new(ptr::null_mut()) }; CELLS],
        }
    }

    /// The object that came last: its lines are the warmest. `None` also when the array is in use.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<NonNull<u8>> {
        let before = own(&self.mark);
        self.mark.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        let len = self.own_len();
        if len <= before {
            self.mark.store(before, Relaxed);
            return None;
        }
        let object = self.pop_one(len);
        compiler_fence(SeqCst);
        self.mark.store(IDLE, Relaxed);
        Some(object)
    }

    /// Keeps an object that its owner gave back; whether there was room. Not when the array is in use.
    #[inline(always)]
    pub(crate) fn push(&self, object: NonNull<u8>) -> bool {
        let before = own(&self.mark);
        self.mark.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        let len = self.own_len();
        if len + before >= own(&self.limit) {
            self.mark.store(before, Relaxed);
            return false;
        }
        self.push_one(len, object, ONE_PUT);
        compiler_fence(SeqCst);
        self.mark.store(IDLE, Relaxed);
        true
    }

    /// Runs `f` with exclusive use of the array, by code of its CPU. `None` when it is in use.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(ArrayUse<'_>) -> R) -> Option<R> {
        if self.mark.load(Relaxed) != IDLE {
            return None;
        }
        self.mark.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        let mark = Mark(&self.mark);
        let result = f(ArrayUse(self));
        drop(mark);
        Some(result)
    }

    /// Moves objects into `out`, from the front, as far as both reach; how many.
    #[inline]
    pub(crate) fn pop_many(&self, out: &mut [Option<NonNull<u8>>]) -> usize {
        let popped = self.with(|used| {
            let len = used.len();
            let most = len.min(out.len()).min(CELLS);
            let cells = &self.cells[len - most..len];
            for (place, cell) in out.iter_mut().zip(cells) {
                *place = NonNull::new(cell.load(Relaxed));
            }
            self.state
                .store(self.state.load(Relaxed) - most as u64, Relaxed);
            most
        });
        popped.unwrap_or(0)
    }

    /// Keeps objects that their owners gave back, from the front, as many as there is room for; how many places it went on.
    #[inline]
    pub(crate) fn push_many(&self, objects: &mut [Option<NonNull<u8>>]) -> usize {
        let pushed = self.with(|used| {
            let len = used.len();
            let most = used.room().min(objects.len());
            let mut at = len;
            // By four: 6 instructions for each instead of 8.
            let cells = self.cells[len..len + most].chunks_exact(4);
            for (cells, places) in cells.zip(objects[..most].chunks_exact_mut(4)) {
                if places.iter().any(Option::is_none) {
                    break;
                }
                for (cell, place) in cells.iter().zip(places) {
                    if let Some(object) = place.take() {
                        cell.store(object.as_ptr(), Relaxed);
                    }
                }
                at += 4;
            }
            let rest = &mut objects[at - len..most];
            for (cell, place) in self.cells[at..len + most].iter().zip(rest) {
                match place.take() {
                    Some(object) => cell.store(object.as_ptr(), Relaxed),
                    None => break,
                }
                at += 1;
            }
            let state = self.state.load(Relaxed);
            self.state
                .store(state.wrapping_add((at - len) as u64 * ONE_PUT), Relaxed);
            at - len
        });
        pushed.unwrap_or(0)
    }

    pub(crate) fn len(&self) -> usize {
        (self.state.load(Relaxed) & LEN) as usize
    }

    /// How many it may hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Relaxed) as usize
    }

    /// How many objects come and go at a time.
    pub(crate) fn batch(&self) -> usize {
        self.batch.load(Relaxed) as usize
    }

    /// What went through it.
    pub(crate) fn totals(&self) -> ArrayTotals {
        let state = self.state.load(Relaxed);
        let puts = state >> PUTS;
        let filled = self.nr_filled.load(Relaxed);
        ArrayTotals {
            nr_allocs: filled.wrapping_add(puts).wrapping_sub(state & LEN),
            nr_frees: puts,
            events: [0, 1, 2].map(|nr: usize| self.events[nr].load(Relaxed)),
            batches_put: 0,
        }
    }

    /// The objects that it holds. Exact while its CPU stands still.
    pub(crate) fn objects(&self) -> impl Iterator<Item = NonNull<u8>> + '_ {
        let cells = self.cells.iter().take(self.len());
        cells.filter_map(|cell| NonNull::new(cell.load(Relaxed)))
    }

    pub(crate) fn note(&self, event: Event) {
        let count = &self.events[event as usize];
        count.store(count.load(Relaxed) + 1, Relaxed);
    }

    #[inline(always)]
    fn own_len(&self) -> u32 {
        // One instruction; of an atomic, the compiler would mask the low half once more.
        let low = self.state.as_ptr().cast::<u16>();
        // SAFETY: the low half of a word (little-endian) that lives as long. Nobody else writes it: INV-7.
        u32::from(unsafe { low.read() })
    }

    #[inline(always)]
    fn pop_one(&self, len: u32) -> NonNull<u8> {
        debug_assert!(len as usize - 1 < CELLS, "{len} objects");
        // SAFETY: INV-8: no more than there are cells.
        let cell = unsafe { self.cells.get_unchecked(len as usize - 1) };
        let object = cell.load(Relaxed);
        self.state
            .store(self.state.load(Relaxed).wrapping_sub(1), Relaxed);
        // SAFETY: INV-8: cells below the length hold objects.
        unsafe { NonNull::new_unchecked(object) }
    }

    #[inline(always)]
    fn push_one(&self, len: u32, object: NonNull<u8>, count: u64) {
        debug_assert!((len as usize) < CELLS, "{len} objects");
        // SAFETY: INV-8: below the limit, which is no more than there are cells.
        let cell = unsafe { self.cells.get_unchecked(len as usize) };
        cell.store(object.as_ptr(), Relaxed);
        self.state
            .store(self.state.load(Relaxed).wrapping_add(count), Relaxed);
    }
}

/// Exclusive use of an array.
#[derive(Debug)]
pub(crate) struct ArrayUse<'a>(&'a CpuArray);

impl ArrayUse<'_> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many more objects fit.
    pub(crate) fn room(&self) -> usize {
        self.0.limit() - self.len()
    }

    /// Takes an object for an owner.
    #[inline]
    pub(crate) fn pop(&self) -> Option<NonNull<u8>> {
        let len = self.0.own_len();
        (len > 0).then(|| self.0.pop_one(len))
    }

    /// Takes an object from an owner; whether there is room.
    #[inline]
    pub(crate) fn push(&self, object: NonNull<u8>) -> bool {
        let len = self.0.own_len();
        let has_room = len < own(&self.0.limit);
        if has_room {
            self.0.push_one(len, object, ONE_PUT);
        }
        has_room
    }

    /// Takes an object in that no owner had. There is room.
    #[inline]
    pub(crate) fn fill(&self, object: NonNull<u8>) {
        if self.room() > 0 {
            self.0.push_one(self.0.own_len(), object, 1);
            self.note_filled(1);
        }
    }

    /// Takes objects in that no owner had; there is room for all, and at least one.
    #[inline]
    pub(crate) fn fill_many(&self, objects: &[*mut u8]) {
        let len = self.len();
        let nr = objects.len().min(self.room());
        for (cell, object) in self.0.cells[len..len + nr].iter().zip(objects) {
            cell.store(*object, Relaxed);
        }
        let state = self.0.state.load(Relaxed);
        self.0.state.store(state + nr as u64, Relaxed);
        self.note_filled(nr as u64);
    }

    /// Moves as many objects into `out` as it has room for and there are, those that have been here longest; how many.
    #[inline]
    pub(crate) fn take_coldest(&self, out: &mut [*mut u8]) -> usize {
        let (len, most) = (self.len(), out.len().min(self.len()));
        let (cold, warm) = self.0.cells[..len].split_at(most);
        for (place, cell) in out.iter_mut().zip(cold) {
            *place = cell.load(Relaxed);
        }
        for (to, from) in self.0.cells.iter().zip(warm) {
            to.store(from.load(Relaxed), Relaxed);
        }
        let state = self.0.state.load(Relaxed);
        self.0.state.store(state - most as u64, Relaxed);
        self.note_filled((most as u64).wrapping_neg());
        most
    }

    /// So many objects that owners gave back have gone past the array.
    pub(crate) fn note_passed(&self, nr: usize) {
        let nr = nr as u64;
        let state = self.0.state.load(Relaxed);
        self.0.state.store(state.wrapping_add(nr << PUTS), Relaxed);
        self.note_filled(nr.wrapping_neg());
    }

    fn note_filled(&self, more: u64) {
        let filled = self.0.nr_filled.load(Relaxed).wrapping_add(more);
        self.0.nr_filled.store(filled, Relaxed);
    }
}

/// A word of this CPU's own: no other writes it while this one uses the array (INV-7). The compiler makes it part of another
/// instruction, as it does with no load of an atomic.
#[inline(always)]
fn own(word: &AtomicU32) -> u32 {
    // SAFETY: valid, aligned, and not written meanwhile.
    unsafe { word.as_ptr().read() }
}

/// Takes the mark away also when the closure panics.
struct Mark<'a>(&'a AtomicU32);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        self.0.store(IDLE, Relaxed);
    }
}

pub(crate) const ARRAY_BYTES: usize = size_of::<CpuArray>();
const _: () = assert!(ARRAY_BYTES == 64 + 8 * CELLS);
const _: () = assert!(cfg!(target_endian = "little"), "the low half comes first");

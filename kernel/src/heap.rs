//! `#[global_allocator]` in two stages: a `linked_list_allocator` heap over early memory, then slub.
//!
//! The static is empty and const. [`init_early`] lends it a block of memory that memblock gave; [`switch_to`] names the final
//! allocator. Objects from the early heap may be freed at any time: their addresses tell where they came from.
//!
//! What the kernel allocates while it serves a program ([`ForProgram`]) is refused when only the pages are left that zones keep
//! back: the program is told ENOMEM. Those pages are for what cannot fail: [`surely`], and the kernel's own threads.
#![expect(unsafe_code, reason = "implements GlobalAlloc")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kmm::slub::{EarlyHeap, KmemAlloc};
use linked_list_allocator::Heap;

use crate::mm::KernelHost;
use crate::sync::IrqSpinLock;
use crate::{mm, smp};

/// The allocator behind `alloc::`: what it costs is what slub costs, and a look at who is served.
pub struct KernelHeap {
    inner: KmemAlloc<kmm::Objects<KernelHost>, BootHeap>,
}

/// The heap before slub.
struct BootHeap {
    heap: IrqSpinLock<Heap>,
    start: AtomicUsize,
    size_bytes: AtomicUsize,
}

/// Is a program being served? The three below are the boot CPU's: no other one serves programs.
static FOR_PROGRAM: AtomicBool = AtomicBool::new(false);
/// Is an allocation being made that cannot fail?
static SURELY: AtomicBool = AtomicBool::new(false);
/// What share of a program's allocations is refused: one in so many, or none. Linux: failslab.
static REFUSE_ONE_IN: AtomicU64 = AtomicU64::new(0);
static REFUSE_STATE: AtomicU64 = AtomicU64::new(0);
/// Which of a program's allocations is refused, counted from 1; 0 for none. Linux: `fail-nth`.
static REFUSE_NTH: AtomicU64 = AtomicU64::new(0);
/// How many there were since that was said.
static NR_ASKED: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap {
    inner: KmemAlloc::new(BootHeap {
        heap: IrqSpinLock::new(Heap::empty()),
        start: AtomicUsize::new(0),
        size_bytes: AtomicUsize::new(0),
    }),
};

/// Lends the early heap its memory.
///
/// # Safety
/// 1. `start..start + size_bytes` is mapped, writable memory that nobody else uses, for ever.
/// 2. It is called once.
pub unsafe fn init_early(start: *mut u8, size_bytes: usize) {
    let early = HEAP.inner.early();
    early.start.store(start.addr(), Ordering::Relaxed);
    early.size_bytes.store(size_bytes, Ordering::Relaxed);
    // SAFETY: the caller's obligations 1 and 2.
    unsafe { early.heap.lock().init(start, size_bytes) }
}

/// From now on, new objects come from `slub`. The first call counts.
pub fn switch_to(slub: &'static kmm::Objects<KernelHost>) {
    HEAP.inner.set(slub);
}

/// While it lives, the kernel serves a program.
#[derive(Debug)]
#[must_use]
pub struct ForProgram {
    before: bool,
}

impl ForProgram {
    /// From here on.
    pub fn begin() -> Self {
        Self {
            before: FOR_PROGRAM.swap(true, Ordering::Relaxed),
        }
    }
}

impl Drop for ForProgram {
    fn drop(&mut self) {
        set_for_program(self.before);
    }
}

/// Is a program being served? The scheduler keeps it for each task that it switches from.
pub fn is_for_program() -> bool {
    FOR_PROGRAM.load(Ordering::Relaxed)
}

/// Says so again, after a switch.
pub fn set_for_program(is: bool) {
    FOR_PROGRAM.store(is, Ordering::Relaxed);
}

/// Allocates what cannot fail: a little, for which [`can_allocate`] was asked.
///
/// # Panics
/// On another CPU than the boot CPU.
pub fn surely<R>(allocate: impl FnOnce() -> R) -> R {
    assert!(smp::is_boot_cpu(), "programs are served by the boot CPU");
    let before = SURELY.swap(true, Ordering::Relaxed);
    let result = allocate();
    SURELY.store(before, Ordering::Relaxed);
    result
}

/// Could this be allocated now?
pub fn can_allocate(layout: Layout) -> bool {
    // SAFETY: no layout here has size 0.
    let object = unsafe { HEAP.alloc(layout) };
    if !object.is_null() {
        // SAFETY: it was allocated just now, with this layout.
        unsafe { HEAP.dealloc(object, layout) };
    }
    !object.is_null()
}

/// Refuses one in `share` of the allocations for programs, chosen by `seed`; 0 for none.
pub fn refuse_one_in(share: u64, seed: u64) {
    REFUSE_STATE.store(seed, Ordering::Relaxed);
    REFUSE_ONE_IN.store(share, Ordering::Relaxed);
}

/// Refuses the `nth` of the allocations for programs from now on, and that one alone; 0 for none. How many there were since the
/// last call.
pub fn refuse_nth(nth: u64) -> u64 {
    REFUSE_NTH.store(nth, Ordering::Relaxed);
    NR_ASKED.swap(0, Ordering::Relaxed)
}

/// Whether what is asked for now must not be had.
#[inline(always)]
fn is_refused() -> bool {
    is_for_program() && is_refused_for_program()
}

#[inline(never)]
fn is_refused_for_program() -> bool {
    // Programs are served by the boot CPU alone.
    if !smp::is_boot_cpu() || SURELY.load(Ordering::Relaxed) {
        return false;
    }
    let nr_asked = NR_ASKED.fetch_add(1, Ordering::Relaxed) + 1;
    if nr_asked == REFUSE_NTH.load(Ordering::Relaxed) {
        return true;
    }
    let share = REFUSE_ONE_IN.load(Ordering::Relaxed);
    // Knuth's MMIX generator; its high half is the better one.
    let state = REFUSE_STATE.load(Ordering::Relaxed);
    let next = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    REFUSE_STATE.store(next, Ordering::Relaxed);
    (next >> 32).checked_rem(share) == Some(0) || mm::is_low()
}

// SAFETY: a heap of its own; `owns` is true of the memory that `init_early` lent it, from when it has any.
unsafe impl EarlyHeap for BootHeap {
    fn alloc(&self, layout: Layout) -> *mut u8 {
        self.heap
            .lock()
            .allocate_first_fit(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        if let Some(object) = NonNull::new(object) {
            // SAFETY: it came from there, with this layout, by the caller.
            unsafe { self.heap.lock().deallocate(object, layout) };
        }
    }

    #[inline(always)]
    fn owns(&self, object: *mut u8) -> bool {
        let offset = object
            .addr()
            .wrapping_sub(self.start.load(Ordering::Relaxed));
        offset < self.size_bytes.load(Ordering::Relaxed)
    }
}

// SAFETY: what is not refused is passed on.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused() {
            return ptr::null_mut();
        }
        // SAFETY: passed on.
        unsafe { self.inner.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { self.inner.dealloc(object, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused() {
            return ptr::null_mut();
        }
        // SAFETY: passed on.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size_bytes: usize) -> *mut u8 {
        if new_size_bytes > layout.size() && is_refused() {
            return ptr::null_mut();
        }
        // SAFETY: passed on.
        unsafe { self.inner.realloc(object, layout, new_size_bytes) }
    }
}

//! Frames outside the permanent map, shown one at a time in windows. Linux: `kmap_local_page`, mm/highmem.c.
//!
//! Each CPU has a stack of windows: fixed addresses whose page-table entries it changes as it likes. Opening one pushes,
//! closing one pops, and closures make sure that the order is kept. The CPU is pinned meanwhile.
//!
//! Interrupts may open windows too. The depth of the stack is a plain number, read and then written: an interrupt in
//! between opens and closes its windows before it returns, so it leaves the number and the lower windows as they were.
#![expect(
    unsafe_code,
    reason = "windows become pointers, frames are named by number"
)]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm_frame::{PAGE_SIZE, Pfn, PhysAddr};
use kmm_host::{CpuId, Cpus, PagePtr, PhysMap};

/// The hardware's side of windows: fixed addresses and their page-table entries.
///
/// # Safety
/// Implementors guarantee that from `show` to the `hide` of the same window, the address that `show` returned reaches the
/// frame and nothing else, page-aligned; and that no two windows share an address.
pub unsafe trait Windows {
    /// Windows that each CPU has. Linux: `KM_MAX_IDX`.
    const PER_CPU: usize;

    /// Shows a frame in a window.
    ///
    /// # Safety
    /// 1. This code stays on `cpu` until it has called `hide`.
    /// 2. `window` is below [`Windows::PER_CPU`] and shows nothing now.
    unsafe fn show(&self, cpu: CpuId, window: usize, pfn: Pfn) -> NonNull<[u8; PAGE_SIZE]>;

    /// Empties a window; this CPU forgets the translation before the call returns.
    ///
    /// # Safety
    /// 1. This code is on `cpu`, and called `show` for `window` before.
    /// 2. Nobody uses the address any more.
    unsafe fn hide(&self, cpu: CpuId, window: usize);
}

/// How many windows one CPU has open; alone on its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WindowDepth(AtomicUsize);

impl WindowDepth {
    /// None are open.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }
}

/// The permanent map for frames below `low_end`, windows for the others: the 32-bit machine.
pub struct WindowMap<D, W, C> {
    direct: D,
    low_end: Pfn,
    windows: W,
    cpus: C,
    depths: &'static [WindowDepth],
}

impl<D: PhysMap, W: Windows, C: Cpus> WindowMap<D, W, C> {
    /// Frames below `low_end` are reached through `direct`, the others through windows.
    ///
    /// # Panics
    /// When there is not a depth for each CPU.
    #[must_use]
    pub fn new(
        direct: D,
        low_end: Pfn,
        windows: W,
        cpus: C,
        depths: &'static [WindowDepth],
    ) -> Self {
        assert!(depths.len() >= cpus.nr_cpus(), "a depth for each CPU");
        Self {
            direct,
            low_end,
            windows,
            cpus,
            depths,
        }
    }

    /// The first physical address outside the permanent map. Linux: `high_memory`, as a physical address.
    #[must_use]
    pub const fn high_memory(&self) -> PhysAddr {
        self.low_end.phys()
    }

    /// How many windows a CPU has open at this moment; 0 whenever nobody maps anything there.
    #[must_use]
    pub fn open_windows(&self, cpu: CpuId) -> usize {
        self.depths[cpu.index()].0.load(Ordering::Relaxed)
    }
}

// SAFETY: low frames are `direct`'s, by its own guarantee; high ones are shown in a window while the closure runs, by the
// guarantee of `Windows`.
unsafe impl<D: PhysMap, W: Windows, C: Cpus> PhysMap for WindowMap<D, W, C> {
    const HIGHMEM: bool = true;

    fn direct(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        (pfn < self.low_end)
            .then(|| self.direct.direct(pfn))
            .flatten()
    }

    fn virt_to_pfn(&self, ptr: NonNull<u8>) -> Option<Pfn> {
        self.direct
            .virt_to_pfn(ptr)
            .filter(|&pfn| pfn < self.low_end)
    }

    unsafe fn with_pfn<R>(&self, pfn: Pfn, f: impl FnOnce(PagePtr<'_>) -> R) -> R {
        if pfn < self.low_end {
            // SAFETY: the caller's obligations are the same.
            return unsafe { self.direct.with_pfn(pfn, f) };
        }
        self.cpus.with_pin(|pin| {
            let window = Window::open(self, pin.cpu());
            // SAFETY: 1. the pin lives until after the window; 2. `open` took a number that nobody has.
            let bytes = unsafe { self.windows.show(pin.cpu(), window.number, pfn) };
            // SAFETY: 1. valid until `hide`, which comes when `window` is dropped; 2. by the caller.
            f(unsafe { PagePtr::new(bytes) })
        })
    }
}

/// The topmost window of a CPU; closed when dropped, also by a panic.
struct Window<'a, D, W: Windows, C> {
    map: &'a WindowMap<D, W, C>,
    cpu: CpuId,
    number: usize,
}

impl<'a, D, W: Windows, C> Window<'a, D, W, C> {
    /// # Panics
    /// When all windows of the CPU are open. Linux: `BUG_ON(idx >= KM_MAX_IDX)`.
    fn open(map: &'a WindowMap<D, W, C>, cpu: CpuId) -> Self {
        let depth = &map.depths[cpu.index()].0;
        let number = depth.load(Ordering::Relaxed);
        assert!(number < W::PER_CPU, "all {number} windows are open");
        depth.store(number + 1, Ordering::Relaxed);
        Self { map, cpu, number }
    }
}

impl<D, W: Windows, C> Drop for Window<'_, D, W, C> {
    fn drop(&mut self) {
        let depth = &self.map.depths[self.cpu.index()].0;
        debug_assert_eq!(
            depth.load(Ordering::Relaxed),
            self.number + 1,
            "windows close in order"
        );
        // SAFETY: 1. the window was opened on this CPU, which is still pinned; 2. the closure that used it is over.
        unsafe { self.map.windows.hide(self.cpu, self.number) };
        depth.store(self.number, Ordering::Relaxed);
    }
}

impl<D, W, C> fmt::Debug for WindowMap<D, W, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowMap")
            .field("low_end", &self.low_end)
            .finish_non_exhaustive()
    }
}

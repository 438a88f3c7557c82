//! A 32-bit machine in miniature: RAM, of which only the low part is mapped for ever, and windows for the rest.
#![allow(
    unsafe_code,
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    reason = "shared by tests, each of which uses a part"
)]

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use kmm_frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm_highmem::{WindowDepth, WindowMap, Windows};
use kmm_host::{CpuId, CpuPin, Cpus, DirectMap};
use lock_api::{GuardSend, RawMutex};

pub const LOW_PAGES: usize = 8;
pub const NR_PAGES: usize = 24;
pub const NR_CPUS: usize = 2;
pub const WINDOWS: usize = 4;
/// What an empty window reads as.
pub const POISON: u8 = 0x6b;

/// Memory for ever, page-aligned.
fn pages(nr_pages: usize) -> NonNull<[u8; PAGE_SIZE]> {
    let layout = Layout::from_size_align(nr_pages * PAGE_SIZE, PAGE_SIZE).unwrap();
    // SAFETY: the layout has a size.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }.cast()).unwrap()
}

/// RAM where all of it can be seen, as the tests do and the 32-bit kernel cannot.
#[derive(Clone, Copy)]
pub struct Ram(pub DirectMap);

pub fn ram() -> Ram {
    let base = pages(NR_PAGES).as_ptr().expose_provenance() as u64;
    // SAFETY: the memory stays for ever; it is aligned and not null.
    Ram(unsafe { DirectMap::new(VirtAddr::new(base), Pfn::new(NR_PAGES)) })
}

impl Ram {
    pub fn page(&self, pfn: usize) -> *mut [u8; PAGE_SIZE] {
        let address = self.0.virt(Pfn::new(pfn).phys()).as_usize();
        core::ptr::with_exposed_provenance_mut(address)
    }

    pub fn read(&self, pfn: usize) -> Vec<u8> {
        // SAFETY: a page of the RAM, which no reference covers now.
        unsafe { self.page(pfn).read() }.to_vec()
    }
}

/// Windows of memory of their own: what is shown is copied in, and copied back when it is hidden. That is the same to
/// anybody who uses the window only while it is open, and a pointer kept for longer reads poison.
pub struct CopyWindows {
    ram: Ram,
    views: [[NonNull<[u8; PAGE_SIZE]>; WINDOWS]; NR_CPUS],
    shown: Mutex<[[Option<Pfn>; WINDOWS]; NR_CPUS]>,
}

impl CopyWindows {
    pub fn new(ram: Ram) -> Self {
        let views = core::array::from_fn(|_| {
            core::array::from_fn(|_| {
                let view = pages(1);
                // SAFETY: valid and nobody else's.
                unsafe { view.write([POISON; PAGE_SIZE]) };
                view
            })
        });
        Self {
            ram,
            views,
            shown: Mutex::default(),
        }
    }

    /// The windows that show something.
    pub fn leaked(&self) -> usize {
        let shown = self.shown.lock().unwrap();
        shown.iter().flatten().flatten().count()
    }
}

// SAFETY: a view holds the frame's bytes while it is shown; each window has a page of its own.
unsafe impl Windows for &CopyWindows {
    const PER_CPU: usize = WINDOWS;

    unsafe fn show(&self, cpu: CpuId, window: usize, pfn: Pfn) -> NonNull<[u8; PAGE_SIZE]> {
        let mut shown = self.shown.lock().unwrap();
        assert!(
            !shown.iter().flatten().any(|&other| other == Some(pfn)),
            "{pfn} is shown already"
        );
        let before = shown[cpu.index()][window].replace(pfn);
        assert_eq!(before, None, "window in use");
        let view = self.views[cpu.index()][window];
        // SAFETY: both are pages that nobody refers to now.
        unsafe {
            view.copy_from_nonoverlapping(NonNull::new(self.ram.page(pfn.index())).unwrap(), 1)
        };
        view
    }

    unsafe fn hide(&self, cpu: CpuId, window: usize) {
        let mut shown = self.shown.lock().unwrap();
        assert!(
            shown[cpu.index()][window + 1..].iter().all(Option::is_none),
            "closed out of order"
        );
        let pfn = shown[cpu.index()][window].take().expect("window is empty");
        let view = self.views[cpu.index()][window];
        // SAFETY: both are pages that nobody refers to any more.
        unsafe {
            self.ram
                .page(pfn.index())
                .copy_from_nonoverlapping(view.as_ptr(), 1)
        };
        // SAFETY: as above.
        unsafe { view.write([POISON; PAGE_SIZE]) };
    }
}

/// The CPU that this thread plays at the moment.
#[derive(Default)]
pub struct OneThread(pub Cell<u32>);

// SAFETY: one thread plays all CPUs, so none runs while another does.
unsafe impl Cpus for &OneThread {
    fn nr_cpus(&self) -> usize {
        NR_CPUS
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: the thread does not change the CPU that it plays before `f` returns.
        f(unsafe { CpuPin::new(CpuId::new(self.0.get())) })
    }
}

pub type Machine<'a> = WindowMap<DirectMap, &'a CopyWindows, &'a OneThread>;

pub fn machine<'a>(ram: Ram, windows: &'a CopyWindows, cpus: &'a OneThread) -> Machine<'a> {
    let depths: Vec<WindowDepth> = (0..NR_CPUS).map(|_| WindowDepth::new()).collect();
    let low_end = Pfn::new(LOW_PAGES);
    WindowMap::new(ram.0, low_end, windows, cpus, depths.leak())
}

pub struct SpinLock(AtomicBool);

// SAFETY: one holder at a time: only the one that turned the flag from false to true.
unsafe impl RawMutex for SpinLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "as lock_api asks")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            core::hint::spin_loop();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

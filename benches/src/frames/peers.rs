//! The peers that manage page frames. Those with `&mut self` stand behind a spin lock, as in the kernels that use them.
#![expect(unsafe_code, reason = "gives memory to the peers that want some")]

use core::num::NonZeroUsize;
use core::ptr::NonNull;

use bitmap_allocator::{BitAlloc, BitAlloc1M};
use frame_alloc::{PhysicalAllocator, RegionInit};
use spin::Mutex;

use super::{Entry, Frames, NR_FRAMES, entry};
use crate::cpu;
use crate::region::{Pages, Region};
use crate::rounds::Role;

const PAGE: usize = 4096;
const PAGE_SHIFT: u8 = 12;
const SIZE: usize = NR_FRAMES * PAGE;
/// What peers put into their memory for themselves.
const METADATA: usize = 8 << 20;

pub(super) fn entries() -> Vec<Entry> {
    vec![
        entry!("frame-alloc depot", Role::Rival, true, || {
            InRegion::new(Depot::new(BASE_PAGE, Summary::new(BASE_PAGE)))
        }),
        entry!("frame-alloc summary", Role::Rival, true, || {
            InRegion::new(Summary::new(BASE_PAGE))
        }),
        entry!("buddy-slab + lock", Role::Rival, true, BuddySlab::new),
        entry!("buddy_system locked", Role::Rival, true, BuddySystem::new),
        // Order 9 takes it microseconds: it searches bit by bit.
        entry!("bitmap + lock", Role::Bystander, false, Bitmap::new),
    ]
}

const BASE_PAGE: frame_alloc::PageSize = frame_alloc::PageSize::from_log2(PAGE_SHIFT);

/// How `frame-alloc` makes pointers of addresses.
#[derive(Debug)]
struct Exposed;

// SAFETY: addresses are those of a region whose provenance was exposed.
unsafe impl frame_alloc::Provenance for Exposed {
    #[inline]
    unsafe fn create(address: usize) -> NonNull<u8> {
        let ptr = core::ptr::with_exposed_provenance_mut(address);
        // SAFETY: within a region, so not null.
        unsafe { NonNull::new_unchecked(ptr) }
    }

    #[inline]
    unsafe fn destroy<T>(ptr: NonNull<T>) -> usize {
        ptr.addr().get()
    }
}

/// How `frame-alloc` finds its CPU.
#[derive(Debug)]
struct CurrentCpu;

impl frame_alloc::CpuId for CurrentCpu {
    #[inline]
    fn current_cpu() -> usize {
        cpu::current()
    }
}

type Summary = frame_alloc::SummaryBuddyAllocator<11, Exposed>;
type Depot = frame_alloc::DepotAllocator<Summary, CurrentCpu, 2, 128, 512>;

struct InRegion<T> {
    allocator: T,
    region: Region,
}

impl<T: RegionInit> InRegion<T> {
    fn new(allocator: T) -> Self {
        let region = Region::new(SIZE, SIZE, Pages::Huge);
        // SAFETY: a region of that size, used by nobody else until the allocator is dropped.
        unsafe { allocator.init_region(region.addr(), SIZE) };
        Self { allocator, region }
    }
}

impl<T: PhysicalAllocator + Sync + 'static> Frames for InRegion<T> {
    #[inline]
    fn alloc(&self, order: usize) -> Option<usize> {
        let count = NonZeroUsize::new(1 << order)?;
        let address = self.allocator.allocate_physical(BASE_PAGE, count).ok()?;
        Some((address - self.region.addr()) >> PAGE_SHIFT)
    }

    #[inline]
    fn free(&self, frame: usize, order: usize) {
        let address = self.region.addr() + (frame << PAGE_SHIFT);
        let count = NonZeroUsize::MIN.saturating_mul(nonzero_power(order));
        // SAFETY: workloads give back what they took, once.
        unsafe {
            self.allocator
                .deallocate_physical(BASE_PAGE, count, address)
        };
    }
}

#[inline(always)]
fn nonzero_power(order: usize) -> NonZeroUsize {
    NonZeroUsize::new(1 << order).unwrap_or(NonZeroUsize::MIN)
}

struct BuddySlab {
    allocator: Mutex<buddy_slab_allocator::BuddyAllocator<PAGE>>,
    nr_frames: usize,
    region: Region,
}

impl BuddySlab {
    fn new() -> Self {
        let region = Region::new(SIZE + METADATA, SIZE, Pages::Huge);
        let mut allocator = buddy_slab_allocator::BuddyAllocator::new();
        // SAFETY: dropped after the allocator, and used by nobody else.
        let bytes = unsafe { region.bytes() };
        // SAFETY: memory that is the allocator's alone.
        unsafe { allocator.init(bytes) }.expect("a region that is large enough");
        // What its metadata leaves over is held for ever, so that it has as many frames as everybody.
        for _ in NR_FRAMES..allocator.total_pages() {
            allocator
                .alloc_pages(1, PAGE)
                .expect("a fresh allocator has pages");
        }
        Self {
            nr_frames: allocator.total_pages().min(NR_FRAMES),
            allocator: Mutex::new(allocator),
            region,
        }
    }
}

impl Frames for BuddySlab {
    #[inline]
    fn alloc(&self, order: usize) -> Option<usize> {
        let address = self.allocator.lock().alloc_pages(1 << order, PAGE).ok()?;
        Some((address - self.region.addr()) >> PAGE_SHIFT)
    }

    #[inline]
    fn free(&self, frame: usize, order: usize) {
        let address = self.region.addr() + (frame << PAGE_SHIFT);
        self.allocator.lock().dealloc_pages(address, 1 << order);
    }

    fn nr_frames(&self) -> usize {
        self.nr_frames
    }
}

struct BuddySystem(buddy_system_allocator::LockedFrameAllocator<11>);

impl BuddySystem {
    fn new() -> Self {
        let allocator = buddy_system_allocator::LockedFrameAllocator::new();
        allocator.lock().add_frame(0, NR_FRAMES);
        Self(allocator)
    }
}

impl Frames for BuddySystem {
    #[inline]
    fn alloc(&self, order: usize) -> Option<usize> {
        self.0.lock().alloc(1 << order)
    }

    #[inline]
    fn free(&self, frame: usize, order: usize) {
        self.0.lock().dealloc(frame, 1 << order);
    }
}

struct Bitmap(Mutex<Box<BitAlloc1M>>);

impl Bitmap {
    fn new() -> Self {
        let mut bits: Box<BitAlloc1M> = Box::default();
        bits.insert(0..NR_FRAMES);
        Self(Mutex::new(bits))
    }
}

impl Frames for Bitmap {
    #[inline]
    fn alloc(&self, order: usize) -> Option<usize> {
        let mut bits = self.0.lock();
        if order == 0 {
            bits.alloc()
        } else {
            bits.alloc_contiguous(None, 1 << order, order)
        }
    }

    #[inline]
    fn free(&self, frame: usize, order: usize) {
        let mut bits = self.0.lock();
        if order == 0 {
            bits.dealloc(frame);
        } else {
            bits.dealloc_contiguous(frame, 1 << order);
        }
    }
}

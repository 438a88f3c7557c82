//! The peers that manage objects. Those with `&mut self` stand behind a spin lock, as in the kernels that use them.
#![expect(
    unsafe_code,
    reason = "gives memory to the peers, which are unsafe to use"
)]

use core::ptr::{NonNull, null_mut};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

use buddy_slab_allocator::{PerCpuSlab, SlabPoolTrait, StaticSlabPool};
use spin::Mutex;

use super::{ARENA_BYTES, Entry, Heap, build, resident};
use crate::cpu;
use crate::region::{Pages, Region};
use crate::rounds::Role;

/// An entry whose heap is made by an expression of `$pages`: which pages its arena is made of.
macro_rules! entry {
    ($name:literal, slow: $slow:literal, |$pages:ident| $make:expr) => {
        Entry {
            name: $name,
            role: Role::Rival,
            is_slow: $slow,
            build: |kind, plan, slow| {
                build(
                    || {
                        let $pages = Pages::Huge;
                        $make
                    },
                    kind,
                    plan,
                    slow,
                )
            },
            footprint: |sizes, slow| {
                resident::footprint(
                    || {
                        let $pages = Pages::Lazy;
                        $make
                    },
                    sizes,
                    slow,
                )
            },
        }
    };
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        #[cfg(feature = "c-peers")]
        entry!("jemalloc", slow: false, |_pages| Global(tikv_jemallocator::Jemalloc)),
        #[cfg(feature = "c-peers")]
        entry!("mimalloc", slow: false, |_pages| Global(mimalloc::MiMalloc)),
        #[cfg(feature = "c-peers")]
        entry!("snmalloc", slow: false, |_pages| Global(snmalloc_rs::SnMalloc)),
        entry!("system malloc", slow: false, |_pages| Global(System)),
        entry!("buddy-slab", slow: false, |pages| BuddySlab::shared(pages)),
        entry!("talc + lock", slow: false, |pages| Locked::talc(pages)),
        entry!("rlsf + lock", slow: false, |pages| Locked::rlsf(pages)),
        entry!("slab_allocator_rs + lock", slow: false, |pages| Locked::slab_rs(pages)),
        entry!("linked_list + lock", slow: true, |pages| Locked::linked_list(pages)),
    ]
}

/// A peer that is a global allocator already.
struct Global<T>(T);

impl<T: GlobalAlloc + Sync + 'static> Heap for Global<T> {
    #[inline]
    fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no layout of the workloads is of size 0.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn free(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.0.dealloc(ptr, layout) };
    }
}

/// A peer that wants to be alone.
trait Exclusive: 'static {
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// # Safety
    /// As for [`Heap::free`].
    unsafe fn free(&mut self, ptr: NonNull<u8>, layout: Layout);
}

struct Locked<T> {
    heap: Mutex<T>,
    /// Kept until the heap is gone.
    _arena: Region,
}

// SAFETY: the heap and its arena are reached under the lock only.
unsafe impl<T> Sync for Locked<T> {}

impl<T: Exclusive> Heap for Locked<T> {
    #[inline]
    fn alloc(&self, layout: Layout) -> *mut u8 {
        let ptr = self.heap.lock().alloc(layout);
        ptr.map_or(null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn free(&self, ptr: *mut u8, layout: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: the caller's obligations are the same.
            unsafe { self.heap.lock().free(ptr, layout) };
        }
    }
}

impl<T> Locked<T> {
    /// `init` gets the arena, for the heap alone.
    fn new(size: usize, pages: Pages, init: impl FnOnce(&'static mut [u8]) -> T) -> Self {
        let arena = Region::new(size, ARENA_BYTES, pages);
        // SAFETY: the region is kept beside the heap, and used by nothing else.
        let bytes = unsafe { arena.bytes() };
        Self {
            heap: Mutex::new(init(bytes)),
            _arena: arena,
        }
    }
}

impl Locked<linked_list_allocator::Heap> {
    fn linked_list(pages: Pages) -> Self {
        Self::new(ARENA_BYTES, pages, |bytes| {
            let mut heap = linked_list_allocator::Heap::empty();
            // SAFETY: memory that is the heap's alone.
            unsafe { heap.init(bytes.as_mut_ptr(), bytes.len()) };
            heap
        })
    }
}

impl Exclusive for linked_list_allocator::Heap {
    #[inline]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_first_fit(layout).ok()
    }

    #[inline]
    unsafe fn free(&mut self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.deallocate(ptr, layout) };
    }
}

type Talc = talc::base::Talc<talc::source::Manual, talc::DefaultBinning>;

impl Locked<Talc> {
    fn talc(pages: Pages) -> Self {
        Self::new(ARENA_BYTES, pages, |bytes| {
            let mut heap = Talc::new(talc::source::Manual);
            // SAFETY: memory that is the heap's alone.
            unsafe { heap.claim(bytes.as_mut_ptr(), bytes.len()) }.expect("an arena to claim");
            heap
        })
    }
}

impl Exclusive for Talc {
    #[inline]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: no layout of the workloads is of size 0.
        unsafe { self.allocate(layout) }
    }

    #[inline]
    unsafe fn free(&mut self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.deallocate(ptr.as_ptr(), layout) };
    }
}

type Rlsf = rlsf::Tlsf<'static, u32, u32, 28, 32>;

impl Locked<Rlsf> {
    fn rlsf(pages: Pages) -> Self {
        Self::new(ARENA_BYTES, pages, |bytes| {
            let mut heap = Rlsf::new();
            // SAFETY: memory that is the heap's alone.
            let added = unsafe { heap.insert_free_block_ptr(NonNull::from(bytes)) };
            assert!(added.is_some(), "an arena too small");
            heap
        })
    }
}

impl Exclusive for Rlsf {
    #[inline]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate(layout)
    }

    #[inline]
    unsafe fn free(&mut self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.deallocate(ptr, layout.align()) };
    }
}

impl Locked<slab_allocator_rs::Heap> {
    /// It gives each of its eight sizes an eighth of the arena.
    fn slab_rs(pages: Pages) -> Self {
        Self::new(2 * ARENA_BYTES, pages, |bytes| {
            let start = bytes.as_mut_ptr().expose_provenance();
            // SAFETY: memory that is the heap's alone.
            unsafe { slab_allocator_rs::Heap::new(start, bytes.len()) }
        })
    }
}

impl Exclusive for slab_allocator_rs::Heap {
    #[inline]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate(layout).ok()
    }

    #[inline]
    unsafe fn free(&mut self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.deallocate(ptr, layout) };
    }
}

/// Its slabs of each CPU are found through a static, so there is one heap for the whole run.
struct BuddySlab(&'static buddy_slab_allocator::GlobalAllocator<4096>);

static SLABS: StaticSlabPool<4096, 2> =
    StaticSlabPool::new([PerCpuSlab::new(0), PerCpuSlab::new(1)], cpu::current);

struct Host;

#[ax_crate_interface::impl_interface]
impl buddy_slab_allocator::interface::BuddySlabIf for Host {
    fn virt_to_phys(address: usize) -> usize {
        address
    }

    fn slab_pool() -> &'static dyn SlabPoolTrait {
        &SLABS
    }
}

impl BuddySlab {
    fn shared(pages: Pages) -> Self {
        static HEAP: OnceLock<&'static buddy_slab_allocator::GlobalAllocator<4096>> =
            OnceLock::new();
        Self(HEAP.get_or_init(|| {
            let heap = Box::leak(Box::new(buddy_slab_allocator::GlobalAllocator::new()));
            let arena = Box::leak(Box::new(Region::new(ARENA_BYTES, ARENA_BYTES, pages)));
            // SAFETY: never dropped, and used by nothing else.
            let bytes = unsafe { arena.bytes() };
            // SAFETY: memory that is the heap's alone, for ever.
            unsafe { heap.init(bytes) }.expect("an arena that is large enough");
            heap
        }))
    }
}

impl Heap for BuddySlab {
    #[inline]
    fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn free(&self, ptr: *mut u8, layout: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: the caller's obligations are the same.
            unsafe { self.0.dealloc(ptr, layout) };
        }
    }
}

//! A seeded random source, and an allocator that fails when told to.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test support"
)]

use kmm_frame::VirtAddr;
use kmm_vma::{Limits, MapFlags, Mm, MmLayout, MmapReq, Prot, VmFlags, VmaError};

pub mod oracle;

pub const PAGE: u64 = 4096;

/// A small address space, in pages: everything meets.
pub const MIN: u64 = 4;
pub const BASE: u64 = 56;
pub const END: u64 = 72;
/// Pages kept free below a stack.
pub const GAP: u64 = 3;

pub fn small_layout() -> MmLayout {
    MmLayout {
        min_addr: kmm_frame::VirtAddr::new(MIN * PAGE),
        task_size: kmm_frame::VirtAddr::new(END * PAGE),
        mmap_base: kmm_frame::VirtAddr::new(BASE * PAGE),
        stack_guard_gap_bytes: GAP * PAGE,
    }
}

/// An empty small address space without limits.
pub fn small_mm() -> Mm<u32> {
    Mm::new(small_layout(), Limits::default())
}

/// The address of a page.
pub fn va(page: u64) -> kmm_frame::VirtAddr {
    kmm_frame::VirtAddr::new(page * PAGE)
}

/// SplitMix64: 64 bits of state, the same numbers everywhere.
pub struct Rng(u64);

impl Rng {
    /// Seeded by `KMM_SEED` if that is set, else by `default`; prints how to replay.
    pub fn for_test(test: &str, default: u64) -> Self {
        let seed = std::env::var("KMM_SEED")
            .ok()
            .map_or(default, |s| s.parse().expect("KMM_SEED is a number"));
        println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-vma {test}");
        Self(seed)
    }

    pub const fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The allocator of the test program; fails on this thread's order.
pub mod failing {
    #![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

    use core::alloc::{GlobalAlloc, Layout};
    use core::cell::Cell;
    use std::alloc::System;

    thread_local! {
        static ALLOCATIONS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Runs `f`, in which only the first `allocations` allocations of this thread succeed.
    pub fn after<R>(allocations: u32, f: impl FnOnce() -> R) -> R {
        ALLOCATIONS_LEFT.set(Some(allocations));
        let result = f();
        ALLOCATIONS_LEFT.set(None);
        result
    }

    fn may_allocate() -> bool {
        match ALLOCATIONS_LEFT.try_with(Cell::get) {
            Ok(Some(0)) => false,
            Ok(Some(left)) => {
                ALLOCATIONS_LEFT.set(Some(left - 1));
                true
            }
            _ => true,
        }
    }

    struct Failing;

    #[global_allocator]
    static ALLOCATOR: Failing = Failing;

    // SAFETY: every call goes to `System`, or reports failure as null, as the trait allows.
    unsafe impl GlobalAlloc for Failing {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if !may_allocate() {
                return core::ptr::null_mut();
            }
            // SAFETY: the caller keeps `alloc`'s contract, which is `System`'s.
            unsafe { System.alloc(layout) }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            if !may_allocate() {
                return core::ptr::null_mut();
            }
            // SAFETY: the caller keeps `realloc`'s contract; the block came from `System`.
            unsafe { System.realloc(block, layout, new_size) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block came from `System` with this layout.
            unsafe { System.dealloc(block, layout) }
        }
    }
}

pub const RW: Prot = Prot::READ.union(Prot::WRITE);
pub const MAY_ALL: VmFlags = VmFlags::MAYREAD
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC);
/// Where Linux has its default lowest address.
pub const LOWEST: u64 = 0x1_0000;
/// The last page there could be.
pub const TOP: u64 = u64::MAX - PAGE + 1;

/// An empty address space as Linux lays it out, with its limits.
pub fn linux() -> Mm<u32> {
    Mm::new(MmLayout::default(), Limits::default())
}

/// Its end.
pub fn task_size() -> u64 {
    MmLayout::default().task_size.as_u64()
}

/// A picture of everything that can be seen.
pub fn picture(mm: &Mm<u32>) -> String {
    let areas: Vec<_> = mm.iter().collect();
    format!("{areas:x?} {:?} {:?}", mm.counts(), mm.current_brk())
}

/// Why a request is refused; nothing has changed.
pub fn refused(mm: &mut Mm<u32>, req: MmapReq<u32>) -> VmaError {
    let before = picture(mm);
    let error = mm.mmap(req).expect_err("allowed");
    assert_eq!(picture(mm), before);
    mm.validate();
    error
}

/// Anonymous memory at an address.
pub fn fixed(addr: u64, len_bytes: u64) -> MmapReq<u32> {
    MmapReq::anonymous(len_bytes, RW).fixed_at(VirtAddr::new(addr))
}

/// A page of a file.
pub fn file(may: VmFlags, prot: Prot, flags: MapFlags) -> MmapReq<u32> {
    MmapReq {
        addr: VirtAddr::ZERO,
        len_bytes: PAGE,
        prot,
        flags,
        file: Some((1, 0)),
        may,
    }
}

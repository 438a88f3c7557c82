//! Small address spaces, and a heap that fails when told to.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test support"
)]

use kmm_frame::VirtAddr;
use kmm_sim::FailingHeap;
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

#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

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

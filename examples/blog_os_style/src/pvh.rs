//! The way in by `qemu -kernel` (PVH): from 32-bit mode without paging to `kernel_main`.
//!
//! The CPU arrives with `ebx` pointing at Xen's `hvm_start_info`. Its memory map is at byte 40 (address) and 48
//! (number of entries); an entry is address, size, type, each of 8 bytes.

use core::arch::global_asm;

/// Frames below this are mapped, one to one and from `PHYS_OFFSET` on.
const MAPPED_END: u64 = 1 << 30;
const PHYS_OFFSET: u64 = 0xffff_8880_0000_0000;
const USABLE: u32 = 1;

unsafe extern "C" {
    /// The end of the kernel; the linker knows it.
    static _end: u8;
}

#[unsafe(no_mangle)]
extern "C" fn pvh_main(start_info: u64) -> ! {
    // SAFETY: QEMU put the structure below 1 GiB, which is mapped one to one.
    let read = |address: u64| unsafe { (address as *const u64).read_unaligned() };
    let (entries, count) = (read(start_info + 40), read(start_info + 48) as u32);
    let kernel_end = (&raw const _end as u64).next_multiple_of(4096);
    let usable = (0..u64::from(count))
        .map(|nr| entries + nr * 24)
        .filter(|&entry| read(entry + 16) as u32 == USABLE)
        .map(|entry| (read(entry), read(entry) + read(entry + 8)))
        .map(|(start, end)| start.max(kernel_end)..end.min(MAPPED_END));
    // SAFETY: what the map calls usable is RAM; above the kernel nobody uses it, and below 1 GiB it is mapped.
    unsafe { crate::kernel_main(usable, PHYS_OFFSET) }
}

global_asm!(include_str!("pvh.s"));

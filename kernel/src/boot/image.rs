//! The kernel image in memory: its sections, what each may do, and which frames hold it.
//!
//! Through the bootloader door the image is not physically contiguous, so the final tables ask [`frame_of`] for each page.
#![expect(
    unsafe_code,
    reason = "linker symbols, page-table reads through the direct map"
)]

use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr;
use core::slice;

use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::PageTableFlags;

use super::DIRECT_MAP;

unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __boot_stack_guard: u8;
    static __boot_stack_bottom: u8;
    static __boot_stack_top: u8;
    static __image_end: u8;
}

macro_rules! address_of {
    ($symbol:ident) => {
        ptr::addr_of!($symbol).addr() as u64
    };
}

/// A part of the image, by virtual page-aligned addresses.
#[derive(Clone, Debug)]
pub struct Section {
    /// What is in it.
    pub name: &'static str,
    /// Its addresses.
    pub range: Range<u64>,
    /// May it be written?
    pub is_writable: bool,
    /// May it be executed? Never both.
    pub is_executable: bool,
}

/// The parts of the image that the final tables map. The guard page under the boot stack is in none of them.
pub fn sections() -> [Section; 4] {
    [
        Section {
            name: "text",
            range: text(),
            is_writable: false,
            is_executable: true,
        },
        Section {
            name: "rodata",
            range: address_of!(__rodata_start)..address_of!(__rodata_end),
            is_writable: false,
            is_executable: false,
        },
        Section {
            name: "data",
            range: address_of!(__data_start)..address_of!(__data_end),
            is_writable: true,
            is_executable: false,
        },
        Section {
            name: "boot stack",
            range: boot_stack(),
            is_writable: true,
            is_executable: false,
        },
    ]
}

/// The whole image, guard page included.
pub fn whole() -> Range<u64> {
    address_of!(__image_start)..address_of!(__image_end)
}

/// The executable part.
pub fn text() -> Range<u64> {
    address_of!(__text_start)..address_of!(__text_end)
}

/// The stack on which `kernel_main` runs.
pub fn boot_stack() -> Range<u64> {
    address_of!(__boot_stack_bottom)..address_of!(__boot_stack_top)
}

/// The page under the boot stack, never mapped by the final tables.
pub fn boot_stack_guard() -> Range<u64> {
    address_of!(__boot_stack_guard)..address_of!(__boot_stack_bottom)
}

const PRESENT: u64 = PageTableFlags::PRESENT.bits();
const HUGE: u64 = PageTableFlags::HUGE_PAGE.bits();
/// Where an entry has the address.
pub const ENTRY_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Entries of a table.
pub const TABLE_LEN: usize = 512;

/// The entry that maps `virt`, and the number of address bits below it (12, 21 or 30), by the tables in CR3.
pub fn leaf_entry(virt: u64) -> Option<(*mut u64, u32)> {
    let mut table = Cr3::read().0.start_address().as_u64();
    for shift in [39, 30, 21, 12] {
        let index = (virt >> shift) & (TABLE_LEN as u64 - 1);
        let place = (DIRECT_MAP + table + index * 8) as *mut u64;
        // SAFETY: `table` comes from CR3 or a present entry, so it is a page table, and the direct map reaches it.
        let entry = unsafe { place.read_volatile() };
        if entry & PRESENT == 0 {
            return None;
        }
        if shift == 12 || (shift != 39 && entry & HUGE != 0) {
            return Some((place, shift));
        }
        table = entry & ENTRY_ADDRESS;
    }
    None
}

/// The physical address behind a page of the image (or of anything else), by the tables in CR3; `None` if it is not mapped.
///
/// # Context
/// The tables themselves are reachable in the direct map: true provisionally and finally.
pub fn frame_of(virt: u64) -> Option<u64> {
    let (place, shift) = leaf_entry(virt)?;
    // SAFETY: a page-table entry, found just now.
    let entry = unsafe { place.read_volatile() };
    let offset_mask = (1_u64 << shift) - 1;
    Some((entry & ENTRY_ADDRESS & !offset_mask) | (virt & offset_mask))
}

/// Takes the page below the boot stack out of the provisional tables, so that boot code that needs too much stack is told.
///
/// # Context
/// Early: one CPU, provisional tables.
pub fn unmap_boot_stack_guard() {
    #[repr(align(4096))]
    struct Table(UnsafeCell<[u64; TABLE_LEN]>);
    // SAFETY: used once, before there is anyone to share it with.
    unsafe impl Sync for Table {}
    static SPLIT: Table = Table(UnsafeCell::new([0; TABLE_LEN]));

    let guard = boot_stack_guard().start;
    let split = SPLIT.0.get();
    if let (Some((place, 21)), Some(split_phys)) =
        (leaf_entry(guard), frame_of(split.addr() as u64))
    {
        // SAFETY: the entry that maps the guard, found just now.
        let huge = unsafe { place.read_volatile() };
        let pages = core::array::from_fn(|nr| (huge & !HUGE) + (nr as u64) * 4096);
        // SAFETY: `SPLIT` is in no table yet.
        unsafe { split.write(pages) };
        // SAFETY: the new table maps the same 2 MiB in the same way.
        unsafe { place.write_volatile(split_phys | (huge & 0xfff & !HUGE)) };
        tlb::flush_all();
    }
    if let Some((place, 12)) = leaf_entry(guard) {
        // SAFETY: nothing is kept in the guard page.
        unsafe { place.write_volatile(0) };
        tlb::flush(VirtAddr::new(guard));
    }
}

/// The bytes of a physical range through the direct map, if it lies below `mapped_end`.
pub fn phys_bytes(range: Range<u64>, mapped_end: u64) -> Option<&'static [u8]> {
    if range.start == 0 || range.start >= range.end || range.end > mapped_end {
        return None;
    }
    let len = usize::try_from(range.end - range.start).ok()?;
    // SAFETY: below `mapped_end` every address is mapped; boot data (initrd, firmware tables) is written by nobody once we run,
    // and memblock keeps it reserved.
    Some(unsafe { slice::from_raw_parts((DIRECT_MAP + range.start) as *const u8, len) })
}

//! A kernel in the manner of blog_os, whose heap is `kmm-slub` instead of `linked_list_allocator`: see `allocator.rs`.

#![no_std]
#![no_main]

extern crate alloc;

mod allocator;
mod memory;
mod pvh;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt::{Arguments, Write};
use core::ops::Range;

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::MemoryRegionKind;
use uart_16550::SerialPort;
use x86_64::instructions::{hlt, port::Port};

static CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config
};

bootloader_api::entry_point!(bootloader_main, config = &CONFIG);

/// The way in by the `bootloader` crate; `pvh.rs` is the other.
fn bootloader_main(info: &'static mut bootloader_api::BootInfo) -> ! {
    let offset = info.physical_memory_offset.into_option();
    let regions = info.memory_regions.iter();
    let usable = regions.filter(|region| region.kind == MemoryRegionKind::Usable);
    let usable = usable.map(|region| region.start..region.end);
    // SAFETY: so the boot loader says.
    unsafe { kernel_main(usable, offset.expect("CONFIG asks for it")) }
}

/// # Safety
/// What lies in `usable` is RAM that nobody uses, mapped at `phys_offset` for ever.
unsafe fn kernel_main(usable: impl Iterator<Item = Range<u64>>, phys_offset: u64) -> ! {
    let largest = usable.max_by_key(|range| range.end.saturating_sub(range.start));
    // SAFETY: by the caller.
    unsafe { allocator::init_heap(largest.expect("no usable memory"), phys_offset) };

    let squares: Vec<u64> = (0..100_000).map(|n| n * n).collect(); // 800 KB: blocks of pages
    let names: BTreeMap<u64, &str> = [(3, "three"), (1, "one"), (2, "two")].into(); // an object
    assert_eq!(squares.iter().sum::<u64>(), 333_328_333_350_000);
    assert!(names.values().eq(&["one", "two", "three"]));
    println(format_args!(
        "a Vec of {} numbers and a BTreeMap of {} names work",
        squares.len(),
        names.len()
    ));
    for cache in allocator::HEAP.kmem().expect("set").cache_infos() {
        if cache.num_objs > 0 {
            println(format_args!(
                "cache {}: {} of {} objects in use",
                cache.name, cache.active_objs, cache.num_objs
            ));
        }
    }
    exit(0x10)
}

fn println(line: Arguments<'_>) {
    // SAFETY: COM1 is where every PC has it.
    let mut serial = unsafe { SerialPort::new(0x3f8) };
    serial.init();
    let _ = writeln!(serial, "{line}");
}

/// Ends QEMU with the exit code `2 * code + 1`: 33 is success, as in blog_os.
fn exit(code: u32) -> ! {
    // SAFETY: the port of QEMU's isa-debug-exit; elsewhere nobody listens.
    unsafe { Port::new(0xf4).write(code) };
    loop {
        hlt();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println(format_args!("{info}"));
    exit(0x11)
}

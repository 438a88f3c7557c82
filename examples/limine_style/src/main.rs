//! A kernel in the manner of a Limine template that takes its memory management from three crates: see `memory.rs`.

#![no_std]
#![no_main]

mod memory;

use core::fmt::{Arguments, Write};

use kmm_frame::memblock::{FirmwareKind, FirmwareRegion};
use kmm_frame::{PhysAddr, VirtAddr};
use limine::BaseRevision;
use limine::memory_map::{Entry, EntryType};
use limine::request::{
    ExecutableAddressRequest, HhdmRequest, MemoryMapRequest, RequestsEndMarker,
    RequestsStartMarker, StackSizeRequest,
};
use uart_16550::SerialPort;

#[used]
#[unsafe(link_section = ".requests_start")]
static START: RequestsStartMarker = RequestsStartMarker::new();
#[used]
#[unsafe(link_section = ".requests")]
static REVISION: BaseRevision = BaseRevision::with_revision(3);
#[used]
#[unsafe(link_section = ".requests")]
static MEMORY_MAP: MemoryMapRequest = MemoryMapRequest::new();
#[used]
#[unsafe(link_section = ".requests")]
static HHDM: HhdmRequest = HhdmRequest::new();
#[used]
#[unsafe(link_section = ".requests")]
static ADDRESS: ExecutableAddressRequest = ExecutableAddressRequest::new();
#[used]
#[unsafe(link_section = ".requests")]
static STACK: StackSizeRequest = StackSizeRequest::new().with_size(256 << 10);
#[used]
#[unsafe(link_section = ".requests_end")]
static END: RequestsEndMarker = RequestsEndMarker::new();

#[unsafe(no_mangle)]
extern "C" fn kmain() -> ! {
    assert!(REVISION.is_supported(), "Limine is too old");
    let map = MEMORY_MAP.get_response().expect("a memory map").entries();
    let image = ADDRESS.get_response().expect("where the kernel lies");
    // SAFETY: so Limine promises: usable memory is free, and the direct map shows it.
    unsafe {
        memory::init(
            map.iter().map(|entry| region(entry)),
            VirtAddr::new(HHDM.get_response().expect("a direct map").offset()),
            PhysAddr::new(image.physical_base()),
        )
    };
    println(format_args!("all well"));
    exit(0x10)
}

/// An entry of Limine's map in memblock's words.
fn region(entry: &Entry) -> FirmwareRegion {
    let kind = match entry.entry_type {
        EntryType::USABLE => FirmwareKind::Usable,
        EntryType::ACPI_RECLAIMABLE => FirmwareKind::AcpiReclaimable,
        EntryType::ACPI_NVS => FirmwareKind::AcpiNvs,
        EntryType::BAD_MEMORY => FirmwareKind::Bad,
        EntryType::BOOTLOADER_RECLAIMABLE => FirmwareKind::Bootloader,
        EntryType::EXECUTABLE_AND_MODULES => FirmwareKind::Kernel,
        _ => FirmwareKind::Reserved,
    };
    FirmwareRegion::with_size(entry.base, entry.length, kind)
}

pub fn println(line: Arguments<'_>) {
    // SAFETY: COM1 is where every PC has it.
    let mut serial = unsafe { SerialPort::new(0x3f8) };
    serial.init();
    let _ = writeln!(serial, "{line}");
}

/// Ends QEMU (`-device isa-debug-exit,iobase=0xf4,iosize=0x04`) with the exit code `2 * code + 1`.
fn exit(code: u32) -> ! {
    // SAFETY: the port of QEMU's isa-debug-exit; elsewhere nobody listens.
    unsafe { x86_64::instructions::port::Port::new(0xf4).write(code) };
    loop {
        x86_64::instructions::hlt();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println(format_args!("{info}"));
    exit(0x11)
}

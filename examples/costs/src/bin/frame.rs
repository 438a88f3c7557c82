#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_frame::memblock::{FirmwareRegion, FirstMegabyte, Memblock, Reserved};
use kmm_frame::{MemMap, PhysAddr};

static MEMBLOCK: spin::Mutex<Memblock> = spin::Mutex::new(Memblock::new());

fn run() {
    let mut memory = MEMBLOCK.lock();
    let regions: &[FirmwareRegion] = black_box(&[]);
    memory
        .add_firmware_map(regions.iter().copied(), FirstMegabyte::Skip)
        .unwrap();
    memory
        .reserve(PhysAddr::new(any()), any(), Reserved::KernelImage)
        .unwrap();
    let layout = MemMap::layout(memory.spanned()).unwrap();
    let within = PhysAddr::ZERO..PhysAddr::new(any());
    let storage = memory.alloc(layout.size() as u64, any(), within).unwrap();
    let storage = core::ptr::NonNull::new(storage.as_u64() as *mut u8).unwrap();
    // SAFETY: never run.
    black_box(unsafe { MemMap::new_in(memory.spanned(), storage) });
    black_box(memory.accounting());
    memory
        .hand_over()
        .unwrap()
        .for_each(|range| _ = black_box(range));
}

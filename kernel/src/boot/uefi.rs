//! The bootloader door: a UEFI disk image. The `bootloader` crate's page tables are the provisional ones, and its boot information has no
//! command line, so that comes from the file `etc/cmdline` of the initramfs.
#![expect(unsafe_code, reason = "entry, stack switch")]

use core::arch::global_asm;
use core::ffi::c_void;
use core::ptr;

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::{MemoryRegionKind, Optional};
use spin::Once;

use super::{BootInfo, DIRECT_MAP, Door, RegionKind, cpio, image};
use crate::arch;

/// The bootloader puts what it maps on its own account (stack, boot information, ramdisk) above this; below are the identity map and the
/// direct map.
const DYNAMIC_RANGE_START: u64 = 0xffff_f000_0000_0000;

static CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::FixedAddress(DIRECT_MAP));
    config.mappings.dynamic_range_start = Some(DYNAMIC_RANGE_START);
    config.kernel_stack_size = 32 << 10;
    config
};

bootloader_api::entry_point!(uefi_start, config = &CONFIG);

global_asm!(
    ".pushsection .text.uefi_switch_stack, \"ax\"",
    "uefi_switch_stack:",
    "mov rsp, offset __boot_stack_top",
    "xor ebp, ebp",
    "call uefi_entry",
    "ud2",
    ".popsection",
);

unsafe extern "C" {
    fn uefi_switch_stack(info: *mut c_void) -> !;
}

fn uefi_start(info: &'static mut bootloader_api::BootInfo) -> ! {
    // SAFETY: the boot stack is mapped and unused; nothing on the bootloader's stack is needed again, as `info` lies elsewhere.
    unsafe { uefi_switch_stack(ptr::from_mut(info).cast()) }
}

/// Name and address of this door's first function.
pub fn entry_point() -> (&'static str, u64) {
    ("uefi_entry", uefi_entry as *const () as u64)
}

#[unsafe(no_mangle)]
extern "C" fn uefi_entry(info: *mut c_void) -> ! {
    static BOOT_INFO: Once<BootInfo> = Once::new();
    // SAFETY: what `uefi_start` passed through the assembly, a unique reference for ever.
    let info = unsafe { &mut *info.cast::<bootloader_api::BootInfo>() };
    arch::init_boot_cpu();
    let mapped_end = info
        .memory_regions
        .iter()
        .map(|region| region.end)
        .max()
        .unwrap_or(0)
        .max(4 << 30);
    let mut boot = BootInfo::new(Door::Uefi, mapped_end);
    for region in info.memory_regions.iter() {
        boot.memory_map.push(
            region.start,
            region.end.saturating_sub(region.start),
            region_kind(region.kind),
        );
    }
    if let Optional::Some(rsdp) = info.rsdp_addr {
        boot.rsdp = Some(rsdp);
    }
    if let Optional::Some(start) = info.ramdisk_addr {
        if let Some(phys) = image::frame_of(start).filter(|_| info.ramdisk_len > 0) {
            boot.initrd = Some(phys..phys + info.ramdisk_len);
        }
    }
    let archive = boot.initrd_bytes();
    if let Some(text) = cpio::find(archive, "etc/cmdline") {
        boot.set_cmdline(text);
    }
    crate::kernel_main(BOOT_INFO.call_once(|| boot))
}

fn region_kind(kind: MemoryRegionKind) -> RegionKind {
    match kind {
        MemoryRegionKind::Usable => RegionKind::Usable,
        MemoryRegionKind::Bootloader => RegionKind::Bootloader,
        // UEFI specification, EFI_MEMORY_TYPE.
        MemoryRegionKind::UnknownUefi(8) => RegionKind::Unusable,
        MemoryRegionKind::UnknownUefi(9) => RegionKind::AcpiReclaimable,
        MemoryRegionKind::UnknownUefi(10) => RegionKind::AcpiNvs,
        MemoryRegionKind::UnknownUefi(14) => RegionKind::Persistent,
        _ => RegionKind::Reserved,
    }
}

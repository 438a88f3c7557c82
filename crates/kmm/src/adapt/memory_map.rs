//! Memory maps of boot loaders as [`FirmwareRegion`]s.

use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use kmm_frame::memblock::{FirmwareKind, FirmwareRegion};

/// A region of `bootloader_api`'s `BootInfo::memory_regions`.
///
/// The boot loader merges what it does not know into `UnknownUefi` and `UnknownBios` with the firmware's own type
/// number, so ACPI tables and non-volatile storage are told apart here.
#[must_use]
pub fn from_bootloader(region: &MemoryRegion) -> FirmwareRegion {
    let kind = match region.kind {
        MemoryRegionKind::Usable => FirmwareKind::Usable,
        MemoryRegionKind::Bootloader => FirmwareKind::Bootloader,
        MemoryRegionKind::UnknownUefi(number) => FirmwareKind::from_uefi(number),
        MemoryRegionKind::UnknownBios(number) => FirmwareKind::from_e820(number),
        _ => FirmwareKind::Reserved,
    };
    FirmwareRegion::new(region.start, region.end, kind)
}

//! The PVH door: `qemu -kernel`. `pvh.S` makes the provisional tables and enters 64-bit mode; here `hvm_start_info` is read.
//!
//! Layout and meaning: Xen's `public/arch-x86/hvm/start_info.h`. Whatever the structure says is checked before it is followed.
#![expect(unsafe_code, reason = "entry from assembly")]

use core::arch::global_asm;
use core::ops::Range;

use spin::Once;

use super::{BootInfo, Door, RegionKind, image};
use crate::arch;

global_asm!(include_str!("pvh.S"), options(att_syntax));

/// What `pvh.S` maps at the direct map: 4 GiB.
pub const MAPPED_END: u64 = 4 << 30;

const MAGIC: u32 = 0x336e_c578;
const START_INFO_LEN: u64 = 56;
const MEMMAP_ENTRY_LEN: u64 = 24;
const MODULE_ENTRY_LEN: u64 = 32;
/// Firmware maps have tens of entries; a count above this is corruption.
const MAX_MEMMAP_ENTRIES: u32 = 4096;
const MAX_MODULES: u32 = 64;
const MAX_CMDLINE: u64 = 4096;

/// What is wrong with a start info structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartInfoError {
    /// It lies outside mapped memory, or has the wrong magic number.
    NotFound,
    /// It is of version 0, which has no memory map.
    NoMemoryMap,
    /// The memory map's address or count makes no sense.
    BadMemoryMap,
}

impl core::fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no PVH start info where EBX points",
            Self::NoMemoryMap => "the PVH start info has no memory map",
            Self::BadMemoryMap => "the PVH memory map's address or count makes no sense",
        })
    }
}

impl core::error::Error for StartInfoError {}

/// Reads memory by physical address, as far as it is mapped.
pub trait ReadPhys {
    /// The bytes of `range`, or `None` if some are out of reach.
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]>;
}

/// The provisional direct map.
struct Provisional;

impl ReadPhys for Provisional {
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        image::phys_bytes(range, MAPPED_END)
    }
}

/// Name and address of this door's first function.
pub fn entry_point() -> (&'static str, u64) {
    ("pvh_entry", pvh_entry as *const () as u64)
}

/// Entered from `pvh.S` on the boot stack, in 64-bit mode.
#[unsafe(no_mangle)]
extern "C" fn pvh_entry(start_info: u64) -> ! {
    static BOOT_INFO: Once<BootInfo> = Once::new();
    arch::init_boot_cpu();
    let mut boot = BootInfo::new(Door::Pvh, MAPPED_END);
    if let Err(error) = parse(&Provisional, start_info, &mut boot) {
        println!("kmm: cannot boot: {error}");
        arch::exit::exit(arch::exit::CANNOT_BOOT);
    }
    crate::kernel_main(BOOT_INFO.call_once(|| boot))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..offset + 4)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..offset + 8)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn table(phys: &impl ReadPhys, start: u64, count: u32, entry_len: u64) -> Option<&[u8]> {
    phys.bytes(start..start.checked_add(u64::from(count) * entry_len)?)
}

/// Reads the structure at `start_info` into `boot`.
///
/// # Errors
/// [`StartInfoError`] if there is no usable memory map. A bad command line or module list is left out, not an error.
pub fn parse(
    phys: &impl ReadPhys,
    start_info: u64,
    boot: &mut BootInfo,
) -> Result<(), StartInfoError> {
    let end = start_info
        .checked_add(START_INFO_LEN)
        .ok_or(StartInfoError::NotFound)?;
    let info = phys
        .bytes(start_info..end)
        .ok_or(StartInfoError::NotFound)?;
    if u32_at(info, 0) != MAGIC {
        return Err(StartInfoError::NotFound);
    }
    let (version, nr_modules) = (u32_at(info, 4), u32_at(info, 12));
    let (modules, cmdline, rsdp) = (u64_at(info, 16), u64_at(info, 24), u64_at(info, 32));
    let (memmap, nr_memmap) = (u64_at(info, 40), u32_at(info, 48));
    if version == 0 {
        return Err(StartInfoError::NoMemoryMap);
    }
    if nr_memmap == 0 || nr_memmap > MAX_MEMMAP_ENTRIES {
        return Err(StartInfoError::BadMemoryMap);
    }
    let entries =
        table(phys, memmap, nr_memmap, MEMMAP_ENTRY_LEN).ok_or(StartInfoError::BadMemoryMap)?;
    for entry in entries.chunks_exact(24) {
        boot.memory_map.push(
            u64_at(entry, 0),
            u64_at(entry, 8),
            region_kind(u32_at(entry, 16)),
        );
    }
    boot.rsdp = (rsdp != 0).then_some(rsdp);
    if let Some(text) = c_string(phys, cmdline) {
        boot.set_cmdline(text);
    }
    if nr_modules > 0 && nr_modules <= MAX_MODULES {
        if let Some(first) = table(phys, modules, 1, MODULE_ENTRY_LEN) {
            let (start, size_bytes) = (u64_at(first, 0), u64_at(first, 8));
            boot.initrd = start
                .checked_add(size_bytes)
                .filter(|&end| start != 0 && end > start)
                .map(|end| start..end);
        }
    }
    Ok(())
}

fn region_kind(kind: u32) -> RegionKind {
    match kind {
        1 => RegionKind::Usable,
        3 => RegionKind::AcpiReclaimable,
        4 => RegionKind::AcpiNvs,
        5 => RegionKind::Unusable,
        7 => RegionKind::Persistent,
        _ => RegionKind::Reserved,
    }
}

fn c_string(phys: &impl ReadPhys, start: u64) -> Option<&[u8]> {
    let bytes = phys.bytes(start..start.checked_add(MAX_CMDLINE)?)?;
    bytes.split(|&byte| byte == 0).next()
}

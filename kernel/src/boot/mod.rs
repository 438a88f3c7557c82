//! From the firmware to `kernel_main`: two doors, one [`BootInfo`].
//!
//! [`pvh`] is entered by `qemu -kernel` in 32-bit mode and builds its provisional tables itself; [`uefi`] is entered by the `bootloader`
//! crate in 64-bit mode with tables of the bootloader's making. In both, until `mm` builds the final tables, physical memory below
//! [`BootInfo::mapped_end`] is reachable at [`DIRECT_MAP`], and the image at its linked addresses.

pub mod cpio;
pub mod image;
pub mod pvh;
pub mod uefi;

use core::fmt;
use core::ops::Range;

/// Where physical memory is mapped, provisionally and finally. Linux: `__PAGE_OFFSET`, 4-level.
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

/// Entries that a [`MemoryMap`] can hold.
pub const MAX_REGIONS: usize = 512;
/// What must be left beside the image and the initrd: descriptors, tables, caches, a program.
const MIN_FREE_BYTES: u64 = 16 << 20;
const CMDLINE_MAX: usize = 1024;

/// Which way the kernel was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The 32-bit entry of the Xen PVH ABI.
    Pvh,
    /// The `bootloader` crate.
    Uefi,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pvh => "PVH",
            Self::Uefi => "UEFI",
        })
    }
}

/// What the firmware says about a range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Free for the kernel.
    Usable,
    /// Not memory, or not ours.
    Reserved,
    /// ACPI tables; usable once they have been read. Linux: `E820_TYPE_ACPI`.
    AcpiReclaimable,
    /// To be left alone for ever. Linux: `E820_TYPE_NVS`.
    AcpiNvs,
    /// Broken memory.
    Unusable,
    /// Memory that outlives a power cycle.
    Persistent,
    /// Memory that the bootloader took: its page tables, the kernel image, the boot information.
    Bootloader,
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable => "usable",
            Self::Reserved => "reserved",
            Self::AcpiReclaimable => "ACPI data",
            Self::AcpiNvs => "ACPI NVS",
            Self::Unusable => "unusable",
            Self::Persistent => "persistent",
            Self::Bootloader => "bootloader",
        })
    }
}

/// A range of the firmware's map: it may be unaligned, and overlap others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Byte after the last; above `start`.
    pub end: u64,
    /// What is there.
    pub kind: RegionKind,
}

/// The firmware's map, in its order.
pub struct MemoryMap {
    regions: [Region; MAX_REGIONS],
    nr_regions: usize,
    nr_dropped: usize,
    nr_bad: usize,
}

impl MemoryMap {
    /// An empty map.
    pub const fn new() -> Self {
        Self {
            regions: [Region {
                start: 0,
                end: 0,
                kind: RegionKind::Reserved,
            }; MAX_REGIONS],
            nr_regions: 0,
            nr_dropped: 0,
            nr_bad: 0,
        }
    }

    /// Adds a range as the firmware tells it, joined to the one before where it continues that. Empty ranges are ignored; a range that wraps
    /// around is counted as bad and ends at the last byte.
    ///
    /// When the map is full, usable ranges are dropped (memory is lost), and others take the place of a usable one (nothing reserved is forgotten).
    pub fn push(&mut self, start: u64, size_bytes: u64, kind: RegionKind) {
        if size_bytes == 0 {
            return;
        }
        let end = start.checked_add(size_bytes).unwrap_or_else(|| {
            self.nr_bad += 1;
            u64::MAX
        });
        let region = Region { start, end, kind };
        let last = self
            .nr_regions
            .checked_sub(1)
            .map(|index| &mut self.regions[index]);
        if let Some(last) = last.filter(|last| last.end == start && last.kind == kind) {
            last.end = end;
            return;
        }
        if let Some(slot) = self.regions.get_mut(self.nr_regions) {
            *slot = region;
            self.nr_regions += 1;
            return;
        }
        self.nr_dropped += 1;
        if kind != RegionKind::Usable {
            if let Some(slot) = self
                .regions
                .iter_mut()
                .rev()
                .find(|slot| slot.kind == RegionKind::Usable)
            {
                *slot = region;
            }
        }
    }

    /// The entries.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.nr_regions]
    }

    /// Entries that did not fit.
    pub fn nr_dropped(&self) -> usize {
        self.nr_dropped
    }

    /// Sum of the usable entries; entries that overlap count twice.
    pub fn usable_bytes(&self) -> u64 {
        self.regions()
            .iter()
            .filter(|region| region.kind == RegionKind::Usable)
            .fold(0, |sum, region| {
                sum.saturating_add(region.end - region.start)
            })
    }
}

/// All that the kernel learns from whoever started it.
pub struct BootInfo {
    /// Which way it came in.
    pub door: Door,
    /// The firmware's map.
    pub memory_map: MemoryMap,
    /// Physical address of the ACPI root pointer.
    pub rsdp: Option<u64>,
    /// Physical range of the initramfs; inside memory that the map may call usable.
    pub initrd: Option<Range<u64>>,
    /// Physical memory below this is reachable at [`DIRECT_MAP`] in the provisional tables.
    pub mapped_end: u64,
    cmdline: [u8; CMDLINE_MAX],
    cmdline_len: usize,
}

/// Why [`BootInfo::check`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// The map has no usable entry.
    NoUsableMemory,
    /// The map has too little.
    TooLittleMemory {
        /// What it has.
        usable_bytes: u64,
        /// What it takes.
        needed_bytes: u64,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUsableMemory => f.write_str("the firmware's memory map has no usable memory"),
            Self::TooLittleMemory {
                usable_bytes,
                needed_bytes,
            } => {
                write!(
                    f,
                    "too little memory: {} KiB usable, at least {} KiB needed",
                    usable_bytes >> 10,
                    needed_bytes >> 10
                )
            }
        }
    }
}

impl core::error::Error for BootError {}

impl BootInfo {
    /// Knows nothing yet.
    pub const fn new(door: Door, mapped_end: u64) -> Self {
        Self {
            door,
            memory_map: MemoryMap::new(),
            rsdp: None,
            initrd: None,
            mapped_end,
            cmdline: [0; CMDLINE_MAX],
            cmdline_len: 0,
        }
    }

    /// The command line, up to the first byte that is not UTF-8.
    pub fn cmdline(&self) -> &str {
        let bytes = &self.cmdline[..self.cmdline_len];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }

    /// Is `word` on the command line?
    pub fn has_word(&self, word: &str) -> bool {
        self.cmdline()
            .split_ascii_whitespace()
            .any(|found| found == word)
    }

    /// The value of `key=value` on the command line.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.cmdline()
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// The initramfs, by way of the direct map: provisional and final.
    pub fn initrd_bytes(&self) -> &'static [u8] {
        self.initrd
            .clone()
            .and_then(|range| image::phys_bytes(range, self.mapped_end))
            .unwrap_or(&[])
    }

    fn set_cmdline(&mut self, text: &[u8]) {
        let text = text.trim_ascii();
        let len = text.len().min(CMDLINE_MAX);
        self.cmdline[..len].copy_from_slice(&text[..len]);
        self.cmdline_len = len;
    }

    /// Refuses what cannot be booted.
    ///
    /// # Errors
    /// [`BootError`] says why.
    pub fn check(&self) -> Result<(), BootError> {
        let usable_bytes = self.memory_map.usable_bytes();
        if usable_bytes == 0 {
            return Err(BootError::NoUsableMemory);
        }
        let initrd_bytes = self
            .initrd
            .as_ref()
            .map_or(0, |initrd| initrd.end - initrd.start);
        let image = image::whole();
        let needed_bytes = match self.door {
            Door::Pvh => MIN_FREE_BYTES + (image.end - image.start) + initrd_bytes,
            // What the bootloader loaded is not called usable.
            Door::Uefi => MIN_FREE_BYTES,
        };
        if usable_bytes < needed_bytes {
            return Err(BootError::TooLittleMemory {
                usable_bytes,
                needed_bytes,
            });
        }
        Ok(())
    }

    /// Shows it on the serial line.
    pub fn print(&self) {
        println!("boot: command line: {:?}", self.cmdline());
        for region in self.memory_map.regions() {
            println!(
                "boot: memory {:#014x}-{:#014x} {}",
                region.start,
                region.end - 1,
                region.kind
            );
        }
        if self.memory_map.nr_dropped != 0 || self.memory_map.nr_bad != 0 {
            println!(
                "boot: memory map: {} entries too many, {} wrap around",
                self.memory_map.nr_dropped, self.memory_map.nr_bad
            );
        }
        for section in image::sections() {
            let write = if section.is_writable { "w" } else { "-" };
            let execute = if section.is_executable { "x" } else { "-" };
            let (start, last) = (section.range.start, section.range.end - 1);
            println!(
                "boot: image {start:#x}-{last:#x} r{write}{execute} {}",
                section.name
            );
        }
        match &self.initrd {
            Some(initrd) => println!("boot: initrd {:#x}-{:#x}", initrd.start, initrd.end - 1),
            None => println!("boot: no initrd"),
        }
        match self.rsdp {
            Some(rsdp) => println!("boot: ACPI root pointer at {rsdp:#x}"),
            None => println!("boot: no ACPI root pointer"),
        }
    }
}

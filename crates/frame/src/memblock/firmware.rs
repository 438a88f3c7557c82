//! What firmware and boot loaders say about memory, in one vocabulary.

use super::MAX_PHYS;
use super::Reserved;

/// What a region of the firmware's memory map is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FirmwareKind {
    /// RAM that the kernel may use.
    Usable,
    /// Not for the kernel, for whatever reason; also every kind that nobody knows.
    Reserved,
    /// RAM that holds ACPI tables; usable once they have been read.
    AcpiReclaimable,
    /// ACPI's non-volatile storage: firmware uses it across sleep.
    AcpiNvs,
    /// RAM with errors.
    Bad,
    /// Registers of devices.
    Mmio,
    /// Memory that keeps its contents without power.
    Persistent,
    /// Code and data that UEFI's runtime services use while the kernel runs.
    Runtime,
    /// RAM in use by the boot loader: its tables, its hand-over structures; usable once they are done with.
    Bootloader,
    /// RAM that holds the kernel.
    Kernel,
    /// RAM that holds a module, as an initial ramdisk.
    Module,
}

impl FirmwareKind {
    /// The kind behind a type number of BIOS call E820, Multiboot 2 or PVH's `hvm_memmap_table_entry`.
    #[must_use]
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Bad,
            7 => Self::Persistent,
            _ => Self::Reserved,
        }
    }

    /// The kind behind an `EFI_MEMORY_TYPE`, as it is after `ExitBootServices` (UEFI 2.10, section 7.2.3).
    #[must_use]
    pub const fn from_uefi(number: u32) -> Self {
        match number {
            1 | 2 => Self::Bootloader,
            3 | 4 | 7 => Self::Usable,
            5 | 6 => Self::Runtime,
            8 => Self::Bad,
            9 => Self::AcpiReclaimable,
            10 => Self::AcpiNvs,
            11 | 12 => Self::Mmio,
            14 => Self::Persistent,
            _ => Self::Reserved,
        }
    }

    /// Whether it is RAM that the kernel uses, now or once the present contents are done with.
    #[must_use]
    pub const fn is_ram(self) -> bool {
        matches!(
            self,
            Self::Usable | Self::AcpiReclaimable | Self::Bootloader | Self::Kernel | Self::Module
        )
    }

    /// As what the region is reserved; `None` for usable memory.
    #[must_use]
    pub const fn reserved(self) -> Option<Reserved> {
        match self {
            Self::Usable => None,
            Self::AcpiReclaimable => Some(Reserved::AcpiReclaimable),
            Self::AcpiNvs => Some(Reserved::AcpiNvs),
            Self::Bootloader => Some(Reserved::Bootloader),
            Self::Kernel => Some(Reserved::KernelImage),
            Self::Module => Some(Reserved::Module),
            Self::Reserved | Self::Bad | Self::Mmio | Self::Persistent | Self::Runtime => {
                Some(Reserved::Firmware)
            }
        }
    }
}

/// One region as firmware tells it: bytes `start..end`, in any order, of any alignment, with any overlap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FirmwareRegion {
    /// The first byte.
    pub start: u64,
    /// The byte after the last. Below `start`, the region wraps around the end of the address space.
    pub end: u64,
    /// What it is.
    pub kind: FirmwareKind,
}

impl FirmwareRegion {
    /// The region `start..end`.
    #[must_use]
    pub const fn new(start: u64, end: u64, kind: FirmwareKind) -> Self {
        Self { start, end, kind }
    }

    /// `size_bytes` from `start`, as E820 tells it.
    #[must_use]
    pub const fn with_size(start: u64, size_bytes: u64, kind: FirmwareKind) -> Self {
        Self::new(start, start.wrapping_add(size_bytes), kind)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) const fn wraps(&self) -> bool {
        self.end < self.start
    }

    /// The bytes that count. A wrapping region is believed only as far as that is harmless: as a reservation, it
    /// reaches to the end; as memory, it is nothing.
    const fn extent(&self) -> (u64, u64) {
        let end = match (self.wraps(), self.kind.is_ram()) {
            (true, true) => self.start,
            (true, false) => MAX_PHYS,
            (false, _) => self.end,
        };
        (self.start, if end < MAX_PHYS { end } else { MAX_PHYS })
    }

    /// As [`FirmwareRegion::extent`], for a region that is reserved whatever else it is.
    const fn extent_reserved(&self) -> (u64, u64) {
        let end = if self.wraps() { MAX_PHYS } else { self.end };
        (self.start, if end < MAX_PHYS { end } else { MAX_PHYS })
    }
}

/// What was wrong with the firmware's map.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FirmwareReport {
    /// Regions read.
    pub nr_regions: usize,
    /// Regions without a byte in them: skipped.
    pub nr_empty: usize,
    /// Regions that wrap around: skipped if usable, else reserved up to the end of the address space.
    pub nr_wrapping: usize,
    /// Regions of memory, after merging, for which there was no room: not used. The smallest are given up.
    pub nr_dropped: usize,
    /// Bytes of memory in them.
    pub dropped_bytes: u64,
}

/// The union of the regions of `want`, as sorted spans that do not touch.
///
/// Sorts by selection, again and again from the start, as there is nowhere to keep a copy: O(n²) for n
/// regions, a few milliseconds for a thousand.
#[derive(Clone)]
pub(super) struct Merged<I, W> {
    regions: I,
    want: W,
    from: u64,
}

impl<I, W> Merged<I, W>
where
    I: Iterator<Item = FirmwareRegion> + Clone,
    W: Fn(&FirmwareRegion) -> Option<(u64, u64)>,
{
    fn extents(&self) -> impl Iterator<Item = (u64, u64)> {
        self.regions
            .clone()
            .filter_map(|region| (self.want)(&region))
            .filter(|&(start, end)| start < end)
    }
}

impl<I, W> Iterator for Merged<I, W>
where
    I: Iterator<Item = FirmwareRegion> + Clone,
    W: Fn(&FirmwareRegion) -> Option<(u64, u64)>,
{
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let start = self
            .extents()
            .map(|(start, _)| start)
            .filter(|&start| start >= self.from)
            .min()?;
        let mut end = start;
        loop {
            let reach = self
                .extents()
                .filter(|&(start, _)| start <= end)
                .map(|(_, end)| end)
                .max()?;
            if reach <= end {
                break;
            }
            end = reach;
        }
        self.from = end;
        Some((start, end))
    }
}

/// All memory, whatever it holds.
pub(super) fn ram<I>(regions: I) -> impl Iterator<Item = (u64, u64)>
where
    I: Iterator<Item = FirmwareRegion> + Clone,
{
    Merged {
        regions,
        want: |region: &FirmwareRegion| region.kind.is_ram().then(|| region.extent()),
        from: 0,
    }
}

/// All that is reserved as `kind`.
pub(super) fn reserved_as<I>(regions: I, kind: Reserved) -> impl Iterator<Item = (u64, u64)>
where
    I: Iterator<Item = FirmwareRegion> + Clone,
{
    Merged {
        regions,
        want: move |region: &FirmwareRegion| {
            (region.kind.reserved() == Some(kind)).then(|| region.extent_reserved())
        },
        from: 0,
    }
}

//! Physical memory before the page allocator exists. Linux: `memblock`, mm/memblock.c.
//!
//! Two sorted sets: what is memory, and what of the address space is reserved. A frame is free when all of its bytes
//! are memory and none is reserved; so memory shrinks inwards to frames, reservations grow outwards, and where the two
//! overlap the reservation wins, in whatever order they came. Each reservation says why ([`Reserved`]), so that every
//! frame can be accounted for; where two overlap, the more lasting reason shows.
//!
//! At the end, [`Memblock::hand_over`] yields each free frame once to the page allocator, and the sets can only be read
//! from then on.

mod accounting;
mod firmware;
mod set;

use core::fmt;
use core::ops::Range;

pub use accounting::Accounting;
pub use firmware::{FirmwareKind, FirmwareRegion, FirmwareReport};
use set::{Span, SpanSet};

use crate::size::PAGE_SIZE;
use crate::{PfnRange, PhysAddr};

/// Physical addresses end here on x86-64 (SDM 3A 4.1.4: MAXPHYADDR is at most 52).
const MAX_PHYS: u64 = 1 << 52;
const MIB: u64 = 1 << 20;
const PAGE: u64 = PAGE_SIZE as u64;

/// Why frames are reserved, from the most fleeting reason to the most lasting.
///
/// Where reservations overlap, the greater one shows. So giving one up never frees what a more lasting one holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Reserved {
    /// The boot loader's own memory; can be freed once its tables and structures are no longer read.
    Bootloader = 0,
    /// A module, as an initial ramdisk; can be freed once unpacked.
    Module = 1,
    /// Allocated by [`Memblock::alloc`].
    BootAllocation = 2,
    /// ACPI tables; can be freed once read.
    AcpiReclaimable = 3,
    /// Code and static data of the kernel.
    KernelImage = 4,
    /// The first megabyte, kept out of the way of BIOS, option ROMs and application processors' start-up code.
    FirstMegabyte = 5,
    /// ACPI's non-volatile storage.
    AcpiNvs = 6,
    /// Firmware, devices, bad RAM.
    Firmware = 7,
}

impl Reserved {
    /// How many reasons there are.
    pub const COUNT: usize = 8;
    /// Every reason, most fleeting first.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Bootloader,
        Self::Module,
        Self::BootAllocation,
        Self::AcpiReclaimable,
        Self::KernelImage,
        Self::FirstMegabyte,
        Self::AcpiNvs,
        Self::Firmware,
    ];

    /// The reason as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What the accounting line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bootloader => "boot loader",
            Self::Module => "modules",
            Self::BootAllocation => "boot allocations",
            Self::AcpiReclaimable => "ACPI tables",
            Self::KernelImage => "kernel image",
            Self::FirstMegabyte => "first megabyte",
            Self::AcpiNvs => "ACPI NVS",
            Self::Firmware => "firmware",
        }
    }
}

/// What becomes of the first megabyte, where BIOS and old devices have their places.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FirstMegabyte {
    /// All of it is reserved, so that the kernel starts with the second megabyte.
    #[default]
    Skip,
    /// Only frame 0 (interrupt vectors, BIOS data area) and 640 KiB to 1 MiB (video memory, ROMs) are reserved.
    Use,
}

/// Why a call failed. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemblockError {
    /// More disjoint regions than the set has room for.
    TooManyRegions,
    /// No free range within the bounds is large enough.
    OutOfMemory,
    /// Start and size reach beyond the physical address space.
    Wraps,
    /// The alignment is not a power of two.
    BadAlign,
    /// The page allocator owns the free frames already.
    HandedOver,
    /// The range is not wholly allocated.
    NotAllocated,
}

impl fmt::Display for MemblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyRegions => "too many memory regions",
            Self::OutOfMemory => "no free memory range is large enough",
            Self::Wraps => "range reaches beyond the physical address space",
            Self::BadAlign => "alignment is not a power of two",
            Self::HandedOver => "memory was handed over to the page allocator",
            Self::NotAllocated => "range is not allocated",
        })
    }
}

impl core::error::Error for MemblockError {}

/// The sets of memory and of reservations, at most `N` regions each.
///
/// Takes `48 * N` bytes, and its methods up to twice as much of the stack: 12 KiB and 24 KiB by default.
#[derive(Clone, Debug)]
pub struct Memblock<const N: usize = 256> {
    memory: SpanSet<(), N>,
    reserved: SpanSet<Reserved, N>,
    handed_over: bool,
}

/// A reserved range, page-aligned, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// The frames.
    pub range: PfnRange,
    /// Why.
    pub kind: Reserved,
}

impl Memblock {
    /// No memory, no reservation; room for 256 regions of each.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_room()
    }
}

impl<const N: usize> Default for Memblock<N> {
    fn default() -> Self {
        Self::with_room()
    }
}

impl<const N: usize> Memblock<N> {
    /// No memory, no reservation; room for `N` regions of each.
    #[must_use]
    pub const fn with_room() -> Self {
        Self {
            memory: SpanSet::new(()),
            reserved: SpanSet::new(Reserved::Firmware),
            handed_over: false,
        }
    }

    /// Takes in the firmware's map, however disordered: unsorted, overlapping, empty, unaligned or wrapping regions.
    ///
    /// Where memory has more disjoint regions than there is room for, the smallest are not used, which the report
    /// tells. No reservation is ever dropped.
    ///
    /// # Errors
    /// [`MemblockError::TooManyRegions`] when the reservations do not fit: those that do have been made then, and no
    /// memory was added. [`MemblockError::HandedOver`].
    pub fn add_firmware_map<I>(
        &mut self,
        regions: I,
        first_megabyte: FirstMegabyte,
    ) -> Result<FirmwareReport, MemblockError>
    where
        I: IntoIterator<Item = FirmwareRegion>,
        I::IntoIter: Clone,
    {
        self.still_ours()?;
        let regions = regions.into_iter();
        let mut report = FirmwareReport::default();
        for region in regions.clone() {
            report.nr_regions += 1;
            report.nr_empty += usize::from(region.is_empty());
            report.nr_wrapping += usize::from(region.wraps());
        }
        // The most lasting first: what comes later only fills gaps, so that no interim set is larger than the last.
        for kind in Reserved::ALL.into_iter().rev() {
            for (start, end) in firmware::reserved_as(regions.clone(), kind) {
                self.reserve_pages(start, end, kind)?;
            }
            if kind == Reserved::FirstMegabyte {
                self.reserve_first_megabyte(first_megabyte)?;
            }
        }
        for (start, end) in firmware::ram(regions) {
            let dropped_bytes = self.add_or_drop(start, end);
            report.nr_dropped += usize::from(dropped_bytes > 0);
            report.dropped_bytes += dropped_bytes;
        }
        Ok(report)
    }

    /// Keeps the first megabyte, or what BIOS needs of it, from being allocated.
    ///
    /// # Errors
    /// [`MemblockError::TooManyRegions`], [`MemblockError::HandedOver`].
    pub fn reserve_first_megabyte(&mut self, policy: FirstMegabyte) -> Result<(), MemblockError> {
        self.still_ours()?;
        let kind = Reserved::FirstMegabyte;
        match policy {
            FirstMegabyte::Skip => self.reserve_pages(0, MIB, kind),
            FirstMegabyte::Use => {
                self.reserve_pages(0, PAGE, kind)?;
                self.reserve_pages(640 << 10, MIB, kind)
            }
        }
    }

    /// There is memory at `size_bytes` from `start`. Linux: `memblock_add`.
    ///
    /// # Errors
    /// [`MemblockError::TooManyRegions`], [`MemblockError::Wraps`], [`MemblockError::HandedOver`].
    pub fn add(&mut self, start: PhysAddr, size_bytes: u64) -> Result<(), MemblockError> {
        self.still_ours()?;
        let (start, end) = extent(start, size_bytes)?;
        self.memory.insert(Span {
            start,
            end,
            kind: (),
        })
    }

    /// There is no memory at `size_bytes` from `start`. Linux: `memblock_remove`.
    ///
    /// # Errors
    /// [`MemblockError::TooManyRegions`], [`MemblockError::Wraps`], [`MemblockError::HandedOver`].
    pub fn remove(&mut self, start: PhysAddr, size_bytes: u64) -> Result<(), MemblockError> {
        self.still_ours()?;
        let (start, end) = extent(start, size_bytes)?;
        self.memory.cut(start, end, |()| true)
    }

    /// Keeps every frame that holds any of the bytes from being allocated, whether it is memory or not.
    ///
    /// Linux: `memblock_reserve`.
    ///
    /// # Errors
    /// [`MemblockError::TooManyRegions`], [`MemblockError::Wraps`], [`MemblockError::HandedOver`].
    pub fn reserve(
        &mut self,
        start: PhysAddr,
        size_bytes: u64,
        kind: Reserved,
    ) -> Result<(), MemblockError> {
        self.still_ours()?;
        let (start, end) = extent(start, size_bytes)?;
        self.reserve_pages(start, end, kind)
    }

    /// Gives up the reservation as `kind` of the frames that lie wholly inside the bytes.
    ///
    /// Frames that show another reason stay reserved. A frame that several gave reasons for shows the most lasting one
    /// only: when that is given up, the others do not come back.
    ///
    /// # Errors
    /// [`MemblockError::TooManyRegions`], [`MemblockError::Wraps`], [`MemblockError::HandedOver`].
    pub fn release(
        &mut self,
        start: PhysAddr,
        size_bytes: u64,
        kind: Reserved,
    ) -> Result<(), MemblockError> {
        self.still_ours()?;
        let (start, end) = extent(start, size_bytes)?;
        let inside = PfnRange::inside(PhysAddr::new(start), PhysAddr::new(end));
        let (start, end) = bytes_of(inside);
        self.reserved.cut(start, end, |k| k == kind)
    }

    /// Allocates whole pages: the highest free range within the bounds, cut at its upper end. Linux:
    /// `memblock_phys_alloc_range`.
    ///
    /// The frames are reserved as [`Reserved::BootAllocation`] and never lie in the first megabyte. Their contents are
    /// whatever was there. `size_bytes` of 0 counts as one page.
    ///
    /// # Errors
    /// [`MemblockError::OutOfMemory`], [`MemblockError::BadAlign`], [`MemblockError::TooManyRegions`],
    /// [`MemblockError::HandedOver`].
    pub fn alloc(
        &mut self,
        size_bytes: u64,
        align_bytes: u64,
        within: Range<PhysAddr>,
    ) -> Result<PhysAddr, MemblockError> {
        self.still_ours()?;
        if !align_bytes.is_power_of_two() {
            return Err(MemblockError::BadAlign);
        }
        let size_bytes = size_bytes
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or(MemblockError::OutOfMemory)?;
        let align_bytes = align_bytes.max(PAGE);
        let bounds = PfnRange::inside(
            within.start.max(PhysAddr::new(MIB)),
            within.end.min(PhysAddr::new(MAX_PHYS)),
        );
        let start = FreeRanges {
            block: self,
            left: bounds,
        }
        .rev()
        .find_map(|range| last_fit(range, size_bytes, align_bytes))
        .ok_or(MemblockError::OutOfMemory)?;
        self.reserved.insert(Span {
            start,
            end: start + size_bytes,
            kind: Reserved::BootAllocation,
        })?;
        Ok(PhysAddr::new(start))
    }

    /// Takes back pages that [`Memblock::alloc`] gave, all of them or some. Linux: `memblock_phys_free`.
    ///
    /// # Errors
    /// [`MemblockError::NotAllocated`] unless every frame of the range is allocated; [`MemblockError::TooManyRegions`],
    /// [`MemblockError::Wraps`], [`MemblockError::HandedOver`].
    pub fn free(&mut self, start: PhysAddr, size_bytes: u64) -> Result<(), MemblockError> {
        self.still_ours()?;
        let (start, end) = extent(start, size_bytes.max(1))?;
        let (start, end) = bytes_of(PfnRange::covering(PhysAddr::new(start), PhysAddr::new(end)));
        let allocated = self.reserved.as_slice().iter().any(|span| {
            span.kind == Reserved::BootAllocation && span.start <= start && end <= span.end
        });
        if !allocated {
            return Err(MemblockError::NotAllocated);
        }
        self.reserved
            .cut(start, end, |kind| kind == Reserved::BootAllocation)
    }

    /// The memory, as bytes: sorted, disjoint, not touching. Reserved parts included.
    pub fn memory(&self) -> impl DoubleEndedIterator<Item = Range<PhysAddr>> + '_ {
        self.memory
            .as_slice()
            .iter()
            .map(|span| PhysAddr::new(span.start)..PhysAddr::new(span.end))
    }

    /// The memory, as whole frames: sorted, disjoint. Reserved frames included.
    pub fn memory_frames(&self) -> impl DoubleEndedIterator<Item = PfnRange> + '_ {
        self.memory
            .as_slice()
            .iter()
            .map(frames_inside)
            .filter(|range| !range.is_empty())
    }

    /// The reservations: sorted, disjoint; also those of addresses where there is no memory.
    pub fn reserved(&self) -> impl DoubleEndedIterator<Item = Reservation> + '_ {
        self.reserved.as_slice().iter().map(|span| Reservation {
            range: PfnRange::inside(PhysAddr::new(span.start), PhysAddr::new(span.end)),
            kind: span.kind,
        })
    }

    /// The frames that are wholly memory and not reserved: sorted, disjoint, not touching.
    pub const fn free_ranges(&self) -> FreeRanges<'_, N> {
        let all = PfnRange::inside(PhysAddr::ZERO, PhysAddr::new(MAX_PHYS));
        FreeRanges {
            block: self,
            left: all,
        }
    }

    /// From the first frame of memory to the last, holes included; what a flat [`crate::MemMap`] has to describe.
    #[must_use]
    pub fn spanned(&self) -> PfnRange {
        let mut frames = self.memory_frames();
        let Some(first) = frames.next() else {
            return PfnRange::EMPTY;
        };
        let last = frames.next_back().unwrap_or(first);
        PfnRange::new(first.start(), last.end())
    }

    /// Gives up memory that lies far from the rest, until a flat [`crate::MemMap`] of what is spanned takes at most
    /// one part in `max_share` (at most 64) of the memory; how many bytes were given up.
    ///
    /// Each time, memory is split at its largest hole and the smaller side goes. What firmware of sound mind reports
    /// needs none of it.
    ///
    /// # Errors
    /// [`MemblockError::HandedOver`].
    pub fn trim_span(&mut self, max_share: usize) -> Result<u64, MemblockError> {
        self.still_ours()?;
        let mut trimmed = 0;
        loop {
            let nr_pages: usize = self.memory_frames().map(PfnRange::nr_pages).sum();
            let map_pages = self.spanned().nr_pages() / (PAGE_SIZE / size_of::<crate::Page>());
            if map_pages <= nr_pages / max_share.clamp(1, 64) {
                return Ok(trimmed);
            }
            let memory = self.memory.as_slice();
            let hole = |at: usize| memory[at].start - memory[at - 1].end;
            let Some(split) = (1..memory.len()).max_by_key(|&at| hole(at)) else {
                return Ok(trimmed);
            };
            let bytes = |side: &[Span<()>]| side.iter().map(|s| s.end - s.start).sum::<u64>();
            let (below, above) = memory.split_at(split);
            let (given_up, range) = if bytes(below) < bytes(above) {
                (bytes(below), 0..above[0].start)
            } else {
                (bytes(above), above[0].start..MAX_PHYS)
            };
            self.memory.cut(range.start, range.end, |()| true)?;
            trimmed += given_up;
        }
    }

    /// Where every frame of memory went, as of now.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        Accounting::of(self)
    }

    /// Ends the life of the early allocator: yields every free frame once, for the page allocator to own. Linux:
    /// `memblock_free_all`.
    ///
    /// Frames that the iterator has not yielded when it is dropped are lost.
    ///
    /// # Errors
    /// [`MemblockError::HandedOver`] from the second call on.
    pub fn hand_over(&mut self) -> Result<FreeRanges<'_, N>, MemblockError> {
        self.still_ours()?;
        self.handed_over = true;
        Ok(self.free_ranges())
    }

    fn still_ours(&self) -> Result<(), MemblockError> {
        if self.handed_over {
            Err(MemblockError::HandedOver)
        } else {
            Ok(())
        }
    }

    /// Reserves every frame that holds any of the bytes.
    fn reserve_pages(&mut self, start: u64, end: u64, kind: Reserved) -> Result<(), MemblockError> {
        let covering = PfnRange::covering(PhysAddr::new(start), PhysAddr::new(end));
        let (start, end) = bytes_of(covering);
        self.reserved.insert(Span { start, end, kind })
    }

    /// Adds memory that touches none so far; without room for it, gives up the smallest region. The bytes given up.
    fn add_or_drop(&mut self, start: u64, end: u64) -> u64 {
        let new = Span {
            start,
            end,
            kind: (),
        };
        if self.memory.insert(new).is_ok() {
            return 0;
        }
        let len = |span: &Span<()>| span.end - span.start;
        match self.memory.as_slice().iter().copied().min_by_key(len) {
            Some(smallest) if len(&smallest) < len(&new) => {
                let _room = self.memory.cut(smallest.start, smallest.end, |()| true);
                let _fits = self.memory.insert(new);
                len(&smallest)
            }
            _ => len(&new),
        }
    }

    /// The lowest free range within the bounds, cut to them.
    fn first_free(&self, within: PfnRange) -> Option<PfnRange> {
        let reserved = self.reserved.as_slice();
        for memory in self.memory.as_slice() {
            let mut range = frames_inside(memory).intersect(within);
            let (start, _) = bytes_of(range);
            let from = reserved.partition_point(|span| span.end <= start);
            for taken in reserved[from..].iter().map(frames_inside) {
                if range.is_empty() || range.end() <= taken.start() {
                    break;
                }
                if range.start() < taken.start() {
                    return Some(PfnRange::new(range.start(), taken.start()));
                }
                range = PfnRange::new(taken.end().min(range.end()), range.end());
            }
            if !range.is_empty() {
                return Some(range);
            }
        }
        None
    }

    /// The highest free range within the bounds, cut to them.
    fn last_free(&self, within: PfnRange) -> Option<PfnRange> {
        let reserved = self.reserved.as_slice();
        for memory in self.memory.as_slice().iter().rev() {
            let mut range = frames_inside(memory).intersect(within);
            let (_, end) = bytes_of(range);
            let to = reserved.partition_point(|span| span.start < end);
            for taken in reserved[..to].iter().rev().map(frames_inside) {
                if range.is_empty() || taken.end() <= range.start() {
                    break;
                }
                if taken.end() < range.end() {
                    return Some(PfnRange::new(taken.end(), range.end()));
                }
                range = PfnRange::new(range.start(), taken.start().max(range.start()));
            }
            if !range.is_empty() {
                return Some(range);
            }
        }
        None
    }
}

/// The free ranges of a [`Memblock`], from either end.
#[derive(Clone, Debug)]
#[must_use = "frames that are not taken from here are lost"]
pub struct FreeRanges<'a, const N: usize> {
    block: &'a Memblock<N>,
    left: PfnRange,
}

impl<const N: usize> Iterator for FreeRanges<'_, N> {
    type Item = PfnRange;

    fn next(&mut self) -> Option<PfnRange> {
        let range = self.block.first_free(self.left)?;
        self.left = PfnRange::new(range.end(), self.left.end());
        Some(range)
    }
}

impl<const N: usize> DoubleEndedIterator for FreeRanges<'_, N> {
    fn next_back(&mut self) -> Option<PfnRange> {
        let range = self.block.last_free(self.left)?;
        self.left = PfnRange::new(self.left.start(), range.start());
        Some(range)
    }
}

/// `size_bytes` from `start`, if the address space reaches that far.
fn extent(start: PhysAddr, size_bytes: u64) -> Result<(u64, u64), MemblockError> {
    match start.checked_add(size_bytes) {
        Some(end) if end.as_u64() <= MAX_PHYS => Ok((start.as_u64(), end.as_u64())),
        _ => Err(MemblockError::Wraps),
    }
}

fn frames_inside<K>(span: &Span<K>) -> PfnRange {
    PfnRange::inside(PhysAddr::new(span.start), PhysAddr::new(span.end))
}

fn bytes_of(range: PfnRange) -> (u64, u64) {
    (range.start().phys().as_u64(), range.end().phys().as_u64())
}

/// The highest aligned place in `range`.
fn last_fit(range: PfnRange, size_bytes: u64, align_bytes: u64) -> Option<u64> {
    let (low, high) = bytes_of(range);
    let start = high.checked_sub(size_bytes)? & !(align_bytes - 1);
    (start >= low).then_some(start)
}

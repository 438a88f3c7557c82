//! Where the zones of a machine begin and end. Linux: `arch_zone_limits_init`, `free_area_init`.

use core::fmt;

use kmm_buddy::{Buddy, Pageblocks};
use kmm_frame::{Pfn, PfnRange, PhysAddr, ZoneType};

/// The zones that an architecture has, as the frames where they end. `None`: there is no such zone.
pub trait ZoneLimits {
    /// Frames below it serve devices that reach little memory.
    const DMA_END: Option<Pfn>;
    /// Frames below it serve devices with 32-bit addresses.
    const DMA32_END: Option<Pfn>;
    /// Frames from here on lie outside the permanent map.
    const LOWMEM_END: Option<Pfn>;
}

/// x86-64: DMA below 16 MiB, DMA32 below 4 GiB, the rest Normal.
#[derive(Clone, Copy, Debug)]
pub struct X86_64;

impl ZoneLimits for X86_64 {
    const DMA_END: Option<Pfn> = Some(PhysAddr::new(16 << 20).pfn());
    const DMA32_END: Option<Pfn> = Some(PhysAddr::new(4 << 30).pfn());
    const LOWMEM_END: Option<Pfn> = None;
}

/// 32-bit x86: DMA below 16 MiB, Normal below 896 MiB, the rest HighMem. A model for tests on the host.
#[derive(Clone, Copy, Debug)]
pub struct X86;

impl ZoneLimits for X86 {
    const DMA_END: Option<Pfn> = Some(PhysAddr::new(16 << 20).pfn());
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = Some(PhysAddr::new(896 << 20).pfn());
}

/// The frames of each zone of one node. Zones may be empty; no two share a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneLayout {
    ranges: [PfnRange; ZoneType::COUNT],
    /// Where a zone may come to be.
    rooms: [PfnRange; ZoneType::COUNT],
    configured: [bool; ZoneType::COUNT],
}

/// Why a [`ZoneLayout`] was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LayoutError {
    /// The frames are part of another zone.
    Overlap,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap => f.write_str("zones overlap"),
        }
    }
}

impl core::error::Error for LayoutError {}

impl ZoneLayout {
    /// No zone has a frame.
    pub const EMPTY: Self = Self {
        ranges: [PfnRange::EMPTY; ZoneType::COUNT],
        rooms: [PfnRange::EMPTY; ZoneType::COUNT],
        configured: [false; ZoneType::COUNT],
    };

    /// Cuts the frames that a node spans by the limits of an architecture.
    #[must_use]
    pub fn new<A: ZoneLimits>(spanned: PfnRange) -> Self {
        let ends = [
            (ZoneType::Dma, A::DMA_END),
            (ZoneType::Dma32, A::DMA32_END),
            (
                ZoneType::Normal,
                Some(A::LOWMEM_END.unwrap_or(spanned.end())),
            ),
            (ZoneType::HighMem, A::LOWMEM_END.map(|_| spanned.end())),
        ];
        let mut layout = Self::EMPTY;
        // The movable and the device zone are in every Linux configuration that we compare with.
        layout.configured[ZoneType::Movable.index()] = true;
        layout.configured[ZoneType::Device.index()] = true;
        let mut start = Pfn::ZERO;
        for (kind, end) in ends {
            let Some(end) = end else { continue };
            layout.ranges[kind.index()] = PfnRange::new(start, end).intersect(spanned);
            layout.configured[kind.index()] = true;
            start = start.max(end);
        }
        layout
    }

    /// Gives the frames from `start` on to the movable zone. Linux: `movablecore=`, `find_zone_movable_pfns_for_nodes`.
    ///
    /// Only frames of the highest zone that has any are taken, as in Linux.
    #[must_use]
    pub fn with_movable_from(mut self, start: Pfn) -> Self {
        let Some(donor) = self.ranges[..ZoneType::Movable.index()]
            .iter_mut()
            .rfind(|range| !range.is_empty())
        else {
            return self;
        };
        let movable = PfnRange::new(start, donor.end()).intersect(*donor);
        *donor = PfnRange::new(donor.start(), donor.end().min(start.max(donor.start())));
        self.ranges[ZoneType::Movable.index()] = movable;
        self
    }

    /// Gives `range` to the device zone: frames with descriptors that never enter the buddy allocator.
    ///
    /// # Errors
    /// [`LayoutError::Overlap`] if another zone has one of the frames.
    pub fn with_device(mut self, range: PfnRange) -> Result<Self, LayoutError> {
        if self.ranges.iter().any(|other| other.overlaps(range)) {
            return Err(LayoutError::Overlap);
        }
        self.ranges[ZoneType::Device.index()] = range;
        Ok(self)
    }

    /// Keeps what a zone needs for memory that may come later ([`crate::Zones::online`]): some
    /// 130 bytes for each 2 MiB.
    /// Several zones may have room for the same frames.
    #[must_use]
    pub fn with_room(mut self, kind: ZoneType, range: PfnRange) -> Self {
        let room = &mut self.rooms[kind.index()];
        *room = room.hull(range);
        self
    }

    /// The frames that a zone has or may come to have.
    #[must_use]
    pub fn room(&self, kind: ZoneType) -> PfnRange {
        self.ranges[kind.index()].hull(self.rooms[kind.index()])
    }

    /// The frames of a zone.
    #[must_use]
    pub const fn range(&self, kind: ZoneType) -> PfnRange {
        self.ranges[kind.index()]
    }

    /// Whether the machine has this zone, though maybe without a frame: it has an entry in /proc/zoneinfo then.
    #[must_use]
    pub const fn is_configured(&self, kind: ZoneType) -> bool {
        self.configured[kind.index()]
    }

    /// The zone that a frame is in.
    #[must_use]
    pub fn zone_of(&self, pfn: Pfn) -> Option<ZoneType> {
        ZoneType::ALL
            .into_iter()
            .find(|kind| self.range(*kind).contains(pfn))
    }

    /// Whether a frame lies outside the permanent map, by its zone: it is of the highmem zone, or of the movable zone and
    /// was taken from there. Linux: `PageHighMem`, `is_highmem_idx`.
    #[must_use]
    pub fn is_highmem(&self, pfn: Pfn) -> bool {
        // An empty highmem zone still says where it would begin.
        let is_above =
            self.is_configured(ZoneType::HighMem) && pfn >= self.range(ZoneType::HighMem).start();
        match self.zone_of(pfn) {
            Some(ZoneType::HighMem) => true,
            Some(ZoneType::Movable) => is_above,
            _ => false,
        }
    }

    /// How many [`crate::Pcp`]s the zones want: one for each CPU and each zone that frames are allocated from.
    #[must_use]
    pub fn nr_pcps(&self, nr_cpus: usize) -> usize {
        let zones = ZoneType::ALL
            .into_iter()
            .filter(|&kind| self.has_pcps(kind));
        zones.count().saturating_mul(nr_cpus)
    }

    /// How many [`crate::Pageblock`]s the zones want: one for each pageblock of each zone that has a frame in it.
    #[must_use]
    pub fn nr_pageblocks(&self) -> usize {
        let count = |kind| Pageblocks::count_for(self.room(kind));
        ZoneType::ALL.into_iter().map(count).sum()
    }

    /// How many [`crate::FreeBits`] the zones want.
    #[must_use]
    pub fn nr_free_bits(&self) -> usize {
        let count = |kind| Buddy::storage_for(self.room(kind));
        ZoneType::ALL.into_iter().map(count).sum()
    }

    /// Whether the zone has per-CPU pagesets.
    pub(crate) fn has_pcps(&self, kind: ZoneType) -> bool {
        kind != ZoneType::Device && !self.room(kind).is_empty()
    }
}

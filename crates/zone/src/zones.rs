//! The zones of one node, from boot on. Linux: `pg_data_t`, mm/page_alloc.c.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kmm_buddy::{Buddy, Pageblocks};
use kmm_frame::{MemMap, NodeId, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{CpuPin, Cpus, PhysMap};
use lock_api::{Mutex, RawMutex};

use crate::lru::LruLists;
use crate::{
    BadPage, CpuCounts, FreeError, LOWMEM_RESERVE_RATIO, NodeCounters, Pcp, PcpLimits, PcpSizing,
    Watermarks, Zone, ZoneLayout, ZoneStorage, default_min_free_kbytes, lowmem_reserve,
};

/// All zones of one node: what a kernel allocates frames from.
///
/// Made empty, then fed at boot: [`Zones::add_present`] with what is RAM, [`Zones::free_at_boot`] with what of it is
/// free, [`Zones::init_watermarks`] in the end. From then on it is a [`kmm_host::PageSource`].
///
/// `L` is the host's lock, safe against interrupts of this CPU if interrupts allocate or free.
pub struct Zones<L, C, P> {
    node: NodeId,
    layout: ZoneLayout,
    zones: [Zone<L>; ZoneType::COUNT],
    /// By the highest zone of a request: the pagesets of the zone that it tries first.
    first_pcps: [&'static [Pcp]; ZoneType::COUNT],
    lru: Mutex<L, LruLists>,
    counters: NodeCounters,
    map: MemMap,
    cpus: C,
    phys: P,
    on_bad_page: fn(BadPage),
    pcp_sizing: PcpSizing,
    reserve_ratio: [AtomicUsize; ZoneType::COUNT],
}

/// Why [`Zones`] were not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ZonesError {
    /// A zone has frames without descriptors.
    NoDescriptors,
    /// There are fewer pagesets than [`ZoneLayout::nr_pcps`] says.
    TooFewPcps,
    /// There are fewer pageblocks than [`ZoneLayout::nr_pageblocks`] says.
    TooFewPageblocks,
    /// There are fewer bits than [`ZoneLayout::nr_free_bits`] says.
    TooFewFreeBits,
}

impl fmt::Display for ZonesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDescriptors => "zone has frames without descriptors",
            Self::TooFewPcps => "fewer pagesets than zones and CPUs want",
            Self::TooFewPageblocks => "fewer pageblocks than zones want",
            Self::TooFewFreeBits => "fewer bits than zones want",
        })
    }
}

impl core::error::Error for ZonesError {}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Zones that no frame was given to yet. `storage` is fresh, for `layout` and all CPUs.
    ///
    /// Without [`Zones::with_bad_page_hook`], pages that are freed wrongly are dropped in silence.
    ///
    /// # Errors
    /// A [`ZonesError`] if descriptors or storage are missing.
    pub fn new(
        map: MemMap,
        cpus: C,
        phys: P,
        layout: ZoneLayout,
        storage: ZoneStorage,
    ) -> Result<Self, ZonesError> {
        let ZoneStorage {
            pcps,
            pageblocks,
            mut free_bits,
        } = storage;
        let nr_cpus = cpus.nr_cpus();
        if pcps.len() < layout.nr_pcps(nr_cpus) {
            return Err(ZonesError::TooFewPcps);
        }
        if pageblocks.len() < layout.nr_pageblocks() {
            return Err(ZonesError::TooFewPageblocks);
        }
        if free_bits.len() < layout.nr_free_bits() {
            return Err(ZonesError::TooFewFreeBits);
        }
        let described = |kind: ZoneType| map.range().contains_range(layout.range(kind));
        if !ZoneType::ALL.into_iter().all(described) {
            return Err(ZonesError::NoDescriptors);
        }
        let pcps_of = |kind: ZoneType| -> &'static [Pcp] {
            let Some(nth) = layout.pcp_zones().position(|other| other == kind) else {
                return &[];
            };
            &pcps[nth * nr_cpus..][..nr_cpus]
        };
        let mut left = pageblocks;
        let make = |kind| {
            let range = layout.range(kind);
            let blocks = Pageblocks::new(range, left)?;
            left = &left[Pageblocks::count_for(range)..];
            let bits = core::mem::take(&mut free_bits);
            let (bits, rest) = bits.split_at_mut_checked(Buddy::storage_for(range))?;
            free_bits = rest;
            let buddy = Buddy::new(range, map, bits, blocks)?;
            Some(Zone::new(kind, range, map, pcps_of(kind), blocks, buddy))
        };
        let [
            Some(dma),
            Some(dma32),
            Some(normal),
            Some(highmem),
            Some(movable),
            Some(device),
        ] = ZoneType::ALL.map(make)
        else {
            return Err(ZonesError::TooFewFreeBits);
        };
        let zones = [dma, dma32, normal, highmem, movable, device];
        let first_pcps = ZoneType::ALL.map(|highest| {
            let usable = ZoneType::ALL[..=highest.index()].iter().rev();
            let mut pcps = usable.map(|&kind| pcps_of(kind));
            pcps.find(|pcps| !pcps.is_empty()).unwrap_or_default()
        });
        Ok(Self {
            node: NodeId::ZERO,
            layout,
            zones,
            first_pcps,
            lru: Mutex::new(LruLists::new(map)),
            counters: NodeCounters::new(&[]),
            map,
            cpus,
            phys,
            on_bad_page: |_| {},
            pcp_sizing: PcpSizing::default(),
            reserve_ratio: LOWMEM_RESERVE_RATIO.map(AtomicUsize::new),
        })
    }

    /// Which node it is; [`NodeId::ZERO`] unless said.
    #[must_use]
    pub const fn with_node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// Who is told of pages that are freed wrongly. It may run in interrupts, and must not allocate or free pages.
    #[must_use]
    pub const fn with_bad_page_hook(mut self, hook: fn(BadPage)) -> Self {
        self.on_bad_page = hook;
        self
    }

    /// Where each CPU counts for itself; CPUs without a share count in the totals, by locked instructions.
    #[must_use]
    pub fn with_cpu_counts(mut self, shares: &'static [CpuCounts]) -> Self {
        self.counters = NodeCounters::new(shares);
        for zone in &mut self.zones {
            zone.counters_mut().set_shares(shares);
        }
        self
    }

    /// How large the pagesets get.
    #[must_use]
    pub const fn with_pcp_sizing(mut self, sizing: PcpSizing) -> Self {
        self.pcp_sizing = sizing;
        self
    }

    /// Says that the frames of `range` are RAM. Each frame once; frames outside every zone do not count.
    ///
    /// Linux: `free_area_init_core`, `set_page_links`.
    pub fn add_present(&self, range: PfnRange) {
        for zone in &self.zones {
            let part = range.intersect(zone.range());
            for pfn in part.iter() {
                self.map.page(pfn).set_place(zone.kind(), self.node);
            }
            zone.add_present(part);
        }
    }

    /// Gives frames that are present, and the caller's alone, to the allocator: at boot what memblock has left, later what
    /// only boot needed, which then is no longer reserved. How many that were.
    ///
    /// Linux: `memblock_free_pages`, `free_reserved_area`.
    ///
    /// # Errors
    /// [`FreeError::OutsideZone`] if a frame is in no zone or in the device zone, [`FreeError::AlreadyFree`] if one is free
    /// or was handed out with a count; nothing has changed then.
    pub fn free_at_boot(&self, range: PfnRange) -> Result<usize, FreeError> {
        for pfn in range.iter() {
            let kind = self.layout.zone_of(pfn).ok_or(FreeError::OutsideZone)?;
            let page = self.map.get(pfn).ok_or(FreeError::OutsideZone)?;
            if kind == ZoneType::Device {
                return Err(FreeError::OutsideZone);
            }
            let is_used = page.ref_count() != 0 || page.private() != 0;
            if is_used && !page.test(PageFlags::RESERVED) {
                return Err(FreeError::AlreadyFree);
            }
        }
        for zone in &self.zones {
            let part = range.intersect(zone.range());
            if zone.with_buddy(|buddy| part.iter().any(|pfn| buddy.free_block_of(pfn).is_some())) {
                return Err(FreeError::AlreadyFree);
            }
        }
        for zone in &self.zones {
            let part = range.intersect(zone.range());
            for pfn in part.iter() {
                let page = self.map.page(pfn);
                if page.test(PageFlags::RESERVED) {
                    page.reset_flags(PageFlags::empty());
                    page.set_private(0);
                    page.set_ref_count(0);
                }
            }
            zone.with_buddy(|buddy| buddy.add_free_range(part))?;
            zone.add_managed(part.nr_pages());
        }
        Ok(range.nr_pages())
    }

    /// Computes watermarks, lowmem reserves and the limits of the pagesets from what the zones have now. To be called
    /// when boot has freed its memory, and when one of the arguments changes.
    ///
    /// Linux: `setup_per_zone_wmarks`, `setup_per_zone_lowmem_reserve`, `zone_pcp_update`.
    pub fn init_watermarks(&self, min_free_kbytes: usize, scale_factor: usize) {
        let lowmem = self.lowmem_pages();
        for zone in &self.zones {
            let managed = zone.managed_pages();
            let marks =
                Watermarks::for_zone(zone.kind(), managed, lowmem, min_free_kbytes, scale_factor);
            zone.set_watermarks(marks);
            zone.set_pcp_limits(match self.pcp_sizing {
                PcpSizing::ByLowMark => {
                    PcpLimits::by_low_mark(managed, marks.low, self.cpus.nr_cpus())
                }
                PcpSizing::SixBatches => PcpLimits::six_batches(managed),
            });
        }
        self.init_lowmem_reserve();
        self.init_stat_thresholds();
    }

    /// What Linux would keep free on this machine, in KiB. Linux: `calculate_min_free_kbytes`.
    #[must_use]
    pub fn default_min_free_kbytes(&self) -> usize {
        default_min_free_kbytes(self.lowmem_pages())
    }

    /// Changes what share of the zones above each zone keeps back from their requests; 0 for none.
    /// Linux: `lowmem_reserve_ratio` in /proc/sys/vm.
    pub fn set_lowmem_reserve_ratio(&self, ratio: [usize; ZoneType::COUNT]) {
        for (slot, value) in self.reserve_ratio.iter().zip(ratio) {
            slot.store(value, Relaxed);
        }
        self.init_lowmem_reserve();
    }

    /// The zone of this kind; it may be empty.
    #[must_use]
    pub const fn zone(&self, kind: ZoneType) -> &Zone<L> {
        &self.zones[kind.index()]
    }

    /// The zone that a frame is in.
    #[must_use]
    pub fn zone_of(&self, pfn: Pfn) -> Option<&Zone<L>> {
        self.layout.zone_of(pfn).map(|kind| self.zone(kind))
    }

    /// Every zone, scarcest first, empty ones too.
    #[must_use]
    pub const fn all(&self) -> &[Zone<L>; ZoneType::COUNT] {
        &self.zones
    }

    /// Where the zones begin and end.
    #[must_use]
    pub const fn layout(&self) -> &ZoneLayout {
        &self.layout
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The counts of the node.
    #[must_use]
    pub const fn node_counters(&self) -> &NodeCounters {
        &self.counters
    }

    /// The descriptors.
    #[must_use]
    pub const fn map(&self) -> MemMap {
        self.map
    }

    /// The CPUs.
    #[must_use]
    pub const fn cpus(&self) -> &C {
        &self.cpus
    }

    /// The way to the bytes of frames.
    #[must_use]
    pub const fn phys(&self) -> &P {
        &self.phys
    }

    /// The pageset of this CPU that requests try first which `highest` could serve.
    #[inline]
    pub(crate) fn first_pcp(&self, pin: CpuPin<'_>, highest: ZoneType) -> Option<&'static Pcp> {
        self.first_pcps[highest.index()].get(pin.cpu().index())
    }

    pub(crate) const fn lru_lists(&self) -> &Mutex<L, LruLists> {
        &self.lru
    }

    pub(crate) fn report(&self, bad: BadPage) {
        (self.on_bad_page)(bad);
    }

    /// Pages to allocate in all zones that the kernel maps permanently. Linux: `nr_free_buffer_pages` at boot.
    fn lowmem_pages(&self) -> usize {
        self.zones
            .iter()
            .filter(|zone| zone.kind() != ZoneType::HighMem)
            .map(Zone::managed_pages)
            .sum()
    }

    fn init_lowmem_reserve(&self) {
        let managed = ZoneType::ALL.map(|kind| self.zone(kind).managed_pages());
        let ratio = core::array::from_fn(|i| self.reserve_ratio[i].load(Relaxed));
        for (zone, reserve) in self.zones.iter().zip(lowmem_reserve(managed, ratio)) {
            zone.set_protection(reserve);
        }
    }
}

impl<L, C, P> fmt::Debug for Zones<L, C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zones")
            .field("node", &self.node)
            .field("zones", &self.zones)
            .finish_non_exhaustive()
    }
}

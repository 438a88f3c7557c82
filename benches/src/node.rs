//! Ours: the zones of one node over simulated RAM, as a kernel on this machine would build them at boot.
#![expect(unsafe_code, reason = "hands memory over as a kernel's boot code does")]

use kmm_frame::{MemMap, PAGE_SIZE, Pfn, PfnRange, PhysAddr, VirtAddr};
use kmm_host::DirectMap;
use kmm_zone::{NodeLayouts, WATERMARK_SCALE_FACTOR, ZoneLayout, ZoneLimits, ZoneStorage, Zones};

use crate::cpu::{NR_CPUS, ThreadCpus};
use crate::region::{Pages, Region};

/// The lock of the zones and caches: what a small kernel has.
pub type Lock = spin::Mutex<()>;
/// The zones as measured.
pub type NodeZones = Zones<Lock, ThreadCpus, DirectMap>;

/// Zones with watermarks, pagesets of two CPUs, and descriptors.
#[derive(Debug)]
pub struct Node {
    zones: NodeZones,
    ram: PfnRange,
    phys: DirectMap,
    /// Descriptors and pagesets; the zones reach them as long as they live.
    _metadata: [Region; 2],
}

/// A machine whose devices reach all of its memory: one zone, as each peer has one area.
#[derive(Debug)]
struct OneZone;

impl ZoneLimits for OneZone {
    const DMA_END: Option<Pfn> = None;
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = None;
}

/// Where RAM begins. Not at 0, which peers give away as well but no machine does.
const FIRST: Pfn = PhysAddr::new(16 << 20).pfn();
const HUGE_PAGE: usize = 2 << 20;

impl Node {
    /// `nr_pages` of RAM, shown at `base`, all of it free.
    ///
    /// # Safety
    /// 1. `base` is page-aligned, and that many pages there are mapped while the node lives.
    /// 2. Nobody else uses them.
    ///
    /// # Panics
    /// When `base` is not above 16 MiB, or kmm refuses the layout.
    #[must_use]
    pub unsafe fn new(base: usize, nr_pages: usize) -> Self {
        // SAFETY: the caller's obligations are the same.
        unsafe { Self::build(base, nr_pages, Pages::Huge) }
    }

    /// # Safety
    /// 1. As for [`Node::new`], or nobody reads or writes the frames.
    /// 2. As for [`Node::new`].
    unsafe fn build(base: usize, nr_pages: usize, descriptors: Pages) -> Self {
        assert!(base > FIRST.phys().as_usize(), "RAM shown at {base:#x}");
        let ram = PfnRange::with_len(FIRST, nr_pages);
        let page_offset = VirtAddr::new((base - FIRST.phys().as_usize()) as u64);
        // SAFETY: obligation 1 for the frames from `FIRST` on; there is no RAM before.
        let phys = unsafe { DirectMap::new(page_offset, ram.end()) };
        let layout = NodeLayouts::single(ZoneLayout::new::<OneZone>(ram));
        let described = MemMap::layout(ram).expect("descriptors fit the address space");
        let region = Region::new(described.size(), HUGE_PAGE, descriptors);
        let map = match descriptors {
            // SAFETY: a region of that layout, used by nobody else until the node is dropped, and the zones with it.
            Pages::Huge => unsafe { MemMap::new_in(ram, region.base()) },
            // SAFETY: the same; and as it was mapped just now, it is zeros.
            Pages::Lazy => unsafe { MemMap::new_zeroed_in(ram, region.base()) },
        };
        let stored = ZoneStorage::<Lock>::layout(&layout, NR_CPUS).expect("a few pagesets");
        let pagesets = Region::new(stored.size(), HUGE_PAGE, Pages::Lazy);
        // SAFETY: as for the descriptors.
        let storage = unsafe { ZoneStorage::new_in(&layout, NR_CPUS, pagesets.base()) };
        let zones = Zones::new(map, ThreadCpus, phys, &layout, storage)
            .expect("every frame has its descriptor")
            .with_bad_page_hook(|bad| panic!("{bad}"));
        zones.add_present(ram);
        zones.free_at_boot(ram).expect("RAM that is free");
        zones.init_watermarks(zones.default_min_free_kbytes(), WATERMARK_SCALE_FACTOR);
        Self {
            zones,
            ram,
            phys,
            _metadata: [region, pagesets],
        }
    }

    /// A node of `nr_pages` that nobody will read or write, and the region of addresses that keeps them free.
    ///
    /// # Panics
    /// As [`Node::new`].
    #[must_use]
    pub fn without_contents(nr_pages: usize) -> (Self, Region) {
        let addresses = Region::new(nr_pages * PAGE_SIZE, HUGE_PAGE, Pages::Lazy);
        // SAFETY: a fresh region; the caller keeps it beside the node.
        let node = unsafe { Self::new(addresses.addr(), nr_pages) };
        (node, addresses)
    }

    /// The same, with descriptors that cost no memory as long as nobody writes them; the frames have no addresses at all.
    /// Requests must not ask for zeros.
    ///
    /// # Panics
    /// As [`Node::new`].
    #[must_use]
    pub fn untouched(nr_pages: usize) -> Self {
        const NOWHERE: usize = 1 << 46;
        // SAFETY: obligation 1: nobody reads or writes a frame whose block was not asked for with zeros. 2: as there are none.
        unsafe { Self::build(NOWHERE, nr_pages, Pages::Lazy) }
    }

    /// The zones.
    #[inline(always)]
    #[must_use]
    pub const fn zones(&self) -> &NodeZones {
        &self.zones
    }

    /// The frames.
    #[must_use]
    pub const fn ram(&self) -> PfnRange {
        self.ram
    }

    /// The way to their bytes.
    #[must_use]
    pub const fn phys(&self) -> DirectMap {
        self.phys
    }
}

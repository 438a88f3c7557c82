//! Memory that comes and goes while the machine runs, and memory of devices. Linux: mm/memory_hotplug.c, mm/memremap.c.
//!
//! ```text
//!  the host: SparseMap::add_section          SparseMap::remove_section
//!                   |                                  ^
//!                   v                                  |
//!            Zones::online  ── in use, by the zone ── Zones::offline
//!            Zones::add_device ── by a device ──── Zones::remove_device
//! ```
//!
//! Descriptors are the host's business, before and after. Which node the frames are of says the topology; which zone they
//! become part of says the caller, as far as no other zone of the node is in between. What zones keep for each pageblock
//! was laid out at boot ([`NodeLayouts::with_hotplug`]).
//!
//! [`NodeLayouts::with_hotplug`]: crate::NodeLayouts::with_hotplug

use core::fmt;

use kmm_frame::{MAX_ORDER, MigrateType, Order, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{Cpus, PhysMap};
use lock_api::RawMutex;

use crate::node::by_node;
use crate::{ContigFailed, Migrate, Node, Zone, Zones};

/// Why memory did not come or go. Nothing has changed then, but that pages may have been moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HotplugError {
    /// There are no frames in it.
    Empty,
    /// It begins or ends within a block of the highest order.
    NotAligned,
    /// A frame has no descriptor.
    NoDescriptors,
    /// Its frames are of several nodes.
    SeveralNodes,
    /// The zone has no room for it, or is none that memory can come to that way.
    NoRoom,
    /// Another zone of the node lies there, or in between.
    Overlap,
    /// A part of it is in use already.
    AlreadyOnline,
    /// A part of it is not in use by one zone.
    NotOnline,
    /// Somebody has this frame and keeps it.
    Busy(Pfn),
}

impl fmt::Display for HotplugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "range without frames",
            Self::NotAligned => "range is not aligned to the largest block",
            Self::NoDescriptors => "frame without descriptor",
            Self::SeveralNodes => "frames of several nodes",
            Self::NoRoom => "zone has no room for these frames",
            Self::Overlap => "another zone is in between",
            Self::AlreadyOnline => "memory is in use already",
            Self::NotOnline => "memory is not in use by one zone",
            Self::Busy(pfn) => return write!(f, "frame {pfn} is in use"),
        })
    }
}

impl core::error::Error for HotplugError {}

/// Memory of a device, with descriptors: [`Zones::add_device`]. The device holds each of its pages once; a page is idle
/// when nobody else does.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "memory that is dropped stays the device's for ever"]
pub struct DeviceRange(PfnRange);

impl DeviceRange {
    /// The frames.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.0
    }
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Gives memory to a zone of its node, free. The zone spans it from then on; marks, reserves and zonelists follow.
    ///
    /// Linux: `online_pages`.
    ///
    /// # Context
    /// Other CPUs may allocate and free meanwhile; nobody else adds or removes memory.
    ///
    /// # Errors
    /// A [`HotplugError`].
    pub fn online(&self, range: PfnRange, kind: ZoneType) -> Result<(), HotplugError> {
        if kind == ZoneType::Device {
            return Err(HotplugError::NoRoom);
        }
        let (node, zone) = self.place_for(range, kind)?;
        let before = self.default_min_free_kbytes();
        node.set_span(kind, zone.range().hull(range));
        zone.add_present(range);
        let added = zone.with_buddy(|buddy| {
            for start in range.iter().step_by(Order::PAGEBLOCK.nr_pages()) {
                buddy.set_type(start, MigrateType::Movable);
            }
            buddy.add_free_range(range)
        });
        debug_assert_eq!(added, Ok(()), "{range:?} was free while it was offline");
        zone.add_managed(range.nr_pages());
        self.build_all_zonelists();
        self.update_watermarks(before);
        Ok(())
    }

    /// Takes memory away from its zone: what is in it is moved, then nobody uses it any more. The span shrinks if it lies
    /// at an end of it; marks, reserves and zonelists follow.
    ///
    /// Linux: `offline_pages`.
    ///
    /// # Context
    /// As for [`Zones::alloc_contig_range`]; nobody else adds or removes memory.
    ///
    /// # Errors
    /// A [`HotplugError`].
    pub fn offline(&self, range: PfnRange, migrate: &mut impl Migrate) -> Result<(), HotplugError> {
        check_range(range)?;
        let zone = self.zone_for_contig(range);
        let zone = zone.map_err(|_| HotplugError::NotOnline)?;
        let is_online = |start: Pfn| {
            zone.pageblocks()
                .has_present_in(PfnRange::with_len(start, 1))
        };
        if !pageblocks_of(range).all(is_online) {
            return Err(HotplugError::NotOnline);
        }
        let before = self.default_min_free_kbytes();
        match self.evacuate(zone, range, migrate) {
            Ok(_) => {}
            Err(ContigFailed::Busy(pfn)) => return Err(HotplugError::Busy(pfn)),
            Err(_) => return Err(HotplugError::Busy(range.start())),
        }
        zone.remove_managed(range.nr_pages());
        self.leave(zone, range);
        self.update_watermarks(before);
        Ok(())
    }

    /// Makes memory the pages of a device: with descriptors and a zone, but never given away by the allocator. Each page is
    /// reserved, and held once by the device; users hold it besides, and the last of them leaves it idle.
    ///
    /// Linux: `memremap_pages`.
    ///
    /// # Context
    /// As for [`Zones::online`].
    ///
    /// # Errors
    /// A [`HotplugError`].
    pub fn add_device(&self, range: PfnRange) -> Result<DeviceRange, HotplugError> {
        let (node, zone) = self.place_for(range, ZoneType::Device)?;
        for pfn in range.iter() {
            let page = self.map().page(pfn);
            page.reset_flags(PageFlags::RESERVED);
            page.set_private(0);
            page.set_mapping(0);
            page.set_ref_count(1);
        }
        node.set_span(ZoneType::Device, zone.range().hull(range));
        zone.add_present(range);
        Ok(DeviceRange(range))
    }

    /// Takes memory back from a device. Linux: `memunmap_pages`.
    ///
    /// # Context
    /// As for [`Zones::online`].
    ///
    /// # Errors
    /// The argument, and [`HotplugError::Busy`] with the first page that somebody else holds, or [`HotplugError::NotOnline`]
    /// when it is no device's here; nothing has changed then.
    pub fn remove_device(&self, device: DeviceRange) -> Result<(), (DeviceRange, HotplugError)> {
        let range = device.range();
        let is_here = |zone: &&Zone<L>| {
            zone.kind() == ZoneType::Device
                && zone.owns_range(range)
                && zone.pageblocks().has_all_present_in(range)
        };
        let Some(zone) = self.zone_of(range.start()).filter(is_here) else {
            return Err((device, HotplugError::NotOnline));
        };
        let is_busy = |pfn: &Pfn| {
            let page = self.map().page(*pfn);
            page.ref_count() != 1 || page.map_count() != 0
        };
        if let Some(busy) = range.iter().find(is_busy) {
            return Err((device, HotplugError::Busy(busy)));
        }
        for pfn in range.iter() {
            let page = self.map().page(pfn);
            page.reset_flags(PageFlags::empty());
            page.set_ref_count(0);
        }
        self.leave(zone, range);
        Ok(())
    }

    /// The node and the zone that memory could be given to.
    fn place_for(
        &self,
        range: PfnRange,
        kind: ZoneType,
    ) -> Result<(&'static Node<L>, &'static Zone<L>), HotplugError> {
        check_range(range)?;
        let mut pieces = by_node(self.topology(), range).map(|(node, _)| node);
        let id = pieces.next().ok_or(HotplugError::Empty)?;
        if pieces.any(|other| other != id) {
            return Err(HotplugError::SeveralNodes);
        }
        let node = self.nodes().get(id.index()).ok_or(HotplugError::NoRoom)?;
        let zone = node.zone(kind);
        if !node.layout().room(kind).contains_range(range) {
            return Err(HotplugError::NoRoom);
        }
        let is_described = |start: Pfn| {
            let last = start + (Order::PAGEBLOCK.nr_pages() - 1);
            self.map().is_valid(start) && self.map().is_valid(last)
        };
        if !pageblocks_of(range).all(is_described) {
            return Err(HotplugError::NoDescriptors);
        }
        let mut zones = node.zones().iter();
        if zones.any(|zone| zone.pageblocks().has_present_in(range)) {
            return Err(HotplugError::AlreadyOnline);
        }
        let span = zone.range().hull(range);
        let mut others = node.zones().iter().filter(|other| other.kind() != kind);
        if others.any(|other| other.range().overlaps(span)) {
            return Err(HotplugError::Overlap);
        }
        Ok((node, zone))
    }

    /// The frames are no longer of the zone.
    fn leave(&self, zone: &Zone<L>, range: PfnRange) {
        zone.remove_present(range);
        let left = zone.pageblocks().present_span().intersect(zone.range());
        self.node(zone.node()).set_span(zone.kind(), left);
        self.build_all_zonelists();
    }
}

fn check_range(range: PfnRange) -> Result<(), HotplugError> {
    if range.is_empty() {
        return Err(HotplugError::Empty);
    }
    if range.start().is_aligned(MAX_ORDER) && range.end().is_aligned(MAX_ORDER) {
        Ok(())
    } else {
        Err(HotplugError::NotAligned)
    }
}

/// The first frame of each pageblock of whole ones.
fn pageblocks_of(range: PfnRange) -> impl Iterator<Item = Pfn> {
    range.iter().step_by(Order::PAGEBLOCK.nr_pages())
}

//! How zones get their frames at boot. Linux: mm/mm_init.c.

use kmm_frame::{PageFlags, PfnRange, ZoneType};
use kmm_host::{Cpus, PhysMap};
use lock_api::RawMutex;

use super::Zones;
use crate::{FreeError, Zone};

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Says that the frames of `range` are RAM. Each frame once; frames outside every zone do not count.
    ///
    /// Linux: `free_area_init_core`. O(n) in pageblocks; no descriptor is touched.
    pub fn add_present(&self, range: PfnRange) {
        self.for_each_part(range, |zone, part| zone.add_present(part));
        self.build_all_zonelists();
    }

    /// Gives frames that are present, and the caller's alone, to the allocator: at boot, what memblock has left. How many
    /// that were.
    ///
    /// Their descriptors are fresh, and stay untouched. Linux: `memblock_free_pages`. O(n) in pageblocks.
    ///
    /// # Errors
    /// [`FreeError::OutsideZone`] if a frame is in no zone, in the device zone, or in a pageblock without RAM;
    /// [`FreeError::AlreadyFree`] if one is free, or if that would be more than is present; nothing has changed then. Debug
    /// builds look at each descriptor, and also refuse frames that are reserved ([`FreeError::Reserved`]) or in use
    /// ([`FreeError::AlreadyFree`]).
    pub fn free_at_boot(&self, range: PfnRange) -> Result<usize, FreeError> {
        self.check_given(range)?;
        self.check_fresh(range)?;
        self.give_parts(range)?;
        Ok(range.nr_pages())
    }

    /// As [`Zones::free_at_boot`], of frames that a device lends until it wants them: for movable pages only. Whole
    /// pageblocks of one zone. Linux: `cma_init_reserved_areas`.
    ///
    /// # Errors
    /// As [`Zones::free_at_boot`]; [`FreeError::NotAligned`] unless it is whole pageblocks, [`FreeError::OutsideZone`] also if
    /// they are of several zones.
    pub fn free_cma_at_boot(&self, range: PfnRange) -> Result<usize, FreeError> {
        self.check_given(range)?;
        self.check_fresh(range)?;
        let mut zones = self.all().filter(|zone| zone.owns_range(range));
        let zone = zones.next().ok_or(FreeError::OutsideZone)?;
        zone.with_buddy(|buddy| buddy.add_cma_range(range))?;
        zone.add_managed(range.nr_pages());
        Ok(range.nr_pages())
    }

    /// Gives reserved frames that are present to the allocator: what only boot needed. They are no longer reserved then.
    /// How many that were.
    ///
    /// Linux: `free_reserved_area`. O(n) in frames.
    ///
    /// # Errors
    /// As [`Zones::free_at_boot`]; and [`FreeError::AlreadyFree`] if one is not reserved.
    pub fn free_reserved(&self, range: PfnRange) -> Result<usize, FreeError> {
        self.check_given(range)?;
        for pfn in range.iter() {
            let page = self.map.get(pfn).ok_or(FreeError::OutsideZone)?;
            if !page.test(PageFlags::RESERVED) {
                return Err(FreeError::AlreadyFree);
            }
        }
        for pfn in range.iter() {
            let page = self.map.page(pfn);
            page.reset_flags(PageFlags::empty());
            page.set_private(0);
            page.set_ref_count(0);
        }
        self.give_parts(range)?;
        Ok(range.nr_pages())
    }

    /// Calls `f` with each zone that has frames of `range`, and these: a node's frames only.
    fn for_each_part(&self, range: PfnRange, mut f: impl FnMut(&Zone<L>, PfnRange)) {
        for zone in self.all() {
            zone.own_parts(range).for_each(|part| f(zone, part));
        }
    }

    /// Whether zones may take the frames of `range`.
    fn check_given(&self, range: PfnRange) -> Result<(), FreeError> {
        let mut count = 0;
        for zone in self.all().filter(|zone| zone.kind() != ZoneType::Device) {
            let mut more = 0;
            let mut is_free = false;
            for part in zone.own_parts(range) {
                if !zone.pageblocks().has_all_present_in(part) {
                    return Err(FreeError::OutsideZone);
                }
                more += part.nr_pages();
                is_free |= zone.with_buddy(|buddy| buddy.has_free_in(part));
            }
            if is_free || zone.managed_pages() + more > zone.present_pages() {
                return Err(FreeError::AlreadyFree);
            }
            count += more;
        }
        if count == range.nr_pages() {
            Ok(())
        } else {
            Err(FreeError::OutsideZone)
        }
    }

    /// In debug builds, whether the descriptors are those of frames that nobody has.
    fn check_fresh(&self, range: PfnRange) -> Result<(), FreeError> {
        if cfg!(debug_assertions) {
            for page in range.iter().filter_map(|pfn| self.map.get(pfn)) {
                if page.test(PageFlags::RESERVED) {
                    return Err(FreeError::Reserved);
                }
                if page.ref_count() != 0 || page.private() != 0 {
                    return Err(FreeError::AlreadyFree);
                }
            }
        }
        Ok(())
    }

    fn give_parts(&self, range: PfnRange) -> Result<(), FreeError> {
        let mut refused = None;
        self.for_each_part(range, |zone, part| {
            match zone.with_buddy(|buddy| buddy.add_free_range(part)) {
                Ok(()) => zone.add_managed(part.nr_pages()),
                Err(why) => refused = Some(why),
            }
        });
        refused.map_or(Ok(()), Err)
    }
}

//! Audits of single slabs.

use kmm_frame::PageFlags;
use kmm_host::PhysMap;

use crate::geometry::Geometry;
use crate::slab::{Mem, Slab, SlabKind};
use crate::stats::Broken;

/// Whether a slab's descriptors and free list are in order.
pub(crate) fn slab<K: SlabKind, P: PhysMap>(
    mem: Mem<'_, P>,
    slab: Slab,
    geometry: &Geometry,
    label: u64,
) -> Result<(), Broken> {
    let state = slab.state();
    let marked = (0..slab.order().nr_pages()).all(|nr| {
        let part = if nr == 0 {
            PageFlags::HEAD
        } else {
            PageFlags::TAIL
        };
        mem.map.get(slab.pfn + nr).is_some_and(|page| {
            page.test(PageFlags::SLAB | part)
                && page.mapping() == label
                && page.owner_word() == slab.pfn.index() as u64
        })
    });
    if !marked || state.in_use() > state.objects() {
        return Err(Broken::Descriptor(slab.pfn));
    }
    let mut free = 0;
    for index in slab.free_objects::<K>(geometry) {
        index.map_err(|_| Broken::Freelist(slab.pfn))?;
        free += 1;
    }
    if free == state.objects() - state.in_use() {
        Ok(())
    } else {
        Err(Broken::Freelist(slab.pfn))
    }
}

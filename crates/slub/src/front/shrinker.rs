//! What caches have to spare goes back when memory is short.

use kmm_host::{Cpus, PageSource, PhysMap, ShrinkControl, Shrinker};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::slab::SlabKind;

impl<K, A, P, L, C> Shrinker for ObjectCaches<K, A, P, L, C>
where
    K: SlabKind + Sync,
    A: PageSource + Sync,
    P: PhysMap + Sync,
    L: RawMutex + Send + Sync,
    C: Cpus + Sync,
{
    fn name(&self) -> &'static str {
        "slab"
    }

    /// Pages whose worth of objects is free: at most so many come back, as free objects are scattered.
    fn count_objects(&self, _: &ShrinkControl) -> usize {
        let spare = |info: crate::CacheInfo| {
            let used = info.active_objs.div_ceil(info.objperslab.max(1));
            info.nr_pages.saturating_sub(used * info.pagesperslab)
        };
        self.cache_infos().map(spare).sum()
    }

    /// Gives back all that can be had: how much comes of a part is not known before.
    fn scan_objects(&self, _: &ShrinkControl) -> Option<usize> {
        Some(self.shrink_all())
    }

    /// A slab is had again by one request for pages.
    fn seeks(&self) -> usize {
        1
    }
}

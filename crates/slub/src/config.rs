//! What the host settles once.

use kmm_frame::Topology;
use kmm_host::{Sanitizer, SlabHook};

use crate::{Callers, Sampled, SlubBug};

/// What the host settles once.
#[derive(Clone, Copy, Debug)]
pub struct SlubConfig {
    /// Told of each mistake that is noticed, without any lock held.
    pub on_bug: fn(&SlubBug),
    /// Bytes of free objects that the depot of a cache may keep on a node, together with what one CPU has behind its array;
    /// CPUs may have half as many, all together. `None` for 1 MiB, or 1/256 of memory if that is less.
    pub depot_bytes: Option<usize>,
    /// Whether caches of alike objects share slabs. Linux: `slab_nomerge` says no.
    pub merges: bool,
    /// Every cache is [`CacheFlags::CHECKED`](crate::CacheFlags::CHECKED): mistakes show at once. Linux: `slub_debug=F`.
    pub is_checked: bool,
    /// Which caches are debugged, and how, as behind `slub_debug=` on Linux's command line: `FZPU,kmalloc-64;F,inode*`. See
    /// [`DebugFlags`](crate::DebugFlags) for the letters; no letter means all, `-` none, no name all caches; with `U` the text
    /// of a report names who allocated and who freed the object. Empty: none is.
    pub debug: &'static str,
    /// Bytes of freed objects, with what lies around them, that wait in each cache with `Q` before they are handed out again:
    /// late writes to them are found until then. `shrink` lets them go, and so does a request that would fail.
    pub quarantine_bytes: usize,
    /// Who tells where a caller was called from, for caches with `U`.
    pub callers: Callers,
    /// Whether the objects of a new slab are handed out in random order, so that nobody knows his neighbours. Linux:
    /// `CONFIG_SLAB_FREELIST_RANDOM`.
    pub random_order: bool,
    /// Is told which memory may be touched, of this allocator alone: then caches are checked and not merged, and redzones lie
    /// behind objects. Linux: `CONFIG_KASAN`.
    pub sanitizer: Option<&'static (dyn Sanitizer + Sync)>,
    /// Is told which frames become slabs, and cease to be: once a slab, never on a fast path.
    pub slabs: &'static (dyn SlabHook + Sync),
    /// Where every so many-th object comes from, to lie alone between pages that nobody may touch: a [`Kfence`](crate::Kfence).
    pub kfence: Option<&'static (dyn Sampled + Sync)>,
    /// A number that nobody can guess: what free objects and descriptors are sealed with.
    pub secret: u64,
    /// Which node frames and CPUs are of; `None` for one node.
    pub topology: Option<&'static Topology>,
}

impl SlubConfig {
    /// One node, no secret worth the name, nothing that is slow.
    #[must_use]
    pub const fn new(on_bug: fn(&SlubBug)) -> Self {
        Self {
            on_bug,
            depot_bytes: None,
            merges: true,
            is_checked: false,
            debug: "",
            quarantine_bytes: 128 << 10,
            random_order: false,
            callers: Callers(&()),
            sanitizer: None,
            slabs: &(),
            kfence: None,
            secret: 0x9e6c_63d0_876a_46a5,
            topology: None,
        }
    }
}

//! From the firmware's map to page tables, before there is a page allocator. Linux: `setup_arch`, `init_mem_mapping`.
//!
//! ```text
//! memblock ── MemMap ── kernel tables ── (the host loads CR3) ── Manager::build: zones, slub, vmalloc
//! ```
//!
//! All that is taken here comes from [`Memblock`] and stays: it is on the accounting line as boot allocations.
#![expect(unsafe_code, reason = "lays things into memory taken from memblock")]

use core::cell::RefCell;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use kmm_frame::memblock::{Memblock, MemblockError};
use kmm_frame::{Gfp, MemMap, PAGE_SIZE, PageFlags, PfnRange, PhysAddr, Topology, VirtAddr};
use kmm_host::{AllocError, Host, PageBlock, PageReq, PageSource, PhysMap, PteIndex};
use kmm_pagetable_walker::{Level, Levels, MapError, Mapper, PteFlags, Root, TableCounter};
use kmm_slub::Callers;
use kmm_zone::Amount;

/// Objects of KFENCE's pool: all that one page table can map. Linux: `CONFIG_KFENCE_NUM_OBJECTS`, 255 unless said.
pub const MAX_KFENCE_OBJECTS: usize = (PteIndex::COUNT - 1) / 2;

/// Why the manager could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The boot allocator failed.
    Memblock(MemblockError),
    /// The kernel's tables could not be built.
    Tables(MapError),
    /// There is no memory at all.
    NoMemory,
    /// A frame that the boot allocator gave is not reachable.
    Unreachable,
    /// The zones refused their share.
    Zones,
    /// The object allocator refused its share.
    Slub,
    /// The ranges of vmalloc make no sense.
    Vmalloc,
    /// A pool of objects between hidden pages cannot be had: see [`Early::with_kfence`].
    Kfence,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memblock(error) => write!(f, "boot memory: {error}"),
            Self::Tables(error) => write!(f, "kernel page tables: {error}"),
            Self::NoMemory => f.write_str("the memory map has no usable memory"),
            Self::Unreachable => f.write_str("boot memory lies outside the permanent map"),
            Self::Zones => f.write_str("zones could not be set up"),
            Self::Slub => f.write_str("object caches could not be set up"),
            Self::Vmalloc => f.write_str("vmalloc could not be set up"),
            Self::Kfence => f.write_str("pages for KFENCE could not be set up"),
        }
    }
}

impl core::error::Error for BuildError {}

impl From<MemblockError> for BuildError {
    fn from(error: MemblockError) -> Self {
        Self::Memblock(error)
    }
}

impl From<MapError> for BuildError {
    fn from(error: MapError) -> Self {
        Self::Tables(error)
    }
}

/// A part of the kernel image: where it is linked, where it lies, what may be done with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImagePart {
    /// Where it is linked; page-aligned.
    pub range: Range<VirtAddr>,
    /// Where it lies; page-aligned.
    pub phys: PhysAddr,
    /// What may be done with it.
    pub flags: PteFlags,
}

/// What the kernel's tables are to map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelSpace {
    /// Four levels or five.
    pub levels: Levels,
    /// Where all RAM is mapped. Linux: `PAGE_OFFSET`.
    pub direct_map: VirtAddr,
    /// The largest page that the CPU has: `Pud` where it has 1 GiB pages.
    pub largest: Level,
    /// Where vmalloc finds room; its top-level entries are preallocated.
    pub vmalloc: Range<VirtAddr>,
}

/// The manager before the page allocator: descriptors, and memblock behind them.
pub struct Early<H: Host> {
    pub(crate) host: &'static H,
    pub(crate) memblock: RefCell<Memblock>,
    pub(crate) map: MemMap,
    /// The ranges of RAM.
    memory: &'static [PfnRange],
    /// The host reaches frames below this now.
    limit: PhysAddr,
    /// Which node frames and CPUs are of.
    pub(crate) topology: Topology,
    /// How much the kernel gets, and how much is movable.
    pub(crate) cores: [Amount; 2],
    /// Which object caches are debugged, and who knows where they are called from.
    pub(crate) slub_debug: (&'static str, Callers),
    /// Whether the manager begins with its guard against second mappings on.
    pub(crate) guards_maps: bool,
    /// The frames of KFENCE's pool, and how often an object comes from there.
    pub(crate) kfence: Option<(PfnRange, u32)>,
}

impl<H: Host> fmt::Debug for Early<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Early")
            .field("map", &self.map)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<H: Host> Early<H> {
    /// Takes over the firmware's map and lays descriptors for all that it spans.
    ///
    /// # Errors
    /// [`BuildError`], as when there is too little memory below `reachable_end` for the descriptors.
    ///
    /// # Safety
    /// 1. Every free frame of `memblock` is RAM that nobody uses.
    /// 2. `host.phys()` reaches those of them that lie below `reachable_end`, now and for ever; the others from when
    ///    the tables of [`Early::kernel_tables`] are loaded.
    pub unsafe fn new(
        host: &'static H,
        mut memblock: Memblock,
        reachable_end: PhysAddr,
    ) -> Result<Self, BuildError> {
        let spanned = memblock.spanned();
        if spanned.is_empty() {
            return Err(BuildError::NoMemory);
        }
        let layout = MemMap::layout(spanned).ok_or(BuildError::NoMemory)?;
        let size_bytes = layout.size() as u64;
        let phys = memblock.alloc(size_bytes, PAGE_SIZE as u64, PhysAddr::ZERO..reachable_end)?;
        let storage = host
            .phys()
            .direct(phys.pfn())
            .ok_or(BuildError::Unreachable)?;
        // SAFETY: memblock gave these bytes away just now and never gives them again; they are reachable by
        // obligation 2 and page-aligned.
        let map = unsafe { MemMap::new_in(spanned, storage) };
        let mut early = Self {
            host,
            memblock: RefCell::new(memblock),
            map,
            memory: &[],
            limit: reachable_end,
            topology: Topology::single(),
            cores: [Amount::NONE; 2],
            slub_debug: ("", Callers(&())),
            guards_maps: false,
            kfence: None,
        };
        early.memory = early.keep_memory()?;
        Ok(early)
    }

    /// Says which node frames and CPUs are of, as [`crate::adapt::numa`] reads it from the firmware's tables: one node
    /// that has everything unless said.
    #[must_use]
    pub fn with_topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// Says how much of the memory the kernel gets, or how much only movable pages get: `kernelcore=` and `movablecore=`
    /// of Linux. Without, there is no movable zone.
    #[must_use]
    pub const fn with_movable(mut self, kernelcore: Amount, movablecore: Amount) -> Self {
        self.cores = [kernelcore, movablecore];
        self
    }

    /// Says which object caches are debugged, as `slub_debug=` of Linux: see [`SlubConfig::debug`](kmm_slub::SlubConfig::debug).
    /// Without, none is.
    #[must_use]
    pub const fn with_slub_debug(mut self, text: &'static str, callers: Callers) -> Self {
        self.slub_debug = (text, callers);
        self
    }

    /// From the start, refuses to map frames of slabs, of page tables and of the kernel image a second time: see
    /// [`Manager::map_guard`](crate::Manager::map_guard). Without, that is off until it is turned on.
    #[must_use]
    pub const fn with_map_guard(mut self) -> Self {
        self.guards_maps = true;
        self
    }

    /// Takes frames for `nr_objects` sampled objects between hidden pages, [`MAX_KFENCE_OBJECTS`] at most: one in `interval`
    /// objects that CPUs' stocks do not have lies there. To be said before [`Early::kernel_tables`], which maps these frames by
    /// entries of 4 KiB; [`Manager::build`](crate::Manager::build) hides them, and gives them to slub as
    /// [`SlubConfig::kfence`](kmm_slub::SlubConfig::kfence). They are boot allocations. Without, there are no such objects.
    ///
    /// The page fault handler asks [`kfence_fault`](kmm_slub::ObjectCaches::kfence_fault) of [`Manager::slub`](crate::Manager::slub)
    /// about each address of the kernel that is not mapped. Linux: `kfence_alloc_pool`.
    ///
    /// # Errors
    /// [`BuildError::Kfence`] if there are to be no objects or too many, or `interval` is 0; [`BuildError::Memblock`] if there is no
    /// memory.
    pub fn with_kfence(mut self, nr_objects: usize, interval: u32) -> Result<Self, BuildError> {
        if nr_objects == 0 || nr_objects > MAX_KFENCE_OBJECTS || interval == 0 {
            return Err(BuildError::Kfence);
        }
        let nr_pages = 2 * nr_objects + 1;
        // So aligned, they have one table.
        let phys = self.memblock.borrow_mut().alloc(
            (nr_pages * PAGE_SIZE) as u64,
            Level::Pmd.size_bytes(),
            PhysAddr::ZERO..self.limit,
        )?;
        self.kfence = Some((PfnRange::with_len(phys.pfn(), nr_pages), interval));
        Ok(self)
    }

    /// The frames of [`Early::with_kfence`]; none without.
    #[must_use]
    pub fn kfence_frames(&self) -> PfnRange {
        self.kfence
            .map_or(PfnRange::default(), |(frames, _)| frames)
    }

    /// The ranges of RAM, for ever.
    #[must_use]
    pub const fn memory(&self) -> &'static [PfnRange] {
        self.memory
    }

    /// The descriptors. Which frames are reserved they say when the manager is built.
    #[must_use]
    pub const fn mem_map(&self) -> MemMap {
        self.map
    }

    /// Where every frame is at this time.
    pub fn with_memblock<R>(&self, f: impl FnOnce(&mut Memblock) -> R) -> R {
        f(&mut self.memblock.borrow_mut())
    }

    /// Builds the kernel's final tables: all RAM at the direct map with the largest pages that fit, the image with its
    /// rights, and entries for vmalloc. Nothing else is mapped: the identity map is gone once they are loaded. The image's
    /// frames are marked as such.
    ///
    /// # Errors
    /// [`BuildError`]. What was taken from memblock by then stays taken.
    pub fn kernel_tables(
        &self,
        space: &KernelSpace,
        image: impl IntoIterator<Item = ImagePart>,
        tables: &TableCounter,
    ) -> Result<Root, BuildError> {
        let pages = EarlyPages { early: self };
        // SAFETY: 1: memblock's frames below the limit are reachable, and spanned by the map. 2: what is entered is RAM
        // and the image, for the kernel alone. 3: the root is made here.
        let mapper =
            unsafe { Mapper::new(self.host.ptes(), &pages, self.map, space.levels, tables) };
        let mut root = mapper.alloc_root()?;
        for &frames in self.memory {
            let [before, small, after] = cut(frames, self.kfence_frames());
            map_frames(&mapper, &mut root, space, before, space.largest)?;
            map_frames(&mapper, &mut root, space, small, Level::Pte)?;
            map_frames(&mapper, &mut root, space, after, space.largest)?;
        }
        for part in image {
            let size_bytes = part.range.end - part.range.start;
            let frames = PfnRange::covering(part.phys, part.phys + size_bytes);
            mapper.map_range(&mut root, part.range, part.phys, part.flags, Level::Pmd)?;
            for page in frames.iter().filter_map(|pfn| self.map.get(pfn)) {
                page.set(PageFlags::IMAGE);
            }
        }
        Ok(root)
    }

    /// Memory for `size_bytes` that is never given back, zeroed.
    pub(crate) fn alloc(&self, size_bytes: usize) -> Result<NonNull<u8>, BuildError> {
        let phys = self.memblock.borrow_mut().alloc(
            size_bytes as u64,
            PAGE_SIZE as u64,
            PhysAddr::ZERO..self.limit,
        )?;
        let start = self
            .host
            .phys()
            .direct(phys.pfn())
            .ok_or(BuildError::Unreachable)?;
        let whole_bytes = size_bytes.next_multiple_of(PAGE_SIZE);
        // SAFETY: memblock gave these pages away just now, and they are reachable.
        unsafe { start.write_bytes(0, whole_bytes) };
        Ok(start)
    }

    /// Puts `value` into memory that is never given back.
    pub(crate) fn place<T>(&self, value: T) -> Result<&'static T, BuildError> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        let slot = self.alloc(size_of::<T>())?.cast::<T>();
        // SAFETY: the pages are ours alone, large enough, and aligned to a page.
        unsafe { slot.write(value) };
        // SAFETY: written just now; nobody else has the memory, and it is never given back.
        Ok(unsafe { slot.as_ref() })
    }

    fn keep_memory(&self) -> Result<&'static [PfnRange], BuildError> {
        let count = self.memblock.borrow().memory_frames().count();
        let mut nr = 0;
        let kept = self.place_slice(count, || {
            nr += 1;
            let memblock = self.memblock.borrow();
            let mut ranges = memblock.memory_frames();
            ranges.nth(nr - 1).unwrap_or_default()
        })?;
        Ok(kept)
    }

    /// Memory for one `T` that will be made later.
    pub(crate) fn reserve_place<T>(&self) -> Result<Place<T>, BuildError> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        Ok(Place {
            slot: self.alloc(size_of::<T>())?.cast(),
        })
    }

    /// Puts `count` values into memory that is never given back.
    pub(crate) fn place_slice<T>(
        &self,
        count: usize,
        mut value: impl FnMut() -> T,
    ) -> Result<&'static mut [T], BuildError> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        let bytes = size_of::<T>()
            .checked_mul(count)
            .ok_or(BuildError::NoMemory)?;
        let first = self.alloc(bytes)?.cast::<T>();
        for i in 0..count {
            // SAFETY: `i` is within the array that was asked for.
            let slot = unsafe { first.add(i) };
            // SAFETY: the pages are ours alone, and aligned to a page.
            unsafe { slot.write(value()) };
        }
        // SAFETY: every element was written just now; nobody else has the memory, and it is never given back.
        Ok(unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) })
    }
}

/// Memory that waits for its value.
pub(crate) struct Place<T> {
    slot: NonNull<T>,
}

impl<T: 'static> Place<T> {
    /// Puts the value there, for ever.
    pub(crate) fn put(self, value: T) -> &'static T {
        // SAFETY: `Early::reserve_place` took the memory for this alone, large enough and aligned to a page.
        unsafe { self.slot.write(value) };
        // SAFETY: written just now; nobody else has the memory, and it is never given back.
        unsafe { self.slot.as_ref() }
    }
}

fn map_frames<H: Host>(
    mapper: &Mapper<'_, H::Ptes, EarlyPages<'_, H>>,
    root: &mut Root,
    space: &KernelSpace,
    frames: PfnRange,
    largest: Level,
) -> Result<(), MapError> {
    if frames.is_empty() {
        return Ok(());
    }
    let start = frames.start().phys();
    let size_bytes = (frames.nr_pages() * PAGE_SIZE) as u64;
    let va = space.direct_map + start.as_u64();
    mapper.map_range(root, va..va + size_bytes, start, PteFlags::KERNEL, largest)
}

/// What lies before `part`, what is of it, and what lies behind.
fn cut(frames: PfnRange, part: PfnRange) -> [PfnRange; 3] {
    if !frames.contains_range(part) || part.is_empty() {
        return [frames, PfnRange::default(), PfnRange::default()];
    }
    [
        PfnRange::new(frames.start(), part.start()),
        part,
        PfnRange::new(part.end(), frames.end()),
    ]
}

/// Memblock as a source of pages, for the first tables.
pub(crate) struct EarlyPages<'e, H: Host> {
    pub(crate) early: &'e Early<H>,
}

// SAFETY: memblock gives a frame once; `Early::new` vouches that it is RAM nobody uses, reachable below the limit;
// blocks are aligned to their size.
unsafe impl<H: Host> PageSource for EarlyPages<'_, H> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let size_bytes = req.order.size_bytes() as u64;
        let phys = self
            .early
            .memblock
            .borrow_mut()
            .alloc(size_bytes, size_bytes, PhysAddr::ZERO..self.early.limit)
            .map_err(|_| AllocError::OutOfMemory)?;
        // SAFETY: memblock gave these frames away just now; aligned to the order as asked.
        let mut block = unsafe { PageBlock::from_raw(phys.pfn(), req.order) };
        if req.gfp.contains(Gfp::ZERO) {
            self.early.host.phys().clear(&mut block);
        }
        Ok(block)
    }

    fn free(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        let freed = self
            .early
            .memblock
            .borrow_mut()
            .free(pfn.phys(), order.size_bytes() as u64);
        debug_assert!(
            freed.is_ok(),
            "a block that memblock gave is refused: {freed:?}"
        );
    }
}

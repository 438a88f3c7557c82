//! The array of descriptors. Linux: `mem_map`, include/asm-generic/memory_model.h.
#![expect(
    unsafe_code,
    reason = "descriptors are laid into memory that the host hands over"
)]

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use crate::{Page, Pfn, PfnRange};

mod overhead;
mod sparse;

pub use overhead::Overhead;
pub use sparse::{PAGES_PER_SECTION, SECTION_SIZE_BITS, Section, SparseMap};

/// One [`Page`] for each frame, found in O(1).
///
/// Flat ([`MemMap::new_in`]): an array over all of a range. Holes have descriptors too, which the host marks with
/// [`MemMap::reserve`]. Sparse ([`MemMap::sparse`]): only the sections that exist have any. One look finds a descriptor of
/// a flat map; a map that has none there asks whether it is sparse. So the flat model pays nothing for the other.
#[derive(Clone, Copy)]
pub struct MemMap {
    range: PfnRange,
    /// Flat: one for each frame of `range`. Sparse: none.
    pages: &'static [Page],
    sparse: Option<&'static SparseMap>,
}

/// Why a [`MemMap`], or a section of one, was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemMapError {
    /// There are more or fewer descriptors than frames, or too few words for the table of sections.
    WrongLength,
    /// The map has no room for this section.
    OutsideMap,
    /// The section has descriptors already.
    SectionExists,
    /// The section has no descriptors.
    NoSection,
}

impl fmt::Display for MemMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongLength => "number of descriptors differs from number of frames",
            Self::OutsideMap => "section lies outside the map",
            Self::SectionExists => "section has descriptors already",
            Self::NoSection => "section has no descriptors",
        })
    }
}

impl core::error::Error for MemMapError {}

impl MemMap {
    /// How much memory the descriptors of `range` want, or `None` when that is more than an address space holds.
    #[must_use]
    pub fn layout(range: PfnRange) -> Option<Layout> {
        Layout::array::<Page>(range.nr_pages()).ok()
    }

    /// Takes descriptors that exist already.
    ///
    /// # Errors
    /// [`MemMapError::WrongLength`] unless there is exactly one for each frame.
    pub fn new(range: PfnRange, pages: &'static [Page]) -> Result<Self, MemMapError> {
        if pages.len() == range.nr_pages() {
            Ok(Self {
                range,
                pages,
                sparse: None,
            })
        } else {
            Err(MemMapError::WrongLength)
        }
    }

    /// Lays fresh descriptors ([`Page::new`]) of `range` into `storage`. O(n) in frames: it is filled with zeros.
    ///
    /// # Safety
    /// 1. `storage` is valid for writes of [`MemMap::layout`]`(range)` and aligned to it.
    /// 2. Nobody else uses that memory from now on, ever.
    #[must_use]
    pub unsafe fn new_in(range: PfnRange, storage: NonNull<u8>) -> Self {
        // SAFETY: obligations 1 and 2: room for so many, ours alone.
        unsafe { fill_fresh(storage.cast(), range.nr_pages()) };
        // SAFETY: obligations 1 and 2; written just now.
        unsafe { Self::over(range, storage) }
    }

    /// As [`MemMap::new_in`], in memory that is zero already. O(1): none of it is touched, so memory that its host commits
    /// on the first use (a hypervisor's, a test machine's) stays uncommitted.
    ///
    /// # Safety
    /// 1. `storage` is valid for reads and writes of [`MemMap::layout`]`(range)` and aligned to it.
    /// 2. Nobody else uses that memory from now on, ever.
    /// 3. Each of its bytes is 0.
    #[must_use]
    pub unsafe fn new_zeroed_in(range: PfnRange, storage: NonNull<u8>) -> Self {
        #[cfg(loom)]
        // SAFETY: obligations 1 and 2: room for so many, ours alone. Loom's atomics are not integers.
        unsafe {
            fill_fresh(storage.cast(), range.nr_pages());
        }
        // SAFETY: obligations 1 and 2; by obligation 3 it is made of fresh descriptors.
        unsafe { Self::over(range, storage) }
    }

    /// A map of what is there.
    ///
    /// # Safety
    /// `storage` is an array of a descriptor for each frame, whose memory is given away for ever.
    unsafe fn over(range: PfnRange, storage: NonNull<u8>) -> Self {
        let first = storage.cast::<Page>().as_ptr();
        // SAFETY: the caller's promise.
        let pages = unsafe { core::slice::from_raw_parts(first, range.nr_pages()) };
        Self {
            range,
            pages,
            sparse: None,
        }
    }

    /// The map of the sections of `sparse`, those that will come included.
    #[must_use]
    pub const fn sparse(sparse: &'static SparseMap) -> Self {
        Self {
            range: sparse.span(),
            pages: &[],
            sparse: Some(sparse),
        }
    }

    /// Marks the frames of `range` as not for the allocator: firmware, the kernel's image, boot allocations, holes. Frames
    /// without descriptor do not count. Linux: `reserve_bootmem_region`, `SetPageReserved`.
    ///
    /// # Context
    /// At boot, or by the owner of the frames: nobody else changes their flags meanwhile.
    pub fn reserve(&self, range: PfnRange) {
        for described in self.described() {
            for pfn in range.intersect(described).iter() {
                self.page(pfn).reserve();
            }
        }
    }

    /// Marks all frames as not for the allocator but those of `free`, which are in order: what memblock hands over.
    ///
    /// # Context
    /// As [`MemMap::reserve`].
    ///
    /// # Examples
    /// ```
    /// use kmm_frame::memblock::Memblock;
    /// use kmm_frame::{MemMap, Page, Pfn, PhysAddr};
    ///
    /// let mut memory = Memblock::new();
    /// memory.add(PhysAddr::new(0x1000), 0x2000)?;
    /// memory.add(PhysAddr::new(0x6000), 0x1000)?;
    /// static PAGES: [Page; 6] = [const { Page::new() }; 6];
    /// let map = MemMap::new(memory.spanned(), &PAGES)?;
    /// map.reserve_all_but(memory.free_ranges());
    /// assert!(map.page(Pfn::new(3)).is_reserved() && !map.page(Pfn::new(6)).is_reserved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_all_but(&self, free: impl IntoIterator<Item = PfnRange>) {
        let mut start = self.range.start();
        for range in free {
            self.reserve(PfnRange::new(start, range.start()));
            start = start.max(range.end());
        }
        self.reserve(PfnRange::new(start, self.range.end()));
    }

    /// The frames that may have descriptors: all of them do in a flat map, see [`MemMap::described`] for a sparse one.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// All descriptors, those of [`MemMap::range`] one after the other; `None` of a sparse map.
    #[must_use]
    pub const fn flat(&self) -> Option<&'static [Page]> {
        match self.sparse {
            None => Some(self.pages),
            Some(_) => None,
        }
    }

    /// The frames that have descriptors now, as runs, lowest first.
    pub fn described(&self) -> impl Iterator<Item = PfnRange> {
        let flat = self.sparse.is_none().then_some(self.range);
        let mut sections = self.sparse.map(SparseMap::sections).into_iter().flatten();
        let mut next = None;
        let runs = core::iter::from_fn(move || {
            let mut run = next.take().or_else(|| sections.next())?.range();
            for section in sections.by_ref() {
                if section.range().start() != run.end() {
                    next = Some(section);
                    break;
                }
                run = PfnRange::new(run.start(), section.range().end());
            }
            Some(run)
        });
        flat.into_iter().chain(runs)
    }

    /// The descriptor of `pfn`, if it has one. Linux: `pfn_to_online_page`.
    #[must_use]
    #[inline]
    pub fn get(&self, pfn: Pfn) -> Option<&'static Page> {
        let offset = pfn.index().wrapping_sub(self.range.start().index());
        match self.pages.get(offset) {
            Some(page) => Some(page),
            None => self.get_sparse(pfn),
        }
    }

    /// The descriptor of `pfn`. Linux: `pfn_to_page`.
    ///
    /// # Panics
    /// When the frame has none.
    #[must_use]
    #[inline]
    #[track_caller]
    pub fn page(&self, pfn: Pfn) -> &'static Page {
        let offset = pfn.index().wrapping_sub(self.range.start().index());
        match self.pages.get(offset) {
            Some(page) => page,
            None => self.page_sparse(pfn),
        }
    }

    /// Whether the frame has a descriptor. Linux: `pfn_valid`.
    #[must_use]
    pub fn is_valid(&self, pfn: Pfn) -> bool {
        self.get(pfn).is_some()
    }

    /// The frame of a descriptor of this map; `None` for any other. Linux: `page_to_pfn`.
    #[must_use]
    pub fn pfn(&self, page: &Page) -> Option<Pfn> {
        if let Some(sparse) = self.sparse {
            return sparse.pfn(page);
        }
        let offset = core::ptr::from_ref(page)
            .addr()
            .checked_sub(self.pages.as_ptr().addr())?;
        let index = offset / size_of::<Page>();
        (index < self.pages.len()).then(|| self.range.start() + index)
    }

    /// Bytes that the descriptors take.
    #[must_use]
    pub fn overhead_bytes(&self) -> usize {
        self.overhead().map_bytes
    }

    /// What the descriptors cost, of how much memory. Of a sparse map, only sections that exist count.
    #[must_use]
    pub fn overhead(&self) -> Overhead {
        match self.sparse {
            Some(sparse) => sparse.overhead(),
            None => Overhead {
                map_bytes: size_of_val(self.pages),
                nr_pages: self.pages.len(),
            },
        }
    }

    /// Out of line, so that the lookup of a flat map stays small wherever it is inlined.
    #[inline(never)]
    fn get_sparse(&self, pfn: Pfn) -> Option<&'static Page> {
        self.sparse?.get(pfn)
    }

    #[inline(never)]
    #[track_caller]
    fn page_sparse(&self, pfn: Pfn) -> &'static Page {
        match self.get_sparse(pfn) {
            Some(page) => page,
            None => panic!("frame {pfn} has no descriptor: {:?}", self.range),
        }
    }
}

/// Lays `count` fresh descriptors.
///
/// # Safety
/// `first` is valid for writes of so many, aligned, and nobody else's.
unsafe fn fill_fresh(first: NonNull<Page>, count: usize) {
    // SAFETY: by the caller; a `Page` is made of integers, and fresh when they are 0.
    #[cfg(not(loom))]
    unsafe {
        first.write_bytes(0, count);
    }
    #[cfg(loom)]
    for nr in 0..count {
        // SAFETY: within the array.
        let slot = unsafe { first.add(nr) };
        // SAFETY: by the caller.
        unsafe { slot.write(Page::new()) };
    }
}

impl fmt::Debug for MemMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemMap")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

//! The array of descriptors. Linux: `mem_map` (flat memory model).
#![expect(
    unsafe_code,
    reason = "descriptors are laid into memory that the host hands over"
)]

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use crate::size::PAGE_SIZE;
use crate::{Page, Pfn, PfnRange};

/// One [`Page`] for each frame of a range, found in O(1). Flat: holes have descriptors too, which the
/// host marks with [`MemMap::reserve`].
#[derive(Clone, Copy)]
pub struct MemMap {
    range: PfnRange,
    pages: &'static [Page],
}

/// Why a [`MemMap`] was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemMapError {
    /// There are more or fewer descriptors than frames.
    WrongLength,
}

impl fmt::Display for MemMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongLength => f.write_str("number of descriptors differs from number of frames"),
        }
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
            Ok(Self { range, pages })
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
        let first = storage.cast::<Page>();
        // SAFETY: obligations 1 and 2: the array whose layout was promised, ours alone.
        unsafe { first.write_bytes(0, range.nr_pages()) };
        // SAFETY: 1 and 2 are the caller's; it is zero since just now.
        unsafe { Self::new_zeroed_in(range, storage) }
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
        let first = storage.cast::<Page>().as_ptr();
        // SAFETY: obligations 1 and 3: a `Page` is made of integers, for which zero is a value; obligation 2 gives the
        // memory away for ever.
        let pages = unsafe { core::slice::from_raw_parts(first, range.nr_pages()) };
        Self { range, pages }
    }

    /// Marks the frames of `range` as not for the allocator: firmware, the kernel's image, boot allocations, holes. Frames
    /// without descriptor do not count. Linux: `reserve_bootmem_region`, `SetPageReserved`.
    ///
    /// # Context
    /// At boot, or by the owner of the frames: nobody else changes their flags meanwhile.
    pub fn reserve(&self, range: PfnRange) {
        for pfn in range.intersect(self.range).iter() {
            self.page(pfn).reserve();
        }
    }

    /// The frames that have descriptors.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// The descriptor of `pfn`, if it has one. Linux: `pfn_valid` and `pfn_to_page`.
    #[must_use]
    pub fn get(&self, pfn: Pfn) -> Option<&'static Page> {
        self.pages
            .get(pfn.index().checked_sub(self.range.start().index())?)
    }

    /// The descriptor of `pfn`. Linux: `pfn_to_page`.
    ///
    /// # Panics
    /// When the frame has none.
    #[must_use]
    #[track_caller]
    pub fn page(&self, pfn: Pfn) -> &'static Page {
        match self.get(pfn) {
            Some(page) => page,
            None => panic!("frame {pfn} has no descriptor: {:?}", self.range),
        }
    }

    /// The frame of a descriptor of this map; `None` for any other. Linux: `page_to_pfn`.
    #[must_use]
    pub fn pfn(&self, page: &Page) -> Option<Pfn> {
        let offset = core::ptr::from_ref(page)
            .addr()
            .checked_sub(self.pages.as_ptr().addr())?;
        let index = offset / size_of::<Page>();
        (index < self.pages.len()).then(|| self.range.start() + index)
    }

    /// Bytes that the descriptors take.
    #[must_use]
    pub const fn overhead_bytes(&self) -> usize {
        size_of_val(self.pages)
    }

    /// What the descriptors cost, of how much memory.
    #[must_use]
    pub const fn overhead(&self) -> Overhead {
        Overhead {
            map_bytes: self.overhead_bytes(),
            nr_pages: self.pages.len(),
        }
    }
}

/// What descriptors cost. `Display` is one line, as for the boot log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overhead {
    /// Bytes of descriptors.
    pub map_bytes: usize,
    /// Frames described, holes included.
    pub nr_pages: usize,
}

impl Overhead {
    /// The share of the memory, in hundredths of a percent, rounded down: 156 for 64 bytes in 4096.
    #[must_use]
    pub const fn basis_points(&self) -> usize {
        if self.nr_pages == 0 {
            return 0;
        }
        let bytes_per_page = self.map_bytes / self.nr_pages;
        bytes_per_page * 10_000 / PAGE_SIZE
    }
}

impl fmt::Display for Overhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kib, share) = (self.map_bytes / 1024, self.basis_points());
        write!(
            f,
            "{kib} KiB of descriptors for {} frames, {}.{:02} % of them",
            self.nr_pages,
            share / 100,
            share % 100
        )
    }
}

impl fmt::Debug for MemMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemMap")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

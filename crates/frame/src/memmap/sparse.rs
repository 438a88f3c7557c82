//! Descriptors by section, for memory with large holes and memory that comes and goes.
//! Linux: `CONFIG_SPARSEMEM_VMEMMAP`, mm/sparse.c, mm/sparse-vmemmap.c.
//!
//! The descriptors form one array in virtual addresses, as if there were no holes; only the sections that exist have
//! memory behind their part of it. So frame and descriptor find each other by one addition, and a bit for each section
//! says whether the part may be touched.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::size::PAGE_SHIFT;
use crate::{MemMapError, Overhead, Page, Pfn, PfnRange};

/// Bits of a physical address that select a byte within a [`Section`]: 128 MiB. Linux: `SECTION_SIZE_BITS`.
pub const SECTION_SIZE_BITS: u32 = 27;
/// Frames in a [`Section`]; their descriptors are 2 MiB. Linux: `PAGES_PER_SECTION`.
pub const PAGES_PER_SECTION: usize = 1 << (SECTION_SIZE_BITS - PAGE_SHIFT);

const WORD_BITS: usize = 64;

/// The unit in which memory gets descriptors, comes and goes: 128 MiB, numbered from address 0. Linux: `struct mem_section`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Section(usize);

impl Section {
    /// The section with this number.
    #[must_use]
    pub const fn new(number: usize) -> Self {
        Self(number)
    }

    /// The section of a frame. Linux: `pfn_to_section_nr`.
    #[must_use]
    pub const fn of(pfn: Pfn) -> Self {
        Self(pfn.index() / PAGES_PER_SECTION)
    }

    /// The number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }

    /// The frames; none when there is no such section in the address space.
    #[must_use]
    pub const fn range(self) -> PfnRange {
        match self.0.checked_mul(PAGES_PER_SECTION) {
            Some(start) => PfnRange::with_len(Pfn::new(start), PAGES_PER_SECTION),
            None => PfnRange::EMPTY,
        }
    }
}

/// The table of the sections that exist, and where their descriptors lie.
///
/// Made once, with no section; then [`SparseMap::add_section`] for each that there is. [`crate::MemMap::sparse`] makes a map of it.
pub struct SparseMap {
    /// Whole sections.
    span: PfnRange,
    /// The descriptor of the first frame of `span`. Backed by memory where a section is present.
    first: NonNull<Page>,
    /// A bit for each section of `span`.
    present: &'static [AtomicU64],
}

// SAFETY: what is behind the pointer are descriptors, which are shared freely; it is read only where a section is present.
unsafe impl Send for SparseMap {}
// SAFETY: as above.
unsafe impl Sync for SparseMap {}

impl SparseMap {
    /// The whole sections that `span` touches.
    #[must_use]
    pub const fn sections_around(span: PfnRange) -> PfnRange {
        let (start, end) = (span.start().index(), span.end().index());
        if start == end {
            return PfnRange::EMPTY;
        }
        let first = start / PAGES_PER_SECTION * PAGES_PER_SECTION;
        match end.checked_next_multiple_of(PAGES_PER_SECTION) {
            Some(end) => PfnRange::new(Pfn::new(first), Pfn::new(end)),
            None => PfnRange::EMPTY,
        }
    }

    /// How much address space the descriptors of all sections of `span` would take: 16 GiB for 1 TiB. `None` when that is
    /// more than there is.
    #[must_use]
    pub fn layout(span: PfnRange) -> Option<Layout> {
        let whole = Self::sections_around(span);
        if whole.is_empty() && !span.is_empty() {
            return None;
        }
        Layout::array::<Page>(whole.nr_pages()).ok()
    }

    /// How many words the table of `span` wants: 128 for 1 TiB.
    #[must_use]
    pub const fn table_words(span: PfnRange) -> usize {
        let nr_sections = Self::sections_around(span).nr_pages() / PAGES_PER_SECTION;
        nr_sections.div_ceil(WORD_BITS)
    }

    /// A table for the sections that `span` touches, none of them present.
    ///
    /// # Errors
    /// [`MemMapError::WrongLength`] when `table` has fewer words than [`SparseMap::table_words`];
    /// [`MemMapError::OutsideMap`] when [`SparseMap::layout`] is `None`.
    ///
    /// # Safety
    /// 1. `storage` is the start of [`SparseMap::layout`]`(span)` of address space, aligned to it. There need be no memory
    ///    behind it yet.
    /// 2. Nobody else uses that address space from now on, ever.
    pub unsafe fn new(
        span: PfnRange,
        storage: NonNull<u8>,
        table: &'static [AtomicU64],
    ) -> Result<Self, MemMapError> {
        if Self::layout(span).is_none() {
            return Err(MemMapError::OutsideMap);
        }
        let present = table
            .get(..Self::table_words(span))
            .ok_or(MemMapError::WrongLength)?;
        for word in present {
            word.store(0, Ordering::Relaxed);
        }
        Ok(Self {
            span: Self::sections_around(span),
            first: storage.cast(),
            present,
        })
    }

    /// Gives the frames of a section descriptors, all fresh. Linux: `sparse_add_section`.
    ///
    /// # Errors
    /// [`MemMapError::OutsideMap`] when the map has no room for it, [`MemMapError::SectionExists`] when it is present;
    /// nothing has changed then.
    ///
    /// # Safety
    /// 1. There is memory behind the part of the address space that the section's descriptors take
    ///    ([`SparseMap::storage_of`]), for as long as the section is present.
    /// 2. Nobody else adds or removes a section meanwhile.
    pub unsafe fn add_section(&self, section: Section) -> Result<(), MemMapError> {
        let storage = self.room_for(section)?;
        // SAFETY: obligation 1; nobody reads descriptors of a section that is not present.
        unsafe { storage.cast::<Page>().write_bytes(0, PAGES_PER_SECTION) };
        self.mark(section);
        Ok(())
    }

    /// As [`SparseMap::add_section`], where the memory is zero already: none of it is touched.
    ///
    /// # Errors
    /// As [`SparseMap::add_section`].
    ///
    /// # Safety
    /// 1. and 2. as for [`SparseMap::add_section`].
    /// 3. Each byte of that memory is 0.
    pub unsafe fn add_zeroed_section(&self, section: Section) -> Result<(), MemMapError> {
        self.room_for(section)?;
        self.mark(section);
        Ok(())
    }

    /// Takes the descriptors of a section away; then there need no longer be memory behind them.
    /// Linux: `sparse_remove_section`.
    ///
    /// # Errors
    /// [`MemMapError::NoSection`] when it is not present.
    ///
    /// # Safety
    /// 1. Nobody holds a reference to one of its descriptors, nor is looking one up.
    /// 2. Nobody else adds or removes a section meanwhile.
    pub unsafe fn remove_section(&self, section: Section) -> Result<(), MemMapError> {
        if !self.has_section(section) {
            return Err(MemMapError::NoSection);
        }
        let (word, bit) = self.place(section).ok_or(MemMapError::NoSection)?;
        word.fetch_and(!bit, Ordering::AcqRel);
        Ok(())
    }

    /// Where the descriptors of a section lie, present or not: [`PAGES_PER_SECTION`] of them; `None` for a section that the
    /// map has no room for.
    #[must_use]
    pub fn storage_of(&self, section: Section) -> Option<NonNull<u8>> {
        self.place(section)?;
        let offset = section.range().start() - self.span.start();
        // The address space is reserved, but there may be nothing behind it: hence no pointer arithmetic within an object.
        let addr = self.first.addr().checked_add(offset * size_of::<Page>())?;
        Some(self.first.with_addr(addr).cast())
    }

    /// Whether the frames of a section have descriptors. Linux: `valid_section`.
    #[must_use]
    #[inline]
    pub fn has_section(&self, section: Section) -> bool {
        self.place(section)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// The sections that are present, lowest first.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        let first = Section::of(self.span.start()).index();
        let nr_sections = self.span.nr_pages() / PAGES_PER_SECTION;
        let all = (first..first + nr_sections).map(Section);
        all.filter(|&section| self.has_section(section))
    }

    /// The sections that there is room for.
    #[must_use]
    pub const fn span(&self) -> PfnRange {
        self.span
    }

    /// What the descriptors of the sections that are present cost.
    pub(super) fn overhead(&self) -> Overhead {
        let nr_pages = self.sections().count() * PAGES_PER_SECTION;
        Overhead {
            map_bytes: nr_pages * size_of::<Page>(),
            nr_pages,
        }
    }

    pub(super) fn get(&self, pfn: Pfn) -> Option<&'static Page> {
        if !self.has_section(Section::of(pfn)) {
            return None;
        }
        let offset = pfn - self.span.start();
        // SAFETY: the frame is in a section that is present, so the whole array up to there lies in the address space.
        let page = unsafe { self.first.add(offset) };
        // SAFETY: the section is present: there is memory behind it, zeroed when it came, and only removed when nobody
        // looks any more.
        Some(unsafe { page.as_ref() })
    }

    pub(super) fn pfn(&self, page: &Page) -> Option<Pfn> {
        let addr = core::ptr::from_ref(page).addr();
        let offset = addr.checked_sub(self.first.addr().get())? / size_of::<Page>();
        let pfn = self.span.start().checked_add(offset)?;
        self.has_section(Section::of(pfn)).then_some(pfn)
    }

    /// The word and the bit of a section that the map has room for.
    #[inline]
    fn place(&self, section: Section) -> Option<(&AtomicU64, u64)> {
        let first = Section::of(self.span.start()).index();
        let offset = section.index().checked_sub(first)?;
        if offset >= self.span.nr_pages() / PAGES_PER_SECTION {
            return None;
        }
        let word = self.present.get(offset / WORD_BITS)?;
        Some((word, 1 << (offset % WORD_BITS)))
    }

    fn room_for(&self, section: Section) -> Result<NonNull<u8>, MemMapError> {
        let storage = self.storage_of(section).ok_or(MemMapError::OutsideMap)?;
        if self.has_section(section) {
            return Err(MemMapError::SectionExists);
        }
        Ok(storage)
    }

    fn mark(&self, section: Section) {
        if let Some((word, bit)) = self.place(section) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for SparseMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SparseMap")
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}

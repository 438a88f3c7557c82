//! Pages of files and of processes.

use super::{PageUse, View, WrongView, view};
use crate::{Page, PageFlags};

/// A slot of a swap area, as the swap areas number them. Linux: `swp_entry_t`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SwapEntry(u64);

impl SwapEntry {
    /// The entry with this value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

const ANON: PageFlags = PageFlags::ANON.union(PageFlags::SWAPBACKED);

view! {
    /// A page of a file: `mapping` is the address space, `index` the offset in pages. Fits a page with buffers as well.
    PageCacheView: PageFlags::FILE, PageFlags::PRIVATE
}

view! {
    /// A page of a file whose blocks on the disk are noted: `private` is the first buffer. Linux: `page_buffers`.
    BufferView: PageFlags::FILE.union(PageFlags::PRIVATE), PageFlags::empty()
}

view! {
    /// An anonymous page: `mapping` is the `anon_vma`, `index` the offset in pages. Fits a page of the swap cache as well.
    AnonView: ANON, PageFlags::SWAPCACHE
}

view! {
    /// An anonymous page of the swap cache: `private` is the swap entry.
    SwappedView: ANON.union(PageFlags::SWAPCACHE), PageFlags::empty()
}

impl<'p> View<'p> for PageCacheView<'p> {
    const USE: PageUse = PageUse::PageCache;

    fn fits(usage: PageUse) -> bool {
        matches!(usage, PageUse::PageCache | PageUse::Buffers)
    }
}

impl<'p> View<'p> for BufferView<'p> {
    const USE: PageUse = PageUse::Buffers;
}

impl<'p> View<'p> for AnonView<'p> {
    const USE: PageUse = PageUse::Anon;

    fn fits(usage: PageUse) -> bool {
        matches!(usage, PageUse::Anon | PageUse::Swapped)
    }
}

impl<'p> View<'p> for SwappedView<'p> {
    const USE: PageUse = PageUse::Swapped;
}

impl<'p> PageCacheView<'p> {
    /// Makes the page one of a file. Linux: `filemap_add_folio`, as far as the descriptor goes.
    ///
    /// # Errors
    /// [`WrongView`] when it has another use.
    pub fn claim(page: &'p Page, mapping: u64, index: u64) -> Result<Self, WrongView> {
        let view: Self = page.claim()?;
        page.set_mapping(mapping);
        page.set_index(index);
        Ok(view)
    }

    /// The file's address space.
    #[must_use]
    pub fn mapping(self) -> u64 {
        self.0.mapping()
    }

    /// The place in the file, in pages.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0.index()
    }

    /// Notes the first buffer. Linux: `attach_page_private`.
    pub fn attach_buffers(self, head: u64) -> BufferView<'p> {
        self.0.set_private(head);
        self.0.set_has_private();
        BufferView(self.0)
    }
}

impl<'p> BufferView<'p> {
    /// The first buffer.
    #[must_use]
    pub fn head(self) -> u64 {
        self.0.private()
    }

    /// Forgets the buffers; the first of them. Linux: `detach_page_private`.
    pub fn detach(self) -> u64 {
        let head = self.head();
        self.0.clear_has_private();
        self.0.set_private(0);
        head
    }

    /// The page as one of a file.
    #[must_use]
    pub const fn page_cache(self) -> PageCacheView<'p> {
        PageCacheView(self.0)
    }
}

impl<'p> AnonView<'p> {
    /// Makes the page an anonymous one. Linux: `page_add_new_anon_rmap`, as far as the descriptor goes.
    ///
    /// # Errors
    /// [`WrongView`] when it has another use.
    pub fn claim(page: &'p Page, anon_vma: u64, index: u64) -> Result<Self, WrongView> {
        let view: Self = page.claim()?;
        page.set_mapping(anon_vma);
        page.set_index(index);
        Ok(view)
    }

    /// Where it is mapped from.
    #[must_use]
    pub fn anon_vma(self) -> u64 {
        self.0.mapping()
    }

    /// The place there, in pages.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0.index()
    }

    /// Gives the page a slot in the swap area. Linux: `add_to_swap_cache`, as far as the descriptor goes.
    pub fn add_to_swap_cache(self, entry: SwapEntry) -> SwappedView<'p> {
        self.0.set_private(entry.get());
        self.0.set_swap_cache();
        SwappedView(self.0)
    }
}

impl<'p> SwappedView<'p> {
    /// The slot.
    #[must_use]
    pub fn entry(self) -> SwapEntry {
        SwapEntry(self.0.private())
    }

    /// Takes the slot away; which it was. Linux: `delete_from_swap_cache`, as far as the descriptor goes.
    pub fn remove_from_swap_cache(self) -> SwapEntry {
        let entry = self.entry();
        self.0.clear_swap_cache();
        self.0.set_private(0);
        entry
    }

    /// The page as an anonymous one.
    #[must_use]
    pub const fn anon(self) -> AnonView<'p> {
        AnonView(self.0)
    }
}

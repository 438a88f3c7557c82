//! What the fields of a descriptor mean to its owner. Linux: the unions of `struct page`.
//!
//! | use | flags | `mapping` | `index` | `private` | `lru` | owner word |
//! |---|---|---|---|---|---|---|
//! | free, in lists | `BUDDY` | | | order | list | |
//! | page cache | `FILE` | address space | offset in pages | | LRU | |
//! | with buffers | and `PRIVATE` | the same | the same | first buffer | LRU | |
//! | anonymous | `ANON`, `SWAPBACKED` | `anon_vma` | offset in pages | | LRU | |
//! | in the swap cache | and `SWAPCACHE` | the same | the same | swap entry | LRU | |
//! | slab | `SLAB` | cache | | counters | slabs | free list |
//! | page table | `TABLE` | | | entries in use | tables to free | |
//! | vmalloc | `VMALLOC` | | | | | |
//! | kernel | none | | | the holder's | | the holder's |
//!
//! [`Page::view`] tells what a page is, as a value. A typed view ([`AnonView`] and its like) reads and changes the fields
//! under the names that they have then; [`Page::try_view`] refuses the wrong one, [`Page::as_view`] is for who knows, and is
//! checked in debug builds. A use begins with the view's `claim`, on a page that has none, and ends with [`View::release`].

use core::fmt;

use crate::{Order, Page, PageFlags};

mod cache;
mod kernel;

pub use cache::{AnonView, BufferView, PageCacheView, SwapEntry, SwappedView};
pub use kernel::{FreeView, SlabView, TableView};

/// What a page is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PageUse {
    /// By whoever allocated it, or by nobody: only its holder knows.
    Kernel,
    /// Never the allocator's.
    Reserved,
    /// First page of a free block, in an allocator that says so in the descriptor.
    Free,
    /// Objects of a cache.
    Slab,
    /// A page table.
    Table,
    /// An area of vmalloc.
    Vmalloc,
    /// Memory of processes, of no file.
    Anon,
    /// The same, with a slot in the swap area.
    Swapped,
    /// Contents of a file.
    PageCache,
    /// The same, with the blocks of the disk noted.
    Buffers,
}

/// A page's use, with the fields that mean something in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PageView {
    /// Only its holder knows.
    Kernel {
        /// The holder's word.
        private: u64,
    },
    /// Never the allocator's.
    Reserved,
    /// First page of a free block.
    Free {
        /// The size of the block.
        order: Order,
    },
    /// Objects of a cache.
    Slab {
        /// The cache.
        cache: u64,
    },
    /// A page table.
    Table {
        /// Entries in use.
        nr_entries: u64,
    },
    /// An area of vmalloc.
    Vmalloc,
    /// Memory of processes, of no file.
    Anon {
        /// Where it is mapped from.
        anon_vma: u64,
        /// The place there, in pages.
        index: u64,
    },
    /// The same, with a slot in the swap area.
    Swapped {
        /// The slot.
        entry: SwapEntry,
        /// Where it is mapped from.
        anon_vma: u64,
        /// The place there, in pages.
        index: u64,
    },
    /// Contents of a file.
    PageCache {
        /// The file's address space.
        mapping: u64,
        /// The place in the file, in pages.
        index: u64,
    },
    /// The same, with the blocks of the disk noted.
    Buffers {
        /// The first buffer.
        head: u64,
        /// The file's address space.
        mapping: u64,
        /// The place in the file, in pages.
        index: u64,
    },
}

/// A page is not used in the way that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongView {
    /// What was asked for.
    pub wanted: PageUse,
    /// What it is.
    pub found: PageUse,
}

impl fmt::Display for WrongView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page is used as {:?}, not {:?}", self.found, self.wanted)
    }
}

impl core::error::Error for WrongView {}

/// The fields of a page under the names of one use. Implemented by the views of this crate alone.
pub trait View<'p>: Sized + sealed::Sealed<'p> {
    /// The use.
    const USE: PageUse;

    /// Whether the view fits a page of this use as well.
    #[must_use]
    fn fits(usage: PageUse) -> bool {
        usage == Self::USE
    }

    /// The page.
    #[must_use]
    fn page(&self) -> &'p Page {
        self.inner()
    }

    /// Ends the use: its flags and fields are gone, the page is its holder's.
    fn release(self) {
        let page = self.inner();
        page.set_mapping(0);
        page.set_index(0);
        page.set_private(0);
        page.set_owner_word(0);
        page.clear(Self::FLAGS | Self::MORE);
    }
}

/// What a view is made of; keeps others from implementing it.
mod sealed {
    use crate::{Page, PageFlags};

    #[expect(unnameable_types, reason = "a sealed trait: to be used through `View`")]
    pub trait Sealed<'p>: Copy {
        /// What says that a page is used so.
        const FLAGS: PageFlags;
        /// What may come on top.
        const MORE: PageFlags;
        fn over(page: &'p Page) -> Self;
        fn inner(self) -> &'p Page;
    }
}

/// A view, by the flags that make a page fit, and those that may come on top.
macro_rules! view {
    ($(#[$doc:meta])* $name:ident: $flags:expr, $more:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'p>(&'p Page);

        impl<'p> super::sealed::Sealed<'p> for $name<'p> {
            const FLAGS: PageFlags = $flags;
            const MORE: PageFlags = $more;

            fn over(page: &'p Page) -> Self {
                Self(page)
            }

            fn inner(self) -> &'p Page {
                self.0
            }
        }
    };
}
use view;

impl Page {
    /// What the page is used for, by its flags.
    #[must_use]
    pub fn usage(&self) -> PageUse {
        let flags = self.flags();
        let uses = [
            (PageFlags::RESERVED, PageUse::Reserved),
            (PageFlags::BUDDY, PageUse::Free),
            (PageFlags::SLAB, PageUse::Slab),
            (PageFlags::TABLE, PageUse::Table),
            (PageFlags::VMALLOC, PageUse::Vmalloc),
            (
                PageFlags::ANON.union(PageFlags::SWAPCACHE),
                PageUse::Swapped,
            ),
            (PageFlags::ANON, PageUse::Anon),
            (PageFlags::FILE.union(PageFlags::PRIVATE), PageUse::Buffers),
            (PageFlags::FILE, PageUse::PageCache),
        ];
        let used = uses.iter().find(|(mark, _)| flags.contains(*mark));
        used.map_or(PageUse::Kernel, |(_, usage)| *usage)
    }

    /// What the page is used for, and what its fields say then. As it is at this moment: who holds nothing of the page may
    /// see it change.
    #[must_use]
    pub fn view(&self) -> PageView {
        match self.usage() {
            PageUse::Kernel => PageView::Kernel {
                private: self.private(),
            },
            PageUse::Reserved => PageView::Reserved,
            PageUse::Free => PageView::Free {
                order: kernel::order_in(self.private()),
            },
            PageUse::Slab => PageView::Slab {
                cache: self.mapping(),
            },
            PageUse::Table => PageView::Table {
                nr_entries: self.private(),
            },
            PageUse::Vmalloc => PageView::Vmalloc,
            PageUse::Anon => PageView::Anon {
                anon_vma: self.mapping(),
                index: self.index(),
            },
            PageUse::Swapped => PageView::Swapped {
                entry: SwapEntry::new(self.private()),
                anon_vma: self.mapping(),
                index: self.index(),
            },
            PageUse::PageCache => PageView::PageCache {
                mapping: self.mapping(),
                index: self.index(),
            },
            PageUse::Buffers => PageView::Buffers {
                head: self.private(),
                mapping: self.mapping(),
                index: self.index(),
            },
        }
    }

    /// The fields under the names of one use.
    ///
    /// # Errors
    /// [`WrongView`] when the page is used otherwise.
    pub fn try_view<'p, V: View<'p>>(&'p self) -> Result<V, WrongView> {
        let found = self.usage();
        if V::fits(found) {
            Ok(V::over(self))
        } else {
            Err(WrongView {
                wanted: V::USE,
                found,
            })
        }
    }

    /// The fields under the names of one use, for who knows that it is so: free of cost in release builds.
    ///
    /// # Panics
    /// In debug builds, when the page is used otherwise.
    #[must_use]
    #[track_caller]
    pub fn as_view<'p, V: View<'p>>(&'p self) -> V {
        if cfg!(debug_assertions) {
            match self.try_view() {
                Ok(view) => view,
                Err(wrong) => panic!("{wrong}"),
            }
        } else {
            V::over(self)
        }
    }

    /// Begins a use of a page that has none.
    fn claim<'p, V: View<'p>>(&'p self) -> Result<V, WrongView> {
        let found = self.usage();
        if found != PageUse::Kernel {
            return Err(WrongView {
                wanted: V::USE,
                found,
            });
        }
        self.set(V::FLAGS);
        Ok(V::over(self))
    }
}

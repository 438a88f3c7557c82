//! Which lists there are, and what pages on them carry.

use kmm_frame::{Page, PageFlags};

/// A list of pages that can be reclaimed, or cannot. Linux: `enum lru_list`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum LruList {
    /// Anonymous pages that were not used lately.
    InactiveAnon = 0,
    /// Anonymous pages in use.
    ActiveAnon = 1,
    /// Pages of files that were not used lately.
    InactiveFile = 2,
    /// Pages of files in use.
    ActiveFile = 3,
    /// Pages that must stay, as those that a program has locked.
    Unevictable = 4,
}

impl LruList {
    /// How many lists there are. Linux: `NR_LRU_LISTS`.
    pub const COUNT: usize = 5;
    /// Every list.
    pub const ALL: [Self; Self::COUNT] = [
        Self::InactiveAnon,
        Self::ActiveAnon,
        Self::InactiveFile,
        Self::ActiveFile,
        Self::Unevictable,
    ];

    /// The list as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Where a page of this list goes when it is used; the unevictable stay. Linux: `folio_activate`.
    #[must_use]
    pub const fn activated(self) -> Self {
        match self {
            Self::InactiveAnon => Self::ActiveAnon,
            Self::InactiveFile => Self::ActiveFile,
            other => other,
        }
    }

    /// Where a page of this list goes when it is not used; the unevictable stay. Linux: `deactivate_page`.
    #[must_use]
    pub const fn deactivated(self) -> Self {
        match self {
            Self::ActiveAnon => Self::InactiveAnon,
            Self::ActiveFile => Self::InactiveFile,
            other => other,
        }
    }

    /// The list that a page with these flags is on, if on any. Linux: `folio_lru_list`.
    #[must_use]
    pub const fn of(flags: PageFlags) -> Option<Self> {
        let is_active = flags.contains(PageFlags::ACTIVE);
        if !flags.contains(PageFlags::LRU) {
            return None;
        }
        if flags.contains(PageFlags::UNEVICTABLE) {
            return if is_active {
                None
            } else {
                Some(Self::Unevictable)
            };
        }
        Some(match (flags.contains(PageFlags::SWAPBACKED), is_active) {
            (true, false) => Self::InactiveAnon,
            (true, true) => Self::ActiveAnon,
            (false, false) => Self::InactiveFile,
            (false, true) => Self::ActiveFile,
        })
    }

    /// Of the flags that belong to the lists, those that a page of this one carries.
    const fn flags(self) -> PageFlags {
        match self {
            Self::InactiveAnon => PageFlags::LRU.union(PageFlags::SWAPBACKED),
            Self::ActiveAnon => Self::InactiveAnon.flags().union(PageFlags::ACTIVE),
            Self::InactiveFile => PageFlags::LRU,
            Self::ActiveFile => PageFlags::LRU.union(PageFlags::ACTIVE),
            Self::Unevictable => PageFlags::LRU.union(PageFlags::UNEVICTABLE),
        }
    }

    /// Gives a page the flags of this list.
    pub(super) fn mark(self, page: &Page) {
        let kind = match self {
            Self::Unevictable => PageFlags::empty(),
            _ => PageFlags::SWAPBACKED,
        };
        page.clear((OWN_FLAGS | kind) - self.flags());
        page.set(self.flags());
    }
}

/// Flags that say that and how a page is on a list.
pub(super) const OWN_FLAGS: PageFlags = PageFlags::LRU
    .union(PageFlags::ACTIVE)
    .union(PageFlags::UNEVICTABLE);

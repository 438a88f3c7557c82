//! Page sizes, as constants for the base page and as types for all of them.

use core::fmt;

/// Bits of an address that select a byte within a page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// `addr & PAGE_MASK` is the start of the page of `addr`.
pub const PAGE_MASK: usize = !(PAGE_SIZE - 1);

/// Bytes in a page, as `getpagesize(2)` and `getconf PAGE_SIZE` tell it.
#[must_use]
pub const fn getpagesize() -> usize {
    PAGE_SIZE
}

/// Rounds up to a page; `None` when that wraps. Linux: `PAGE_ALIGN`.
#[must_use]
pub const fn page_align(size_bytes: usize) -> Option<usize> {
    match size_bytes.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(sum & PAGE_MASK),
        None => None,
    }
}

/// Rounds down to a page. Linux: `PAGE_ALIGN_DOWN`.
#[must_use]
pub const fn page_align_down(size_bytes: usize) -> usize {
    size_bytes & PAGE_MASK
}

/// A size of page that an entry of some level of the tables can map.
pub trait PageSize: Copy + Eq + Ord + fmt::Debug + 'static {
    /// Bits of an address that select a byte within such a page.
    const SHIFT: u32;
    /// Bytes in such a page.
    const SIZE_BYTES: u64 = 1 << Self::SHIFT;
    /// Base pages in such a page.
    const NR_PAGES: usize = 1 << (Self::SHIFT - PAGE_SHIFT);
    /// The name, as in "2MiB".
    const NAME: &'static str;
}

macro_rules! page_sizes {
    ($($(#[$doc:meta])* $name:ident $shift:literal $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name;

        impl PageSize for $name {
            const SHIFT: u32 = $shift;
            const NAME: &'static str = $text;
        }
    )*};
}

page_sizes! {
    /// A base page, mapped by an entry of the last level.
    Size4K 12 "4KiB";
    /// A huge page, mapped by a PMD entry.
    Size2M 21 "2MiB";
    /// A gigantic page, mapped by a PUD entry.
    Size1G 30 "1GiB";
    /// The huge page of 32-bit x86 without PAE; no table of this crate's 64-bit targets maps it.
    Size4M 22 "4MiB";
}

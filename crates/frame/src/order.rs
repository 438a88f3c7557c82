//! The size of a block of pages as a power of two.

use core::fmt;

use crate::size::PAGE_SIZE;

/// A block of `1 << order` pages; at most [`MAX_ORDER`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Order(u8);

/// The largest block that the buddy allocator keeps: 1024 pages, 4 MiB. Linux: `MAX_PAGE_ORDER` (inclusive).
pub const MAX_ORDER: Order = Order(10);

/// How many orders there are, 0 to [`MAX_ORDER`].
pub const NR_ORDERS: usize = MAX_ORDER.0 as usize + 1;

impl Order {
    /// One page.
    pub const ZERO: Self = Self(0);
    /// 512 pages, 2 MiB: a huge page of x86-64, and a pageblock. Linux: `pageblock_order`.
    pub const PAGEBLOCK: Self = Self(9);

    /// A block of `1 << order` pages, or `None` above [`MAX_ORDER`].
    #[must_use]
    pub const fn new(order: u8) -> Option<Self> {
        if order <= MAX_ORDER.0 {
            Some(Self(order))
        } else {
            None
        }
    }

    /// The smallest order whose block holds `size_bytes`, or `None` above [`MAX_ORDER`]. Linux: `get_order`.
    #[must_use]
    pub const fn for_size(size_bytes: usize) -> Option<Self> {
        Self::for_pages(size_bytes.div_ceil(PAGE_SIZE))
    }

    /// The smallest order whose block holds `nr_pages`, or `None` above [`MAX_ORDER`].
    #[must_use]
    pub const fn for_pages(nr_pages: usize) -> Option<Self> {
        if nr_pages > MAX_ORDER.nr_pages() {
            return None;
        }
        let mut order = Self::ZERO;
        while order.nr_pages() < nr_pages {
            order.0 += 1;
        }
        Some(order)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Pages in a block.
    #[must_use]
    pub const fn nr_pages(self) -> usize {
        1 << self.0
    }

    /// Bytes in a block.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        PAGE_SIZE << self.0
    }

    /// The next larger order, or `None` at [`MAX_ORDER`].
    #[must_use]
    pub const fn up(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The next smaller order, or `None` at 0.
    #[must_use]
    pub const fn down(self) -> Option<Self> {
        if self.0 == 0 {
            None
        } else {
            Some(Self(self.0 - 1))
        }
    }

    /// `self`, `self + 1`, … `end - 1`.
    pub fn up_to(self, end: Self) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (self.0..end.0).map(Self)
    }

    /// `self`, `self + 1`, … [`MAX_ORDER`].
    pub fn up_to_max(self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..=MAX_ORDER.0).map(Self)
    }

    /// Every order, from 0.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        Self::ZERO.up_to_max()
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({})", self.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

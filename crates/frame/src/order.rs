//! The size of a block of pages as a power of two.

use core::fmt;

use crate::size::PAGE_SIZE;

/// A block of `1 << order` pages; at most [`MAX_ORDER`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Order(Exponent);

/// What a byte may be that is an order. So the compiler knows it too: tables of orders need no check, and an `Option` of what
/// has an order in it is not larger than that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
enum Exponent {
    #[default]
    E0,
    E1,
    E2,
    E3,
    E4,
    E5,
    E6,
    E7,
    E8,
    E9,
    E10,
}

const _: () = assert!(size_of::<Option<Order>>() == 1);

/// The largest block that the buddy allocator keeps: 1024 pages, 4 MiB. Linux: `MAX_PAGE_ORDER` (inclusive).
pub const MAX_ORDER: Order = Order(Exponent::E10);

/// How many orders there are, 0 to [`MAX_ORDER`].
pub const NR_ORDERS: usize = MAX_ORDER.index() + 1;

impl Order {
    /// One page.
    pub const ZERO: Self = Self(Exponent::E0);
    /// The largest: [`MAX_ORDER`].
    pub const MAX: Self = MAX_ORDER;
    /// 512 pages, 2 MiB: a huge page of x86-64, and a pageblock. Linux: `pageblock_order`.
    pub const PAGEBLOCK: Self = Self(Exponent::E9);

    /// A block of `1 << order` pages, or `None` above [`MAX_ORDER`].
    #[must_use]
    #[inline]
    pub const fn new(order: u8) -> Option<Self> {
        if order <= MAX_ORDER.get() {
            Some(Self::at_most(order))
        } else {
            None
        }
    }

    /// This order, or the largest.
    #[inline(always)]
    const fn at_most(order: u8) -> Self {
        use Exponent::{E0, E1, E2, E3, E4, E5, E6, E7, E8, E9, E10};
        Self(match order {
            0 => E0,
            1 => E1,
            2 => E2,
            3 => E3,
            4 => E4,
            5 => E5,
            6 => E6,
            7 => E7,
            8 => E8,
            9 => E9,
            _ => E10,
        })
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
        let mut order = 0;
        while 1 << order < nr_pages {
            order += 1;
        }
        Self::new(order)
    }

    /// The number itself.
    #[must_use]
    #[inline]
    pub const fn get(self) -> u8 {
        self.0 as u8
    }

    /// The number as an index.
    #[must_use]
    #[doc(alias = "as_usize")]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Pages in a block.
    #[must_use]
    pub const fn nr_pages(self) -> usize {
        1 << self.get()
    }

    /// Bytes in a block.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        PAGE_SIZE << self.get()
    }

    /// The next larger order, or `None` at [`MAX_ORDER`].
    #[must_use]
    pub const fn up(self) -> Option<Self> {
        Self::new(self.get() + 1)
    }

    /// The next smaller order, or `None` at 0.
    #[must_use]
    pub const fn down(self) -> Option<Self> {
        match self.get().checked_sub(1) {
            Some(order) => Self::new(order),
            None => None,
        }
    }

    /// `self`, `self + 1`, … `end - 1`.
    pub fn up_to(self, end: Self) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (self.get()..end.get()).map(Self::at_most)
    }

    /// `self`, `self + 1`, … [`MAX_ORDER`].
    pub fn up_to_max(self) -> impl DoubleEndedIterator<Item = Self> {
        (self.get()..=MAX_ORDER.get()).map(Self::at_most)
    }

    /// Every order, from 0.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        Self::ZERO.up_to_max()
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({})", self.get())
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

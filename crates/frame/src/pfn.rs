//! Page frame numbers and ranges of them.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

use crate::size::PAGE_SHIFT;
use crate::{Order, PhysAddr};

/// A page frame number: a physical address divided by the page size.
///
/// A bare number: it can be forged and copied, and owns nothing. What owns frames is `kmm_host::PageBlock`.
///
/// Sums and differences are those of integers: past either end they panic where overflow is checked, as in debug builds, and
/// wrap elsewhere. For numbers from outside there is [`Pfn::checked_add`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(usize);

impl Pfn {
    /// Frame 0.
    pub const ZERO: Self = Self(0);
    /// The number after the last frame that x86-64 can have: physical addresses have 52 bits (SDM 3A 4.1.4).
    pub const END: Self = Self(1 << (52 - PAGE_SHIFT));

    /// The frame with this number.
    #[must_use]
    pub const fn new(index: usize) -> Self {
        Self(index)
    }

    /// The number.
    #[must_use]
    #[doc(alias = "as_usize")]
    pub const fn index(self) -> usize {
        self.0
    }

    /// The first byte of the frame, which is one below [`Pfn::END`]. Linux: `PFN_PHYS`.
    #[must_use]
    pub const fn phys(self) -> PhysAddr {
        PhysAddr::new((self.0 as u64) << PAGE_SHIFT)
    }

    /// The twin with which a block of `order` at `self` merges. Linux: `__find_buddy_pfn`, mm/internal.h.
    #[must_use]
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.nr_pages())
    }

    /// Whether a block of `order` may start here.
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.nr_pages() - 1) == 0
    }

    /// The start of the block of `order` that holds this frame.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.nr_pages() - 1))
    }

    /// The first start of a block of `order` at or above this frame; the largest number where there is none.
    #[must_use]
    pub const fn align_up(self, order: Order) -> Self {
        match self.0.checked_add(order.nr_pages() - 1) {
            Some(sum) => Self(sum & !(order.nr_pages() - 1)),
            None => Self(usize::MAX),
        }
    }

    /// `self + nr_pages`, or `None` when that wraps.
    #[must_use]
    pub const fn checked_add(self, nr_pages: usize) -> Option<Self> {
        match self.0.checked_add(nr_pages) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl Add<usize> for Pfn {
    type Output = Self;
    fn add(self, nr_pages: usize) -> Self {
        Self(self.0 + nr_pages)
    }
}

impl AddAssign<usize> for Pfn {
    fn add_assign(&mut self, nr_pages: usize) {
        self.0 += nr_pages;
    }
}

impl Sub<usize> for Pfn {
    type Output = Self;
    fn sub(self, nr_pages: usize) -> Self {
        Self(self.0 - nr_pages)
    }
}

impl Sub for Pfn {
    type Output = usize;
    fn sub(self, other: Self) -> usize {
        self.0 - other.0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({:#x})", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Frames `start..end`, `end` not included. Empty when `start == end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PfnRange {
    start: Pfn,
    end: Pfn,
}

impl PfnRange {
    /// No frame.
    pub const EMPTY: Self = Self {
        start: Pfn::ZERO,
        end: Pfn::ZERO,
    };

    /// The frames `start..end`; empty at `start` when `end` lies below it.
    #[must_use]
    pub const fn new(start: Pfn, end: Pfn) -> Self {
        if end.0 < start.0 {
            Self { start, end: start }
        } else {
            Self { start, end }
        }
    }

    /// `nr_pages` frames from `start`; cut at the largest frame number when that wraps.
    #[must_use]
    pub const fn with_len(start: Pfn, nr_pages: usize) -> Self {
        Self {
            start,
            end: Pfn(start.0.saturating_add(nr_pages)),
        }
    }

    /// The frames that lie wholly inside the bytes `start..end`.
    #[must_use]
    pub const fn inside(start: PhysAddr, end: PhysAddr) -> Self {
        match start.checked_align_up(1 << PAGE_SHIFT) {
            Some(first) => Self::new(first.pfn(), end.pfn()),
            None => Self::EMPTY,
        }
    }

    /// The frames that hold any of the bytes `start..end`.
    #[must_use]
    pub const fn covering(start: PhysAddr, end: PhysAddr) -> Self {
        if end.as_u64() <= start.as_u64() {
            return Self::EMPTY;
        }
        let last = PhysAddr::new(end.as_u64() - 1);
        Self::new(start.pfn(), Pfn(last.pfn().0 + 1))
    }

    /// The first frame.
    #[must_use]
    pub const fn start(self) -> Pfn {
        self.start
    }

    /// The frame after the last.
    #[must_use]
    pub const fn end(self) -> Pfn {
        self.end
    }

    /// How many frames.
    #[must_use]
    pub const fn nr_pages(self) -> usize {
        self.end.0 - self.start.0
    }

    /// Whether there is no frame in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `pfn` is one of the frames.
    #[must_use]
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end.0
    }

    /// Whether every frame of `other` is in it; an empty range is in any.
    #[must_use]
    pub const fn contains_range(self, other: Self) -> bool {
        other.is_empty() || (self.start.0 <= other.start.0 && other.end.0 <= self.end.0)
    }

    /// Whether the two share a frame.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// The frames that are in both.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        let start = if self.start.0 > other.start.0 {
            self.start
        } else {
            other.start
        };
        let end = if self.end.0 < other.end.0 {
            self.end
        } else {
            other.end
        };
        Self::new(start, end)
    }

    /// The frames from the first to the last of both, what lies between them too.
    #[must_use]
    pub const fn hull(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let start = if self.start.0 < other.start.0 {
            self.start
        } else {
            other.start
        };
        let end = if self.end.0 > other.end.0 {
            self.end
        } else {
            other.end
        };
        Self { start, end }
    }

    /// Each frame, upwards.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Pfn> + ExactSizeIterator + Clone {
        (self.start.0..self.end.0).map(Pfn)
    }
}

impl fmt::Debug for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({:#x}..{:#x})", self.start.0, self.end.0)
    }
}

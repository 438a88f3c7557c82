//! What a request may take. Linux: a migrate type and `ALLOC_*` flags.

use kmm_frame::{MigrateType, Pfn};

/// What kind of blocks a request is for, and which others will do. A [`MigrateType`] is a request without wishes.
///
/// Requests for [`MigrateType::Unmovable`], [`MigrateType::Movable`] and [`MigrateType::Reclaimable`] fall back on each
/// other's blocks; for the other types they get these and nothing else, and nothing is ever taken from
/// [`MigrateType::Isolate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    kind: MigrateType,
    flags: u8,
    end: Pfn,
}

const CMA: u8 = 1;
const NO_FRAGMENT: u8 = 2;
const SPARING: u8 = 4;
/// Behind all frames.
pub(crate) const NO_END: Pfn = Pfn::new(usize::MAX);

impl Request {
    /// For blocks of this type.
    #[must_use]
    pub const fn new(kind: MigrateType) -> Self {
        Self {
            kind,
            flags: 0,
            end: NO_END,
        }
    }

    /// Blocks of [`MigrateType::Cma`] will do, for pages that can be moved away when their device wants them.
    /// Linux: `ALLOC_CMA`.
    #[must_use]
    pub const fn with_cma(mut self) -> Self {
        self.flags |= CMA;
        self
    }

    /// Rather nothing than a part of a pageblock of another type. Linux: `ALLOC_NOFRAGMENT`.
    #[must_use]
    pub const fn without_fragmenting(mut self) -> Self {
        self.flags |= NO_FRAGMENT;
        self
    }

    /// Rather nothing than one of the last whole pageblocks, for who has something else to try.
    #[must_use]
    pub const fn sparing(mut self) -> Self {
        self.flags |= SPARING;
        self
    }

    /// Of many single frames, rather fewer than some from pageblocks of the type at or behind `end` beside others: they
    /// would be kept back and used up later, when there may be some in front of it again.
    #[must_use]
    pub const fn up_to(mut self, end: Pfn) -> Self {
        self.end = end;
        self
    }

    /// The type asked for.
    #[must_use]
    pub const fn kind(self) -> MigrateType {
        self.kind
    }

    pub(crate) const fn may_use_cma(self) -> bool {
        self.flags & CMA != 0
    }

    pub(crate) const fn is_sparing(self) -> bool {
        self.flags & SPARING != 0
    }

    #[inline]
    pub(crate) const fn end(self) -> Pfn {
        self.end
    }

    pub(crate) const fn may_fragment(self) -> bool {
        self.flags & NO_FRAGMENT == 0
    }
}

impl From<MigrateType> for Request {
    fn from(kind: MigrateType) -> Self {
        Self::new(kind)
    }
}

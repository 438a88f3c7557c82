//! How deep into a zone a request may reach, and what of it is for the request. Linux: the `ALLOC_*` flags, mm/internal.h.
//!
//! | try | mark | may take |
//! |---|---|---|
//! | first, of every request | low | for movable pages: [`MigrateType::Cma`] too |
//! | the same, where a zone below could serve as well | low | rather nothing than a part of a pageblock of another type |
//! | second | min; for `HIGH` half of it, for `ATOMIC_CALLER` a quarter less | the latter: [`MigrateType::HighAtomic`] |
//! | last, with `MEMALLOC` | none | everything |

use kmm_buddy::Request;
use kmm_frame::{Gfp, MigrateType};

use crate::Mark;

/// The second column and the third.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Effort {
    /// As deep as there is something.
    mark: Option<Mark>,
    flags: u8,
}

/// Linux: `ALLOC_HIGH`.
const HIGH: u8 = 1 << 0;
/// Linux: `ALLOC_HARDER`.
const HARDER: u8 = 1 << 1;
/// Linux: `ALLOC_CMA`.
const CMA: u8 = 1 << 2;
/// Linux: `ALLOC_NOFRAGMENT`.
const NO_FRAGMENT: u8 = 1 << 3;

impl Effort {
    /// The first try of a request. Linux: `prepare_alloc_pages`.
    pub(crate) const fn fast(gfp: Gfp) -> Self {
        Self::down_to(Mark::Low).with_type(gfp)
    }

    /// The second try, by what the request is entitled to. Linux: `gfp_to_alloc_flags`.
    pub(crate) const fn slow(gfp: Gfp) -> Self {
        let mut flags = 0;
        if gfp.contains(Gfp::HIGH) {
            flags |= HIGH;
        }
        if gfp.contains(Gfp::ATOMIC_CALLER) && !gfp.contains(Gfp::NOMEMALLOC) {
            flags |= HARDER;
        }
        let mark = Some(Mark::Min);
        Self { mark, flags }.with_type(gfp)
    }

    /// Whatever there is. Linux: `ALLOC_NO_WATERMARKS`.
    pub(crate) const fn all(gfp: Gfp) -> Self {
        let (mark, flags) = (None, HARDER);
        Self { mark, flags }.with_type(gfp)
    }

    /// For who only looks: what nobody in particular may take.
    pub(crate) const fn down_to(mark: Mark) -> Self {
        let (mark, flags) = (Some(mark), 0);
        Self { mark, flags }
    }

    /// The same, but with no more than whole pageblocks of other types. Linux: `alloc_flags_nofragment`.
    pub(crate) const fn without_fragmenting(mut self) -> Self {
        self.flags |= NO_FRAGMENT;
        self
    }

    /// Linux: `gfp_to_alloc_flags_cma`.
    const fn with_type(mut self, gfp: Gfp) -> Self {
        if matches!(gfp.migrate_type(), MigrateType::Movable) {
            self.flags |= CMA;
        }
        self
    }

    /// Whether blocks that are kept back for urgent requests are for it.
    pub(crate) const fn may_use_reserve(self) -> bool {
        self.flags & HARDER != 0
    }

    /// Whether it is one of the urgent requests that they are kept back for.
    pub(crate) const fn is_urgent(self) -> bool {
        self.may_use_reserve() && self.mark.is_some()
    }

    /// Whether frames that a device lends are for it.
    pub(crate) const fn may_use_cma(self) -> bool {
        self.flags & CMA != 0
    }

    /// What to ask the free lists for.
    pub(crate) const fn request(self, kind: MigrateType) -> Request {
        let mut request = Request::new(kind);
        if self.may_use_cma() {
            request = request.with_cma();
        }
        if self.flags & NO_FRAGMENT != 0 {
            request = request.without_fragmenting();
        }
        request
    }

    /// How many pages must stay free, lowmem reserve apart; `None` when any may go. Linux: `__zone_watermark_ok`.
    pub(crate) fn floor(self, marks: impl FnOnce(Mark) -> usize) -> Option<usize> {
        let mut min = marks(self.mark?);
        if self.flags & HIGH != 0 {
            min -= min / 2;
        }
        if self.flags & HARDER != 0 {
            min -= min / 4;
        }
        Some(min)
    }
}

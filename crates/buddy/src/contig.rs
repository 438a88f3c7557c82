//! Given frames, whoever has them: `alloc_contig_range`. Linux: mm/page_isolation.c, mm/page_alloc.c.
//!
//! 1. [`Buddy::start_contig`] isolates the pageblocks of the range: what is free in them is not allocated any more, nor
//!    is what comes back.
//! 2. The caller moves away what is in use, which [`Buddy::in_use`] tells, and has per-CPU stocks give back what they have.
//!    That is the business of those above, which know whose the pages are: here is no lock held meanwhile.
//! 3. [`Buddy::finish_contig`] takes the range out if all of it is free by now, and lets the rest of the pageblocks go. If
//!    not, the caller tries again, or gives up by [`Buddy::undo_contig`].

use kmm_frame::{MigrateType, Order, Pfn, PfnRange};

use crate::{Buddy, ContigError};

/// A range whose pageblocks are isolated, to be taken out or let go.
#[derive(Debug)]
#[must_use = "pageblocks stay isolated until `finish_contig` or `undo_contig`"]
pub struct Contig {
    range: PfnRange,
}

impl Contig {
    /// The frames asked for.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }
}

impl Buddy {
    /// Isolates the pageblocks of a range of frames that the caller wants. Linux: `start_isolate_page_range`.
    ///
    /// # Errors
    /// A [`ContigError`] if there is no such range, or if another call has a part of its pageblocks; nothing has changed
    /// then.
    pub fn start_contig(&mut self, range: PfnRange) -> Result<Contig, ContigError> {
        self.isolate(range)?;
        Ok(Contig { range })
    }

    /// The frames of the range that are not free, in runs, lowest first. Linux: `test_pages_isolated`.
    pub fn in_use(&self, contig: &Contig) -> impl Iterator<Item = PfnRange> {
        let mut left = contig.range;
        core::iter::from_fn(move || {
            let first = left.iter().find(|&pfn| !self.is_free(pfn))?;
            let rest = PfnRange::new(first, left.end());
            let end = rest
                .iter()
                .find(|&pfn| self.is_free(pfn))
                .unwrap_or(left.end());
            left = PfnRange::new(end, left.end());
            Some(PfnRange::new(first, end))
        })
    }

    /// Takes the range out, and gives its pageblocks back their types. Linux: `isolate_freepages_range`.
    ///
    /// The frames are the caller's then, each of them a block of order 0 or whatever its owner makes of it: they may come
    /// back in blocks of any order.
    ///
    /// # Errors
    /// The argument, and the lowest frames that are not free, be it that they are another zone's; nothing has changed then.
    pub fn finish_contig(&mut self, contig: Contig) -> Result<PfnRange, (Contig, PfnRange)> {
        let busy = self.in_use(&contig).next();
        if let Some(busy) = busy {
            return Err((contig, busy));
        }
        let Contig { range } = contig;
        let mut left = range;
        while !left.is_empty() {
            let end = (left.start() + 1)
                .align_up(Order::PAGEBLOCK)
                .min(left.end());
            self.areas_mut().carve(left.start(), end - left.start());
            left = PfnRange::new(end, left.end());
        }
        self.undo_isolate(range);
        Ok(range)
    }

    /// Lets the pageblocks go. Linux: `undo_isolate_page_range`.
    pub fn undo_contig(&mut self, contig: Contig) {
        self.undo_isolate(contig.range);
    }

    /// Makes the pageblocks of a range [`MigrateType::Isolate`]: what is free in them is neither allocated nor counted as
    /// free until [`Buddy::undo_isolate`].
    ///
    /// # Errors
    /// A [`ContigError`] if there is no such range, or if one of its pageblocks is isolated already; nothing has changed
    /// then.
    pub fn isolate(&mut self, range: PfnRange) -> Result<(), ContigError> {
        if range.is_empty() {
            return Err(ContigError::Empty);
        }
        if !self.range().contains_range(range) {
            return Err(ContigError::OutsideZone);
        }
        let slots = self.areas().slots(range);
        if slots.clone().any(|slot| self.is_isolated(slot)) {
            return Err(ContigError::Busy);
        }
        slots.for_each(|slot| {
            self.set_kind(slot, MigrateType::Isolate);
        });
        Ok(())
    }

    /// Gives the isolated pageblocks of a range the types back that they had. What lies outside the zone does not count.
    pub fn undo_isolate(&mut self, range: PfnRange) {
        for slot in self.areas().slots(range.intersect(self.range())) {
            if self.is_isolated(slot) {
                let kind = self.areas().kind_before(slot);
                self.set_kind(slot, kind);
            }
        }
    }

    fn is_isolated(&self, slot: usize) -> bool {
        self.areas().kind(slot) == MigrateType::Isolate
    }

    fn is_free(&self, pfn: Pfn) -> bool {
        self.range().contains(pfn) && self.areas().overlaps(pfn, Order::ZERO)
    }
}

//! Given frames, whoever has them. Linux: `alloc_contig_range`, mm/page_alloc.c.
//!
//! The pageblocks are isolated, so that nothing in them is handed out any more; stocks of CPUs go home; what is in use is
//! moved away by whoever knows whose it is; then the frames are taken. The zone lock is held for single steps only, never
//! while pages move.

use core::fmt;

use kmm_buddy::{Contig, ContigError};
use kmm_frame::{MigrateType, PageFlags, Pfn, PfnRange};
use kmm_host::{Cpus, PhysMap};
use lock_api::RawMutex;

use crate::{Zone, Zones};

/// What became of pages that were to be moved away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migrated {
    /// They are elsewhere, and the frames were given back.
    Moved,
    /// Not all of them: somebody needs them just there, or there is no room elsewhere.
    Busy,
}

/// What the zones cannot do themselves. A closure that moves pages will do.
pub trait Migrate {
    /// Moves what is in these frames somewhere else, and gives the frames back. Linux: `migrate_pages`.
    ///
    /// No lock is held: it may allocate, free, and sleep if its caller may. What it allocates does not come from the range.
    fn migrate(&mut self, frames: PfnRange) -> Migrated;

    /// Has other CPUs give their stocks back; that of this CPU went home already. What they keep counts as in use.
    /// Linux: `drain_all_pages`.
    fn drain_others(&mut self) {}
}

impl<F: FnMut(PfnRange) -> Migrated> Migrate for F {
    fn migrate(&mut self, frames: PfnRange) -> Migrated {
        self(frames)
    }
}

/// Why a range could not be had. Pages that were moved stay where they are now; else nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ContigFailed {
    /// There are no frames in it.
    Empty,
    /// The frames are not all of one zone that frames are allocated from.
    OutsideZone,
    /// It was asked for frames that a device lends, and not all of them are.
    NotLent,
    /// Somebody else is taking frames of the same pageblocks.
    Contended,
    /// Somebody has this frame and keeps it.
    Busy(Pfn),
}

impl fmt::Display for ContigFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("range without frames"),
            Self::OutsideZone => f.write_str("frames outside a zone"),
            Self::NotLent => f.write_str("frames that no device lends"),
            Self::Contended => f.write_str("pageblocks are being taken by another call"),
            Self::Busy(pfn) => write!(f, "frame {pfn} is in use"),
        }
    }
}

impl core::error::Error for ContigFailed {}

impl From<ContigError> for ContigFailed {
    fn from(error: ContigError) -> Self {
        match error {
            ContigError::Empty => Self::Empty,
            ContigError::Busy => Self::Contended,
            _ => Self::OutsideZone,
        }
    }
}

/// Frames that [`Zones::alloc_contig_range`] has taken: nobody else has them until [`Zones::free_contig_range`].
///
/// No reference is counted; descriptors and contents are as their owners before have left them.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a range that is dropped is leaked"]
pub struct ContigRange(PfnRange);

impl ContigRange {
    /// The frames.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.0
    }
}

/// So often the range is gone through: pages that others free meanwhile may wait in stocks.
const MOST_PASSES: usize = 5;

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Takes just these frames out, moving away what is in them. `kind`: [`MigrateType::Cma`] if they have to be frames that
    /// a device lends, any other type if not.
    ///
    /// Linux: `alloc_contig_range`.
    ///
    /// # Context
    /// Does not sleep itself; `migrate` may. No lock may be held that it wants. Other CPUs may allocate and free meanwhile.
    ///
    /// # Errors
    /// A [`ContigFailed`].
    pub fn alloc_contig_range(
        &self,
        range: PfnRange,
        kind: MigrateType,
        migrate: &mut impl Migrate,
    ) -> Result<ContigRange, ContigFailed> {
        let zone = self.zone_for_contig(range)?;
        if kind == MigrateType::Cma && !zone.is_lent(range) {
            return Err(ContigFailed::NotLent);
        }
        let taken = self.evacuate(zone, range, migrate)?;
        zone.count_contig(taken.nr_pages(), 0);
        Ok(ContigRange(taken))
    }

    /// Gives frames back that [`Zones::alloc_contig_range`] has taken. Linux: `free_contig_range`.
    pub fn free_contig_range(&self, taken: ContigRange) {
        let range = taken.range();
        let Some(zone) = self.zone_of(range.start()) else {
            return;
        };
        zone.count_contig(0, range.nr_pages());
        if let Err(why) = zone.with_buddy(|buddy| buddy.add_free_range(range)) {
            self.report_refused((range.start(), why), kmm_frame::Order::ZERO);
        }
    }

    pub(crate) fn zone_for_contig(
        &self,
        range: PfnRange,
    ) -> Result<&'static Zone<L>, ContigFailed> {
        if range.is_empty() {
            return Err(ContigFailed::Empty);
        }
        let zone = self.zone_of(range.start());
        let zone = zone.filter(|zone| zone.is_managed() && zone.owns_range(range));
        zone.ok_or(ContigFailed::OutsideZone)
    }

    /// Takes the frames out without counting them.
    pub(crate) fn evacuate(
        &self,
        zone: &Zone<L>,
        range: PfnRange,
        migrate: &mut impl Migrate,
    ) -> Result<PfnRange, ContigFailed> {
        let mut contig = zone.with_buddy(|buddy| buddy.start_contig(range))?;
        for _ in 0..MOST_PASSES {
            if let Err(busy) = self.move_all(zone, &contig, migrate) {
                zone.with_buddy(|buddy| buddy.undo_contig(contig));
                return Err(ContigFailed::Busy(busy));
            }
            self.drain_for_contig(migrate);
            match zone.with_buddy(|buddy| buddy.finish_contig(contig)) {
                Ok(taken) => return Ok(taken),
                Err((again, _)) => contig = again,
            }
        }
        let busy = zone.with_buddy(|buddy| {
            let busy = buddy.in_use(&contig).next();
            buddy.undo_contig(contig);
            busy
        });
        let busy = busy.unwrap_or(range);
        Err(ContigFailed::Busy(busy.start()))
    }

    /// Has everything moved that is in use now, once; a frame that stays if not.
    fn move_all(
        &self,
        zone: &Zone<L>,
        contig: &Contig,
        migrate: &mut impl Migrate,
    ) -> Result<(), Pfn> {
        self.drain_for_contig(migrate);
        let mut done = contig.range().start();
        let next = |done| {
            zone.with_buddy(|buddy| {
                let mut runs = buddy.in_use(contig);
                runs.find(|run| run.end() > done)
            })
        };
        while let Some(run) = next(done) {
            let run = PfnRange::new(run.start().max(done), run.end());
            let is_reserved = |pfn: &Pfn| {
                let page = self.map().get(*pfn);
                page.is_none_or(|page| page.test(PageFlags::RESERVED))
            };
            if let Some(reserved) = run.iter().find(is_reserved) {
                return Err(reserved);
            }
            if migrate.migrate(run) == Migrated::Busy {
                return Err(run.start());
            }
            done = run.end();
        }
        Ok(())
    }

    fn drain_for_contig(&self, migrate: &mut impl Migrate) {
        self.cpus().with_pin(|pin| self.drain_pcp(pin));
        migrate.drain_others();
    }
}

impl<L: RawMutex> Zone<L> {
    /// Whether a device lends all of these frames.
    fn is_lent(&self, range: PfnRange) -> bool {
        let is_lent = |pfn| self.pageblock_type(pfn) == Some(MigrateType::Cma);
        range.iter().all(is_lent)
    }
}

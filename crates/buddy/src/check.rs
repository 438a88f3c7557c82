//! A whole-zone check for tests, self-tests and audits.

use core::fmt;

use kmm_frame::{Order, PageFlags, Pfn};

use crate::{Buddy, FreeBlock};

/// What [`Buddy::validate`] found wrong: which invariant of MODEL.md does not hold, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// A listed block is misaligned or leaves the zone (INV-1).
    Misplaced(FreeBlock),
    /// The descriptor of a listed block does not say that it is free, or says another order (INV-2).
    NotMarked(FreeBlock),
    /// A frame inside a free block starts another (INV-3).
    Overlap(Pfn),
    /// A block and its buddy are both free and were not merged (INV-4).
    Unmerged(FreeBlock),
    /// The links of a list do not lead back and forth (INV-2).
    BadLink(FreeBlock),
    /// The number of blocks on a list, or its summary bit, differs from what is counted (INV-5).
    WrongCount(Order),
    /// The number of free frames differs from the lists (INV-5).
    WrongTotal,
    /// A descriptor says that a free block starts here, but no list has it (INV-2).
    Unlisted(Pfn),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misplaced(b) => {
                write!(f, "free block {} of order {} is misplaced", b.pfn, b.order)
            }
            Self::NotMarked(b) => {
                write!(f, "free block {} of order {} is unmarked", b.pfn, b.order)
            }
            Self::Overlap(pfn) => write!(f, "frame {pfn} is in two free blocks"),
            Self::Unmerged(b) => write!(f, "block {} of order {} is unmerged", b.pfn, b.order),
            Self::BadLink(b) => write!(f, "block {} of order {} has a bad link", b.pfn, b.order),
            Self::WrongCount(order) => write!(f, "list of order {order} is miscounted"),
            Self::WrongTotal => f.write_str("free frames are miscounted"),
            Self::Unlisted(pfn) => write!(f, "free block {pfn} is on no list"),
        }
    }
}

impl core::error::Error for Broken {}

impl Buddy {
    /// Walks every list and every descriptor of the zone. O(n) in frames.
    ///
    /// # Errors
    /// The first violation found.
    pub fn validate(&self) -> Result<(), Broken> {
        let mut nr_pages = 0;
        let mut nr_blocks = 0;
        for order in Order::all() {
            let mut count = 0;
            let mut prev = None;
            for pfn in self.areas().blocks(order) {
                let block = FreeBlock { pfn, order };
                self.validate_block(block, prev)?;
                prev = Some(pfn);
                count += 1;
            }
            if count != self.nr_free(order) || (count > 0) != self.areas().is_marked_nonempty(order)
            {
                return Err(Broken::WrongCount(order));
            }
            nr_pages += count * order.nr_pages();
            nr_blocks += count;
        }
        if nr_pages != self.nr_free_pages() {
            return Err(Broken::WrongTotal);
        }
        self.validate_marks(nr_blocks)
    }

    fn validate_block(&self, block: FreeBlock, prev: Option<Pfn>) -> Result<(), Broken> {
        let FreeBlock { pfn, order } = block;
        if !pfn.is_aligned(order) || !self.range().contains_range(block.range()) {
            return Err(Broken::Misplaced(block));
        }
        let map = self.areas().map();
        if map.page(pfn).lru_prev() != prev {
            return Err(Broken::BadLink(block));
        }
        if !self.areas().is_free(pfn, order) {
            return Err(Broken::NotMarked(block));
        }
        let starts_here = |pfn: &Pfn| map.page(*pfn).test(PageFlags::BUDDY);
        if let Some(inner) = block.range().iter().skip(1).find(starts_here) {
            return Err(Broken::Overlap(inner));
        }
        let buddy = pfn.buddy(order);
        let merges = order.up().is_some() && self.range().contains(buddy);
        if merges && self.areas().is_free(buddy, order) {
            return Err(Broken::Unmerged(block));
        }
        Ok(())
    }

    /// As many descriptors are marked as there are blocks on lists; each listed one is marked, so they are the same.
    fn validate_marks(&self, nr_blocks: usize) -> Result<(), Broken> {
        let map = self.areas().map();
        let marked = |pfn: &Pfn| map.page(*pfn).test(PageFlags::BUDDY);
        if self.range().iter().filter(marked).count() == nr_blocks {
            return Ok(());
        }
        let listed = |pfn: Pfn| self.free_blocks().any(|block| block.pfn == pfn);
        let unlisted = self.range().iter().filter(marked).find(|&pfn| !listed(pfn));
        Err(unlisted.map_or(Broken::WrongTotal, Broken::Unlisted))
    }
}

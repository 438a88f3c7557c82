//! The pool of longer-lived mappings of high frames, shared by all CPUs. Linux: `kmap`, `pkmap_count`, mm/highmem.c.
//!
//! | count | the slot is |
//! |---|---|
//! | 0 | free, and no CPU remembers a translation of it |
//! | 1 | free, but its entry is still there and CPUs may remember it: to be flushed |
//! | n + 1 | mapped, by n users |
//!
//! Nothing is flushed when a mapping ends, only when the search for a free slot comes round to the start: then all slots
//! of count 1 are emptied, with one flush for all of them.

use core::fmt;

use kmm_frame::Pfn;

/// Buckets of the table that finds the slot of a frame. Linux: `page_address_htable`, `PA_HASH_ORDER`.
const NR_BUCKETS: usize = 128;
/// The end of a chain.
const NONE: u16 = u16::MAX;

/// The page table behind the pool.
pub trait PkmapTable {
    /// Maps the frame in a slot, which was empty.
    fn set(&mut self, slot: usize, pfn: Pfn);
    /// Empties a slot.
    fn clear(&mut self, slot: usize);
    /// Makes every CPU forget the translations of the pool.
    fn flush(&mut self);
}

/// Why a mapping could not be made or ended. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PkmapError {
    /// Every slot is in use: wait until somebody unmaps, and try again.
    Full,
    /// The frame is not mapped.
    NotMapped,
    /// The frame has as many users as can be counted.
    TooManyUsers,
}

impl fmt::Display for PkmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "every slot of the kmap pool is in use",
            Self::NotMapped => "frame is not mapped in the kmap pool",
            Self::TooManyUsers => "frame has too many users in the kmap pool",
        })
    }
}

impl core::error::Error for PkmapError {}

/// Which frame each of `N` slots maps, and for how many users. Linux: `LAST_PKMAP` is `N`.
#[derive(Clone, Debug)]
pub struct Pkmap<const N: usize = 512> {
    counts: [u32; N],
    frames: [Pfn; N],
    /// The next slot in the same bucket.
    next: [u16; N],
    buckets: [u16; NR_BUCKETS],
    /// Where the last search ended. Linux: `last_pkmap_nr`.
    last: usize,
}

impl<const N: usize> Default for Pkmap<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Pkmap<N> {
    /// Every slot is free.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(0 < N && N < NONE as usize) };
        Self {
            counts: [0; N],
            frames: [Pfn::ZERO; N],
            next: [NONE; N],
            buckets: [NONE; NR_BUCKETS],
            last: 0,
        }
    }

    /// Maps a frame, or counts one more user of its mapping; the slot. Linux: `kmap_high`, `map_new_virtual`.
    ///
    /// # Errors
    /// [`PkmapError::Full`] when every slot has users.
    /// [`PkmapError::TooManyUsers`].
    pub fn map(&mut self, pfn: Pfn, table: &mut impl PkmapTable) -> Result<usize, PkmapError> {
        if let Some(slot) = self.slot(pfn) {
            let count = self.counts[slot].checked_add(1);
            self.counts[slot] = count.ok_or(PkmapError::TooManyUsers)?;
            return Ok(slot);
        }
        let slot = self.find_free(table).ok_or(PkmapError::Full)?;
        table.set(slot, pfn);
        self.link(slot, pfn);
        self.counts[slot] = 2;
        Ok(slot)
    }

    /// Ends one user's mapping; whether it was the last one, so that somebody who waits for a slot may try again.
    ///
    /// Linux: `kunmap_high`.
    ///
    /// # Errors
    /// [`PkmapError::NotMapped`] when the frame has no users.
    pub fn unmap(&mut self, pfn: Pfn) -> Result<bool, PkmapError> {
        match self.slot(pfn) {
            Some(slot) if self.counts[slot] > 1 => {
                self.counts[slot] -= 1;
                Ok(self.counts[slot] == 1)
            }
            _ => Err(PkmapError::NotMapped),
        }
    }

    /// The slot whose entry maps a frame, with users or without. Linux: `page_address` of a high page.
    #[must_use]
    pub fn slot(&self, pfn: Pfn) -> Option<usize> {
        let mut at = self.buckets[bucket(pfn)];
        while at != NONE {
            let slot = usize::from(at);
            if self.frames[slot] == pfn {
                return Some(slot);
            }
            at = self.next[slot];
        }
        None
    }

    /// How many users the mapping of a frame has.
    #[must_use]
    pub fn users(&self, pfn: Pfn) -> u32 {
        self.slot(pfn)
            .map_or(0, |slot| self.counts[slot].saturating_sub(1))
    }

    /// A slot of count 0, searched upwards from the last one; flushes when it comes round.
    fn find_free(&mut self, table: &mut impl PkmapTable) -> Option<usize> {
        let mut left = N;
        while left > 0 {
            self.last = (self.last + 1) % N;
            if self.last == 0 {
                self.flush_unused(table);
                left = N; // what was passed by may be free now
            }
            if self.counts[self.last] == 0 {
                return Some(self.last);
            }
            left -= 1;
        }
        None
    }

    /// Linux: `flush_all_zero_pkmaps`.
    fn flush_unused(&mut self, table: &mut impl PkmapTable) {
        let mut any = false;
        for slot in 0..N {
            if self.counts[slot] == 1 {
                self.counts[slot] = 0;
                self.unlink(slot);
                table.clear(slot);
                any = true;
            }
        }
        if any {
            table.flush();
        }
    }

    fn link(&mut self, slot: usize, pfn: Pfn) {
        let head = &mut self.buckets[bucket(pfn)];
        self.frames[slot] = pfn;
        self.next[slot] = *head;
        *head = u16::try_from(slot).unwrap_or(NONE);
    }

    fn unlink(&mut self, slot: usize) {
        let head = bucket(self.frames[slot]);
        let mut before = None;
        let mut at = self.buckets[head];
        while at != NONE && usize::from(at) != slot {
            before = Some(usize::from(at));
            at = self.next[usize::from(at)];
        }
        match before {
            Some(before) => self.next[before] = self.next[slot],
            None => self.buckets[head] = self.next[slot],
        }
    }
}

/// Neighbouring frames go to different buckets.
const fn bucket(pfn: Pfn) -> usize {
    pfn.index() % NR_BUCKETS
}

//! How old a page is: used lately, used again, not used. Linux: mm/swap.c, mm/vmscan.c.
//!
//! Two marks make four ages. `REFERENCED` is this side's mark; the accessed bits of page tables are the CPU's, which who
//! scans collects and clears.
//!
//! | list | `REFERENCED` | a use makes it | a scan that finds no use makes it |
//! |---|---|---|---|
//! | inactive | no | inactive, referenced | reclaimed |
//! | inactive | yes | active | inactive, unreferenced (kept once more if it is a file's and clean) |
//! | active | no | active, referenced | inactive |
//! | active | yes | the same | inactive |

use super::{Page, PageFlags};

/// What a use of a page asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that is to be activated is still on its old list"]
pub enum Access {
    /// Nothing: the mark was set, or was there.
    Noted,
    /// The page goes to the active list; the mark is gone. Linux: `folio_activate`.
    Activate,
}

/// Who used a page since the last scan. Linux: `folio_referenced`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct References {
    /// Entries of page tables with the accessed bit, which was cleared.
    pub nr_ptes: u32,
    /// One of them is of a program's code.
    pub has_code: bool,
    /// One of them is in an area that a program has locked.
    pub has_locked: bool,
}

/// What becomes of an inactive page. Linux: `enum folio_references`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the page is still on its list"]
pub enum Fate {
    /// To be reclaimed, written out first if need be.
    Reclaim,
    /// To be reclaimed if that costs no writing.
    ReclaimClean,
    /// It stays, for another round.
    Keep,
    /// It goes to the active list.
    Activate,
}

impl Page {
    /// Notes a use that no page table sees, as `read(2)` is. Linux: `mark_page_accessed`.
    pub fn mark_accessed(&self) -> Access {
        let flags = self.flags();
        if !flags.contains(PageFlags::REFERENCED) {
            self.set_referenced();
            return Access::Noted;
        }
        if flags.intersects(PageFlags::UNEVICTABLE | PageFlags::ACTIVE) {
            return Access::Noted;
        }
        self.clear_referenced();
        Access::Activate
    }

    /// Decides what becomes of an inactive page that a scan came to. Linux: `folio_check_references`.
    ///
    /// A page that is mapped gets a second look before it is active: only then it was used in two rounds, or by two, or as
    /// a program's code.
    pub fn check_references(&self, references: References) -> Fate {
        let was_referenced = self.is_referenced() && self.test_clear_referenced();
        if references.has_locked {
            return Fate::Activate;
        }
        if references.nr_ptes > 0 {
            self.set_referenced();
            let is_file = !self.is_swap_backed();
            let again = was_referenced || references.nr_ptes > 1;
            if again || (references.has_code && is_file) {
                return Fate::Activate;
            }
            return Fate::Keep;
        }
        if was_referenced && !self.is_swap_backed() {
            return Fate::ReclaimClean;
        }
        Fate::Reclaim
    }
}

//! What is known of one page of an object.

use core::fmt;

use crate::debug::Track;

/// Room for what is known of one object: the caller hands an array of them to [`Kfence::new`](super::Kfence::new).
#[derive(Clone, Copy)]
pub struct KfenceSlot {
    pub(super) state: State,
    /// Where the object begins, and how many bytes it has.
    pub(super) start: usize,
    pub(super) size_bytes: usize,
    pub(super) cache: &'static str,
    /// The slot of the cache; `None` if the object is of none.
    pub(super) owner: Option<u8>,
    pub(super) allocated: Option<Track>,
    pub(super) freed: Option<Track>,
    /// The page beside that was shown after a fault.
    pub(super) shown: Option<usize>,
    /// The next one on the list of those that are free.
    pub(super) next: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Never used.
    Unused,
    Allocated,
    Freed,
}

impl KfenceSlot {
    /// A page that has not been used.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Unused,
            start: 0,
            size_bytes: 0,
            cache: "",
            owner: None,
            allocated: None,
            freed: None,
            shown: None,
            next: None,
        }
    }

    /// How far an address is from the object: 0 within.
    pub(super) fn distance(&self, address: usize) -> usize {
        let end = self.start + self.size_bytes;
        if address < self.start {
            self.start - address
        } else {
            (address + 1).saturating_sub(end)
        }
    }
}

impl Default for KfenceSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KfenceSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KfenceSlot")
            .field("state", &self.state)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

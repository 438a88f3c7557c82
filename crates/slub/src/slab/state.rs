//! The state of a slab in one word of its head's descriptor, and its two changes: objects come back, objects are taken.
//!
//! | bits | what |
//! |---|---|
//! | 0..16 | number of the first free object, or [`NIL`] |
//! | 16..32 | objects in use: with an owner, in a CPU's array, or in the depot |
//! | 32..48 | objects |
//! | 48..56 | order |
//! | 56..64 | colour |
//!
//! Objects come back by compare-and-exchange, from any CPU, without the cache's lock: unless the slab thereby changes lists,
//! that is, when it was full or becomes empty. Then the lock is taken first (Linux: `__slab_free`), so that a slab is never
//! freed under the hands of somebody who has just put the last object back. Objects are taken under the lock only. With
//! one taker at a time the first free object stays first as long as the word is the same: whoever pushes puts others in
//! front, and never changes what is behind. So there is no ABA.

use super::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// The end of a free list.
pub(crate) const NIL: u16 = u16::MAX;

/// What the word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlabState(u64);

/// An object came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pushed {
    /// The state before.
    pub(crate) before: SlabState,
    /// The state since.
    pub(crate) after: SlabState,
}

/// Objects were taken: so many from this one on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    pub(crate) before: SlabState,
    pub(crate) after: SlabState,
    pub(crate) first: u16,
    pub(crate) count: u16,
}

impl SlabState {
    /// All objects free, the first one first.
    pub(crate) const fn fresh(objects: u16, order: u8, colour: u8) -> Self {
        Self((objects as u64) << 32 | (order as u64) << 48 | (colour as u64) << 56)
    }

    /// The same with another first object.
    pub(crate) const fn starting_with(self, first: u16) -> Self {
        self.with(first, self.in_use())
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    pub(crate) const fn first(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    pub(crate) const fn in_use(self) -> u16 {
        (self.0 >> 16 & 0xffff) as u16
    }

    pub(crate) const fn objects(self) -> u16 {
        (self.0 >> 32 & 0xffff) as u16
    }

    pub(crate) const fn order(self) -> u8 {
        (self.0 >> 48 & 0xff) as u8
    }

    pub(crate) const fn colour(self) -> u8 {
        (self.0 >> 56) as u8
    }

    pub(crate) const fn is_full(self) -> bool {
        self.in_use() == self.objects()
    }

    /// Whether a free now would move the slab to another list.
    const fn changes_list(self) -> bool {
        self.is_full() || self.in_use() <= 1
    }

    const fn with(self, first: u16, in_use: u16) -> Self {
        Self(self.0 & !0xffff_ffff | first as u64 | (in_use as u64) << 16)
    }
}

/// Puts object `index` back in front; `link` is told what follows it before anybody sees it. `None`: the slab would change
/// lists, and `is_locked` says that the caller does not have the lock. Nothing has changed then.
pub(crate) fn push(
    word: &AtomicU64,
    index: u16,
    is_locked: bool,
    mut link: impl FnMut(u16),
) -> Option<Pushed> {
    let mut seen = word.load(Relaxed);
    loop {
        let before = SlabState::from_word(seen);
        if before.in_use() == 0 || (!is_locked && before.changes_list()) {
            return None;
        }
        link(before.first());
        let after = before.with(index, before.in_use() - 1);
        match word.compare_exchange_weak(seen, after.word(), AcqRel, Relaxed) {
            Ok(_) => return Some(Pushed { before, after }),
            Err(other) => seen = other,
        }
    }
}

/// Takes up to `most` objects off the front, under the lock. `next` says what follows an object.
///
/// # Errors
/// What `next` says of the first object.
pub(crate) fn take<E>(
    word: &AtomicU64,
    most: u16,
    mut next: impl FnMut(u16) -> Result<u16, E>,
) -> Result<Option<Taken>, E> {
    let mut seen = word.load(Acquire);
    loop {
        let before = SlabState::from_word(seen);
        let most = most.min(before.objects().saturating_sub(before.in_use()));
        let first = before.first();
        let (mut at, mut count) = (first, 0);
        while count < most && at != NIL {
            match next(at) {
                Ok(after) => at = after,
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            }
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        let after = before.with(at, before.in_use() + count);
        match word.compare_exchange_weak(seen, after.word(), AcqRel, Acquire) {
            Ok(_) => {
                let taken = Taken {
                    before,
                    after,
                    first,
                    count,
                };
                return Ok(Some(taken));
            }
            Err(other) => seen = other,
        }
    }
}

/// Gives up every free object, under the lock: none will be handed out, and the slab never becomes empty. The states.
pub(crate) fn isolate(word: &AtomicU64) -> Pushed {
    let mut seen = word.load(Relaxed);
    loop {
        let before = SlabState::from_word(seen);
        let after = before.with(NIL, before.objects());
        match word.compare_exchange_weak(seen, after.word(), AcqRel, Relaxed) {
            Ok(_) => return Pushed { before, after },
            Err(other) => seen = other,
        }
    }
}

//! Small integers handed out with a value each: process ids, file descriptors, device minors.

use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use crate::SummaryBitmap;
use crate::arena::{Arena, Slot};
use crate::bitmap::BitmapLayout;

/// Why [`Idr::alloc`] gave no id. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdrError {
    /// Every id of the range is taken.
    NoFreeId,
    /// The table had to grow and the host's allocator had no memory.
    OutOfMemory,
}

impl fmt::Display for IdrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFreeId => "no id is free",
            Self::OutOfMemory => "out of memory",
        })
    }
}

impl core::error::Error for IdrError {}

/// A refused [`Idr::alloc`], with the value that it did not take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdrAllocError<V> {
    /// Why.
    pub error: IdrError,
    /// The caller's value, unchanged.
    pub value: V,
}

impl<V> fmt::Debug for IdrAllocError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdrAllocError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<V> fmt::Display for IdrAllocError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<V> core::error::Error for IdrAllocError<V> {}

/// Values under ids of a fixed range; a new value gets the lowest id that is free, or the next one round the circle.
///
/// Linux: `struct idr`, lib/idr.c; `idr_alloc`, `idr_alloc_cyclic`, `idr_find`, `idr_remove`.
///
/// Ids are found in a [`SummaryBitmap`] of free ids: a few words, however many are taken. Memory: 4 bytes and 1.02 bits
/// for each id up to twice the highest one ever in use, and the value with its tag.
///
/// ```
/// use kmm_kcoll::Idr;
///
/// let mut tasks = Idr::new(1..=32_768);
/// assert_eq!(tasks.alloc_cyclic("init"), Ok(1));
/// assert_eq!(tasks.alloc_cyclic("sh"), Ok(2));
/// tasks.remove(1);
/// assert_eq!(tasks.alloc_cyclic("ls"), Ok(3));
/// assert_eq!(tasks.alloc("cat"), Ok(1));
/// assert_eq!(tasks.get(3), Some(&"ls"));
/// ```
pub struct Idr<V> {
    ids: RangeInclusive<u32>,
    /// One bit per id that the table has room for, set if it is free. Bit 0 is the first id.
    free: SummaryBitmap<Vec<u64>>,
    /// Where the value of an id is; without meaning for free ids.
    places: Vec<u32>,
    values: Arena<Held<V>>,
    /// Where the next cyclic search begins.
    cursor: usize,
}

impl<V> Idr<V> {
    /// An empty table that hands out `ids`. It owns no memory yet.
    ///
    /// # Panics
    /// If `ids` is empty.
    pub fn new(ids: RangeInclusive<u32>) -> Self {
        assert!(!ids.is_empty(), "no ids to hand out");
        Self {
            ids,
            free: SummaryBitmap::new(Vec::new(), 0),
            places: Vec::new(),
            values: Arena::new(),
            cursor: 0,
        }
    }

    /// How many ids are in use.
    pub fn len(&self) -> usize {
        self.values.in_use()
    }

    /// Whether no id is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores `value` under the lowest free id. Linux: `idr_alloc`.
    ///
    /// # Errors
    /// With the value given back, and no id taken: [`IdrError::NoFreeId`], [`IdrError::OutOfMemory`].
    pub fn alloc(&mut self, value: V) -> Result<u32, IdrAllocError<V>> {
        match self.prepare_from(0) {
            Ok(bit) => Ok(self.store(bit, value)),
            Err(error) => Err(IdrAllocError { error, value }),
        }
    }

    /// Stores `value` under the lowest free id above the one given last, or, if there is none, under the lowest
    /// of all, so that an id rests as long as possible before it comes again. Linux: `idr_alloc_cyclic`.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_cyclic(&mut self, value: V) -> Result<u32, IdrAllocError<V>> {
        let prepared = match self.prepare_from(self.cursor) {
            Err(IdrError::NoFreeId) => self.prepare_from(0),
            other => other,
        };
        match prepared {
            Ok(bit) => {
                self.cursor = bit + 1;
                Ok(self.store(bit, value))
            }
            Err(error) => Err(IdrAllocError { error, value }),
        }
    }

    /// The value under `id`. Linux: `idr_find`.
    pub fn get(&self, id: u32) -> Option<&V> {
        let bit = self.used_bit(id)?;
        match self.values.get(self.places[bit]) {
            Held::Full(_, value) => Some(value),
            Held::Vacant(_) => None,
        }
    }

    /// The value under `id`, to write to.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        let bit = self.used_bit(id)?;
        match self.values.get_mut(self.places[bit]) {
            Held::Full(_, value) => Some(value),
            Held::Vacant(_) => None,
        }
    }

    /// Takes out the value under `id`, which is free then. Linux: `idr_remove`.
    pub fn remove(&mut self, id: u32) -> Option<V> {
        let bit = self.used_bit(id)?;
        self.free.set(bit);
        match self.values.take(self.places[bit]) {
            Held::Full(_, value) => Some(value),
            Held::Vacant(_) => None,
        }
    }

    /// The value with the lowest id at or above `id`. Linux: `idr_get_next`.
    pub fn next(&self, id: u32) -> Option<(u32, &V)> {
        let first = id.saturating_sub(*self.ids.start()) as usize;
        let bit = self.free.next_zero(first)?;
        match self.values.get(self.places[bit]) {
            Held::Full(id, value) => Some((*id, value)),
            Held::Vacant(_) => None,
        }
    }

    /// All ids and values, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        let mut from = Some(0);
        core::iter::from_fn(move || {
            let (id, value) = self.next(from?)?;
            from = id.checked_add(1);
            Some((id, value))
        })
    }

    /// Bytes that the table holds of the host's heap, in use or in reserve.
    pub fn heap_bytes(&self) -> usize {
        let bits = BitmapLayout::summary_words_for(self.free.len()) * size_of::<u64>();
        bits + self.places.capacity() * size_of::<u32>() + self.values.heap_bytes()
    }

    fn capacity(&self) -> usize {
        ((self.ids.end() - self.ids.start()) as usize).saturating_add(1)
    }

    fn used_bit(&self, id: u32) -> Option<usize> {
        let bit = id.checked_sub(*self.ids.start())? as usize;
        (bit < self.places.len() && !self.free.test(bit)).then_some(bit)
    }

    /// The lowest free bit at or above `from`, with room for its value.
    fn prepare_from(&mut self, from: usize) -> Result<usize, IdrError> {
        let bit = match self.free.next_set(from) {
            Some(bit) => bit,
            None => {
                let bit = from.max(self.places.len());
                if bit >= self.capacity() {
                    return Err(IdrError::NoFreeId);
                }
                self.grow(bit + 1)?;
                bit
            }
        };
        self.values.reserve(1).map_err(|_| IdrError::OutOfMemory)?;
        Ok(bit)
    }

    /// Makes room for at least `needed` ids; none becomes used or free by it.
    fn grow(&mut self, needed: usize) -> Result<(), IdrError> {
        let room = needed
            .max(2 * self.places.len())
            .max(64)
            .min(self.capacity());
        let words = BitmapLayout::summary_words_for(room);
        let mut storage = Vec::new();
        storage
            .try_reserve_exact(words)
            .map_err(|_| IdrError::OutOfMemory)?;
        let more = room - self.places.len();
        self.places
            .try_reserve_exact(more)
            .map_err(|_| IdrError::OutOfMemory)?;
        storage.resize(words, 0);
        let mut free = SummaryBitmap::new(storage, room);
        for bit in (0..room).filter(|&bit| bit >= self.places.len() || self.free.test(bit)) {
            free.set(bit);
        }
        self.places.resize(room, 0);
        self.free = free;
        Ok(())
    }

    /// Stores `value` under the bit that [`prepare_from`](Self::prepare_from) found.
    fn store(&mut self, bit: usize, value: V) -> u32 {
        let offset = u32::try_from(bit).expect("a bit below the capacity, which ids bound");
        let id = self.ids.start() + offset;
        self.places[bit] = self.values.put(Held::Full(id, value));
        self.free.clear(bit);
        id
    }
}

impl<V: fmt::Debug> fmt::Debug for Idr<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

enum Held<V> {
    Vacant(u32),
    Full(u32, V),
}

impl<V> Slot for Held<V> {
    fn vacant(next: u32) -> Self {
        Self::Vacant(next)
    }

    fn next_vacant(&self) -> u32 {
        match *self {
            Self::Vacant(next) => next,
            Self::Full(..) => unreachable!("INV-11: the free list names a slot in use"),
        }
    }
}

//! Storage addressed by `u32` index: what a tree without pointers is made of.

use alloc::vec::Vec;

use crate::AllocError;

/// The index of nothing.
pub(crate) const NIL: u32 = u32::MAX;

/// Something that, while it is not in use, can hold the index of the next one that is not.
pub(crate) trait Slot: Sized {
    fn vacant(next: u32) -> Self;
    fn next_vacant(&self) -> u32;
}

/// Items of one type, with stable indices and a free list through the vacant ones.
///
/// Items live in chunks of at most one page, so that growing neither moves many of them nor asks the host for a large
/// block. Only [`reserve`](Self::reserve) allocates. Memory goes back when the arena is dropped.
///
/// Invariants: every chunk but the last has capacity for `CHUNK` items (INV-10); the free list visits each vacant item once
/// and ends with `NIL` (INV-11).
pub(crate) struct Arena<T> {
    chunks: Vec<Vec<T>>,
    /// Items that were ever in use: those with index below `touched`.
    touched: usize,
    in_use: usize,
    free: u32,
}

impl<T: Slot> Arena<T> {
    const SHIFT: u32 = {
        let fit = PAGE / size_of::<T>();
        if fit == 0 { 0 } else { fit.ilog2() }
    };
    const CHUNK: usize = 1 << Self::SHIFT;

    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    pub(crate) fn get(&self, index: u32) -> &T {
        let (chunk, at) = Self::locate(index as usize);
        &self.chunks[chunk][at]
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut T {
        let (chunk, at) = Self::locate(index as usize);
        &mut self.chunks[chunk][at]
    }

    /// All items, in use or vacant.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flatten()
    }

    /// Makes the next `n` calls of [`put`](Self::put) succeed. Those already reserved count.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<(), AllocError> {
        let needed = self.in_use.checked_add(n).ok_or(AllocError)?;
        if needed <= self.capacity() {
            return Ok(());
        }
        if needed > NIL as usize {
            return Err(AllocError);
        }
        let last = (needed - 1) >> Self::SHIFT;
        let missing = (last + 1).saturating_sub(self.chunks.len());
        self.chunks.try_reserve(missing).map_err(|_| AllocError)?;
        let known = self.chunks.len().saturating_sub(1);
        for index in known..=last {
            if index == self.chunks.len() {
                self.chunks.push(Vec::new());
            }
            let chunk = &mut self.chunks[index];
            // The first chunk grows by doubling: most trees are small. INV-10 for the others.
            let wanted = if index == 0 && last == 0 {
                needed
                    .max(2 * chunk.capacity())
                    .clamp(SMALLEST_CHUNK.min(Self::CHUNK), Self::CHUNK)
            } else {
                Self::CHUNK
            };
            let more = wanted.saturating_sub(chunk.len());
            chunk.try_reserve_exact(more).map_err(|_| AllocError)?;
        }
        Ok(())
    }

    /// Stores `item` and returns its index.
    ///
    /// Panics unless it was reserved.
    pub(crate) fn put(&mut self, item: T) -> u32 {
        assert!(self.in_use < self.capacity(), "arena slot was not reserved");
        self.in_use += 1;
        if self.free != NIL {
            let index = self.free;
            self.free = self.get(index).next_vacant();
            *self.get_mut(index) = item;
            return index;
        }
        let index = u32::try_from(self.touched).expect("reserve keeps indices below NIL");
        let (chunk, _) = Self::locate(self.touched);
        self.chunks[chunk].push(item);
        self.touched += 1;
        index
    }

    /// Takes the item at `index`, which becomes vacant.
    pub(crate) fn take(&mut self, index: u32) -> T {
        let vacant = T::vacant(self.free);
        self.free = index;
        self.in_use -= 1;
        core::mem::replace(self.get_mut(index), vacant)
    }

    /// Bytes obtained from the host.
    pub(crate) fn heap_bytes(&self) -> usize {
        let chunks = self
            .chunks
            .iter()
            .map(|chunk| chunk.capacity() * size_of::<T>());
        self.chunks.capacity() * size_of::<Vec<T>>() + chunks.sum::<usize>()
    }

    /// Panics if INV-10 or INV-11 does not hold.
    pub(crate) fn validate(&self) {
        let full = self.chunks.len().saturating_sub(1);
        for chunk in &self.chunks[..full] {
            assert!(chunk.capacity() >= Self::CHUNK, "INV-10");
        }
        let (mut vacant, mut at) = (0, self.free);
        while at != NIL {
            vacant += 1;
            assert!(vacant <= self.touched, "INV-11: a cycle in the free list");
            at = self.get(at).next_vacant();
        }
        assert_eq!(vacant + self.in_use, self.touched, "INV-11");
    }

    fn capacity(&self) -> usize {
        self.chunks.last().map_or(0, |last| {
            (self.chunks.len() - 1) * Self::CHUNK + last.capacity().min(Self::CHUNK)
        })
    }

    const fn locate(index: usize) -> (usize, usize) {
        (index >> Self::SHIFT, index & (Self::CHUNK - 1))
    }
}

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            touched: 0,
            in_use: 0,
            free: NIL,
        }
    }
}

/// What a chunk may measure: a size that any kernel heap has ready.
const PAGE: usize = 4096;
const SMALLEST_CHUNK: usize = 4;

//! What may become of the pages of each pageblock. Linux: `struct zone::pageblock_flags`, include/linux/pageblock-flags.h.
//!
//! A zone is cut into aligned blocks of [`Order::PAGEBLOCK`]; the first and the last may lie in it only in part, and two
//! zones that meet inside a block have an entry for it each. One byte for each block, beside the descriptors: 4 KiB for
//! 8 GiB.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use kmm_frame::{MigrateType, Order, Pfn, PfnRange};

/// What is known of one pageblock: its type, and whether any of its frames is RAM.
#[derive(Debug)]
#[repr(transparent)]
pub struct Pageblock(AtomicU8);

/// The low bits are the type.
const TYPE: u8 = 0b0111;
/// One of the frames, or more, is RAM.
const PRESENT: u8 = 0b1000;

const _: () = assert!(MigrateType::COUNT <= TYPE as usize + 1);

impl Pageblock {
    /// A block as at boot: movable, no RAM known yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(MigrateType::Movable as u8))
    }

    fn get(&self) -> (MigrateType, bool) {
        decode(self.0.load(Relaxed))
    }

    /// Replaces the type and keeps the rest; the type before. Atomic.
    fn swap(&self, kind: MigrateType) -> MigrateType {
        let replace = |bits: u8| Some(bits & !TYPE | kind as u8);
        let before = self.0.fetch_update(Relaxed, Relaxed, replace);
        decode(before.unwrap_or_else(|unchanged| unchanged)).0
    }
}

impl Default for Pageblock {
    fn default() -> Self {
        Self::new()
    }
}

/// Only types are stored, so every stored number is one.
fn decode(bits: u8) -> (MigrateType, bool) {
    let kind = MigrateType::from_index(usize::from(bits & TYPE)).unwrap_or(MigrateType::Movable);
    (kind, bits & PRESENT != 0)
}

/// The pageblocks of one zone: a handle on storage that was handed in.
///
/// Each call is atomic by itself and safe from any CPU; the holder of the zone lock sees no change by others if they
/// keep to it as well.
#[derive(Clone, Copy, Debug)]
pub struct Pageblocks {
    range: PfnRange,
    blocks: &'static [Pageblock],
}

impl Pageblocks {
    /// Those of a zone without frames.
    pub const EMPTY: Self = Self {
        range: PfnRange::EMPTY,
        blocks: &[],
    };

    /// How many pageblocks have frames of `range`.
    #[must_use]
    pub const fn count_for(range: PfnRange) -> usize {
        if range.is_empty() {
            return 0;
        }
        let last = Pfn::new(range.end().index() - 1);
        number(last) - number(range.start()) + 1
    }

    /// The pageblocks of the frames of `range`, in `blocks`; `None` if these are fewer than [`Pageblocks::count_for`].
    #[must_use]
    pub fn new(range: PfnRange, blocks: &'static [Pageblock]) -> Option<Self> {
        let blocks = blocks.get(..Self::count_for(range))?;
        Some(Self { range, blocks })
    }

    /// Says that the frames of `range` are RAM: only pageblocks with RAM are counted.
    pub fn add_present(&self, range: PfnRange) {
        let part = self.range.intersect(range);
        if part.is_empty() {
            return;
        }
        let (first, last) = (self.slot(part.start()), self.slot(part.end() - 1));
        for block in &self.blocks[first..=last] {
            block.0.fetch_or(PRESENT, Relaxed);
        }
    }

    /// The type of the pageblock of a frame; `None` for frames outside the zone. Linux: `get_pageblock_migratetype`.
    #[must_use]
    pub fn type_of(&self, pfn: Pfn) -> Option<MigrateType> {
        self.range
            .contains(pfn)
            .then(|| self.blocks[self.slot(pfn)].get().0)
    }

    /// Changes the type of the pageblock of a frame; the type before, or `None` for frames outside the zone. Free blocks
    /// stay on their lists. Linux: `set_pageblock_migratetype`.
    pub fn set_type(&self, pfn: Pfn, kind: MigrateType) -> Option<MigrateType> {
        self.range
            .contains(pfn)
            .then(|| self.blocks[self.slot(pfn)].swap(kind))
    }

    /// How many pageblocks with RAM there are of each type. O(n) in pageblocks. Linux: `pagetypeinfo_showblockcount`.
    #[must_use]
    pub fn nr_blocks(&self) -> [usize; MigrateType::COUNT] {
        let mut counts = [0; MigrateType::COUNT];
        for (kind, is_present) in self.blocks.iter().map(Pageblock::get) {
            counts[kind.index()] += usize::from(is_present);
        }
        counts
    }

    /// The place of a frame of the zone.
    const fn slot(&self, pfn: Pfn) -> usize {
        number(pfn) - number(self.range.start())
    }
}

const fn number(pfn: Pfn) -> usize {
    pfn.index() >> Order::PAGEBLOCK.get()
}

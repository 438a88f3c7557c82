//! What may become of the pages of each pageblock. Linux: `struct zone::pageblock_flags`, include/linux/pageblock-flags.h.
//!
//! A zone is cut into aligned blocks of [`Order::PAGEBLOCK`]; the first and the last may lie in it only in part, and two
//! zones that meet inside a block have an entry for it each. One byte for each block, beside the descriptors: 4 KiB for
//! 8 GiB.
//!
//! Only the allocator of the zone changes types, as the free blocks of a pageblock go with it; anyone may read them.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use kmm_frame::{MigrateType, Order, Pfn, PfnRange};

/// What is known of one pageblock: its type, whether any of its frames is RAM, and whether its owner marked it as near.
#[derive(Debug)]
#[repr(transparent)]
pub struct Pageblock(AtomicU8);

/// The low bits are the type.
const TYPE: u8 = 0b0111;
/// Where the type from before is while the block is isolated.
const BEFORE_SHIFT: u32 = 5;
/// One of the frames, or more, is RAM.
const PRESENT: u8 = 0b1000;
/// What comes back from here is kept at hand ([`Pageblocks::set_near`]).
const NEAR: u8 = 0b1_0000;

const _: () = assert!(MigrateType::COUNT <= TYPE as usize + 1);

impl Pageblock {
    /// A block as at boot: movable, no RAM known yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(MigrateType::Movable as u8))
    }

    /// How many routes there are.
    pub const NR_ROUTES: usize = (TYPE | PRESENT | NEAR) as usize + 1;
    /// What the route of a pageblock that is marked as near has more than that of another.
    pub const NEAR_ROUTE: usize = NEAR as usize;

    /// What to do with blocks of this pageblock that come back, as an index into a table of [`Pageblock::NR_ROUTES`]: one
    /// for each type, and others for pageblocks that are near, or without RAM.
    #[inline]
    #[must_use]
    pub fn route(&self) -> usize {
        usize::from(self.0.load(Relaxed) & (TYPE | PRESENT | NEAR))
    }

    /// The route of pageblocks of a type that have RAM and are not near.
    #[must_use]
    pub const fn route_of(kind: MigrateType) -> usize {
        kind.index() | PRESENT as usize
    }

    #[inline]
    fn get(&self) -> (MigrateType, bool) {
        decode(self.0.load(Relaxed))
    }

    /// Replaces the type, of which an isolated block remembers the last. Atomic.
    fn replace(&self, kind: MigrateType) {
        let replace = |bits: u8| {
            let last = match kind {
                MigrateType::Isolate => (bits & TYPE) << BEFORE_SHIFT,
                _ => 0,
            };
            Some(bits & (PRESENT | NEAR) | kind as u8 | last)
        };
        // It never refuses.
        let _ = self.0.fetch_update(Relaxed, Relaxed, replace);
    }
}

impl Default for Pageblock {
    fn default() -> Self {
        Self::new()
    }
}

/// Only types are stored, so every stored number is one.
pub(crate) const KINDS: [MigrateType; TYPE as usize + 1] = {
    let mut kinds = [MigrateType::Movable; TYPE as usize + 1];
    let mut nr = 0;
    while nr < MigrateType::COUNT {
        kinds[nr] = MigrateType::ALL[nr];
        nr += 1;
    }
    kinds
};

#[inline]
const fn decode(bits: u8) -> (MigrateType, bool) {
    (KINDS[(bits & TYPE) as usize], bits & PRESENT != 0)
}

/// Whether blocks of this type merge with those of other such types, of the size of a pageblock and above.
/// Linux: `migratetype_is_mergeable`.
pub(crate) const fn is_mergeable(kind: MigrateType) -> bool {
    use MigrateType::{Movable, Reclaimable, Unmovable};
    matches!(kind, Unmovable | Movable | Reclaimable)
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

    /// All of them, in the order of memory.
    #[must_use]
    pub const fn entries(&self) -> &'static [Pageblock] {
        self.blocks
    }

    /// Says that the frames of `range` are RAM: only pageblocks with RAM are counted.
    pub fn add_present(&self, range: PfnRange) {
        for block in self.blocks_of(range) {
            block.0.fetch_or(PRESENT, Relaxed);
        }
    }

    /// Says that the frames of whole pageblocks are RAM no more.
    pub fn remove_present(&self, range: PfnRange) {
        for block in self.blocks_of(range) {
            block.0.fetch_and(!PRESENT, Relaxed);
        }
    }

    /// Marks the pageblocks of the frames of `range` as near, or not so any more: what that means is up to the allocator in
    /// front of the free lists, which asks for it by [`Pageblock::route`].
    ///
    /// By one CPU at a time, which nobody else changes a pageblock of these beside: a load and a store, as a locked instruction
    /// for each would be a third of what it costs to take one.
    pub fn set_near(&self, range: PfnRange, is_near: bool) {
        for block in self.blocks_of(range) {
            let bits = block.0.load(Relaxed);
            block
                .0
                .store(if is_near { bits | NEAR } else { bits & !NEAR }, Relaxed);
        }
    }

    /// Whether a pageblock of the frames of `range` has RAM. O(n) in pageblocks.
    #[must_use]
    pub fn has_present_in(&self, range: PfnRange) -> bool {
        self.blocks_of(range).iter().any(|block| block.get().1)
    }

    /// Whether every pageblock of the frames of `range` has RAM. O(n) in pageblocks.
    #[must_use]
    pub fn has_all_present_in(&self, range: PfnRange) -> bool {
        self.blocks_of(range).iter().all(|block| block.get().1)
    }

    /// The frames from the first to the last pageblock with RAM. O(n) in pageblocks.
    #[must_use]
    pub fn present_span(&self) -> PfnRange {
        let is_present = |block: &Pageblock| block.get().1;
        let Some(first) = self.blocks.iter().position(is_present) else {
            return PfnRange::EMPTY;
        };
        let last = self.blocks.iter().rposition(is_present).unwrap_or(first);
        let start = |nr: usize| Pfn::new((self.first() + nr) << Order::PAGEBLOCK.get());
        PfnRange::new(start(first), start(last + 1)).intersect(self.range)
    }

    fn blocks_of(&self, range: PfnRange) -> &[Pageblock] {
        let part = self.range.intersect(range);
        if part.is_empty() {
            return &[];
        }
        &self.blocks[self.slot(part.start())..=self.slot(part.end() - 1)]
    }

    /// The type of the pageblock of a frame; `None` for frames outside the zone. [`crate::Buddy::set_type`] changes it.
    /// Linux: `get_pageblock_migratetype`.
    #[must_use]
    pub fn type_of(&self, pfn: Pfn) -> Option<MigrateType> {
        self.range
            .contains(pfn)
            .then(|| self.blocks[self.slot(pfn)].get().0)
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

    /// The frames that these are the pageblocks of.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// The number of the first pageblock, counted from frame 0.
    pub(crate) const fn first(&self) -> usize {
        number(self.range.start())
    }

    /// The type of a pageblock, counted from the first; what is outside is movable.
    #[inline]
    pub(crate) fn nth(&self, nr: usize) -> MigrateType {
        self.blocks
            .get(nr)
            .map_or(MigrateType::Movable, |block| block.get().0)
    }

    /// Changes the type of a pageblock, counted from the first.
    pub(crate) fn set_nth(&self, nr: usize, kind: MigrateType) {
        if let Some(block) = self.blocks.get(nr) {
            block.replace(kind);
        }
    }

    /// What an isolated pageblock was before. It is counted from the first.
    pub(crate) fn nth_before(&self, nr: usize) -> MigrateType {
        let bits = self.blocks.get(nr).map_or(0, |block| block.0.load(Relaxed));
        decode(bits >> BEFORE_SHIFT).0
    }

    /// The place of a frame of the zone.
    const fn slot(&self, pfn: Pfn) -> usize {
        number(pfn) - number(self.range.start())
    }
}

const fn number(pfn: Pfn) -> usize {
    pfn.index() >> Order::PAGEBLOCK.get()
}

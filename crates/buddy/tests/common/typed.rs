//! The oracle of a zone with migrate types: a flag for each frame, a type for each pageblock, and the rules of MODEL.md
//! word by word.

use std::collections::BTreeMap;

use kmm_buddy::{Buddy, FreeError};
use kmm_frame::{MigrateType, NR_ORDERS, Order, Pfn, PfnRange};

use super::{Wish, order, sorted};

use MigrateType::{Cma, HighAtomic, Isolate, Movable, Reclaimable, Unmovable};

/// First frame, order, type.
type Block = (usize, u8, MigrateType);

#[derive(Clone)]
pub struct Typed {
    range: PfnRange,
    free: Vec<bool>,
    kinds: Vec<MigrateType>,
    /// Before they were isolated.
    kinds_before: BTreeMap<usize, MigrateType>,
    pub held: Vec<(usize, u8)>,
    /// Requests that got another type, and changes of types.
    pub nr_fallbacks: u64,
    pub nr_changes: u64,
}
const fn mergeable(kind: MigrateType) -> bool {
    matches!(kind, Unmovable | Movable | Reclaimable)
}

impl Typed {
    pub fn new(range: PfnRange) -> Self {
        Self {
            range,
            free: vec![false; range.end().index()],
            kinds: vec![Movable; range.end().index() / 512 + 1],
            kinds_before: BTreeMap::new(),
            held: Vec::new(),
            nr_fallbacks: 0,
            nr_changes: 0,
        }
    }

    pub fn is_free(&self, pfn: usize) -> bool {
        self.free.get(pfn).copied().unwrap_or(false)
    }

    pub fn kind(&self, pfn: usize) -> MigrateType {
        self.kinds[pfn / 512]
    }

    pub fn set(&mut self, start: usize, len: usize, free: bool) {
        for pfn in start..start + len {
            assert!(self.range.contains(Pfn::new(pfn)));
            assert_ne!(self.free[pfn], free, "frame {pfn} twice");
            self.free[pfn] = free;
        }
    }

    fn all_free(&self, start: usize, n: u8) -> bool {
        (start..start + (1 << n)).all(|pfn| self.is_free(pfn))
    }

    ///
    fn largest(&self, pfn: usize) -> Option<u8> {
        let fits = |n: &u8| pfn % (1 << n) == 0 && self.all_free(pfn, *n);
        let n = (0..=9).take_while(fits).last()?;
        let same = || self.kinds[pfn / 512] == self.kinds[pfn / 512 + 1];
        Some(if n == 9 && fits(&10) && same() { 10 } else { n })
    }

    /// A-1, by address.
    pub fn blocks(&self) -> Vec<Block> {
        let mut found = Vec::new();
        let mut pfn = self.range.start().index();
        while pfn < self.range.end().index() {
            match self.largest(pfn) {
                Some(n) => {
                    found.push((pfn, n, self.kind(pfn)));
                    pfn += 1 << n;
                }
                None => pfn += 1,
            }
        }
        found
    }

    fn nr_free(&self, is_counted: impl Fn(MigrateType) -> bool) -> usize {
        let frames = self.range.iter().map(Pfn::index);
        frames
            .filter(|&pfn| self.free[pfn] && is_counted(self.kind(pfn)))
            .count()
    }

    fn cma_first(&self, wish: Wish) -> bool {
        wish.cma && self.nr_free(|kind| kind == Cma) > self.nr_free(|kind| kind != Isolate) / 2
    }

    /// Pageblocks of a type with a free block of `n` or above: the order of their largest block, and their number.
    fn candidates(&self, n: u8, kind: MigrateType) -> Vec<(u8, usize)> {
        let mut largest = BTreeMap::new();
        for (pfn, n, other) in self.blocks() {
            let most: &mut u8 = largest.entry(pfn / 512).or_insert(n);
            *most = n.max(*most);
            assert_eq!(other, self.kinds[pfn / 512]);
        }
        let fits = |&(largest, nr): &(u8, usize)| largest >= n && self.kinds[nr] == kind;
        largest
            .into_iter()
            .map(|(nr, most)| (most, nr))
            .filter(fits)
            .collect()
    }

    /// The smallest, then lowest block of a pageblock that fits.
    fn best_in(&self, nr: usize, n: u8) -> Option<usize> {
        let blocks = self.blocks();
        let fitting = blocks.iter().filter(|b| b.0 / 512 == nr && b.1 >= n);
        fitting.min_by_key(|b| (b.1, b.0)).map(|b| b.0)
    }

    ///
    fn own(&self, n: u8, kind: MigrateType) -> Option<usize> {
        let (_, nr) = self.candidates(n, kind).into_iter().min()?;
        self.best_in(nr, n).filter(|_| kind != Isolate)
    }

    /// Another type for a pageblock, whatever the reason.
    pub fn set_kind(&mut self, nr: usize, kind: MigrateType) {
        self.nr_changes += u64::from(self.kinds[nr] != kind);
        if kind == Isolate && self.kinds[nr] != Isolate {
            self.kinds_before.insert(nr, self.kinds[nr]);
        }
        self.kinds[nr] = kind;
    }

    /// Pageblocks that are free as a whole, of the types that fall back on each other.
    fn nr_whole(&self) -> usize {
        let (first, last) = (self.range.start().index(), self.range.end().index() - 1);
        let is_whole = |nr: &usize| mergeable(self.kinds[*nr]) && self.all_free(nr * 512, 9);
        (first / 512..=last / 512).filter(is_whole).count()
    }

    ///
    fn few_whole(&self) -> bool {
        self.nr_whole() <= self.range.nr_pages() / 512 / 16
    }

    fn nr_free_in(&self, nr: usize) -> usize {
        let frames = nr * 512..nr * 512 + 512;
        frames.filter(|&pfn| self.is_free(pfn)).count()
    }

    /// A-2, of fragments.
    fn own_fragment(&self, n: u8, kind: MigrateType) -> Option<usize> {
        let mut found = self.candidates(n, kind);
        found.retain(|(largest, _)| *largest < 9);
        let (_, nr) = found.into_iter().min()?;
        self.best_in(nr, n).filter(|_| kind != Isolate)
    }

    /// A-7, while few pageblocks are whole: the pageblock whose fragments do as well.
    fn foreign(&self, n: u8, wish: Wish) -> Option<usize> {
        let partners: &[MigrateType] = match wish.kind {
            Unmovable => &[Reclaimable],
            Movable => &[Reclaimable, Unmovable],
            Reclaimable => &[Unmovable],
            _ => &[],
        };
        // The order of the largest block, the rank of the type, the pageblock.
        let mut found: Vec<(u8, usize, usize)> = Vec::new();
        for (rank, &kind) in partners.iter().enumerate() {
            let of_kind = self.candidates(n, kind).into_iter();
            found.extend(of_kind.map(|(largest, nr)| (largest, rank, nr)));
        }
        found.retain(|(largest, ..)| *largest < 9 && !wish.whole_only);
        found.into_iter().min().map(|(.., nr)| nr)
    }

    /// A-7, the same: the movable pageblock that becomes one of the request's type.
    fn claimed(&self, n: u8, wish: Wish) -> Option<usize> {
        if wish.whole_only || !matches!(wish.kind, Unmovable | Reclaimable) {
            return None;
        }
        let mut found = self.candidates(n, Movable);
        found.retain(|(largest, _)| *largest < 9);
        let first = self.range.start().index() / 1024 * 2;
        let group = |nr: usize| (nr - first) / 64;
        let last = |largest| {
            let same = found.iter().filter(|found| found.0 == largest);
            same.map(|found| group(found.1)).max()
        };
        let in_last_group = |found: &&(u8, usize)| Some(group(found.1)) == last(found.0);
        let looked_at = found.iter().filter(in_last_group);
        let (_, nr) =
            looked_at.min_by_key(|(largest, nr)| (512 - self.nr_free_in(*nr), 9 - largest, *nr))?;
        Some(*nr).filter(|nr| self.nr_free_in(*nr) >= 64)
    }

    /// A-7, where there is nothing of one's own, and few pageblocks may be whole: the frame, after types changed.
    fn other(&mut self, n: u8, wish: Wish) -> Option<usize> {
        if wish.cma {
            if let Some(pfn) = self.own(n, Cma) {
                return Some(pfn);
            }
        }
        let order_of = match wish.kind {
            Unmovable => [Reclaimable, Movable],
            Movable => [Reclaimable, Unmovable],
            Reclaimable => [Unmovable, Movable],
            _ => return None,
        };
        let least = if wish.whole_only { n.max(9) } else { n };
        // The order of the largest block, the rank of the type, the pageblock.
        let mut others: Vec<(u8, usize, usize)> = Vec::new();
        for (rank, kind) in order_of.into_iter().enumerate() {
            let found = self.candidates(least, kind).into_iter();
            others.extend(found.map(|(largest, nr)| (largest, rank, nr)));
        }
        others.sort_by_key(|&(largest, rank, nr)| (u8::MAX - largest, rank, nr));
        let &(largest, _, nr) = others.first()?;
        self.nr_fallbacks += 1;
        let pfn = self.best_in(nr, n);
        if largest >= 9 {
            (nr..nr + (1 << (largest - 9))).for_each(|nr| self.set_kind(nr, wish.kind));
        }
        pfn
    }

    /// A-7, while few pageblocks are whole and no fragment of one's own fits. `own` says where one comes from in a pageblock
    /// that was claimed.
    fn frugal(&mut self, n: u8, wish: Wish) -> Option<usize> {
        if wish.cma {
            if let Some(pfn) = self.own(n, Cma) {
                return Some(pfn);
            }
        }
        if let Some(nr) = self.foreign(n, wish) {
            self.nr_fallbacks += 1;
            return self.best_in(nr, n);
        }
        let nr = self.claimed(n, wish)?;
        self.nr_fallbacks += 1;
        self.set_kind(nr, wish.kind);
        self.best_in(nr, n)
    }

    fn plan(&mut self, n: u8, wish: Wish) -> Option<usize> {
        if self.cma_first(wish) {
            if let Some(pfn) = self.own(n, Cma) {
                return Some(pfn);
            }
        }
        if n < 9 {
            if let Some(pfn) = self.own_fragment(n, wish.kind) {
                return Some(pfn);
            }
            if self.few_whole() {
                let found = self.frugal(n, wish);
                if found.is_some() || wish.sparing && self.nr_whole() > 0 {
                    return found;
                }
            }
        }
        self.own(n, wish.kind).or_else(|| self.other(n, wish))
    }

    /// of the lowest 64 frames that have any in blocks smaller than a pageblock, blocks of order 0, then any.
    fn page_fragment(&self, is_there: impl Fn(&Block) -> bool) -> Option<usize> {
        let blocks = self.blocks();
        let fragments = blocks.iter().filter(|b| b.1 < 9 && b.2 != Isolate);
        fragments
            .filter(|b| is_there(b))
            .min_by_key(|b| (b.0 / 64, b.1 > 0, b.0))
            .map(|b| b.0)
    }

    ///
    fn own_page(&self, kind: MigrateType) -> Option<usize> {
        let mut blocks = self.blocks();
        blocks.retain(|b| b.2 == kind && kind != Isolate);
        let whole = || blocks.iter().min_by_key(|b| (b.1, b.0)).map(|b| b.0);
        self.page_fragment(|b| b.2 == kind).or_else(whole)
    }

    /// How many pages of CMA there are to be taken before others: until it is not more than half.
    fn surplus(&self, wish: Wish) -> usize {
        let cma = self.nr_free(|kind| kind == Cma);
        let all = self.nr_free(|kind| kind != Isolate);
        (0..cma)
            .take_while(|n| wish.cma && cma - n > (all - n) / 2)
            .count()
    }

    fn plan_page(&mut self, wish: Wish, surplus: usize) -> Option<usize> {
        if surplus > 0 {
            return self.own_page(Cma);
        }
        if let Some(pfn) = self.page_fragment(|b| b.2 == wish.kind) {
            return Some(pfn);
        }
        if self.few_whole() && wish.kind != Isolate {
            if wish.cma {
                if let Some(pfn) = self.own_page(Cma) {
                    return Some(pfn);
                }
            }
            let foreign = self.foreign(0, wish);
            let nr = foreign.or_else(|| self.claimed(0, wish));
            if let Some(nr) = nr {
                self.nr_fallbacks += 1;
                if foreign.is_none() {
                    self.set_kind(nr, wish.kind);
                }
                return self.page_fragment(|b| b.0 / 512 == nr);
            }
            if wish.sparing && self.nr_whole() > 0 {
                return None;
            }
        }
        self.own_page(wish.kind).or_else(|| self.other(0, wish))
    }

    /// Whether a batch that has some ends here: the next page would be of its own type and lie too far up.
    fn ends_here(&self, wish: Wish) -> bool {
        let mut next = self.page_fragment(|b| b.2 == wish.kind);
        let cma = || wish.cma && self.own_page(Cma).is_some();
        let other = || self.foreign(0, wish).or_else(|| self.claimed(0, wish));
        if next.is_none() && !(self.few_whole() && (cma() || other().is_some())) {
            next = self.own_page(wish.kind);
        }
        next.is_some_and(|pfn| pfn / 512 * 512 >= wish.end)
    }

    /// Takes from both, and checks the answer.
    pub fn take(&mut self, buddy: &mut Buddy, n: u8, wish: Wish) -> Option<usize> {
        let before = self.clone();
        let expected = self.plan(n, wish);
        let taken = buddy.take(order(n), wish.request()).ok().map(Pfn::index);
        assert_eq!(taken, expected, "order {n} {wish:?} {before:?}");
        if let Some(pfn) = taken {
            self.set(pfn, 1 << n, false);
            self.held.push((pfn, n));
        }
        taken
    }

    /// Takes single pages from both, and checks the answers; how many.
    pub fn take_pages(&mut self, buddy: &mut Buddy, most: usize, wish: Wish) -> usize {
        let mut taken = Vec::new();
        let count = buddy.take_pages(most, wish.request(), |pfn| taken.push(pfn.index()));
        assert_eq!(count, taken.len());
        let surplus = self.surplus(wish);
        let mut pageblock = usize::MAX;
        for (nr, &pfn) in taken.iter().enumerate() {
            // A pageblock that was begun is gone on with.
            let goes_on = pfn / 512 == pageblock || nr < surplus;
            assert!(nr == 0 || goes_on || !self.ends_here(wish), "page {nr}");
            pageblock = pfn / 512;
            assert_eq!(
                Some(pfn),
                self.plan_page(wish, surplus.saturating_sub(nr)),
                "page {nr} of {most} {wish:?}"
            );
            self.set(pfn, 1, false);
            self.held.push((pfn, 0));
        }
        if count < most && !(count > 0 && self.ends_here(wish)) {
            assert_eq!(self.plan_page(wish, 0), None, "{wish:?}");
        }
        count
    }

    /// Takes blocks from both, as one after the other.
    pub fn take_blocks(&mut self, buddy: &mut Buddy, n: u8, most: usize, wish: Wish) {
        let mut taken = Vec::new();
        let count = buddy.take_blocks(order(n), most, wish.request(), |pfn| {
            taken.push(pfn.index())
        });
        assert_eq!(count, taken.len());
        for &pfn in &taken {
            assert_eq!(Some(pfn), self.plan(n, wish), "{wish:?}");
            self.set(pfn, 1 << n, false);
            self.held.push((pfn, n));
        }
        if count < most {
            assert_eq!(self.plan(n, wish), None, "{wish:?}");
        }
    }

    /// A-9, after frames came back.
    fn merge_types(&mut self, start: usize, n: u8) {
        let last = start + (1 << n) - 1;
        for nr in start / 512..=last / 512 {
            let (twin, whole) = (nr ^ 1, |nr: usize| self.all_free(nr * 512, 9));
            // Of two that come back at once, the lower one finds the upper one still away.
            let is_away = n == 10 && nr % 2 == 0;
            if whole(nr) && whole(twin) && !is_away {
                let (kind, other) = (self.kinds[nr], self.kinds[twin]);
                if kind != other && mergeable(kind) && mergeable(other) {
                    self.set_kind(twin, kind);
                }
            }
        }
    }

    /// Gives the held block `nr` back to both.
    pub fn put(&mut self, buddy: &mut Buddy, nr: usize) {
        let (pfn, n) = self.held.swap_remove(nr);
        assert_eq!(buddy.put(Pfn::new(pfn), order(n)), Ok(()));
        self.set(pfn, 1 << n, true);
        self.merge_types(pfn, n);
    }

    /// Gives held single pages back to both as a batch, up to `most`, some of them twice.
    pub fn put_pages(&mut self, buddy: &mut Buddy, most: usize) {
        let is_page = |block: &&(usize, u8)| block.1 == 0;
        let mut pages: Vec<usize> = self.held.iter().filter(is_page).map(|b| b.0).collect();
        pages.truncate(most);
        self.held.retain(|b| b.1 != 0 || !pages.contains(&b.0));
        let mut twice: Vec<usize> = pages.iter().copied().step_by(7).collect();
        let batch: Vec<Pfn> = pages.iter().chain(&twice).copied().map(Pfn::new).collect();
        let mut refused = Vec::new();
        buddy.put_pages(batch, |pfn, why| {
            assert_eq!(why, FreeError::AlreadyFree);
            refused.push(pfn.index());
        });
        refused.sort_unstable();
        twice.sort_unstable();
        assert_eq!(refused, twice);
        // A word of frames at a time: they are free before types are looked at.
        let mut rest = pages.as_slice();
        while let Some(&first) = rest.first() {
            let len = rest
                .iter()
                .take_while(|pfn| *pfn / 64 == first / 64)
                .count();
            rest[..len].iter().for_each(|&pfn| self.set(pfn, 1, true));
            self.merge_types(first, 0);
            rest = &rest[len..];
        }
    }

    /// Changes a type in both.
    pub fn set_type(&mut self, buddy: &mut Buddy, pfn: usize, kind: MigrateType) {
        assert_eq!(buddy.set_type(Pfn::new(pfn), kind), Some(self.kind(pfn)));
        self.set_kind(pfn / 512, kind);
    }

    /// A type from before the first operation.
    pub fn start_as(&mut self, pfn: usize, kind: MigrateType) {
        self.kinds[pfn / 512] = kind;
    }

    /// What `Buddy::isolate` did.
    pub fn isolate(&mut self, range: PfnRange) {
        for nr in range.start().index() / 512..=(range.end().index() - 1) / 512 {
            assert_ne!(self.kinds[nr], Isolate);
            self.set_kind(nr, Isolate);
        }
    }

    /// What `Buddy::undo_isolate` did.
    pub fn undo_isolate(&mut self, range: PfnRange) {
        for nr in range.start().index() / 512..=(range.end().index() - 1) / 512 {
            if self.kinds[nr] == Isolate {
                let before = self.kinds_before[&nr];
                self.set_kind(nr, before);
            }
        }
    }

    /// Where the next pageblock of the reserve goes back, if one does.
    pub fn unreserve(&mut self, buddy: &mut Buddy, kind: MigrateType) {
        let found = self.candidates(0, HighAtomic).into_iter().min();
        assert_eq!(buddy.unreserve_highatomic(kind), found.is_some());
        if let Some((_, nr)) = found {
            self.set_kind(nr, kind);
        }
    }

    pub fn nr_pageblocks(&self, kind: MigrateType) -> usize {
        let (first, last) = (self.range.start().index(), self.range.end().index() - 1);
        let kinds = &self.kinds[first / 512..=last / 512];
        kinds.iter().filter(|other| **other == kind).count()
    }

    /// The two agree, and the structure is sound.
    pub fn compare(&self, buddy: &Buddy) {
        let blocks = self.blocks();
        let plain: Vec<(usize, u8)> = blocks.iter().map(|b| (b.0, b.1)).collect();
        assert_eq!(sorted(buddy.free_blocks()), plain);
        let mut counts = [[0; NR_ORDERS]; MigrateType::COUNT];
        for (_, n, kind) in &blocks {
            counts[kind.index()][usize::from(*n)] += 1;
        }
        assert_eq!(buddy.nr_free_by_type(), counts);
        for o in Order::all() {
            let of_order: usize = counts.iter().map(|row| row[o.index()]).sum();
            assert_eq!(buddy.nr_free(o), of_order);
        }
        for kind in MigrateType::ALL {
            let frames = self.nr_free(|other| other == kind);
            assert_eq!(buddy.nr_free_pages_of(kind), frames);
        }
        assert_eq!(buddy.nr_free_pages(), self.nr_free(|kind| kind != Isolate));
        let reserved = 512 * self.nr_pageblocks(HighAtomic);
        assert_eq!(buddy.nr_reserved_highatomic(), reserved);
        for nr in self.range.start().index() / 512..=(self.range.end().index() - 1) / 512 {
            let pfn = Pfn::new((nr * 512).max(self.range.start().index()));
            assert_eq!(buddy.type_of(pfn), Some(self.kinds[nr]));
        }
        assert_eq!(buddy.nr_type_changes(), self.nr_changes);
        assert_eq!(buddy.nr_fallbacks(), self.nr_fallbacks);
    }
}

impl core::fmt::Debug for Typed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "free {:?} held {:?}", self.blocks(), self.held)
    }
}

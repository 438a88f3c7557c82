//! What the tests share: a descriptor array, seeded random numbers, and the oracle.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test uses a part of it"
)]

pub mod typed;

use kmm_buddy::{Buddy, FreeBits, FreeBlock, FreeError, Pageblock, Pageblocks, Request};
use kmm_frame::{MAX_ORDER, MemMap, MigrateType, NR_ORDERS, Order, Page, PageFlags, Pfn, PfnRange};

pub fn frames(start: usize, end: usize) -> PfnRange {
    PfnRange::new(Pfn::new(start), Pfn::new(end))
}

pub fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

/// Descriptors of `range`, none of them reserved.
pub fn map_of(range: PfnRange) -> MemMap {
    let pages: Vec<Page> = range.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(range, Box::leak(pages.into_boxed_slice())).unwrap();
    for pfn in range.iter() {
        map.page(pfn).clear(PageFlags::RESERVED);
    }
    map
}

/// All pageblocks of `range`, movable.
pub fn pageblocks_of(range: PfnRange) -> Pageblocks {
    let blocks: Vec<Pageblock> = (0..Pageblocks::count_for(range))
        .map(|_| Pageblock::new())
        .collect();
    Pageblocks::new(range, blocks.leak()).unwrap()
}

/// A zone of `range`, nothing of it free.
pub fn empty(range: PfnRange, map: MemMap) -> Buddy {
    let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range.intersect(map.range()))];
    let blocks = pageblocks_of(range.intersect(map.range()));
    Buddy::new(range, map, storage.leak(), blocks).unwrap()
}

/// A zone of `range`, all free.
pub fn full(range: PfnRange) -> Buddy {
    let mut buddy = empty(range, map_of(range));
    buddy.add_free_range(range).unwrap();
    buddy
}

pub fn sorted(blocks: impl Iterator<Item = FreeBlock>) -> Vec<(usize, u8)> {
    let mut blocks: Vec<_> = blocks.map(|b| (b.pfn.index(), b.order.get())).collect();
    blocks.sort_unstable();
    blocks
}

/// What a request is, in words of its own.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub kind: MigrateType,
    pub cma: bool,
    pub whole_only: bool,
    pub sparing: bool,
    /// Single pages of a batch from fragments in front of this frame.
    pub end: usize,
}

impl Wish {
    pub const fn of(kind: MigrateType) -> Self {
        Self {
            kind,
            cma: false,
            whole_only: false,
            sparing: false,
            end: usize::MAX,
        }
    }

    pub fn request(self) -> Request {
        let mut request = Request::new(self.kind);
        if self.cma {
            request = request.with_cma();
        }
        if self.whole_only {
            request = request.without_fragmenting();
        }
        if self.sparing {
            request = request.sparing();
        }
        request.up_to(Pfn::new(self.end))
    }
}

/// xorshift64*: small, seeded, the same everywhere.
pub struct Random(u64);

impl Random {
    /// Seeded by `KMM_SEED` where that is set, else by `seed`; says how to replay.
    pub fn new(test: &str, seed: u64) -> Self {
        let seed = match std::env::var("KMM_SEED") {
            Ok(text) => text.parse().expect("KMM_SEED is a number"),
            Err(_) => seed,
        };
        println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-buddy {test}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// Small orders more often than large ones.
    pub fn order(&mut self, most: u8) -> Order {
        let n = self.next().trailing_ones().min(u32::from(most));
        order(u8::try_from(n).unwrap())
    }
}

/// The oracle: one flag for each frame, and what follows from it by trying everything.
#[derive(Clone)]
pub struct Oracle {
    pub range: PfnRange,
    free: Vec<bool>,
    pub held: Vec<(usize, u8)>,
}

impl Oracle {
    pub fn new(range: PfnRange) -> Self {
        Self {
            range,
            free: vec![false; range.nr_pages()],
            held: Vec::new(),
        }
    }

    pub fn is_free(&self, pfn: usize) -> bool {
        self.range.contains(Pfn::new(pfn)) && self.free[pfn - self.range.start().index()]
    }

    pub fn set(&mut self, start: usize, len: usize, free: bool) {
        for pfn in start..start + len {
            let slot = &mut self.free[pfn - self.range.start().index()];
            assert_ne!(*slot, free, "frame {pfn} twice");
            *slot = free;
        }
    }

    fn all_free(&self, start: usize, n: u8) -> bool {
        (start..start + (1 << n)).all(|pfn| self.is_free(pfn))
    }

    /// Fully merged: a free frame belongs to the largest aligned block that is free as a whole.
    pub fn blocks(&self) -> Vec<(usize, u8)> {
        let mut found = Vec::new();
        let mut pfn = self.range.start().index();
        while pfn < self.range.end().index() {
            let largest = (0..=MAX_ORDER.get())
                .rev()
                .find(|&n| pfn % (1 << n) == 0 && self.all_free(pfn, n));
            match largest {
                Some(n) => {
                    found.push((pfn, n));
                    pfn += 1 << n;
                }
                None => pfn += 1,
            }
        }
        found
    }

    /// Where a request of `order` must come from: of the pageblocks with the smallest largest block that fits the lowest, and
    /// in it the lowest of the smallest blocks that fit.
    pub fn place(&self, order: Order) -> Option<usize> {
        let blocks = self.blocks();
        let in_block = |nr: usize| blocks.iter().filter(move |b| b.0 / 512 == nr);
        let pageblocks = blocks.iter().map(|b| b.0 / 512);
        let largest = pageblocks.filter_map(|nr| Some((in_block(nr).map(|b| b.1).max()?, nr)));
        let (_, nr) = largest.filter(|(n, _)| *n >= order.get()).min()?;
        let fitting = in_block(nr).filter(|b| b.1 >= order.get());
        fitting.min_by_key(|b| (b.1, b.0)).map(|b| b.0)
    }

    /// Where the next single page of a batch must come from: of the lowest 64 frames that have any in blocks smaller
    /// than a pageblock, single ones first, then the lowest; else of
    /// the lowest of the smallest blocks that there are.
    pub fn page_place(&self) -> Option<usize> {
        let blocks = self.blocks();
        let fragments = blocks.iter().filter(|b| b.1 < 9);
        let fragment = fragments
            .min_by_key(|b| (b.0 / 64, b.1 > 0, b.0))
            .map(|b| b.0);
        let whole = || blocks.iter().min_by_key(|b| (b.1, b.0)).map(|b| b.0);
        fragment.or_else(whole)
    }

    /// Takes from both, and checks the answer.
    pub fn take(&mut self, buddy: &mut Buddy, order: Order) -> Option<usize> {
        let place = self.place(order);
        match buddy.take(order, MigrateType::Movable) {
            Ok(pfn) => {
                let pfn = pfn.index();
                assert_eq!(Some(pfn), place, "order {order}");
                self.set(pfn, order.nr_pages(), false);
                self.held.push((pfn, order.get()));
                Some(pfn)
            }
            Err(_) => {
                assert_eq!(place, None, "order {order} fails with blocks free");
                None
            }
        }
    }

    /// Takes `most` single pages from both, and checks the answer.
    pub fn take_pages(&mut self, buddy: &mut Buddy, most: usize) {
        let nr_free = self.free.iter().filter(|free| **free).count();
        let mut pages = Vec::new();
        let count = buddy.take_pages(most, MigrateType::Movable, |pfn| pages.push(pfn.index()));
        assert_eq!((count, pages.len()), (most.min(nr_free), count));
        for pfn in pages {
            assert_eq!(Some(pfn), self.page_place());
            self.set(pfn, 1, false);
            self.held.push((pfn, 0));
        }
    }

    /// Gives the held block `nr` back to both.
    pub fn put(&mut self, buddy: &mut Buddy, nr: usize) {
        let (pfn, n) = self.held.swap_remove(nr);
        assert_eq!(buddy.put(Pfn::new(pfn), order(n)), Ok(()));
        self.set(pfn, 1 << n, true);
    }

    /// Gives held single pages back to both as a batch, up to `most`, with one of them twice.
    pub fn put_pages(&mut self, buddy: &mut Buddy, most: usize) {
        let is_page = |block: &&(usize, u8)| block.1 == 0;
        let mut pages: Vec<usize> = self.held.iter().filter(is_page).map(|b| b.0).collect();
        pages.truncate(most);
        self.held.retain(|b| b.1 != 0 || !pages.contains(&b.0));
        pages.iter().for_each(|&pfn| self.set(pfn, 1, true));
        let twice = pages.get(most / 3).copied();
        let batch = pages.iter().copied().chain(twice).map(Pfn::new);
        let mut refused = Vec::new();
        buddy.put_pages(batch, |pfn, why| refused.push((pfn.index(), why)));
        let expected = twice.map(|pfn| (pfn, FreeError::AlreadyFree));
        assert_eq!(refused, expected.into_iter().collect::<Vec<_>>());
    }

    /// The two agree, and the structure is sound.
    pub fn compare(&self, buddy: &Buddy) {
        let blocks = self.blocks();
        assert_eq!(sorted(buddy.free_blocks()), blocks);
        let mut counts = [0; NR_ORDERS];
        for (_, n) in &blocks {
            counts[usize::from(*n)] += 1;
        }
        for o in Order::all() {
            assert_eq!(buddy.nr_free(o), counts[o.index()], "nr_free of {o}");
        }
        let free = self.free.iter().filter(|free| **free).count();
        assert_eq!(buddy.nr_free_pages(), free);
    }
}

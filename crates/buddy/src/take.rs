//! Which block a request gets. Linux: `__rmqueue`, `__rmqueue_fallback`, `rmqueue_bulk`, mm/page_alloc.c.
//!
//! Blocks of one's own type first, the smallest that fits. Where there are none, a block of another type, the largest
//! first: what is left of it is of use to those who come next, and other pageblocks are left alone. The pageblock that it
//! lies in changes its type if at least half of it is free: a request that had to go to others is seldom the last of its
//! type. Where that must not be, for pages that can be moved away anyhow, the smallest block that fits is taken, and the
//! pageblock stays what it is.

use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn};
use kmm_host::AllocError;

use crate::{Buddy, Request};

/// From this order on, any request may claim the pageblock of the block that it falls back on. Linux: `pageblock_order / 2`.
const LARGE: u8 = Order::PAGEBLOCK.get() / 2;
/// So much of a pageblock must be free for it to change its type.
const ENOUGH: usize = Order::PAGEBLOCK.nr_pages() / 2;

/// Orders of whole pageblocks, as numbers of bits.
const PAGEBLOCK: u32 = Order::PAGEBLOCK.get() as u32;
const PAIR: u32 = MAX_ORDER.get() as u32;

/// Where requests of a type go when there is nothing of it. Linux: `fallbacks`.
const fn fallbacks(kind: MigrateType) -> &'static [MigrateType] {
    use MigrateType::{Cma, HighAtomic, Isolate, Movable, Reclaimable, Unmovable};
    match kind {
        Unmovable => &[Reclaimable, Movable],
        Movable => &[Reclaimable, Unmovable],
        Reclaimable => &[Unmovable, Movable],
        HighAtomic | Cma | Isolate => &[],
    }
}

impl Buddy {
    /// Takes a block of `order` out, splitting a larger one if need be.
    ///
    /// It is the lowest part of the lowest block of the smallest order that fits, of the type of the request; where
    /// there is none, of another type.
    ///
    /// Linux: `__rmqueue` and `expand`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] if no block of `order` or above is free that the request may take; nothing has changed
    /// then.
    #[inline(always)]
    pub fn take(&mut self, order: Order, request: impl Into<Request>) -> Result<Pfn, AllocError> {
        let request = request.into();
        let mut taken = None;
        if request.may_use_cma() {
            taken = self.take_surplus(order);
        }
        if taken.is_none() {
            taken = self.take_own(request.kind(), order);
        }
        if taken.is_none() {
            taken = self.take_other(order, request);
        }
        taken.ok_or(AllocError::OutOfMemory)
    }

    /// Takes up to `most` single frames, as many as the request may have; how many were given to `sink`.
    ///
    /// They come from the fragments of one pageblock after the other, by address or nearly so; a whole pageblock is broken
    /// only when there are no fragments.
    ///
    /// Linux: `rmqueue_bulk`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn take_pages(
        &mut self,
        most: usize,
        request: impl Into<Request>,
        mut sink: impl FnMut(Pfn),
    ) -> usize {
        self.take_runs(most, request, |first, len| {
            (0..len).for_each(|i| sink(first + i));
        })
    }

    /// As [`Buddy::take_pages`]; those that lie side by side are given to `sink` at once, as the first and how many.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn take_runs(
        &mut self,
        most: usize,
        request: impl Into<Request>,
        mut sink: impl FnMut(Pfn, usize),
    ) -> usize {
        let request: Request = request.into();
        let mut left = most;
        if request.may_use_cma() {
            let surplus = left.min(self.surplus_cma());
            left -= self.take_own_pages(MigrateType::Cma, surplus, &mut sink);
        }
        left -= self.take_own_pages(request.kind(), left, &mut sink);
        while left > 0 {
            let Some(pfn) = self.take_other(Order::ZERO, request) else {
                break;
            };
            sink(pfn, 1);
            left -= 1;
            // A pageblock may have changed sides.
            left -= self.take_own_pages(request.kind(), left, &mut sink);
        }
        most - left
    }

    /// Takes up to `most` blocks of `order`, as [`Buddy::take`] does one after the other; how many were given to `sink`.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn take_blocks(
        &mut self,
        order: Order,
        most: usize,
        request: impl Into<Request>,
        mut sink: impl FnMut(Pfn),
    ) -> usize {
        let request: Request = request.into();
        let mut left = most;
        while left > 0 {
            // Whether it is time for CMA is asked for each block.
            if !request.may_use_cma() {
                left -= self.take_own_blocks(request.kind(), order, left, &mut sink);
            }
            if left == 0 {
                break;
            }
            let Ok(pfn) = self.take(order, request) else {
                break;
            };
            sink(pfn);
            left -= 1;
        }
        most - left
    }

    /// Whether [`Buddy::take`] would find a block of `order`.
    #[must_use]
    pub fn has_free(&self, order: Order, request: impl Into<Request>) -> bool {
        let request: Request = request.into();
        let has = |kind: MigrateType, order: Order| {
            kind != MigrateType::Isolate && self.areas().largest_orders(kind) >> order.get() != 0
        };
        let others = fallbacks(request.kind());
        has(request.kind(), order)
            || request.may_use_cma() && has(MigrateType::Cma, order)
            || others.iter().any(|&kind| has(kind, least(order, request)))
    }

    #[inline]
    fn take_own(&mut self, kind: MigrateType, order: Order) -> Option<Pfn> {
        match order {
            MAX_ORDER => self.take_own_pair(kind),
            Order::PAGEBLOCK => self.take_own_whole(kind),
            _ => self.take_own_part(kind, order),
        }
    }

    /// A block of CMA, if most of what is free is that.
    #[inline(never)]
    fn take_surplus(&mut self, order: Order) -> Option<Pfn> {
        if self.surplus_cma() == 0 {
            return None;
        }
        self.take_own(MigrateType::Cma, order)
    }

    #[inline(never)]
    fn take_own_pair(&mut self, kind: MigrateType) -> Option<Pfn> {
        if kind == MigrateType::Isolate {
            return None;
        }
        self.areas_mut().take_pair(kind)
    }

    #[inline(never)]
    fn take_own_whole(&mut self, kind: MigrateType) -> Option<Pfn> {
        if kind == MigrateType::Isolate {
            return None;
        }
        self.areas_mut().take_one(kind)
    }

    #[inline(never)]
    fn take_own_part(&mut self, kind: MigrateType, order: Order) -> Option<Pfn> {
        if kind == MigrateType::Isolate {
            return None;
        }
        self.areas_mut().take_part(kind, order)
    }

    /// Up to `most` blocks; how many. Those that lie in one pageblock come at once: blocks of order 1 in a row through a
    /// pageset cost 308 instructions each one by one, and 105 so; of order 3 372 and 217.
    fn take_own_blocks(
        &mut self,
        kind: MigrateType,
        order: Order,
        most: usize,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        if kind == MigrateType::Isolate {
            return 0;
        }
        let areas = self.areas_mut();
        let mut left = most;
        while left > 0 {
            let orders = areas.largest_orders(kind) >> order.get() << order.get();
            let count = match orders.trailing_zeros() {
                0..PAGEBLOCK => areas.take_blocks(kind, order, left, sink),
                PAGEBLOCK => areas.take_one_as(kind, order, left, sink),
                PAIR => areas.take_pair_as(kind, order, left, sink),
                _ => break,
            };
            left -= count;
        }
        most - left
    }

    fn take_own_pages(
        &mut self,
        kind: MigrateType,
        most: usize,
        sink: &mut impl FnMut(Pfn, usize),
    ) -> usize {
        if kind == MigrateType::Isolate {
            return 0;
        }
        let areas = self.areas_mut();
        let mut left = most;
        while left > 0 {
            if let Some(slot) = areas.first_fragmented(kind) {
                left -= areas.take_frames(slot, left, sink);
                continue;
            }
            let Some(pfn) = areas.take_one(kind) else {
                break;
            };
            let count = left.min(Order::PAGEBLOCK.nr_pages());
            if count < Order::PAGEBLOCK.nr_pages() {
                areas.leave_above(areas.slot(pfn), count);
            }
            sink(pfn, count);
            left -= count;
        }
        most - left
    }

    /// How many pages more there are for CMA than for all others: more than half of all. Linux: `__rmqueue`.
    fn surplus_cma(&self) -> usize {
        (2 * self.nr_free_cma()).saturating_sub(self.nr_free_pages())
    }

    #[inline(never)]
    fn take_other(&mut self, order: Order, request: Request) -> Option<Pfn> {
        if request.may_use_cma() {
            if let Some(pfn) = self.take_own(MigrateType::Cma, order) {
                return Some(pfn);
            }
        }
        self.fall_back(order, request)
    }

    /// Linux: `__rmqueue_fallback`, `find_suitable_fallback`, `can_steal_fallback`.
    fn fall_back(&mut self, order: Order, request: Request) -> Option<Pfn> {
        let others = fallbacks(request.kind()).iter().copied();
        let least = least(order, request).get();
        let fitting =
            others.map(|kind| (kind, self.areas().largest_orders(kind) >> least << least));
        // Of equals the first: that of the largest order, or of the smallest, and among types in their order.
        let largest = fitting
            .clone()
            .rev()
            .max_by_key(|(_, orders)| orders.checked_ilog2());
        let (mut other, orders) = largest?;
        let mut from = Order::new(u8::try_from(orders.checked_ilog2()?).ok()?)?;
        let may_claim = from.get() >= LARGE || request.kind() != MigrateType::Movable;
        if !may_claim {
            let orders;
            (other, orders) = fitting.min_by_key(|(_, orders)| orders.trailing_zeros())?;
            from = Order::new(u8::try_from(orders.trailing_zeros()).ok()?)?;
        }
        let slot = self.areas_mut().first(other, from)?;
        self.nr_fallbacks += 1;
        Some(self.steal(order, request.kind(), (from, other, slot), may_claim))
    }

    /// Takes a block of `order` out of a pageblock of another type, whose largest block is of the order `from`, and claims
    /// the pageblock where that may be. Linux: `steal_suitable_fallback`.
    ///
    /// One that is taken whole changes its type too, although nothing free is left in it: per-CPU stocks keep huge pages by
    /// type, and whoever asks again finds it there only if it came back as what was asked for.
    fn steal(
        &mut self,
        order: Order,
        kind: MigrateType,
        (from, other, slot): (Order, MigrateType, usize),
        may_claim: bool,
    ) -> Pfn {
        if from >= Order::PAGEBLOCK {
            let pfn = self.areas_mut().take(slot, other, order);
            self.set_kind(slot, kind);
            if from == MAX_ORDER {
                self.set_kind(slot + 1, kind);
            }
            return pfn;
        }
        let claims = may_claim && self.areas().state(slot).nr_pages() >= ENOUGH;
        if claims {
            self.set_kind(slot, kind);
        }
        let kind = if claims { kind } else { other };
        self.areas_mut().take(slot, kind, order)
    }
}

/// The smallest block of another type that a request will take.
fn least(order: Order, request: Request) -> Order {
    if request.may_fragment() {
        order
    } else {
        order.max(Order::PAGEBLOCK)
    }
}

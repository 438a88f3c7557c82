//! Which block a request gets. Linux: `__rmqueue`, `__rmqueue_fallback`, `rmqueue_bulk`, mm/page_alloc.c.
//!
//! Blocks of one's own type first, out of pageblocks that are in use. Then a whole pageblock, which changes its type if it is
//! of another: what is left of it is of use to those who come next, and other pageblocks are left alone.
//!
//! Once few pageblocks are whole, fragments of other types go before them: pages that can be moved do no harm among others,
//! and soon leave again; pages that stay go where such pages are, or claim the emptiest pageblock of those that can be moved,
//! which will be theirs alone when these have left. So the last huge pages go when there is nothing else.
//!
//! A life of movable, unmovable and reclaimable requests (`benches/`, fragmentation), 1 GiB, loads of 70, 80, 90 and 95 %.
//! Free memory that can be had as huge pages at once, in %: none when whole pageblocks went first, as in Linux; 6, 7, 16 and
//! 0 now, where the memory that nobody ever touched is 6, 8, 20 and 38. The same once all was moved away that can be: 80, 74,
//! 61 and 2 then, 95, 81, 61 and 50 now.

use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn};
use kmm_host::AllocError;

use crate::request::NO_END;
use crate::{Buddy, Request};

/// Whole pageblocks are few if they are at most this part of the zone.
const FEW_SHARE: usize = 16;
/// So much of a movable pageblock must be free for others to claim it.
const ENOUGH: usize = Order::PAGEBLOCK.nr_pages() / 8;

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

/// Whose fragments do for requests of a type when whole pageblocks are few.
const fn partners(kind: MigrateType) -> &'static [MigrateType] {
    use MigrateType::{Cma, HighAtomic, Isolate, Movable, Reclaimable, Unmovable};
    match kind {
        Unmovable => &[Reclaimable],
        Movable => &[Reclaimable, Unmovable],
        Reclaimable => &[Unmovable],
        HighAtomic | Cma | Isolate => &[],
    }
}

impl Buddy {
    /// Takes a block of `order` out, splitting a larger one if need be.
    ///
    /// It is the lowest part of the lowest block of the smallest order that fits, of the type of the request; where
    /// there is none, or only one of the last whole pageblocks, of another type.
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
            taken = self.take_beyond(order, request);
        }
        taken.ok_or(AllocError::OutOfMemory)
    }

    /// Takes up to `most` single frames, as many as the request may have; how many were given to `sink`.
    ///
    /// They come from the fragments of one pageblock after the other, by address or nearly so; a whole pageblock is broken
    /// only when there are no fragments, and one of the last only when there is nothing else.
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
            left -= self.take_cma_pages(surplus, &mut sink);
        }
        while left > 0 {
            let Some(slot) = self.first_fragmented(request.kind()) else {
                let end = if left < most { request.end() } else { NO_END };
                match self.take_pages_beyond(left, request.up_to(end), &mut sink) {
                    Some(count) => left -= count,
                    None => break,
                }
                continue;
            };
            if left < most && self.areas().start_of(slot) >= request.end() {
                break;
            }
            left -= self.areas_mut().take_frames(slot, left, &mut sink);
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

    /// Takes up to `most` pageblocks that are free as a whole, at least one where [`Buddy::take`] finds one: more only of the
    /// type of the request, and only while these are not few. How many were given to `sink`.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn take_pageblocks(
        &mut self,
        most: usize,
        request: impl Into<Request>,
        mut sink: impl FnMut(Pfn),
    ) -> usize {
        let request: Request = request.into();
        let kind = request.kind();
        let mut count = 0;
        if kind != MigrateType::Isolate && !(request.may_use_cma() && self.surplus_cma() > 0) {
            let most = most.min(self.nr_whole().saturating_sub(self.few()).max(1));
            count = self.areas_mut().take_wholes(kind, most, &mut sink);
        }
        if count == 0 && most > 0 {
            if let Ok(pfn) = self.take(Order::PAGEBLOCK, request) {
                sink(pfn);
                count = 1;
            }
        }
        count
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

    /// A block of a type, but no part of a pageblock that is free as a whole.
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
        self.take_cma(order)
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

    /// A block smaller than a pageblock, out of one that is not free as a whole.
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
        let mut left = most;
        while left > 0 {
            let orders = self.areas().largest_orders(kind) >> order.get() << order.get();
            let smallest = orders.trailing_zeros();
            let breaks = smallest >= PAGEBLOCK && order < Order::PAGEBLOCK;
            if breaks && self.nr_whole() <= self.few() + 1 {
                // Twins may be one too many: each block is asked for by itself.
                break;
            }
            let areas = self.areas_mut();
            let count = match smallest {
                0..PAGEBLOCK => areas.take_blocks(kind, order, left, sink),
                PAGEBLOCK => areas.take_one_as(kind, order, left, sink),
                PAIR => areas.take_pair_as(kind, order, left, sink),
                _ => break,
            };
            left -= count;
        }
        most - left
    }

    /// A block when no fragment of its type fits, nor for a large one anything of its type.
    #[inline(never)]
    fn take_beyond(&mut self, order: Order, request: Request) -> Option<Pfn> {
        if order < Order::PAGEBLOCK {
            if self.has_few_whole() {
                let frugally = self.take_frugally(order, request);
                if frugally.is_some() || request.is_sparing() && self.nr_whole() > 0 {
                    return frugally;
                }
            }
            if request.kind() != MigrateType::Isolate {
                if let Some(pfn) = self.areas_mut().split_large(request.kind(), order) {
                    return Some(pfn);
                }
            }
        }
        self.take_other(order, request)
    }

    /// A block of fragments that are not of the type of the request, without breaking a whole pageblock.
    fn take_frugally(&mut self, order: Order, request: Request) -> Option<Pfn> {
        if request.may_use_cma() {
            if let Some(pfn) = self.take_cma(order) {
                return Some(pfn);
            }
        }
        if let Some((slot, kind)) = self.foreign_fragment(order, request) {
            self.nr_fallbacks += 1;
            return Some(self.areas_mut().take(slot, kind, order));
        }
        let slot = self.claim(order, request)?;
        Some(self.areas_mut().take(slot, request.kind(), order))
    }

    /// Up to `most` single frames of one pageblock when there are no fragments of the type of the request; how many. A
    /// whole pageblock of its own it breaks in front of the end of the request only.
    #[inline(never)]
    fn take_pages_beyond(
        &mut self,
        most: usize,
        request: Request,
        sink: &mut impl FnMut(Pfn, usize),
    ) -> Option<usize> {
        if self.has_few_whole() {
            if request.may_use_cma() {
                let count = self.take_cma_pages(most, sink);
                if count > 0 {
                    return Some(count);
                }
            }
            if let Some((slot, _)) = self.foreign_fragment(Order::ZERO, request) {
                let count = self.areas_mut().take_frames(slot, most, sink);
                self.nr_fallbacks += count as u64;
                return Some(count);
            }
            if let Some(slot) = self.claim(Order::ZERO, request) {
                return Some(self.areas_mut().take_frames(slot, most, sink));
            }
            if request.is_sparing() && self.nr_whole() > 0 {
                return None;
            }
        }
        if let Some(slot) = self.first_whole(request.kind()) {
            if self.areas().start_of(slot) >= request.end() {
                return None;
            }
            return self.take_pages_of_whole(request.kind(), most, sink);
        }
        sink(self.take_other(Order::ZERO, request)?, 1);
        Some(1)
    }

    /// The lowest pageblock of a type that has a free block smaller than itself.
    #[inline]
    fn first_fragmented(&mut self, kind: MigrateType) -> Option<usize> {
        let may = kind != MigrateType::Isolate;
        may.then(|| self.areas_mut().first_fragmented(kind))?
    }

    /// The lowest pageblock of a type that is free as a whole, alone before twins.
    fn first_whole(&mut self, kind: MigrateType) -> Option<usize> {
        let may = kind != MigrateType::Isolate;
        may.then(|| self.areas_mut().fitting(kind, Order::PAGEBLOCK))?
    }

    /// A block that a device lends.
    #[inline(never)]
    fn take_cma(&mut self, order: Order) -> Option<Pfn> {
        let taken = self.take_own(MigrateType::Cma, order);
        if taken.is_some() || order >= Order::PAGEBLOCK {
            return taken;
        }
        self.areas_mut().split_large(MigrateType::Cma, order)
    }

    fn take_cma_pages(&mut self, most: usize, sink: &mut impl FnMut(Pfn, usize)) -> usize {
        let mut left = most;
        while left > 0 {
            if let Some(slot) = self.areas_mut().first_fragmented(MigrateType::Cma) {
                left -= self.areas_mut().take_frames(slot, left, sink);
                continue;
            }
            let Some(count) = self.take_pages_of_whole(MigrateType::Cma, left, sink) else {
                break;
            };
            left -= count;
        }
        most - left
    }

    /// Breaks a whole pageblock; how many of its frames were given to `sink`.
    fn take_pages_of_whole(
        &mut self,
        kind: MigrateType,
        most: usize,
        sink: &mut impl FnMut(Pfn, usize),
    ) -> Option<usize> {
        let pfn = self.areas_mut().take_one(kind)?;
        let count = most.min(Order::PAGEBLOCK.nr_pages());
        if count < Order::PAGEBLOCK.nr_pages() {
            let slot = self.areas().slot(pfn);
            self.areas_mut().leave_above(slot, count);
        }
        sink(pfn, count);
        Some(count)
    }

    /// How many pages more there are for CMA than for all others: more than half of all. Linux: `__rmqueue`.
    fn surplus_cma(&self) -> usize {
        (2 * self.nr_free_cma()).saturating_sub(self.nr_free_pages())
    }

    /// How many pageblocks are free as a whole, of types that fall back on each other.
    fn nr_whole(&self) -> usize {
        let of = |kind| self.areas().nr_whole(kind);
        of(MigrateType::Unmovable) + of(MigrateType::Movable) + of(MigrateType::Reclaimable)
    }

    /// Whether they are so few that they are left to those who want them whole, as long as there is anything else.
    fn has_few_whole(&self) -> bool {
        self.nr_whole() <= self.few()
    }

    /// How many are few.
    const fn few(&self) -> usize {
        self.range().nr_pages() / Order::PAGEBLOCK.nr_pages() / FEW_SHARE
    }

    /// The pageblock whose fragments do as well: that with the smallest largest block that fits, so that the others keep
    /// theirs.
    fn foreign_fragment(&mut self, order: Order, request: Request) -> Option<(usize, MigrateType)> {
        if !request.may_fragment() {
            return None;
        }
        let smallest = |kind: &&MigrateType| self.areas().fragments(**kind, order).trailing_zeros();
        let kind = *partners(request.kind()).iter().min_by_key(smallest)?;
        let slot = self.areas_mut().fitting_fragment(kind, order)?;
        Some((slot, kind))
    }

    /// Makes the emptiest movable pageblock one of the request's type, if enough of it is free and `order` fits. Movable
    /// requests have no need to.
    fn claim(&mut self, order: Order, request: Request) -> Option<usize> {
        let kind = request.kind();
        let stays = matches!(kind, MigrateType::Unmovable | MigrateType::Reclaimable);
        if !stays || !request.may_fragment() {
            return None;
        }
        let (slot, nr_free) = self.areas().emptiest(MigrateType::Movable, order)?;
        if nr_free < ENOUGH {
            return None;
        }
        self.nr_fallbacks += 1;
        self.set_kind(slot, kind);
        Some(slot)
    }

    #[inline(never)]
    fn take_other(&mut self, order: Order, request: Request) -> Option<Pfn> {
        if request.may_use_cma() {
            if let Some(pfn) = self.take_cma(order) {
                return Some(pfn);
            }
        }
        self.fall_back(order, request)
    }

    /// From the largest block of another type. Linux: `__rmqueue_fallback`, `find_suitable_fallback`,
    /// `steal_suitable_fallback`.
    ///
    /// A pageblock that is taken whole changes its type too, although nothing free is left in it: per-CPU stocks keep huge
    /// pages by type, and whoever asks again finds it there only if it came back as what was asked for.
    fn fall_back(&mut self, order: Order, request: Request) -> Option<Pfn> {
        let others = fallbacks(request.kind()).iter().copied();
        let least = least(order, request).get();
        let fitting =
            others.map(|kind| (kind, self.areas().largest_orders(kind) >> least << least));
        // Of equals the first: that of the largest order, and among types in their order.
        let largest = fitting
            .rev()
            .max_by_key(|(_, orders)| orders.checked_ilog2());
        let (other, orders) = largest?;
        let from = Order::new(u8::try_from(orders.checked_ilog2()?).ok()?)?;
        let slot = self.areas_mut().first(other, from)?;
        self.nr_fallbacks += 1;
        let pfn = self.areas_mut().take(slot, other, order);
        if from >= Order::PAGEBLOCK {
            self.set_kind(slot, request.kind());
        }
        if from == MAX_ORDER {
            self.set_kind(slot + 1, request.kind());
        }
        Some(pfn)
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

//! The fast path: a block out of the stock, and in. No lock, no locked instruction, no descriptor.
//!
//! The mark costs no comparison of its own. It is [`IDLE`] or [`BUSY`]: an empty stack's next cell is never above the one, no
//! stack's above the other. Setting it is a load and a store, not one instruction: an interrupt in between finds the stock
//! free, uses it, and leaves the mark as it was.
#![expect(
    unsafe_code,
    reason = "indices within bounds by INV-10, without a comparison"
)]

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

use kmm_buddy::Pageblock;
use kmm_frame::{MigrateType, Order, Page, Pfn};

use crate::bulk::{Slots, fill};
use crate::zone::FREED;

use super::{BUSY, CELLS, IDLE, NR_ROUTES, ONE_PUT, Pcp, STEP, Size, at, near, second_half};

/// What became of a block that an owner gave back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// It is in stock.
    Yes,
    /// There is no room, but its descriptor says that it is free.
    No,
    /// Nothing was done: it lies elsewhere, or is not free to go.
    Unseen,
}

/// What became of a reference that was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    /// Others hold the page; or it is in stock.
    Done,
    /// It was the last, and there is no room, but the descriptor says that the page is free.
    NoRoom,
    /// It was the last, and the page is not free to go.
    Bad,
    /// Nothing was done: the page lies elsewhere.
    Elsewhere,
}

impl Pcp {
    /// A block of the stock. `None` also when the pageset is in use.
    #[inline(always)]
    pub(crate) fn take(&self, size: Size, kind: MigrateType) -> Option<Pfn> {
        let route = near(Pageblock::route_of(kind));
        let before = own(&self.mark);
        self.mark.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        let next = self.next_cell(size, route);
        if next <= before {
            self.mark.store(before, Relaxed);
            return None;
        }
        let pfn = self.pop(size, route, next);
        compiler_fence(SeqCst);
        self.mark.store(IDLE, Relaxed);
        Some(pfn)
    }

    /// Puts a block into the stock, or to those that go home, if there is room; whether it did. Not when the pageset is in
    /// use.
    #[inline(always)]
    pub(crate) fn keep(&self, size: Size, pfn: Pfn) -> bool {
        match self.offset_of(pfn) {
            Some(offset) => self.keep_block_at(size, pfn, offset),
            None => false,
        }
    }

    /// As [`Pcp::keep`], of a block of which is known where in the zone it lies.
    #[inline(always)]
    fn keep_block_at(&self, size: Size, pfn: Pfn, offset: u32) -> bool {
        match self.route_of(size, pfn) {
            Some(route) => self.keep_at(size, route, offset),
            None => false,
        }
    }

    /// As [`Pcp::keep`], of a block of which are known its route, and where in the zone it lies.
    #[inline(always)]
    pub(crate) fn keep_at(&self, size: Size, route: usize, offset: u32) -> bool {
        let before = own(&self.mark);
        self.mark.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        let next = self.next_cell(size, route);
        if next + before >= self.limit(size, route) {
            self.mark.store(before, Relaxed);
            return false;
        }
        self.push(size, route, next, offset);
        compiler_fence(SeqCst);
        self.mark.store(IDLE, Relaxed);
        true
    }

    /// As [`Pcp::keep`], of a block whose first page is to be held exactly `held` times, and is free from then on.
    ///
    /// # Safety
    /// 1. As for [`Pcp::page`].
    /// 2. Nobody else uses the block, or looks for a way to use it.
    #[inline(always)]
    pub(crate) unsafe fn keep_counted(&self, size: Size, pfn: Pfn, held: u32) -> Kept {
        // SAFETY: by the caller.
        match unsafe { self.free_counted(pfn, held) } {
            Some(offset) if self.keep_block_at(size, pfn, offset) => Kept::Yes,
            Some(_) => Kept::No,
            None => Kept::Unseen,
        }
    }

    /// Notes in the descriptor of a block of the zone that it is free, if it is held exactly `held` times and free to go; where
    /// in the zone it is.
    ///
    /// # Safety
    /// As for [`Pcp::keep_counted`].
    #[inline(always)]
    pub(crate) unsafe fn free_counted(&self, pfn: Pfn, held: u32) -> Option<u32> {
        let offset = self.offset_of(pfn)?;
        // SAFETY: obligation 1; it lies in the zone.
        let page = unsafe { self.page(pfn) };
        // SAFETY: obligation 2.
        if !unsafe { page.is_free_to_go(held) } {
            return None;
        }
        page.set_ref_count(0);
        page.set_private(FREED);
        Some(offset)
    }

    /// Gives up a reference to a page, which is put into the stock if that was the last.
    ///
    /// # Safety
    /// 1. As for [`Pcp::page`].
    /// 2. The caller holds a reference to the page; if it was the last, nobody else uses the page, or looks for a way to.
    #[inline(always)]
    pub(crate) unsafe fn put_page(&self, pfn: Pfn) -> Put {
        let Some(offset) = self.offset_of(pfn) else {
            return Put::Elsewhere;
        };
        // SAFETY: obligation 1; it lies in the zone.
        let page = unsafe { self.page(pfn) };
        if !page.put_and_test() {
            return Put::Done;
        }
        // SAFETY: obligation 2.
        if !unsafe { page.is_unused() } {
            return Put::Bad;
        }
        page.set_private(FREED);
        if self.keep_block_at(Size::PAGE, pfn, offset) {
            Put::Done
        } else {
            Put::NoRoom
        }
    }

    /// Where in the zone a block begins.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "`spanned` fits (INV-10)")]
    pub(crate) fn offset_of(&self, pfn: Pfn) -> Option<u32> {
        let offset = pfn.index().wrapping_sub(own_size(&self.start));
        (offset < own_size(&self.spanned)).then_some(offset as u32)
    }

    /// The route of a block of the zone; `None` of the largest ones if their pageblocks differ in type.
    #[inline(always)]
    pub(crate) fn route_of(&self, size: Size, pfn: Pfn) -> Option<usize> {
        let route = self.route_at(pfn);
        if size.index() < Size::HUGE.index() {
            return Some(route);
        }
        // These may be kept wherever they lie: no huge page is waiting for them.
        let is_alike =
            size != Size::LARGEST || near(route) == near(self.route_at(second_half(pfn)));
        is_alike.then_some(near(route))
    }

    /// The route of the pageblock of a frame of the zone.
    #[inline(always)]
    pub(crate) fn route_at(&self, pfn: Pfn) -> usize {
        let block = pfn.index() >> Order::PAGEBLOCK.get();
        let entry = self.pageblocks().wrapping_add(block);
        // SAFETY: INV-10: every frame that is spanned has an entry, which lives for ever.
        route_of(unsafe { &*entry })
    }

    /// The descriptor of a frame of the zone.
    ///
    /// # Safety
    /// The pageset was reached as one whose descriptors lie in an array ([`super::first::Way::Counted`]).
    #[inline(always)]
    pub(crate) unsafe fn page(&self, pfn: Pfn) -> &'static Page {
        // SAFETY: valid, aligned, and written only before anyone uses the pageset.
        let pages = unsafe { self.pages.as_ptr().read() };
        let page = whole(pages.wrapping_add(pfn.index()));
        // SAFETY: INV-10: in an array of descriptors that has one for every frame of the zone, and lives for ever.
        unsafe { &*page }
    }

    #[inline(always)]
    fn pageblocks(&self) -> *const Pageblock {
        // SAFETY: valid, aligned, and written only before anyone uses the pageset.
        unsafe { self.pageblocks.as_ptr().read() }
    }

    /// Where the next block of a stack would go. For the owner of the pageset.
    #[inline(always)]
    pub(crate) fn next_cell(&self, size: Size, route: usize) -> u32 {
        let nr = nr_of(size) * NR_ROUTES + route % BYTE;
        let state = offset_of!(Self, states) + nr * size_of::<AtomicU64>();
        // One instruction; of an atomic, the compiler would mask the low half once more.
        let low = ptr::from_ref(self).cast::<u8>().wrapping_add(state);
        // SAFETY: the low half of a word (little-endian) of this pageset, aligned; nobody else writes it: INV-3. The routes
        // above lead to words of other rows, or of what lies behind (see the assertion below), which are as good.
        u32::from(unsafe { low.cast::<u16>().read() })
    }

    #[inline(always)]
    pub(crate) fn limit(&self, size: Size, route: usize) -> u32 {
        let nr = nr_of(size) * NR_ROUTES + route % BYTE;
        // SAFETY: a row of this size, and enough behind it for any byte.
        own(unsafe { self.limits.get_unchecked(nr) })
    }

    /// The block that came last: its lines are the warmest. There is one.
    #[inline(always)]
    pub(crate) fn pop(&self, size: Size, route: usize, next: u32) -> Pfn {
        let cell = size.first_cell() + (next - STEP) as usize;
        debug_assert!(cell < CELLS, "cell {cell}");
        // SAFETY: INV-10: cells in front of the next one exist.
        let offset = own(unsafe { self.cells.get_unchecked(cell) });
        let state = &self.states[nr_of(size)][route % NR_ROUTES];
        // Loaded once more, so that it is one instruction.
        state.store(state.load(Relaxed).wrapping_sub(u64::from(STEP)), Relaxed);
        at(own_size(&self.start), offset)
    }

    /// Takes up to `most` pages of a type that is kept, as [`Pcp::take`] would one after the other; how many. Under the mark.
    pub(crate) fn pop_pages(&self, kind: MigrateType, most: usize, out: &mut Slots<'_>) -> usize {
        let (size, route) = (Size::PAGE, near(Pageblock::route_of(kind)));
        let next = self.next_cell(size, route);
        let count = (next / STEP) as usize;
        let count = count.min(most);
        let start = own_size(&self.start);
        let mut cell = size.first_cell() + next as usize;
        let mut pop = || {
            cell -= STEP as usize;
            debug_assert!(cell < Size::CELLS, "cell {cell}");
            // SAFETY: INV-10: cells in front of the next one exist.
            at(start, own(unsafe { self.cells.get_unchecked(cell) }))
        };
        if self.has_pages() {
            for slot in out.next(count) {
                let pfn = pop();
                // SAFETY: the descriptors lie in an array.
                fill(slot, pfn, unsafe { self.page(pfn) });
            }
        } else {
            (0..count).for_each(|_| out.take(pop()));
        }
        let state = &self.states[nr_of(size)][route % NR_ROUTES];
        let cells = u64::from(STEP) * count as u64;
        state.store(state.load(Relaxed).wrapping_sub(cells), Relaxed);
        count
    }

    /// Adds a block that an owner has put there. There is room.
    #[inline(always)]
    pub(crate) fn push(&self, size: Size, route: usize, next: u32, offset: u32) {
        let cell = size.first_cell() + next as usize;
        debug_assert!(cell < CELLS, "cell {cell}");
        // SAFETY: INV-10: a stack below its limit has a next cell.
        unsafe { self.cells.get_unchecked(cell) }.store(offset, Relaxed);
        debug_assert!(route < NR_ROUTES, "route {route}");
        // SAFETY: INV-10: a stack below its limit is of a route that is kept.
        let state = unsafe { self.states[nr_of(size)].get_unchecked(route) };
        state.store(state.load(Relaxed).wrapping_add(ONE_PUT), Relaxed);
    }
}

/// A word of this CPU's own: no other writes it while this one uses the pageset (INV-3). The compiler makes it part of
/// another instruction, as it does with no load of an atomic.
#[inline(always)]
fn own(word: &AtomicU32) -> u32 {
    // SAFETY: valid, aligned, and not written meanwhile.
    unsafe { word.as_ptr().read() }
}

/// [`Pageblock::route`], or one that is not kept: what else the byte says of pageblocks that are isolated stays above it, and
/// leads to the same place of another row (see [`Pcp::limits`]). Masking it off would be 1 instruction of 29 in a pair;
/// another would be the load of an atomic byte, of which the compiler makes two.
#[inline(always)]
fn route_of(entry: &Pageblock) -> usize {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let byte: usize;
        // SAFETY: reads a byte that is valid, as a relaxed load would.
        unsafe {
            core::arch::asm!("movzx {0:e}, byte ptr [{1}]", out(reg) byte, in(reg) entry,
                options(pure, readonly, nostack, preserves_flags));
        }
        // SAFETY: a byte.
        unsafe { core::hint::assert_unchecked(byte < 1 << u8::BITS) };
        byte
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    entry.route()
}

/// The same address. The compiler would keep its parts in two registers, and add them up nevertheless in the end: 1 of 45.
#[inline(always)]
#[expect(
    clippy::pointers_in_nomem_asm_block,
    reason = "it is not followed there"
)]
fn whole(page: *mut Page) -> *mut Page {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let mut page = page;
        // SAFETY: no instruction at all.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) page, options(pure, nomem, nostack, preserves_flags));
        }
        page
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    page
}

/// The number of a size, which the compiler knows to be one.
#[inline(always)]
fn nr_of(size: Size) -> usize {
    let nr = size.index();
    // SAFETY: a size is made of an order, or of a number below that.
    unsafe { core::hint::assert_unchecked(nr < Size::COUNT) };
    nr
}

/// As [`own`].
#[inline(always)]
fn own_size(word: &AtomicUsize) -> usize {
    // SAFETY: as above.
    unsafe { word.as_ptr().read() }
}

const _: () = assert!(cfg!(target_endian = "little"), "the low half comes first");

/// What a byte may be.
const BYTE: usize = u8::MAX as usize + 1;

/// What [`Pcp::next_cell`] reads is part of the pageset, whatever the byte.
const _: () = {
    let last = (Size::LARGEST.index() * NR_ROUTES + BYTE) * size_of::<AtomicU64>();
    assert!(offset_of!(Pcp, states) + last <= size_of::<Pcp>());
};

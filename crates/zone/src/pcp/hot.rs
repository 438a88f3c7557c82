//! The fast path: a block out of the stock, and in. No lock, no locked instruction, no descriptor.
//!
//! The mark costs no comparison of its own. It is [`IDLE`] or [`BUSY`]: an empty stack's next cell is never above the one, no
//! stack's above the other. Setting it is a load and a store, not one instruction: an interrupt in between finds the stock
//! free, uses it, and leaves the mark as it was.
#![expect(
    unsafe_code,
    reason = "indices within bounds by INV-10, without a comparison"
)]

use core::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

use kmm_buddy::Pageblock;
use kmm_frame::{MigrateType, Order, Pfn};

use super::{BUSY, IDLE, NR_ROUTES, ONE_PUT, Pcp, STEP, Size, at};

impl Pcp {
    /// A block of the stock. `None` also when the pageset is in use.
    #[inline(always)]
    pub(crate) fn take(&self, size: Size, kind: MigrateType) -> Option<Pfn> {
        let route = Pageblock::route_of(kind);
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

    /// Puts a block into the stock if it belongs there; whether it did. Not when the pageset is in use.
    #[inline(always)]
    pub(crate) fn keep(&self, size: Size, pfn: Pfn) -> bool {
        let Some((offset, route)) = self.place_of(size, pfn) else {
            return false;
        };
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

    /// The offset and the route of a block that lies in the window.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "`spanned` fits (INV-10)")]
    pub(crate) fn place_of(&self, size: Size, pfn: Pfn) -> Option<(u32, usize)> {
        let offset = pfn.index().wrapping_sub(own_size(&self.start));
        if offset >= own_size(&self.spanned) {
            return None;
        }
        let block = pfn.index() >> Order::PAGEBLOCK.get();
        let entry = self.pageblocks().wrapping_add(block);
        // SAFETY: INV-10: every frame that is spanned has an entry, which lives for ever.
        let route = route_of(unsafe { &*entry });
        let offset = offset as u32;
        let window = own(&self.windows[size.index()][route]);
        (offset < window).then_some((offset, route))
    }

    #[inline(always)]
    fn pageblocks(&self) -> *const Pageblock {
        // SAFETY: valid, aligned, and written only before anyone uses the pageset.
        unsafe { self.pageblocks.as_ptr().read() }
    }

    /// Where the next block of a stack would go. For the owner of the pageset.
    #[inline(always)]
    pub(crate) fn next_cell(&self, size: Size, route: usize) -> u32 {
        let state = &self.states[size.index()][route % NR_ROUTES];
        // One instruction; of an atomic, the compiler would mask the low half once more.
        let low = state.as_ptr().cast::<u16>();
        // SAFETY: the low half of a word (little-endian) that lives as long. Nobody else writes it: INV-3.
        u32::from(unsafe { low.read() })
    }

    #[inline(always)]
    pub(crate) fn limit(&self, size: Size, route: usize) -> u32 {
        own(&self.limits[size.index()][route % NR_ROUTES])
    }

    /// The block that came last: its lines are the warmest. There is one.
    #[inline(always)]
    pub(crate) fn pop(&self, size: Size, route: usize, next: u32) -> Pfn {
        let cell = size.first_cell() + (next - STEP) as usize;
        debug_assert!(cell < Size::CELLS, "cell {cell}");
        // SAFETY: INV-10: cells in front of the next one exist.
        let offset = unsafe { self.cells.get_unchecked(cell) }.load(Relaxed);
        let state = &self.states[size.index()][route % NR_ROUTES];
        // Loaded once more, so that it is one instruction.
        state.store(state.load(Relaxed).wrapping_sub(u64::from(STEP)), Relaxed);
        at(own_size(&self.start), offset)
    }

    /// Adds a block that an owner has put there. There is room.
    #[inline(always)]
    pub(crate) fn push(&self, size: Size, route: usize, next: u32, offset: u32) {
        let cell = size.first_cell() + next as usize;
        debug_assert!(cell < Size::CELLS, "cell {cell}");
        // SAFETY: INV-10: a stack below its limit has a next cell.
        unsafe { self.cells.get_unchecked(cell) }.store(offset, Relaxed);
        let state = &self.states[size.index()][route % NR_ROUTES];
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

/// [`Pageblock::route`]. Of the load of an atomic byte the compiler makes two instructions, as if it had not been
/// extended: 1 of 30 in a pair.
#[inline(always)]
fn route_of(entry: &Pageblock) -> usize {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let byte: u32;
        // SAFETY: reads a byte that is valid, as a relaxed load would.
        unsafe {
            core::arch::asm!("movzx {0:e}, byte ptr [{1}]", out(reg) byte, in(reg) entry,
                options(pure, readonly, nostack, preserves_flags));
        }
        byte as usize % NR_ROUTES
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    entry.route()
}

/// As [`own`].
#[inline(always)]
fn own_size(word: &AtomicUsize) -> usize {
    // SAFETY: as above.
    unsafe { word.as_ptr().read() }
}

const _: () = assert!(cfg!(target_endian = "little"), "the low half comes first");

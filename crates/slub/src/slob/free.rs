//! Blocks come back. Linux: `slob_free`.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use core::ptr::NonNull;

use kmm_frame::{Order, PageFlags, Pfn};
use kmm_host::{PageBlock, PageSource, PhysMap};
use lock_api::RawMutex;

use super::page::SlobPage;
use super::{BLOCKS, LARGE, NR_SIZES, Slob, State, ring_of};
use crate::{KmemCache, SlubBugKind};

/// Where an address lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Block(SlobPage),
    /// In the first page of this large allocation.
    Large(Pfn),
}

/// A mistake, and the cache that is known to be wronged.
pub(super) type Mistake = (SlubBugKind, Option<&'static str>);

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    /// Takes back what `cache` is said to own, if its user says so. A mistake that shows is reported and changes nothing; a double
    /// free shows as long as the memory is not handed out again.
    pub(super) fn free_to(&self, ptr: NonNull<u8>, cache: Option<KmemCache>) {
        if self.free_sampled(ptr, cache) {
            return;
        }
        let outcome = match self.locate(ptr) {
            Ok(Place::Block(page)) => self.free_block(page, ptr, cache),
            Ok(Place::Large(head)) => self.free_large(head, ptr, cache),
            Err(kind) => Err((kind, None)),
        };
        if let Err((kind, name)) = outcome {
            self.report(kind, name, ptr.addr().get());
        }
    }

    fn free_block(
        &self,
        page: SlobPage,
        ptr: NonNull<u8>,
        cache: Option<KmemCache>,
    ) -> Result<(), Mistake> {
        let mut state = self.state.lock();
        if page.page.mapping() != self.seal ^ BLOCKS {
            return Err((SlubBugKind::NotAllocated, None));
        }
        let used = page.find(ptr).map_err(|kind| (kind, None))?;
        if let Some(head) = used.head {
            if self.is_waiting(&state, ptr, head) {
                return Err(self.double_free(&state, head));
            }
            state.release(used.owner, cache)?;
            let found = self.hold(&mut state, page, &used, head);
            drop(state);
            self.tell(found);
            self.thin_out(self.config.quarantine_bytes);
            return Ok(());
        }
        state.release(used.owner, cache)?;
        let (goes_back, broken) = self.put(&mut state, page, used.begin);
        drop(state);
        self.give_back(goes_back);
        self.tell_broken(broken);
        Ok(())
    }

    /// Frees a block: the page, if nothing of it is in use any more, and where its list was broken, if it was.
    pub(super) fn put(
        &self,
        state: &mut State,
        page: SlobPage,
        begin: u16,
    ) -> (Option<PageBlock>, Option<usize>) {
        let size_bytes = page.size_bytes(begin);
        let mut broken = None;
        let mut before = page.state();
        if let Err(corrupt) = page.put(begin) {
            broken = Some(page.address(corrupt.0).addr().get());
            if before.free > 0 {
                state.rings[usize::from(before.ring)].remove(self.map, page.pfn);
            }
            page.isolate();
            before = page.state();
            // Nothing is on the list now.
            let _ = page.put(begin);
        }
        let goes_back = self.relist(state, page, before.free == 0, size_bytes);
        (goes_back, broken)
    }

    /// Puts a page on a ring if it was full, or takes it off if nothing of it is in use any more.
    fn relist(
        &self,
        state: &mut State,
        page: SlobPage,
        was_full: bool,
        size_bytes: usize,
    ) -> Option<PageBlock> {
        let mut now = page.state();
        if now.is_empty() {
            if !was_full {
                state.rings[usize::from(now.ring)].remove(self.map, page.pfn);
            }
            state.nr_pages -= 1;
            page.disown();
            // SAFETY: `adopt` took the block apart, and no block of the page is in use.
            return Some(unsafe { PageBlock::from_raw(page.pfn, Order::ZERO) });
        }
        if was_full {
            now.ring = ring_of(size_bytes, usize::from(now.ring) >= NR_SIZES);
            page.set_state(now);
            state.rings[usize::from(now.ring)].insert(self.map, page.pfn);
        }
        None
    }

    /// Where `ptr` lies, as its frame's descriptor says.
    pub(super) fn locate(&self, ptr: NonNull<u8>) -> Result<Place, SlubBugKind> {
        let pfn = self.phys.virt_to_pfn(ptr);
        let pfn = pfn.ok_or(SlubBugKind::OutsideDirectMap)?;
        let page = self.map.get(pfn).ok_or(SlubBugKind::NotAllocated)?;
        if !page.test(PageFlags::SLAB) {
            return Err(SlubBugKind::NotAllocated);
        }
        match page.mapping() ^ self.seal {
            BLOCKS => self.page_at(pfn).map(Place::Block),
            LARGE => Some(Place::Large(pfn)),
            _ => None,
        }
        .ok_or(SlubBugKind::NotAllocated)
    }
}

impl State {
    pub(super) fn name_of(&self, slot: u8) -> Option<&'static str> {
        let cache = self.slots.get(usize::from(slot))?.cache()?;
        Some(cache.args.name)
    }

    /// Notes that an object goes back to `owner`; `cache` is where its user means it to go, if he says.
    pub(super) fn release(
        &mut self,
        owner: Option<u8>,
        cache: Option<KmemCache>,
    ) -> Result<(), Mistake> {
        if let Some(cache) = cache {
            let name = self.cache_mut(cache).ok().map(|live| live.args.name);
            if owner != Some(cache.slot) || name.is_none() {
                return Err((SlubBugKind::WrongCache, name));
            }
        }
        if let Some(live) = owner.and_then(|slot| self.owner_mut(slot)) {
            live.nr_objects = live.nr_objects.saturating_sub(1);
        }
        Ok(())
    }
}

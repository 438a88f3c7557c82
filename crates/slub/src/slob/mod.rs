//! SLOB: first fit over lists of blocks, for machines with little memory. Linux: mm/slob.c, until 6.4.
//!
//! Objects of all sizes share pages, so there is no memory of a cache that another could use, no stock, and no page without
//! an object. The price: one lock, searches through lists, pages that a single long-lived object keeps.
//!
//! Pages with free blocks are in three rings, by the size of what was last put into them (Linux: `free_slob_small`, `_medium`,
//! `_large`); those for DMA in three others. A search begins where the last one ended ([`ring`]), takes the first block that
//! fits, and passes over pages which it knows to have none. What is freed becomes one block with its neighbours; a page
//! without a block in use goes back at once. What does not fit into a page is a block of pages.
//!
//! `linked_list_allocator`, whose `Heap` could be each page's list, does not fit: it panics at a double free instead of saying
//! so, follows links that anybody may have written to, must be told the size at each free, takes 16 bytes at least, and its 48
//! bytes of state would lie in each page beside the marks that tell sizes. Here the state is one word of the descriptor.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm_frame::{Gfp, MAX_NODES, MemMap, NodeId, NodeItem, Pfn, PfnRange};
use kmm_host::{PageBlock, PageReq, PageSource, PhysMap};
use lock_api::{Mutex, RawMutex};

use crate::debug::Quarantine;
use crate::slab::{Mem, reachable};
use crate::{KmemCache, SlubBug, SlubBugKind, SlubConfig, SlubError, ZERO_SIZE_PTR};

mod caches;
mod debugged;
mod free;
mod kmem;
mod large;
mod page;
mod report;
mod ring;
mod sampled;

pub use caches::SlobSlot;

use debugged::Debugged;
use page::{SlobPage, UNIT_BYTES, Want};
use ring::Ring;

/// Blocks below are small. Linux: `SLOB_BREAK1`.
const BREAK_SMALL: usize = 256;
/// Blocks below are medium. Linux: `SLOB_BREAK2`.
const BREAK_MEDIUM: usize = 1024;
const NR_SIZES: usize = 3;
const NR_RINGS: usize = 2 * NR_SIZES;
/// A handle's slot is a byte.
const MAX_SLOTS: usize = 256;
/// What labels of pages of blocks, and of large allocations, differ in.
const BLOCKS: u64 = 0xfffe;
const LARGE: u64 = 0xffff;
/// What a [`SlabHook`](kmm_host::SlabHook) is told that pages of blocks are of: they are of all caches.
const POOL: &str = "slob";

/// First fit over lists of blocks: the smallest footprint, the worst fragmentation.
///
/// Of [`SlubConfig`] it uses `on_bug`, `slabs`, `secret`, `topology`, and what is about debugging: one quarantine for all its objects.
/// Any number of CPUs and interrupts may call it at once, if the
/// lock `L` allows that; there is one. No call to the page source is made under it.
pub struct Slob<A, P, L: RawMutex> {
    pages: A,
    phys: P,
    map: MemMap,
    config: SlubConfig,
    seal: u64,
    state: Mutex<L, State>,
    large_pages: AtomicUsize,
}

/// What the lock guards, besides the pages.
struct State {
    rings: [Ring; NR_RINGS],
    slots: &'static mut [SlobSlot],
    nr_pages: usize,
    /// Freed objects that wait.
    quarantine: Quarantine,
    /// Those and what lies around them.
    waiting_bytes: usize,
}

/// A request for a block.
#[derive(Clone, Copy)]
struct BlockReq {
    want: Want,
    ring: u8,
    gfp: Gfp,
    node: Option<NodeId>,
    owner: Option<KmemCache>,
    debugged: Option<Debugged>,
}

impl<A, P, L: RawMutex> fmt::Debug for Slob<A, P, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slob")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    /// An allocator over `pages`, with room for as many caches as there are slots.
    ///
    /// # Errors
    /// [`SlubError::NoSlot`] for more than 256 slots.
    pub fn new(
        pages: A,
        phys: P,
        map: MemMap,
        slots: &'static mut [SlobSlot],
        config: SlubConfig,
    ) -> Result<Self, SlubError> {
        if slots.len() > MAX_SLOTS {
            return Err(SlubError::NoSlot);
        }
        Ok(Self {
            pages,
            phys,
            map,
            seal: config.secret.rotate_left(29) ^ 0xe703_7ed1_a0b4_28db,
            config,
            state: Mutex::new(State {
                rings: [const { Ring::new() }; NR_RINGS],
                slots,
                nr_pages: 0,
                quarantine: Quarantine::new(),
                waiting_bytes: 0,
            }),
            large_pages: AtomicUsize::new(0),
        })
    }

    /// Memory by size.
    fn kmalloc_from(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        if !align.is_power_of_two() {
            return Err(SlubError::InvalidLayout);
        }
        if size_bytes == 0 && align <= ZERO_SIZE_PTR.addr().get() {
            return Ok(ZERO_SIZE_PTR);
        }
        let size_bytes = size_bytes.max(1);
        let sampled = match node {
            None => self.sampled(size_bytes, align, gfp, None),
            Some(_) => None,
        };
        if let Some(object) = sampled {
            if gfp.contains(Gfp::ZERO) {
                clear(object, size_bytes);
            }
            return Ok(object);
        }
        let plain = Want::new(size_bytes, align, false).map(|want| (want, None));
        let room = size_bytes.div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES);
        let debug = self.flags_of_request(size_bytes, align, gfp);
        let around = self.debugged(room, align, debug, None);
        let want = around.map(|(want, debugged)| (want, Some(debugged)));
        let object = match want.or(plain) {
            Some((want, debugged)) => self.alloc_block(BlockReq {
                want,
                debugged,
                ring: ring_of(size_bytes, gfp.intersects(Gfp::DMA | Gfp::DMA32)),
                gfp: page_gfp(gfp, gfp.intersects(Gfp::DMA | Gfp::DMA32)),
                node,
                owner: None,
            })?,
            None => self.alloc_large(size_bytes, align, gfp, node, None)?,
        };
        if gfp.contains(Gfp::ZERO) {
            clear(object, size_bytes);
        }
        self.note_requested(object, size_bytes);
        Ok(object)
    }

    /// A block of a page, of a new one if need be; its first byte for the user.
    fn alloc_block(&self, req: BlockReq) -> Result<NonNull<u8>, SlubError> {
        let mut fresh: Option<(PageBlock, NonNull<u8>)> = None;
        let mut node = req.node;
        loop {
            let mut state = self.state.lock();
            if let Some(Err(error)) = req.owner.map(|cache| state.cache_mut(cache).map(|_| ())) {
                drop(state);
                if let Some((block, _)) = fresh {
                    self.free_page(block);
                }
                return Err(error);
            }
            if let Some((block, base)) = fresh.take() {
                // The next search begins there, whichever node it is of.
                self.adopt(&mut state, block, base, req.ring);
                node = None;
            }
            let mut broken = None;
            let found = self.search(&mut state, &req, node, &mut broken);
            if let (Some((_, begin)), Some(cache)) = (found, req.owner) {
                let of_cache = state.cache_mut(cache)?;
                of_cache.nr_objects += 1;
                found.inspect(|(page, _)| page.set_owner(begin, cache.slot));
            }
            if let (Some((page, begin)), Some(debugged)) = (found, &req.debugged) {
                self.set_up(page, begin, debugged);
            }
            drop(state);
            if let Some(address) = broken {
                self.report(SlubBugKind::CorruptFreelist, None, address);
            }
            match found {
                Some((page, begin)) => return Ok(page.address(begin + req.want.before)),
                None => fresh = Some(self.new_page(&req)?),
            }
        }
    }

    /// The first block that fits, of the ring's pages on that node. Linux: `slob_alloc`.
    fn search(
        &self,
        state: &mut State,
        req: &BlockReq,
        node: Option<NodeId>,
        broken: &mut Option<usize>,
    ) -> Option<(SlobPage, u16)> {
        let ring = &mut state.rings[usize::from(req.ring)];
        for pfn in ring.iter(self.map) {
            let Some(page) = self.page_at(pfn) else {
                break;
            };
            let fits = page.state().largest >= req.want.units;
            if !fits || node.is_some_and(|node| self.node_of(pfn) != node.index()) {
                continue;
            }
            match page.take(req.want) {
                Ok(Some(begin)) => {
                    if page.state().free == 0 {
                        ring.remove(self.map, pfn);
                    } else {
                        ring.rotate_to(pfn);
                    }
                    return Some((page, begin));
                }
                Ok(None) => {}
                Err(corrupt) => {
                    page.isolate();
                    ring.remove(self.map, pfn);
                    *broken = Some(page.address(corrupt.0).addr().get());
                    // Its links are gone; the next search goes on from here.
                    return None;
                }
            }
        }
        None
    }

    /// Linux: `slob_new_node_pages`.
    fn new_page(&self, req: &BlockReq) -> Result<(PageBlock, NonNull<u8>), SlubError> {
        let block = self.pages_or_what_waits(PageReq {
            node: req.node,
            ..PageReq::page(req.gfp)
        })?;
        match reachable(self.mem(), &block) {
            Some(base) => {
                let frames = PfnRange::with_len(block.pfn(), 1);
                self.config.slabs.slab_made(frames, POOL);
                Ok((block, base))
            }
            None => Err(self.refuse(block)),
        }
    }

    /// Gives a page back that [`Slob::new_page`] took.
    fn free_page(&self, block: PageBlock) {
        let frames = PfnRange::with_len(block.pfn(), 1);
        self.config.slabs.slab_gone(frames);
        self.pages.free(block);
    }

    /// A block; if need be after what waits was let go.
    fn pages_or_what_waits(&self, req: PageReq) -> Result<PageBlock, SlubError> {
        match self.pages.alloc(req) {
            Err(_) if self.thin_out(0) > 0 => Ok(self.pages.alloc(req)?),
            other => Ok(other?),
        }
    }

    /// Gives a block back that cannot be used.
    fn refuse(&self, block: PageBlock) -> SlubError {
        let address = block.pfn().phys().as_usize();
        self.pages.free(block);
        self.report(SlubBugKind::ForeignFrame, None, address);
        SlubError::ForeignFrame
    }

    fn adopt(&self, state: &mut State, block: PageBlock, base: NonNull<u8>, ring: u8) {
        let (pfn, _) = block.into_raw();
        let page = SlobPage::new(pfn, self.map.page(pfn), base, self.config.secret);
        page.init(self.seal ^ BLOCKS, ring);
        state.rings[usize::from(ring)].insert(self.map, pfn);
        state.nr_pages += 1;
        self.pages.count(pfn, NodeItem::SlabUnreclaimable, 1);
    }

    fn page_at(&self, pfn: Pfn) -> Option<SlobPage> {
        let (page, base) = (self.map.get(pfn)?, self.phys.direct(pfn)?);
        let page = SlobPage::new(pfn, page, base, self.config.secret);
        Some(page.with_debugged(self.debugs()))
    }

    fn node_of(&self, pfn: Pfn) -> usize {
        let node = self.config.topology.map(|all| all.node_of(pfn));
        node.map_or(0, NodeId::index).min(MAX_NODES - 1)
    }

    fn mem(&self) -> Mem<'_, P> {
        Mem {
            map: self.map,
            phys: &self.phys,
        }
    }

    fn report(&self, kind: SlubBugKind, cache: Option<&'static str>, address: usize) {
        let object = if self.debugs() {
            self.describe(address)
        } else {
            None
        };
        (self.config.on_bug)(&SlubBug {
            kind,
            cache: cache.or(object.map(|object| object.cache)),
            address,
            object: object.as_ref(),
        });
    }

    fn large_pages(&self) -> usize {
        self.large_pages.load(Ordering::Relaxed)
    }
}

/// Linux promises it of powers of two.
const fn natural_align(size_bytes: usize) -> usize {
    if size_bytes.is_power_of_two() && size_bytes <= kmm_frame::PAGE_SIZE {
        size_bytes
    } else {
        1
    }
}

#[expect(clippy::cast_possible_truncation, reason = "six rings")]
const fn ring_of(size_bytes: usize, is_dma: bool) -> u8 {
    let by_size = if size_bytes < BREAK_SMALL {
        0
    } else if size_bytes < BREAK_MEDIUM {
        1
    } else {
        2
    };
    by_size + if is_dma { NR_SIZES as u8 } else { 0 }
}

/// What to ask the page source for.
fn page_gfp(gfp: Gfp, is_dma: bool) -> Gfp {
    let never = Gfp::ZERO | Gfp::HIGHMEM | Gfp::MOVABLE_PAGE | Gfp::RECLAIMABLE | Gfp::DMA32;
    let mut gfp = gfp - never;
    gfp.set(Gfp::DMA, is_dma);
    gfp
}

/// Fills memory that nobody else has with zeros.
#[expect(unsafe_code, reason = "writes to memory that is to be handed out")]
fn clear(object: NonNull<u8>, size_bytes: usize) {
    // SAFETY: INV-13: a block has that many bytes, and is the caller's.
    unsafe { object.write_bytes(0, size_bytes) };
}

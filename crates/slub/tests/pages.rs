//! What slub asks of its source of pages, and how.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use common::{bugs, config, destroy, kfree, rig, slots, slub_over, smp_rig, storage};
use kmm_frame::{Gfp, MemMap, Order, Page, PageFlags, Pfn, PfnRange};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};
use kmm_sim::{Config, FreeListSource, Machine, SimLock};
use kmm_slub::{CacheArgs, CpuSlot, SlabUse, Slub, SlubBugKind, SlubError, SlubStorage};

/// Keeps what was asked, refuses blocks above an order, and calls back in the middle.
struct Watched {
    inner: FreeListSource,
    asked: RefCell<Vec<PageReq>>,
    max_order: Cell<u8>,
    hook: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Watched {
    fn new(machine: &'static Machine) -> Rc<Self> {
        Rc::new(Self {
            inner: FreeListSource::new(machine),
            asked: RefCell::default(),
            max_order: Cell::new(10),
            hook: RefCell::default(),
        })
    }
}

struct Handle(Rc<Watched>);

// SAFETY: blocks come from the inner source.
unsafe impl PageSource for Handle {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        self.0.asked.borrow_mut().push(req);
        if let Some(hook) = self.0.hook.take() {
            hook();
        }
        if req.order.get() > self.0.max_order.get() {
            return Err(AllocError::OutOfMemory);
        }
        self.0.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.0.inner.free(block);
    }
}

fn watched() -> (&'static common::SimSlub<Handle>, Rc<Watched>) {
    let machine = Machine::new(Config::with_mib(16));
    let source = Watched::new(machine);
    (slub_over(machine, Handle(source.clone())), source)
}

#[test]
fn the_usual_slab_is_asked_for_gently_and_the_least_one_in_earnest() {
    let (slub, source) = watched();
    source.max_order.set(1);
    let ptr = slub.kmalloc(8192, Gfp::KERNEL).unwrap();
    let asked = source.asked.take();
    let orders: Vec<_> = asked.iter().map(|req| req.order.get()).collect();
    assert_eq!(orders, [3, 1]);
    assert!(asked[0].gfp.contains(Gfp::NORETRY | Gfp::NOWARN));
    assert!(!asked[0].gfp.may_block());
    assert_eq!(asked[1].gfp, Gfp::KERNEL);
    slub.validate().unwrap();
    // Slabs of both sizes live side by side.
    source.max_order.set(10);
    let more: Vec<_> = (0..5)
        .map(|_| slub.kmalloc(8192, Gfp::KERNEL).unwrap())
        .collect();
    assert_eq!(slub.nr_pages().unreclaimable, 2 + 2 * 8);
    slub.validate().unwrap();
    kfree(slub, ptr);
    more.into_iter().for_each(|ptr| kfree(slub, ptr));
    slub.shrink_all();
    source.inner.assert_nothing_outstanding();
}

#[test]
fn a_request_that_may_not_wait_never_lets_the_source_wait() {
    let (slub, source) = watched();
    for gfp in [Gfp::ATOMIC, Gfp::NOWAIT] {
        for size in [8, 500, 4096, 100_000] {
            let ptr = slub.kmalloc(size, gfp).unwrap();
            kfree(slub, ptr);
            slub.shrink_all();
        }
    }
    let asked = source.asked.take();
    assert!(asked.len() >= 8);
    assert!(asked.iter().all(|req| !req.gfp.may_block()));
}

#[test]
fn pages_are_asked_for_from_zones_that_the_kernel_maps() {
    let (slub, source) = watched();
    for size in [64, 64_000] {
        let ptr = slub
            .kmalloc(size, Gfp::HIGHUSER_MOVABLE | Gfp::ZERO)
            .unwrap();
        kfree(slub, ptr);
    }
    let asked = source.asked.take();
    let bad = Gfp::HIGHMEM | Gfp::MOVABLE_PAGE;
    assert!(asked.iter().all(|req| !req.gfp.intersects(bad)));
    for (size, gfp) in [(128, Gfp::DMA), (256, Gfp::DMA32)] {
        slub.kmalloc(size, Gfp::KERNEL | gfp).unwrap();
        assert!(source.asked.take()[0].gfp.contains(Gfp::DMA));
    }
    slub.kmalloc(128, Gfp::KERNEL | Gfp::RECLAIMABLE).unwrap();
    assert!(source.asked.take()[0].gfp.contains(Gfp::RECLAIMABLE));
    assert_eq!(slub.nr_pages().reclaimable, 1);
}

/// The source may come back into slub, as reclaim does: no lock is held. `SimLock` panics when locked twice.
#[test]
fn no_lock_is_held_while_pages_are_asked_for() {
    let (slub, source) = watched();
    let nested = Rc::new(Cell::new(None));
    let out = nested.clone();
    *source.hook.borrow_mut() = Some(Box::new(move || {
        out.set(Some(slub.kmalloc(64, Gfp::KERNEL).unwrap()));
        slub.shrink_all();
    }));
    let ptr = slub.kmalloc(64, Gfp::KERNEL).unwrap();
    let inner = nested.take().unwrap();
    assert_ne!(ptr, inner);
    slub.validate().unwrap();
    kfree(slub, ptr);
    kfree(slub, inner);
    slub.shrink_all();
    source.inner.assert_nothing_outstanding();
}

/// Others have fetched and emptied slabs meanwhile: ours is one too many, and an older one goes back.
#[test]
fn a_slab_that_is_not_needed_any_more_goes_back() {
    let (slub, source) = watched();
    *source.hook.borrow_mut() = Some(Box::new(move || {
        let objects: Vec<_> = (0..192)
            .map(|_| slub.kmalloc(64, Gfp::KERNEL).unwrap())
            .collect();
        objects[1..].iter().for_each(|&ptr| kfree(slub, ptr));
    }));
    slub.kmalloc(64, Gfp::KERNEL).unwrap();
    let info = slub.cache_infos().find(|info| info.name == "kmalloc-64");
    let info = info.unwrap();
    assert_eq!(
        (info.active_objs, info.active_slabs, info.num_slabs),
        (2, 1, 3)
    );
    assert_eq!((info.slabs_taken, info.slabs_returned), (4, 1));
    slub.validate().unwrap();
}

/// The cache goes away while its slab is on the way.
#[test]
fn pages_for_a_cache_that_is_gone_are_returned() {
    let (slub, source) = watched();
    let cache = slub.cache_create(&CacheArgs::new("short", 64)).unwrap();
    *source.hook.borrow_mut() = Some(Box::new(move || destroy(slub, cache).unwrap()));
    assert_eq!(slub.alloc(cache, Gfp::KERNEL), Err(SlubError::NoSuchCache));
    source.inner.assert_nothing_outstanding();
}

/// Hands out frames above the descriptors.
struct Foreign(&'static Machine);

// SAFETY: the block is RAM of the machine and handed out once; what is freed is leaked.
unsafe impl PageSource for Foreign {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let pfn = (self.0.spanned().end() - req.order.nr_pages()).align_down(req.order);
        // SAFETY: the frames lie outside of the map, so nobody owns them.
        Ok(unsafe { PageBlock::from_raw(pfn, req.order) })
    }

    fn free(&self, block: PageBlock) {
        let _ = block.into_raw();
    }
}

#[test]
fn a_frame_without_a_descriptor_is_reported_and_not_used() {
    let machine = Machine::new(Config::with_mib(16));
    let few: Vec<_> = (0..512).map(|_| Page::new()).collect();
    let map = MemMap::new(PfnRange::with_len(Pfn::ZERO, 512), few.leak()).unwrap();
    let cpus = *machine.cpus();
    let storage = storage(machine);
    let slub: Slub<_, _, SimLock, _> = Slub::new(
        Foreign(machine),
        *machine.phys(),
        map,
        cpus,
        storage,
        config(),
    )
    .unwrap();
    for size in [64, 100_000] {
        assert_eq!(
            slub.kmalloc(size, Gfp::KERNEL),
            Err(SlubError::ForeignFrame)
        );
        assert_eq!(bugs(), [SlubBugKind::ForeignFrame]);
    }
    assert_eq!(slub.nr_pages().total(), 0);
}

#[test]
fn slots_in_use_or_too_few_are_refused() {
    let machine = Machine::new(Config::with_mib(16).cpus(2));
    let new = |caches, cpus| {
        let source = FreeListSource::new(machine);
        let storage = SlubStorage { caches, cpus };
        let (phys, map) = (*machine.phys(), machine.mem_map());
        Slub::new(source, phys, map, *machine.cpus(), storage, config()).err()
    };
    let cpus = |nr| -> &'static [CpuSlot<SimLock>] {
        (0..nr).map(|_| CpuSlot::new()).collect::<Vec<_>>().leak()
    };
    assert_eq!(new(slots(10), cpus(2)), Some(SlubError::NoSlot));
    assert_eq!(new(slots(257), cpus(2)), Some(SlubError::NoSlot));
    assert_eq!(new(slots(64), cpus(1)), Some(SlubError::NoSlot));
    let (shared, shared_cpus) = (slots(64), cpus(2));
    assert_eq!(new(shared, shared_cpus), None);
    assert_eq!(new(shared, cpus(2)), Some(SlubError::NoSlot));
    assert_eq!(new(slots(64), shared_cpus), Some(SlubError::NoSlot));
}

#[test]
fn more_cpus_make_larger_slabs() {
    let rig = smp_rig(16, config());
    let info = rig
        .slub
        .cache_infos()
        .find(|info| info.name == "kmalloc-512");
    // Linux with 16 CPUs: 4 * (fls(16) + 1) = 24 objects wanted, so 32 in 4 pages.
    let info = info.unwrap();
    assert_eq!((info.objperslab, info.pagesperslab), (32, 4));
}

/// An audit hears of every frame exactly once, and each is marked.
#[test]
fn every_frame_is_told_once() {
    let rig = rig();
    let live: Vec<_> = [8, 96, 1024, 8192, 10_000, 50_000, 8, 4096]
        .into_iter()
        .map(|size| rig.slub.kmalloc(size, Gfp::KERNEL).unwrap())
        .collect();
    let mut told = Vec::new();
    rig.slub.for_each_frame(|frames, usage| {
        let head = rig.machine.mem_map().page(frames.start());
        assert!(head.test(PageFlags::SLAB | PageFlags::HEAD));
        assert_eq!(
            usage == SlabUse::Large,
            frames.nr_pages() > 8 || frames.nr_pages() == 4
        );
        told.extend(frames.iter());
    });
    assert_eq!(told.len(), rig.outstanding());
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), rig.outstanding());
    // The frames of others carry no such mark.
    let other = rig
        .source
        .alloc(PageReq::new(Order::ZERO, Gfp::KERNEL))
        .unwrap();
    assert!(!told.contains(&other.pfn()));
    rig.source.free(other);
    live.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    rig.assert_clean();
}

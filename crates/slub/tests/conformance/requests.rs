//! What a back end asks its page source for, and how it marks what it got.

use core::cell::RefCell;

use kmm_frame::{Gfp, NodeId, PageFlags};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource, PhysMap};
use kmm_sim::{Config, Machine};
use kmm_slub::{CacheArgs, Kmem};

use crate::back_ends::{BackEnd, Rig, rigs, source_on};
use crate::common::{Source, config};

/// Keeps what was asked for, and calls back in the middle.
struct Watched {
    inner: &'static Source,
    asked: RefCell<Vec<PageReq>>,
    hook: RefCell<Option<Box<dyn FnOnce()>>>,
}

// SAFETY: blocks come from the inner source.
unsafe impl PageSource for Watched {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        self.asked.borrow_mut().push(req);
        if let Some(hook) = self.hook.take() {
            hook();
        }
        self.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }
}

fn watched<B: BackEnd>() -> (&'static Rig<B, &'static Watched>, &'static Watched) {
    let machine = Machine::new(Config::with_mib(16));
    let source = source_on(machine);
    let watched: &'static Watched = Box::leak(Box::new(Watched {
        inner: source,
        asked: RefCell::default(),
        hook: RefCell::default(),
    }));
    let kmem = B::make(machine, watched, config());
    let rig = Rig {
        machine,
        source,
        kmem,
    };
    (Box::leak(Box::new(rig)), watched)
}

pub(crate) fn nodes_are_asked_for<B: BackEnd>() {
    let (rig, watched) = watched::<B>();
    let node = NodeId::new(0);
    let cache = rig.kmem.cache_create(&CacheArgs::new("far", 300)).unwrap();
    let large = rig.kmem.kmalloc_node(50_000, Gfp::KERNEL, node).unwrap();
    let small = rig.kmem.kmalloc_node(50, Gfp::KERNEL, node).unwrap();
    let object = rig.kmem.alloc_node(cache, Gfp::KERNEL, node).unwrap();
    let asked = watched.asked.take();
    assert!(asked.len() >= 2);
    assert!(asked.iter().all(|req| req.node == Some(node)));
    rig.kfree(large);
    rig.kfree(small);
    rig.free(cache, object);
    rig.destroy(cache).unwrap();
    rig.assert_clean();
}

pub(crate) fn whoever_may_not_wait_does_not<B: BackEnd>() {
    let (rig, watched) = watched::<B>();
    for gfp in [Gfp::ATOMIC, Gfp::NOWAIT] {
        for size in [8, 500, 4096, 100_000] {
            let ptr = rig.kmem.kmalloc(size, gfp | Gfp::HIGHMEM).unwrap();
            rig.kfree(ptr);
            B::drain(&rig.kmem);
        }
    }
    let asked = watched.asked.take();
    assert!(asked.len() >= 8);
    assert!(asked.iter().all(|req| !req.gfp.may_block()));
    assert!(asked.iter().all(|req| !req.gfp.intersects(Gfp::HIGHMEM)));
    // Memory for DMA is not what another left over.
    let plain = rig.kmem.kmalloc(100, Gfp::KERNEL).unwrap();
    watched.asked.take();
    let dma = rig.kmem.kmalloc(100, Gfp::KERNEL | Gfp::DMA).unwrap();
    assert!(watched.asked.take()[0].gfp.contains(Gfp::DMA));
    rig.kfree(plain);
    rig.kfree(dma);
    rig.assert_clean();
}

/// The source may come back, as reclaim does. `SimLock` panics when locked twice.
pub(crate) fn no_lock_is_held_while_pages_are_asked_for<B: BackEnd>() {
    let (rig, watched) = watched::<B>();
    *watched.hook.borrow_mut() = Some(Box::new(move || {
        let inner = rig.kmem.kmalloc(64, Gfp::KERNEL).unwrap();
        rig.kmem.shrink_all();
        rig.kfree(inner);
    }));
    let ptr = rig.kmem.kmalloc(64, Gfp::KERNEL).unwrap();
    assert!(watched.hook.borrow().is_none());
    rig.kmem.validate().unwrap();
    rig.kfree(ptr);
    rig.assert_clean();
}

pub(crate) fn every_frame_is_told_once_and_marked<B: BackEnd>() {
    for rig in rigs::<B>() {
        let live: Vec<_> = [8, 96, 1024, 8192, 10_000, 50_000, 8, 4096]
            .into_iter()
            .map(|size| rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap())
            .collect();
        let mut told = Vec::new();
        rig.kmem.for_each_frame(&mut |frames, _| {
            let head = rig.machine.mem_map().page(frames.start());
            assert!(head.test(PageFlags::SLAB | PageFlags::HEAD));
            told.extend(frames.iter());
        });
        assert_eq!(told.len(), rig.outstanding());
        assert_eq!(told.len(), rig.kmem.nr_pages().total());
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), rig.outstanding());
        for &ptr in &live {
            let pfn = rig.machine.phys().virt_to_pfn(ptr).unwrap();
            assert!(told.contains(&pfn));
        }
        live.into_iter().for_each(|ptr| rig.kfree(ptr));
        rig.assert_clean();
    }
}

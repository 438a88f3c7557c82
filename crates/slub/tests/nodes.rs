//! Several nodes: whose memory is where, and how it gets back.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;

use common::{SimSlub, bugs, fast_config, fill, holds, slub_with};
use kmm_frame::{Gfp, NodeId, Pfn, PfnRange, Topology};
use kmm_host::{AllocError, CpuId, PageBlock, PageReq, PageSource, PhysMap};
use kmm_sim::{Config, FreeListSource, Machine, seeded};
use kmm_slub::{CacheArgs, SlubConfig};

const NODE_PAGES: usize = 1024;

/// Two nodes of 4 MiB, each with its own frames; who has none left is helped out by the other.
struct TwoNodes {
    inner: FreeListSource,
    topology: &'static Topology,
}

// SAFETY: blocks come from the inner source.
unsafe impl PageSource for &'static TwoNodes {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let mut kept = Vec::new();
        let found = loop {
            match self.inner.alloc(req) {
                Ok(block) => {
                    let node = self.topology.node_of(block.pfn());
                    if req.node.is_none_or(|wanted| wanted == node) {
                        break Ok(block);
                    }
                    kept.push(block);
                }
                Err(error) => break Err(error),
            }
        };
        let may_help = !req.gfp.contains(Gfp::THISNODE);
        let found = match found {
            Err(_) if may_help && !kept.is_empty() => Ok(kept.pop().unwrap()),
            other => other,
        };
        kept.into_iter().for_each(|block| self.inner.free(block));
        found
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }
}

struct Rig {
    machine: &'static Machine,
    source: &'static TwoNodes,
    slub: &'static SimSlub<&'static TwoNodes>,
}

fn rig() -> Rig {
    let machine = Machine::new(Config::with_mib(8).cpus(2));
    let mut topology = Topology::new(2).unwrap();
    for node in 0..2 {
        let start = Pfn::new(node * NODE_PAGES);
        let range = PfnRange::with_len(start, NODE_PAGES);
        topology.add_range(range, NodeId::new(node as u8)).unwrap();
        topology
            .set_cpu_node(node, NodeId::new(node as u8))
            .unwrap();
    }
    let topology: &'static _ = Box::leak(Box::new(topology));
    let source: &'static _ = Box::leak(Box::new(TwoNodes {
        inner: FreeListSource::new(machine),
        topology,
    }));
    let config = SlubConfig {
        topology: Some(topology),
        ..fast_config()
    };
    Rig {
        machine,
        source,
        slub: slub_with(machine, source, config),
    }
}

impl Rig {
    fn on<R>(&self, cpu: u32, f: impl FnOnce() -> R) -> R {
        self.machine.cpus().run_on(CpuId::new(cpu), f)
    }

    fn node_of(&self, ptr: NonNull<u8>) -> usize {
        let pfn = self.machine.phys().virt_to_pfn(ptr).unwrap();
        self.source.topology.node_of(pfn).index()
    }

    fn kfree(&self, ptr: NonNull<u8>) {
        // SAFETY: tests free what they allocated.
        unsafe { self.slub.kfree(ptr) };
    }

    fn assert_clean(&self) {
        self.slub.validate().unwrap();
        // SAFETY: the test is alone.
        unsafe { self.slub.drain_all() };
        self.slub.validate().unwrap();
        let pages = self.slub.nr_pages();
        assert_eq!(
            pages.total(),
            pages.lists,
            "but for the lists of the other nodes"
        );
        assert_eq!(bugs(), []);
    }
}

#[test]
fn each_cpu_gets_memory_of_its_node() {
    let rig = rig();
    for cpu in [0, 1] {
        rig.on(cpu, || {
            let live: Vec<_> = (0..300)
                .map(|nr| rig.slub.kmalloc(8 << (nr % 10), Gfp::KERNEL).unwrap())
                .collect();
            assert!(live.iter().all(|&ptr| rig.node_of(ptr) == cpu as usize));
            live.into_iter().for_each(|ptr| rig.kfree(ptr));
        });
    }
    rig.assert_clean();
}

#[test]
fn memory_of_a_node_is_had_by_asking() {
    let rig = rig();
    let cache = rig.slub.cache_create(&CacheArgs::new("near", 100)).unwrap();
    for node in [1, 0, 1] {
        let node = NodeId::new(node);
        for _ in 0..100 {
            let ptr = rig.slub.kmalloc_node(200, Gfp::KERNEL, node).unwrap();
            let object = rig.slub.alloc_node(cache, Gfp::KERNEL, node).unwrap();
            let large = rig.slub.kmalloc_node(20_000, Gfp::KERNEL, node).unwrap();
            for ptr in [ptr, object, large] {
                assert_eq!(rig.node_of(ptr), node.index());
                rig.kfree(ptr);
            }
        }
    }
    // SAFETY: only the test uses the cache.
    unsafe { rig.slub.cache_destroy(cache) }.unwrap();
    rig.assert_clean();
}

/// Memory of another node never gets into a CPU's stock, however it is freed.
#[test]
fn what_is_freed_elsewhere_goes_home() {
    let rig = rig();
    let cache = rig.slub.cache_create(&CacheArgs::new("far", 100)).unwrap();
    for round in 0..20 {
        let live: Vec<_> = rig.on(0, || {
            (0..100)
                .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
                .collect()
        });
        rig.on(1, || {
            for &object in &live {
                assert_eq!(rig.node_of(object), 0);
                if round % 2 == 0 {
                    // SAFETY: of this cache, and nobody uses it.
                    unsafe { rig.slub.free(cache, object) };
                } else {
                    rig.kfree(object);
                }
            }
            let ours: Vec<_> = (0..100)
                .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
                .collect();
            for object in ours {
                assert_eq!(rig.node_of(object), 1);
                rig.kfree(object);
            }
        });
        let info = rig.slub.cache_infos().find(|info| info.name == "far");
        assert_eq!(info.unwrap().active_objs, 0);
    }
    rig.on(1, || rig.slub.drain_local());
    // SAFETY: only the test uses the cache.
    rig.on(0, || unsafe { rig.slub.cache_destroy(cache) })
        .unwrap();
    rig.assert_clean();
}

#[test]
fn a_node_without_memory_is_helped_out() {
    let rig = rig();
    let mut live = Vec::new();
    while let Ok(ptr) = rig.slub.kmalloc(4096, Gfp::KERNEL | Gfp::NOWARN) {
        live.push(ptr);
    }
    let far = live.iter().filter(|&&ptr| rig.node_of(ptr) == 1).count();
    assert!(far > NODE_PAGES * 9 / 10, "{far} of the other node");
    // One comes back there: it serves the node that has none.
    let ptr = live.pop().unwrap();
    rig.on(1, || rig.kfree(ptr));
    rig.on(1, || rig.slub.drain_local());
    assert!(rig.slub.kmalloc(4096, Gfp::KERNEL).is_ok_and(|ptr| {
        live.push(ptr);
        true
    }));
    live.into_iter().for_each(|ptr| rig.kfree(ptr));
    rig.assert_clean();
}

#[test]
fn random_frees_from_anywhere_match_the_oracle() {
    seeded(0x2a0d, |rng| {
        let rig = rig();
        let mut live: Vec<(NonNull<u8>, usize, u64)> = Vec::new();
        for id in 0..40_000 {
            let cpu = rng.below(2) as u32;
            if rng.below(300) as usize > live.len() {
                let size = 1 + rng.below(700) as usize;
                let ptr = rig.on(cpu, || rig.slub.kmalloc(size, Gfp::KERNEL).unwrap());
                assert_eq!(rig.node_of(ptr), cpu as usize);
                fill(ptr, size, id);
                live.push((ptr, size, id));
            } else if !live.is_empty() {
                let (ptr, size, id) = live.swap_remove(rng.index(live.len()));
                assert!(holds(ptr, size, id));
                rig.on(cpu, || rig.kfree(ptr));
            }
            if id % 2000 == 0 {
                rig.slub.validate().unwrap();
                let infos = rig.slub.cache_infos();
                let users = infos.filter(|info| !info.name.starts_with("kmem_cache"));
                let active: usize = users.map(|info| info.active_objs).sum();
                assert_eq!(active, live.len());
                rig.on(cpu, || rig.slub.shrink_all());
            }
        }
        live.into_iter().for_each(|(ptr, ..)| rig.kfree(ptr));
        rig.assert_clean();
    });
}

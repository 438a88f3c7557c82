//! Every request for pages that an operation makes is made to fail, one after the other: nothing panics, nothing is lost, and what is
//! refused has changed nothing. The same for every page of the KFENCE pool that is to be shown or hidden.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

#[allow(dead_code, reason = "each test file uses its part of this")]
#[path = "conformance/back_ends.rs"]
mod back_ends;

use core::alloc::Layout;
use core::ptr::NonNull;

use back_ends::{BackEnd, OfSlab, OfSlob, OfSlub};
use common::{bugs, config, fast_config, fill, holds};
use kmm_frame::{Gfp, NodeId};
use kmm_host::ObjectSource;
use kmm_sim::{Config, FailNth, FreeListSource, Machine, SimGuard, SimLock};
use kmm_slub::{CacheArgs, CacheFlags, Kfence, KfenceSlot, Kmem, KmemCache, SlubConfig, SlubError};

type Source = &'static FailNth<FreeListSource>;

/// An allocator in the middle of its life: some memory is in use, some in stock, some in quarantine.
struct World<B: BackEnd> {
    kmem: B::Kmem<Source>,
    source: Source,
    guard: &'static SimGuard,
    live: Vec<(NonNull<u8>, usize, u64)>,
    cache: KmemCache,
    objects: Vec<NonNull<u8>>,
}

#[derive(PartialEq, Eq, Debug)]
struct Picture {
    active: Vec<(&'static str, usize)>,
    /// Pages of large allocations, which do not come from stock.
    large: usize,
}

fn settings(guard: &'static SimGuard) -> [SlubConfig; 5] {
    let slots = vec![KfenceSlot::new(); 2].leak();
    let pool = Kfence::<_, SimLock>::new(guard, slots, 2).unwrap();
    let debugged = SlubConfig {
        debug: "FZPUQ",
        quarantine_bytes: 3 << 10,
        ..fast_config()
    };
    let kfence: Option<&'static (dyn kmm_slub::Sampled + Sync)> = Some(Box::leak(Box::new(pool)));
    [
        fast_config(),
        config(),
        debugged,
        SlubConfig { kfence, ..debugged },
        SlubConfig {
            kfence,
            ..fast_config()
        },
    ]
}

impl<B: BackEnd> World<B> {
    fn new(setting: usize) -> Self {
        let machine = Machine::new(Config::with_mib(16));
        let source: Source = Box::leak(Box::new(FailNth::new(FreeListSource::new(machine))));
        let guard = SimGuard::new(5);
        let kmem = B::make(machine, source, settings(guard)[setting]);
        let args = CacheArgs::new("mine", 300);
        let cache = kmem.cache_create(&args).unwrap();
        let mut world = Self {
            kmem,
            source,
            guard,
            live: Vec::new(),
            cache,
            objects: Vec::new(),
        };
        for (size, id) in [8, 100, 64, 900, 3000, 8192, 20_000, 33]
            .into_iter()
            .zip(1..)
        {
            for id in [id, 100 + id] {
                let ptr = world.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
                fill(ptr, size, id);
                world.live.push((ptr, size, id));
            }
            let (ptr, ..) = world.live.swap_remove(world.live.len() - 2);
            // SAFETY: allocated above, freed once.
            unsafe { world.kmem.kfree(ptr) };
        }
        for nr in 0..30 {
            let object = world.kmem.alloc(cache, Gfp::KERNEL).unwrap();
            fill(object, 300, nr);
            world.objects.push(object);
        }
        for object in world.objects.split_off(20) {
            // SAFETY: allocated above, freed once.
            unsafe { world.kmem.free(cache, object) };
        }
        world
    }

    fn picture(&self) -> Picture {
        let mut active = Vec::new();
        self.kmem.for_each_cache(&mut |info| {
            // Its own caches are nobody's business.
            if !info.name.starts_with("kmem_cache") {
                active.push((info.name, info.active_objs));
            }
        });
        let large = self.kmem.nr_pages().large;
        Picture { active, large }
    }

    fn active(&self) -> Option<usize> {
        let Picture { active, .. } = self.picture();
        let mine = active.into_iter().find(|(name, _)| *name == "mine");
        mine.map(|(_, active)| active)
    }

    fn outstanding(&self) -> usize {
        self.source.inner().outstanding()
    }

    fn check(&self) {
        self.kmem.validate().unwrap();
        assert_eq!(self.kmem.check_objects(), 0);
        assert_eq!(self.kmem.nr_pages().total(), self.outstanding());
        for &(ptr, size, id) in &self.live {
            assert!(holds(ptr, size, id));
        }
        for (&object, id) in self.objects.iter().zip(0..) {
            assert!(holds(object, 300, id));
        }
        assert_eq!(bugs(), []);
    }

    /// Everything goes back.
    fn end(self) {
        self.check();
        for &(ptr, ..) in &self.live {
            // SAFETY: allocated, and freed once.
            unsafe { self.kmem.kfree(ptr) };
        }
        for &object in &self.objects {
            // SAFETY: as above.
            unsafe { self.kmem.free(self.cache, object) };
        }
        // SAFETY: only the test knows the cache.
        unsafe { self.kmem.cache_destroy(self.cache) }.unwrap();
        B::drain(&self.kmem);
        self.kmem.validate().unwrap();
        assert_eq!(self.kmem.nr_pages().total(), 0);
        self.source.inner().assert_nothing_outstanding();
        assert_eq!(bugs(), []);
    }
}

/// What an operation leaves to be undone.
enum Undo {
    Nothing,
    Kfree(NonNull<u8>),
    Objects(KmemCache, Vec<NonNull<u8>>),
}

impl Undo {
    fn run<B: BackEnd>(self, world: &World<B>) {
        match self {
            Self::Nothing => {}
            // SAFETY: the operation's own.
            Self::Kfree(ptr) => unsafe { world.kmem.kfree(ptr) },
            Self::Objects(cache, objects) => {
                for object in objects {
                    // SAFETY: the operation's own.
                    unsafe { world.kmem.free(cache, object) };
                }
                if cache != world.cache {
                    // SAFETY: only the operation knew it.
                    unsafe { world.kmem.cache_destroy(cache) }.unwrap();
                }
            }
        }
    }
}

type Site<B> = (&'static str, fn(&mut World<B>) -> Result<Undo, SlubError>);

/// An object of a new cache; a request that is refused ends the cache again.
fn of_new_cache<B: BackEnd>(world: &World<B>, args: &CacheArgs) -> Result<Undo, SlubError> {
    let cache = world.kmem.cache_create(args)?;
    match world.kmem.alloc(cache, Gfp::KERNEL) {
        Ok(object) => Ok(Undo::Objects(cache, vec![object])),
        Err(error) => {
            // SAFETY: nobody else knows it.
            unsafe { world.kmem.cache_destroy(cache) }.unwrap();
            Err(error)
        }
    }
}

unsafe fn construct(object: NonNull<u8>) {
    fill(object, 40, 1);
}

fn sites<B: BackEnd>() -> Vec<Site<B>>
where
    B::Kmem<Source>: ObjectSource,
{
    vec![
        ("a new cache", |world| {
            of_new_cache(world, &CacheArgs::new("new", 500))
        }),
        ("a new cache with a constructor", |world| {
            of_new_cache(world, &CacheArgs::new("new", 40).ctor(construct))
        }),
        ("a new cache of large objects", |world| {
            of_new_cache(
                world,
                &CacheArgs::new("new", 30_000).flags(CacheFlags::CACHE_DMA),
            )
        }),
        ("kmalloc", |world| {
            world.kmem.kmalloc(48, Gfp::KERNEL).map(Undo::Kfree)
        }),
        ("kmalloc of a node", |world| {
            let node = NodeId::new(0);
            world
                .kmem
                .kmalloc_node(700, Gfp::KERNEL, node)
                .map(Undo::Kfree)
        }),
        ("kzalloc", |world| {
            world.kmem.kzalloc(2000, Gfp::ATOMIC).map(Undo::Kfree)
        }),
        ("kmalloc of many pages", |world| {
            world.kmem.kmalloc(70_000, Gfp::KERNEL).map(Undo::Kfree)
        }),
        ("an object source", |world| {
            let layout = Layout::from_size_align(600, 128).unwrap();
            let object = world.kmem.alloc_object(layout, Gfp::KERNEL);
            object.map(Undo::Kfree).map_err(|_| SlubError::OutOfMemory)
        }),
        ("bulk", |world| {
            let mut objects = [None; 120];
            let got = world
                .kmem
                .alloc_bulk(world.cache, Gfp::KERNEL, &mut objects);
            assert_eq!(got.is_ok(), objects.iter().all(Option::is_some));
            assert_eq!(got.is_err(), objects.iter().all(Option::is_none));
            got?;
            let objects = objects.into_iter().flatten().collect();
            Ok(Undo::Objects(world.cache, objects))
        }),
        ("krealloc", |world| {
            let (ptr, size, id) = world.live[2];
            // SAFETY: the world's own.
            let moved = unsafe { world.kmem.krealloc(Some(ptr), 5000, Gfp::KERNEL) }?;
            assert!(holds(moved, size, id));
            world.live[2].0 = moved;
            // Back to what it was, so that the picture is the same.
            let smaller = world.kmem.kmalloc(size, Gfp::KERNEL)?;
            fill(smaller, size, id);
            // SAFETY: as above.
            unsafe { world.kmem.kfree(moved) };
            world.live[2].0 = smaller;
            Ok(Undo::Nothing)
        }),
        // These cannot be refused, whatever becomes of the arrays and blocks they would like to have.
        ("free, past the end of every array", |world| {
            for object in core::mem::take(&mut world.objects) {
                // SAFETY: the world's own.
                unsafe { world.kmem.free(world.cache, object) };
            }
            Ok(Undo::Nothing)
        }),
        ("kfree into the quarantine, and out of it", |world| {
            for (ptr, ..) in core::mem::take(&mut world.live) {
                // SAFETY: the world's own.
                unsafe { world.kmem.kfree(ptr) };
            }
            Ok(Undo::Nothing)
        }),
        ("shrink", |world| {
            world.kmem.shrink(world.cache)?;
            world.kmem.shrink_all();
            Ok(Undo::Nothing)
        }),
        ("drain", |world| {
            B::drain(&world.kmem);
            Ok(Undo::Nothing)
        }),
        ("destroy", |world| {
            for object in core::mem::take(&mut world.objects) {
                // SAFETY: the world's own.
                unsafe { world.kmem.free(world.cache, object) };
            }
            // SAFETY: only the world knows it.
            unsafe { world.kmem.cache_destroy(world.cache) }?;
            world.cache = world.kmem.cache_create(&CacheArgs::new("mine", 300))?;
            Ok(Undo::Nothing)
        }),
    ]
}

/// Lets the first, second .. request fail until there are no more.
fn fail_each<B: BackEnd>(arm: fn(&World<B>, u64), has_failed: fn(&World<B>) -> bool)
where
    B::Kmem<Source>: ObjectSource,
{
    for setting in 0..5 {
        for (name, site) in sites::<B>() {
            for nth in 0.. {
                assert!(nth < 100, "{name} has no end");
                let mut world = World::<B>::new(setting);
                let before = (world.picture(), world.outstanding(), world.active());
                arm(&world, nth);
                let done = site(&mut world);
                let failed = has_failed(&world);
                world.source.disarm();
                world.guard.fail(0);
                match done {
                    Ok(undo) => undo.run(&world),
                    Err(error) => {
                        assert_eq!(error, SlubError::OutOfMemory, "{name}");
                        assert!(failed, "{name}: refused for no reason");
                        if name == "bulk" {
                            // Those that there was memory for stay in stock, and slabs for them have what they need besides.
                            B::drain(&world.kmem);
                            assert_eq!(world.active(), before.2);
                        } else {
                            assert_eq!(world.picture(), before.0, "{name}, request {nth}");
                        }
                        assert!(world.outstanding() <= before.1, "{name}, request {nth}");
                        world.check();
                        // What was refused is granted the next time.
                        site(&mut world).unwrap().run(&world);
                    }
                }
                world.end();
                if !failed {
                    break;
                }
            }
        }
    }
}

fn fail_pages<B: BackEnd>()
where
    B::Kmem<Source>: ObjectSource,
{
    fail_each::<B>(
        |world, nth| world.source.fail_at(nth),
        |world| world.source.nr_failed() > 0,
    );
}

#[test]
fn every_page_request_of_slub_may_fail() {
    fail_pages::<OfSlub>();
}

#[test]
fn every_page_request_of_slab_may_fail() {
    fail_pages::<OfSlab>();
}

#[test]
fn every_page_request_of_slob_may_fail() {
    fail_pages::<OfSlob>();
}

/// All calls from some moment on: a pool without working pages is no pool, and nobody notices.
#[test]
fn every_page_of_the_pool_may_refuse_to_be_shown_or_hidden() {
    fn all<B: BackEnd>()
    where
        B::Kmem<Source>: ObjectSource,
    {
        for setting in [3, 4] {
            for (name, site) in sites::<B>() {
                for nr_failing in 1..5 {
                    let mut world = World::<B>::new(setting);
                    world.guard.fail(nr_failing);
                    let undo = site(&mut world);
                    undo.unwrap_or_else(|error| panic!("{name}: {error}"))
                        .run(&world);
                    world.end();
                }
            }
        }
    }
    all::<OfSlub>();
    all::<OfSlab>();
    all::<OfSlob>();
}

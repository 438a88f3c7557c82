//! Objects against a list of what is live: contents, overlaps, alignment; nothing is left in the end.

use core::ptr::NonNull;
use std::cell::Cell;
use std::collections::BTreeMap;

use kmm_frame::Gfp;
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimCpus, SimLock, SimPhys};
use kmm_slub::{
    CacheArgs, CacheSlot, CpuSlot, InObject, IndexArray, Kmem, KmemCache, ObjectCaches, SlabKind,
    Slob, SlobSlot, SlubConfig, SlubStorage,
};

use crate::Tape;

const NR_SLOTS: usize = 128;

type Source = &'static FailRandom<FreeListSource>;
type Cached<K> = ObjectCaches<K, Source, SimPhys, SimLock, SimCpus>;
type FuzzSlob = Slob<Source, SimPhys, SimLock>;

/// An allocator, and what is below it.
struct World<K: 'static> {
    kmem: &'static K,
    source: Source,
    drain: fn(&K),
}

thread_local! {
    static NR_BUGS: Cell<usize> = const { Cell::new(0) };
    /// A machine costs more than an input; each leaves it as it was.
    static SLUB: World<Cached<InObject>> = cached();
    static SLAB: World<Cached<IndexArray>> = cached();
    static SLOB: World<FuzzSlob> = slob();
}

/// Runs an input on each of the three.
pub fn run(bytes: &[u8]) {
    SLUB.with(|world| world.run(&mut Tape::new(bytes)));
    SLAB.with(|world| world.run(&mut Tape::new(bytes)));
    SLOB.with(|world| world.run(&mut Tape::new(bytes)));
}

fn config() -> SlubConfig {
    SlubConfig::new(|_| NR_BUGS.set(NR_BUGS.get() + 1))
}

fn machine() -> (&'static Machine, Source) {
    let machine = Machine::new(Config::with_mib(16));
    let source = FailRandom::new(FreeListSource::new(machine), 1, 0);
    (machine, Box::leak(Box::new(source)))
}

fn cached<K: SlabKind>() -> World<Cached<K>> {
    let (machine, source) = machine();
    let slots: Vec<CacheSlot<SimLock>> = (0..NR_SLOTS).map(|_| CacheSlot::new()).collect();
    let cpus: Vec<CpuSlot<SimLock>> = vec![CpuSlot::new()];
    let storage = SlubStorage {
        caches: slots.leak(),
        cpus: cpus.leak(),
    };
    let (phys, map) = (*machine.phys(), machine.mem_map());
    let kmem = ObjectCaches::new(source, phys, map, *machine.cpus(), storage, config());
    World {
        kmem: Box::leak(Box::new(kmem.expect("enough slots"))),
        source,
        drain: |kmem| {
            // SAFETY: there is no other CPU.
            unsafe { kmem.drain_all() };
        },
    }
}

fn slob() -> World<FuzzSlob> {
    let (machine, source) = machine();
    let slots: Vec<SlobSlot> = (0..4).map(|_| SlobSlot::new()).collect();
    let (phys, map) = (*machine.phys(), machine.mem_map());
    let kmem = Slob::new(source, phys, map, slots.leak(), config());
    World {
        kmem: Box::leak(Box::new(kmem.expect("few slots"))),
        source,
        drain: |_| {},
    }
}

struct Live {
    object: NonNull<u8>,
    size: usize,
    fill: u8,
    cache: Option<KmemCache>,
}

impl<K: Kmem> World<K> {
    fn run(&self, tape: &mut Tape<'_>) {
        let cache_size = 1 + tape.below(6000);
        let align = 1 << tape.below(9);
        let cache = self
            .kmem
            .cache_create(&CacheArgs::new("fuzz", cache_size).align(align));
        let cache = cache.expect("a slot");
        let mut live: BTreeMap<usize, Live> = BTreeMap::new();
        let mut fill = 0_u8;
        while !tape.is_empty() {
            fill = fill.wrapping_add(1);
            let size = 1 + tape.below(tape.clone().pick(&[32, 256, 4096, 20_000]));
            let made = match tape.below(8) {
                0 | 1 => self
                    .kmem
                    .kmalloc(size, Gfp::KERNEL)
                    .ok()
                    .map(|object| (object, size, None)),
                2 => {
                    let align = 1 << tape.below(12);
                    let object = self.kmem.kmalloc_aligned(size, align, Gfp::KERNEL).ok();
                    assert!(object.is_none_or(|object| object.addr().get() % align == 0));
                    object.map(|object| (object, size, None))
                }
                3 => {
                    let object = self.kmem.alloc(cache, Gfp::KERNEL).ok();
                    assert!(object.is_none_or(|object| object.addr().get() % align == 0));
                    object.map(|object| (object, cache_size, Some(cache)))
                }
                4 => {
                    self.kmem.shrink_all();
                    None
                }
                _ => {
                    let nth = tape.below(live.len());
                    if let Some(&at) = live.keys().nth(nth) {
                        self.free(live.remove(&at).expect("a key of it"));
                    }
                    None
                }
            };
            if let Some((object, size, cache)) = made {
                let start = object.addr().get();
                let below = live.range(..start + size).next_back();
                assert!(
                    below.is_none_or(|(at, other)| at + other.size <= start),
                    "overlap"
                );
                // SAFETY: that many bytes, and nobody else's.
                unsafe { object.write_bytes(fill, size) };
                live.insert(
                    start,
                    Live {
                        object,
                        size,
                        fill,
                        cache,
                    },
                );
            }
        }
        assert_eq!(self.kmem.validate(), Ok(()));
        for (_, object) in live {
            self.free(object);
        }
        // SAFETY: nobody else knows the cache.
        unsafe { self.kmem.cache_destroy(cache) }.expect("it is empty");
        (self.drain)(self.kmem);
        assert_eq!(self.kmem.validate(), Ok(()));
        self.source.inner().assert_nothing_outstanding();
        assert_eq!(NR_BUGS.get(), 0);
    }

    fn free(&self, live: Live) {
        // SAFETY: written when it was made, and freed below.
        let bytes = unsafe { core::slice::from_raw_parts(live.object.as_ptr(), live.size) };
        assert!(
            bytes.iter().all(|byte| *byte == live.fill),
            "contents changed"
        );
        match live.cache {
            // SAFETY: of this cache, and freed once.
            Some(cache) => unsafe { self.kmem.free(cache, live.object) },
            // SAFETY: of `kmalloc`, and freed once.
            None => unsafe { self.kmem.kfree(live.object) },
        }
    }
}

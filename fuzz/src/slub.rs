//! Objects against a list of what is live: contents, overlaps, alignment; nothing is left in the end.

use core::ptr::NonNull;
use std::cell::Cell;
use std::collections::BTreeMap;

use kmm_frame::Gfp;
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimCpus, SimLock, SimPhys};
use kmm_slub::{CacheArgs, CacheSlot, CpuSlot, KmemCache, Slub, SlubConfig, SlubStorage};

use crate::Tape;

const NR_SLOTS: usize = 128;

type FuzzSlub = Slub<&'static FailRandom<FreeListSource>, SimPhys, SimLock, SimCpus>;

struct World {
    slub: &'static FuzzSlub,
    source: &'static FailRandom<FreeListSource>,
}

thread_local! {
    static NR_BUGS: Cell<usize> = const { Cell::new(0) };
    /// A machine costs more than an input; each leaves it as it was.
    static WORLD: World = {
        let machine = Machine::new(Config::with_mib(16));
        let source: &'static _ = Box::leak(Box::new(FailRandom::new(FreeListSource::new(machine), 1, 0)));
        let slots: Vec<CacheSlot<SimLock>> = (0..NR_SLOTS).map(|_| CacheSlot::new()).collect();
        let config = SlubConfig::new(|_| NR_BUGS.set(NR_BUGS.get() + 1));
        let cpus: Vec<CpuSlot<SimLock>> = vec![CpuSlot::new()];
        let storage = SlubStorage { caches: slots.leak(), cpus: cpus.leak() };
        let (phys, map) = (*machine.phys(), machine.mem_map());
        let slub = Slub::new(source, phys, map, *machine.cpus(), storage, config);
        World {
            slub: Box::leak(Box::new(slub.expect("enough slots"))),
            source,
        }
    };
}

/// Runs an input.
pub fn run(bytes: &[u8]) {
    WORLD.with(|world| world.run(&mut Tape::new(bytes)));
}

struct Live {
    object: NonNull<u8>,
    size: usize,
    fill: u8,
    cache: Option<KmemCache>,
}

impl World {
    fn run(&self, tape: &mut Tape<'_>) {
        let cache_size = 1 + tape.below(6000);
        let align = 1 << tape.below(9);
        let cache = self
            .slub
            .cache_create(&CacheArgs::new("fuzz", cache_size).align(align));
        let cache = cache.expect("a slot");
        let mut live: BTreeMap<usize, Live> = BTreeMap::new();
        let mut fill = 0_u8;
        while !tape.is_empty() {
            fill = fill.wrapping_add(1);
            let size = 1 + tape.below(tape.clone().pick(&[32, 256, 4096, 20_000]));
            let made = match tape.below(8) {
                0 | 1 => self
                    .slub
                    .kmalloc(size, Gfp::KERNEL)
                    .ok()
                    .map(|object| (object, size, None)),
                2 => {
                    let align = 1 << tape.below(12);
                    let object = self.slub.kmalloc_aligned(size, align, Gfp::KERNEL).ok();
                    assert!(object.is_none_or(|object| object.addr().get() % align == 0));
                    object.map(|object| (object, size, None))
                }
                3 => {
                    let object = self.slub.alloc(cache, Gfp::KERNEL).ok();
                    assert!(object.is_none_or(|object| object.addr().get() % align == 0));
                    object.map(|object| (object, cache_size, Some(cache)))
                }
                4 => {
                    self.slub.shrink_all();
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
        assert_eq!(self.slub.validate(), Ok(()));
        for (_, object) in live {
            self.free(object);
        }
        // SAFETY: nobody else knows the cache.
        unsafe { self.slub.cache_destroy(cache) }.expect("it is empty");
        // SAFETY: there is no other CPU.
        unsafe { self.slub.drain_all() };
        assert_eq!(self.slub.validate(), Ok(()));
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
            Some(cache) => unsafe { self.slub.free(cache, live.object) },
            // SAFETY: of `kmalloc`, and freed once.
            None => unsafe { self.slub.kfree(live.object) },
        }
    }
}

//! Objects against a list of what is live: contents, overlaps, alignment; nothing is left in the end. On all back ends, under every
//! setting of debugging, with pages that fail; and where it is debugged, a client's mistake is told once.

use core::ptr::NonNull;
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;

use kmm_frame::Gfp;
use kmm_sim::{Config, FailNth, FreeListSource, Machine, SimCpus, SimGuard, SimLock, SimPhys};
use kmm_slub::{
    CacheArgs, CacheSlot, CpuSlot, InObject, IndexArray, Kfence, KfenceSlot, Kmem, KmemCache,
    ObjectCaches, SlabKind, Slob, SlobSlot, SlubConfig, SlubStorage,
};

use crate::Tape;

const NR_SLOTS: usize = 128;

type Source = &'static FailNth<FreeListSource>;
type Cached<K> = ObjectCaches<K, Source, SimPhys, SimLock, SimCpus>;
type FuzzSlob = Slob<Source, SimPhys, SimLock>;

/// The letters of debugging, whether all caches are checked, and whether there is a pool of guarded objects.
const SETTINGS: [(&str, bool, bool); 6] = [
    ("", false, false),
    ("FZPUQ", false, false),
    ("FZPU", false, false),
    ("", true, false),
    ("", false, true),
    ("FZPUQ", false, true),
];

/// An allocator, and what is below it.
struct World<K: 'static> {
    kmem: &'static K,
    source: Source,
    drain: fn(&K),
    /// Whether a mistake is told, and at once.
    is_debugged: bool,
}

/// One for each setting, when it is first wanted: a machine costs more than an input; each leaves it as it was.
type Worlds<K> = [OnceCell<World<K>>; SETTINGS.len()];

thread_local! {
    static NR_BUGS: Cell<usize> = const { Cell::new(0) };
    static SLUB: Worlds<Cached<InObject>> = const { [const { OnceCell::new() }; SETTINGS.len()] };
    static SLAB: Worlds<Cached<IndexArray>> = const { [const { OnceCell::new() }; SETTINGS.len()] };
    static SLOB: Worlds<FuzzSlob> = const { [const { OnceCell::new() }; SETTINGS.len()] };
}

/// Runs an input on each of the three, under the setting that it says.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let nr = tape.below(SETTINGS.len());
    SLUB.with(|all| all[nr].get_or_init(|| cached(nr)).run(&mut tape.clone()));
    SLAB.with(|all| all[nr].get_or_init(|| cached(nr)).run(&mut tape.clone()));
    SLOB.with(|all| all[nr].get_or_init(|| slob(nr)).run(&mut tape));
}

fn config(nr: usize) -> SlubConfig {
    let (debug, is_checked, has_pool) = SETTINGS[nr];
    let mut config = SlubConfig {
        debug,
        is_checked,
        quarantine_bytes: 4 << 10,
        ..SlubConfig::new(|_| NR_BUGS.set(NR_BUGS.get() + 1))
    };
    if has_pool {
        let slots = vec![KfenceSlot::new(); 8].leak();
        let pool = Kfence::<_, SimLock>::new(SimGuard::new(17), slots, 3);
        config.kfence = Some(Box::leak(Box::new(pool.expect("enough pages"))));
    }
    config
}

fn machine() -> (&'static Machine, Source) {
    let machine = Machine::new(Config::with_mib(16));
    let source = FailNth::new(FreeListSource::new(machine));
    (machine, Box::leak(Box::new(source)))
}

fn cached<K: SlabKind>(nr: usize) -> World<Cached<K>> {
    let (machine, source) = machine();
    let slots: Vec<CacheSlot<SimLock>> = (0..NR_SLOTS).map(|_| CacheSlot::new()).collect();
    let cpus: Vec<CpuSlot<SimLock>> = vec![CpuSlot::new()];
    let storage = SlubStorage {
        caches: slots.leak(),
        cpus: cpus.leak(),
    };
    let (phys, map) = (*machine.phys(), machine.mem_map());
    let kmem = ObjectCaches::new(source, phys, map, *machine.cpus(), storage, config(nr));
    World {
        kmem: Box::leak(Box::new(kmem.expect("enough slots"))),
        source,
        drain: |kmem| {
            // SAFETY: there is no other CPU.
            unsafe { kmem.drain_all() };
        },
        is_debugged: SETTINGS[nr].0.contains("FZPU"),
    }
}

fn slob(nr: usize) -> World<FuzzSlob> {
    let (machine, source) = machine();
    let slots: Vec<SlobSlot> = (0..4).map(|_| SlobSlot::new()).collect();
    let (phys, map) = (*machine.phys(), machine.mem_map());
    let kmem = Slob::new(source, phys, map, slots.leak(), config(nr));
    World {
        kmem: Box::leak(Box::new(kmem.expect("few slots"))),
        source,
        drain: |kmem| {
            kmem.shrink_all();
        },
        is_debugged: SETTINGS[nr].0.contains("FZPU"),
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
            let made = match tape.below(14) {
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
                5 => {
                    let nth = tape.below(live.len());
                    let at = live.keys().nth(nth).copied();
                    let old = at.and_then(|at| live.remove(&at));
                    match old {
                        Some(old) if old.cache.is_none() => {
                            Some((self.resize(&mut live, old, size), size, None))
                                .filter(|(object, ..)| !live.contains_key(&object.addr().get()))
                        }
                        old => {
                            live.extend(old.map(|old| (old.object.addr().get(), old)));
                            None
                        }
                    }
                }
                6 => {
                    let mut objects = [None; 20];
                    let got = self.kmem.alloc_bulk(cache, Gfp::KERNEL, &mut objects);
                    assert_eq!(got.is_ok(), objects.iter().all(Option::is_some));
                    // SAFETY: of this cache, and freed once.
                    unsafe { self.kmem.free_bulk(cache, &mut objects) };
                    None
                }
                7 => {
                    self.source.fail_at(tape.below(4) as u64);
                    None
                }
                8 if self.is_debugged => {
                    self.err(size, tape);
                    None
                }
                9 => {
                    assert_eq!(self.kmem.check_objects(), 0);
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
        self.source.disarm();
        assert_eq!(self.kmem.validate(), Ok(()));
        assert_eq!(self.kmem.check_objects(), 0);
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

    /// Another size for memory; what was refused is back among the live, at its old address.
    fn resize(&self, live: &mut BTreeMap<usize, Live>, old: Live, size: usize) -> NonNull<u8> {
        // SAFETY: of `kmalloc`, and not used meanwhile.
        let new = unsafe { self.kmem.krealloc(Some(old.object), size, Gfp::KERNEL) };
        let kept = new.unwrap_or(old.object);
        let len = if new.is_ok() {
            old.size.min(size)
        } else {
            old.size
        };
        // SAFETY: so many bytes were written, or copied.
        let bytes = unsafe { core::slice::from_raw_parts(kept.as_ptr(), len) };
        assert!(bytes.iter().all(|byte| *byte == old.fill), "lost in a move");
        if new.is_err() {
            live.insert(kept.addr().get(), old);
        }
        kept
    }

    /// A client makes a mistake with an object of its own: it is told once.
    fn err(&self, size: usize, tape: &mut Tape<'_>) {
        // Larger ones fit no page of `Slob` with what surrounds them. Odd, so that the room tells who gave it.
        let size = size.min(2000) | 1;
        let Ok(object) = self.kmem.kmalloc(size, Gfp::KERNEL) else {
            return;
        };
        // Of the pool of guarded objects: that does not tell of all there is.
        if self.kmem.kmalloc_size_roundup(size, 1) != self.kmem.ksize(object) {
            // SAFETY: just allocated.
            return unsafe { self.kmem.kfree(object) };
        }
        let room = self.kmem.kmalloc_size_roundup(size, 1);
        let write = |at: isize| {
            // SAFETY: within what surrounds the object, or the object.
            let place = unsafe { object.offset(at) };
            // SAFETY: as above.
            let before = unsafe { place.read_volatile() };
            // SAFETY: as above.
            unsafe { place.write_volatile(!before) };
        };
        let signed = |bytes: usize| isize::try_from(bytes).expect("small");
        let (is_left, is_double) = match tape.below(4) {
            0 => {
                write(signed(room + tape.below(64)));
                (false, false)
            }
            1 => {
                write(-1 - signed(tape.below(64)));
                (true, false)
            }
            2 => (false, true),
            _ => {
                // SAFETY: freed once; what follows is the mistake.
                unsafe { self.kmem.kfree(object) };
                write(signed(tape.below(size)));
                self.kmem.shrink_all();
                // It goes back with its slab, or is seen where it lies.
                self.kmem.check_objects();
                assert_eq!(NR_BUGS.take(), 1, "a write after free of {size}");
                return;
            }
        };
        // SAFETY: allocated above.
        unsafe { self.kmem.kfree(object) };
        if is_double {
            // SAFETY: must be refused.
            unsafe { self.kmem.kfree(object) };
        }
        assert_eq!(
            NR_BUGS.take(),
            1,
            "{size}: left {is_left}, double {is_double}"
        );
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

//! SLOB: first fit, neighbours that merge, pages that go back; small, and the worse for it.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use std::collections::BTreeSet;

use common::{Source, bugs, config, fast_config, fill, holds, storage};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, Rng, SimLock, SimPhys, seeded};
use kmm_slub::{CacheArgs, Kmem, Slob, SlobSlot, Slub, SlubBugKind};

type SimSlob = Slob<&'static Source, SimPhys, SimLock>;

/// Bytes of a page that blocks have.
const ROOM: usize = PAGE_SIZE - 64;

struct Rig {
    machine: &'static Machine,
    source: &'static Source,
    slob: SimSlob,
}

fn rig() -> Rig {
    let machine = Machine::new(Config::with_mib(64));
    let source = FailRandom::new(FreeListSource::new(machine), 1, 0);
    let source: &'static _ = Box::leak(Box::new(source));
    let slots: Vec<_> = (0..8).map(|_| SlobSlot::new()).collect();
    let (phys, map) = (*machine.phys(), machine.mem_map());
    let slob = Slob::new(source, phys, map, slots.leak(), config()).unwrap();
    Rig {
        machine,
        source,
        slob,
    }
}

impl Rig {
    fn alloc(&self, size: usize) -> NonNull<u8> {
        self.slob.kmalloc_aligned(size, 1, Gfp::KERNEL).unwrap()
    }

    fn kfree(&self, ptr: NonNull<u8>) {
        // SAFETY: tests free what they allocated, or what slob must refuse.
        unsafe { self.slob.kfree(ptr) };
    }

    fn nr_pages(&self) -> usize {
        let nr = self.slob.nr_pages().total();
        assert_eq!(nr, self.source.inner().outstanding());
        nr
    }
}

fn page(ptr: NonNull<u8>) -> usize {
    ptr.addr().get() / PAGE_SIZE
}

#[test]
fn a_page_is_filled_to_the_last_unit() {
    for size in [8, 24, 56, 504, 2016] {
        let rig = rig();
        let objects: Vec<_> = (0..ROOM / size).map(|_| rig.alloc(size)).collect();
        assert_eq!(rig.nr_pages(), 1, "{} of {size} bytes", objects.len());
        let more = rig.alloc(size);
        assert_eq!(rig.nr_pages(), 2);
        rig.slob.validate().unwrap();
        rig.kfree(more);
        assert_eq!(rig.nr_pages(), 1, "an empty page goes back at once");
        objects.into_iter().for_each(|ptr| rig.kfree(ptr));
        assert_eq!(rig.nr_pages(), 0);
    }
}

#[test]
fn neighbours_become_one_block_in_whatever_order_they_come_back() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let rig = rig();
        let objects: Vec<_> = (0..ROOM / 24).map(|_| rig.alloc(24)).collect();
        assert_eq!(rig.nr_pages(), 1);
        order.iter().for_each(|nr| rig.kfree(objects[10 + nr]));
        rig.slob.validate().unwrap();
        let merged = rig.alloc(72);
        assert_eq!(merged, objects[10], "{order:?}");
        assert_eq!(rig.nr_pages(), 1);
        assert_eq!(rig.slob.ksize(merged), 72);
    }
}

#[test]
fn the_first_block_that_fits_is_taken() {
    let rig = rig();
    let objects: Vec<_> = (0..ROOM / 24).map(|_| rig.alloc(24)).collect();
    // Holes of 24, 72 and 48 bytes: the last would fit best.
    for nr in [5, 20, 21, 22, 40, 41] {
        rig.kfree(objects[nr]);
    }
    assert_eq!(rig.alloc(48), objects[20]);
    assert_eq!(rig.alloc(24), objects[5]);
    assert_eq!(rig.alloc(24), objects[22]);
    assert_eq!(rig.alloc(40), objects[40]);
    rig.slob.validate().unwrap();
}

/// Sizes do not mix: small ones would keep pages that large ones need whole.
#[test]
fn small_medium_and_large_blocks_have_pages_of_their_own() {
    let rig = rig();
    let mut pages = BTreeSet::new();
    for size in [255, 256, 1023, 1024, 248, 512, 1100] {
        pages.insert((
            page(rig.alloc(size)),
            usize::from(size >= 256) + usize::from(size >= 1024),
        ));
    }
    assert_eq!(pages.len(), 3);
    assert_eq!(rig.nr_pages(), 3);
}

#[test]
fn a_search_begins_where_the_last_one_ended() {
    let rig = rig();
    let objects: Vec<_> = (0..4 * (ROOM / 56)).map(|_| rig.alloc(56)).collect();
    assert_eq!(rig.nr_pages(), 4);
    // A hole in each page, a larger one in the third.
    let of = |nth: usize| nth * (ROOM / 56);
    for nth in 0..4 {
        rig.kfree(objects[of(nth) + 10]);
        rig.kfree(objects[of(nth) + 12]);
    }
    rig.kfree(objects[of(2) + 11]);
    let wide = rig.alloc(112);
    assert_eq!(page(wide), page(objects[of(2)]));
    assert_eq!(page(rig.alloc(56)), page(wide), "from there on");
    assert_eq!(rig.nr_pages(), 4);
    rig.slob.validate().unwrap();
}

#[test]
fn what_fits_into_no_page_is_pages() {
    let rig = rig();
    let most = rig.alloc(ROOM);
    assert_eq!(rig.slob.nr_pages().unreclaimable, 1);
    let more = rig.alloc(ROOM + 1);
    assert_eq!(
        (rig.slob.nr_pages().large, rig.slob.ksize(more)),
        (1, PAGE_SIZE)
    );
    assert_eq!(more.addr().get() % PAGE_SIZE, 0);
    let aligned = rig.slob.kmalloc_aligned(8, PAGE_SIZE, Gfp::KERNEL).unwrap();
    assert_eq!(rig.slob.nr_pages().large, 2);
    [most, more, aligned]
        .into_iter()
        .for_each(|ptr| rig.kfree(ptr));
    assert_eq!(rig.nr_pages(), 0);
}

#[test]
fn a_write_to_a_free_block_is_found_and_not_followed() {
    let rig = rig();
    let objects: Vec<_> = (0..ROOM / 24).map(|_| rig.alloc(24)).collect();
    fill(objects[0], 24, 1);
    rig.kfree(objects[30]);
    rig.kfree(objects[40]);
    fill(objects[30], 8, 7);
    // Found by who looks for a block: the page's free blocks are given up.
    let other = rig.alloc(24);
    assert_eq!(bugs(), [SlubBugKind::CorruptFreelist]);
    assert_ne!(page(other), page(objects[0]));
    rig.slob.validate().unwrap();
    // And by who gives one back.
    let again: Vec<_> = (1..ROOM / 24).map(|_| rig.alloc(24)).collect();
    rig.kfree(again[5]);
    fill(again[5], 8, 7);
    rig.kfree(again[9]);
    assert_eq!(bugs(), [SlubBugKind::CorruptFreelist]);
    rig.slob.validate().unwrap();
    assert_eq!(rig.alloc(24), again[9]);
    assert!(holds(objects[0], 24, 1));
}

#[test]
fn every_mistake_within_a_page_is_known_for_what_it_is() {
    let rig = rig();
    let cache = rig.slob.cache_create(&CacheArgs::new("named", 40)).unwrap();
    let object = rig.slob.alloc(cache, Gfp::KERNEL).unwrap();
    let block = rig.alloc(40);
    let refused = |ptr: NonNull<u8>, kind| {
        rig.kfree(ptr);
        assert_eq!(bugs(), [kind], "{ptr:p}");
        rig.slob.validate().unwrap();
    };
    // The word before an object is its owner's name, those behind are its own.
    for at in [-8, -4, 1, 8, 32] {
        // SAFETY: within the page.
        refused(unsafe { object.offset(at) }, SlubBugKind::Misaligned);
    }
    for at in [1, 8, 16, 32] {
        // SAFETY: within the page.
        refused(unsafe { block.offset(at) }, SlubBugKind::Misaligned);
    }
    // The marks, and what is free.
    let start = rig.machine.phys();
    let start = kmm_host::PhysMap::virt_to_pfn(start, block)
        .and_then(|pfn| kmm_host::PhysMap::direct(start, pfn))
        .unwrap();
    refused(start, SlubBugKind::Misaligned);
    // SAFETY: within the page.
    refused(unsafe { start.add(PAGE_SIZE - 8) }, SlubBugKind::DoubleFree);
    rig.kfree(block);
    refused(block, SlubBugKind::DoubleFree);
    // SAFETY: of this cache, and nobody uses it.
    unsafe { rig.slob.free(cache, object) };
    assert_eq!(rig.nr_pages(), 0);
    // SAFETY: nobody else knows the cache.
    unsafe { rig.slob.cache_destroy(cache) }.unwrap();
    assert_eq!(bugs(), []);
}

/// What F31 is for, and what it costs: pages for the same live objects, before and after most of them are gone.
#[test]
fn it_is_smaller_than_slub_and_fragments_worse() {
    seeded(0x510b, |rng| {
        let slob = rig();
        let machine = Machine::new(Config::with_mib(64));
        let source = FreeListSource::new(machine);
        let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
        let slub =
            Slub::<_, _, SimLock, _>::new(source, phys, map, cpus, storage(machine), fast_config());
        let slub = slub.unwrap();
        let mut twin = rng.clone();
        let [full, sparse] = trace(&slob.slob, rng);
        let [slub_full, slub_sparse] = trace(&slub, &mut twin);
        println!("pages of slob {full} then {sparse}, of slub {slub_full} then {slub_sparse}");
        assert!(full < slub_full, "{full} pages, slub {slub_full}");
        let (kept, slub_kept) = (sparse * slub_full, slub_sparse * full);
        assert!(
            kept > slub_kept,
            "kept {sparse} of {full}, slub {slub_sparse} of {slub_full}"
        );
    });
}

/// 4000 objects of up to 500 bytes after much replacement, then a tenth of them: pages each time.
fn trace(kmem: &impl Kmem, rng: &mut Rng) -> [usize; 2] {
    let make = |rng: &mut Rng| {
        let size = rng.range(1..500) as usize;
        kmem.kmalloc_aligned(size, 8, Gfp::KERNEL).unwrap()
    };
    let mut live: Vec<_> = (0..4000).map(|_| make(rng)).collect();
    for _ in 0..20_000 {
        let nr = rng.index(live.len());
        // SAFETY: live objects of this test.
        unsafe { kmem.kfree(live[nr]) };
        live[nr] = make(rng);
    }
    kmem.shrink_all();
    let full = kmem.nr_pages().total();
    // The largest tenth stays. SLUB has those in slabs of their own.
    live.sort_unstable_by_key(|ptr| kmem.ksize(*ptr));
    for ptr in live.drain(..3600) {
        // SAFETY: as above.
        unsafe { kmem.kfree(ptr) };
    }
    kmem.shrink_all();
    kmem.validate().unwrap();
    [full, kmem.nr_pages().total()]
}

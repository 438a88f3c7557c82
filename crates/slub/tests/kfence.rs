//! Objects between pages that nobody may touch: what a page fault handler learns, on every back end.
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

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use back_ends::{BackEnd, OfSlab, OfSlob, OfSlub, Rig, rig_with};
use common::{fast_config, fill, holds, is_zero};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_host::{Backtrace, GuardedPages};
use kmm_sim::{SimGuard, SimLock, seeded};
use kmm_slub::{
    CacheArgs, Callers, Kfence, KfenceSlot, Kmem, ObjectReport, SlubBug, SlubBugKind as Kind,
    SlubConfig, SlubError,
};

const ALLOC_SITE: usize = 0xffff_ffff_8110_a110;
const FREE_SITE: usize = 0xffff_ffff_8110_f4ee;
const LATER_SITE: usize = 0xffff_ffff_8110_1a7e;

type Told = (Kind, Option<&'static str>, ObjectReport, String);

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
    static SITE: Cell<usize> = const { Cell::new(LATER_SITE) };
}

fn keep(bug: &SlubBug) {
    if let Some(report) = bug.object {
        let told = (bug.kind, bug.cache, *report, bug.to_string());
        TOLD.with_borrow_mut(|all| all.push(told));
    }
}

/// The one report since the last call.
#[track_caller]
fn told() -> Told {
    let mut all = TOLD.take();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn nothing_told() -> bool {
    TOLD.take().is_empty()
}

struct Sites;

impl Backtrace for Sites {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        addresses[0] = SITE.get();
        1
    }

    fn tag(&self) -> u64 {
        42
    }
}

/// The fault handler of a back end.
trait Faults: BackEnd {
    fn fault(rig: &Rig<Self>, address: usize, is_write: bool) -> bool
    where
        Self: Sized;
}

impl Faults for OfSlub {
    fn fault(rig: &Rig<Self>, address: usize, is_write: bool) -> bool {
        rig.kmem.kfence_fault(address, is_write)
    }
}

impl Faults for OfSlab {
    fn fault(rig: &Rig<Self>, address: usize, is_write: bool) -> bool {
        rig.kmem.kfence_fault(address, is_write)
    }
}

impl Faults for OfSlob {
    fn fault(rig: &Rig<Self>, address: usize, is_write: bool) -> bool {
        rig.kmem.kfence_fault(address, is_write)
    }
}

struct Watched<B: BackEnd> {
    rig: Rig<B>,
    pages: &'static SimGuard,
}

/// With so many objects in the pool, and one request in `interval` served by it.
fn watched<B: Faults>(nr_objects: usize, interval: u32) -> Watched<B> {
    let pages = SimGuard::new(2 * nr_objects + 1);
    let slots = vec![KfenceSlot::new(); nr_objects].leak();
    let pool = Kfence::<_, SimLock>::new(pages, slots, interval).unwrap();
    let config = SlubConfig {
        on_bug: keep,
        callers: Callers(&Sites),
        kfence: Some(Box::leak(Box::new(pool))),
        ..fast_config()
    };
    Watched {
        rig: rig_with(config),
        pages,
    }
}

impl<B: Faults> Watched<B> {
    fn is_of_pool(&self, ptr: NonNull<u8>) -> bool {
        let start = self.pages.start().addr().get();
        (start..start + self.pages.nr_pages() * PAGE_SIZE).contains(&ptr.addr().get())
    }

    fn kmalloc(&self, size: usize) -> NonNull<u8> {
        SITE.set(ALLOC_SITE);
        let ptr = self.rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
        SITE.set(LATER_SITE);
        ptr
    }

    fn kfree(&self, ptr: NonNull<u8>) {
        SITE.set(FREE_SITE);
        self.rig.kfree(ptr);
        SITE.set(LATER_SITE);
    }

    /// Touches a byte as the MMU lets it; whether there was a fault.
    fn touch(&self, ptr: NonNull<u8>, offset: isize, value: Option<u8>) -> bool {
        // SAFETY: the pool's memory, or near it.
        let at = unsafe { ptr.offset(offset) };
        let faulted = !self.pages.is_shown(at.addr().get());
        if faulted {
            assert!(B::fault(&self.rig, at.addr().get(), value.is_some()));
            assert!(self.pages.is_shown(at.addr().get()), "it can go on");
        }
        match value {
            // SAFETY: as above.
            Some(value) => unsafe { at.write_volatile(value) },
            // SAFETY: as above.
            None => _ = unsafe { at.read_volatile() },
        }
        faulted
    }
}

macro_rules! on_all {
    ($($name:ident)*) => {
        mod slub { $(#[test] fn $name() { super::$name::<super::OfSlub>(); })* }
        mod slab { $(#[test] fn $name() { super::$name::<super::OfSlab>(); })* }
        mod slob { $(#[test] fn $name() { super::$name::<super::OfSlob>(); })* }
    };
}

on_all! {
    reads_and_writes_out_of_bounds_fault
    reads_and_writes_after_free_fault
    what_lies_on_the_same_page_is_seen_when_it_is_freed
    wrong_frees_are_refused
    leaks_are_told
    one_in_so_many_comes_from_the_pool
    it_behaves_like_other_memory
    pages_that_cannot_be_shown_or_hidden_are_not_used
    random_requests_are_kept_apart
}

fn reads_and_writes_out_of_bounds_fault<B: Faults>() {
    for size in [1, 8, 20, 64, 100, 4096] {
        for is_write in [false, true] {
            let value = is_write.then_some(0x41);
            let watched = watched::<B>(8, 1);
            // The first lies at the end of its page, the next at the start.
            let [right, left] = [(); 2].map(|()| watched.kmalloc(size));
            let page_end = |ptr: NonNull<u8>| PAGE_SIZE - ptr.addr().get() % PAGE_SIZE;
            assert!(page_end(right) - size < 8);
            assert_eq!(left.addr().get() % PAGE_SIZE, 0);
            for (ptr, offset, text) in [
                (
                    right,
                    page_end(right) as isize,
                    format!("{}B right of", page_end(right) - size + 1),
                ),
                (left, -1, "1B left of".into()),
            ] {
                assert!(!watched.touch(ptr, 0, value));
                assert!(!watched.touch(ptr, size as isize - 1, value));
                assert!(nothing_told());
                assert!(watched.touch(ptr, offset, value), "{size} at {offset}");
                let (kind, cache, report, told) = told();
                assert_eq!((kind, report.offset), (Kind::OutOfBounds, offset));
                assert_eq!(
                    (report.object, report.object_size),
                    (ptr.addr().get(), size)
                );
                assert_eq!(cache, Some(report.cache));
                assert_eq!(report.allocated.unwrap().addresses()[0], ALLOC_SITE);
                assert_eq!(report.freed, None);
                assert!(told.contains(&text), "{told}");
                let access = if is_write { "write" } else { "read" };
                assert!(told.contains(&format!("BUG: KFENCE: out-of-bounds {access} in")));
                assert!(!watched.touch(ptr, offset, value), "told once");
                // When it is freed nobody may touch the page beside it any more.
                watched.kfree(ptr);
                assert!(nothing_told());
                let beside = ptr.addr().get().wrapping_add_signed(offset);
                assert!(!watched.pages.is_shown(beside));
            }
        }
    }
}

fn reads_and_writes_after_free_fault<B: Faults>() {
    for value in [None, Some(0x41)] {
        let watched = watched::<B>(4, 1);
        let ptr = watched.kmalloc(100);
        watched.kfree(ptr);
        assert!(watched.touch(ptr, 7, value));
        let (kind, _, report, text) = told();
        assert_eq!((kind, report.offset), (Kind::AccessAfterFree, 7));
        assert_eq!(report.object, ptr.addr().get());
        let sites = [report.allocated, report.freed].map(|track| track.unwrap().addresses()[0]);
        assert_eq!(sites, [ALLOC_SITE, FREE_SITE]);
        let start = ptr.addr().get();
        let access = if value.is_some() { "write" } else { "read" };
        let line = "=".repeat(66);
        let cache = report.cache;
        let wanted = format!(
            "{line}\nBUG: KFENCE: use-after-free {access} in {LATER_SITE:#018x}\n\n\
             Use-after-free {access} at {:#018x} (in kfence-#0):\n {LATER_SITE:#018x}\n\n\
             kfence-#0: {start:#018x}-{:#018x}, size=100, cache={cache}\n\n\
             allocated by task 42 on cpu 0:\n {ALLOC_SITE:#018x}\n\n\
             freed by task 42 on cpu 0:\n {FREE_SITE:#018x}\n\n\
             CPU: 0 PID: 42\n{line}",
            start + 7,
            start + 99
        );
        assert_eq!(text, wanted);
        // The page serves again, last of all.
        let more = [(); 4].map(|()| watched.kmalloc(100));
        assert!(more.iter().all(|ptr| watched.is_of_pool(*ptr)));
        assert_eq!(more[3].addr().get() / PAGE_SIZE, start / PAGE_SIZE);
        assert!(!watched.touch(more[3], 7, value));
        assert!(nothing_told());
    }
    // Where no object ever was.
    let watched = watched::<B>(4, 1);
    let ptr = watched.pages.start();
    for page in 0..watched.pages.nr_pages() {
        let at = (page * PAGE_SIZE) as isize;
        assert!(watched.touch(ptr, at, None));
        let (kind, cache, report, text) = told();
        assert_eq!(
            (kind, cache, report.guarded.unwrap().nr),
            (Kind::InvalidAccess, None, None)
        );
        assert!(text.contains("BUG: KFENCE: invalid read in"), "{text}");
    }
    // Other faults are not its own.
    assert!(!B::fault(&watched.rig, 0x1000, false));
    assert!(!B::fault(&watched.rig, ptr.addr().get() - 1, false));
    assert!(!B::fault(
        &watched.rig,
        ptr.addr().get() + 9 * PAGE_SIZE,
        false
    ));
    assert!(nothing_told());
}

fn what_lies_on_the_same_page_is_seen_when_it_is_freed<B: Faults>() {
    let watched = watched::<B>(4, 1);
    for (nth, offset) in [20, 20, 23, 100, -1000, 4000, -1].into_iter().enumerate() {
        // The odd ones begin with their page, the others end with it.
        let ptr = watched.kmalloc(20);
        assert_eq!(
            ptr.addr().get() % PAGE_SIZE,
            if nth % 2 == 1 { 0 } else { 4072 }
        );
        assert!(!watched.touch(ptr, offset, Some(0x41)));
        watched.kfree(ptr);
        let (kind, _, report, text) = told();
        assert_eq!((kind, report.offset), (Kind::Canary, offset), "{nth}");
        let at = ptr.addr().get().wrapping_add_signed(offset);
        let wanted = format!("Corrupted memory at {at:#018x} [ 0x41 ");
        assert!(text.contains(&wanted), "{text}\nlacks {wanted}");
        assert!(text.contains("] (in kfence-#"), "{text}");
        assert!(text.contains("allocated by task 42"), "{text}");
    }
}

fn wrong_frees_are_refused<B: Faults>() {
    let watched = watched::<B>(4, 1);
    let rig = &watched.rig;
    let ptr = watched.kmalloc(64);
    // SAFETY: within its page.
    let middle = unsafe { ptr.sub(8) };
    watched.kfree(middle);
    let (kind, _, report, text) = told();
    assert_eq!((kind, report.offset), (Kind::Misaligned, -8));
    assert!(text.contains("BUG: KFENCE: invalid free in"), "{text}");
    let cache = rig.kmem.cache_create(&CacheArgs::new("other", 64)).unwrap();
    rig.free(cache, ptr);
    assert_eq!(told().0, Kind::WrongCache);
    assert_eq!(rig.kmem.ksize(ptr), 64, "it is still there");
    watched.kfree(ptr);
    assert!(nothing_told());
    watched.kfree(ptr);
    let (kind, _, report, _) = told();
    assert_eq!(kind, Kind::DoubleFree);
    assert_eq!(report.freed.unwrap().addresses()[0], FREE_SITE);
    assert_eq!(rig.kmem.ksize(ptr), 0);
    // Never used.
    watched.kfree(unsafe_add(watched.pages.start(), 5 * PAGE_SIZE));
    let (kind, cache, report, text) = told();
    assert_eq!(
        (kind, cache, report.guarded.unwrap().nr),
        (Kind::NotAllocated, None, None)
    );
    assert!(text.contains("Invalid free of"), "{text}");
}

fn unsafe_add(ptr: NonNull<u8>, bytes: usize) -> NonNull<u8> {
    // SAFETY: within the pool.
    unsafe { ptr.add(bytes) }
}

fn leaks_are_told<B: Faults>() {
    let watched = watched::<B>(4, 1);
    let rig = &watched.rig;
    let cache = rig.kmem.cache_create(&CacheArgs::new("leaky", 40)).unwrap();
    let objects = [(); 3].map(|()| rig.kmem.alloc(cache, Gfp::KERNEL).unwrap());
    assert!(objects.iter().all(|ptr| watched.is_of_pool(*ptr)));
    assert_eq!(rig.info("leaky").active_objs, 3);
    rig.free(cache, objects[1]);
    assert_eq!(rig.destroy(cache), Err(SlubError::Busy(2)));
    let leaked = TOLD.take();
    let leaked: Vec<_> = leaked
        .iter()
        .map(|(kind, cache, report, _)| (*kind, *cache, report.object))
        .collect();
    let wanted = [objects[0], objects[2]];
    let wanted = wanted.map(|ptr| (Kind::LeakedObject, Some("leaky"), ptr.addr().get()));
    assert_eq!(leaked, wanted);
    rig.free(cache, objects[0]);
    rig.free(cache, objects[2]);
    rig.destroy(cache).unwrap();
    rig.assert_clean();
}

fn one_in_so_many_comes_from_the_pool<B: Faults>() {
    for interval in [1, 2, 7] {
        let watched = watched::<B>(64, interval);
        let cache = watched
            .rig
            .kmem
            .cache_create(&CacheArgs::new("some", 3000))
            .unwrap();
        // Larger than what is in stock there are none, so each counts.
        let live: Vec<_> = (0..20)
            .map(|_| watched.rig.kmem.kmalloc(8192, Gfp::KERNEL).unwrap())
            .collect();
        assert!(
            !live.iter().any(|ptr| watched.is_of_pool(*ptr)),
            "larger than a page"
        );
        let objects: Vec<_> = (0..300)
            .map(|_| watched.rig.kmem.alloc(cache, Gfp::KERNEL).unwrap())
            .collect();
        let nr = objects
            .iter()
            .filter(|ptr| watched.is_of_pool(**ptr))
            .count();
        assert!(
            nr > 0 && (nr as u32) <= 300 / interval + 1,
            "{nr} with {interval}"
        );
        for object in objects {
            watched.rig.free(cache, object);
        }
        live.into_iter().for_each(|ptr| watched.rig.kfree(ptr));
        // Not memory for DMA, nor of a node.
        let dma = watched
            .rig
            .kmem
            .kmalloc(64, Gfp::KERNEL | Gfp::DMA)
            .unwrap();
        assert!(!watched.is_of_pool(dma));
        watched.rig.kfree(dma);
        watched.rig.destroy(cache).unwrap();
        assert!(nothing_told());
        watched.rig.assert_clean();
    }
}

unsafe fn construct(object: NonNull<u8>) {
    fill(object, 60, 0xc0de);
}

fn it_behaves_like_other_memory<B: Faults>() {
    let watched = watched::<B>(40, 1);
    let kmem = &watched.rig.kmem;
    let cache = kmem
        .cache_create(&CacheArgs::new("built", 60).ctor(construct))
        .unwrap();
    for _ in 0..3 {
        let object = kmem.alloc(cache, Gfp::KERNEL).unwrap();
        assert!(watched.is_of_pool(object) && holds(object, 60, 0xc0de));
        watched.rig.free(cache, object);
        let zeroed = kmem.kzalloc(77, Gfp::KERNEL).unwrap();
        assert!(watched.is_of_pool(zeroed) && is_zero(zeroed, 77));
        fill(zeroed, 77, 5);
        assert_eq!(kmem.ksize(zeroed), 77);
        // SAFETY: the test's own.
        let moved = unsafe { kmem.krealloc(Some(zeroed), 78, Gfp::KERNEL) }.unwrap();
        assert!(holds(moved, 77, 5) && moved != zeroed);
        // SAFETY: as above.
        let same = unsafe { kmem.krealloc(Some(moved), 3, Gfp::KERNEL) };
        assert_eq!(same, Ok(moved));
        watched.rig.kfree(moved);
    }
    for align in [1, 8, 64, 512, 4096] {
        for _ in 0..2 {
            let ptr = kmem.kmalloc_aligned(24, align, Gfp::KERNEL).unwrap();
            assert!(watched.is_of_pool(ptr));
            assert_eq!(ptr.addr().get() % align, 0);
            let layout = core::alloc::Layout::from_size_align(24, align).unwrap();
            // SAFETY: allocated so.
            unsafe { kmem.kfree_sized(ptr, layout) };
        }
    }
    let mut objects = [None; 9];
    let plain = kmem.cache_create(&CacheArgs::new("plain", 60)).unwrap();
    kmem.alloc_bulk(plain, Gfp::KERNEL, &mut objects).unwrap();
    assert!(objects.iter().flatten().any(|ptr| watched.is_of_pool(*ptr)));
    // SAFETY: all of that cache.
    unsafe { kmem.free_bulk(plain, &mut objects) };
    watched.rig.destroy(plain).unwrap();
    watched.rig.destroy(cache).unwrap();
    assert!(nothing_told());
    watched.rig.assert_clean();
}

fn pages_that_cannot_be_shown_or_hidden_are_not_used<B: Faults>() {
    let slots = || vec![KfenceSlot::new(); 4].leak();
    let pages = SimGuard::new(9);
    pages.fail(1);
    let failed = Kfence::<_, SimLock>::new(pages, slots(), 1).map(|_| ());
    assert_eq!(failed, Err(SlubError::OutOfMemory));
    assert!(pages.is_shown(pages.start().addr().get()));
    for (nr_pages, nr_slots, interval) in [(2, 4, 1), (9, 0, 1), (9, 4, 0)] {
        let slots = vec![KfenceSlot::new(); nr_slots].leak();
        let made = Kfence::<_, SimLock>::new(SimGuard::new(nr_pages), slots, interval);
        assert_eq!(made.map(|_| ()), Err(SlubError::InvalidLayout));
    }
    let watched = watched::<B>(2, 1);
    watched.pages.fail(1);
    // Of different sizes, so that none is in stock.
    let other = watched.kmalloc(64);
    assert!(!watched.is_of_pool(other));
    let [first, second] = [100, 200].map(|size| watched.kmalloc(size));
    assert!(watched.is_of_pool(first) && watched.is_of_pool(second));
    let full = watched.kmalloc(300);
    assert!(!watched.is_of_pool(full));
    watched.pages.fail(1);
    watched.kfree(first);
    watched.kfree(second);
    let again = [400, 500].map(|size| watched.kmalloc(size));
    let of_pool: Vec<_> = again
        .iter()
        .filter(|ptr| watched.is_of_pool(**ptr))
        .collect();
    assert_eq!(of_pool.len(), 1, "one page is given up");
    assert_eq!(
        of_pool[0].addr().get() / PAGE_SIZE,
        second.addr().get() / PAGE_SIZE
    );
    for ptr in [other, full, again[0], again[1]] {
        watched.kfree(ptr);
    }
    assert!(nothing_told());
    watched.rig.assert_clean();
}

fn random_requests_are_kept_apart<B: Faults>() {
    seeded(0xfe4ce, |rng| {
        let watched = watched::<B>(16, 1);
        let kmem = &watched.rig.kmem;
        let cache = kmem.cache_create(&CacheArgs::new("some", 100)).unwrap();
        let mut live: Vec<(NonNull<u8>, usize, u64, bool)> = Vec::new();
        let mut nr_of_pool = 0;
        for id in 0..20_000 {
            if live.len() > 100 || rng.one_in(2) && !live.is_empty() {
                let (ptr, size, id, is_named) = live.swap_remove(rng.index(live.len()));
                assert!(holds(ptr, size, id));
                if is_named {
                    watched.rig.free(cache, ptr);
                } else {
                    watched.rig.kfree(ptr);
                }
                continue;
            }
            let is_named = rng.one_in(3);
            let size = if is_named {
                100
            } else {
                rng.range(1..5000) as usize
            };
            let ptr = if is_named {
                kmem.alloc(cache, Gfp::KERNEL)
            } else {
                kmem.kmalloc(size, Gfp::KERNEL)
            };
            let ptr = ptr.unwrap();
            nr_of_pool += usize::from(watched.is_of_pool(ptr));
            let end = ptr.addr().get() + size - 1;
            assert!(watched.pages.is_shown(ptr.addr().get()) && watched.pages.is_shown(end));
            fill(ptr, size, id);
            live.push((ptr, size, id, is_named));
            if id % 1000 == 0 {
                kmem.validate().unwrap();
                let named = live.iter().filter(|live| live.3).count();
                assert_eq!(watched.rig.info("some").active_objs, named);
            }
        }
        assert!(nr_of_pool > 50, "{nr_of_pool}");
        for (ptr, ..) in live {
            watched.rig.kfree(ptr);
        }
        watched.rig.destroy(cache).unwrap();
        assert!(nothing_told());
        watched.rig.assert_clean();
    });
}

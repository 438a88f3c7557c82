//! Caches of one type: values live in objects, and go with their boxes.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "names of tests say what they prove"
)]

mod common;

use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};

use common::{bugs, fast_rig, rig};
use kmm_frame::Gfp;
use kmm_slub::{CacheFlags, NoRoom, SlubBugKind, SlubError, TypedCache};

/// Counts those that are alive.
struct Task<'a>(u64, &'a Cell<usize>);

impl<'a> Task<'a> {
    fn new(nr: u64, alive: &'a Cell<usize>) -> Self {
        alive.set(alive.get() + 1);
        Self(nr, alive)
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.1.set(self.1.get() - 1);
    }
}

#[test]
fn values_live_as_long_as_their_boxes() {
    for rig in [rig(), fast_rig()] {
        let alive = Cell::new(0);
        let cache = TypedCache::new(rig.slub, "task", CacheFlags::empty()).unwrap();
        let mut boxes: Vec<_> = (0..1000)
            .map(|nr| {
                cache
                    .alloc(Task::new(nr, &alive), Gfp::KERNEL)
                    .ok()
                    .unwrap()
            })
            .collect();
        assert!(boxes.iter().zip(0..).all(|(task, nr)| task.0 == nr));
        boxes[7].0 = 70;
        let last = boxes.swap_remove(7).into_inner();
        assert_eq!(
            (last.0, alive.get()),
            (70, 1000),
            "it left its object alive"
        );
        drop(last);
        assert_eq!(alive.get(), 999);
        boxes.truncate(10);
        assert_eq!(alive.get(), 10);
        let pinned = boxes.pop().unwrap().into_pin();
        let address = core::ptr::from_ref(&*pinned);
        assert!(address.is_aligned());
        drop(pinned);
        drop(boxes);
        drop(cache);
        assert_eq!(alive.get(), 0);
        rig.assert_clean();
    }
}

#[test]
fn types_of_any_shape_fit() {
    #[repr(align(512))]
    struct Aligned(u8);
    let rig = fast_rig();
    let aligned = TypedCache::new(rig.slub, "aligned", CacheFlags::empty()).unwrap();
    let boxes: Vec<_> = (0..20)
        .map(|nr| aligned.alloc(Aligned(nr), Gfp::KERNEL).ok().unwrap())
        .collect();
    for (nr, aligned) in (0..).zip(&boxes) {
        assert_eq!(
            (core::ptr::from_ref(&**aligned).addr() % 512, aligned.0),
            (0, nr)
        );
    }
    let nothing = TypedCache::new(rig.slub, "nothing", CacheFlags::empty()).unwrap();
    let [one, two] = [(); 2].map(|()| nothing.alloc((), Gfp::KERNEL).unwrap());
    assert_ne!(core::ptr::from_ref(&*one), core::ptr::from_ref(&*two));
    drop((one, two, boxes));
    drop((nothing, aligned));
    rig.assert_clean();
}

#[test]
fn without_memory_the_value_comes_back() {
    let rig = rig();
    let cache = TypedCache::new(rig.slub, "text", CacheFlags::empty()).unwrap();
    rig.source.set_per_mille(1000);
    let NoRoom { error, value } = cache.alloc(String::from("kept"), Gfp::KERNEL).unwrap_err();
    assert_eq!((error, value.as_str()), (SlubError::OutOfMemory, "kept"));
    drop(cache);
    rig.assert_clean();
}

#[test]
fn a_forgotten_box_is_a_leak_that_is_told() {
    let rig = rig();
    let cache = TypedCache::new(rig.slub, "leaky", CacheFlags::empty()).unwrap();
    *cache.alloc(5_u32, Gfp::KERNEL).unwrap().leak() += 1;
    drop(cache);
    assert_eq!(bugs(), [SlubBugKind::Leaked(1)]);
    assert_eq!(rig.active("leaky"), 1, "the cache is there still");
}

#[test]
fn boxes_go_to_other_threads() {
    let rig = fast_rig();
    let cache = TypedCache::new(rig.slub, "counter", CacheFlags::empty()).unwrap();
    let counter = cache.alloc(AtomicUsize::new(0), Gfp::KERNEL).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| counter.fetch_add(1, Ordering::Relaxed));
        }
    });
    assert_eq!(counter.into_inner().into_inner(), 4);
    drop(cache);
    rig.assert_clean();
}

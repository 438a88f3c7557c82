//! What makes a heap hard to attack: the order of objects, and the words of the free list; and what is watched in the other kind of
//! slab.
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use common::{Rig, bugs, config, fast_config, fill, holds, kfree, rig_with, storage};
use kmm_frame::Gfp;
use kmm_sim::{Config, FreeListSource, Machine};
use kmm_slub::{Kmem, Slab, SlubBugKind, SlubConfig};

/// The numbers of a new slab's objects, as they are handed out.
fn order(slub: &impl Kmem) -> Vec<usize> {
    let mut per_slab = 0;
    slub.for_each_cache(&mut |info| {
        if info.name == "kmalloc-64" {
            per_slab = info.objperslab;
        }
    });
    let ptrs: Vec<_> = (0..per_slab)
        .map(|_| slub.kmalloc(64, Gfp::KERNEL).unwrap())
        .collect();
    let starts = ptrs.iter().map(|ptr| ptr.addr().get());
    let first = starts.clone().min().unwrap();
    let order = starts.map(|start| (start - first) / 64).collect();
    for ptr in ptrs {
        // SAFETY: live objects of this test.
        unsafe { slub.kfree(ptr) };
    }
    slub.validate().unwrap();
    order
}

/// Each object once, hardly two in a row, and another order with another secret.
fn is_random(orders: [Vec<usize>; 2]) {
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..order.len()));
        let in_a_row = order.windows(2).filter(|two| two[1] == two[0] + 1).count();
        assert!(in_a_row < order.len() / 8, "{order:?}");
    }
    assert_ne!(orders[0], orders[1]);
}

#[test]
fn objects_come_in_random_order() {
    let with = |secret, random_order| SlubConfig {
        random_order,
        secret,
        ..config()
    };
    is_random([1, 2].map(|secret| order(rig_with(with(secret, true)).slub)));
    let plain = order(rig_with(with(1, false)).slub);
    assert!(plain.iter().copied().eq(0..plain.len()), "not asked for");
    is_random([1, 2].map(|secret| {
        let machine = Machine::new(Config::with_mib(16));
        let source = FreeListSource::new(machine);
        let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
        let config = with(secret, true);
        order(&Slab::new(source, phys, map, cpus, storage(machine), config).unwrap())
    }));
}

#[test]
fn random_order_with_arrays_loses_nothing() {
    let rig = rig_with(SlubConfig {
        random_order: true,
        ..fast_config()
    });
    let mut ptrs: Vec<_> = (0..3000)
        .map(|nr| rig.slub.kmalloc(8 << (nr % 8), Gfp::KERNEL).unwrap())
        .collect();
    ptrs.sort_unstable();
    ptrs.dedup();
    assert_eq!(ptrs.len(), 3000);
    ptrs.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    rig.assert_clean();
}

/// Two objects, the second freed before the first: what lies in the first says nothing of where the second is without the secret.
fn first_word(rig: &Rig) -> u64 {
    let [first, second, _stays] = [(); 3].map(|()| rig.slub.kmalloc(64, Gfp::KERNEL).unwrap());
    kfree(rig.slub, second);
    kfree(rig.slub, first);
    // SAFETY: memory of the region: a free object is looked at to see what the free list leaves there.
    unsafe { first.cast::<u64>().read() }
}

#[test]
fn words_of_the_free_list_are_sealed() {
    let words = [1, 2].map(|secret| first_word(&rig_with(SlubConfig { secret, ..config() })));
    assert!((words[0] ^ words[1]).count_ones() > 8, "{words:x?}");
}

/// Objects whose array of numbers is on the slab, and off it; each setting; then one byte too many.
#[test]
fn slab_is_debugged_as_slub_is() {
    for debug in ["F", "Z", "P", "U", "FZPU"] {
        let machine = Machine::new(Config::with_mib(64));
        let source = FreeListSource::new(machine);
        let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
        let config = SlubConfig {
            debug,
            ..fast_config()
        };
        let slab = Slab::new(source, phys, map, cpus, storage(machine), config).unwrap();
        for round in 0..3 {
            let live: Vec<_> = (0..1000)
                .map(|nr| {
                    let size = [8, 61, 64, 700, 1024, 4096, 8192][nr % 7];
                    let ptr = slab.kmalloc(size, Gfp::KERNEL).unwrap();
                    fill(ptr, size, (nr + round) as u64);
                    (ptr, size, nr)
                })
                .collect();
            assert_eq!(slab.check_objects(), 0, "{debug}");
            for (ptr, size, nr) in live {
                assert!(holds(ptr, size, (nr + round) as u64), "{debug}");
                // SAFETY: live objects of this test.
                unsafe { slab.kfree(ptr) };
            }
            slab.validate().unwrap();
            assert_eq!(slab.check_objects(), 0, "{debug}");
        }
        assert_eq!(bugs(), [], "{debug}");
        for size in [64, 1024] {
            let ptr = slab.kmalloc(size, Gfp::KERNEL).unwrap();
            if debug.contains('Z') {
                // SAFETY: the byte behind the object: the mistake to be played.
                unsafe { ptr.add(size).write(0x41) };
            }
            // SAFETY: a live object of this test.
            unsafe { slab.kfree(ptr) };
            let wanted = debug.contains('Z').then_some(SlubBugKind::RightRedzone);
            assert!(bugs().into_iter().eq(wanted), "{debug}");
            if debug.contains('P') {
                // SAFETY: a free object: the mistake to be played.
                unsafe { ptr.add(3).write(0x41) };
                assert_eq!(slab.check_objects(), 1);
                assert_eq!(bugs(), [SlubBugKind::UseAfterFree]);
            }
        }
        // SAFETY: the test is alone.
        unsafe { slab.drain_all() };
        slab.validate().unwrap();
        assert_eq!(slab.nr_pages().total(), 0, "{debug}");
    }
}

//! Debugging that is off costs nothing: as long as a CPU has stock, what is not debugged takes no step that knows of debugging, whatever
//! is debugged besides. That the steps it does take are as few as ever, the guest's counts of instructions say (docs, "bench --guest").
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use common::{Rig, destroy, fast_config, kfree, rig_with};
use kmm_frame::Gfp;
use kmm_sim::{SimGuard, SimLock};
use kmm_slub::{CacheArgs, CacheStats, Kfence, KfenceSlot, KmemCache, SlubConfig};

const NR_PAIRS: u64 = 10_000;

fn run(rig: &Rig, cache: KmemCache) -> CacheStats {
    for nr in 0..NR_PAIRS {
        let object = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        if nr % 2 == 0 {
            // SAFETY: of this cache, and freed once.
            unsafe { rig.slub.free(cache, object) };
        } else {
            kfree(rig.slub, object);
        }
    }
    rig.slub.cache_stats(cache).unwrap()
}

fn stats(config: SlubConfig) -> CacheStats {
    let rig = rig_with(config);
    let cache = rig.slub.cache_create(&CacheArgs::new("plain", 96)).unwrap();
    let stats = run(&rig, cache);
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
    stats
}

#[test]
fn what_is_not_debugged_never_leaves_the_hot_path() {
    let bare = stats(fast_config());
    // The first finds no array, and the next an empty one.
    assert!(bare.alloc_fastpath >= NR_PAIRS - 2, "{bare:?}");
    assert!(bare.free_fastpath >= NR_PAIRS - 2, "{bare:?}");
    for debug in [
        "FZPUQ,kmalloc-64",
        "FZPUQ,other",
        "FZPUQ;-,plain,kmem_cache*",
        "-",
    ] {
        let others = stats(SlubConfig {
            debug,
            ..fast_config()
        });
        assert_eq!(others, bare, "{debug}");
    }
    let debugged = stats(SlubConfig {
        debug: "F,plain",
        ..fast_config()
    });
    assert_eq!(debugged.alloc_fastpath, 0, "and the counters would tell");
}

/// With a pool, too, nothing of the way out of stock and of `kfree` is longer; only frees by handle look at the frame first.
#[test]
fn a_pool_of_guarded_objects_is_off_the_hot_path_of_allocation() {
    let bare = stats(fast_config());
    let slots = vec![KfenceSlot::new(); 4].leak();
    let pool = Kfence::<_, SimLock>::new(SimGuard::new(9), slots, u32::MAX).unwrap();
    let with_pool = stats(SlubConfig {
        kfence: Some(Box::leak(Box::new(pool))),
        ..fast_config()
    });
    assert_eq!(with_pool.alloc_fastpath, bare.alloc_fastpath);
    assert_eq!(with_pool.frees(), bare.frees());
    assert_eq!(with_pool.free_slowpath, bare.free_slowpath);
}

//! Random requests against an oracle that knows what is live.

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_sim::{Rng, seeded};
use kmm_slub::{CacheArgs, CacheFlags, Kmem, KmemCache, SlubConfig, SlubError};

use crate::back_ends::{BackEnd, Live, Oracle, Rig, rig_with};
use crate::common::{bugs, config, fast_config, fill, holds, is_zero};

pub(crate) fn random_requests_match_the_oracle<B: BackEnd>() {
    run::<B>(0xc0f0, 100_000, 0, fast_config());
    run::<B>(0xc0f1, 20_000, 0, config());
}

pub(crate) fn random_requests_match_the_oracle_when_pages_fail<B: BackEnd>() {
    run::<B>(0xfa11, 100_000, 300, fast_config());
    run::<B>(0xfa12, 20_000, 300, config());
}

fn run<B: BackEnd>(seed: u64, nr_ops: u64, per_mille: u64, config: SlubConfig) {
    seeded(seed, |rng| {
        let rig = rig_with::<B>(config);
        let shapes = [
            CacheArgs::new("tiny", 12),
            CacheArgs::new("lines", 100).flags(CacheFlags::HWCACHE_ALIGN),
            CacheArgs::new("odd", 1300).align(32),
            CacheArgs::new("huge", 17_000),
        ];
        let caches = shapes.map(|args| rig.kmem.cache_create(&args).unwrap());
        rig.source.set_per_mille(per_mille);
        let mut oracle = Oracle::default();
        let mut nr_refused = 0;
        for id in 0..nr_ops {
            let before = (rig.outstanding(), oracle.live.len());
            if step(&rig, (&shapes, &caches), &mut oracle, rng, id).is_none() {
                nr_refused += 1;
                assert_eq!(oracle.live.len(), before.1);
                assert!(rig.outstanding() <= before.0, "refused, but took pages");
            }
            if id % 4096 == 0 {
                check(&rig, &shapes, &oracle);
            }
            if oracle.live.len() > 800 || rng.one_in(5000) {
                while oracle.live.len() > 200 {
                    free(&rig, &caches, oracle.take(rng).unwrap());
                }
                rig.kmem.shrink_all();
                check(&rig, &shapes, &oracle);
            }
        }
        assert_eq!(per_mille > 0, nr_refused > 5, "{nr_refused} were refused");
        rig.source.set_per_mille(0);
        while let Some(old) = oracle.take(rng) {
            free(&rig, &caches, old);
        }
        for cache in caches {
            rig.destroy(cache).unwrap();
        }
        rig.assert_clean();
    });
}

/// One request; `None` when pages failed. Whatever was live stays as it was then.
fn step<B: BackEnd>(
    rig: &Rig<B>,
    (shapes, caches): (&[CacheArgs], &[KmemCache]),
    oracle: &mut Oracle,
    rng: &mut Rng,
    id: u64,
) -> Option<()> {
    let size = size(rng);
    let mut live = Live {
        ptr: NonNull::dangling(),
        size,
        room: 0,
        id,
        cache: None,
        layout: None,
    };
    match rng.below(20) {
        0..=2 => live.ptr = rig.kmem.kmalloc(size, Gfp::KERNEL).ok()?,
        3 => {
            live.ptr = rig.kmem.kzalloc(size, Gfp::ATOMIC).ok()?;
            assert!(is_zero(live.ptr, size));
        }
        4..=5 => {
            let align = 1 << rng.below(13);
            live.ptr = rig.kmem.kmalloc_aligned(size, align, Gfp::KERNEL).ok()?;
            assert_eq!(live.ptr.addr().get() % align, 0);
            live.layout = Layout::from_size_align(size, align).ok();
        }
        6..=9 => {
            let nr = rng.index(caches.len());
            live.cache = Some(nr);
            live.size = shapes[nr].size_bytes;
            let zero = if rng.one_in(4) {
                Gfp::ZERO
            } else {
                Gfp::empty()
            };
            live.ptr = rig.kmem.alloc(caches[nr], Gfp::KERNEL | zero).ok()?;
            assert!(zero == Gfp::empty() || is_zero(live.ptr, live.size));
            assert_eq!(live.ptr.addr().get() % shapes[nr].align_bytes, 0);
        }
        10 => {
            let old = oracle.take(rng)?;
            if old.cache.is_some() {
                free(rig, caches, old);
                return Some(());
            }
            // SAFETY: the oracle gave it up; nobody else has it.
            match unsafe { rig.kmem.krealloc(Some(old.ptr), size, Gfp::KERNEL) } {
                Ok(new) => {
                    assert!(holds(new, old.size.min(size), old.id), "lost in the move");
                    live.ptr = new;
                }
                Err(_) => {
                    assert!(holds(old.ptr, old.size, old.id), "lost in a failed move");
                    oracle.live.insert(old.ptr.addr().get(), old);
                    return None;
                }
            }
        }
        11 => {
            // What fails takes nothing; what does not is freed at once.
            let nr = rng.index(caches.len());
            let mut objects = [None; 20];
            let got = rig.kmem.alloc_bulk(caches[nr], Gfp::KERNEL, &mut objects);
            for object in objects.iter().flatten() {
                fill(*object, shapes[nr].size_bytes, id);
            }
            // SAFETY: they came from this cache, and nobody uses them.
            unsafe { rig.kmem.free_bulk(caches[nr], &mut objects) };
            // What was fetched may stay in stock, whether or not it was enough.
            assert!(got.is_ok() || got == Err(SlubError::OutOfMemory));
            return Some(());
        }
        _ => {
            if let Some(old) = oracle.take(rng) {
                free(rig, caches, old);
            }
            return Some(());
        }
    }
    live.room = rig.kmem.ksize(live.ptr);
    oracle.add(live);
    Some(())
}

fn size(rng: &mut Rng) -> usize {
    match rng.below(200) {
        0 => rng.range(8193..100_000) as usize,
        1..=4 => rng.range(1..8193) as usize,
        _ => {
            let bits = rng.range(3..12);
            rng.below(1 << bits) as usize + 1
        }
    }
}

fn free<B: BackEnd>(rig: &Rig<B>, caches: &[KmemCache], old: Live) {
    match (old.cache, old.layout) {
        (Some(nr), _) if old.id % 8 > 0 => rig.free(caches[nr], old.ptr),
        // SAFETY: it was asked for with this layout, and the oracle gave it up.
        (None, Some(layout)) if old.id % 8 > 0 => unsafe {
            rig.kmem.kfree_sized(old.ptr, layout);
        },
        _ => rig.kfree(old.ptr),
    }
}

fn check<B: BackEnd>(rig: &Rig<B>, shapes: &[CacheArgs], oracle: &Oracle) {
    rig.kmem.validate().unwrap();
    for (nr, args) in shapes.iter().enumerate() {
        let live = oracle.live.values().filter(|live| live.cache == Some(nr));
        assert_eq!(
            rig.info(args.name).active_objs,
            live.count(),
            "{}",
            args.name
        );
    }
    let nr_pages = rig.kmem.nr_pages().total();
    assert_eq!(nr_pages, rig.outstanding(), "every page is counted once");
    let bytes: usize = oracle.live.values().map(|live| live.size).sum();
    assert!(nr_pages * PAGE_SIZE >= bytes);
    assert_eq!(bugs(), []);
}

//! What all back ends hold when everything is freed again: no more than they began with.
#![allow(
    clippy::cast_possible_truncation,
    clippy::undocumented_unsafe_blocks,
    unsafe_code,
    dead_code,
    missing_docs,
    reason = "a test"
)]

mod common;

#[path = "conformance/back_ends.rs"]
mod back_ends;

use core::ptr::NonNull;

use back_ends::{BackEnd, OfSlab, OfSlob, OfSlub, rigs};
use common::{fill, holds};
use kmm_frame::Gfp;
use kmm_slub::Kmem;

/// Within a twentieth of the start, in pages, after three waves that take several times as much; what was kept is intact.
fn memory_falls_back_to_where_it_began<B: BackEnd>() {
    for rig in rigs::<B>() {
        let take = |nr: usize, step: usize| -> Vec<(NonNull<u8>, usize)> {
            (0..nr)
                .map(|nr| {
                    let size = 8 + nr * step % 4000;
                    let ptr = rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
                    fill(ptr, size, size as u64);
                    (ptr, size)
                })
                .collect()
        };
        let keep = take(2000, 7);
        rig.kmem.shrink_all();
        let before = rig.outstanding();
        for step in [11, 13, 17] {
            let wave = take(5000, step);
            assert!(rig.outstanding() > 2 * before);
            // Neither in the order in which they came, nor the other way around.
            let (even, odd): (Vec<_>, Vec<_>) =
                wave.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
            even.into_iter()
                .chain(odd)
                .for_each(|(ptr, _)| rig.kfree(ptr));
            rig.kmem.shrink_all();
            let after = rig.outstanding();
            assert!(after * 20 <= before * 21, "{before} pages, then {after}");
        }
        for (ptr, size) in keep {
            assert!(holds(ptr, size, size as u64));
            rig.kfree(ptr);
        }
        rig.assert_clean();
    }
}

#[test]
fn slub_falls_back_to_where_it_began() {
    memory_falls_back_to_where_it_began::<OfSlub>();
}

#[test]
fn slab_falls_back_to_where_it_began() {
    memory_falls_back_to_where_it_began::<OfSlab>();
}

#[test]
fn slob_falls_back_to_where_it_began() {
    memory_falls_back_to_where_it_began::<OfSlob>();
}

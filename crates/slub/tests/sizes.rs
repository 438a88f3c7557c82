//! Which memory serves which size.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use common::{destroy, fill, holds, kfree, rig};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_slub::{CacheArgs, KMALLOC_MAX_SIZE, Kmem, NR_KMALLOC_CACHES, SlubError, ZERO_SIZE_PTR};

/// Sizes and names, written down once more.
const MANY: [(usize, &str); 32] = [
    (8, "8"),
    (16, "16"),
    (24, "24"),
    (32, "32"),
    (48, "48"),
    (64, "64"),
    (80, "80"),
    (96, "96"),
    (112, "112"),
    (128, "128"),
    (160, "160"),
    (192, "192"),
    (224, "224"),
    (256, "256"),
    (320, "320"),
    (384, "384"),
    (448, "448"),
    (512, "512"),
    (640, "640"),
    (768, "768"),
    (896, "896"),
    (1024, "1k"),
    (1280, "1280"),
    (1536, "1536"),
    (1792, "1792"),
    (2048, "2k"),
    (2560, "2560"),
    (3072, "3k"),
    (3584, "3584"),
    (4096, "4k"),
    (6144, "6k"),
    (8192, "8k"),
];
/// Linux's.
const FEW: [(usize, &str); 13] = [
    (8, "8"),
    (16, "16"),
    (32, "32"),
    (64, "64"),
    (96, "96"),
    (128, "128"),
    (192, "192"),
    (256, "256"),
    (512, "512"),
    (1024, "1k"),
    (2048, "2k"),
    (4096, "4k"),
    (8192, "8k"),
];

#[test]
fn every_size_to_8_kib_comes_from_the_smallest_class_that_holds_it() {
    let rig = rig();
    for size in 1..=8192 {
        let kinds = [
            (Gfp::KERNEL, "kmalloc-", &MANY[..]),
            (Gfp::KERNEL | Gfp::RECLAIMABLE, "kmalloc-rcl-", &FEW),
            (Gfp::KERNEL | Gfp::DMA, "dma-kmalloc-", &FEW),
        ];
        for (gfp, prefix, classes) in kinds {
            let (room, suffix) = classes.iter().find(|class| class.0 >= size).unwrap();
            let room = *room;
            let ptr = rig.slub.kmalloc(size, gfp).unwrap();
            let name = format!("{prefix}{suffix}");
            assert_eq!(rig.slub.ksize(ptr), room);
            assert_eq!(rig.active(&name), 1, "{size} bytes from {name}");
            let align = if room.is_power_of_two() {
                room.min(PAGE_SIZE)
            } else {
                8
            };
            assert_eq!(ptr.addr().get() % align, 0, "{size} bytes at {ptr:p}");
            fill(ptr, room, size as u64);
            assert!(holds(ptr, room, size as u64));
            kfree(rig.slub, ptr);
            assert_eq!(rig.active(&name), 0);
        }
    }
    rig.assert_clean();
}

#[test]
fn larger_sizes_are_blocks_of_pages() {
    let rig = rig();
    let edges = [
        8193,
        3 * PAGE_SIZE,
        4 * PAGE_SIZE,
        4 * PAGE_SIZE + 1,
        1 << 20,
        KMALLOC_MAX_SIZE - 1,
        KMALLOC_MAX_SIZE,
    ];
    let mut live = Vec::new();
    for size in edges {
        let before = rig.outstanding();
        let ptr = rig.slub.kmalloc(size, Gfp::KERNEL).unwrap();
        let room = size.next_power_of_two().max(PAGE_SIZE);
        assert_eq!(rig.slub.ksize(ptr), room);
        assert_eq!(rig.outstanding() - before, room / PAGE_SIZE);
        fill(ptr, room, size as u64);
        live.push((ptr, room, size as u64));
    }
    rig.slub.validate().unwrap();
    for (ptr, room, id) in live {
        assert!(holds(ptr, room, id));
        kfree(rig.slub, ptr);
    }
    rig.assert_clean();
}

#[test]
fn what_cannot_be_is_refused() {
    let rig = rig();
    let too_large = Err(SlubError::TooLarge);
    assert_eq!(
        rig.slub.kmalloc(KMALLOC_MAX_SIZE + 1, Gfp::KERNEL),
        too_large
    );
    assert_eq!(rig.slub.kmalloc(usize::MAX, Gfp::KERNEL), too_large);
    assert_eq!(rig.slub.kcalloc(usize::MAX, 2, Gfp::KERNEL), too_large);
    assert_eq!(
        rig.slub.kmalloc_array(1 << 33, 1 << 33, Gfp::KERNEL),
        too_large
    );
    assert_eq!(
        rig.slub.kmalloc_aligned(8, 3, Gfp::KERNEL),
        Err(SlubError::InvalidLayout)
    );
    rig.assert_clean();
}

#[test]
fn size_zero_is_an_address_that_can_be_freed() {
    let rig = rig();
    let ptr = rig.slub.kmalloc(0, Gfp::KERNEL).unwrap();
    assert_eq!(ptr, ZERO_SIZE_PTR);
    assert_eq!(rig.slub.ksize(ptr), 0);
    kfree(rig.slub, ptr);
    assert_eq!(rig.slub.kcalloc(0, 8, Gfp::KERNEL), Ok(ZERO_SIZE_PTR));
    rig.assert_clean();
}

#[test]
fn alignment_beyond_the_size_is_honoured() {
    let rig = rig();
    for align in (0..=12).map(|bit| 1 << bit) {
        for size in [1, 8, 24, 90, 96, 100, 190, 3000, 8192, 10_000] {
            let ptr = rig.slub.kmalloc_aligned(size, align, Gfp::KERNEL).unwrap();
            assert_eq!(ptr.addr().get() % align, 0, "{size} at {align}");
            assert!(rig.slub.ksize(ptr) >= size);
            kfree(rig.slub, ptr);
        }
    }
    // Beyond a page it hangs on where the permanent map lies; a wrong address never comes out.
    for align in [8192, 1 << 16, 1 << 22] {
        match rig.slub.kmalloc_aligned(64, align, Gfp::KERNEL) {
            Ok(ptr) => {
                assert_eq!(ptr.addr().get() % align, 0);
                kfree(rig.slub, ptr);
            }
            Err(error) => assert_eq!(error, SlubError::InvalidLayout),
        }
    }
    rig.assert_clean();
}

/// Debian's kernel on a machine with one CPU: objects and pages in a slab.
#[test]
fn slabs_are_as_large_as_linux_makes_them() {
    let rig = rig();
    let one_cpu = [
        ("8", 512, 1),
        ("16", 256, 1),
        ("32", 128, 1),
        ("64", 64, 1),
        ("96", 42, 1),
        ("128", 32, 1),
        ("192", 21, 1),
        ("256", 16, 1),
        ("512", 8, 1),
        ("1k", 8, 2),
        ("2k", 8, 4),
        ("4k", 8, 8),
        ("8k", 4, 8),
    ];
    let infos: Vec<_> = rig.slub.cache_infos().collect();
    assert_eq!(infos.len(), NR_KMALLOC_CACHES);
    for (suffix, objects, pages) in one_cpu {
        for prefix in ["kmalloc-", "kmalloc-rcl-", "dma-kmalloc-"] {
            let name = format!("{prefix}{suffix}");
            let info = infos.iter().find(|info| info.name == name).unwrap();
            assert_eq!(
                (info.objperslab, info.pagesperslab),
                (objects, pages),
                "{name}"
            );
        }
    }
    // Waste decides: a sixteenth of the slab at most, else an eighth, before fewer objects are taken.
    for (size, objects, pages) in [(600, 13, 2), (1504, 21, 8), (9792, 3, 8), (40_000, 1, 16)] {
        let cache = rig.slub.cache_create(&CacheArgs::new("odd", size)).unwrap();
        let info = rig.slub.cache_infos().find(|info| info.name == "odd");
        let info = info.unwrap();
        assert_eq!(
            (info.objperslab, info.pagesperslab),
            (objects, pages),
            "{size}"
        );
        destroy(rig.slub, cache).unwrap();
    }
}

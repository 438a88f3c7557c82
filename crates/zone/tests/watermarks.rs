//! Linux's formulas against Linux's numbers.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{Tiny, bare, boot, frames, small};
use kmm_frame::{PfnRange, ZoneType};
use kmm_zone::{
    LOWMEM_RESERVE_RATIO, Mark, PcpLimits, PcpSizing, WATERMARK_SCALE_FACTOR, Watermarks,
    ZoneLayout, default_min_free_kbytes, lowmem_reserve,
};

#[test]
fn min_free_kbytes_is_that_of_linux() {
    // The table above `calculate_min_free_kbytes` in mm/page_alloc.c: MiB of memory, KiB kept free. (It says 11584 for
    // 8192 MiB, which the code's own formula rounds down from 11585.2 to 11585.)
    let table = [
        (16, 512),
        (32, 724),
        (64, 1024),
        (128, 1448),
        (256, 2048),
        (512, 2896),
        (1024, 4096),
        (2048, 5792),
        (4096, 8192),
        (8192, 11585),
        (16384, 16384),
    ];
    for (mib, kbytes) in table {
        assert_eq!(default_min_free_kbytes(mib * 256), kbytes, "{mib} MiB");
    }
    assert_eq!(default_min_free_kbytes(0), 128);
    assert_eq!(default_min_free_kbytes(1 << 40), 262_144);
    assert_eq!(default_min_free_kbytes(usize::MAX), 262_144);
}

#[test]
fn batches_are_one_less_than_a_power_of_two() {
    // `zone_batchsize` of 6 pages, and half of that more: 9, down to 8.
    for (mib, batch) in [(4, 1), (64, 3), (96, 7), (160, 7), (192, 15), (1 << 20, 63)] {
        assert_eq!(PcpLimits::six_batches(mib * 256).batch, batch, "{mib} MiB");
    }
}

#[test]
fn a_large_servers_zoneinfo_is_reproduced() {
    // Node 0, zone Normal: min 18955, low 104499, high 190043, managed 85546808.
    let managed = 85_546_808;
    let marks = Watermarks::for_zone(
        ZoneType::Normal,
        managed,
        managed,
        18_955 * 4,
        WATERMARK_SCALE_FACTOR,
    );
    assert_eq!(marks.min, 18_955);
    assert_eq!(marks.low - marks.min, 85_546);
    assert_eq!(marks.high - marks.low, 85_546);
    let close = |ours: usize, theirs: usize| ours.abs_diff(theirs) * 10_000 < theirs;
    assert!(close(marks.low, 104_499), "{marks:?}");
    assert!(close(marks.high, 190_043), "{marks:?}");
    // Its pagesets: count 364, high 378, batch 63.
    let limits = PcpLimits::six_batches(managed);
    assert_eq!((limits.batch, limits.high), (63, 378));
}

#[test]
fn small_zones_keep_a_quarter_of_their_share_between_marks() {
    let marks = Watermarks::for_zone(ZoneType::Dma32, 1000, 4000, 8000, 10);
    // 2000 pages in all, a quarter of them here; a quarter of that is more than 1000 * 10 / 10000.
    assert_eq!((marks.min, marks.low, marks.high), (500, 625, 750));
    assert_eq!(marks.get(Mark::Low), 625);
    let scaled = Watermarks::for_zone(ZoneType::Dma32, 1000, 4000, 8000, 3000);
    assert_eq!((scaled.min, scaled.low, scaled.high), (500, 800, 1100));
}

#[test]
fn highmem_keeps_little() {
    let marks = |managed| Watermarks::for_zone(ZoneType::HighMem, managed, 4096, 4096, 10).min;
    assert_eq!(marks(1024), 32);
    assert_eq!(marks(65_536), 64);
    assert_eq!(marks(1 << 20), 128);
}

#[test]
fn marks_of_huge_numbers_do_not_overflow() {
    let marks = Watermarks::for_zone(ZoneType::Normal, 1 << 50, 1 << 50, 1 << 40, 10_000);
    assert_eq!(marks.min, 1 << 38);
    assert_eq!(marks.low - marks.min, 1 << 50);
    let none = Watermarks::for_zone(ZoneType::Normal, 0, 0, 1024, 10);
    assert_eq!(none, Watermarks::default());
}

#[test]
fn lowmem_reserve_is_that_of_linux() {
    // DMA 3840, DMA32 513024 as in the documentation's example: protection (0, 2004, 2004, ..).
    let managed = [3840, 513_024, 0, 0, 0, 0];
    let reserve = lowmem_reserve(managed, LOWMEM_RESERVE_RATIO);
    assert_eq!(reserve[0], [0, 2004, 2004, 2004, 2004, 2004]);
    assert_eq!(reserve[1], [0; 6]);
    // With 6 GiB above: DMA keeps (513024 + 1572864) / 256, DMA32 1572864 / 256, Normal nothing: nobody is above.
    let managed = [3840, 513_024, 1_572_864, 0, 0, 0];
    let reserve = lowmem_reserve(managed, LOWMEM_RESERVE_RATIO);
    assert_eq!(reserve[0], [0, 2004, 8148, 8148, 8148, 8148]);
    assert_eq!(reserve[1], [0, 0, 6144, 6144, 6144, 6144]);
    assert_eq!(reserve[2], [0; 6]);
    // A movable zone above Normal: 1/32 of it. An empty zone, or ratio 0, keeps nothing.
    let managed = [0, 0, 1000, 0, 3200, 0];
    let reserve = lowmem_reserve(managed, LOWMEM_RESERVE_RATIO);
    assert_eq!(reserve[0], [0; 6]);
    assert_eq!(reserve[2], [0, 0, 0, 0, 100, 100]);
    assert_eq!(lowmem_reserve(managed, [0; 6])[2], [0; 6]);
}

#[test]
fn pageset_limits_are_those_of_linux() {
    // managed, low, CPUs -> batch, high; Linux 6.1's zone_batchsize and zone_highsize.
    for (managed, low, nr_cpus, batch, high) in [
        (3_840, 30, 1, 1, 30),
        (3_840, 30, 16, 1, 4),
        (16_384, 320, 1, 3, 320),
        (131_072, 900, 4, 31, 225),
        (1_572_864, 6_000, 64, 63, 252),
    ] {
        let limits = PcpLimits::by_low_mark(managed, low, nr_cpus);
        assert_eq!((limits.batch, limits.high), (batch, high), "{managed}");
    }
    // No more than there is room for.
    let limits = PcpLimits::by_low_mark(1 << 30, 1 << 20, 1);
    assert_eq!((limits.batch, limits.high), (63, kmm_zone::Pcp::CAPACITY));
}

#[test]
fn init_watermarks_sets_each_zone_by_its_share() {
    let zones = small::<spin::Mutex<()>>(96, PfnRange::EMPTY, 2);
    let marks = |kind| zones.zone(kind).watermarks();
    // 64, 192 and 768 of 1024 pages.
    assert_eq!(marks(ZoneType::Dma).min, 6);
    assert_eq!(marks(ZoneType::Dma32).min, 18);
    assert_eq!(
        marks(ZoneType::Normal),
        Watermarks {
            min: 72,
            low: 90,
            high: 108
        }
    );
    assert_eq!(
        zones.zone(ZoneType::Normal).pcp_limits(),
        PcpLimits { batch: 1, high: 45 }
    );
    assert_eq!(zones.zone(ZoneType::Dma).protection(), [0, 0, 3, 3, 3, 3]);
    zones.set_lowmem_reserve_ratio([8, 16, 0, 0, 0, 0]);
    assert_eq!(
        zones.zone(ZoneType::Dma).protection(),
        [0, 24, 120, 120, 120, 120]
    );
    assert_eq!(
        zones.zone(ZoneType::Dma32).protection(),
        [0, 0, 48, 48, 48, 48]
    );
    assert_eq!(zones.default_min_free_kbytes(), 256);
}

#[test]
fn older_pageset_sizing_can_be_chosen() {
    let ram = frames(0, 1024);
    let zones = bare::<spin::Mutex<()>>(ZoneLayout::new::<Tiny>(ram), ram, 1)
        .with_pcp_sizing(PcpSizing::SixBatches);
    boot(&zones, ram, PfnRange::EMPTY, 96);
    assert_eq!(
        zones.zone(ZoneType::Normal).pcp_limits(),
        PcpLimits { batch: 1, high: 6 }
    );
}

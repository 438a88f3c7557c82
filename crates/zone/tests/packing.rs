//! What stocks are filled from, so that pageblocks stay whole.
#![allow(missing_docs, reason = "a test")]

mod common;

use common::{TestZones, bare, boot, frames, order};
use kmm_frame::{Gfp, Pfn, PfnRange, ZoneType};
use kmm_host::{Cpus, PageBlock, PageReq, PageSource};
use kmm_zone::{ZoneLayout, ZoneLimits};

const GFP: Gfp = Gfp::DMA.union(Gfp::MOVABLE_PAGE);
const NR_FRAMES: usize = 32 * 512;

#[derive(Debug)]
struct OneZone;

impl ZoneLimits for OneZone {
    const DMA_END: Option<Pfn> = Some(Pfn::new(1 << 20));
    const DMA32_END: Option<Pfn> = None;
    const LOWMEM_END: Option<Pfn> = None;
}

/// One zone of 32 pageblocks with stocks of three pages, and the first `nr_pages` of it in use.
fn with_pages(nr_pages: usize) -> (TestZones, Vec<Option<PageBlock>>) {
    let ram = frames(0, NR_FRAMES);
    let zones = bare(ZoneLayout::new::<OneZone>(ram), ram, 4);
    boot(&zones, ram, PfnRange::EMPTY, 0);
    assert_eq!(zones.zone(ZoneType::Dma).pcp_limits().batch, 3);
    let pages = (0..nr_pages).map(|nr| {
        let page = take(&zones, 0);
        assert_eq!(page.pfn(), Pfn::new(nr));
        Some(page)
    });
    let pages = pages.collect();
    (zones, pages)
}

fn take(zones: &TestZones, nr: u8) -> PageBlock {
    zones.alloc(PageReq::new(order(nr), GFP)).unwrap()
}

/// Gives some of the pages back, to the free lists.
fn free(zones: &TestZones, pages: &mut [Option<PageBlock>], which: impl Iterator<Item = usize>) {
    let drain = || zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    which.for_each(|nr| zones.free(pages[nr].take().unwrap()));
    drain();
    // The window is measured when a stock is filled.
    zones.free(take(zones, 0));
    drain();
}

fn nr_in_stock(zones: &TestZones) -> usize {
    let stocks = zones.zone(ZoneType::Dma).pcp_stats();
    stocks.map(|pcp| pcp.count).sum()
}

fn nr_whole(zones: &TestZones) -> usize {
    let nr_free = zones.zone(ZoneType::Dma).stat().nr_free;
    nr_free[9] + 2 * nr_free[10]
}

#[test]
fn stocks_hold_nothing_from_above_the_window_beside_pages_from_within() {
    let (zones, mut pages) = with_pages(1536);
    // As many are in use as two pageblocks have.
    free(&zones, &mut pages, (512..1024).chain([7, 1030, 1040, 1050]));
    assert_eq!((nr_in_stock(&zones), nr_whole(&zones)), (0, 30));
    let first = take(&zones, 0);
    assert_eq!(first.pfn(), Pfn::new(7));
    assert_eq!(nr_in_stock(&zones), 0, "a batch of one");
    // Only what lies above is left of fragments: a batch like others.
    let second = take(&zones, 0);
    assert_eq!(second.pfn(), Pfn::new(1030));
    assert_eq!(nr_in_stock(&zones), 2);
    assert_eq!(nr_whole(&zones), 30);
    [first, second]
        .into_iter()
        .for_each(|page| zones.free(page));
    pages
        .into_iter()
        .flatten()
        .for_each(|page| zones.free(page));
    zones.validate().unwrap();
}

#[test]
fn pages_on_their_way_home_go_before_whole_pageblocks() {
    let (zones, mut pages) = with_pages(1536);
    free(&zones, &mut pages, 0..1024);
    // It lies above the window, and waits for others.
    zones.free(pages[1030].take().unwrap());
    assert_eq!((nr_in_stock(&zones), nr_whole(&zones)), (1, 31));
    let again = take(&zones, 0);
    assert_eq!((again.pfn(), nr_whole(&zones)), (Pfn::new(1030), 31));
    zones.free(again);
    pages
        .into_iter()
        .flatten()
        .for_each(|page| zones.free(page));
    zones.validate().unwrap();
}

#[test]
fn the_stock_goes_home_before_one_of_the_last_whole_pageblocks_is_broken() {
    let (zones, mut pages) = with_pages(512);
    let mut huge = Vec::new();
    // Of 32 pageblocks two are few.
    while nr_whole(&zones) > 2 {
        huge.push(take(&zones, 9));
    }
    for nr in [10, 11] {
        zones.free(pages[nr].take().unwrap());
    }
    assert_eq!(nr_in_stock(&zones), 2);
    let pair = take(&zones, 1);
    assert_eq!((pair.pfn(), nr_whole(&zones)), (Pfn::new(10), 2));
    assert_eq!(nr_in_stock(&zones), 0);
    // There is nothing else left.
    let next = take(&zones, 0);
    assert!(next.pfn() >= Pfn::new(30 * 512));
    assert_eq!(nr_whole(&zones), 1);
    [pair, next].into_iter().for_each(|block| zones.free(block));
    pages
        .into_iter()
        .flatten()
        .for_each(|page| zones.free(page));
    huge.into_iter().for_each(|block| zones.free(block));
    zones.validate().unwrap();
}

#[test]
fn pages_on_their_way_home_count_when_a_stock_goes_home() {
    let (zones, mut pages) = with_pages(1536);
    free(&zones, &mut pages, (100..200).chain(512..1024));
    for nr in [1030, 1031, 5] {
        zones.free(pages[nr].take().unwrap());
    }
    assert_eq!(nr_in_stock(&zones), 3);
    let drained = zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    assert_eq!((drained, nr_in_stock(&zones)), (3, 0));
}

#[test]
fn the_window_closes_by_a_pageblock_only_when_the_next_is_out_of_use_too() {
    let (zones, mut pages) = with_pages(1030);
    // So many in use would fill two pageblocks: the third stays in the window nevertheless.
    free(&zones, &mut pages, 600..700);
    zones.free(pages[1028].take().unwrap());
    let kept = take(&zones, 0);
    assert_eq!(kept.pfn(), Pfn::new(1028));
    pages[1028] = Some(kept);
    // And now one: both behind it go home.
    free(&zones, &mut pages, 100..590);
    for nr in [1028, 800] {
        zones.free(pages[nr].take().unwrap());
    }
    assert_eq!(take(&zones, 0).pfn(), Pfn::new(100));
}

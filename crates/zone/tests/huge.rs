//! Large blocks in pagesets: kept where there are many, and given back when somebody asks (A-6, FIX-9).
#![allow(unsafe_code, missing_docs, reason = "a test; its frames have no bytes")]

mod common;

use common::{TestZones, ThreadCpus, frames, run_on, storage_for, take_bad};
use kmm_frame::{Gfp, MAX_ORDER, MemMap, MigrateType, Order, Page, Pfn, VirtAddr, ZoneType};
use kmm_host::{CpuId, Cpus, DirectMap, PageBlock, PageReq, PageSource};
use kmm_zone::{FreeAt, NodeLayouts, X86_64, ZoneLayout};

const HUGE: PageReq = PageReq::new(Order::PAGEBLOCK, Gfp::HIGHUSER_MOVABLE);
/// From here on all is DMA32.
const START: usize = 4096;

/// One zone of so many huge pages, for two CPUs.
fn machine(nr_huge: usize) -> TestZones {
    let ram = frames(START, START + nr_huge * 512);
    let pages: Vec<Page> = ram.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(ram, pages.leak()).unwrap();
    let layouts = NodeLayouts::single(ZoneLayout::new::<X86_64>(ram));
    // SAFETY: nobody reaches the bytes of these frames.
    let phys = unsafe { DirectMap::new(VirtAddr::new(0), ram.end()) };
    let storage = storage_for(&layouts, 2);
    let zones = TestZones::new(map, ThreadCpus(2), phys, &layouts, storage)
        .unwrap()
        .with_bad_page_hook(common::note_bad);
    zones.add_present(ram);
    zones.free_at_boot(ram).unwrap();
    zones.init_watermarks(0, 10);
    zones
}

/// Huge pages in stock, by CPU.
fn stock(zones: &TestZones) -> [usize; 2] {
    let mut count = [0; 2];
    zones.for_each_free(|pfn, order, at| {
        if let FreeAt::Pcp(cpu) = at {
            assert_eq!(order, Order::PAGEBLOCK);
            assert!(pfn.is_aligned(order));
            count[cpu.index()] += 1;
        }
    });
    count
}

fn take(zones: &TestZones, count: usize) -> Vec<PageBlock> {
    (0..count).map(|_| zones.alloc(HUGE).unwrap()).collect()
}

#[test]
fn huge_pages_are_kept_where_there_are_many() {
    // A sixteenth of the zone, in halves for the two CPUs: three each.
    let zones = machine(16 * 2 * 3);
    let dma32 = zones.zone(ZoneType::Dma32);
    let nr_huge = dma32.managed_pages() / 512;
    let mut held = take(&zones, 20);
    let before = stock(&zones)[0];
    zones.free(held.remove(0));
    assert_eq!(stock(&zones), [before + 1, 0]);
    let blocks_free = dma32.nr_free_pages() / 512;
    let again = zones.alloc(HUGE).unwrap();
    assert_eq!(again.pfn(), Pfn::new(START), "the one that came last");
    assert_eq!(dma32.nr_free_pages() / 512, blocks_free, "from the stock");
    held.push(again);
    // Never more than its share, whatever comes back.
    let mut most = 0;
    for block in held {
        zones.free(block);
        most = most.max(stock(&zones)[0]);
    }
    assert_eq!(most, 3);
    zones.validate().unwrap();
    // The other CPU has a share of its own, and gives it back when it is asked.
    run_on(1);
    let block = zones.alloc(HUGE).unwrap();
    zones.free(block);
    assert!(stock(&zones)[1] > 0);
    run_on(0);
    zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    assert_eq!(stock(&zones)[0], 0);
    zones.request_drain(CpuId::new(1));
    run_on(1);
    zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    assert_eq!(stock(&zones), [0, 0]);
    assert_eq!(dma32.nr_free_pages(), nr_huge * 512);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn huge_pages_come_and_go_by_half_a_stock() {
    // Eight for each CPU.
    let zones = machine(16 * 2 * 8);
    let nr_free = || zones.zone(ZoneType::Dma32).nr_free_pages() / 512;
    let before = nr_free();
    let mut held = take(&zones, 1);
    assert_eq!((stock(&zones)[0], nr_free()), (3, before - 4));
    held.extend(take(&zones, 3));
    assert_eq!((stock(&zones)[0], nr_free()), (0, before - 4));
    held.extend(take(&zones, 8));
    let pfns: Vec<_> = held.iter().map(PageBlock::pfn).collect();
    let upwards: Vec<_> = (0..12).map(|nr| Pfn::new(START + nr * 512)).collect();
    assert_eq!(pfns, upwards);
    for nr in 1..=8 {
        zones.free(held.pop().unwrap());
        assert_eq!((stock(&zones)[0], nr_free()), (nr, before - 12));
    }
    // The ninth finds the stock full: half of it goes home.
    zones.free(held.pop().unwrap());
    assert_eq!((stock(&zones)[0], nr_free()), (5, before - 8));
    held.into_iter().for_each(|block| zones.free(block));
    zones.validate().unwrap();
    let stat = zones.zone(ZoneType::Dma32).stat();
    assert_eq!((stat.pgalloc, stat.pgfree), (12 * 512, 12 * 512));
    assert_eq!(take_bad(), []);
}

#[test]
fn stocks_of_huge_pages_leave_what_others_need() {
    let zones = machine(16 * 2 * 8);
    let dma32 = zones.zone(ZoneType::Dma32);
    let mut held = Vec::new();
    // Of 256 pageblocks sixteen are few.
    while dma32.nr_free_pages() / 512 > 17 {
        held.extend(take(&zones, 1));
    }
    while stock(&zones)[0] > 0 {
        held.extend(take(&zones, 1));
    }
    held.extend(take(&zones, 1));
    assert_eq!(stock(&zones)[0], 0, "one at a time");
    held.into_iter().for_each(|block| zones.free(block));
    // Nor is a stock filled below the low mark.
    let zones = machine(16 * 2 * 8);
    let mark = (zones.managed_pages() - 2 * 512 - 100) * 4 / 5;
    zones.init_watermarks(mark * 4, 10);
    let spare = zones.managed_pages() - zones.zone(ZoneType::Dma32).watermarks().low;
    assert!((1024..2048).contains(&spare), "{spare}");
    let block = zones.alloc(HUGE).unwrap();
    assert_eq!(stock(&zones)[0], spare / 512 - 1);
    zones.free(block);
    zones.validate().unwrap();
}

#[test]
fn huge_pages_are_kept_wherever_they_lie_and_smaller_blocks_are_not() {
    let zones = machine(16 * 2 * 8);
    let mut held = take(&zones, 20);
    let highest = held.pop().unwrap();
    let upper = held.pop().unwrap();
    held.into_iter().for_each(|block| zones.free(block));
    zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
    assert_eq!(stock(&zones), [0, 0]);
    let pfn = highest.pfn();
    zones.free(highest);
    assert_eq!(orders_in_stock(&zones), [(pfn, Order::PAGEBLOCK)]);
    // As two blocks of half the size, the other is not.
    let (pfn, _) = upper.into_raw();
    for half in [pfn, pfn + 256] {
        zones.map().page(half).set_ref_count(1);
        // SAFETY: of a block that was handed out and taken apart here.
        zones.free(unsafe { PageBlock::from_raw(half, Order::new(8).unwrap()) });
    }
    assert_eq!(orders_in_stock(&zones).len(), 1);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn huge_pages_in_stock_are_not_in_use() {
    let zones = machine(16 * 2 * 8);
    let mut held = take(&zones, 5);
    assert_eq!(stock(&zones)[0], 3);
    held.extend(take(&zones, 2));
    let first_of = |nr: usize| Pfn::new(START + nr * 512);
    let free_first_of = |nr: usize| {
        zones.map().page(first_of(nr)).set_ref_count(1);
        // SAFETY: the first page of a block that was handed out and taken apart here; the others are forgotten.
        zones.free(unsafe { PageBlock::from_raw(first_of(nr), Order::ZERO) });
    };
    let (seventh, sixth) = (held.pop().unwrap(), held.pop().unwrap());
    assert_eq!(seventh.into_raw().0, first_of(6));
    assert_eq!(sixth.into_raw().0, first_of(5));
    // Five were in use when the stock was filled: what comes back from the seventh goes home.
    free_first_of(5);
    free_first_of(6);
    let page = zones.alloc(of(Order::ZERO)).unwrap();
    assert_eq!(page.pfn(), first_of(5));
    // When another stock is filled, seven are: what comes back from there is kept.
    let again = zones.alloc(of(Order::ZERO)).unwrap();
    assert_eq!(again.pfn(), first_of(6), "the lowest that is free");
    zones.free(page);
    zones.free(again);
    let next = zones.alloc(of(Order::ZERO)).unwrap();
    assert_eq!(next.pfn(), first_of(6), "the one that came last");
    assert_eq!(take_bad(), []);
}

#[test]
fn small_zones_keep_no_huge_page() {
    // Less than two for each of two CPUs.
    let zones = machine(16 * 2 * 2 - 1);
    let held = take(&zones, 20);
    for block in held {
        zones.free(block);
        assert_eq!(stock(&zones), [0, 0]);
    }
    assert_eq!(
        zones.zone(ZoneType::Dma32).nr_free_pages(),
        zones.managed_pages()
    );
    zones.validate().unwrap();
}

/// Blocks of each order in stock of the first CPU.
fn orders_in_stock(zones: &TestZones) -> Vec<(Pfn, Order)> {
    let mut blocks = Vec::new();
    zones.for_each_free(|pfn, order, at| {
        if at == FreeAt::Pcp(CpuId::BOOT) {
            blocks.push((pfn, order));
        }
    });
    blocks
}

fn of(order: Order) -> PageReq {
    PageReq::new(order, Gfp::HIGHUSER_MOVABLE)
}

#[test]
fn every_order_is_kept() {
    let zones = machine(16 * 2 * 3);
    for order in Order::all().skip(4) {
        let block = zones.alloc(of(order)).unwrap();
        let pfn = block.pfn();
        zones.free(block);
        assert_eq!(orders_in_stock(&zones), [(pfn, order)]);
        let again = zones.alloc(of(order)).unwrap();
        assert_eq!(again.pfn(), pfn, "order {order} from the stock");
        assert_eq!(orders_in_stock(&zones), []);
        zones.free(again);
        zones.validate().unwrap();
        zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        assert_eq!(orders_in_stock(&zones), []);
    }
    assert_eq!(
        zones.zone(ZoneType::Dma32).nr_free_pages(),
        zones.managed_pages()
    );
    assert_eq!(take_bad(), []);
}

#[test]
fn a_large_block_sends_what_there_is_most_of_home_where_it_wants_room() {
    // Three huge pages for each CPU.
    let zones = machine(16 * 2 * 3);
    let orders = || {
        let stock = orders_in_stock(&zones);
        stock.into_iter().map(|(_, order)| order.get()).collect()
    };
    let mut held = take(&zones, 3);
    let [huge, half, largest] = [9, 8, 10].map(|order| {
        let order = Order::new(order).unwrap();
        zones.alloc(of(order)).unwrap()
    });
    zones.free(half);
    zones.free(huge);
    let before: Vec<u8> = orders();
    assert_eq!(before, [8, 9]);
    // What there is most of goes, and no more than it takes.
    zones.free(largest);
    let after: Vec<u8> = orders();
    assert_eq!(after, [8, 10]);
    zones.free(held.remove(0));
    let instead: Vec<u8> = orders();
    assert_eq!(instead, [8, 9]);
    zones.free(held.remove(0));
    let beside: Vec<u8> = orders();
    assert_eq!(beside, [8, 9, 9]);
    held.drain(..).for_each(|block| zones.free(block));
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn a_block_of_two_pageblocks_is_kept_if_both_have_its_type() {
    let zones = machine(16 * 2 * 3);
    let dma32 = zones.zone(ZoneType::Dma32);
    for kind in [MigrateType::Unmovable, MigrateType::Isolate] {
        let block = zones.alloc(of(MAX_ORDER)).unwrap();
        let second = block.pfn() + Order::PAGEBLOCK.nr_pages();
        let before = dma32.set_pageblock_type(second, kind);
        assert_eq!(before, Some(MigrateType::Movable));
        zones.free(block);
        assert_eq!(orders_in_stock(&zones), [], "{kind:?}");
        dma32.set_pageblock_type(second, MigrateType::Movable);
        zones.validate().unwrap();
    }
    let block = zones.alloc(of(MAX_ORDER)).unwrap();
    zones.free(block);
    assert_eq!(orders_in_stock(&zones).len(), 1);
    zones.validate().unwrap();
    assert_eq!(take_bad(), []);
}

#[test]
fn a_cpu_that_frees_a_large_block_which_is_not_kept_gives_its_stock_back_when_asked() {
    let zones = machine(16 * 2 * 8);
    let held = take(&zones, 40);
    let half = zones.alloc(of(Order::new(8).unwrap())).unwrap();
    held.into_iter().for_each(|block| zones.free(block));
    let before = stock(&zones)[0];
    assert!(before > 0);
    zones.request_drain(CpuId::BOOT);
    zones.free(half);
    assert_eq!(orders_in_stock(&zones), []);
    zones.validate().unwrap();
}

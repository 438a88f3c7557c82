//! The direct map: addresses both ways, page contents, blocks, entries of tables.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_possible_truncation,
    reason = "tests own the memory they use"
)]

mod common;

use core::ptr::NonNull;

use common::{block, ram};
use kmm_frame::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr, ZoneType};
use kmm_host::{DirectMap, MemPtes, PhysMap, PteIndex, PteStore};

const NR_PAGES: usize = 64;

#[test]
fn addresses_round_trip_for_every_frame() {
    let map = ram(NR_PAGES);
    for pfn in (0..NR_PAGES).map(Pfn::new) {
        let ptr = map.direct(pfn).unwrap();
        let virt = VirtAddr::new(ptr.addr().get() as u64);
        assert_eq!(map.virt_to_pfn(ptr), Some(pfn));
        assert_eq!(map.virt(pfn.phys()), virt);
        assert_eq!(map.phys(virt), Some(pfn.phys()));
        let last = pfn.phys() + (PAGE_SIZE as u64 - 1);
        assert_eq!(map.phys(map.virt(last)), Some(last));
    }
}

#[test]
fn addresses_outside_the_map_are_refused() {
    let map = ram(NR_PAGES);
    let end = Pfn::new(NR_PAGES);
    assert_eq!(map.direct(end), None);
    assert_eq!(map.direct(Pfn::new(usize::MAX >> 12)), None);
    let ptr = |addr: u64| NonNull::new(core::ptr::without_provenance_mut(addr as usize)).unwrap();
    let below = map.page_offset() - 1;
    let above = map.virt(end.phys());
    for virt in [VirtAddr::new(8), below, above, VirtAddr::new(u64::MAX)] {
        assert_eq!(map.phys(virt), None, "{virt}");
        assert_eq!(map.virt_to_pfn(ptr(virt.as_u64())), None, "{virt}");
    }
}

#[test]
fn conversion_is_const_at_linux_addresses() {
    const PAGE_OFFSET: VirtAddr = VirtAddr::new(0xffff_8880_0000_0000);
    // SAFETY: the map is asked for addresses only; nothing is reached through it.
    const MAP: DirectMap = unsafe { DirectMap::new(PAGE_OFFSET, Pfn::new(1 << 34)) };
    const TEXT: VirtAddr = MAP.virt(PhysAddr::new(0x10_0000));
    const BACK: Option<PhysAddr> = MAP.phys(TEXT);
    const { assert!(TEXT.as_u64() == 0xffff_8880_0010_0000) };
    assert_eq!(BACK, Some(PhysAddr::new(0x10_0000)));
    assert_eq!(MAP.phys(VirtAddr::new(0xffff_c880_0000_0000)), None);
}

#[test]
fn there_is_no_highmem_on_64_bit() {
    const { assert!(!DirectMap::HIGHMEM) };
    const { assert!(!<&DirectMap as PhysMap>::HIGHMEM) };
    assert_eq!(DirectMap::OPT_ZONE_HIGHMEM, ZoneType::Normal);
}

#[test]
fn pages_are_cleared_and_copied_one_by_one() {
    let map = ram(NR_PAGES);
    let (mut from, mut to) = (block(4, 2), block(8, 1));
    map.clear(&mut from);
    map.with_page(&mut from, 3, |mut page| {
        page.bytes_mut()[17] = 42;
        map.with_page(&mut to, 1, |mut copy| copy.copy_from(&page));
    });
    let sum = |pfn: usize| {
        // SAFETY: the blocks are not in use at this moment.
        unsafe {
            map.with_pfn(Pfn::new(pfn), |page| {
                page.bytes().iter().map(|&b| usize::from(b)).sum::<usize>()
            })
        }
    };
    let untouched = 0xA5 * PAGE_SIZE;
    assert_eq!([sum(4), sum(5), sum(6), sum(7)], [0, 0, 0, 42]);
    assert_eq!(
        [sum(3), sum(8), sum(9), sum(10)],
        [untouched, untouched, 42, untouched]
    );
}

#[test]
#[should_panic(expected = "page 4 of a block of 4")]
fn a_page_outside_the_block_is_refused() {
    ram(NR_PAGES).with_page(&mut block(4, 2), 4, |_| ());
}

#[test]
fn a_block_knows_its_frames() {
    let block = block(8, 3);
    assert_eq!(block.range().nr_pages(), 8);
    assert!(block.range().contains(Pfn::new(15)));
    let (pfn, order) = block.into_raw();
    assert_eq!((pfn.index(), order.get()), (8, 3));
}

#[test]
fn table_entries_are_read_as_written() {
    let map = ram(NR_PAGES);
    let ptes = MemPtes::new(map);
    let table = Pfn::new(5);
    let index = |n| PteIndex::new(n).unwrap();
    // SAFETY: the frame is the test's, and no hardware walks it.
    unsafe {
        ptes.init_table(table);
        assert!((0..512).all(|n| ptes.read(table, index(n)) == 0));
        ptes.write(table, index(511), 0x8000_0000_0000_0063);
        assert_eq!(ptes.swap(table, index(511), 7), 0x8000_0000_0000_0063);
        assert_eq!(ptes.read(table, index(511)), 7);
        assert_eq!(ptes.read(table, index(510)), 0);
        ptes.retire_table(table);
    }
    assert_eq!(PteIndex::new(512), None);
    assert_eq!(PteIndex::truncate(0x1_ffff).index(), 511);
}

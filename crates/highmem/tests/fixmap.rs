//! Fixed addresses, both ways.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::{PAGE_SIZE, VirtAddr};
use kmm_highmem::Fixmap;

/// x86-64's, and i386's.
const TOPS: [u64; 2] = [0xffff_ffff_ff7f_f000, 0xffff_f000];

#[test]
fn slots_and_addresses_round_trip() {
    for top in TOPS {
        let fixmap = Fixmap::new(VirtAddr::new(top), 100);
        for slot in 0..100 {
            let virt = fixmap.virt(slot);
            assert_eq!(virt.as_u64(), top - (slot * PAGE_SIZE) as u64);
            for offset in [0, 1, PAGE_SIZE as u64 - 1] {
                assert_eq!(fixmap.index(virt + offset), Some(slot));
            }
        }
        let above = VirtAddr::new(top + PAGE_SIZE as u64);
        let below = fixmap.virt(99) - 1;
        for outside in [above, below, VirtAddr::ZERO, VirtAddr::new(u64::MAX)] {
            assert_eq!(fixmap.index(outside), None, "{outside}");
        }
    }
}

#[test]
#[should_panic(expected = "no such slot")]
fn a_slot_beyond_the_last_is_refused() {
    let _ = Fixmap::new(VirtAddr::new(TOPS[0]), 100).virt(100);
}

#[test]
#[should_panic(expected = "no room for so many slots")]
fn a_map_larger_than_the_address_space_is_refused() {
    let _ = Fixmap::new(VirtAddr::new(0x3000), 4);
}

#[test]
#[should_panic(expected = "page-aligned")]
fn an_unaligned_top_is_refused() {
    let _ = Fixmap::new(VirtAddr::new(0x3001), 1);
}

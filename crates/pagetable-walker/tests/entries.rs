//! Entries and flags against the `x86_64` crate, bit by bit.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::{Pfn, VirtAddr};
use kmm_pagetable_walker::{Level, Levels, Pte, PteFlags};
use x86_64::PhysAddr;
use x86_64::structures::paging::PageTableFlags as Theirs;
use x86_64::structures::paging::page_table::PageTableEntry;

/// What the other crate calls each of our flags. It has no name for PAT of large pages.
const NAMES: [(PteFlags, Theirs); 20] = [
    (PteFlags::P, Theirs::PRESENT),
    (PteFlags::RW, Theirs::WRITABLE),
    (PteFlags::US, Theirs::USER_ACCESSIBLE),
    (PteFlags::PWT, Theirs::WRITE_THROUGH),
    (PteFlags::PCD, Theirs::NO_CACHE),
    (PteFlags::A, Theirs::ACCESSED),
    (PteFlags::D, Theirs::DIRTY),
    (PteFlags::G, Theirs::GLOBAL),
    (PteFlags::NX, Theirs::NO_EXECUTE),
    (PteFlags::SW9, Theirs::BIT_9),
    (PteFlags::SW10, Theirs::BIT_10),
    (PteFlags::SW11, Theirs::BIT_11),
    (PteFlags::SW52, Theirs::BIT_52),
    (PteFlags::SW53, Theirs::BIT_53),
    (PteFlags::SW54, Theirs::BIT_54),
    (PteFlags::SW55, Theirs::BIT_55),
    (PteFlags::SW56, Theirs::BIT_56),
    (PteFlags::SW57, Theirs::BIT_57),
    (PteFlags::SW58, Theirs::BIT_58),
    (PteFlags::PS, Theirs::HUGE_PAGE),
];

fn raw_of(entry: &PageTableEntry) -> u64 {
    entry.addr().as_u64() | entry.flags().bits()
}

#[test]
fn every_flag_round_trips_with_the_x86_64_crate() {
    for (ours, theirs) in NAMES {
        assert_eq!(ours.bits(), theirs.bits(), "{ours:?}");
        let level = if ours == PteFlags::PS {
            Level::Pmd
        } else {
            Level::Pte
        };
        let pfn = Pfn::new(0x12_3456_7a00);
        let mut entry = PageTableEntry::new();
        entry.set_addr(PhysAddr::new(pfn.phys().as_u64()), theirs);
        let pte = Pte::from_raw(raw_of(&entry));
        assert_eq!(pte.flags_at(level), ours);
        assert_eq!(pte.pfn_at(level), pfn);
        assert_eq!(Pte::leaf(pfn, ours, level).raw(), raw_of(&entry));
    }
}

#[test]
fn pat_stands_where_the_level_has_it() {
    let pfn = Pfn::new(1 << 18);
    let small = Pte::new(pfn, PteFlags::P | PteFlags::PAT);
    assert_eq!(small.raw(), 1 << 30 | 1 << 7 | 1);
    for level in [Level::Pmd, Level::Pud] {
        let large = Pte::leaf(pfn, PteFlags::P | PteFlags::PAT, level);
        assert_eq!(large.raw(), 1 << 30 | 1 << 12 | 1 << 7 | 1);
        assert_eq!(large.pfn_at(level), pfn);
        let flags = PteFlags::P | PteFlags::PAT | PteFlags::PS;
        assert_eq!(large.flags_at(level), flags);
        // The same flags mean the same one level down: `PS` goes, `PAT` moves.
        assert_eq!(Pte::new(pfn, flags), small);
    }
    assert_eq!(small.flags(), PteFlags::P | PteFlags::PAT);
}

#[test]
fn flags_round_trip_at_every_level_and_frames_stay_apart_from_them() {
    for level in [Level::Pte, Level::Pmd, Level::Pud] {
        let frames = [0, level.nr_pages(), (1 << 40) - level.nr_pages()].map(Pfn::new);
        for bit in PteFlags::all().iter().filter(|flag| *flag != PteFlags::PS) {
            for pfn in frames {
                let pte = Pte::leaf(pfn, bit, level);
                assert_eq!(pte.flags_at(level) - PteFlags::PS, bit);
                assert_eq!(pte.pfn_at(level), pfn);
                let other = pte.with_flags(PteFlags::P | PteFlags::NX, level);
                assert_eq!(other, Pte::leaf(pfn, PteFlags::P | PteFlags::NX, level));
            }
        }
    }
}

#[test]
fn kinds_of_entries_are_told_apart() {
    let table = Pte::table(Pfn::new(5), PteFlags::P | PteFlags::RW);
    let page = Pte::leaf(Pfn::new(512), PteFlags::P, Level::Pmd);
    let swap = Pte::from_raw(0xab00);
    assert!(table.is_table(Level::Pmd) && !table.is_leaf(Level::Pmd));
    assert!(page.is_leaf(Level::Pmd) && !page.is_table(Level::Pmd));
    assert!(!swap.is_none() && !swap.is_present());
    assert!(!swap.is_leaf(Level::Pte) && !swap.is_table(Level::Pmd));
    assert!(Pte::NONE.is_none() && !Pte::NONE.is_present());
    assert!(Pte::new(Pfn::new(5), PteFlags::P).is_leaf(Level::Pte));
}

#[test]
fn levels_cut_addresses_as_the_x86_64_crate_does() {
    let addr = 0xffff_9abc_def0_1234;
    let theirs = x86_64::VirtAddr::new(addr);
    let ours = VirtAddr::new(addr);
    let indices = [
        theirs.p1_index(),
        theirs.p2_index(),
        theirs.p3_index(),
        theirs.p4_index(),
    ];
    for (level, index) in Level::ALL.into_iter().zip(indices) {
        assert_eq!(level.index(ours).index(), usize::from(index));
    }
    assert_eq!(Level::Pmd.size_bytes(), 2 << 20);
    assert_eq!(Level::Pud.nr_pages(), 512 * 512);
    assert_eq!(Levels::Four.user_end().as_u64(), 1 << 47);
    assert_eq!(Levels::Five.user_end().as_u64(), 1 << 56);
    assert_eq!(Levels::Five.kernel_start().as_u64(), 0xff00_0000_0000_0000);
}

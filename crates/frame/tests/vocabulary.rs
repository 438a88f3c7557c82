//! Frames, addresses, orders and sizes: small cases in full, large ones at their edges.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests of small numbers"
)]

use kmm_frame::{
    Gfp, MAX_ORDER, MigrateType, NR_ORDERS, Order, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn,
    PfnRange, PhysAddr, Size1G, Size2M, Size4K, Size4M, VirtAddr, ZoneType, getpagesize,
    page_align, page_align_down,
};

const PAGE: u64 = PAGE_SIZE as u64;

#[test]
fn page_size_constants_agree() {
    const { assert!(PAGE_SIZE == 4096 && PAGE_SHIFT == 12 && getpagesize() == 4096) };
    assert_eq!(PAGE_MASK, 0xffff_ffff_ffff_f000);
    assert_eq!(0x1234_5678 & PAGE_MASK, 0x1234_5000);
    for size in [0, 1, 4095, 4096, 4097, 1 << 40] {
        let up = page_align(size).unwrap();
        assert!(up % PAGE_SIZE == 0 && up >= size && up - size < PAGE_SIZE);
        let down = page_align_down(size);
        assert!(down % PAGE_SIZE == 0 && down <= size && size - down < PAGE_SIZE);
    }
    assert_eq!(page_align(usize::MAX - 4095), Some(usize::MAX - 4095));
    assert_eq!(page_align(usize::MAX - 4094), None);
}

#[test]
fn the_page_size_is_what_getconf_tells() {
    let Ok(output) = std::process::Command::new("getconf")
        .arg("PAGE_SIZE")
        .output()
    else {
        println!("skipped: no getconf here");
        return;
    };
    let told = String::from_utf8(output.stdout).unwrap();
    if cfg!(target_arch = "x86_64") {
        assert_eq!(told.trim(), getpagesize().to_string());
    }
}

#[test]
fn page_sizes_are_types() {
    fn facts<S: PageSize>() -> (u32, u64, usize, &'static str) {
        (S::SHIFT, S::SIZE_BYTES, S::NR_PAGES, S::NAME)
    }
    assert_eq!(facts::<Size4K>(), (12, 4 << 10, 1, "4KiB"));
    assert_eq!(facts::<Size2M>(), (21, 2 << 20, 512, "2MiB"));
    assert_eq!(facts::<Size4M>(), (22, 4 << 20, 1024, "4MiB"));
    assert_eq!(facts::<Size1G>(), (30, 1 << 30, 512 * 512, "1GiB"));
}

#[test]
fn ranges_of_bytes_become_ranges_of_frames() {
    // Every range in four pages, at a granularity that has edges inside of pages.
    let step = PAGE as usize / 4;
    for start in (0..=4 * PAGE).step_by(step) {
        for end in (0..=4 * PAGE).step_by(step) {
            let (low, high) = (PhysAddr::new(start), PhysAddr::new(end));
            let touched = |pfn: u64| start < end && pfn * PAGE < end && start < (pfn + 1) * PAGE;
            let whole = |pfn: u64| start <= pfn * PAGE && (pfn + 1) * PAGE <= end;
            for pfn in 0..5 {
                let frame = Pfn::new(pfn as usize);
                assert_eq!(PfnRange::covering(low, high).contains(frame), touched(pfn));
                assert_eq!(PfnRange::inside(low, high).contains(frame), whole(pfn));
            }
        }
    }
    let top = PhysAddr::new(u64::MAX);
    assert!(PfnRange::inside(top, top).is_empty());
    assert_eq!(PfnRange::covering(top - 1, top).nr_pages(), 1);
}

#[test]
fn ranges_of_frames_meet_as_sets_do() {
    let all: Vec<PfnRange> = (0..6)
        .flat_map(|start| (0..6).map(move |end| PfnRange::new(Pfn::new(start), Pfn::new(end))))
        .collect();
    let set = |range: &PfnRange| -> Vec<Pfn> { range.iter().collect() };
    for a in &all {
        assert_eq!(set(a).len(), a.nr_pages());
        assert_eq!(a.is_empty(), a.nr_pages() == 0);
        for b in &all {
            let common: Vec<Pfn> = set(a).into_iter().filter(|p| b.contains(*p)).collect();
            assert_eq!(set(&a.intersect(*b)), common);
            assert_eq!(a.overlaps(*b), !common.is_empty());
            assert_eq!(a.contains_range(*b), common.len() == b.nr_pages());
        }
    }
    let cut = PfnRange::with_len(Pfn::new(usize::MAX - 1), 5);
    assert_eq!(cut.nr_pages(), 1);
}

#[test]
fn buddies_are_twins() {
    for order in Order::all().take(6) {
        for index in (0..128).step_by(order.nr_pages()) {
            let pfn = Pfn::new(index);
            let buddy = pfn.buddy(order);
            assert!(pfn.is_aligned(order) && buddy.is_aligned(order));
            assert_eq!(buddy.buddy(order), pfn);
            let distance = buddy.index().abs_diff(index);
            assert_eq!(distance, order.nr_pages());
            // Together they are a block of the next order.
            let block = order.up().unwrap();
            assert_eq!(pfn.align_down(block), buddy.align_down(block));
        }
    }
    let (pfn, order) = (Pfn::new(1000), Order::PAGEBLOCK);
    assert_eq!(
        (pfn.align_down(order).index(), pfn.align_up(order).index()),
        (512, 1024)
    );
}

#[test]
fn orders_hold_what_they_are_for() {
    assert_eq!(
        (MAX_ORDER.get(), NR_ORDERS, MAX_ORDER.size_bytes()),
        (10, 11, 4 << 20)
    );
    assert_eq!(Order::new(11), None);
    assert_eq!(MAX_ORDER.up(), None);
    assert_eq!(Order::ZERO.down(), None);
    for pages in 0..=1024 {
        let order = Order::for_pages(pages).unwrap();
        assert!(order.nr_pages() >= pages);
        assert!(
            order
                .down()
                .is_none_or(|smaller| smaller.nr_pages() < pages)
        );
    }
    assert_eq!(Order::for_pages(1025), None);
    // Linux: get_order.
    let of = |size| Order::for_size(size).map(Order::get);
    let want = [Some(0), Some(0), Some(1), Some(10), None];
    assert_eq!(
        [of(1), of(4096), of(4097), of(4 << 20), of((4 << 20) + 1)],
        want
    );
    assert_eq!(of(usize::MAX), None);
    let up: Vec<u8> = Order::ZERO.up_to(MAX_ORDER).map(Order::get).collect();
    assert_eq!(up, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn addresses_align_and_do_not_wrap() {
    let addr = PhysAddr::new(0x1234_5678);
    assert_eq!(addr.pfn().index(), 0x1_2345);
    assert_eq!(addr.pfn().phys() + addr.page_offset(), addr);
    assert_eq!(addr.align_down(1 << 21).as_u64(), 0x1220_0000);
    assert_eq!(
        addr.checked_align_up(1 << 21).unwrap().as_u64(),
        0x1240_0000
    );
    let last = PhysAddr::new(u64::MAX);
    assert_eq!(
        (last.checked_align_up(2), last.checked_add(1)),
        (None, None)
    );
    assert_eq!(
        format!("{addr} {addr:?} {addr:x}"),
        "0x12345678 PhysAddr(0x12345678) 12345678"
    );
}

#[test]
fn canonical_addresses_have_a_hole_between_them() {
    for bits in [48, 57] {
        let half = 1_u64 << (bits - 1);
        for (addr, canonical) in [
            (0, true),
            (half - 1, true),
            (half, false),
            (half.wrapping_neg() - 1, false),
            (half.wrapping_neg(), true),
            (u64::MAX, true),
        ] {
            assert_eq!(
                VirtAddr::new(addr).is_canonical(bits),
                canonical,
                "{addr:#x}, {bits} bits"
            );
        }
        assert_eq!(
            VirtAddr::sign_extend(half, bits).as_u64(),
            half.wrapping_neg()
        );
    }
}

#[test]
fn gfp_bits_and_compositions_are_those_of_linux_6_1() {
    for (gfp, bits) in [
        (Gfp::KERNEL, 0xcc0),
        (Gfp::ATOMIC, 0xa20),
        (Gfp::NOWAIT, 0x800),
        (Gfp::NOIO, 0xc00),
        (Gfp::NOFS, 0xc40),
        (Gfp::USER, 0x10_0cc0),
        (Gfp::HIGHUSER, 0x10_0cc2),
        (Gfp::HIGHUSER_MOVABLE, 0x10_0cca),
    ] {
        assert_eq!(gfp.bits(), bits, "{gfp:?}");
    }
    assert!(Gfp::KERNEL.may_block() && !Gfp::ATOMIC.may_block() && !Gfp::NOWAIT.may_block());
    assert_eq!(Gfp::KERNEL.zone(), ZoneType::Normal);
    assert_eq!((Gfp::KERNEL | Gfp::DMA).zone(), ZoneType::Dma);
    assert_eq!((Gfp::KERNEL | Gfp::DMA32).zone(), ZoneType::Dma32);
    assert_eq!(Gfp::HIGHUSER.zone(), ZoneType::HighMem);
    assert_eq!(Gfp::HIGHUSER_MOVABLE.zone(), ZoneType::Movable);
    assert_eq!(Gfp::HIGHUSER_MOVABLE.migrate_type(), MigrateType::Movable);
    assert_eq!(
        (Gfp::KERNEL | Gfp::RECLAIMABLE).migrate_type(),
        MigrateType::Reclaimable
    );
    assert_eq!(Gfp::KERNEL.migrate_type(), MigrateType::Unmovable);
}

/// Linux: `GFP_ZONE_TABLE`, and of the sets that `GFP_ZONE_BAD` lists the most restrictive flag.
#[test]
fn every_set_of_zone_flags_names_a_zone() {
    use ZoneType::{Dma, Dma32, HighMem, Movable, Normal};
    // By the bits of DMA 1, HIGHMEM 2, DMA32 4, MOVABLE 8.
    let table = [
        Normal, Dma, HighMem, Dma, Dma32, Dma, Dma32, Dma, Normal, Dma, Movable, Dma, Dma32, Dma,
        Dma32, Dma,
    ];
    for (bits, zone) in (0..).zip(table) {
        let flags = Gfp::from_bits(bits).unwrap();
        for others in [
            Gfp::empty(),
            Gfp::KERNEL,
            Gfp::all() - Gfp::from_bits(15).unwrap(),
        ] {
            assert_eq!((flags | others).zone(), zone, "{bits:#x}");
        }
    }
}

#[test]
fn zones_have_linux_names_in_linux_order() {
    let names = ZoneType::ALL.map(ZoneType::name);
    assert_eq!(
        names,
        ["DMA", "DMA32", "Normal", "HighMem", "Movable", "Device"]
    );
    for (index, zone) in ZoneType::ALL.into_iter().enumerate() {
        assert_eq!(
            (zone.index(), ZoneType::from_index(index)),
            (index, Some(zone))
        );
    }
    assert_eq!(ZoneType::from_index(ZoneType::COUNT), None);
    assert_eq!(format!("{:>8}|", ZoneType::Dma), "     DMA|");
}

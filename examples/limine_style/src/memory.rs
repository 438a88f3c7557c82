//! From the boot loader's map to page tables of our own: `kmm-frame`, then `kmm-zone`, then `kmm-pagetable-walker`.

use core::ops::Range;

use kmm_frame::memblock::{FirmwareRegion, FirstMegabyte, Memblock};
use kmm_frame::{Gfp, MemMap, PAGE_SIZE, PhysAddr, VirtAddr};
use kmm_host::{
    CpuId, CpuPin, Cpus, DirectMap, MemPtes, PageReq, PageSource, PhysMap, TlbControl, TlbTarget,
};
use kmm_pagetable_walker::{Level, Levels, Mapper, PteFlags, Span, TableCounter};
use kmm_zone::{NodeLayouts, WATERMARK_SCALE_FACTOR, X86_64, ZoneLayout, ZoneStorage, Zones};
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use crate::println;

/// The page allocator, for the rest of the kernel: `PAGES.get().unwrap().alloc(..)`.
pub static PAGES: spin::Once<Zones<spin::Mutex<()>, OneCpu, DirectMap>> = spin::Once::new();
static TABLES: TableCounter = TableCounter::new();

/// # Safety
/// 1. Usable regions are RAM that nobody uses; `image` is where the kernel lies.
/// 2. RAM in use or usable is mapped at `hhdm`.
pub unsafe fn init<I>(regions: I, hhdm: VirtAddr, image: PhysAddr)
where
    I: Iterator<Item = FirmwareRegion> + Clone,
{
    // kmm-frame: what is free? However disordered the map is, a reservation wins over memory.
    let mut memblock = Memblock::<128>::with_room();
    let known = memblock.add_firmware_map(regions, FirstMegabyte::Skip);
    known.expect("more than 128 regions");
    let spanned = memblock.spanned();
    // SAFETY: obligation 2; the tables made below map the same.
    let phys = unsafe { DirectMap::new(hhdm, spanned.end()) };
    let layout = MemMap::layout(spanned).expect("a memory map of sound size");
    let everywhere = PhysAddr::ZERO..spanned.end().phys();
    let storage = memblock.alloc(layout.size() as u64, PAGE_SIZE as u64, everywhere.clone());
    let storage = phys.direct(storage.expect("room for the descriptors").pfn());
    // SAFETY: memblock gave the memory away just now, and the direct map shows it.
    let map = unsafe { MemMap::new_in(spanned, storage.expect("below the end")) };
    println(format_args!("{}", memblock.accounting()));

    // kmm-zone: every frame that memblock never gave away changes hands, once.
    let layout = NodeLayouts::single(ZoneLayout::new::<X86_64>(spanned));
    let room =
        ZoneStorage::<spin::Mutex<()>>::layout(&layout, 1).expect("a memory map of sound size");
    let storage = memblock.alloc(room.size() as u64, PAGE_SIZE as u64, everywhere);
    let storage = phys.direct(storage.expect("room for the zones").pfn());
    // SAFETY: as above; a page is aligned enough.
    let storage = unsafe { ZoneStorage::new_in(&layout, 1, storage.expect("below the end")) };
    let zones = Zones::new(map, OneCpu, phys, &layout, storage).expect("one storage, one layout");
    let zones = zones.with_bad_page_hook(|bad| println(format_args!("{bad}")));
    memblock
        .memory_frames()
        .for_each(|ram| zones.add_present(ram));
    map.reserve_all_but(memblock.free_ranges());
    for free in memblock.hand_over().expect("the first time") {
        zones.free_at_boot(free).expect("free in the map as well");
    }
    zones.init_watermarks(zones.default_min_free_kbytes(), WATERMARK_SCALE_FACTOR);
    let pages = PAGES.call_once(|| zones);
    println(format_args!("{} pages free", pages.nr_free_pages()));

    // kmm-pagetable-walker: tables of our own. RAM with the largest pages that fit, the kernel with just the rights it
    // needs, and nothing else.
    let ptes = MemPtes::new(phys);
    // SAFETY: all frames of `pages` are in the direct map and in `map`; we map RAM and the image, for ourselves.
    let mapper = unsafe { Mapper::new(&ptes, pages, map, Levels::Four, &TABLES) };
    let mut root = mapper.alloc_root().expect("a page");
    let mut enter = |range: Range<VirtAddr>, to: PhysAddr, flags| {
        let mapped = mapper.map_range(&mut root, range, to, flags, Level::Pmd);
        mapped.expect("pages for tables")
    };
    for ram in memblock.memory_frames() {
        let (start, end) = (ram.start().phys(), ram.end().phys());
        enter(
            hhdm + start.as_u64()..hhdm + end.as_u64(),
            start,
            PteFlags::KERNEL,
        );
    }
    for (range, flags) in sections() {
        let offset = range.start - sections()[0].0.start;
        enter(range, image + offset, flags);
    }
    let (mut large, mut small) = (0, 0);
    let upper_half = Levels::Four.kernel_start()..VirtAddr::new(u64::MAX - 0xfff);
    let walked = mapper.for_each(&root, upper_half, |span| {
        if let Span::Mapped(leaf) = span {
            let flags = leaf.flags();
            assert!(
                !flags.contains(PteFlags::RW) || flags.contains(PteFlags::NX),
                "W^X"
            );
            *if leaf.level == Level::Pte {
                &mut small
            } else {
                &mut large
            } += 1;
        }
    });
    walked.expect("a sound range");
    let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(root.pfn().phys().as_u64()));
    // SAFETY: the tables map this code, its data, and the stack, which is in the direct map.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
    let tables = TABLES.nr_tables();
    println(format_args!(
        "{tables} tables: {large} pages of 2 MiB, {small} of 4 KiB, W^X"
    ));

    // In use: a page at an address of our choice, and away again.
    let block = pages
        .alloc(PageReq::page(Gfp::KERNEL | Gfp::ZERO))
        .expect("a page");
    let va = VirtAddr::new(0xffff_c900_0000_0000);
    let mapped = mapper.map_page(&mut root, va, block.pfn(), Level::Pte, PteFlags::KERNEL);
    mapped.expect("pages for three tables");
    // SAFETY: mapped just now, writable.
    unsafe { (va.as_usize() as *mut u64).write_volatile(42) };
    // SAFETY: the block is ours, and its page is in the direct map.
    let seen = unsafe {
        phys.direct(block.pfn())
            .expect("RAM")
            .cast::<u64>()
            .read_volatile()
    };
    assert_eq!(seen, 42);
    let mut gather = mapper.gather(TlbTarget::Kernel, &ThisCpu);
    gather.push(block);
    let unmapped = mapper.unmap_range(&mut root, va..va + PAGE_SIZE as u64, &mut gather, |_, _| {});
    unmapped.expect("a whole page");
    gather.finish(); // flushes, and only then frees the page and the tables that became empty
    assert_eq!(TABLES.nr_tables(), tables);
}

/// The sections of `linker.ld` and what may be done with them, from the lowest up.
fn sections() -> [(Range<VirtAddr>, PteFlags); 3] {
    unsafe extern "C" {
        static text_start: u8;
        static rodata_start: u8;
        static data_start: u8;
        static image_end: u8;
    }
    let [text, rodata, data, end] = [
        &raw const text_start,
        &raw const rodata_start,
        &raw const data_start,
        &raw const image_end,
    ]
    .map(|symbol| VirtAddr::new(symbol as u64));
    [
        (text..rodata, PteFlags::KERNEL_ROX),
        (rodata..data, PteFlags::KERNEL_RO),
        (data..end, PteFlags::KERNEL),
    ]
}

#[derive(Debug)]
pub struct OneCpu;

// SAFETY: there is one CPU, and no other code that takes pins runs on it during the closure.
unsafe impl Cpus for OneCpu {
    fn nr_cpus(&self) -> usize {
        1
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: there is no other CPU to be on.
        f(unsafe { CpuPin::new(CpuId::BOOT) })
    }
}

struct ThisCpu;

impl TlbControl for ThisCpu {
    fn flush_range(&self, _: TlbTarget, range: Range<VirtAddr>) {
        for page in (range.start.as_u64()..range.end.as_u64()).step_by(PAGE_SIZE) {
            tlb::flush(x86_64::VirtAddr::new(page));
        }
    }

    fn flush_all(&self, _: TlbTarget) {
        tlb::flush_all();
    }
}

//! From the firmware's map to a running manager.
#![expect(
    unsafe_code,
    reason = "vouches for the machine, loads CR3, fills the early heap"
)]

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm::frame::memblock::{
    FirmwareKind, FirmwareRegion, FirstMegabyte, Memblock, MemblockError, Reserved,
};
use kmm::frame::{MemMap, PAGE_SIZE, PfnRange, PhysAddr, VirtAddr};
use kmm::host::{Backtrace, SlabHook};
use kmm::pagetable_walker::layout::{Layout, RegionKind as LayoutKind};
use kmm::pagetable_walker::{Level, Levels, PteFlags, TableCounter};
use kmm::slub::Callers;
use kmm::vmalloc::PAT_MSR;
use kmm::zone::Amount;
use kmm::{
    AllocHooks, BuildError, Early, Hooks, ImagePart, KernelSpace, MAX_KFENCE_OBJECTS, RateLimit,
};
use spin::{Mutex, Once};
use x86_64::registers::model_specific::Msr;

use super::host::KernelHost;
use super::{MACHINE, Machine, Manager, activate};
use crate::arch::{backtrace, exit, features, numa, timer};
use crate::boot::{BootInfo, DIRECT_MAP, RegionKind, image};
use crate::kasan::ShadowMemory;
use crate::smp;

/// The register of the page attribute table.
const IA32_PAT: u32 = 0x277;
/// The heap before slub: a few small things at boot.
const EARLY_HEAP_BYTES: usize = 256 << 10;
/// Descriptors may take at most one part in this many of all memory; memory so far away that they would is given up.
const MAX_MAP_SHARE: usize = 16;

static HOST: Once<KernelHost> = Once::new();
static KERNEL_TABLES: TableCounter = TableCounter::new();
/// Too large for a stack.
static MEMBLOCK: Mutex<Memblock> = Mutex::new(Memblock::new());

/// Mistakes with objects that were noticed so far.
pub static NR_SLUB_BUGS: AtomicUsize = AtomicUsize::new(0);

/// How many slabs were made: of kmalloc, and of caches for one kind of object.
#[derive(Debug)]
pub struct SlabCount {
    pub general: AtomicUsize,
    pub specific: AtomicUsize,
}

/// What [`SlabCount`] has counted since boot.
pub static SLABS: SlabCount = SlabCount {
    general: AtomicUsize::new(0),
    specific: AtomicUsize::new(0),
};

impl SlabHook for SlabCount {
    fn slab_made(&self, _frames: PfnRange, cache: &str) {
        let count = if cache.contains("kmalloc-") {
            &self.general
        } else {
            &self.specific
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the kernel's code is called from.
struct Stack;

impl Backtrace for Stack {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        let mut chain = [0_u64; 16];
        let nr = backtrace::capture(&mut chain).min(addresses.len());
        for (address, found) in addresses.iter_mut().zip(&chain[..nr]) {
            *address = usize::try_from(*found).unwrap_or(0);
        }
        nr
    }
}

/// Ends a boot that cannot go on.
fn fatal(what: impl fmt::Display) -> ! {
    println!("kmm: cannot boot: {what}");
    exit::exit(exit::CANNOT_BOOT)
}

/// Takes the machine's memory over.
pub fn init(boot: &'static BootInfo) {
    if let Err(error) = take_over(boot) {
        fatal(error);
    }
}

fn take_over(boot: &'static BootInfo) -> Result<(), BuildError> {
    let mut memblock = MEMBLOCK.lock();
    feed(&mut memblock, boot)?;
    println!("memblock: {}", memblock.accounting());
    lend_early_heap(&mut memblock, boot)?;
    let shadow = ShadowMemory::reserve(&mut memblock, boot)?;

    let spanned = memblock.spanned();
    // SAFETY: 1: the provisional tables map all memory below `mapped_end`, the final ones all of it; nothing above is used before. 2: `smp`
    // starts no other CPUs.
    let host = HOST.call_once(|| unsafe { KernelHost::new(spanned.end(), smp::nr_possible()) });
    let mapped_end = PhysAddr::new(boot.mapped_end);
    // SAFETY: memblock has what the firmware calls usable, less what boot told us is in use; below `mapped_end` it is mapped.
    let early = unsafe { Early::new(host, memblock.clone(), mapped_end) }?;
    describe(early.mem_map());
    let topology = numa::read(boot, early.memory());
    let core = |key: &str| {
        let text = boot.value(key)?;
        let amount = Amount::parse(text);
        if let Err(error) = amount {
            println!("mm: {key}={text}: {error}");
        }
        amount.ok()
    };
    let [kernelcore, movablecore] =
        ["kernelcore", "movablecore"].map(|key| core(key).unwrap_or(Amount::NONE));
    let early = early
        .with_topology(topology)
        .with_movable(kernelcore, movablecore)
        .with_slub_debug(boot.value("slub_debug").unwrap_or(""), Callers(&Stack));
    let early = match boot.value("map_guard") {
        None | Some("off") => early,
        Some("on") => early.with_map_guard(),
        Some(text) => {
            println!("mm: map_guard={text}: neither on nor off");
            early
        }
    };
    let early = match kfence_interval(boot) {
        0 => early,
        interval => early.with_kfence(MAX_KFENCE_OBJECTS, interval)?,
    };

    set_memory_types();
    let space = kernel_space(&shadow);
    let parts = image_parts().chain(shadow.parts());
    let root = early.kernel_tables(&space, parts, &KERNEL_TABLES)?;
    // SAFETY: the new tables map the image, the direct map and the boot stack as the old ones do, and stay for ever.
    unsafe { activate(root.pfn()) };
    shadow.switch_on();
    println!(
        "tables: final ones loaded, {} tables, direct map in pages of up to {}, identity map gone",
        KERNEL_TABLES.nr_tables(),
        if space.largest == Level::Pud {
            "1 GiB"
        } else {
            "2 MiB"
        },
    );

    let memory = early.memory();
    let hooks = Hooks {
        on_bad_page: |bad| println!("mm: {bad}"),
        on_slub_bug: |bug| {
            NR_SLUB_BUGS.fetch_add(1, Ordering::Relaxed);
            super::kfence::keep(bug);
            println!("mm: {bug}");
        },
        slabs: &SLABS,
        alloc: AllocHooks {
            on_failure: |failure| {
                static LIMIT: RateLimit = RateLimit::new(RateLimit::INTERVAL_NS, 1);
                if LIMIT.allow(timer::now_ns()).is_some() {
                    println!("{}", failure.of("kernel"));
                }
            },
            on_bad_free: |bad| println!("mm: {bad}"),
            on_bug: |bug| println!("mm: {bug}"),
            ..AllocHooks::NONE
        },
    };
    let manager: &'static Manager = Manager::build(early, root, &KERNEL_TABLES, &space, hooks)?;
    crate::heap::switch_to(manager.slub());
    MACHINE.call_once(|| Machine {
        manager,
        space,
        memory,
    });
    report(manager);
    super::kfence::describe(manager);
    match super::tests::prove_tables() {
        Ok(proof) => println!("tables: {proof}"),
        Err(fault) => fatal(format_args!("kernel page tables: {fault}")),
    }
    Ok(())
}

/// One in how many objects that CPUs' stocks do not have is KFENCE's; 0 for none.
fn kfence_interval(boot: &BootInfo) -> u32 {
    let Some(text) = boot.value("kfence.sample_interval") else {
        return 0;
    };
    match text.parse() {
        // KASAN sees what it would see, and tells its own objects from others.
        Ok(1..) if cfg!(kasan) => println!("mm: kfence.sample_interval={text}: not with KASAN"),
        Ok(interval) => return interval,
        Err(_) => println!("mm: kfence.sample_interval={text}: no number"),
    }
    0
}

/// Tells memblock what the firmware said and what is in use already.
fn feed(memblock: &mut Memblock, boot: &BootInfo) -> Result<(), MemblockError> {
    let regions = boot.memory_map.regions().iter().map(|region| {
        let kind = match region.kind {
            RegionKind::Usable => FirmwareKind::Usable,
            RegionKind::Reserved => FirmwareKind::Reserved,
            RegionKind::AcpiReclaimable => FirmwareKind::AcpiReclaimable,
            RegionKind::AcpiNvs => FirmwareKind::AcpiNvs,
            RegionKind::Unusable => FirmwareKind::Bad,
            RegionKind::Persistent => FirmwareKind::Persistent,
            RegionKind::Bootloader => FirmwareKind::Bootloader,
        };
        FirmwareRegion::new(region.start, region.end, kind)
    });
    let report = memblock.add_firmware_map(regions, FirstMegabyte::Skip)?;
    println!(
        "memblock: {} regions, {} empty, {} wrap around, {} dropped ({} KiB)",
        report.nr_regions,
        report.nr_empty,
        report.nr_wrapping,
        report.nr_dropped,
        report.dropped_bytes >> 10,
    );
    for run in image_runs(image::whole()) {
        memblock.reserve(
            PhysAddr::new(run.phys),
            run.virt.end - run.virt.start,
            Reserved::KernelImage,
        )?;
    }
    if let Some(initrd) = &boot.initrd {
        memblock.reserve(
            PhysAddr::new(initrd.start),
            initrd.end - initrd.start,
            Reserved::Module,
        )?;
    }
    let given_up = memblock.trim_span(MAX_MAP_SHARE)?;
    if given_up > 0 {
        println!(
            "memblock: {} KiB lie too far from the rest and are not used",
            given_up >> 10
        );
    }
    Ok(())
}

fn lend_early_heap(memblock: &mut Memblock, boot: &BootInfo) -> Result<(), MemblockError> {
    let within = PhysAddr::ZERO..PhysAddr::new(boot.mapped_end);
    let phys = memblock.alloc(EARLY_HEAP_BYTES as u64, PAGE_SIZE as u64, within)?;
    let start = core::ptr::with_exposed_provenance_mut(
        (VirtAddr::new(DIRECT_MAP) + phys.as_u64()).as_usize(),
    );
    // SAFETY: memblock gave these bytes away for ever, and provisional and final tables map them at the direct map.
    unsafe { crate::heap::init_early(start, EARLY_HEAP_BYTES) };
    Ok(())
}

/// Gives the entries of the page attribute table the meanings that `ioremap` relies on (SDM 3A 12.12).
pub(super) fn set_memory_types() {
    let mut pat = Msr::new(IA32_PAT);
    // SAFETY: the first four entries, all that the tables use up to now, keep the meanings that they have after reset.
    unsafe { pat.write(PAT_MSR) };
}

fn kernel_space(shadow: &ShadowMemory) -> KernelSpace {
    let features = features::get();
    if !features.nx {
        fatal("the CPU has no NX bit");
    }
    let vmalloc = Layout::FOUR.region(LayoutKind::Vmalloc);
    KernelSpace {
        levels: Levels::Four,
        direct_map: VirtAddr::new(DIRECT_MAP),
        largest: if features.gib_pages {
            Level::Pud
        } else {
            Level::Pmd
        },
        vmalloc: shadow.watched_part(vmalloc.range()),
    }
}

/// Pages of the image that lie side by side.
struct Run {
    virt: Range<u64>,
    phys: u64,
}

/// The image as runs of frames: one through the PVH door, many through the other. Pages that are not mapped are left out.
fn image_runs(range: Range<u64>) -> impl Iterator<Item = Run> {
    let page = PAGE_SIZE as u64;
    let mut next = range.start;
    core::iter::from_fn(move || {
        while next < range.end {
            let start = next;
            let Some(phys) = image::frame_of(start) else {
                next += page;
                continue;
            };
            next += page;
            while next < range.end && image::frame_of(next) == Some(phys + (next - start)) {
                next += page;
            }
            return Some(Run {
                virt: start..next,
                phys,
            });
        }
        None
    })
}

/// What the final tables map of the image, each part with its rights.
pub(super) fn image_parts() -> impl Iterator<Item = ImagePart> {
    image::sections().into_iter().flat_map(|section| {
        let flags = match (section.is_executable, section.is_writable) {
            (true, _) => PteFlags::KERNEL_ROX,
            (false, true) => PteFlags::KERNEL,
            (false, false) => PteFlags::KERNEL_RO,
        };
        image_runs(section.range).map(move |run| ImagePart {
            range: VirtAddr::new(run.virt.start)..VirtAddr::new(run.virt.end),
            phys: PhysAddr::new(run.phys),
            flags,
        })
    })
}

fn describe(map: MemMap) {
    let range = map.range();
    println!(
        "mem_map: {} descriptors of 64 bytes for frames {}..{}, {} KiB",
        range.nr_pages(),
        range.start(),
        range.end(),
        map.overhead_bytes() >> 10,
    );
}

fn report(manager: &Manager) {
    println!("boot memory: {}", manager.boot_accounting());
    for zone in manager.pages().stats().filter(|zone| zone.present > 0) {
        let marks = zone.watermarks;
        println!(
            "zone {}: frames {}..{}, present {}, managed {}, free {}, min {} low {} high {}",
            zone.kind,
            zone.start_pfn,
            zone.start_pfn + zone.spanned,
            zone.present,
            zone.managed,
            zone.free,
            marks.min,
            marks.low,
            marks.high,
        );
    }
    accounting_line(manager);
}

/// Prints where every frame is, and stops the machine if one is nowhere.
pub(super) fn accounting_line(manager: &Manager) {
    let sum = manager.pages().accounting();
    println!(
        "accounting: free {} + allocated {} + reserved {} = present {}",
        sum.free, sum.allocated, sum.reserved, sum.present,
    );
    assert!(sum.adds_up(), "frames do not add up: {sum:?}");
}

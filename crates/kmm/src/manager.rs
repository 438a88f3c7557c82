//! The whole manager, and the slow paths that cross crates.
#![expect(unsafe_code, reason = "vouches for its page tables")]

use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

use kmm_fault::{FaultError, FaultKind};
use kmm_frame::memblock::Accounting as BootAccounting;
use kmm_frame::{MemMap, PAGE_SIZE, Pfn, PfnRange, Topology, VmEvent};
use kmm_host::{Cpus, Host, PhysMap, Sanitizer, SlabHook};
use kmm_pagetable_walker::{KernelHalf, Levels, MapGuard, Mapper, Root, TableCounter};
use kmm_slub::{CacheSlot, CpuSlot, Slub, SlubBug, SlubConfig, SlubStorage};
use kmm_vmalloc::{Vmalloc, VmallocConfig};
use kmm_zone::{
    BadPage, CpuCounts, FirstPcps, FreeBits, NodeLayouts, Pageblock, Pcp, WATERMARK_SCALE_FACTOR,
    X86_64, ZoneStorage, Zones,
};

use crate::early::{BuildError, Early, EarlyPages, KernelSpace};
use crate::guard_pages;
use crate::page_alloc::{AllocHooks, PageAlloc};

/// Whether any of the frames is RAM.
type IsRam = dyn Fn(PfnRange) -> bool + Sync;

/// The page allocator of a host.
pub type Pages<H> =
    Zones<<H as Host>::Lock, &'static <H as Host>::Cpus, &'static <H as Host>::Phys>;
/// The object allocator of a host.
pub type Objects<H> = Slub<
    &'static PageAlloc<H>,
    &'static <H as Host>::Phys,
    <H as Host>::Lock,
    &'static <H as Host>::Cpus,
>;
/// The kernel's virtual memory of a host.
pub type KernelVm<H> =
    Vmalloc<'static, <H as Host>::Ptes, PageAlloc<H>, &'static <H as Host>::Tlb, <H as Host>::Lock>;

/// Object caches that fit: kmalloc's and the kernel's own.
const NR_CACHES: usize = 128;

/// Who is told of mistakes. Both may run anywhere, and must not allocate or free memory.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// A page was freed that is not free to go.
    pub on_bad_page: fn(BadPage),
    /// An object was freed wrongly, or a cache is corrupt.
    pub on_slub_bug: fn(&SlubBug),
    /// Is told which frames become slabs, and cease to be.
    pub slabs: &'static (dyn SlabHook + Sync),
    /// Whom the page allocator asks for memory, and tells what it does.
    pub alloc: AllocHooks,
}

impl Default for Hooks {
    /// Mistakes are passed over in silence; memory stays safe.
    fn default() -> Self {
        Self {
            on_bad_page: |_| {},
            on_slub_bug: |_| {},
            slabs: &(),
            alloc: AllocHooks::NONE,
        }
    }
}

/// Events since boot. Linux: /proc/vmstat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmEvents {
    /// Faults served. Linux: `pgfault`.
    pub pgfault: u64,
    /// Faults that waited for a device. Linux: `pgmajfault`.
    pub pgmajfault: u64,
    /// Faults for which no page could be had.
    pub oom: u64,
}

/// Linux's memory management over one host. Lives for ever: everything in it is reached by `&'static`.
pub struct Manager<H: Host> {
    host: &'static H,
    map: MemMap,
    zones: &'static Pages<H>,
    alloc: &'static PageAlloc<H>,
    slub: &'static Objects<H>,
    vmalloc: KernelVm<H>,
    kernel_tables: &'static TableCounter,
    kernel_half: KernelHalf,
    levels: Levels,
    guard: &'static MapGuard,
    zero_page: Pfn,
    topology: &'static Topology,
    kfence_frames: PfnRange,
    boot: BootAccounting,
    nr_oom_faults: AtomicU64,
}

impl<H: Host> Manager<H> {
    /// Builds everything. The tables of `root` ([`Early::kernel_tables`]) are loaded by now.
    ///
    /// Every frame that memblock never gave away goes to the page allocator, exactly once.
    ///
    /// # Errors
    /// [`BuildError`], when there is too little memory for the manager itself.
    pub fn build(
        early: Early<H>,
        mut root: Root,
        kernel_tables: &'static TableCounter,
        space: &KernelSpace,
        hooks: Hooks,
    ) -> Result<&'static Self, BuildError> {
        let host = early.host;
        let map = early.map;
        let kernel_half = {
            let pages = EarlyPages { early: &early };
            // SAFETY: 1: memblock's frames are reachable and described. 2: only empty tables are entered. 3: `root` was
            // made with these levels.
            let mapper =
                unsafe { Mapper::new(host.ptes(), &pages, map, space.levels, kernel_tables) };
            mapper.prealloc_kernel_pgds(&mut root, space.vmalloc.clone())?
        };
        let zero_page = early_page(&early)?;
        let topology = early.place(early.topology.clone())?;
        let memory = early.memory().iter().copied();
        let [kernelcore, movablecore] = early.cores;
        let layouts = NodeLayouts::new::<X86_64>(topology, memory.clone()).with_movable(
            memory,
            kernelcore,
            movablecore,
        );
        let nr_cpus = host.cpus().nr_cpus();
        let storage = ZoneStorage {
            nodes: early.place_slice(layouts.nr_nodes(), MaybeUninit::uninit)?,
            cpu_counts: early.place_slice(layouts.nr_nodes() * nr_cpus, CpuCounts::new)?,
            first_pcps: early.place_slice(nr_cpus, FirstPcps::new)?,
            pcps: early.place_slice(layouts.nr_pcps(nr_cpus), Pcp::new)?,
            pageblocks: early.place_slice(layouts.nr_pageblocks(), Pageblock::new)?,
            free_bits: early.place_slice(layouts.nr_free_bits(), || FreeBits::EMPTY)?,
        };
        let zones = Zones::new(map, host.cpus(), host.phys(), &layouts, storage)
            .map_err(|_| BuildError::Zones)?
            .with_bad_page_hook(hooks.on_bad_page);
        let zones: &'static Pages<H> = early.place(zones)?;
        let alloc: &'static PageAlloc<H> = early.place(PageAlloc::new(host, zones, hooks.alloc))?;
        let storage = SlubStorage {
            caches: early.place_slice(NR_CACHES, CacheSlot::<H::Lock>::new)?,
            cpus: early.place_slice(nr_cpus, CpuSlot::<H::Lock>::new)?,
        };
        let kfence = guard_pages::pool(&early, &root, space, kernel_tables)?;
        let config = SlubConfig {
            topology: Some(topology),
            debug: early.slub_debug.0,
            callers: early.slub_debug.1,
            slabs: hooks.slabs,
            sanitizer: watcher(host),
            kfence,
            ..SlubConfig::new(hooks.on_slub_bug)
        };
        let slub = Slub::new(alloc, host.phys(), map, host.cpus(), storage, config)
            .map_err(|_| BuildError::Slub)?;
        let slub: &'static Objects<H> = early.place(slub)?;
        let shrinker = alloc.shrinkers().register(slub);
        shrinker.map_err(|_| BuildError::Slub)?;
        let guard: &'static MapGuard = early.place(if early.guards_maps {
            MapGuard::on()
        } else {
            MapGuard::off()
        })?;
        let place = early.reserve_place::<Self>()?;
        let memory = early.memory();
        let is_ram: &'static IsRam =
            early.place(move |frames| memory.iter().any(|part| part.overlaps(frames)))?;

        let kfence_frames = early.kfence_frames();
        let Early { memblock, .. } = early;
        let mut memblock = memblock.into_inner();
        for range in memblock.memory_frames() {
            zones.add_present(range);
        }
        let boot = memblock.accounting();
        map.reserve_all_but(memblock.free_ranges());
        for range in memblock.hand_over()? {
            zones.free_at_boot(range).map_err(|_| BuildError::Zones)?;
        }
        // SAFETY: as in `Manager::mapper`.
        let mapper = unsafe { Mapper::new(host.ptes(), alloc, map, space.levels, kernel_tables) };
        let mapper = mapper.with_guard(guard);
        let config = VmallocConfig {
            range: space.vmalloc.clone(),
            is_ram,
        };
        let vmalloc =
            Vmalloc::new(mapper, alloc, root, host.tlb(), config).with_sanitizer(host.sanitizer());
        zones.init_watermarks(zones.default_min_free_kbytes(), WATERMARK_SCALE_FACTOR);
        Ok(place.put(Self {
            host,
            map,
            zones,
            alloc,
            slub,
            vmalloc,
            kernel_tables,
            kernel_half,
            levels: space.levels,
            guard,
            zero_page,
            topology,
            kfence_frames,
            boot,
            nr_oom_faults: AtomicU64::new(0),
        }))
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &'static H {
        self.host
    }

    /// The descriptors.
    #[must_use]
    pub const fn mem_map(&self) -> MemMap {
        self.map
    }

    /// The page allocator.
    #[must_use]
    pub const fn pages(&self) -> &'static Pages<H> {
        self.zones
    }

    /// The object allocator.
    #[must_use]
    pub const fn slub(&self) -> &'static Objects<H> {
        self.slub
    }

    /// The kernel's virtual memory.
    #[must_use]
    pub const fn vmalloc(&self) -> &KernelVm<H> {
        &self.vmalloc
    }

    /// The upper half that every address space shares.
    #[must_use]
    pub const fn kernel_half(&self) -> KernelHalf {
        self.kernel_half
    }

    /// The counter of the kernel's own tables.
    #[must_use]
    pub const fn kernel_tables(&self) -> &'static TableCounter {
        self.kernel_tables
    }

    /// Whether frames of slabs, of page tables and of the kernel image may be mapped a second time, by `vmap` or for a program:
    /// to be turned on and off at any time. Off unless [`Early::with_map_guard`] said otherwise.
    #[must_use]
    pub const fn map_guard(&self) -> &'static MapGuard {
        self.guard
    }

    /// The page of zeros that all share.
    #[must_use]
    pub const fn zero_page(&self) -> Pfn {
        self.zero_page
    }

    /// Which node frames and CPUs are of.
    #[must_use]
    pub const fn topology(&self) -> &'static Topology {
        self.topology
    }

    /// The frames of [`Early::with_kfence`]: the even ones, and those without an object, are not to be touched; none without.
    #[must_use]
    pub const fn kfence_frames(&self) -> PfnRange {
        self.kfence_frames
    }

    /// Where every frame was when memblock handed over: the accounting line of the boot log.
    #[must_use]
    pub const fn boot_accounting(&self) -> &BootAccounting {
        &self.boot
    }

    /// A mapper of this machine's tables that counts in `tables`.
    #[must_use]
    pub fn mapper<'a>(&'a self, tables: &'a TableCounter) -> Mapper<'a, H::Ptes, PageAlloc<H>> {
        // SAFETY: 1: the zones hand out RAM that the host's tables reach, and that the map describes. 2: this crate
        // enters a frame for the address space that holds a reference of it, and puts that after the flush. 3: every
        // root of this manager has these levels.
        let mapper =
            unsafe { Mapper::new(self.host.ptes(), self.alloc, self.map, self.levels, tables) };
        mapper.with_guard(self.guard)
    }

    /// The page allocator that waits where it may: zones, and the slow path above them.
    #[must_use]
    pub const fn page_alloc(&self) -> &'static PageAlloc<H> {
        self.alloc
    }

    /// Gives frames of the initial ramdisk, or of anything else that only boot needed, to the page allocator.
    ///
    /// Linux: `free_reserved_area`. How many frames that were.
    ///
    /// # Errors
    /// [`BuildError::Zones`] when one of them is not reserved RAM; nothing has changed then.
    ///
    /// # Safety
    /// Nobody uses the frames any more.
    pub unsafe fn free_reserved(&self, range: PfnRange) -> Result<usize, BuildError> {
        self.zones
            .free_reserved(range)
            .map_err(|_| BuildError::Zones)
    }

    /// Events since boot.
    #[must_use]
    pub fn events(&self) -> VmEvents {
        let events = self.zones.events();
        VmEvents {
            pgfault: events[VmEvent::Pgfault],
            pgmajfault: events[VmEvent::Pgmajfault],
            oom: self.nr_oom_faults.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count_fault(&self, result: Result<FaultKind, FaultError>) {
        match result {
            Ok(FaultKind::Major) => {
                self.zones.count_event(VmEvent::Pgfault, 1);
                self.zones.count_event(VmEvent::Pgmajfault, 1);
            }
            Ok(FaultKind::Minor) => self.zones.count_event(VmEvent::Pgfault, 1),
            Err(FaultError::OutOfMemory) => {
                self.nr_oom_faults.fetch_add(1, Ordering::Relaxed);
            }
            Ok(FaultKind::Spurious) | Err(_) => {}
        }
    }
}

/// Who watches objects, if anybody does: who wants no redzones does not.
fn watcher<H: Host>(host: &'static H) -> Option<&'static (dyn Sanitizer + Sync)> {
    let sanitizer = host.sanitizer();
    (sanitizer.redzone_bytes(0) > 0).then_some(sanitizer)
}

/// A page of zeros from memblock.
fn early_page<H: Host>(early: &Early<H>) -> Result<Pfn, BuildError> {
    let start = early.alloc(PAGE_SIZE)?;
    let phys = early.host.phys();
    phys.virt_to_pfn(start).ok_or(BuildError::Unreachable)
}

impl<H: Host> fmt::Debug for Manager<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("map", &self.map)
            .field("zones", &self.zones)
            .finish_non_exhaustive()
    }
}

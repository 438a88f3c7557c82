//! Boots the manager on a simulated machine, as a kernel does on a real one.
#![expect(unsafe_code, reason = "vouches for the simulated machine")]

use kmm::frame::memblock::{FirstMegabyte, Memblock, Reserved};
use kmm::frame::{PhysAddr, Topology, VirtAddr};
use kmm::pagetable_walker::layout::{Layout, RegionKind};
use kmm::pagetable_walker::{Level, Levels, PteFlags, TableCounter};
use kmm::{BuildError, Early, Hooks, ImagePart, KernelSpace, Manager};
use kmm_sim::{Config, Machine};

/// Where the pretended kernel image lies: the second megabyte, of which 1 MiB is code and static data.
pub const KERNEL_IMAGE: core::ops::Range<u64> = 0x10_0000..0x20_0000;

/// Addresses for vmalloc: two entries of the top table.
const VMALLOC_BYTES: u64 = 1 << 40;

/// A machine with the manager on it.
#[derive(Clone, Copy, Debug)]
pub struct Booted {
    /// The machine.
    pub machine: &'static Machine,
    /// The manager.
    pub manager: &'static Manager<Machine>,
    /// What the kernel's tables were asked to map.
    pub space: &'static KernelSpace,
}

/// The parts of the pretended image: code, constants, data.
pub fn image_parts() -> [ImagePart; 3] {
    let base = 0xffff_ffff_8000_0000;
    let part = |start: u64, end: u64, flags| ImagePart {
        range: VirtAddr::new(base + start)..VirtAddr::new(base + end),
        phys: PhysAddr::new(start),
        flags,
    };
    [
        part(0x10_0000, 0x18_0000, PteFlags::KERNEL_ROX),
        part(0x18_0000, 0x1a_0000, PteFlags::KERNEL_RO),
        part(0x1a_0000, 0x20_0000, PteFlags::KERNEL),
    ]
}

/// From the firmware's map to a running manager.
///
/// # Errors
/// [`BuildError`], as on a machine with too little memory.
///
/// # Panics
/// Later, in the hooks, when the manager reports a mistake.
pub fn boot(config: Config) -> Result<Booted, BuildError> {
    boot_with_nodes(config, Topology::single())
}

/// As [`boot`], on a machine with these nodes.
///
/// # Errors
/// [`BuildError`].
///
/// # Panics
/// As [`boot`].
pub fn boot_with_nodes(config: Config, topology: Topology) -> Result<Booted, BuildError> {
    boot_as(config, |early| early.with_topology(topology))
}

/// As [`boot`], with what `prepare` has to say before the manager is built.
///
/// # Errors
/// [`BuildError`].
///
/// # Panics
/// As [`boot`].
pub fn boot_as(
    config: Config,
    prepare: impl FnOnce(Early<Machine>) -> Early<Machine>,
) -> Result<Booted, BuildError> {
    boot_with_hooks(config, prepare, Hooks::default())
}

/// As [`boot_as`], with hooks; those for mistakes panic.
///
/// # Errors
/// [`BuildError`].
///
/// # Panics
/// As [`boot`].
pub fn boot_with_hooks(
    config: Config,
    prepare: impl FnOnce(Early<Machine>) -> Early<Machine>,
    hooks: Hooks,
) -> Result<Booted, BuildError> {
    let levels = if config.nr_levels == 5 {
        Levels::Five
    } else {
        Levels::Four
    };
    let machine = Machine::new(config);
    let mut memblock = Memblock::new();
    memblock.add_firmware_map(machine.firmware_map().iter().copied(), FirstMegabyte::Skip)?;
    memblock.reserve(
        PhysAddr::new(KERNEL_IMAGE.start),
        KERNEL_IMAGE.end - KERNEL_IMAGE.start,
        Reserved::KernelImage,
    )?;
    let layout = Layout::for_levels(levels);
    let vmalloc = layout.region(RegionKind::Vmalloc).first;
    let space = KernelSpace {
        levels,
        direct_map: layout.region(RegionKind::DirectMap).first,
        largest: Level::Pud,
        // A part of the region, as an audit looks at every table of it.
        vmalloc: vmalloc..vmalloc + VMALLOC_BYTES,
    };
    let end = memblock.spanned().end().phys();
    let tables: &'static TableCounter = Box::leak(Box::new(TableCounter::new()));
    // SAFETY: memblock has what the firmware tells, less the image; the machine's `phys` reaches all of it always.
    let early = unsafe { Early::new(machine, memblock, end) }?;
    let early = prepare(early);
    let root = early.kernel_tables(&space, image_parts(), tables)?;
    let hooks = Hooks {
        on_bad_page: |bad| panic!("{bad}"),
        on_slub_bug: |bug| panic!("{bug}"),
        ..hooks
    };
    let manager = Manager::build(early, root, tables, &space, hooks)?;
    Ok(Booted {
        machine,
        manager,
        space: Box::leak(Box::new(space)),
    })
}

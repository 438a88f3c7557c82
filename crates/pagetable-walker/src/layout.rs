//! Where things lie in the virtual address space: Linux's layout on x86-64, for four and for five levels.

use core::fmt;
use core::ops::Range;

use kmm_frame::{PAGE_SIZE, PhysAddr, VirtAddr};

use RegionKind::{
    CpuEntryArea, DirectMap, Efi, EspFixup, Fixmap, GuardHole, Hole, KasanShadow, KernelText,
    LdtRemap, Modules, NonCanonical, User, Vmalloc, Vmemmap, Vsyscall,
};

use crate::Levels;

/// What a region of the address space is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum RegionKind {
    /// Programs.
    User,
    /// Addresses that the CPU refuses.
    NonCanonical,
    /// Left free for a hypervisor.
    GuardHole,
    /// The LDT of the running process, where tables are separate.
    LdtRemap,
    /// All physical memory. Linux: `PAGE_OFFSET`.
    DirectMap,
    /// `vmalloc` and `ioremap`. Linux: `VMALLOC_START`.
    Vmalloc,
    /// Page descriptors. Linux: `VMEMMAP_START`.
    Vmemmap,
    /// One shadow byte for eight bytes of the kernel half.
    KasanShadow,
    /// What each CPU needs to enter the kernel.
    CpuEntryArea,
    /// Stacks for the return to 16-bit code.
    EspFixup,
    /// Firmware's run-time services.
    Efi,
    /// The kernel image. Linux: `__START_KERNEL_map`.
    KernelText,
    /// Loaded modules.
    Modules,
    /// Pages whose address is fixed when the kernel is built.
    Fixmap,
    /// The page that old programs call for the time.
    Vsyscall,
    /// Nothing.
    Hole,
}

/// A region: its first and last address, both included, as the last region ends where addresses end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// What it is for.
    pub kind: RegionKind,
    /// The first address.
    pub first: VirtAddr,
    /// The last address.
    pub last: VirtAddr,
}

impl Region {
    /// The addresses, half-open; the last page of the address space is left out, as its end has no number.
    #[must_use]
    pub const fn range(&self) -> Range<VirtAddr> {
        match self.last.as_u64().checked_add(1) {
            Some(end) => self.first..VirtAddr::new(end),
            None => self.first..self.last.align_down(PAGE_SIZE as u64),
        }
    }

    /// How many bytes it has, less one: so that the whole address space has a size too.
    #[must_use]
    pub const fn size_minus_one(&self) -> u64 {
        self.last.as_u64() - self.first.as_u64()
    }

    /// Whether `va` lies in it.
    #[must_use]
    pub const fn contains(&self, va: VirtAddr) -> bool {
        self.first.as_u64() <= va.as_u64() && va.as_u64() <= self.last.as_u64()
    }
}

/// The whole address space, region by region, upwards and without gaps. Prints as a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// How many levels the tables have.
    pub levels: Levels,
    regions: &'static [Region],
}

/// What starts where; it ends where the next starts. Below, the two layouts differ.
const LOW_FOUR: [(RegionKind, u64); 11] = [
    (User, 0),
    (NonCanonical, 0x0000_8000_0000_0000),
    (GuardHole, 0xffff_8000_0000_0000),
    (LdtRemap, 0xffff_8800_0000_0000),
    (DirectMap, 0xffff_8880_0000_0000),
    (Hole, 0xffff_c880_0000_0000),
    (Vmalloc, 0xffff_c900_0000_0000),
    (Hole, 0xffff_e900_0000_0000),
    (Vmemmap, 0xffff_ea00_0000_0000),
    (Hole, 0xffff_eb00_0000_0000),
    (KasanShadow, 0xffff_ec00_0000_0000),
];

const LOW_FIVE: [(RegionKind, u64); 11] = [
    (User, 0),
    (NonCanonical, 0x0100_0000_0000_0000),
    (GuardHole, 0xff00_0000_0000_0000),
    (LdtRemap, 0xff10_0000_0000_0000),
    (DirectMap, 0xff11_0000_0000_0000),
    (Hole, 0xff91_0000_0000_0000),
    (Vmalloc, 0xffa0_0000_0000_0000),
    (Hole, 0xffd2_0000_0000_0000),
    (Vmemmap, 0xffd4_0000_0000_0000),
    (Hole, 0xffd6_0000_0000_0000),
    (KasanShadow, 0xffdf_0000_0000_0000),
];

const HIGH: [(RegionKind, u64); 13] = [
    (Hole, 0xffff_fc00_0000_0000),
    (CpuEntryArea, 0xffff_fe00_0000_0000),
    (Hole, 0xffff_fe80_0000_0000),
    (EspFixup, 0xffff_ff00_0000_0000),
    (Hole, 0xffff_ff80_0000_0000),
    (Efi, 0xffff_ffef_0000_0000),
    (Hole, 0xffff_ffff_0000_0000),
    (KernelText, 0xffff_ffff_8000_0000),
    (Modules, 0xffff_ffff_a000_0000),
    (Hole, 0xffff_ffff_ff00_0000),
    (Fixmap, 0xffff_ffff_ff40_0000),
    (Vsyscall, 0xffff_ffff_ff60_0000),
    (Hole, 0xffff_ffff_ff60_1000),
];

const FOUR: [Region; 24] = regions(&LOW_FOUR);
const FIVE: [Region; 24] = regions(&LOW_FIVE);

const _: () = assert!(halves_are_canonical(&FOUR, Levels::Four));
const _: () = assert!(halves_are_canonical(&FIVE, Levels::Five));

/// The rows of `low` and of [`HIGH`] as regions: everything from 0 to the last address, once.
const fn regions<const NR_LOW: usize, const NR: usize>(
    low: &[(RegionKind, u64); NR_LOW],
) -> [Region; NR] {
    assert!(low[0].1 == 0 && NR == NR_LOW + HIGH.len());
    let mut regions = [Region {
        kind: Hole,
        first: VirtAddr::ZERO,
        last: VirtAddr::new(u64::MAX),
    }; NR];
    let mut nth = NR;
    let mut end = None;
    while nth > 0 {
        nth -= 1;
        let (kind, first) = if nth < NR_LOW {
            low[nth]
        } else {
            HIGH[nth - NR_LOW]
        };
        let last = match end {
            Some(end) => end - 1,
            None => u64::MAX,
        };
        assert!(first <= last, "upwards");
        regions[nth] = Region {
            kind,
            first: VirtAddr::new(first),
            last: VirtAddr::new(last),
        };
        end = Some(first);
    }
    regions
}

/// Whether exactly the region that says so holds the addresses that are not canonical.
const fn halves_are_canonical(regions: &[Region], levels: Levels) -> bool {
    let mut i = 0;
    while i < regions.len() {
        let region = &regions[i];
        let bad = matches!(region.kind, RegionKind::NonCanonical);
        if region.first.is_canonical(levels.va_bits()) == bad
            || region.last.is_canonical(levels.va_bits()) == bad
            || (bad && region.first.as_u64() != levels.user_end().as_u64())
            || (bad && region.last.as_u64() != levels.kernel_start().as_u64() - 1)
        {
            return false;
        }
        i += 1;
    }
    true
}

impl Layout {
    /// 48-bit addresses.
    pub const FOUR: Self = Self {
        levels: Levels::Four,
        regions: &FOUR,
    };

    /// 57-bit addresses.
    pub const FIVE: Self = Self {
        levels: Levels::Five,
        regions: &FIVE,
    };

    /// The layout for tables of `levels` levels.
    #[must_use]
    pub const fn for_levels(levels: Levels) -> Self {
        match levels {
            Levels::Four => Self::FOUR,
            Levels::Five => Self::FIVE,
        }
    }

    /// Every region, upwards.
    #[must_use]
    pub const fn regions(&self) -> &'static [Region] {
        self.regions
    }

    /// The region of this kind; of holes the lowest.
    ///
    /// # Panics
    /// Never: every kind occurs.
    #[must_use]
    pub const fn region(&self, kind: RegionKind) -> Region {
        let mut i = 0;
        while i < self.regions.len() {
            if self.regions[i].kind as u8 == kind as u8 {
                return self.regions[i];
            }
            i += 1;
        }
        panic!("every kind occurs in every layout")
    }

    /// The region that `va` lies in. Every address lies in one.
    #[must_use]
    pub fn find(&self, va: VirtAddr) -> Region {
        self.regions[self.regions.partition_point(|region| region.last < va)]
    }

    /// Where the direct map shows `phys`. Linux: `__va`.
    ///
    /// # Panics
    /// In debug builds, when the direct map does not reach that far.
    #[must_use]
    pub const fn va(&self, phys: PhysAddr) -> VirtAddr {
        let direct = self.region(RegionKind::DirectMap);
        debug_assert!(
            phys.as_u64() <= direct.size_minus_one(),
            "beyond the direct map"
        );
        VirtAddr::new(direct.first.as_u64().wrapping_add(phys.as_u64()))
    }

    /// What the direct map shows at `va`. Linux: `__pa`, for addresses of the direct map.
    ///
    /// # Panics
    /// In debug builds, when `va` is no address of the direct map.
    #[must_use]
    pub const fn pa(&self, va: VirtAddr) -> PhysAddr {
        let direct = self.region(RegionKind::DirectMap);
        debug_assert!(direct.contains(va), "no address of the direct map");
        PhysAddr::new(va.as_u64().wrapping_sub(direct.first.as_u64()))
    }

    /// As [`Layout::pa`], or `None` for any other address. Linux: `virt_addr_valid` and `__pa`.
    #[must_use]
    pub const fn checked_pa(&self, va: VirtAddr) -> Option<PhysAddr> {
        let direct = self.region(RegionKind::DirectMap);
        if direct.contains(va) {
            Some(PhysAddr::new(va.as_u64() - direct.first.as_u64()))
        } else {
            None
        }
    }

    /// The end of what programs may map: the last page below the hole is never given out, as a system call on it would
    /// return to an address that is not canonical. Linux: `TASK_SIZE_MAX`.
    #[must_use]
    pub const fn task_size(&self) -> VirtAddr {
        VirtAddr::new(self.levels.user_end().as_u64() - PAGE_SIZE as u64)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in self.regions {
            let (size, unit) = human(region.size_minus_one());
            writeln!(
                f,
                "{:016x}-{:016x} {size:>6} {unit} {}",
                region.first.as_u64(),
                region.last.as_u64(),
                region.kind
            )?;
        }
        Ok(())
    }
}

/// A size in the largest unit of which it is a multiple, from its last byte's offset.
fn human(size_minus_one: u64) -> (u128, &'static str) {
    let size = u128::from(size_minus_one) + 1;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let fits = units
        .iter()
        .enumerate()
        .rev()
        .find(|(n, _)| size % (1 << (10 * n)) == 0);
    fits.map_or((size, "B"), |(n, unit)| (size >> (10 * n), *unit))
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user space",
            Self::NonCanonical => "non-canonical",
            Self::GuardHole => "guard hole, hypervisor",
            Self::LdtRemap => "LDT remap",
            Self::DirectMap => "direct map",
            Self::Vmalloc => "vmalloc/ioremap",
            Self::Vmemmap => "vmemmap",
            Self::KasanShadow => "KASAN shadow",
            Self::CpuEntryArea => "cpu_entry_area",
            Self::EspFixup => "%esp fixup stacks",
            Self::Efi => "EFI runtime services",
            Self::KernelText => "kernel text",
            Self::Modules => "modules",
            Self::Fixmap => "fixmap",
            Self::Vsyscall => "vsyscall",
            Self::Hole => "hole",
        })
    }
}

//! What an allocation may do, and where it may look.

use core::fmt;

use bitflags::bitflags;

use crate::zone_type::{MigrateType, ZoneType};

bitflags! {
    /// "Get free pages" flags: which zones, and how hard to try. Linux: `gfp_t`, include/linux/gfp_types.h.
    ///
    /// The bit values are those of Linux 6.1, so that a trace reads the same.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Gfp: u32 {
        /// Only memory below 16 MiB. Linux: `__GFP_DMA`.
        const DMA = 0x01;
        /// May lie outside the permanent map. Linux: `__GFP_HIGHMEM`.
        const HIGHMEM = 0x02;
        /// Only memory below 4 GiB. Linux: `__GFP_DMA32`.
        const DMA32 = 0x04;
        /// The page can be migrated. Linux: `__GFP_MOVABLE`.
        const MOVABLE_PAGE = 0x08;
        /// The page can be reclaimed by a shrinker. Linux: `__GFP_RECLAIMABLE`.
        const RECLAIMABLE = 0x10;
        /// May use the emergency reserves. Linux: `__GFP_HIGH`.
        const HIGH = 0x20;
        /// May start physical input and output. Linux: `__GFP_IO`.
        const IO = 0x40;
        /// May call down into a file system. Linux: `__GFP_FS`.
        const FS = 0x80;
        /// The page is returned filled with zeros. Linux: `__GFP_ZERO`.
        const ZERO = 0x100;
        /// The caller cannot wait and has no other way. Linux: `__GFP_ATOMIC`.
        const ATOMIC_CALLER = 0x200;
        /// The caller may wait while pages are reclaimed. Linux: `__GFP_DIRECT_RECLAIM`.
        const DIRECT_RECLAIM = 0x400;
        /// Wakes kswapd when the zone runs low. Linux: `__GFP_KSWAPD_RECLAIM`.
        const KSWAPD_RECLAIM = 0x800;
        /// The page will be written soon. Linux: `__GFP_WRITE`.
        const WRITE = 0x1000;
        /// No report when it fails. Linux: `__GFP_NOWARN`.
        const NOWARN = 0x2000;
        /// Tries hard, may fail in the end. Linux: `__GFP_RETRY_MAYFAIL`.
        const RETRY_MAYFAIL = 0x4000;
        /// Never fails. Linux: `__GFP_NOFAIL`.
        const NOFAIL = 0x8000;
        /// Gives up early. Linux: `__GFP_NORETRY`.
        const NORETRY = 0x1_0000;
        /// May use all reserves: the request will free memory soon. Linux: `__GFP_MEMALLOC`.
        const MEMALLOC = 0x2_0000;
        /// One compound page, with a head and tails. Linux: `__GFP_COMP`.
        const COMP = 0x4_0000;
        /// May not use reserves. Linux: `__GFP_NOMEMALLOC`.
        const NOMEMALLOC = 0x8_0000;
        /// Only nodes that the task is allowed. Linux: `__GFP_HARDWALL`.
        const HARDWALL = 0x10_0000;
        /// Only the node asked for. Linux: `__GFP_THISNODE`.
        const THISNODE = 0x20_0000;
        /// Counted to the caller's account. Linux: `__GFP_ACCOUNT`.
        const ACCOUNT = 0x40_0000;
        /// Clears memory tags with the page; there are none on x86. Linux: `__GFP_ZEROTAGS`.
        const ZEROTAGS = 0x80_0000;

        /// Both kinds of reclaim. Linux: `__GFP_RECLAIM`; `__GFP_WAIT` of old.
        const RECLAIM = Self::DIRECT_RECLAIM.bits() | Self::KSWAPD_RECLAIM.bits();
        /// For interrupts and under locks: never waits, may use reserves. Linux: `GFP_ATOMIC`.
        const ATOMIC = Self::HIGH.bits() | Self::ATOMIC_CALLER.bits() | Self::KSWAPD_RECLAIM.bits();
        /// Never waits, uses no reserve. Linux: `GFP_NOWAIT`.
        const NOWAIT = Self::KSWAPD_RECLAIM.bits();
        /// May wait, starts no input or output. Linux: `GFP_NOIO`.
        const NOIO = Self::RECLAIM.bits();
        /// May wait, calls no file system. Linux: `GFP_NOFS`.
        const NOFS = Self::RECLAIM.bits() | Self::IO.bits();
        /// The usual request of kernel code that may sleep. Linux: `GFP_KERNEL`.
        const KERNEL = Self::RECLAIM.bits() | Self::IO.bits() | Self::FS.bits();
        /// For a user process, reached by the kernel too. Linux: `GFP_USER`.
        const USER = Self::KERNEL.bits() | Self::HARDWALL.bits();
        /// For a user process. Linux: `GFP_HIGHUSER`.
        const HIGHUSER = Self::USER.bits() | Self::HIGHMEM.bits();
        /// For a user process, migratable. Linux: `GFP_HIGHUSER_MOVABLE`.
        const HIGHUSER_MOVABLE = Self::HIGHUSER.bits() | Self::MOVABLE_PAGE.bits();
        /// Kernel memory that is counted to the caller's account. Linux: `GFP_KERNEL_ACCOUNT`.
        const KERNEL_ACCOUNT = Self::KERNEL.bits() | Self::ACCOUNT.bits();
        /// A huge page if there is one at once. Linux: `GFP_TRANSHUGE_LIGHT`.
        const TRANSHUGE_LIGHT = Self::HIGHUSER_MOVABLE.bits() & !Self::RECLAIM.bits()
            | Self::COMP.bits() | Self::NOMEMALLOC.bits() | Self::NOWARN.bits();
        /// A huge page that is worth some waiting. Linux: `GFP_TRANSHUGE`.
        const TRANSHUGE = Self::TRANSHUGE_LIGHT.bits() | Self::DIRECT_RECLAIM.bits();
    }
}

/// Names of old. They print by today's names.
impl Gfp {
    /// May wait: today's two kinds of reclaim. Linux before 4.4: `__GFP_WAIT`.
    pub const WAIT: Self = Self::RECLAIM;
    /// A page that no CPU has in its cache. It has asked for nothing since Linux 4.15 and is no bit any more; Linux before:
    /// `__GFP_COLD`.
    pub const COLD: Self = Self::empty();
    /// Tries again. Linux before 4.13: `__GFP_REPEAT`.
    pub const REPEAT: Self = Self::RETRY_MAYFAIL;
}

impl Gfp {
    /// Whether the caller may sleep. Linux: `gfpflags_allow_blocking`.
    #[must_use]
    pub const fn may_block(self) -> bool {
        self.contains(Self::DIRECT_RECLAIM)
    }

    /// The highest zone that may serve the request. Linux: `gfp_zone`, include/linux/gfp.h.
    ///
    /// Of several zone flags the most restrictive counts. `HIGHMEM` with `MOVABLE_PAGE` reaches the movable zone;
    /// zones that a machine lacks are skipped by the zonelist.
    #[must_use]
    #[inline(always)]
    pub const fn zone(self) -> ZoneType {
        ZONES[(self.bits() & ZONE_BITS) as usize]
    }

    const fn find_zone(self) -> ZoneType {
        if self.contains(Self::DMA) {
            ZoneType::Dma
        } else if self.contains(Self::DMA32) {
            ZoneType::Dma32
        } else if !self.contains(Self::HIGHMEM) {
            ZoneType::Normal
        } else if self.contains(Self::MOVABLE_PAGE) {
            ZoneType::Movable
        } else {
            ZoneType::HighMem
        }
    }

    /// The free lists to look at first. Linux: `gfp_migratetype`.
    #[must_use]
    #[inline(always)]
    pub const fn migrate_type(self) -> MigrateType {
        TYPES[((self.bits() / Self::MOVABLE_PAGE.bits()) & 0b11) as usize]
    }

    const fn find_type(self) -> MigrateType {
        if self.contains(Self::MOVABLE_PAGE) {
            MigrateType::Movable
        } else if self.contains(Self::RECLAIMABLE) {
            MigrateType::Reclaimable
        } else {
            MigrateType::Unmovable
        }
    }
}

/// Bits that [`Gfp::zone`] looks at.
const ZONE_BITS: u32 = 0b1111;
const _: () = assert!(
    ZONE_BITS
        == Gfp::DMA.bits() | Gfp::HIGHMEM.bits() | Gfp::DMA32.bits() | Gfp::MOVABLE_PAGE.bits()
);
const _: () = assert!(Gfp::RECLAIMABLE.bits() == 2 * Gfp::MOVABLE_PAGE.bits());

/// Of all such bits: where flags are not known when it is compiled, one load is four jumps. Linux: `GFP_ZONE_TABLE`.
const ZONES: [ZoneType; ZONE_BITS as usize + 1] = {
    let mut zones = [ZoneType::Normal; ZONE_BITS as usize + 1];
    let mut bits = 0;
    while bits <= ZONE_BITS {
        zones[bits as usize] = Gfp::from_bits_retain(bits).find_zone();
        bits += 1;
    }
    zones
};

/// As [`ZONES`], of the bits `MOVABLE_PAGE` and `RECLAIMABLE`.
const TYPES: [MigrateType; 4] = {
    let mut types = [MigrateType::Unmovable; 4];
    let mut bits = 0;
    while bits < 4 {
        types[bits as usize] = Gfp::from_bits_retain(bits * Gfp::MOVABLE_PAGE.bits()).find_type();
        bits += 1;
    }
    types
};

/// As in a trace or a report: `GFP_KERNEL|__GFP_ZERO`. No flag prints nothing, bits without a name print in hexadecimal.
///
/// Linux: `%pGg`, `__def_gfpflag_names`, include/trace/events/mmflags.h.
impl fmt::Display for Gfp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = *self;
        for (flags, name) in NAMES {
            if left.is_empty() {
                return Ok(());
            }
            if !left.contains(flags) {
                continue;
            }
            left = left.difference(flags);
            f.write_str(name)?;
            if !left.is_empty() {
                f.write_str("|")?;
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            write!(f, "{:#x}", left.bits())
        }
    }
}

/// Names in the order in which flags are looked for: the larger sets first.
const NAMES: [(Gfp, &str); 36] = [
    (Gfp::TRANSHUGE, "GFP_TRANSHUGE"),
    (Gfp::TRANSHUGE_LIGHT, "GFP_TRANSHUGE_LIGHT"),
    (Gfp::HIGHUSER_MOVABLE, "GFP_HIGHUSER_MOVABLE"),
    (Gfp::HIGHUSER, "GFP_HIGHUSER"),
    (Gfp::USER, "GFP_USER"),
    (Gfp::KERNEL_ACCOUNT, "GFP_KERNEL_ACCOUNT"),
    (Gfp::KERNEL, "GFP_KERNEL"),
    (Gfp::NOFS, "GFP_NOFS"),
    (Gfp::ATOMIC, "GFP_ATOMIC"),
    (Gfp::NOIO, "GFP_NOIO"),
    (Gfp::NOWAIT, "GFP_NOWAIT"),
    (Gfp::DMA, "GFP_DMA"),
    (Gfp::HIGHMEM, "__GFP_HIGHMEM"),
    (Gfp::DMA32, "GFP_DMA32"),
    (Gfp::HIGH, "__GFP_HIGH"),
    (Gfp::ATOMIC_CALLER, "__GFP_ATOMIC"),
    (Gfp::IO, "__GFP_IO"),
    (Gfp::FS, "__GFP_FS"),
    (Gfp::NOWARN, "__GFP_NOWARN"),
    (Gfp::RETRY_MAYFAIL, "__GFP_RETRY_MAYFAIL"),
    (Gfp::NOFAIL, "__GFP_NOFAIL"),
    (Gfp::NORETRY, "__GFP_NORETRY"),
    (Gfp::COMP, "__GFP_COMP"),
    (Gfp::ZERO, "__GFP_ZERO"),
    (Gfp::NOMEMALLOC, "__GFP_NOMEMALLOC"),
    (Gfp::MEMALLOC, "__GFP_MEMALLOC"),
    (Gfp::HARDWALL, "__GFP_HARDWALL"),
    (Gfp::THISNODE, "__GFP_THISNODE"),
    (Gfp::RECLAIMABLE, "__GFP_RECLAIMABLE"),
    (Gfp::MOVABLE_PAGE, "__GFP_MOVABLE"),
    (Gfp::ACCOUNT, "__GFP_ACCOUNT"),
    (Gfp::WRITE, "__GFP_WRITE"),
    (Gfp::RECLAIM, "__GFP_RECLAIM"),
    (Gfp::DIRECT_RECLAIM, "__GFP_DIRECT_RECLAIM"),
    (Gfp::KSWAPD_RECLAIM, "__GFP_KSWAPD_RECLAIM"),
    (Gfp::ZEROTAGS, "__GFP_ZEROTAGS"),
];

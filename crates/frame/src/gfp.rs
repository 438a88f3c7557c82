//! What an allocation may do, and where it may look.

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
    }
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
    pub const fn zone(self) -> ZoneType {
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
    pub const fn migrate_type(self) -> MigrateType {
        if self.contains(Self::MOVABLE_PAGE) {
            MigrateType::Movable
        } else if self.contains(Self::RECLAIMABLE) {
            MigrateType::Reclaimable
        } else {
            MigrateType::Unmovable
        }
    }
}

//! What Linux counts of memory: by its names and in the order of its texts (Debian's 6.1 for x86-64).
//!
//! Words only: who counts is `kmm_zone`, who writes the texts is `kmm_procfs`.

use core::ops::{Index, IndexMut};

use crate::ZoneType;

macro_rules! counters {
    ($(#[$doc:meta])* $item:ident, $(#[$set_doc:meta])* $set:ident { $($variant:ident $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[expect(missing_docs, reason = "the names are Linux's; each is told by `name`")]
        #[repr(u8)]
        pub enum $item { $($variant,)* }

        impl $item {
            /// How many there are.
            pub const COUNT: usize = [$(Self::$variant,)*].len();
            /// Every counter, in the order of the text.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];

            /// The name in the text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The counter as an index.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        $(#[$set_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $set([u64; $item::COUNT]);

        impl $set {
            /// All at 0.
            pub const ZERO: Self = Self([0; $item::COUNT]);

            /// Each counter with what `value` says of it.
            #[must_use]
            pub fn from_fn(value: impl FnMut($item) -> u64) -> Self {
                Self($item::ALL.map(value))
            }

            /// Each name with its value, in the order of the text.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                $item::ALL.into_iter().map(|item| (item.name(), self[item]))
            }

            /// Adds each value of `other`.
            pub fn add(&mut self, other: &Self) {
                for (sum, value) in self.0.iter_mut().zip(other.0) {
                    *sum += value;
                }
            }
        }

        impl Default for $set {
            fn default() -> Self {
                Self::ZERO
            }
        }

        impl Index<$item> for $set {
            type Output = u64;
            fn index(&self, item: $item) -> &u64 {
                &self.0[item as usize]
            }
        }

        impl IndexMut<$item> for $set {
            fn index_mut(&mut self, item: $item) -> &mut u64 {
                &mut self.0[item as usize]
            }
        }
    };
}

counters! {
    /// A count of a zone, in pages. Linux: `enum zone_stat_item`.
    ZoneItem,
    /// The counts of a zone.
    ZoneCounts {
        FreePages "nr_free_pages",
        InactiveAnon "nr_zone_inactive_anon",
        ActiveAnon "nr_zone_active_anon",
        InactiveFile "nr_zone_inactive_file",
        ActiveFile "nr_zone_active_file",
        Unevictable "nr_zone_unevictable",
        WritePending "nr_zone_write_pending",
        Mlock "nr_mlock",
        Bounce "nr_bounce",
        Zspages "nr_zspages",
        FreeCma "nr_free_cma",
    }
}

counters! {
    /// An allocation count of a zone. Linux: `enum numa_stat_item`.
    NumaItem,
    /// The allocation counts of a zone.
    NumaCounts {
        Hit "numa_hit",
        Miss "numa_miss",
        Foreign "numa_foreign",
        Interleave "numa_interleave",
        Local "numa_local",
        Other "numa_other",
    }
}

counters! {
    /// A count of a node, mostly in pages. Linux: `enum node_stat_item`.
    NodeItem,
    /// The counts of a node.
    NodeCounts {
        InactiveAnon "nr_inactive_anon",
        ActiveAnon "nr_active_anon",
        InactiveFile "nr_inactive_file",
        ActiveFile "nr_active_file",
        Unevictable "nr_unevictable",
        SlabReclaimable "nr_slab_reclaimable",
        SlabUnreclaimable "nr_slab_unreclaimable",
        IsolatedAnon "nr_isolated_anon",
        IsolatedFile "nr_isolated_file",
        WorkingsetNodes "workingset_nodes",
        WorkingsetRefaultAnon "workingset_refault_anon",
        WorkingsetRefaultFile "workingset_refault_file",
        WorkingsetActivateAnon "workingset_activate_anon",
        WorkingsetActivateFile "workingset_activate_file",
        WorkingsetRestoreAnon "workingset_restore_anon",
        WorkingsetRestoreFile "workingset_restore_file",
        WorkingsetNodereclaim "workingset_nodereclaim",
        AnonPages "nr_anon_pages",
        Mapped "nr_mapped",
        FilePages "nr_file_pages",
        Dirty "nr_dirty",
        Writeback "nr_writeback",
        WritebackTemp "nr_writeback_temp",
        Shmem "nr_shmem",
        ShmemHugepages "nr_shmem_hugepages",
        ShmemPmdmapped "nr_shmem_pmdmapped",
        FileHugepages "nr_file_hugepages",
        FilePmdmapped "nr_file_pmdmapped",
        AnonTransparentHugepages "nr_anon_transparent_hugepages",
        VmscanWrite "nr_vmscan_write",
        VmscanImmediateReclaim "nr_vmscan_immediate_reclaim",
        Dirtied "nr_dirtied",
        Written "nr_written",
        ThrottledWritten "nr_throttled_written",
        KernelMiscReclaimable "nr_kernel_misc_reclaimable",
        FollPinAcquired "nr_foll_pin_acquired",
        FollPinReleased "nr_foll_pin_released",
        KernelStack "nr_kernel_stack",
        PageTablePages "nr_page_table_pages",
        SecPageTablePages "nr_sec_page_table_pages",
        Swapcached "nr_swapcached",
        PgpromoteSuccess "pgpromote_success",
        PgpromoteCandidate "pgpromote_candidate",
    }
}

counters! {
    /// Something that happens. Linux: `enum vm_event_item`.
    VmEvent,
    /// How often each thing happened.
    VmEventCounts {
        Pgpgin "pgpgin",
        Pgpgout "pgpgout",
        Pswpin "pswpin",
        Pswpout "pswpout",
        PgallocDma "pgalloc_dma",
        PgallocDma32 "pgalloc_dma32",
        PgallocNormal "pgalloc_normal",
        PgallocMovable "pgalloc_movable",
        PgallocDevice "pgalloc_device",
        AllocstallDma "allocstall_dma",
        AllocstallDma32 "allocstall_dma32",
        AllocstallNormal "allocstall_normal",
        AllocstallMovable "allocstall_movable",
        AllocstallDevice "allocstall_device",
        PgskipDma "pgskip_dma",
        PgskipDma32 "pgskip_dma32",
        PgskipNormal "pgskip_normal",
        PgskipMovable "pgskip_movable",
        PgskipDevice "pgskip_device",
        Pgfree "pgfree",
        Pgactivate "pgactivate",
        Pgdeactivate "pgdeactivate",
        Pglazyfree "pglazyfree",
        Pgfault "pgfault",
        Pgmajfault "pgmajfault",
        Pglazyfreed "pglazyfreed",
        Pgrefill "pgrefill",
        Pgreuse "pgreuse",
        PgstealKswapd "pgsteal_kswapd",
        PgstealDirect "pgsteal_direct",
        PgdemoteKswapd "pgdemote_kswapd",
        PgdemoteDirect "pgdemote_direct",
        PgscanKswapd "pgscan_kswapd",
        PgscanDirect "pgscan_direct",
        PgscanDirectThrottle "pgscan_direct_throttle",
        PgscanAnon "pgscan_anon",
        PgscanFile "pgscan_file",
        PgstealAnon "pgsteal_anon",
        PgstealFile "pgsteal_file",
        ZoneReclaimFailed "zone_reclaim_failed",
        Pginodesteal "pginodesteal",
        SlabsScanned "slabs_scanned",
        KswapdInodesteal "kswapd_inodesteal",
        KswapdLowWmarkHitQuickly "kswapd_low_wmark_hit_quickly",
        KswapdHighWmarkHitQuickly "kswapd_high_wmark_hit_quickly",
        Pageoutrun "pageoutrun",
        Pgrotated "pgrotated",
        DropPagecache "drop_pagecache",
        DropSlab "drop_slab",
        OomKill "oom_kill",
        NumaPteUpdates "numa_pte_updates",
        NumaHugePteUpdates "numa_huge_pte_updates",
        NumaHintFaults "numa_hint_faults",
        NumaHintFaultsLocal "numa_hint_faults_local",
        NumaPagesMigrated "numa_pages_migrated",
        PgmigrateSuccess "pgmigrate_success",
        PgmigrateFail "pgmigrate_fail",
        ThpMigrationSuccess "thp_migration_success",
        ThpMigrationFail "thp_migration_fail",
        ThpMigrationSplit "thp_migration_split",
        CompactMigrateScanned "compact_migrate_scanned",
        CompactFreeScanned "compact_free_scanned",
        CompactIsolated "compact_isolated",
        CompactStall "compact_stall",
        CompactFail "compact_fail",
        CompactSuccess "compact_success",
        CompactDaemonWake "compact_daemon_wake",
        CompactDaemonMigrateScanned "compact_daemon_migrate_scanned",
        CompactDaemonFreeScanned "compact_daemon_free_scanned",
        HtlbBuddyAllocSuccess "htlb_buddy_alloc_success",
        HtlbBuddyAllocFail "htlb_buddy_alloc_fail",
        UnevictablePgsCulled "unevictable_pgs_culled",
        UnevictablePgsScanned "unevictable_pgs_scanned",
        UnevictablePgsRescued "unevictable_pgs_rescued",
        UnevictablePgsMlocked "unevictable_pgs_mlocked",
        UnevictablePgsMunlocked "unevictable_pgs_munlocked",
        UnevictablePgsCleared "unevictable_pgs_cleared",
        UnevictablePgsStranded "unevictable_pgs_stranded",
        ThpFaultAlloc "thp_fault_alloc",
        ThpFaultFallback "thp_fault_fallback",
        ThpFaultFallbackCharge "thp_fault_fallback_charge",
        ThpCollapseAlloc "thp_collapse_alloc",
        ThpCollapseAllocFailed "thp_collapse_alloc_failed",
        ThpFileAlloc "thp_file_alloc",
        ThpFileFallback "thp_file_fallback",
        ThpFileFallbackCharge "thp_file_fallback_charge",
        ThpFileMapped "thp_file_mapped",
        ThpSplitPage "thp_split_page",
        ThpSplitPageFailed "thp_split_page_failed",
        ThpDeferredSplitPage "thp_deferred_split_page",
        ThpSplitPmd "thp_split_pmd",
        ThpScanExceedNonePte "thp_scan_exceed_none_pte",
        ThpScanExceedSwapPte "thp_scan_exceed_swap_pte",
        ThpScanExceedSharePte "thp_scan_exceed_share_pte",
        ThpSplitPud "thp_split_pud",
        ThpZeroPageAlloc "thp_zero_page_alloc",
        ThpZeroPageAllocFailed "thp_zero_page_alloc_failed",
        ThpSwpout "thp_swpout",
        ThpSwpoutFallback "thp_swpout_fallback",
        BalloonInflate "balloon_inflate",
        BalloonDeflate "balloon_deflate",
        BalloonMigrate "balloon_migrate",
        SwapRa "swap_ra",
        SwapRaHit "swap_ra_hit",
        KsmSwpinCopy "ksm_swpin_copy",
        CowKsm "cow_ksm",
        DirectMapLevel2Splits "direct_map_level2_splits",
        DirectMapLevel3Splits "direct_map_level3_splits",
    }
}

impl VmEvent {
    /// Pages of a zone handed out. Linux: `__count_zid_vm_events(PGALLOC, ...)`.
    #[must_use]
    pub const fn pgalloc(zone: ZoneType) -> Self {
        match zone {
            ZoneType::Dma => Self::PgallocDma,
            ZoneType::Dma32 => Self::PgallocDma32,
            ZoneType::Normal | ZoneType::HighMem => Self::PgallocNormal,
            ZoneType::Movable => Self::PgallocMovable,
            ZoneType::Device => Self::PgallocDevice,
        }
    }

    /// A request that `zone` could serve at best waited for reclaim. Linux: `__count_zid_vm_events(ALLOCSTALL, ...)`.
    #[must_use]
    pub const fn allocstall(zone: ZoneType) -> Self {
        match zone {
            ZoneType::Dma => Self::AllocstallDma,
            ZoneType::Dma32 => Self::AllocstallDma32,
            ZoneType::Normal | ZoneType::HighMem => Self::AllocstallNormal,
            ZoneType::Movable => Self::AllocstallMovable,
            ZoneType::Device => Self::AllocstallDevice,
        }
    }

    /// A page of `zone` that reclaim passed over. Linux: `__count_zid_vm_events(PGSCAN_SKIP, ...)`.
    #[must_use]
    pub const fn pgskip(zone: ZoneType) -> Self {
        match zone {
            ZoneType::Dma => Self::PgskipDma,
            ZoneType::Dma32 => Self::PgskipDma32,
            ZoneType::Normal | ZoneType::HighMem => Self::PgskipNormal,
            ZoneType::Movable => Self::PgskipMovable,
            ZoneType::Device => Self::PgskipDevice,
        }
    }
}

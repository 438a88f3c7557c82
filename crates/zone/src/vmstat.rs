//! What pages of a zone are used for, by count. Linux: `zone::vm_stat`, mm/vmstat.c.

use core::ops::Index;
use core::sync::atomic::{AtomicIsize, Ordering::Relaxed};

use crate::{LruList, Zone};

/// A count of a zone, in pages. Linux: `enum zone_stat_item`, without `NR_FREE_PAGES`, which is [`Zone::nr_free_pages`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ZoneItem {
    /// On the list [`LruList::InactiveAnon`]. Linux: `NR_ZONE_INACTIVE_ANON`.
    InactiveAnon = 0,
    /// On the list [`LruList::ActiveAnon`]. Linux: `NR_ZONE_ACTIVE_ANON`.
    ActiveAnon = 1,
    /// On the list [`LruList::InactiveFile`]. Linux: `NR_ZONE_INACTIVE_FILE`.
    InactiveFile = 2,
    /// On the list [`LruList::ActiveFile`]. Linux: `NR_ZONE_ACTIVE_FILE`.
    ActiveFile = 3,
    /// On the list [`LruList::Unevictable`]. Linux: `NR_ZONE_UNEVICTABLE`.
    Unevictable = 4,
    /// Dirty or being written back. Linux: `NR_ZONE_WRITE_PENDING`.
    WritePending = 5,
    /// Locked in memory by programs. Linux: `NR_MLOCK`.
    Mlock = 6,
    /// Bounce buffers. Linux: `NR_BOUNCE`.
    Bounce = 7,
    /// Compressed pages. Linux: `NR_ZSPAGES`.
    Zspages = 8,
    /// Free pages of contiguous areas. Linux: `NR_FREE_CMA_PAGES`.
    FreeCma = 9,
}

impl ZoneItem {
    /// How many items there are.
    pub const COUNT: usize = 10;
    /// Every item, in the order of /proc/zoneinfo.
    pub const ALL: [Self; Self::COUNT] = [
        Self::InactiveAnon,
        Self::ActiveAnon,
        Self::InactiveFile,
        Self::ActiveFile,
        Self::Unevictable,
        Self::WritePending,
        Self::Mlock,
        Self::Bounce,
        Self::Zspages,
        Self::FreeCma,
    ];

    /// The name in /proc/zoneinfo.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InactiveAnon => "nr_zone_inactive_anon",
            Self::ActiveAnon => "nr_zone_active_anon",
            Self::InactiveFile => "nr_zone_inactive_file",
            Self::ActiveFile => "nr_zone_active_file",
            Self::Unevictable => "nr_zone_unevictable",
            Self::WritePending => "nr_zone_write_pending",
            Self::Mlock => "nr_mlock",
            Self::Bounce => "nr_bounce",
            Self::Zspages => "nr_zspages",
            Self::FreeCma => "nr_free_cma",
        }
    }
}

impl From<LruList> for ZoneItem {
    fn from(list: LruList) -> Self {
        match list {
            LruList::InactiveAnon => Self::InactiveAnon,
            LruList::ActiveAnon => Self::ActiveAnon,
            LruList::InactiveFile => Self::InactiveFile,
            LruList::ActiveFile => Self::ActiveFile,
            LruList::Unevictable => Self::Unevictable,
        }
    }
}

/// The counts of a zone at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZoneCounts([usize; ZoneItem::COUNT]);

impl Index<ZoneItem> for ZoneCounts {
    type Output = usize;
    fn index(&self, item: ZoneItem) -> &usize {
        &self.0[item as usize]
    }
}

/// The counts of a zone as they change.
#[derive(Debug, Default)]
pub(crate) struct ZoneCounters([AtomicIsize; ZoneItem::COUNT]);

impl ZoneCounters {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicIsize::new(0) }; ZoneItem::COUNT])
    }
}

impl<L> Zone<L> {
    /// A count as it is now. Two changes that belong together may be seen apart; never less than 0.
    /// Linux: `zone_page_state`.
    #[must_use]
    pub fn count(&self, item: ZoneItem) -> usize {
        let count = self.counters().0[item as usize].load(Relaxed);
        usize::try_from(count).unwrap_or(0)
    }

    /// All counts as they are now.
    #[must_use]
    pub fn counts(&self) -> ZoneCounts {
        ZoneCounts(ZoneItem::ALL.map(|item| self.count(item)))
    }

    /// Adds pages to a count, or takes them away. Those of the LRU lists are kept by [`crate::Lruvec`], nobody else's to
    /// change. Linux: `mod_zone_page_state`.
    ///
    /// # Context
    /// Does not sleep. From any context and CPU.
    pub fn mod_count(&self, item: ZoneItem, nr_pages: isize) {
        self.counters().0[item as usize].fetch_add(nr_pages, Relaxed);
    }
}

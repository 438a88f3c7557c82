//! What an address space has in memory, and how it came there.

/// Counters of one address space. Linux: `mm->rss_stat`, `task->min_flt`, `task->maj_flt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Anonymous pages mapped. Linux: `MM_ANONPAGES`.
    pub anon_pages: u64,
    /// Pages of files mapped. Linux: `MM_FILEPAGES`.
    pub file_pages: u64,
    /// Faults served from memory.
    pub min_flt: u64,
    /// Faults that had to wait for a device.
    pub maj_flt: u64,
}

impl Usage {
    /// Pages in memory. Linux: `get_mm_rss`.
    #[must_use]
    pub const fn rss_pages(&self) -> u64 {
        self.anon_pages + self.file_pages
    }
}

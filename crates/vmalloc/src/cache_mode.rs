//! Memory types of device mappings.

use kmm_pagetable_walker::PteFlags;

/// What to write to the PAT register (MSR 0x277) so that every [`CacheMode`] means what it says. Linux: `pat_init_default`.
///
/// After reset, only [`CacheMode::WriteBack`], [`CacheMode::UncachedMinus`] and [`CacheMode::Uncached`] do.
pub const PAT_MSR: u64 = 0x0407_0506_0007_0106;

/// How the CPU may cache a device mapping. Linux: `enum page_cache_mode`. SDM 3A, "Memory Cache Control".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CacheMode {
    /// As RAM: for memory on a device that behaves like it. Linux: `ioremap_cache`.
    WriteBack,
    /// Writes are gathered: frame buffers. Linux: `ioremap_wc`.
    WriteCombining,
    /// Not cached, unless MTRRs say write-combining. Linux: `ioremap`.
    UncachedMinus,
    /// Not cached: device registers. Linux: `ioremap_uc`.
    Uncached,
    /// Reads are cached, writes go through. Linux: `ioremap_wt`.
    WriteThrough,
}

impl CacheMode {
    /// The bits that select the PAT entry of this mode in [`PAT_MSR`].
    #[must_use]
    pub const fn flags(self) -> PteFlags {
        match self {
            Self::WriteBack => PteFlags::empty(),
            Self::WriteCombining => PteFlags::PWT,
            Self::UncachedMinus => PteFlags::PCD,
            Self::Uncached => PteFlags::PCD.union(PteFlags::PWT),
            Self::WriteThrough => PteFlags::CACHE,
        }
    }
}

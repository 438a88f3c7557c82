//! /proc/PID/smaps. Linux: `show_smap`, fs/proc/task_mmu.c.

use core::fmt;

use crate::maps::MapLine;

macro_rules! smaps {
    ($($(#[$doc:meta])* $field:ident $label:literal,)*) => {
        /// What an area's pages are, in KiB.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Usage {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl fmt::Display for Usage {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write_kb(f, $label, self.$field)?;)*
                Ok(())
            }
        }
    };
}

smaps! {
    /// Pages in memory.
    rss_kb "Rss:",
    /// The same, each divided by how many map it.
    pss_kb "Pss:",
    /// Of these, the dirty ones.
    pss_dirty_kb "Pss_Dirty:",
    /// Mapped by others too, not written.
    shared_clean_kb "Shared_Clean:",
    /// Mapped by others too, written.
    shared_dirty_kb "Shared_Dirty:",
    /// Mapped here only, not written.
    private_clean_kb "Private_Clean:",
    /// Mapped here only, written.
    private_dirty_kb "Private_Dirty:",
    /// Used lately.
    referenced_kb "Referenced:",
    /// Of no file.
    anonymous_kb "Anonymous:",
    /// Given up by `MADV_FREE`.
    lazy_free_kb "LazyFree:",
    /// Anonymous huge pages.
    anon_huge_pages_kb "AnonHugePages:",
    /// Huge pages of shared memory.
    shmem_pmd_mapped_kb "ShmemPmdMapped:",
    /// Huge pages of files.
    file_pmd_mapped_kb "FilePmdMapped:",
    /// Shared hugetlb pages.
    shared_hugetlb_kb "Shared_Hugetlb:",
    /// Private hugetlb pages.
    private_hugetlb_kb "Private_Hugetlb:",
    /// Swapped out.
    swap_kb "Swap:",
    /// The same, each divided by how many share it.
    swap_pss_kb "SwapPss:",
    /// Of `pss_kb`, what is locked in memory.
    locked_kb "Locked:",
}

/// Label, a space, and the value so wide that it ends in column 24.
fn write_kb(f: &mut fmt::Formatter<'_>, label: &str, kb: u64) -> fmt::Result {
    let width = 23 - label.len().max(15);
    writeln!(f, "{label:<15} {kb:>width$} kB")
}

/// One area's block of lines. `Display` is the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmapsArea<'a> {
    /// The line that /proc/PID/maps has for it.
    pub map: MapLine<'a>,
    /// The size of its pages.
    pub page_kb: u64,
    /// What they are.
    pub usage: Usage,
    /// Whether huge pages may be used.
    pub thp_eligible: bool,
    /// Its protection key.
    pub pkey: u32,
    /// Its flags, as pairs of letters: `rd`, `wr`, `ex`, `sh`, `mr`, `mw`, `me`, `ms`, `gd`, `ac`, `sd` and so on.
    pub vm_flags: &'a [&'a str],
}

impl fmt::Display for SmapsArea<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.map)?;
        write_kb(f, "Size:", (self.map.end - self.map.start) >> 10)?;
        write_kb(f, "KernelPageSize:", self.page_kb)?;
        write_kb(f, "MMUPageSize:", self.page_kb)?;
        write!(f, "{}", self.usage)?;
        writeln!(f, "THPeligible:    {}", u8::from(self.thp_eligible))?;
        writeln!(f, "ProtectionKey:  {:>8}", self.pkey)?;
        f.write_str("VmFlags: ")?;
        for flag in self.vm_flags {
            write!(f, "{flag} ")?;
        }
        f.write_str("\n")
    }
}

//! /proc/meminfo. Linux: fs/proc/meminfo.c.

use core::fmt;

macro_rules! meminfo {
    ($($(#[$doc:meta])* $field:ident $label:literal $unit:literal,)*) => {
        /// The lines of /proc/meminfo, in order. `Display` is the text.
        ///
        /// Values are in KiB, those of the counts of huge pages in pages. Which lines there are is what Debian's cloud
        /// kernel 6.1 for x86-64 shows.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Meminfo {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl fmt::Display for Meminfo {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write_line(f, $label, self.$field, $unit)?;)*
                Ok(())
            }
        }
    };
}

/// The label fills 16 columns, the value at least 8.
fn write_line(f: &mut fmt::Formatter<'_>, label: &str, value: u64, unit: &str) -> fmt::Result {
    if unit.is_empty() {
        writeln!(f, "{label:<16}   {value:>5}")
    } else {
        writeln!(f, "{label:<16}{value:>8} {unit}")
    }
}

meminfo! {
    /// What the page allocator manages.
    mem_total_kb "MemTotal:" "kB",
    /// Free pages.
    mem_free_kb "MemFree:" "kB",
    /// What programs could get without swapping, by estimate.
    mem_available_kb "MemAvailable:" "kB",
    /// Page cache of block devices.
    buffers_kb "Buffers:" "kB",
    /// Page cache of files, shared memory included.
    cached_kb "Cached:" "kB",
    /// In memory and in the swap area.
    swap_cached_kb "SwapCached:" "kB",
    /// On the active lists.
    active_kb "Active:" "kB",
    /// On the inactive lists.
    inactive_kb "Inactive:" "kB",
    /// On the active list of anonymous memory.
    active_anon_kb "Active(anon):" "kB",
    /// On the inactive list of anonymous memory.
    inactive_anon_kb "Inactive(anon):" "kB",
    /// On the active list of files.
    active_file_kb "Active(file):" "kB",
    /// On the inactive list of files.
    inactive_file_kb "Inactive(file):" "kB",
    /// Not to be reclaimed.
    unevictable_kb "Unevictable:" "kB",
    /// Locked by programs.
    mlocked_kb "Mlocked:" "kB",
    /// The swap areas.
    swap_total_kb "SwapTotal:" "kB",
    /// What is free of them.
    swap_free_kb "SwapFree:" "kB",
    /// To be written to files.
    dirty_kb "Dirty:" "kB",
    /// Being written to files.
    writeback_kb "Writeback:" "kB",
    /// Anonymous memory that programs map.
    anon_pages_kb "AnonPages:" "kB",
    /// Files that programs map.
    mapped_kb "Mapped:" "kB",
    /// Shared memory.
    shmem_kb "Shmem:" "kB",
    /// What the kernel could give up.
    kreclaimable_kb "KReclaimable:" "kB",
    /// Slabs.
    slab_kb "Slab:" "kB",
    /// Slabs of caches that shrink.
    sreclaimable_kb "SReclaimable:" "kB",
    /// Other slabs.
    sunreclaim_kb "SUnreclaim:" "kB",
    /// Kernel stacks.
    kernel_stack_kb "KernelStack:" "kB",
    /// Page tables.
    page_tables_kb "PageTables:" "kB",
    /// Page tables of guests and devices.
    sec_page_tables_kb "SecPageTables:" "kB",
    /// Always 0.
    nfs_unstable_kb "NFS_Unstable:" "kB",
    /// Bounce buffers.
    bounce_kb "Bounce:" "kB",
    /// Buffers of FUSE.
    writeback_tmp_kb "WritebackTmp:" "kB",
    /// What may be promised to programs.
    commit_limit_kb "CommitLimit:" "kB",
    /// What was promised to them.
    committed_as_kb "Committed_AS:" "kB",
    /// The vmalloc range.
    vmalloc_total_kb "VmallocTotal:" "kB",
    /// Pages mapped in it.
    vmalloc_used_kb "VmallocUsed:" "kB",
    /// Always 0.
    vmalloc_chunk_kb "VmallocChunk:" "kB",
    /// Per-CPU data.
    percpu_kb "Percpu:" "kB",
    /// Anonymous huge pages.
    anon_huge_pages_kb "AnonHugePages:" "kB",
    /// Huge pages of shared memory.
    shmem_huge_pages_kb "ShmemHugePages:" "kB",
    /// Huge pages of shared memory that programs map as such.
    shmem_pmd_mapped_kb "ShmemPmdMapped:" "kB",
    /// Huge pages of files.
    file_huge_pages_kb "FileHugePages:" "kB",
    /// Huge pages of files that programs map as such.
    file_pmd_mapped_kb "FilePmdMapped:" "kB",
    /// Pages of the hugetlb pool.
    huge_pages_total "HugePages_Total:" "",
    /// Free ones.
    huge_pages_free "HugePages_Free:" "",
    /// Promised ones.
    huge_pages_rsvd "HugePages_Rsvd:" "",
    /// Ones above the pool's size.
    huge_pages_surp "HugePages_Surp:" "",
    /// The size of one.
    hugepagesize_kb "Hugepagesize:" "kB",
    /// All sizes of them.
    hugetlb_kb "Hugetlb:" "kB",
    /// The direct map by the size of its pages.
    direct_map_4k_kb "DirectMap4k:" "kB",
    /// Mapped by 2 MiB pages.
    direct_map_2m_kb "DirectMap2M:" "kB",
    /// Mapped by 1 GiB pages.
    direct_map_1g_kb "DirectMap1G:" "kB",
}

/// `MemAvailable`, in pages: free pages above the reserves, and about half of what caches could give up.
///
/// `pagecache` are the pages of the file lists, `reclaimable` those of slabs and others that shrink, `wmark_low` and
/// `totalreserve` are summed over the zones. Linux: `si_mem_available`, mm/show_mem.c.
#[must_use]
pub fn available_pages(
    free: u64,
    pagecache: u64,
    reclaimable: u64,
    wmark_low: u64,
    totalreserve: u64,
) -> u64 {
    let given_up = |pages: u64| pages - (pages / 2).min(wmark_low);
    (free + given_up(pagecache) + given_up(reclaimable)).saturating_sub(totalreserve)
}

//! The attribute bits of an entry (SDM 3A, "Paging", tables 4-15 to 4-20).

use bitflags::bitflags;

bitflags! {
    /// What an entry allows and remembers, apart from the frame.
    ///
    /// The bits are those of hardware, with one exception: `PAT` stands where 2 MiB and 1 GiB pages have it. An entry
    /// of the last level has it in the place of `PS`; [`crate::Pte`] moves it, so flags mean the same at every level.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct PteFlags: u64 {
        /// Present: hardware uses the entry. Linux: `_PAGE_PRESENT`.
        const P = 1 << 0;
        /// Writable. Linux: `_PAGE_RW`.
        const RW = 1 << 1;
        /// Reachable from user mode. Linux: `_PAGE_USER`.
        const US = 1 << 2;
        /// Write-through. Linux: `_PAGE_PWT`.
        const PWT = 1 << 3;
        /// Not cached. Linux: `_PAGE_PCD`.
        const PCD = 1 << 4;
        /// Accessed: set by hardware. Linux: `_PAGE_ACCESSED`.
        const A = 1 << 5;
        /// Dirty: set by hardware. Linux: `_PAGE_DIRTY`.
        const D = 1 << 6;
        /// Above the last level: maps a large page instead of pointing to a table. Linux: `_PAGE_PSE`.
        const PS = 1 << 7;
        /// Global: kept when CR3 is loaded. Linux: `_PAGE_GLOBAL`.
        const G = 1 << 8;
        /// Third bit of the memory type. Linux: `_PAGE_PAT`, `_PAGE_PAT_LARGE`.
        const PAT = 1 << 12;
        /// Not executable. Linux: `_PAGE_NX`.
        const NX = 1 << 63;

        /// Free for software.
        const SW9 = 1 << 9;
        /// Free for software.
        const SW10 = 1 << 10;
        /// Free for software.
        const SW11 = 1 << 11;
        /// Free for software.
        const SW52 = 1 << 52;
        /// Free for software.
        const SW53 = 1 << 53;
        /// Free for software.
        const SW54 = 1 << 54;
        /// Free for software.
        const SW55 = 1 << 55;
        /// Free for software.
        const SW56 = 1 << 56;
        /// Free for software.
        const SW57 = 1 << 57;
        /// Free for software.
        const SW58 = 1 << 58;

        /// Set by hardware behind the kernel's back.
        const AD = Self::A.bits() | Self::D.bits();
        /// The memory type.
        const CACHE = Self::PWT.bits() | Self::PCD.bits() | Self::PAT.bits();
        /// Every bit that is free for software.
        const SOFTWARE = Self::SW9.bits() | Self::SW10.bits() | Self::SW11.bits() | Self::SW52.bits()
            | Self::SW53.bits() | Self::SW54.bits() | Self::SW55.bits() | Self::SW56.bits()
            | Self::SW57.bits() | Self::SW58.bits();

        /// Kernel data: writable, global, never executed; marked used, as nobody looks. Linux: `PAGE_KERNEL`.
        const KERNEL = Self::P.bits() | Self::RW.bits() | Self::AD.bits() | Self::G.bits() | Self::NX.bits();
        /// Kernel constants. Linux: `PAGE_KERNEL_RO`.
        const KERNEL_RO = Self::P.bits() | Self::A.bits() | Self::G.bits() | Self::NX.bits();
        /// Kernel code: read and executed. Linux: `PAGE_KERNEL_ROX`.
        const KERNEL_ROX = Self::P.bits() | Self::A.bits() | Self::G.bits();
        /// Device registers: not cached. Linux: `PAGE_KERNEL_NOCACHE`.
        const KERNEL_IO = Self::KERNEL.bits() | Self::PWT.bits() | Self::PCD.bits();
        /// A private or read-only page of a process, data. Linux: `PAGE_COPY`, `PAGE_READONLY`.
        const USER_RO = Self::P.bits() | Self::US.bits() | Self::A.bits() | Self::NX.bits();
        /// A private or read-only page of a process, code. Linux: `PAGE_COPY_EXEC`, `PAGE_READONLY_EXEC`.
        const USER_ROX = Self::P.bits() | Self::US.bits() | Self::A.bits();
        /// A writable page of a process. Linux: `PAGE_SHARED`.
        const USER_RW = Self::USER_RO.bits() | Self::RW.bits();
    }
}

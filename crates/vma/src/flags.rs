//! Flags of areas, of `mmap` and of `mprotect`, with Linux's bit values.

use bitflags::bitflags;

bitflags! {
    /// What may be done with an area. Linux: `vm_flags`, include/linux/mm.h.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct VmFlags: u64 {
        /// May be read.
        const READ = 0x1;
        /// May be written.
        const WRITE = 0x2;
        /// May be executed.
        const EXEC = 0x4;
        /// Writes are seen by others who map the same.
        const SHARED = 0x8;
        /// `mprotect` may allow reading.
        const MAYREAD = 0x10;
        /// `mprotect` may allow writing.
        const MAYWRITE = 0x20;
        /// `mprotect` may allow execution.
        const MAYEXEC = 0x40;
        /// `mprotect` may not take `SHARED` away; a file opened for writing.
        const MAYSHARE = 0x80;
        /// Grows towards lower addresses on a fault: a stack.
        const GROWSDOWN = 0x100;
        /// Frames without counts: device memory.
        const PFNMAP = 0x400;
        /// Pages stay in memory.
        const LOCKED = 0x2000;
        /// Memory-mapped registers.
        const IO = 0x4000;
        /// Not inherited by fork.
        const DONTCOPY = 0x2_0000;
        /// Neither grows nor merges.
        const DONTEXPAND = 0x4_0000;
        /// No memory set aside beforehand.
        const NORESERVE = 0x20_0000;
        /// Read as zeros by a child after fork.
        const WIPEONFORK = 0x200_0000;

        /// All three ways of access.
        const ACCESS = Self::READ.bits() | Self::WRITE.bits() | Self::EXEC.bits();
        /// Areas that never merge. Linux: `VM_SPECIAL`.
        const SPECIAL = Self::IO.bits() | Self::DONTEXPAND.bits() | Self::PFNMAP.bits();
    }
}

bitflags! {
    /// The protection asked of `mmap` and `mprotect`. Linux: `PROT_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Prot: u32 {
        /// Linux: `PROT_READ`.
        const READ = 1;
        /// Linux: `PROT_WRITE`.
        const WRITE = 2;
        /// Linux: `PROT_EXEC`.
        const EXEC = 4;
    }
}

impl From<Prot> for VmFlags {
    fn from(prot: Prot) -> Self {
        Self::from_bits_truncate(u64::from(prot.bits()))
    }
}

bitflags! {
    /// The flags of `mmap`. Linux: `MAP_*`, include/uapi/asm-generic/mman.h.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct MapFlags: u32 {
        /// Linux: `MAP_SHARED`.
        const SHARED = 0x1;
        /// Linux: `MAP_PRIVATE`.
        const PRIVATE = 0x2;
        /// Linux: `MAP_SHARED_VALIDATE`: as `SHARED`, and unknown flags are refused.
        const SHARED_VALIDATE = 0x3;
        /// Linux: `MAP_FIXED`.
        const FIXED = 0x10;
        /// Linux: `MAP_ANONYMOUS`.
        const ANONYMOUS = 0x20;
        /// Linux: `MAP_32BIT`: below 2 GiB.
        const BELOW_2G = 0x40;
        /// Linux: `MAP_GROWSDOWN`.
        const GROWSDOWN = 0x100;
        /// Linux: `MAP_DENYWRITE`, ignored.
        const DENYWRITE = 0x800;
        /// Linux: `MAP_EXECUTABLE`, ignored.
        const EXECUTABLE = 0x1000;
        /// Linux: `MAP_LOCKED`.
        const LOCKED = 0x2000;
        /// Linux: `MAP_NORESERVE`.
        const NORESERVE = 0x4000;
        /// Linux: `MAP_POPULATE`.
        const POPULATE = 0x8000;
        /// Linux: `MAP_NONBLOCK`.
        const NONBLOCK = 0x1_0000;
        /// Linux: `MAP_STACK`, ignored.
        const STACK = 0x2_0000;
        /// Linux: `MAP_HUGETLB`.
        const HUGETLB = 0x4_0000;
        /// Linux: `MAP_SYNC`.
        const SYNC = 0x8_0000;
        /// Linux: `MAP_FIXED_NOREPLACE`.
        const FIXED_NOREPLACE = 0x10_0000;
    }
}

impl MapFlags {
    pub(crate) const KIND_SHARED: u32 = 1;
    pub(crate) const KIND_PRIVATE: u32 = 2;
    pub(crate) const KIND_SHARED_VALIDATE: u32 = 3;

    /// The four low bits: private or shared. Linux: `MAP_TYPE`.
    #[must_use]
    pub const fn kind(self) -> u32 {
        self.bits() & 0xf
    }
}

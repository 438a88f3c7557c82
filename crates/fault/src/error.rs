//! How a fault ends.

use core::fmt;

use kmm_pagetable_walker::FrameOwner;

/// Why a program gets SIGSEGV. Linux: `si_code`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegvCode {
    /// Nothing is mapped there. Linux: `SEGV_MAPERR`.
    MapErr,
    /// What is mapped there does not allow it. Linux: `SEGV_ACCERR`.
    AccErr,
}

impl SegvCode {
    /// The number that a signal carries.
    #[must_use]
    pub const fn si_code(self) -> i32 {
        match self {
            Self::MapErr => 1,
            Self::AccErr => 2,
        }
    }
}

impl fmt::Display for SegvCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MapErr => "MAPERR",
            Self::AccErr => "ACCERR",
        })
    }
}

/// A fault that was served. Linux: `vm_fault_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// From memory alone. Linux: `min_flt`.
    Minor,
    /// Something was read from a device. Linux: `maj_flt`.
    Major,
    /// The tables already allowed the access.
    Spurious,
}

/// A fault that could not be served. The address space is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FaultError {
    /// The program may not do that: SIGSEGV.
    Segv(SegvCode),
    /// The file or the device has no such page: SIGBUS.
    Bus,
    /// The guard of the tables does not let the file's page be mapped, as it belongs to this owner: SIGBUS.
    Owned(FrameOwner),
    /// No page could be had.
    OutOfMemory,
    /// The tables are corrupt: a bug of the kernel.
    Corrupt,
    /// The kernel jumped to a program's address: a bug of the kernel.
    KernelExec,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segv(code) => write!(f, "segmentation fault ({code})"),
            Self::Bus => f.write_str("no such page in the file or device"),
            Self::Owned(owner) => write!(f, "page of the file belongs to {owner}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Corrupt => f.write_str("corrupt page tables"),
            Self::KernelExec => f.write_str("kernel tried to execute user memory"),
        }
    }
}

impl core::error::Error for FaultError {}

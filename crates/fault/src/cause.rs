//! Why the CPU raised a page fault.

use core::fmt;

use bitflags::bitflags;

bitflags! {
    /// The error code of exception 14 (SDM 3A 4.7). Linux: `enum x86_pf_error_code`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct FaultCause: u32 {
        /// A translation was present but did not allow the access; clear: there was none.
        const PRESENT = 1 << 0;
        /// A write; clear: a read or an instruction fetch.
        const WRITE = 1 << 1;
        /// In user mode.
        const USER = 1 << 2;
        /// A reserved bit was set in an entry: the tables are corrupt.
        const RESERVED = 1 << 3;
        /// An instruction fetch.
        const FETCH = 1 << 4;
        /// Forbidden by a protection key.
        const PROTECTION_KEY = 1 << 5;
        /// An access to a shadow stack.
        const SHADOW_STACK = 1 << 6;
        /// The hypervisor's translation forbids it (HLAT).
        const HYPERVISOR = 1 << 7;
        /// Refused by SGX.
        const SGX = 1 << 15;
        /// The reverse map of encrypted memory forbids it (AMD SEV-SNP).
        const REVERSE_MAP = 1 << 31;

        /// Bits that say that something other than the page tables refused.
        const BEYOND_TABLES = Self::PROTECTION_KEY.bits() | Self::SHADOW_STACK.bits() | Self::HYPERVISOR.bits()
            | Self::SGX.bits() | Self::REVERSE_MAP.bits();
    }
}

/// What the program tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To read data.
    Read,
    /// To write data.
    Write,
    /// To fetch an instruction.
    Exec,
}

impl FaultCause {
    /// The cause told by the error code that the CPU pushed; unknown bits are dropped. What the `x86_64` crate calls
    /// `PageFaultErrorCode` has it in its `bits()`.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "all defined bits lie in the low half"
    )]
    pub const fn from_error_code(code: u64) -> Self {
        Self::from_bits_truncate(code as u32)
    }

    /// What was tried.
    #[must_use]
    pub const fn access(self) -> Access {
        if self.contains(Self::WRITE) {
            Access::Write
        } else if self.contains(Self::FETCH) {
            Access::Exec
        } else {
            Access::Read
        }
    }
}

impl fmt::Display for FaultCause {
    /// As Linux reports it: `user write, not present`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.contains(Self::USER) {
            "user"
        } else {
            "kernel"
        };
        let what = match self.access() {
            Access::Read => "read",
            Access::Write => "write",
            Access::Exec => "instruction fetch",
        };
        let why = if self.contains(Self::RESERVED) {
            "reserved bit set"
        } else if self.contains(Self::PROTECTION_KEY) {
            "protection key"
        } else if self.contains(Self::SHADOW_STACK) {
            "shadow stack"
        } else if self.contains(Self::HYPERVISOR) {
            "hypervisor"
        } else if self.contains(Self::SGX) {
            "enclave"
        } else if self.contains(Self::REVERSE_MAP) {
            "reverse map"
        } else if self.contains(Self::PRESENT) {
            "not allowed"
        } else {
            "not present"
        };
        write!(f, "{who} {what}, {why}")
    }
}

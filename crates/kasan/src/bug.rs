//! What can be wrong. Linux: mm/kasan/report_generic.c.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use kmm_frame::{PAGE_SIZE, VirtAddr};

use crate::poison::Poison;
use crate::shadow::{GRANULE_BYTES, Shadow};

/// Where programs' addresses end. Linux: `TASK_SIZE_MAX`, 4-level.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// What was done to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// It was read.
    Read,
    /// It was written.
    Write,
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "Read",
            Self::Write => "Write",
        })
    }
}

/// Memory is about to be touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The first byte.
    pub addr: VirtAddr,
    /// How many.
    pub size_bytes: usize,
    /// What for.
    pub kind: AccessKind,
}

/// The class of a bug; prints as Linux's name for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BugKind {
    /// Beside an object.
    SlabOutOfBounds,
    /// An object that was freed.
    SlabUseAfterFree,
    /// A page that was freed.
    UseAfterFree,
    /// Behind the end of an area, or where none is.
    VmallocOutOfBounds,
    /// The range wraps around.
    OutOfBounds,
    /// The first page.
    NullDeref,
    /// A program's memory.
    UserMemoryAccess,
    /// An address that nothing has.
    WildMemoryAccess,
    /// Freed once more.
    DoubleFree,
    /// What was freed is not the start of an object.
    InvalidFree,
    /// A shadow byte that means nothing.
    Unknown,
}

impl BugKind {
    /// What is wrong with an access whose first bad byte is `bad`. Linux: `get_bug_type`.
    pub(crate) fn of<S: Shadow>(shadow: &S, access: Access, bad: VirtAddr) -> Self {
        if access.addr.checked_add(access.size_bytes as u64).is_none() {
            return Self::OutOfBounds;
        }
        let load = |addr| shadow.byte(addr).map(|byte| byte.load(Relaxed));
        let Some(byte) = load(bad) else {
            return Self::wild(access.addr);
        };
        // Part of the granule may be touched: what comes behind says why the rest may not.
        let byte = match byte {
            1..=7 => load(bad + GRANULE_BYTES as u64).unwrap_or(byte),
            _ => byte,
        };
        match Poison(byte) {
            Poison::SLAB_REDZONE | Poison::PAGE_REDZONE | Poison(0..=7) => Self::SlabOutOfBounds,
            Poison::SLAB_FREE | Poison::SLAB_FREE_TRACK => Self::SlabUseAfterFree,
            Poison::PAGE_FREE => Self::UseAfterFree,
            Poison::VMALLOC_INVALID => Self::VmallocOutOfBounds,
            Poison(_) => Self::Unknown,
        }
    }

    /// Linux: `get_wild_bug_type`.
    fn wild(addr: VirtAddr) -> Self {
        if addr.as_u64() < PAGE_SIZE as u64 {
            Self::NullDeref
        } else if addr.as_u64() < TASK_SIZE {
            Self::UserMemoryAccess
        } else {
            Self::WildMemoryAccess
        }
    }
}

impl fmt::Display for BugKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SlabOutOfBounds => "slab-out-of-bounds",
            Self::SlabUseAfterFree => "slab-use-after-free",
            Self::UseAfterFree => "use-after-free",
            Self::VmallocOutOfBounds => "vmalloc-out-of-bounds",
            Self::OutOfBounds => "out-of-bounds",
            Self::NullDeref => "null-ptr-deref",
            Self::UserMemoryAccess => "user-memory-access",
            Self::WildMemoryAccess => "wild-memory-access",
            Self::DoubleFree => "double-free",
            Self::InvalidFree => "invalid-free",
            Self::Unknown => "unknown-crash",
        })
    }
}

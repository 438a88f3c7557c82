//! What a fault asks for. Pure: no table, no frame, no lock. Linux: `do_user_addr_fault`, `handle_pte_fault`.

use kmm_vma::VmFlags;

use crate::{Access, FaultCause, SegvCode};

/// What the address lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// Nothing, and no stack above.
    Hole,
    /// Nothing, but the next area above is a stack that may grow down to here.
    BelowStack,
    /// An area.
    Mapped {
        /// What may be done with it.
        flags: VmFlags,
        /// Whether it shows a file.
        file: bool,
    },
}

/// What the tables say of the page now; another thread may have changed it since the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PteState {
    /// No translation.
    None,
    /// A translation.
    Present {
        /// Whether it allows writing.
        writable: bool,
        /// Whether it allows execution.
        executable: bool,
    },
    /// Not present, but not empty: the page is elsewhere.
    Elsewhere,
}

/// What to do about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The tables allow the access by now: flush the old translation and try again.
    Spurious,
    /// Grow the stack, then decide again.
    GrowStack,
    /// Map the shared zero page, read-only. Linux: `do_anonymous_page`, read.
    ZeroPage,
    /// Map a fresh page of zeros, writable. Linux: `do_anonymous_page`, write.
    Anonymous,
    /// Map the page of the file, not writable. Linux: `do_read_fault`.
    FileRead,
    /// Map a private copy of the page of the file. Linux: `do_cow_fault`.
    FileCopy,
    /// Map the page of the file, writable. Linux: `do_shared_fault`.
    FileShared,
    /// The page is there, private, not writable: copy it, or take it over when nobody else has it. Linux: `do_wp_page`.
    CopyOnWrite,
    /// The page is there, shared, not writable: allow it. Linux: `wp_page_shared`.
    MakeWritable,
    /// The page is there but not executable, and may be now.
    MakeExecutable,
    /// The page lies in a swap area, which this crate does not serve yet.
    SwapIn,
    /// The program did what it may not.
    Segv(SegvCode),
    /// The tables are corrupt: nothing a program can do causes this.
    Corrupt,
}

/// Decides what to do about a fault. Linux: the tables of S4, `access_error`.
#[must_use]
pub fn decide(cause: FaultCause, area: Area, pte: PteState) -> Decision {
    if cause.contains(FaultCause::RESERVED) {
        return Decision::Corrupt;
    }
    let (flags, file) = match area {
        Area::Hole => return Decision::Segv(SegvCode::MapErr),
        Area::BelowStack => return Decision::GrowStack,
        Area::Mapped { flags, file } => (flags, file),
    };
    if !is_allowed(cause, flags) {
        return Decision::Segv(SegvCode::AccErr);
    }
    let shared = flags.contains(VmFlags::SHARED);
    match (pte, cause.access()) {
        (PteState::Elsewhere, _) => Decision::SwapIn,
        (PteState::None, Access::Write) => match (file, shared) {
            (false, _) => Decision::Anonymous,
            (true, false) => Decision::FileCopy,
            (true, true) => Decision::FileShared,
        },
        (PteState::None, Access::Read | Access::Exec) if file => Decision::FileRead,
        (PteState::None, Access::Read | Access::Exec) => Decision::ZeroPage,
        (
            PteState::Present {
                writable: false, ..
            },
            Access::Write,
        ) if shared => Decision::MakeWritable,
        (
            PteState::Present {
                writable: false, ..
            },
            Access::Write,
        ) => Decision::CopyOnWrite,
        (
            PteState::Present {
                executable: false, ..
            },
            Access::Exec,
        ) => Decision::MakeExecutable,
        (PteState::Present { .. }, _) => Decision::Spurious,
    }
}

/// Whether the area allows the access. x86 cannot forbid reading what may be written or executed.
fn is_allowed(cause: FaultCause, flags: VmFlags) -> bool {
    if cause.intersects(FaultCause::PROTECTION_KEY | FaultCause::SGX | FaultCause::SHADOW_STACK) {
        return false;
    }
    match cause.access() {
        Access::Write => flags.contains(VmFlags::WRITE),
        Access::Exec => flags.contains(VmFlags::EXEC),
        Access::Read => flags.intersects(VmFlags::ACCESS),
    }
}

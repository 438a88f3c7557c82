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
    /// A page.
    Present {
        /// Whether the program may reach it at all.
        reachable: bool,
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
    /// Map a fresh page of zeros, writable where the area is. Linux: `do_anonymous_page`, write.
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
    /// The page is there, but its entry allows less than the area does by now: give it the area's rights.
    Widen,
    /// The page lies in a swap area, which this crate does not serve yet.
    SwapIn,
    /// Device memory that is not mapped where it should be.
    Bus,
    /// The program did what it may not.
    Segv(SegvCode),
    /// The kernel jumped to a program's address: a bug of the kernel.
    KernelExec,
    /// The tables are corrupt: nothing a program can do causes this.
    Corrupt,
}

/// Decides what to do about a fault at a program's address. Linux: the tables of S4, `access_error`.
///
/// # Context
/// The caller has ruled out that the kernel reached there without leave (SMAP, `EFLAGS.AC`): the processor tells that
/// by the same cause as a read of what is mapped, which would be [`Decision::Spurious`] for ever.
#[must_use]
pub fn decide(cause: FaultCause, area: Area, pte: PteState) -> Decision {
    if cause.contains(FaultCause::RESERVED) {
        return Decision::Corrupt;
    }
    if cause.contains(FaultCause::FETCH) && !cause.contains(FaultCause::USER) {
        return Decision::KernelExec;
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
    let device = flags.intersects(VmFlags::PFNMAP | VmFlags::IO) && !file;
    match pte {
        PteState::Elsewhere => Decision::SwapIn,
        PteState::None if device => Decision::Bus,
        PteState::None => populate(cause.access(), file, shared),
        PteState::Present {
            reachable,
            writable,
            executable,
        } => match cause.access() {
            Access::Write if !writable && shared => Decision::MakeWritable,
            Access::Write if !writable && device => Decision::Bus,
            Access::Write if !writable => Decision::CopyOnWrite,
            Access::Exec if !executable => Decision::Widen,
            _ if !reachable => Decision::Widen,
            _ => Decision::Spurious,
        },
    }
}

/// How a missing page comes. What is shared is never the page of zeros, which nobody may write.
const fn populate(access: Access, file: bool, shared: bool) -> Decision {
    match (access, file, shared) {
        (Access::Write, true, false) => Decision::FileCopy,
        (Access::Write, true, true) => Decision::FileShared,
        (Access::Read | Access::Exec, true, _) => Decision::FileRead,
        (Access::Read | Access::Exec, false, false) => Decision::ZeroPage,
        (Access::Write, false, false) | (_, false, true) => Decision::Anonymous,
    }
}

/// Whether the area allows the access. x86 cannot forbid reading what may be written or executed.
fn is_allowed(cause: FaultCause, flags: VmFlags) -> bool {
    if cause.intersects(FaultCause::BEYOND_TABLES) {
        return false;
    }
    match cause.access() {
        Access::Write => flags.contains(VmFlags::WRITE),
        Access::Exec => flags.contains(VmFlags::EXEC),
        Access::Read => flags.intersects(VmFlags::ACCESS),
    }
}

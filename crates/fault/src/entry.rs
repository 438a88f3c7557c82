//! What an entry of a process means: which frame it holds, and what it lets the program do.
//!
//! | entry | means |
//! |---|---|
//! | 0 | no page |
//! | `P` set | a page, with the rights that the bits give |
//! | `P` clear, `G` set | a page that nobody may reach, the kernel included: `PROT_NONE` |
//! | `P` clear otherwise | the page is elsewhere |
//!
//! An area's rights are an upper bound of its entries' rights. Rights are taken from entries at once, and given back by
//! the next fault, which knows whether the page is shared.

use kmm_frame::Pfn;
use kmm_pagetable_walker::{Leaf, Level, Pte, PteFlags};
use kmm_vma::VmFlags;

use crate::PteState;

/// Marks, with `P` clear, an entry that keeps its page out of reach; `G` means nothing to hardware then. Linux:
/// `_PAGE_PROTNONE`.
const UNREACHABLE: PteFlags = PteFlags::G;

/// The flags of an entry that gives an area's rights, apart from writing. Linux: `vm_get_page_prot`.
#[must_use]
pub const fn read_only_flags(flags: VmFlags) -> PteFlags {
    if flags.contains(VmFlags::EXEC) {
        PteFlags::USER_ROX
    } else {
        PteFlags::USER_RO
    }
}

/// The entry of `leaf` without the rights that an area with `flags` does not have; none are added. For `mprotect`.
/// Linux: `change_pte_range`.
#[must_use]
pub fn restrict(leaf: Leaf, flags: VmFlags) -> Pte {
    if frame_of(leaf.pte).is_none() {
        return leaf.pte;
    }
    let mut pte_flags = leaf.flags();
    if !flags.contains(VmFlags::WRITE) {
        pte_flags.remove(PteFlags::RW);
    }
    if !flags.contains(VmFlags::EXEC) {
        pte_flags.insert(PteFlags::NX);
    }
    if !flags.intersects(VmFlags::ACCESS) {
        pte_flags.remove(PteFlags::US);
        if leaf.level == Level::Pte {
            pte_flags.remove(PteFlags::P);
            pte_flags.insert(UNREACHABLE);
        }
    }
    leaf.pte.with_flags(pte_flags, leaf.level)
}

/// The frame that an entry of the last level holds, reachable or not; an entry that has one holds a reference (INV-1).
#[must_use]
pub const fn frame_of(pte: Pte) -> Option<Pfn> {
    if pte.is_present() || pte.has(UNREACHABLE) {
        Some(pte.pfn())
    } else {
        None
    }
}

/// What an entry of the last level lets the program do.
#[must_use]
pub const fn state_of(pte: Pte) -> PteState {
    if pte.is_none() {
        PteState::None
    } else if frame_of(pte).is_none() {
        PteState::Elsewhere
    } else {
        PteState::Present {
            reachable: pte.has(PteFlags::P.union(PteFlags::US)),
            writable: pte.has(PteFlags::RW),
            executable: !pte.has(PteFlags::NX),
        }
    }
}

/// The entry with all rights of an area with `flags`, apart from writing, which it keeps if it has it.
pub(crate) const fn widen(old: Pte, flags: VmFlags) -> Pte {
    let kept = PteFlags::AD
        .union(PteFlags::RW)
        .union(PteFlags::CACHE)
        .union(PteFlags::SOFTWARE);
    let flags = old.flags().intersection(kept).union(read_only_flags(flags));
    Pte::new(old.pfn(), flags)
}

//! The top table, as a proof that it is one.
#![expect(unsafe_code, reason = "claims that a frame is a page table")]

use kmm_frame::Pfn;

/// A top-level table: the right to read it (`&Root`) and to change what hangs below it (`&mut Root`). Linux: `mm->pgd`.
///
/// Neither `Copy` nor `Drop`: it is spent by [`crate::Mapper::free_root`], and leaked otherwise.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a root that is dropped is leaked; give it to Mapper::free_root"]
pub struct Root {
    pfn: Pfn,
    role: Role,
}

/// What may be changed below a root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Both halves. Nobody shares its kernel half yet.
    Kernel,
    /// Both halves, but the top table's kernel half is filled for good: others have copies of it.
    KernelShared,
    /// The user half only.
    User,
}

impl Root {
    /// Takes over tables that exist, as those that the boot loader left in CR3.
    ///
    /// # Safety
    /// 1. `pfn` is a top-level table, every table below it is one, and nobody else changes or frees any of them.
    /// 2. Each of these tables has a descriptor whose `private` counts its entries that are not 0, plus one for a
    ///    table that must stay when it is empty.
    pub const unsafe fn from_pfn(pfn: Pfn) -> Self {
        Self::new(pfn, Role::Kernel)
    }

    pub(crate) const fn new(pfn: Pfn, role: Role) -> Self {
        Self { pfn, role }
    }

    /// The frame of the table: what CR3 wants, and [`kmm_host::TlbTarget::User`].
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn set_role(&mut self, role: Role) {
        self.role = role;
    }
}

/// The kernel half of a top-level table whose entries will never change: every root may have a copy of them.
///
/// Made by [`crate::Mapper::prealloc_kernel_pgds`]. What is mapped below them later is seen through all roots at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelHalf {
    pfn: Pfn,
}

impl KernelHalf {
    pub(crate) const fn new(pfn: Pfn) -> Self {
        Self { pfn }
    }

    /// The frame of the table that has it.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        self.pfn
    }
}

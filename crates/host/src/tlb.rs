//! How translations that CPUs remember are dropped.

use core::ops::Range;

use kmm_frame::{Pfn, VirtAddr};

/// Whose translations to flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbTarget {
    /// The address space with this top-level table, on every CPU that runs or ran it.
    User {
        /// Frame of the top-level table.
        root: Pfn,
    },
    /// The kernel half, on every CPU; global entries included.
    Kernel,
}

/// Flushes translations, here and on every other CPU that may remember them. Linux: `flush_tlb_range` and its like.
///
/// When a call returns, no CPU uses a translation of the target and range that it remembered before the call.
///
/// # Context
/// Does not sleep. Other CPUs must be able to take an interrupt.
pub trait TlbControl {
    /// Flushes the pages of `range`, page-aligned.
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>);

    /// Flushes everything of the target; of a user target also what is remembered of its tables, the top one included.
    fn flush_all(&self, target: TlbTarget);
}

impl<T: TlbControl + ?Sized> TlbControl for &T {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        (**self).flush_range(target, range);
    }

    fn flush_all(&self, target: TlbTarget) {
        (**self).flush_all(target);
    }
}

/// For tables that no CPU has loaded yet, as while they are being built: there is nothing to flush.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTlb;

impl TlbControl for NoTlb {
    fn flush_range(&self, _target: TlbTarget, _range: Range<VirtAddr>) {}

    fn flush_all(&self, _target: TlbTarget) {}
}

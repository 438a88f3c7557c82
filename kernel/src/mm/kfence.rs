//! KFENCE: some objects lie alone between pages that are hidden; whoever touches one of those is reported, and goes on.
//!
//! `kfence.sample_interval=N` turns it on. The pool and its pages are kmm's ([`kmm::Early::with_kfence`]); here is the page fault.

use kmm::frame::PfnRange;
use kmm::host::{Host as _, PhysMap as _};
use kmm::slub::{ObjectReport, SlubBug, SlubBugKind};
use x86_64::structures::idt::PageFaultErrorCode;

use super::{MACHINE, Manager};
use crate::sync::IrqSpinLock;

/// The last mistake with an object of the pool.
static LAST: IrqSpinLock<Option<(SlubBugKind, ObjectReport)>> = IrqSpinLock::new(None);

/// Whether a page fault of kernel code is KFENCE's: reported then, and the page can be touched now. Linux:
/// `kfence_handle_page_fault`.
///
/// # Context
/// Any, whatever was interrupted.
pub fn fault(cr2: u64, error: PageFaultErrorCode) -> bool {
    let is_hidden = !error.intersects(
        PageFaultErrorCode::PROTECTION_VIOLATION | PageFaultErrorCode::INSTRUCTION_FETCH,
    );
    let (Some(machine), Ok(address)) = (MACHINE.get(), usize::try_from(cr2)) else {
        return false;
    };
    let is_write = error.contains(PageFaultErrorCode::CAUSED_BY_WRITE);
    is_hidden && machine.manager.slub().kfence_fault(address, is_write)
}

/// Keeps what is told of an object of the pool, for who asks for it.
pub(super) fn keep(bug: &SlubBug<'_>) {
    if let Some(report) = bug.object.filter(|report| report.guarded.is_some()) {
        *LAST.lock() = Some((bug.kind, *report));
    }
}

/// The last mistake since this was asked.
pub(super) fn take_last() -> Option<(SlubBugKind, ObjectReport)> {
    LAST.lock().take()
}

/// Whether an address is of the pool.
pub(super) fn owns(manager: &Manager, object: core::ptr::NonNull<u8>) -> bool {
    let pfn = manager.host().phys().virt_to_pfn(object);
    pfn.is_some_and(|pfn| manager.kfence_frames().contains(pfn))
}

/// Tells that there is a pool.
pub(super) fn describe(manager: &Manager) {
    let frames: PfnRange = manager.kfence_frames();
    if !frames.is_empty() {
        println!(
            "kfence: {} objects between hidden pages, frames {}..{}",
            frames.nr_pages() / 2,
            frames.start(),
            frames.end()
        );
    }
}

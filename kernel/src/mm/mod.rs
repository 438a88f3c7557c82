//! Memory management: glue between the machine and the kmm crates.
//!
//! [`init`] takes the firmware's map through every floor: memblock, descriptors, the final page tables, zones and buddy, slub as the
//! global allocator, vmalloc. From then on [`manager`] is all of it.

mod boot;
mod commands;
mod count_tests;
mod guard_tests;
mod host;
mod info;
mod kfence;
mod kfence_tests;
mod stack;
mod tests;

use core::ptr::NonNull;

use kmm::frame::{MemMap, Order, Pfn, PfnRange, PhysAddr, VirtAddr, ZoneType};
use kmm::host::{Cpus as _, DirectMap, Host as _};
use kmm::vmalloc::CacheMode;
use kmm::zone::Mark;
use spin::Once;
use x86_64::structures::idt::PageFaultErrorCode;

use crate::arch::TrapFrame;
use crate::process::{self, SignalInfo};
use crate::smp;

pub use boot::init;
pub use commands::COMMANDS;
pub use host::{KernelHost, activate, active_root, flush_tlb_here};
pub use info::{
    pages_held, total_and_free_bytes, write_buddyinfo, write_meminfo, write_pagetypeinfo,
    write_slabinfo, write_vmallocinfo, write_vmstat, write_zoneinfo,
};
pub use kfence::fault as kfence_fault;
pub use stack::{KernelStack, STACK_BYTES, alloc_kernel_stack, measure_stacks};
pub use tests::{TESTS, audit, prove_tables};

/// The manager of this kernel.
pub type Manager = kmm::Manager<KernelHost>;

/// What [`init`] made, and what it was made from.
pub(crate) struct Machine {
    manager: &'static Manager,
    /// What the final tables were asked to map: kept for the proof.
    space: kmm::KernelSpace,
    memory: &'static [PfnRange],
}

static MACHINE: Once<Machine> = Once::new();

fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => panic!("memory management is asked before it is up"),
    }
}

/// The whole of memory management.
///
/// # Panics
/// Before [`init`].
pub fn manager() -> &'static Manager {
    machine().manager
}

/// The descriptors of all frames.
pub fn mem_map() -> MemMap {
    manager().mem_map()
}

/// The way to the bytes of frames.
pub fn phys() -> &'static DirectMap {
    manager().host().phys()
}

/// The kernel's own top table.
pub fn kernel_root() -> Pfn {
    manager().kernel_half().pfn()
}

/// Are only those pages free that zones keep back?
pub fn is_low() -> bool {
    MACHINE.get().is_some_and(|machine| {
        let mut zones = machine.manager.pages().all();
        !zones.any(|zone| zone.watermark_ok(Order::ZERO, Mark::Min, ZoneType::Normal))
    })
}

/// Passes on what this CPU has counted of memory, once there is something that counts. Linux: `vmstat_update`.
///
/// # Context
/// From the tick too.
pub fn fold_counts() {
    if let Some(machine) = MACHINE.get() {
        let pages = machine.manager.pages();
        pages.cpus().with_pin(|pin| pages.fold_counts(pin));
    }
}

/// Gives one reference to a frame back; the last one frees it.
///
/// # Safety
/// The caller holds that reference and does not use the frame any more.
#[expect(unsafe_code, reason = "passes an obligation on")]
pub unsafe fn put_page(pfn: Pfn) {
    // SAFETY: the caller's obligation is the same.
    unsafe { manager().page_alloc().put_page(pfn) };
}

/// What each CPU that starts later needs, once it has loaded [`kernel_root`].
pub fn init_on_ap() {
    boot::set_memory_types();
    smp::note_root(Some(kernel_root()));
}

/// Gives back the pages that the running CPU has at hand, and passes on what it has counted. Linux: `drain_local_pages`,
/// `refresh_cpu_vm_stats`.
pub fn rest() {
    let pages = manager().pages();
    pages.cpus().with_pin(|pin| pages.drain_pcp(pin));
    fold_counts();
}

/// Maps device registers, uncached. Linux: `ioremap`.
pub fn ioremap(phys: u64, len_bytes: usize) -> Option<NonNull<u8>> {
    let mapped = manager()
        .vmalloc()
        .ioremap(PhysAddr::new(phys), len_bytes, CacheMode::Uncached);
    let addr: VirtAddr = mapped.ok()?;
    NonNull::new(core::ptr::with_exposed_provenance_mut(addr.as_usize()))
}

/// Resolves a page fault of user mode, or of a user copy: `cr2` is the address.
///
/// # Context
/// Interrupts on; may sleep.
///
/// # Errors
/// The signal that the program gets; a user copy fails instead.
pub fn page_fault(
    frame: &mut TrapFrame,
    cr2: u64,
    error: PageFaultErrorCode,
) -> Result<(), SignalInfo> {
    process::page_fault(frame, cr2, error)
}

//! Memory management: glue between the machine and the kmm crates.
#![expect(unsafe_code, reason = "lends memory to the early heap")]

use core::ptr::NonNull;

use x86_64::structures::idt::PageFaultErrorCode;

use crate::arch::TrapFrame;
use crate::arch::exceptions::signal;
use crate::boot::{BootInfo, DIRECT_MAP};
use crate::process::SignalInfo;
use crate::selftest::Test;
use crate::shell::Command;

/// Self-tests of memory management.
pub const TESTS: &[Test] = &[];

/// Shell commands of memory management.
pub const COMMANDS: &[Command] = &[];

const EARLY_HEAP_BYTES: usize = 256 << 10;

#[repr(align(4096))]
struct EarlyHeap(core::cell::UnsafeCell<[u8; EARLY_HEAP_BYTES]>);

// SAFETY: given away once, to the heap.
unsafe impl Sync for EarlyHeap {}

static EARLY_HEAP: EarlyHeap = EarlyHeap(core::cell::UnsafeCell::new([0; EARLY_HEAP_BYTES]));

/// Takes the machine's memory over.
pub fn init(_boot: &'static BootInfo) {
    // SAFETY: the static is named here alone, and `init` is called once.
    unsafe { crate::heap::init_early(EARLY_HEAP.0.get().cast(), EARLY_HEAP_BYTES) }
}

/// Maps device registers, uncached. Linux: `ioremap`.
pub fn ioremap(phys: u64, _len_bytes: usize) -> Option<NonNull<u8>> {
    NonNull::new((DIRECT_MAP + phys) as *mut u8)
}

/// Resolves a page fault of user mode, or of a user copy: `cr2` is the address.
///
/// # Context
/// Interrupts on; may sleep.
///
/// # Errors
/// The signal that the program gets; a user copy fails instead.
pub fn page_fault(
    _frame: &mut TrapFrame,
    cr2: u64,
    _error: PageFaultErrorCode,
) -> Result<(), SignalInfo> {
    Err(SignalInfo {
        signo: signal::SIGSEGV,
        code: signal::SEGV_MAPERR,
        addr: cr2,
    })
}

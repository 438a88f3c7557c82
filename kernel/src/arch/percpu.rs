//! What each CPU has of its own, found through GS.
//!
//! In kernel mode GS points to this CPU's [`PerCpu`]; `swapgs` on entry from user mode makes it so. It is set before anything locks or
//! prints. The assembly of `entry.S` knows the first fields by offset.
#![expect(unsafe_code, reason = "GS-relative data")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{FS, GS, Segment};
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::registers::segmentation::SegmentSelector;

use super::gdt::Descriptors;

/// One CPU's data.
#[repr(C, align(64))]
pub struct PerCpu {
    this: *const PerCpu,
    /// Where the kernel stack of the running task begins; loaded by system-call entry.
    kernel_stack_top: u64,
    /// The user's RSP between `syscall` and the first push.
    user_rsp: u64,
    /// How many IRQ-off locks are held.
    pub(super) irq_off_depth: u32,
    /// Were interrupts on when the first of them was taken?
    pub(super) irqs_were_on: bool,
    /// Number of this CPU; 0 booted.
    cpu: u32,
    pub(super) descriptors: Descriptors,
}

const _: () = assert!(
    offset_of!(PerCpu, this) == 0
        && offset_of!(PerCpu, kernel_stack_top) == 8
        && offset_of!(PerCpu, user_rsp) == 16
);

struct BootCpu(UnsafeCell<PerCpu>);

// SAFETY: reached only through `with`, by CPU 0, with interrupts off.
unsafe impl Sync for BootCpu {}

static BOOT_CPU: BootCpu = BootCpu(UnsafeCell::new(PerCpu {
    this: ptr::null(),
    kernel_stack_top: 0,
    user_rsp: 0,
    irq_off_depth: 0,
    irqs_were_on: false,
    cpu: 0,
    descriptors: Descriptors::new(),
}));

/// Points GS at the boot CPU's data.
pub fn init_boot_cpu() {
    let this = BOOT_CPU.0.get();
    // SAFETY: nobody else runs yet.
    unsafe { (*this).this = this };
    // SAFETY: null selectors are always valid for data; whatever the bootloader had there goes with its GDT.
    unsafe { FS::set_reg(SegmentSelector::NULL) };
    // SAFETY: as above; the base comes next.
    unsafe { GS::set_reg(SegmentSelector::NULL) };
    GsBase::write(VirtAddr::from_ptr(this));
    KernelGsBase::write(VirtAddr::zero());
}

/// This CPU's data. The pointer stays valid; the caller keeps interrupts off while it uses it.
pub(super) fn this_cpu() -> *mut PerCpu {
    let this: *mut PerCpu;
    // SAFETY: GS points to a `PerCpu` whose first field is its own address, since `init_boot_cpu`.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly, pure))
    }
    this
}

/// The number of the running CPU.
pub fn cpu() -> u32 {
    // SAFETY: `cpu` never changes.
    unsafe { (*this_cpu()).cpu }
}

/// The stack for the next entry from user mode: traps (TSS.RSP0) and system calls. The scheduler calls it before each switch.
///
/// # Context
/// Interrupts off.
pub fn set_kernel_stack(top: u64) {
    let this = this_cpu();
    // SAFETY: interrupts are off, and only this CPU touches its data.
    unsafe { (*this).kernel_stack_top = top };
    // SAFETY: as above.
    unsafe { (*this).descriptors.set_kernel_stack(top) };
}

/// What [`set_kernel_stack`] was told last; 0 before the first call.
pub fn kernel_stack_top() -> u64 {
    // SAFETY: read by the CPU that writes it.
    unsafe { (*this_cpu()).kernel_stack_top }
}

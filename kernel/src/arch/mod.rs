//! All that is x86-64: descriptor tables, traps, system-call entry, context switch, FPU, user copies, interrupt controllers, serial line.

pub mod acpi;
pub mod apic;
pub mod backtrace;
pub mod context;
pub mod cpu;
pub mod crash;
pub mod exceptions;
pub mod exit;
pub mod features;
pub mod fpu;
pub mod gdt;
pub mod idt;
pub mod interrupts;
pub mod irq;
pub mod mmio;
pub mod numa;
pub mod percpu;
pub mod pic;
pub mod serial;
pub mod syscall;
pub mod timer;
pub mod trap;
pub mod usercopy;

pub use context::{Context, switch};
pub use percpu::set_kernel_stack;
pub use trap::TrapFrame;

use crate::boot::image;

/// Bytes of a kernel stack.
pub const KERNEL_STACK_BYTES: usize = (32 << 10) * crate::kasan::STACK_FACTOR;
/// First address that user mode can not have. Linux: `TASK_SIZE_MAX`, 4-level.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// The very first steps, before anything may print or lock: this CPU's GS base, and the serial line.
pub fn init_boot_cpu() {
    percpu::init_boot_cpu();
    timer::start_clock();
    serial::init();
}

/// Descriptor tables, CPU features, system-call entry: from here on every fault has a handler.
pub fn init_early() {
    gdt::init();
    idt::init();
    features::init();
    syscall::init();
    image::unmap_boot_stack_guard();
}

/// The same on a CPU that starts later. `false` if it is of another kind than the boot CPU, and cannot be used.
pub fn init_early_on_ap() -> bool {
    gdt::init();
    idt::init();
    let is_alike = features::init_like_boot_cpu();
    if is_alike {
        syscall::init();
        fpu::FpuState::init().restore();
    }
    is_alike
}

/// Interrupt controllers and the tick; needs `mm::ioremap`. Interrupts stay off.
pub fn init_late() {
    irq::init();
    timer::init();
    serial::enable_interrupt();
}

/// The FS base of user mode, as it is in the register. Linux: `rdfsbase`, or the MSR.
pub fn fs_base() -> u64 {
    x86_64::registers::model_specific::FsBase::read().as_u64()
}

/// Sets the FS base of user mode. `false` if the address is not canonical, and nothing has changed then.
pub fn set_fs_base(base: u64) -> bool {
    x86_64::VirtAddr::try_new(base)
        .map(x86_64::registers::model_specific::FsBase::write)
        .is_ok()
}

/// The GS base that user mode sees: it waits in KERNEL_GS_BASE while the kernel runs.
pub fn user_gs_base() -> u64 {
    x86_64::registers::model_specific::KernelGsBase::read().as_u64()
}

/// Sets the GS base that user mode will see. `false` if the address is not canonical, and nothing has changed then.
pub fn set_user_gs_base(base: u64) -> bool {
    x86_64::VirtAddr::try_new(base)
        .map(x86_64::registers::model_specific::KernelGsBase::write)
        .is_ok()
}

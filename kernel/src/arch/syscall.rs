//! The `syscall` instruction.
#![expect(unsafe_code, reason = "writes model-specific registers")]

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, EferFlags, LStar, Msr, SFMask};
use x86_64::registers::rflags::RFlags;

use super::trap::TrapFrame;
use super::{gdt, interrupts};
use crate::heap;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_CSTAR: u32 = 0xc000_0083;

unsafe extern "C" {
    static syscall_entry: u8;
    static syscall_entry_compat: u8;
}

/// Tells the CPU where `syscall` goes, with which segments, and which flags it clears.
pub fn init() {
    let star = (u64::from(gdt::USER_BASE) << 48) | (u64::from(gdt::KERNEL_CODE) << 32);
    // SAFETY: the selectors that `syscall` and `sysret` derive from these two exist in the GDT.
    unsafe { Msr::new(MSR_STAR).write(star) };
    LStar::write(VirtAddr::from_ptr(&raw const syscall_entry));
    // SAFETY: the register exists wherever `syscall` does; on some CPUs it does nothing.
    unsafe { Msr::new(MSR_CSTAR).write((&raw const syscall_entry_compat).addr() as u64) };
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
    // SAFETY: the entry point is in place.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS)) };
}

#[unsafe(no_mangle)]
extern "C" fn syscall_from_user(frame: &mut TrapFrame) {
    interrupts::enable();
    let _serving = heap::ForProgram::begin();
    crate::syscall::dispatch(frame);
}

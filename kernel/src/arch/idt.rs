//! The interrupt descriptor table: 256 gates to the stubs of `entry.S`. All CPUs share it.
#![expect(unsafe_code, reason = "installs handlers")]

use lazy_static::lazy_static;
use x86_64::structures::idt::{EntryOptions, InterruptDescriptorTable};
use x86_64::{PrivilegeLevel, VirtAddr};

use super::gdt;

const TRAP_STUB_LEN: u64 = 16;

unsafe extern "C" {
    static trap_stubs: u8;
}

lazy_static! {
    static ref IDT: InterruptDescriptorTable = build();
}

/// Loads the table.
pub fn init() {
    IDT.load();
}

fn build() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    let stub = |vector: u64| VirtAddr::from_ptr(&raw const trap_stubs) + vector * TRAP_STUB_LEN;
    macro_rules! gate {
        ($($entry:ident = $vector:literal),* $(,)?) => {
            $(
                // SAFETY: the stub of this vector saves everything and returns by `iretq`.
                let _: &mut EntryOptions = unsafe { idt.$entry.set_handler_addr(stub($vector)) };
            )*
        };
    }
    gate!(
        divide_error = 0,
        debug = 1,
        overflow = 4,
        bound_range_exceeded = 5,
        invalid_opcode = 6,
        device_not_available = 7,
        invalid_tss = 10,
        segment_not_present = 11,
        stack_segment_fault = 12,
        general_protection_fault = 13,
        page_fault = 14,
        x87_floating_point = 16,
        alignment_check = 17,
        simd_floating_point = 19,
        virtualization = 20,
        cp_protection_exception = 21,
        hv_injection_exception = 28,
        vmm_communication_exception = 29,
        security_exception = 30,
    );
    // SAFETY: as above; user mode may raise it by `int3`.
    unsafe { idt.breakpoint.set_handler_addr(stub(3)) }.set_privilege_level(PrivilegeLevel::Ring3);
    // SAFETY: as above.
    let nmi = unsafe { idt.non_maskable_interrupt.set_handler_addr(stub(2)) };
    // SAFETY: the TSS has a stack there, for NMI alone.
    unsafe { nmi.set_stack_index(gdt::NMI_IST) };
    // SAFETY: as above.
    let double_fault = unsafe { idt.double_fault.set_handler_addr(stub(8)) };
    // SAFETY: the TSS has a stack there, for #DF alone.
    unsafe { double_fault.set_stack_index(gdt::DOUBLE_FAULT_IST) };
    // SAFETY: as above.
    let machine_check = unsafe { idt.machine_check.set_handler_addr(stub(18)) };
    // SAFETY: the TSS has a stack there, for #MC alone.
    unsafe { machine_check.set_stack_index(gdt::MACHINE_CHECK_IST) };
    for vector in 32..=255_u8 {
        // SAFETY: as above.
        unsafe { idt[vector].set_handler_addr(stub(u64::from(vector))) };
    }
    idt
}

//! Segments and the task state segment, per CPU.
//!
//! The order of the selectors is what `syscall` and `sysret` ask for: kernel code, kernel data; then 32-bit user code, user data, 64-bit
//! user code. The place of the 32-bit code is empty, and there is no local table: no program gets out of 64-bit mode, where a `syscall`
//! would come in by another door. #DF, NMI and #MC have stacks of their own, as any of them may come when the current one is gone.
#![expect(unsafe_code, reason = "loads descriptor tables")]

use core::arch::asm;
use core::mem::size_of;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::percpu;

/// Selector of kernel code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of kernel data.
pub const KERNEL_DATA: u16 = 0x10;
/// What `sysret` counts from: where 32-bit user code would be.
pub const USER_BASE: u16 = 0x18 | 3;
/// Selector of user data. Linux: `__USER_DS`.
pub const USER_DATA: u16 = 0x20 | 3;
/// Selector of user code. Linux: `__USER_CS`.
pub const USER_CODE: u16 = 0x28 | 3;
const TSS: u16 = 0x30;
/// A segment that cannot be loaded.
const NOTHING: Descriptor = Descriptor::UserSegment(0);

/// Which of the TSS's stacks #DF takes (counted from 0).
pub const DOUBLE_FAULT_IST: u16 = 0;
/// Which NMI takes.
pub const NMI_IST: u16 = 1;
/// Which #MC takes.
pub const MACHINE_CHECK_IST: u16 = 2;

const IST_STACK_BYTES: usize = 16 << 10;

#[repr(C, align(16))]
struct IstStack([u8; IST_STACK_BYTES]);

/// One CPU's descriptor table, task state segment and emergency stacks.
pub struct Descriptors {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
    ist_stacks: [IstStack; 3],
}

impl Descriptors {
    /// Nothing in it yet.
    pub const fn new() -> Self {
        Self {
            gdt: GlobalDescriptorTable::new(),
            tss: TaskStateSegment::new(),
            ist_stacks: [const { IstStack([0; IST_STACK_BYTES]) }; 3],
        }
    }

    /// Makes zeros into [`Self::new`].
    pub(super) fn finish_zeros(&mut self) {
        self.gdt = GlobalDescriptorTable::new();
        self.tss = TaskStateSegment::new();
    }

    pub(super) fn set_kernel_stack(&mut self, top: u64) {
        self.tss.privilege_stack_table[0] = VirtAddr::new(top);
    }

    fn build(&'static mut self) -> &'static GlobalDescriptorTable {
        for (index, stack) in self.ist_stacks.iter().enumerate() {
            self.tss.interrupt_stack_table[index] =
                VirtAddr::from_ptr(stack) + size_of::<IstStack>() as u64;
        }
        self.gdt = GlobalDescriptorTable::new();
        self.gdt.append(Descriptor::kernel_code_segment());
        self.gdt.append(Descriptor::kernel_data_segment());
        self.gdt.append(NOTHING);
        self.gdt.append(Descriptor::user_data_segment());
        self.gdt.append(Descriptor::user_code_segment());
        let tss: *const TaskStateSegment = &raw const self.tss;
        // SAFETY: the TSS lies beside the table that names it, and lives as long: for ever.
        self.gdt
            .append(unsafe { Descriptor::tss_segment_unchecked(tss) });
        &self.gdt
    }
}

/// Loads this CPU's segments and task register.
pub fn init() {
    let this = percpu::this_cpu();
    // SAFETY: this CPU's data lives for ever, and nobody else holds a reference into it: `set_kernel_stack` makes its own, with interrupts
    // off.
    let gdt = unsafe { (*this).descriptors.build() };
    // SAFETY: it is `'static`, and the selectors below exist in it.
    unsafe { gdt.load_unsafe() };
    // SAFETY: a 64-bit kernel code segment.
    unsafe { CS::set_reg(SegmentSelector(KERNEL_CODE)) };
    for set in [SS::set_reg, DS::set_reg, ES::set_reg] {
        // SAFETY: a kernel data segment.
        unsafe { set(SegmentSelector(KERNEL_DATA)) };
    }
    // SAFETY: the TSS descriptor, which is available: it was made just now.
    unsafe { load_tss(SegmentSelector(TSS)) };
    // SAFETY: no segment is in use that a local table describes. After reset there is one of 64 KiB at address 0, where programs could
    // put descriptors of their own.
    unsafe { asm!("lldt {0:x}", in(reg) 0_u16, options(nostack, preserves_flags)) };
}

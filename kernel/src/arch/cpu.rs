//! Single instructions.
#![expect(unsafe_code, reason = "wraps privileged instructions")]

use core::arch::asm;

use x86_64::VirtAddr;
use x86_64::instructions::tlb;

/// The address of the top page table, with the low flag bits of CR3.
pub fn read_cr3() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Changes the page tables, and flushes what is not global.
///
/// # Safety
/// The new tables map the kernel as the old ones do, and stay allocated while they are in CR3.
pub unsafe fn write_cr3(value: u64) {
    // SAFETY: the caller's promise; no `nomem`, as memory changes its addresses.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Flushes one page of this CPU's TLB.
pub fn invlpg(virt: u64) {
    tlb::flush(VirtAddr::new_truncate(virt));
}

/// Flushes this CPU's TLB, global entries included.
pub fn flush_all() {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    let flags = Cr4::read();
    if flags.contains(Cr4Flags::PAGE_GLOBAL) {
        // SAFETY: clearing PGE flushes everything; it is set again at once.
        unsafe { Cr4::write(flags - Cr4Flags::PAGE_GLOBAL) };
        // SAFETY: the flags that were there before.
        unsafe { Cr4::write(flags) };
    } else {
        tlb::flush_all();
    }
}

/// The time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: every 64-bit CPU has it, and the kernel may always read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Stops for ever.
pub fn halt_forever() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

//! Interrupts on and off.
#![expect(unsafe_code, reason = "touches this CPU's data")]

use x86_64::instructions::interrupts as x86;

use super::percpu::this_cpu;

/// Are they on?
pub fn are_enabled() -> bool {
    x86::are_enabled()
}

/// Turns them on.
pub fn enable() {
    x86::enable();
}

/// Turns them off.
pub fn disable() {
    x86::disable();
}

/// Runs `f` with interrupts off.
pub fn without<R>(f: impl FnOnce() -> R) -> R {
    x86::without_interrupts(f)
}

/// Turns them on and waits for one, with none lost in between.
pub fn enable_and_wait() {
    x86::enable_and_hlt();
}

/// One more lock is about to be taken: interrupts off, and remember how they were if it is the first. Linux: `local_irq_save`.
#[inline]
pub fn push_off() {
    let were_on = x86::are_enabled();
    x86::disable();
    let this = this_cpu();
    // SAFETY: interrupts are off; only this CPU touches its data.
    let depth = unsafe { (*this).irq_off_depth };
    if depth == 0 {
        // SAFETY: as above.
        unsafe { (*this).irqs_were_on = were_on };
    }
    // SAFETY: as above.
    unsafe { (*this).irq_off_depth = depth + 1 };
}

/// A lock was released: the last one restores what the first found. Linux: `local_irq_restore`.
#[inline]
pub fn pop_off() {
    let this = this_cpu();
    // SAFETY: interrupts have been off since `push_off`; only this CPU touches its data.
    let depth = unsafe { (*this).irq_off_depth } - 1;
    // SAFETY: as above.
    unsafe { (*this).irq_off_depth = depth };
    // SAFETY: as above.
    if depth == 0 && unsafe { (*this).irqs_were_on } {
        x86::enable();
    }
}

/// An interrupt is being handled from here on, interrupts off. Linux: `irq_enter`.
pub(super) fn enter() {
    let this = this_cpu();
    // SAFETY: interrupts are off; only this CPU touches its data.
    unsafe { (*this).nr_interrupts += 1 };
}

/// It has been handled. Linux: `irq_exit`.
pub(super) fn leave() {
    let this = this_cpu();
    // SAFETY: as above.
    unsafe { (*this).nr_interrupts -= 1 };
}

/// Is an interrupt being handled? Linux: `in_hardirq`.
pub fn is_in_interrupt() -> bool {
    // SAFETY: read by the CPU that writes it.
    unsafe { (*this_cpu()).nr_interrupts > 0 }
}

/// How many IRQ-off locks this CPU holds.
pub fn off_depth() -> u32 {
    // SAFETY: read by the CPU that writes it.
    unsafe { (*this_cpu()).irq_off_depth }
}

//! Who called whom: the chain of frame pointers, symbolised where symbols are known.
//!
//! Every read of the chain may fault and is caught, so a corrupt stack shortens the list and does no harm.
#![expect(unsafe_code, reason = "reads RBP")]

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::trap::TrapFrame;
use super::{percpu, usercopy};
use crate::boot::image;
use crate::smp::MAX_CPUS;
use crate::symbols::Symbolised;

const MAX_FRAMES: usize = 4096;

/// Whose doing is being looked at on each CPU: the code that a page fault interrupted; null for the code that runs.
static INTERRUPTED: [AtomicPtr<TrapFrame>; MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

/// Calls `visit` with the return addresses found from the frame at `rbp`, innermost first.
fn walk(mut rbp: u64, mut visit: impl FnMut(u64)) {
    for _ in 0..MAX_FRAMES {
        if rbp == 0 || rbp % 8 != 0 || rbp < crate::boot::DIRECT_MAP {
            return;
        }
        let (Some(caller_rbp), Some(return_address)) =
            (usercopy::probe(rbp), usercopy::probe(rbp + 8))
        else {
            return;
        };
        if !image::text().contains(&return_address) {
            return;
        }
        visit(return_address);
        // Stacks grow down: a caller's frame lies above. So the chain ends, whatever is in it.
        if caller_rbp <= rbp {
            return;
        }
        rbp = caller_rbp;
    }
}

/// Prints the chain from `rbp`, numbered from `nr`; recursion is told in one line.
fn print_chain(rbp: u64, mut nr: usize) {
    let (mut last, mut nr_repeats) = (0, 0);
    let end_of_repeats = |nr_repeats: usize| {
        if nr_repeats > 0 {
            println!("       the same {nr_repeats} more times");
        }
    };
    walk(rbp, |address| {
        if address == last {
            nr_repeats += 1;
        } else {
            end_of_repeats(nr_repeats);
            print_line(nr, address);
            (last, nr_repeats) = (address, 0);
        }
        nr += 1;
    });
    end_of_repeats(nr_repeats);
}

fn print_line(nr: usize, address: u64) {
    println!("  #{nr:<2} {address:016x} {}", Symbolised(address));
}

/// Prints the caller's call chain.
#[inline(never)]
pub fn print_here() {
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    println!("call trace:");
    print_chain(rbp, 0);
}

/// Fills `addresses` with the caller's call chain, innermost first; returns how many. For who-allocated records.
#[inline(never)]
pub fn capture(addresses: &mut [u64]) -> usize {
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    let mut filled = 0;
    // SAFETY: `with_interrupted` runs on this CPU, below on the stack, with interrupts off.
    let culprit = unsafe { INTERRUPTED[cpu_index()].load(Ordering::Relaxed).as_ref() };
    if let (Some(frame), Some(first)) = (culprit, addresses.first_mut()) {
        *first = frame.rip;
        filled = 1;
    }
    walk(culprit.map_or(rbp, |frame| frame.rbp), |address| {
        if let Some(slot) = addresses.get_mut(filled) {
            *slot = address;
            filled += 1;
        }
    });
    filled
}

/// Calls `f`, in which [`capture`] gives the call chain of interrupted kernel code.
///
/// # Context
/// Interrupts off.
pub fn with_interrupted<R>(frame: &TrapFrame, f: impl FnOnce() -> R) -> R {
    let slot = &INTERRUPTED[cpu_index()];
    let before = slot.swap(ptr::from_ref(frame).cast_mut(), Ordering::Relaxed);
    let result = f();
    slot.store(before, Ordering::Relaxed);
    result
}

fn cpu_index() -> usize {
    percpu::cpu() as usize
}

/// Prints the call chain of interrupted kernel code.
pub fn print_interrupted(frame: &TrapFrame) {
    println!("call trace:");
    print_line(0, frame.rip);
    print_chain(frame.rbp, 1);
}

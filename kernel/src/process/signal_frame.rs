//! Calling handlers: what is put on the user's stack, and how it is taken back. Linux: arch/x86/kernel/signal_64.c.
//!
//! | offset from the frame | contents |
//! |---|---|
//! | 0 | where the handler returns to |
//! | 8 | `struct ucontext`: flags, link, alternate stack, registers, signal mask |
//! | 312 | `siginfo_t` |
//! | 440 and up, aligned | FXSAVE area |

use super::signal::{Action, Disposition, Signal, SignalSet};
use super::{ExitStatus, SignalInfo, Task, current};
use crate::arch::fpu::FpuState;
use crate::arch::{TrapFrame, usercopy};
use crate::syscall::{Errno, is_restartable};

const WORD: usize = 8;
const CONTEXT_AT: usize = WORD;
const ALT_STACK_AT: usize = CONTEXT_AT + 2 * WORD;
const REGISTERS_AT: usize = ALT_STACK_AT + 3 * WORD;
const SEGMENTS_AT: usize = REGISTERS_AT + 18 * WORD;
const FPU_POINTER_AT: usize = REGISTERS_AT + 23 * WORD;
const MASK_AT: usize = REGISTERS_AT + 32 * WORD;
const INFO_AT: usize = MASK_AT + WORD;
const INFO_BYTES: usize = 128;
const FRAME_BYTES: usize = INFO_AT + INFO_BYTES;
const FPU_BYTES: usize = 512;
/// Below the stack pointer, belongs to the interrupted function (System V ABI).
const RED_ZONE_BYTES: u64 = 128;
/// Linux: `UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const CONTEXT_FLAGS: u64 = 6;
const FLAG_DIRECTION: u64 = 1 << 10;
const FLAG_TRAP: u64 = 1 << 8;

const _: () = assert!(INFO_AT == 312 && FRAME_BYTES == 440);

/// Acts on the signals of the running task, which is about to return to user mode with `frame`.
pub fn deliver(task: &Task, frame: &mut TrapFrame) {
    let mut may_restart = interrupted_call(frame);
    while task.exit_requested().is_none() {
        let Some(signal) = task.signals.take_deliverable() else {
            break;
        };
        let action = task.actions.lock().get(signal);
        match action.disposition() {
            Disposition::Ignore => {}
            Disposition::End => task.request_exit(ExitStatus::signaled(signal)),
            Disposition::Handle => {
                if action.action.flags & Action::RESTART != 0 {
                    restart(frame, may_restart.take());
                }
                may_restart = None;
                if call_handler(task, frame, signal, action.action).is_err() {
                    task.request_exit(ExitStatus::signaled(Signal::SEGV));
                }
            }
        }
    }
    restart(frame, may_restart);
    let saved = task.signals.more.lock().saved_mask.take();
    if let Some(mask) = saved {
        task.signals.set_blocked(mask);
    }
}

/// Number of the call that `frame` comes from, if a signal ended it early.
fn interrupted_call(frame: &TrapFrame) -> Option<u64> {
    let was_interrupted = frame.is_syscall() && frame.rax == Errno::INTR.as_return_value();
    (was_interrupted && is_restartable(frame.syscall_nr())).then(|| frame.syscall_nr())
}

/// Makes the program execute `syscall` again.
fn restart(frame: &mut TrapFrame, call: Option<u64>) {
    const SYSCALL_INSTRUCTION_BYTES: u64 = 2;
    if let Some(number) = call {
        frame.rax = number;
        frame.rip -= SYSCALL_INSTRUCTION_BYTES;
    }
}

fn call_handler(
    task: &Task,
    frame: &mut TrapFrame,
    signal: Signal,
    action: Action,
) -> Result<(), Errno> {
    if action.flags & Action::RESTORER == 0 {
        return Err(Errno::FAULT);
    }
    let (fault, mask, alt_stack) = {
        let mut more = task.signals.more.lock();
        let fault = more
            .fault
            .take_if(|info| info.signo == i32::from(signal.number()));
        (
            fault,
            more.saved_mask
                .take()
                .unwrap_or_else(|| task.signals.blocked()),
            more.alt_stack,
        )
    };
    let on_alt_stack = frame.rsp.wrapping_sub(alt_stack.start) < alt_stack.size_bytes;
    let wants_alt_stack = action.flags & Action::ONSTACK != 0 && alt_stack.size_bytes != 0;
    let top = if wants_alt_stack && !on_alt_stack {
        alt_stack.start.wrapping_add(alt_stack.size_bytes)
    } else {
        frame.rsp.wrapping_sub(RED_ZONE_BYTES)
    };
    let fpu_at = top.wrapping_sub(FPU_BYTES as u64) & !63;
    let frame_at = (fpu_at.wrapping_sub(FRAME_BYTES as u64) & !15).wrapping_sub(WORD as u64);

    let mut fpu = FpuState::init();
    fpu.save();
    let mut bytes = [0; FRAME_BYTES];
    put(&mut bytes, 0, action.restorer);
    put(&mut bytes, CONTEXT_AT, CONTEXT_FLAGS);
    put(&mut bytes, ALT_STACK_AT, alt_stack.start);
    put(&mut bytes, ALT_STACK_AT + 2 * WORD, alt_stack.size_bytes);
    for (at, register) in registers(frame).into_iter().enumerate() {
        put(&mut bytes, REGISTERS_AT + at * WORD, *register);
    }
    put(&mut bytes, SEGMENTS_AT, frame.cs | frame.ss << 48);
    put(&mut bytes, SEGMENTS_AT + WORD, frame.error_code);
    put(&mut bytes, SEGMENTS_AT + 2 * WORD, frame.vector);
    put(&mut bytes, SEGMENTS_AT + 3 * WORD, mask.bits());
    put(
        &mut bytes,
        SEGMENTS_AT + 4 * WORD,
        fault.map_or(0, |info| info.addr),
    );
    put(&mut bytes, FPU_POINTER_AT, fpu_at);
    put(&mut bytes, MASK_AT, mask.bits());
    put_info(&mut bytes[INFO_AT..], signal, fault);
    usercopy::copy_to_user(fpu_at, fpu.bytes()).map_err(|_| Errno::FAULT)?;
    usercopy::copy_to_user(frame_at, &bytes).map_err(|_| Errno::FAULT)?;

    let itself = if action.flags & Action::NODEFER == 0 {
        signal.set()
    } else {
        SignalSet::default()
    };
    task.signals
        .set_blocked(mask.union(action.mask).union(itself));
    if action.flags & Action::RESETHAND != 0 {
        let mut actions = task.actions.lock();
        actions.set(signal, Action::default());
        task.signals.update_ignored(&actions);
    }
    frame.rip = action.handler;
    frame.rsp = frame_at;
    frame.rax = 0;
    frame.rdi = u64::from(signal.number());
    frame.rsi = frame_at + INFO_AT as u64;
    frame.rdx = frame_at + CONTEXT_AT as u64;
    frame.rflags &= !(FLAG_DIRECTION | FLAG_TRAP);
    Ok(())
}

/// Takes back what was interrupted by a handler that has returned. Linux: `rt_sigreturn`.
///
/// # Errors
/// [`Errno::FAULT`] if the frame cannot be read: the program is beyond help.
pub fn sigreturn(frame: &mut TrapFrame) -> Result<(), Errno> {
    let mut bytes = [0; INFO_AT];
    // The handler's `ret` has taken the first word.
    let frame_at = frame.rsp.wrapping_sub(WORD as u64);
    usercopy::copy_from_user(&mut bytes, frame_at).map_err(|_| Errno::FAULT)?;
    let fpu_at = get(&bytes, FPU_POINTER_AT);
    if fpu_at != 0 {
        let mut area = [0; FPU_BYTES];
        usercopy::copy_from_user(&mut area, fpu_at).map_err(|_| Errno::FAULT)?;
        FpuState::from_bytes(area).restore();
    }
    for (at, register) in registers_mut(frame).into_iter().enumerate() {
        *register = get(&bytes, REGISTERS_AT + at * WORD);
    }
    // Not a call that could start again; the way out checks segments and flags.
    frame.vector = 0;
    current()
        .signals
        .set_blocked(SignalSet::new(get(&bytes, MASK_AT)));
    Ok(())
}

/// The registers in the order of `struct sigcontext`.
fn registers(frame: &TrapFrame) -> [&u64; 18] {
    let f = frame;
    [
        &f.r8, &f.r9, &f.r10, &f.r11, &f.r12, &f.r13, &f.r14, &f.r15, &f.rdi, &f.rsi, &f.rbp,
        &f.rbx, &f.rdx, &f.rax, &f.rcx, &f.rsp, &f.rip, &f.rflags,
    ]
}

fn registers_mut(frame: &mut TrapFrame) -> [&mut u64; 18] {
    let f = frame;
    [
        &mut f.r8,
        &mut f.r9,
        &mut f.r10,
        &mut f.r11,
        &mut f.r12,
        &mut f.r13,
        &mut f.r14,
        &mut f.r15,
        &mut f.rdi,
        &mut f.rsi,
        &mut f.rbp,
        &mut f.rbx,
        &mut f.rdx,
        &mut f.rax,
        &mut f.rcx,
        &mut f.rsp,
        &mut f.rip,
        &mut f.rflags,
    ]
}

fn put_info(info: &mut [u8], signal: Signal, fault: Option<SignalInfo>) {
    const CODE_AT: usize = 8;
    const ADDR_AT: usize = 16;
    info[..4].copy_from_slice(&u32::from(signal.number()).to_le_bytes());
    if let Some(fault) = fault {
        info[CODE_AT..CODE_AT + 4].copy_from_slice(&fault.code.to_le_bytes());
        put(info, ADDR_AT, fault.addr);
    }
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + WORD].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[at..at + WORD]);
    u64::from_le_bytes(word)
}

//! Faults and other exceptions of programs.

use core::sync::atomic::{AtomicBool, Ordering};

use kmm::fault::{FaultCause, FaultError};
use kmm::frame::VirtAddr;
use x86_64::structures::idt::PageFaultErrorCode;

use super::signal::{Disposition, Signal};
use super::{ExitStatus, SignalInfo, Task, current, signal};
use crate::arch::TrapFrame;
use crate::heap;

static REPORTS: AtomicBool = AtomicBool::new(true);

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;

/// Serves a page fault at `addr`, of user mode or of a copy to or from it.
///
/// # Errors
/// The signal that a program gets for it; a copy fails instead. A program for which there is no page any more is ended:
/// that is noted already.
pub fn page_fault(
    frame: &TrapFrame,
    addr: u64,
    error: PageFaultErrorCode,
) -> Result<(), SignalInfo> {
    let _serving = heap::ForProgram::begin();
    let task = current();
    let Some(mm) = task.mm() else {
        return Err(SignalInfo {
            signo: i32::from(Signal::SEGV.number()),
            code: SEGV_MAPERR,
            addr,
        });
    };
    let cause = FaultCause::from_error_code(error.bits());
    let served = mm.space().fault(VirtAddr::new(addr), cause);
    let (signal, code) = match served {
        Ok(_) => return Ok(()),
        Err(FaultError::Segv(code)) => (Signal::SEGV, code.si_code()),
        Err(FaultError::Bus | FaultError::Owned(_)) => (Signal::BUS, BUS_ADRERR),
        Err(FaultError::OutOfMemory) => {
            end_for_memory(&task);
            (Signal::KILL, 0)
        }
        Err(error) => panic!(
            "{}: fault at {addr:#x}, ip {:#x}: {error}",
            task.name(),
            frame.rip
        ),
    };
    Err(SignalInfo {
        signo: i32::from(signal.number()),
        code,
        addr,
    })
}

/// No page can be had for `task`: it ends, so that the others live. Linux: `oom_kill_process`.
fn end_for_memory(task: &Task) {
    if task.exit_requested().is_some() {
        return;
    }
    task.request_exit(ExitStatus::signaled(Signal::KILL));
    if !REPORTS.load(Ordering::Relaxed) {
        return;
    }
    let stat = task.mm().map(|mm| mm.space().stat());
    let (total_vm, anon, file) = stat.map_or((0, 0, 0), |stat| {
        (
            stat.total_vm_pages,
            stat.usage.anon_pages,
            stat.usage.file_pages,
        )
    });
    println!(
        "Out of memory: Killed process {} ({}) total-vm:{}kB, anon-rss:{}kB, file-rss:{}kB",
        task.pid,
        task.name(),
        total_vm * 4,
        anon * 4,
        file * 4
    );
}

/// A program did what it may not: its handler will run, or it ends with one line said about it.
pub fn on_user_exception(frame: &mut TrapFrame, info: SignalInfo) {
    let task = current();
    if task.exit_requested().is_some() {
        return;
    }
    let signal = u32::try_from(info.signo)
        .ok()
        .and_then(Signal::new)
        .unwrap_or(Signal::SEGV);
    let action = task.actions.lock().get(signal);
    let is_caught =
        action.disposition() == Disposition::Handle && !task.signals.blocked().has(signal);
    if is_caught {
        task.signals.more.lock().fault = Some(info);
        signal::post(&task, signal);
        return;
    }
    report(&task, frame, signal, info);
    task.request_exit(ExitStatus::signaled(signal));
}

/// Says no more, or again, that programs did what they may not. Linux: `debug.exception-trace`.
pub(super) fn set_reports(reports: bool) {
    REPORTS.store(reports, Ordering::Relaxed);
}

/// Linux: `show_signal_msg`.
fn report(task: &Task, frame: &TrapFrame, signal: Signal, info: SignalInfo) {
    if !REPORTS.load(Ordering::Relaxed) {
        return;
    }
    let (pid, name, addr) = (task.pid, task.name(), info.addr);
    let code = match (signal, info.code) {
        (Signal::SEGV, SEGV_MAPERR) => "MAPERR",
        (Signal::SEGV, SEGV_ACCERR) => "ACCERR",
        (Signal::BUS, BUS_ADRERR) => "ADRERR",
        _ => "KERNEL",
    };
    println!(
        "{name}[{pid}]: {signal} ({code}) at {addr:#x} ip {:#x} sp {:#x} error {:x}",
        frame.rip, frame.rsp, frame.error_code
    );
}

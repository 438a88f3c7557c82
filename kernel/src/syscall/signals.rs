//! Calls about signals.

use super::user;
use super::{Call, Errno, Outcome};
use crate::process::{
    self, Action, AltStack, Channel, Pid, Signal, SignalSet, post_signal, signal_group,
};

const SET_BYTES: u64 = 8;
const SIG_BLOCK: u64 = 0;
const SIG_UNBLOCK: u64 = 1;
const SIG_SETMASK: u64 = 2;
const SS_ONSTACK: u64 = 1;
const SS_DISABLE: u64 = 2;
const ALT_STACK_MIN_BYTES: u64 = 2048;

fn signal(number: u64) -> Result<Signal, Errno> {
    Signal::new(user::low(number)).ok_or(Errno::INVAL)
}

fn check_set_size(size_bytes: u64) -> Result<(), Errno> {
    if size_bytes == SET_BYTES {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

pub(super) fn sigaction(
    call: &Call<'_>,
    number: u64,
    new: u64,
    old: u64,
    set_size: u64,
) -> Outcome {
    check_set_size(set_size)?;
    let signal = signal(number)?;
    let new: Option<[u64; 4]> = if new == 0 {
        None
    } else {
        Some(user::get(new)?)
    };
    let before = {
        let mut actions = call.task.actions.lock();
        let before = actions.get(signal).action;
        if let Some([handler, flags, restorer, mask]) = new {
            if !actions.set(
                signal,
                Action {
                    handler,
                    flags,
                    restorer,
                    mask: SignalSet::new(mask),
                },
            ) {
                return Err(Errno::INVAL);
            }
            call.task.signals.update_ignored(&actions);
        }
        before
    };
    if old != 0 {
        user::put_words(
            old,
            &[
                before.handler,
                before.flags,
                before.restorer,
                before.mask.bits(),
            ],
        )?;
    }
    Ok(0)
}

pub(super) fn sigprocmask(call: &Call<'_>, how: u64, new: u64, old: u64, set_size: u64) -> Outcome {
    check_set_size(set_size)?;
    let signals = &call.task.signals;
    let before = signals.blocked();
    if new != 0 {
        let set = SignalSet::new(user::get(new)?);
        signals.set_blocked(match how {
            SIG_BLOCK => before.union(set),
            SIG_UNBLOCK => before.minus(set),
            SIG_SETMASK => set,
            _ => return Err(Errno::INVAL),
        });
    }
    user::put_if(old, before.bits())?;
    Ok(0)
}

pub(super) fn sigpending(call: &Call<'_>, addr: u64, set_size: u64) -> Outcome {
    if set_size > SET_BYTES {
        return Err(Errno::INVAL);
    }
    let pending = call.task.signals.pending().bits() & call.task.signals.blocked().bits();
    user::put(addr, pending)?;
    Ok(0)
}

pub(super) fn sigsuspend(call: &Call<'_>, set: u64, set_size: u64) -> Outcome {
    check_set_size(set_size)?;
    let set = SignalSet::new(user::get(set)?);
    call.task.signals.suspend_with(set);
    pause()
}

/// Waits for a signal: never returns anything but [`Errno::INTR`].
pub(super) fn pause() -> Outcome {
    process::wait_until(Channel::TIME, || None)
}

pub(super) fn sigreturn(call: &mut Call<'_>) -> Outcome {
    if process::sigreturn(call.frame).is_err() {
        call.task
            .request_exit(process::ExitStatus::signaled(Signal::SEGV));
    }
    Ok(call.frame.rax)
}

pub(super) fn sigaltstack(call: &Call<'_>, new: u64, old: u64) -> Outcome {
    let before = call.task.signals.alt_stack();
    let is_on_it = call.frame.rsp.wrapping_sub(before.start) < before.size_bytes;
    let new: Option<[u64; 3]> = if new == 0 {
        None
    } else {
        Some(user::get(new)?)
    };
    if let Some([start, flags, size_bytes]) = new {
        if is_on_it {
            return Err(Errno::PERM);
        }
        call.task
            .signals
            .set_alt_stack(match flags & u64::from(u32::MAX) {
                SS_DISABLE => AltStack::default(),
                0 | SS_ONSTACK if size_bytes < ALT_STACK_MIN_BYTES => return Err(Errno::NOMEM),
                0 | SS_ONSTACK => AltStack { start, size_bytes },
                _ => return Err(Errno::INVAL),
            });
    }
    if old != 0 {
        let flags = match (before.size_bytes, is_on_it) {
            (0, _) => SS_DISABLE,
            (_, true) => SS_ONSTACK,
            _ => 0,
        };
        user::put_words(old, &[before.start, flags, before.size_bytes])?;
    }
    Ok(0)
}

pub(super) fn kill(call: &Call<'_>, pid: u64, number: u64) -> Outcome {
    // 0 only asks whether there is somebody.
    let signal = if number & u64::from(u32::MAX) == 0 {
        None
    } else {
        Some(signal(number)?)
    };
    let found = match user::int(pid) {
        pid @ 1.. => {
            let task = process::find_task(Pid::new(pid.unsigned_abs())).ok_or(Errno::SRCH)?;
            if let Some(signal) = signal {
                post_signal(&task, signal);
            }
            true
        }
        0 => to_group(call.task.group(), signal),
        -1 => to_all(call, signal),
        group => to_group(Pid::new(group.unsigned_abs()), signal),
    };
    if found { Ok(0) } else { Err(Errno::SRCH) }
}

fn to_group(group: Pid, signal: Option<Signal>) -> bool {
    match signal {
        Some(signal) => signal_group(group, signal),
        None => {
            let mut found = false;
            process::for_each_task(|task| found |= task.group() == group);
            found
        }
    }
}

/// All but the caller and the first task.
fn to_all(call: &Call<'_>, signal: Option<Signal>) -> bool {
    let mut groups_of_others = alloc::vec::Vec::new();
    let mut count = 0;
    process::for_each_task(|_| count += 1);
    if groups_of_others.try_reserve_exact(count).is_err() {
        return false;
    }
    process::for_each_task(|task| {
        if task.pid != call.task.pid && task.pid != Pid::FIRST && !task.is_kernel_thread() {
            groups_of_others.push(alloc::sync::Arc::clone(task));
        }
    });
    for task in &groups_of_others {
        if let Some(signal) = signal {
            post_signal(task, signal);
        }
    }
    !groups_of_others.is_empty()
}

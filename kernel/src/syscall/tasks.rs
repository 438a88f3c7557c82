//! Calls about processes.

use core::sync::atomic::Ordering;

use super::user;
use super::{Call, Errno, Outcome};
use crate::arch::{self, timer};
use crate::process::{self, Clone, ExitStatus, FILES_MAX, Patience, Pid, Task, WaitFor};

/// Most bytes of arguments, and of the environment. Together they are checked when the stack is built.
const STRINGS_BYTES_MAX: usize = 128 << 10;
const WNOHANG: u64 = 1;
const WUNTRACED: u64 = 2;
const WCONTINUED: u64 = 8;
const CLONE_WAIT_BITS: u64 = 0xe000_0000;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
const PR_SET_NAME: u64 = 15;
const PR_GET_NAME: u64 = 16;
const RUSAGE_SELF: u64 = 0;
const RUSAGE_CHILDREN: u64 = u64::MAX;
const RUSAGE_THREAD: u64 = 1;
const RUSAGE_WORDS: usize = 18;
const RLIMIT_STACK: u64 = 3;
const RLIMIT_NOFILE: u64 = 7;
const RLIMITS: u64 = 16;
const USER_END: u64 = arch::USER_END;

pub(super) fn clone(
    call: &Call<'_>,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> Outcome {
    let request = Clone {
        flags,
        stack,
        parent_tid,
        child_tid,
        tls,
    };
    process::fork(call.frame, request).map(|pid| u64::from(pid.get()))
}

pub(super) fn fork(call: &Call<'_>) -> Outcome {
    process::fork(call.frame, Clone::default()).map(|pid| u64::from(pid.get()))
}

pub(super) fn vfork(call: &Call<'_>) -> Outcome {
    let request = Clone {
        flags: Clone::VM | Clone::VFORK,
        ..Clone::default()
    };
    process::fork(call.frame, request).map(|pid| u64::from(pid.get()))
}

pub(super) fn execve(call: &mut Call<'_>, path: u64, args: u64, env: u64) -> Outcome {
    let path = user::path(path)?;
    process::check_executable(&path)?;
    let args = user::strings(args, STRINGS_BYTES_MAX)?;
    let env = user::strings(env, STRINGS_BYTES_MAX)?;
    process::exec(call.frame, &path, args, env)?;
    Ok(0)
}

pub(super) fn exit(call: &Call<'_>, code: u64) -> Outcome {
    call.task
        .request_exit(ExitStatus::exited(code.to_le_bytes()[0]));
    Ok(0)
}

pub(super) fn wait4(call: &Call<'_>, pid: u64, status: u64, options: u64, usage: u64) -> Outcome {
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | CLONE_WAIT_BITS) != 0 {
        return Err(Errno::INVAL);
    }
    let which = match user::int(pid) {
        -1 => WaitFor::Any,
        0 => WaitFor::Group(call.task.group()),
        pid @ 1.. => WaitFor::Child(Pid::new(pid.unsigned_abs())),
        group => WaitFor::Group(Pid::new(group.unsigned_abs())),
    };
    let patience = if options & WNOHANG != 0 {
        Patience::Poll
    } else {
        Patience::Wait
    };
    let Some(ended) = process::wait_for(which, patience)? else {
        return Ok(0);
    };
    let bits = ended.exit_requested().map_or(0, ExitStatus::bits);
    user::put_if(status, bits)?;
    if usage != 0 {
        user::put_words(usage, &rusage(&ended, Whose::AndChildren))?;
    }
    Ok(u64::from(ended.pid.get()))
}

/// The task that a call names; 0 for the caller.
fn named(call: &Call<'_>, pid: u64) -> Result<alloc::sync::Arc<Task>, Errno> {
    match user::low(pid) {
        0 => Ok(alloc::sync::Arc::clone(&call.task)),
        pid => process::find_task(Pid::new(pid)).ok_or(Errno::SRCH),
    }
}

pub(super) fn getpgid(call: &Call<'_>, pid: u64) -> Outcome {
    Ok(u64::from(named(call, pid)?.group().get()))
}

pub(super) fn getsid(call: &Call<'_>, pid: u64) -> Outcome {
    Ok(u64::from(named(call, pid)?.session().get()))
}

pub(super) fn setpgid(call: &Call<'_>, pid: u64, group: u64) -> Outcome {
    let task = named(call, pid)?;
    let group = match user::low(group) {
        0 => task.pid,
        group if i32::try_from(group).is_err() => return Err(Errno::INVAL),
        group => Pid::new(group),
    };
    if task.pid != call.task.pid && task.parent() != call.task.pid {
        return Err(Errno::SRCH);
    }
    let mut exists = group == task.pid;
    process::for_each_task(|other| {
        exists |= other.group() == group && other.session() == task.session()
    });
    if task.session() != call.task.session() || task.session() == task.pid || !exists {
        return Err(Errno::PERM);
    }
    task.set_group(group);
    Ok(0)
}

pub(super) fn setsid(call: &Call<'_>) -> Outcome {
    let mut leads = false;
    process::for_each_task(|other| leads |= other.group() == call.task.pid);
    if leads {
        return Err(Errno::PERM);
    }
    call.task.start_session();
    Ok(u64::from(call.task.pid.get()))
}

pub(super) fn arch_prctl(_call: &Call<'_>, code: u64, addr: u64) -> Outcome {
    match code {
        ARCH_SET_FS | ARCH_SET_GS if addr >= USER_END => return Err(Errno::PERM),
        ARCH_SET_FS => _ = arch::set_fs_base(addr),
        ARCH_SET_GS => _ = arch::set_user_gs_base(addr),
        ARCH_GET_FS => user::put(addr, arch::fs_base())?,
        ARCH_GET_GS => user::put(addr, arch::user_gs_base())?,
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}

pub(super) fn prctl(call: &Call<'_>, option: u64, argument: u64) -> Outcome {
    match option {
        PR_SET_NAME => {
            let name = user::string(argument, process::NAME_BYTES, Errno::INVAL);
            let name = match name {
                // A longer one is cut.
                Err(Errno::INVAL) => user::bytes(argument, process::NAME_BYTES - 1)?,
                name => name?,
            };
            call.task.set_name(&name);
        }
        PR_GET_NAME => {
            let mut bytes = [0; process::NAME_BYTES];
            let name = call.task.name();
            bytes[..name.as_bytes().len()].copy_from_slice(name.as_bytes());
            user::put_bytes(argument, &bytes)?;
        }
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Children,
    AndChildren,
}

fn rusage(task: &Task, whose: Whose) -> [u64; RUSAGE_WORDS] {
    const MICROSECONDS_PER_TICK: u64 = 1_000_000 / timer::HZ;
    let times = &task.times;
    let own = [&times.user, &times.system].map(|ticks| ticks.load(Ordering::Relaxed));
    let children =
        [&times.children_user, &times.children_system].map(|ticks| ticks.load(Ordering::Relaxed));
    let [user, system] = match whose {
        Whose::Own => own,
        Whose::Children => children,
        Whose::AndChildren => [own[0] + children[0], own[1] + children[1]],
    };
    let mut words = [0; RUSAGE_WORDS];
    for (at, ticks) in [user, system].into_iter().enumerate() {
        words[at * 2] = ticks / timer::HZ;
        words[at * 2 + 1] = ticks % timer::HZ * MICROSECONDS_PER_TICK;
    }
    if let (Some(mm), true) = (task.mm(), whose != Whose::Children) {
        let usage = mm.space().stat().usage;
        words[4] = kmm::procfs::pages_to_kb(usage.rss_pages());
        (words[8], words[9]) = (usage.min_flt, usage.maj_flt);
    }
    words
}

pub(super) fn getrusage(call: &Call<'_>, who: u64, addr: u64) -> Outcome {
    let whose = match i64::from(user::int(who)) as u64 {
        RUSAGE_SELF | RUSAGE_THREAD => Whose::Own,
        RUSAGE_CHILDREN => Whose::Children,
        _ => return Err(Errno::INVAL),
    };
    user::put_words(addr, &rusage(&call.task, whose))?;
    Ok(0)
}

pub(super) fn times(call: &Call<'_>, addr: u64) -> Outcome {
    let times = &call.task.times;
    let all = [
        &times.user,
        &times.system,
        &times.children_user,
        &times.children_system,
    ];
    if addr != 0 {
        user::put_words(addr, &all.map(|ticks| ticks.load(Ordering::Relaxed)))?;
    }
    Ok(timer::ticks())
}

/// Limits can be asked for; they cannot be changed.
pub(super) fn prlimit(call: &Call<'_>, pid: u64, resource: u64, new: u64, old: u64) -> Outcome {
    let task = named(call, pid)?;
    let limit = match resource {
        RLIMIT_STACK => task
            .mm()
            .map_or(u64::MAX, |mm| mm.space().mm().limits().stack_bytes),
        RLIMIT_NOFILE => FILES_MAX as u64,
        0..RLIMITS => u64::MAX,
        _ => return Err(Errno::INVAL),
    };
    if new != 0 {
        let [soft, hard]: [u64; 2] = user::get(new)?;
        if soft > hard {
            return Err(Errno::INVAL);
        }
        if (soft, hard) != (limit, limit) {
            return Err(Errno::PERM);
        }
    }
    if old != 0 {
        user::put_words(old, &[limit, limit])?;
    }
    Ok(0)
}

//! How tasks end, and how their parents learn of it. Linux: kernel/exit.c.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::scheduler::{self, Channel, Interruptible, current, find_task, for_each_task, wake};
use super::signal::{self, Signal};
use super::task::{Pid, State, Task};
use crate::syscall::Errno;

/// How a task ended, in the bits that `wait` gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitStatus(u32);

impl ExitStatus {
    /// It ended by itself.
    pub const fn exited(code: u8) -> Self {
        Self((code as u32) << 8)
    }

    /// A signal ended it.
    pub const fn signaled(signal: Signal) -> Self {
        Self(signal.number() as u32)
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// As `wait` gives it.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The signal that ended it.
    pub const fn signal(self) -> Option<Signal> {
        Signal::new(self.0 & 0x7f)
    }

    /// As a shell tells it: the code, or 128 and the signal's number.
    pub fn shell_status(self) -> i32 {
        match self.signal() {
            Some(signal) => 128 + i32::from(signal.number()),
            None => i32::from(self.0.to_le_bytes()[1]),
        }
    }
}

/// Which children to wait for. Linux: the first argument of `wait4`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// Any.
    Any,
    /// One.
    Child(Pid),
    /// Any of a process group.
    Group(Pid),
}

impl WaitFor {
    fn matches(self, task: &Task) -> bool {
        match self {
            Self::Any => true,
            Self::Child(pid) => task.pid == pid,
            Self::Group(group) => task.group() == group,
        }
    }
}

/// May the call wait?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Until a child has ended.
    Wait,
    /// No: `None` if none has.
    Poll,
}

/// Waits for a child to end, and forgets it. Linux: `wait4`.
///
/// # Errors
/// [`Errno::CHILD`] if there is no such child, [`Errno::INTR`] if a signal came first.
pub fn wait_for(which: WaitFor, patience: Patience) -> Result<Option<Arc<Task>>, Errno> {
    let me = current();
    let look = || match find_child(&me, which) {
        (Some(ended), _) => Some(Ok(Some(ended))),
        (None, false) => Some(Err(Errno::CHILD)),
        (None, true) if patience == Patience::Poll => Some(Ok(None)),
        (None, true) => None,
    };
    let ended = scheduler::wait_until(child_channel(&me), look)??;
    if let Some(ended) = &ended {
        reap(&me, ended);
    }
    Ok(ended)
}

/// Waits for a child of a kernel thread; how it ended. `None` if there is no such child.
pub fn wait(pid: Pid) -> Option<ExitStatus> {
    let ended = wait_for(WaitFor::Child(pid), Patience::Wait).ok()??;
    ended.exit_requested()
}

/// Forgets all children of the running task that have ended.
pub fn reap_all() {
    while let Ok(Some(_)) = wait_for(WaitFor::Any, Patience::Poll) {}
}

/// An ended child that matches, and whether there is any that matches.
fn find_child(me: &Task, which: WaitFor) -> (Option<Arc<Task>>, bool) {
    let (mut ended, mut any) = (None, false);
    for_each_task(|task| {
        if task.parent() == me.pid && which.matches(task) {
            any = true;
            if ended.is_none() && task.state() == State::Zombie {
                ended = Some(Arc::clone(task));
            }
        }
    });
    (ended, any)
}

fn reap(me: &Task, child: &Task) {
    for (mine, own, of_children) in [
        (
            &me.times.children_user,
            &child.times.user,
            &child.times.children_user,
        ),
        (
            &me.times.children_system,
            &child.times.system,
            &child.times.children_system,
        ),
    ] {
        mine.fetch_add(
            own.load(Ordering::Relaxed) + of_children.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
    }
    scheduler::remove(child.pid);
}

fn child_channel(parent: &Task) -> Channel {
    Channel::of(parent)
}

/// Ends the running task. Its callers own nothing that has to be dropped.
pub(super) fn exit_current(status: ExitStatus) -> ! {
    let keep = {
        let task = current();
        task.request_exit(status);
        release(&task);
        orphan_children(&task);
        notify_parent(&task)
    };
    scheduler::leave(keep)
}

/// Gives back what the task had, apart from what is needed to tell how it ended.
fn release(task: &Task) {
    let files = core::mem::take(&mut *task.files.lock());
    drop(files);
    release_mm(task);
}

/// Lets go of the task's memory, for a parent that waits in vfork too.
fn release_mm(task: &Task) {
    let old = task.replace_mm(None);
    task.activate_mm();
    drop(old);
    finish_vfork(task);
}

/// The task no longer uses the memory that it borrowed in vfork: its parent may go on.
pub(super) fn finish_vfork(task: &Task) {
    if task.vfork_pending.swap(false, Ordering::Relaxed) {
        wake(Channel::of(&task.vfork_pending));
    }
}

/// Waits until `child` no longer uses our memory.
pub(super) fn wait_for_vfork(me: &Task, child: &Task) {
    while child.vfork_pending.load(Ordering::Relaxed) {
        scheduler::block(
            me,
            Channel::of(&child.vfork_pending),
            None,
            Interruptible::No,
        );
    }
}

fn orphan_children(task: &Task) {
    loop {
        let mut ended = None;
        for_each_task(|child| {
            if child.parent() == task.pid {
                child.set_parent(Pid::FIRST);
                child.is_orphan.store(true, Ordering::Relaxed);
            }
            if child.state() == State::Zombie && child.is_orphan.load(Ordering::Relaxed) {
                ended = Some(child.pid);
            }
        });
        match ended {
            Some(pid) => scheduler::remove(pid),
            None => return,
        }
    }
}

/// Tells the parent. Whether it will ask how the task ended.
fn notify_parent(task: &Task) -> bool {
    if task.is_orphan.load(Ordering::Relaxed) {
        return false;
    }
    let Some(parent) = find_task(task.parent()) else {
        return false;
    };
    if parent
        .actions
        .lock()
        .get(Signal::CHLD)
        .is_ignored_on_request()
    {
        wake(child_channel(&parent));
        return false;
    }
    // Woken now, it looks only when this task has switched away, as a zombie.
    signal::post(&parent, Signal::CHLD);
    wake(child_channel(&parent));
    true
}

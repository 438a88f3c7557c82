//! New processes from old ones. Linux: kernel/fork.c.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::space::with_mm;
use super::task::{Blueprint, FsContext, Pid, Task};
use super::{Mm, current, scheduler, wait};
use crate::arch::{TrapFrame, usercopy};
use crate::syscall::Errno;

/// What the child shares, and what it is given. Linux: `struct kernel_clone_args`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clone {
    /// Linux: `CLONE_*`, with the signal at exit in the low byte.
    pub flags: u64,
    /// The child's stack pointer; 0 for the parent's.
    pub stack: u64,
    /// Where the parent stores the child's number.
    pub parent_tid: u64,
    /// Where the child stores it.
    pub child_tid: u64,
    /// The child's FS base.
    pub tls: u64,
}

impl Clone {
    /// The child uses the parent's memory itself, not a copy.
    pub const VM: u64 = 0x100;
    /// Likewise working directory and umask.
    pub const FS: u64 = 0x200;
    /// Likewise the table of open files.
    pub const FILES: u64 = 0x400;
    /// Likewise signal handlers.
    pub const SIGHAND: u64 = 0x800;
    /// The parent waits until the child executes a program or ends.
    pub const VFORK: u64 = 0x4000;
    /// The child is a thread.
    pub const THREAD: u64 = 0x1_0000;
    /// `tls` is given.
    pub const SETTLS: u64 = 0x8_0000;
    /// `parent_tid` is given.
    pub const PARENT_SETTID: u64 = 0x10_0000;
    /// `child_tid` is given.
    pub const CHILD_SETTID: u64 = 0x100_0000;

    /// Threads are not served: a task has one.
    const UNSERVED: u64 = Self::FS | Self::FILES | Self::SIGHAND | Self::THREAD;
}

/// Makes a child of the running task, which goes on from the same system call with 0. Linux: `kernel_clone`.
///
/// # Errors
/// [`Errno::INVAL`] for what is shared that cannot be, [`Errno::NOMEM`], [`Errno::AGAIN`] with too many tasks.
pub fn fork(frame: &TrapFrame, clone: Clone) -> Result<Pid, Errno> {
    let shares_memory = clone.flags & Clone::VM != 0;
    let is_vfork = clone.flags & Clone::VFORK != 0;
    if clone.flags & Clone::UNSERVED != 0 || (shares_memory && !is_vfork) {
        return Err(Errno::INVAL);
    }
    let parent = current();
    let parent_mm = parent.mm().ok_or(Errno::INVAL)?;
    let mm = if shares_memory {
        Arc::clone(&parent_mm)
    } else {
        parent_mm.fork()?
    };
    let child = new_child(&parent, frame, clone, &mm)?;
    let pid = child.pid;
    child.vfork_pending.store(is_vfork, Ordering::Relaxed);
    if clone.flags & Clone::CHILD_SETTID != 0 {
        // As Linux has it, a bad address is the child's own trouble.
        let _ = with_mm(&mm, || usercopy::put_user(clone.child_tid, pid.get()));
    }
    if clone.flags & Clone::PARENT_SETTID != 0 {
        usercopy::put_user(clone.parent_tid, pid.get()).map_err(|_| Errno::FAULT)?;
    }
    scheduler::add(Arc::clone(&child))?;
    if is_vfork {
        wait::wait_for_vfork(&parent, &child);
    }
    Ok(pid)
}

fn new_child(
    parent: &Task,
    frame: &TrapFrame,
    clone: Clone,
    mm: &Arc<Mm>,
) -> Result<Arc<Task>, Errno> {
    let mut child_frame = *frame;
    child_frame.rax = 0;
    if clone.stack != 0 {
        child_frame.rsp = clone.stack;
    }
    let fs = {
        let fs = parent.fs.lock();
        FsContext {
            cwd: fs.cwd.clone(),
            umask: fs.umask,
        }
    };
    let mut name = [0; super::task::NAME_BYTES];
    let parent_name = parent.name();
    name[..parent_name.as_bytes().len()].copy_from_slice(parent_name.as_bytes());
    let blueprint = Blueprint {
        name,
        parent: parent.pid,
        group_and_session: Some((parent.group(), parent.session())),
        fs,
        files: parent.files.lock().fork()?,
        actions: parent.actions.lock().clone(),
        signals: parent.signals.fork(),
        mm: Some(Arc::clone(mm)),
    };
    let tls = (clone.flags & Clone::SETTLS != 0).then_some(clone.tls);
    if tls.is_some_and(|tls| !usercopy::is_user_range(tls, 0)) {
        return Err(Errno::PERM);
    }
    Task::new_user(blueprint, &child_frame, Some(tls))
}

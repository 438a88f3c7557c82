//! What the kernel knows of a process. Linux: `struct task_struct`. One thread each.
#![expect(unsafe_code, reason = "shares saved registers with the scheduler")]

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use super::files::FdTable;
use super::scheduler::{self, Channel};
use super::signal::{Actions, Signals};
use super::space::Mm;
use super::wait::{self, ExitStatus};
use crate::arch::{Context, TrapFrame, timer};
use crate::fallible;
use crate::fs::Place;
use crate::mm::{self, KernelStack};
use crate::syscall::Errno;

/// Longest name, with its end. Linux: `TASK_COMM_LEN`.
pub const NAME_BYTES: usize = 16;
const DEFAULT_UMASK: u32 = 0o022;

/// Number of a process, and of a process group or session by its first process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pid(u32);

impl Pid {
    /// The scheduler's own task.
    pub const IDLE: Self = Self(0);
    /// The first task: children whose parent has ended become its own.
    pub const FIRST: Self = Self(1);

    /// The process with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a task can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It runs, or could.
    Ready,
    /// It waits for something.
    Blocked,
    /// It has ended, and its parent has not asked how.
    Zombie,
}

impl State {
    /// The letter of /proc/PID/stat.
    pub const fn letter(self) -> char {
        match self {
            Self::Ready => 'R',
            Self::Blocked => 'S',
            Self::Zombie => 'Z',
        }
    }
}

/// What the scheduler knows. Written under its lock.
#[derive(Debug)]
pub(super) struct Run {
    state: AtomicU8,
    channel: AtomicU64,
    wake_at_ns: AtomicU64,
}

/// Where relative paths start, and what new files may be.
#[derive(Debug)]
pub struct FsContext {
    /// The working directory.
    pub cwd: Place,
    /// Permissions that new files do not get.
    pub umask: u32,
}

/// Time spent, in ticks.
#[derive(Debug, Default)]
pub struct Times {
    /// In user mode.
    pub user: AtomicU64,
    /// In the kernel.
    pub system: AtomicU64,
    /// By children that were waited for, in user mode.
    pub children_user: AtomicU64,
    /// Likewise in the kernel.
    pub children_system: AtomicU64,
}

/// A process.
pub struct Task {
    /// Its number.
    pub pid: Pid,
    /// When it was made.
    pub start_ns: u64,
    /// Where relative paths start.
    pub fs: Mutex<FsContext>,
    /// What it has open.
    pub files: Mutex<FdTable>,
    /// What it does on signals.
    pub actions: Mutex<Actions>,
    /// Signals that it has got and those it holds off.
    pub signals: Signals,
    /// Time spent.
    pub times: Times,
    /// Ended parents are replaced by the first task, which asks no child how it ended.
    pub(super) is_orphan: AtomicBool,
    /// A parent waits in vfork until this task lets go of its memory.
    pub(super) vfork_pending: AtomicBool,
    pub(super) run: Run,
    is_kernel: bool,
    name: Mutex<[u8; NAME_BYTES]>,
    mm: Mutex<Option<Arc<Mm>>>,
    parent: AtomicU32,
    group: AtomicU32,
    session: AtomicU32,
    /// How it has ended or is to end; [`NOT_ENDED`] before.
    exit_status: AtomicU32,
    context: UnsafeCell<Context>,
    stack: Option<KernelStack>,
}

const NOT_ENDED: u32 = u32::MAX;

// SAFETY: `context` is reached only by `context()`, whose one caller is the scheduler, with interrupts off.
unsafe impl Sync for Task {}

/// What a new task gets from the one that makes it.
pub(super) struct Blueprint {
    pub name: [u8; NAME_BYTES],
    pub parent: Pid,
    /// Its own number if `None`.
    pub group_and_session: Option<(Pid, Pid)>,
    pub fs: FsContext,
    pub files: FdTable,
    pub actions: Actions,
    pub signals: Signals,
    pub mm: Option<Arc<Mm>>,
}

impl Blueprint {
    /// A task with nothing.
    pub(super) fn bare(name: &str, parent: Pid) -> Self {
        Self {
            name: short_name(name.as_bytes()),
            parent,
            group_and_session: None,
            fs: FsContext {
                cwd: Place::root(),
                umask: DEFAULT_UMASK,
            },
            files: FdTable::default(),
            actions: Actions::default(),
            signals: Signals::default(),
            mm: None,
        }
    }
}

/// The start of a name, with zero bytes after it.
pub(super) fn short_name(name: &[u8]) -> [u8; NAME_BYTES] {
    let mut short = [0; NAME_BYTES];
    let len = name.len().min(NAME_BYTES - 1);
    short[..len].copy_from_slice(&name[..len]);
    short
}

impl Task {
    /// A task that is not known to the scheduler yet.
    pub(super) fn new(
        blueprint: Blueprint,
        stack: Option<KernelStack>,
        context: Context,
        is_kernel: bool,
    ) -> Result<Arc<Self>, Errno> {
        let pid = scheduler::new_pid();
        let (group, session) = blueprint.group_and_session.unwrap_or((pid, pid));
        fallible::arc(Self {
            pid,
            start_ns: timer::now_ns(),
            fs: Mutex::new(blueprint.fs),
            files: Mutex::new(blueprint.files),
            actions: Mutex::new(blueprint.actions),
            signals: blueprint.signals,
            times: Times::default(),
            is_orphan: AtomicBool::new(false),
            vfork_pending: AtomicBool::new(false),
            run: Run {
                state: AtomicU8::new(State::Ready as u8),
                channel: AtomicU64::new(0),
                wake_at_ns: AtomicU64::new(u64::MAX),
            },
            is_kernel,
            name: Mutex::new(blueprint.name),
            mm: Mutex::new(blueprint.mm),
            parent: AtomicU32::new(blueprint.parent.get()),
            group: AtomicU32::new(group.get()),
            session: AtomicU32::new(session.get()),
            exit_status: AtomicU32::new(NOT_ENDED),
            context: UnsafeCell::new(context),
            stack,
        })
    }

    /// A task that enters user mode with `frame`; `fork` says whether it inherits FPU and segment bases from the running task.
    pub(super) fn new_user(
        blueprint: Blueprint,
        frame: &TrapFrame,
        fork: Option<Option<u64>>,
    ) -> Result<Arc<Self>, Errno> {
        let stack = mm::alloc_kernel_stack().ok_or(Errno::NOMEM)?;
        let context = match fork {
            None => {
                // SAFETY: the stack is new, mapped in the kernel's half, and kept by the task.
                unsafe { Context::new_user_thread(stack.top(), frame) }
            }
            Some(fs_base) => {
                // SAFETY: as above.
                let mut context = unsafe { Context::fork_user_thread(stack.top(), frame) };
                if let Some(fs_base) = fs_base {
                    context.set_fs_base(fs_base);
                }
                context
            }
        };
        Self::new(blueprint, Some(stack), context, false)
    }

    /// Does it run in the kernel only?
    pub fn is_kernel_thread(&self) -> bool {
        self.is_kernel
    }

    /// Its name. Linux: `comm`.
    pub fn name(&self) -> TaskName {
        TaskName(*self.name.lock())
    }

    /// Changes its name; what is too long is cut.
    pub fn set_name(&self, name: &[u8]) {
        *self.name.lock() = short_name(name);
    }

    /// Its address space; kernel threads and tasks that have ended have none.
    pub fn mm(&self) -> Option<Arc<Mm>> {
        self.mm.lock().clone()
    }

    /// Changes the address space. If the task is running, the caller activates it.
    pub(super) fn replace_mm(&self, mm: Option<Arc<Mm>>) -> Option<Arc<Mm>> {
        core::mem::replace(&mut *self.mm.lock(), mm)
    }

    /// Loads its address space into the CPU; the kernel's own if it has none.
    pub(super) fn activate_mm(&self) {
        let root = self.mm.lock().as_ref().map(|mm| mm.root());
        // SAFETY: the kernel's own is always there; the task's is dropped only by `replace_mm`, after which another is activated.
        unsafe { mm::activate(root.unwrap_or_else(mm::kernel_root)) };
    }

    /// Its parent.
    pub fn parent(&self) -> Pid {
        Pid(self.parent.load(Ordering::Relaxed))
    }

    pub(super) fn set_parent(&self, parent: Pid) {
        self.parent.store(parent.get(), Ordering::Relaxed);
    }

    /// Its process group.
    pub fn group(&self) -> Pid {
        Pid(self.group.load(Ordering::Relaxed))
    }

    /// Moves it to a process group.
    pub fn set_group(&self, group: Pid) {
        self.group.store(group.get(), Ordering::Relaxed);
    }

    /// Its session.
    pub fn session(&self) -> Pid {
        Pid(self.session.load(Ordering::Relaxed))
    }

    /// Makes it the first of a session and of a process group of its own.
    pub fn start_session(&self) {
        self.set_group(self.pid);
        self.session.store(self.pid.get(), Ordering::Relaxed);
    }

    /// Whether it can run.
    pub fn state(&self) -> State {
        match self.run.state.load(Ordering::Relaxed) {
            0 => State::Ready,
            1 => State::Blocked,
            _ => State::Zombie,
        }
    }

    /// Notes that the task is to end before it sees user mode again. The first wish counts.
    pub fn request_exit(&self, status: ExitStatus) {
        let _ = self.exit_status.compare_exchange(
            NOT_ENDED,
            status.bits(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// How it is to end, or has ended.
    pub fn exit_requested(&self) -> Option<ExitStatus> {
        match self.exit_status.load(Ordering::Relaxed) {
            NOT_ENDED => None,
            bits => Some(ExitStatus::from_bits(bits)),
        }
    }

    /// The end of its kernel stack; `None` for the task that was there at boot.
    pub(super) fn stack_top(&self) -> Option<u64> {
        self.stack.as_ref().map(KernelStack::top)
    }

    /// Its saved registers, for the scheduler.
    pub(super) fn context(&self) -> *mut Context {
        self.context.get()
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("pid", &self.pid)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Run {
    pub(super) fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(super) fn block(&self, channel: Channel, wake_at_ns: u64) {
        self.channel.store(channel.get(), Ordering::Relaxed);
        self.wake_at_ns.store(wake_at_ns, Ordering::Relaxed);
        self.set(State::Blocked);
    }

    pub(super) fn waits_for(&self, channel: Channel) -> bool {
        let waits_for = self.channel.load(Ordering::Relaxed);
        waits_for == channel.get() || waits_for == Channel::ANY.get()
    }

    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.wake_at_ns.load(Ordering::Relaxed) <= now_ns
    }
}

/// The name of a task.
#[derive(Clone, Copy)]
pub struct TaskName([u8; NAME_BYTES]);

impl TaskName {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

/// A thread that runs `main` in the kernel; its number.
pub(super) fn spawn_kernel_thread(name: &str, main: fn()) -> Result<Pid, Errno> {
    extern "C" fn start(main: usize) -> ! {
        // SAFETY: `argument` below: a `Box<fn()>` given away.
        let main = unsafe { Box::from_raw(core::ptr::with_exposed_provenance_mut::<fn()>(main)) };
        (*main)();
        drop(main);
        wait::exit_current(ExitStatus::exited(0));
    }
    let stack = mm::alloc_kernel_stack().ok_or(Errno::NOMEM)?;
    let argument = Box::into_raw(Box::new(main)).expose_provenance();
    // SAFETY: the stack is new, mapped in the kernel's half, and kept by the task.
    let context = unsafe { Context::new_kernel_thread(stack.top(), start, argument) };
    let task = Task::new(Blueprint::bare(name, Pid::IDLE), Some(stack), context, true)?;
    let pid = task.pid;
    scheduler::add(task)?;
    Ok(pid)
}

/// The names of an argument list as one buffer each, for callers that have strings.
pub(super) fn owned(words: &[&str]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = Vec::new();
    list.try_reserve_exact(words.len())?;
    for word in words {
        list.push(fallible::copied(word.as_bytes())?);
    }
    Ok(list)
}

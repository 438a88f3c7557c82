//! Who runs: the ready tasks in turn, and the idle task when there is none.
//!
//! A task that waits names a [`Channel`]; whoever changes what it waits for wakes the channel, and the task looks again. That
//! takes no memory, so it cannot fail, and a wake-up too many does no harm. A wake-up too few cannot happen between looking
//! and blocking: kernel code is not preempted, and what interrupts change (the terminal, deadlines, signals) is looked at
//! again at each tick or under the scheduler's lock.
//!
//! The first thing that runs after a switch is [`finish_switch`], on the new stack: it frees the task that ended with it.
#![expect(unsafe_code, reason = "switches stacks")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::task::{Blueprint, Pid, State, Task};
use crate::arch::{self, Context, interrupts, timer};
use crate::sync::IrqSpinLock;
use crate::syscall::Errno;
use crate::{heap, smp};

/// Most tasks at a time.
const TASKS_MAX: usize = 512;
/// Numbers start again behind this. Linux: `PID_MAX_DEFAULT`.
const PID_MAX: u32 = 32768;
/// Tasks of a later round do not get the numbers of the first ones. Linux: `RESERVED_PIDS`.
const PID_RESTART: u32 = 300;

static SCHEDULER: IrqSpinLock<Scheduler> = IrqSpinLock::new(Scheduler {
    tasks: Vec::new(),
    current: None,
    idle: None,
    dead: None,
    last: 0,
    next_pid: 1,
    must_reschedule: false,
    idle_ticks: 0,
    nr_switches: 0,
});

struct Scheduler {
    tasks: Vec<Arc<Task>>,
    current: Option<Arc<Task>>,
    idle: Option<Arc<Task>>,
    /// Has ended, and waits for another stack to be freed from.
    dead: Option<Arc<Task>>,
    /// Where in `tasks` the last turn was.
    last: usize,
    next_pid: u32,
    must_reschedule: bool,
    idle_ticks: u64,
    nr_switches: u64,
}

/// What a task waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channel(u64);

impl Channel {
    /// Whatever happens next: for those who wait for several things.
    pub const ANY: Self = Self(1);
    /// Input from the terminal.
    pub const TTY: Self = Self(2);
    /// Time, and nothing else.
    pub const TIME: Self = Self(3);

    /// Something that happens to `object`.
    pub fn of<T>(object: &T) -> Self {
        Self(core::ptr::from_ref(object).addr() as u64)
    }

    pub(super) const fn get(self) -> u64 {
        self.0
    }
}

/// May a signal end the wait?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interruptible {
    Yes,
    No,
}

impl Scheduler {
    fn next(&mut self) -> Arc<Task> {
        let count = self.tasks.len();
        let found = (1..=count)
            .map(|step| (self.last + step) % count)
            .find(|&at| self.tasks[at].state() == State::Ready);
        match (found, &self.idle, &self.current) {
            (Some(at), ..) => {
                self.last = at;
                Arc::clone(&self.tasks[at])
            }
            (None, Some(idle), _) | (None, None, Some(idle)) => Arc::clone(idle),
            (None, None, None) => unreachable!("the scheduler runs after `init`"),
        }
    }
}

/// Makes what runs now the idle task.
///
/// # Panics
/// When there is no memory for it.
pub fn init() {
    let idle = Task::new(
        Blueprint::bare("swapper", Pid::IDLE),
        None,
        Context::running(),
        true,
    );
    let idle = idle.unwrap_or_else(|error| panic!("no idle task: {error}"));
    let mut scheduler = SCHEDULER.lock();
    scheduler.current = Some(Arc::clone(&idle));
    scheduler.idle = Some(idle);
    // The idle task took number 1 on its way.
    scheduler.next_pid = Pid::FIRST.get();
}

/// Gives the CPU to tasks for ever; waits for interrupts while there is nothing to do.
pub fn run_scheduler() -> ! {
    loop {
        interrupts::disable();
        let has_work = SCHEDULER
            .lock()
            .tasks
            .iter()
            .any(|task| task.state() == State::Ready);
        if has_work {
            schedule();
        } else {
            interrupts::enable_and_wait();
        }
    }
}

/// A number that no task has.
pub(super) fn new_pid() -> Pid {
    let mut scheduler = SCHEDULER.lock();
    loop {
        let pid = Pid::new(scheduler.next_pid);
        scheduler.next_pid = if pid.get() >= PID_MAX {
            PID_RESTART
        } else {
            pid.get() + 1
        };
        // A number that names a group must not become a process of another one.
        if !scheduler
            .tasks
            .iter()
            .any(|task| task.pid == pid || task.group() == pid || task.session() == pid)
        {
            return pid;
        }
    }
}

/// Lets a new task run.
pub(super) fn add(task: Arc<Task>) -> Result<(), Errno> {
    let mut scheduler = SCHEDULER.lock();
    if scheduler.tasks.len() >= TASKS_MAX {
        return Err(Errno::AGAIN);
    }
    scheduler.tasks.try_reserve(1)?;
    scheduler.tasks.push(task);
    Ok(())
}

/// Forgets a task that has ended. It is not the running one.
pub(super) fn remove(pid: Pid) {
    let removed = {
        let mut scheduler = SCHEDULER.lock();
        let at = scheduler.tasks.iter().position(|task| task.pid == pid);
        at.map(|at| scheduler.tasks.remove(at))
    };
    drop(removed);
}

/// The running task.
///
/// # Panics
/// On another CPU than the boot CPU: there are no tasks.
pub fn current() -> Arc<Task> {
    assert!(smp::is_boot_cpu(), "tasks run on the boot CPU");
    match &SCHEDULER.lock().current {
        Some(task) => Arc::clone(task),
        None => unreachable!("tasks run after `init`"),
    }
}

/// The task with this number.
pub fn find_task(pid: Pid) -> Option<Arc<Task>> {
    SCHEDULER
        .lock()
        .tasks
        .iter()
        .find(|task| task.pid == pid)
        .cloned()
}

/// The task with the lowest number above `pid`: for those who go through all and may do anything in between.
pub(super) fn task_after(pid: Pid) -> Option<Arc<Task>> {
    let scheduler = SCHEDULER.lock();
    let later = scheduler.tasks.iter().filter(|task| task.pid > pid);
    later.min_by_key(|task| task.pid).cloned()
}

/// Calls `f` for each task, the idle one left out, under the scheduler's lock: it must not wait, allocate or wake.
pub fn for_each_task(mut f: impl FnMut(&Arc<Task>)) {
    SCHEDULER.lock().tasks.iter().for_each(&mut f);
}

/// Ticks with nothing to do.
pub fn idle_ticks() -> u64 {
    SCHEDULER.lock().idle_ticks
}

/// How often the CPU went from one task to another.
pub fn nr_switches() -> u64 {
    SCHEDULER.lock().nr_switches
}

/// Lets others run first.
pub fn yield_now() {
    schedule();
}

/// Wakes those who wait for `channel`.
pub fn wake(channel: Channel) {
    let scheduler = SCHEDULER.lock();
    for task in &scheduler.tasks {
        if task.state() == State::Blocked && task.run.waits_for(channel) {
            task.run.set(State::Ready);
        }
    }
}

/// Wakes a task if it waits, whatever for.
pub(super) fn wake_task(task: &Task) {
    let _scheduler = SCHEDULER.lock();
    if task.state() == State::Blocked {
        task.run.set(State::Ready);
    }
}

/// Waits until `poll` has a result.
///
/// # Errors
/// [`Errno::INTR`] when a signal comes first.
pub fn wait_until<R>(channel: Channel, poll: impl FnMut() -> Option<R>) -> Result<R, Errno> {
    // Without a deadline there is always a result in the end.
    wait_until_deadline(channel, None, poll)?.ok_or(Errno::INTR)
}

/// Waits until `poll` has a result, or until it is `deadline_ns` since boot: then `None`.
///
/// # Errors
/// [`Errno::INTR`] when a signal comes first.
pub fn wait_until_deadline<R>(
    channel: Channel,
    deadline_ns: Option<u64>,
    mut poll: impl FnMut() -> Option<R>,
) -> Result<Option<R>, Errno> {
    let task = current();
    loop {
        if let Some(result) = poll() {
            return Ok(Some(result));
        }
        if task.signals.is_any_deliverable() {
            return Err(Errno::INTR);
        }
        if deadline_ns.is_some_and(|deadline_ns| deadline_ns <= timer::now_ns()) {
            return Ok(None);
        }
        block(&task, channel, deadline_ns, Interruptible::Yes);
    }
}

/// Waits until `is_done`, whatever signals come. The task counts as waiting before it asks, so who wakes it in between, from
/// an interrupt or another CPU, is not missed.
pub(super) fn wait_asking(channel: Channel, is_done: &mut dyn FnMut() -> bool) {
    let task = current();
    loop {
        {
            let _scheduler = SCHEDULER.lock();
            task.run.block(channel, u64::MAX);
        }
        if is_done() {
            return wake_task(&task);
        }
        schedule();
    }
}

/// Stops the running task until it is woken, or does nothing if a signal is there.
pub(super) fn block(
    task: &Task,
    channel: Channel,
    deadline_ns: Option<u64>,
    interruptible: Interruptible,
) {
    {
        let _scheduler = SCHEDULER.lock();
        if interruptible == Interruptible::Yes && task.signals.is_any_deliverable() {
            return;
        }
        task.run.block(channel, deadline_ns.unwrap_or(u64::MAX));
    }
    schedule();
}

/// From the tick: wakes those whose time has come, counts whose tick it was, and asks for the CPU if user mode has it.
pub(super) fn on_tick(from_user: bool) {
    use core::sync::atomic::Ordering;

    let now_ns = timer::now_ns();
    let mut scheduler = SCHEDULER.lock();
    for task in &scheduler.tasks {
        if task.state() == State::Blocked && task.run.is_due(now_ns) {
            task.run.set(State::Ready);
        }
    }
    scheduler.must_reschedule = true;
    match &scheduler.current {
        Some(task) if task.pid == Pid::IDLE => scheduler.idle_ticks += 1,
        Some(task) if from_user => drop(task.times.user.fetch_add(1, Ordering::Relaxed)),
        Some(task) => drop(task.times.system.fetch_add(1, Ordering::Relaxed)),
        None => {}
    }
}

/// Gives the CPU away if the tick asked for it.
pub(super) fn reschedule_if_asked() {
    let asked = core::mem::take(&mut SCHEDULER.lock().must_reschedule);
    if asked {
        schedule();
    }
}

/// Ends the running task's last turn. `keep` says whether its parent still has to ask how it ended.
pub(super) fn leave(keep: bool) -> ! {
    interrupts::disable();
    {
        let mut scheduler = SCHEDULER.lock();
        if let Some(task) = scheduler.current.clone() {
            task.run.set(State::Zombie);
            if !keep {
                scheduler.tasks.retain(|other| !Arc::ptr_eq(other, &task));
                scheduler.dead = Some(task);
            }
        }
    }
    schedule();
    unreachable!("an ended task ran again");
}

/// Switches to the next task that can run; returns when it is this one's turn again.
///
/// # Panics
/// On another CPU than the boot CPU: tasks run there alone.
fn schedule() {
    assert!(smp::is_boot_cpu(), "tasks run on the boot CPU");
    debug_assert_eq!(interrupts::off_depth(), 0, "a lock is held across a switch");
    let were_on = interrupts::are_enabled();
    interrupts::disable();
    let switch = {
        let mut scheduler = SCHEDULER.lock();
        scheduler.must_reschedule = false;
        let next = scheduler.next();
        let prev = scheduler.current.replace(Arc::clone(&next));
        let switch = prev
            .filter(|prev| !Arc::ptr_eq(prev, &next))
            .map(|prev| (prev, next));
        scheduler.nr_switches += u64::from(switch.is_some());
        switch
    };
    if let Some((prev, next)) = switch {
        if let Some(top) = next.stack_top() {
            arch::set_kernel_stack(top);
        }
        next.activate_mm();
        let (from, to) = (prev.context(), next.context());
        // The list, `current` and `dead` keep both alive; this stack may never be returned to.
        drop((prev, next));
        let is_for_program = heap::is_for_program();
        // SAFETY: interrupts are off. `from` is the running task's, `to` belongs to one that does not run; both stay valid, as the
        // scheduler keeps their tasks, and a task in `dead` is never switched to.
        unsafe { arch::switch(from, to) };
        finish_switch();
        heap::set_for_program(is_for_program);
    }
    if were_on {
        interrupts::enable();
    }
}

/// Frees the task that ended just before the switch.
pub fn finish_switch() {
    heap::set_for_program(false);
    let dead = SCHEDULER.lock().dead.take();
    drop(dead);
}

/// Prints the running task, if the scheduler's lock can be had.
pub(super) struct CurrentName;

/// The number of the running task, if nobody holds the lock.
#[cfg(kasan)]
pub fn pid_at_hand() -> Option<Pid> {
    let scheduler = SCHEDULER.try_lock()?;
    scheduler.current.as_ref().map(|task| task.pid)
}

impl fmt::Display for CurrentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = SCHEDULER
            .try_lock()
            .and_then(|scheduler| scheduler.current.clone());
        match task {
            Some(task) => write!(f, "{} ({})", task.pid, task.name()),
            None => f.write_str("?"),
        }
    }
}

//! Signals: which there are, what a task does on each, and how it gets them. Linux: kernel/signal.c.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::task::{Pid, Task};
use super::{SignalInfo, for_each_task, scheduler};

/// Signals are numbered from 1 to this.
const COUNT: u8 = 64;

/// A signal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal),* $(,)?) => {
        #[allow(dead_code, reason = "Linux's names, for those who read a number")]
        impl Signal {
            $(#[doc = concat!("Linux: `SIG", stringify!($name), "`.")] pub const $name: Self = Self($number);)*
        }

        impl fmt::Display for Signal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str(concat!("SIG", stringify!($name))),)*
                    number => write!(f, "signal {number}"),
                }
            }
        }
    };
}

signals! {
    HUP = 1, INT = 2, QUIT = 3, ILL = 4, TRAP = 5, ABRT = 6, BUS = 7, FPE = 8, KILL = 9, USR1 = 10, SEGV = 11, USR2 = 12, PIPE = 13,
    ALRM = 14, TERM = 15, CHLD = 17, CONT = 18, STOP = 19, TSTP = 20, TTIN = 21, TTOU = 22, URG = 23, WINCH = 28,
}

impl Signal {
    /// The signal with this number.
    pub const fn new(number: u32) -> Option<Self> {
        if number >= 1 && number <= COUNT as u32 {
            Some(Self(number.to_le_bytes()[0]))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// It and no other.
    pub const fn set(self) -> SignalSet {
        SignalSet(1 << (self.0 - 1))
    }

    /// Does it do nothing to a task that has not said otherwise? There is no job control: what would stop a task is among these.
    const fn is_ignored_by_default(self) -> bool {
        matches!(
            self,
            Self::CHLD
                | Self::CONT
                | Self::URG
                | Self::WINCH
                | Self::STOP
                | Self::TSTP
                | Self::TTIN
                | Self::TTOU
        )
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Signals. Linux: `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Those that can be neither held off, ignored nor caught.
    const UNSTOPPABLE: Self = Self(Signal::KILL.set().0 | Signal::STOP.set().0);

    /// From Linux's bits.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// As Linux's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Those in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those not in `other`.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Is `signal` in it?
    pub const fn has(self, signal: Signal) -> bool {
        self.0 & signal.set().0 != 0
    }
}

/// What a task has said about a signal. Linux: `struct k_sigaction`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Action {
    /// 0: what is usual; 1: nothing; else the address of the handler.
    pub handler: u64,
    /// Linux: `SA_*`.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Held off while the handler runs.
    pub mask: SignalSet,
}

/// What an action comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The task ends.
    End,
    /// Nothing happens.
    Ignore,
    /// The handler is called.
    Handle,
}

impl Action {
    /// The handler does not end what it interrupted: system calls start again.
    pub const RESTART: u64 = 0x1000_0000;
    /// The signal is not held off while its own handler runs.
    pub const NODEFER: u64 = 0x4000_0000;
    /// Back to the usual once the handler is called.
    pub const RESETHAND: u64 = 0x8000_0000;
    /// The handler runs on the alternate stack.
    pub const ONSTACK: u64 = 0x0800_0000;
    /// `restorer` is valid.
    pub const RESTORER: u64 = 0x0400_0000;

    const IGNORE: u64 = 1;
}

/// What a task does on each signal.
#[derive(Clone, Debug)]
pub struct Actions([Action; COUNT as usize]);

impl Default for Actions {
    fn default() -> Self {
        Self([Action::default(); COUNT as usize])
    }
}

/// An action with the signal that it is for.
#[derive(Clone, Copy, Debug)]
pub struct ActionOf {
    signal: Signal,
    /// What was said.
    pub action: Action,
}

impl ActionOf {
    /// Has the task asked for it to do nothing?
    pub fn is_ignored_on_request(self) -> bool {
        self.action.handler == Action::IGNORE
    }

    /// What it comes to.
    pub fn disposition(self) -> Disposition {
        match self.action.handler {
            0 if self.signal.is_ignored_by_default() => Disposition::Ignore,
            0 => Disposition::End,
            Action::IGNORE => Disposition::Ignore,
            _ => Disposition::Handle,
        }
    }
}

impl Actions {
    /// What the task does on `signal`.
    pub fn get(&self, signal: Signal) -> ActionOf {
        ActionOf {
            signal,
            action: self.0[usize::from(signal.0) - 1],
        }
    }

    /// Changes what the task does on `signal`; `false` if that cannot be changed.
    pub fn set(&mut self, signal: Signal, action: Action) -> bool {
        if SignalSet::UNSTOPPABLE.has(signal) {
            return false;
        }
        let mask = action.mask.minus(SignalSet::UNSTOPPABLE);
        self.0[usize::from(signal.0) - 1] = Action { mask, ..action };
        true
    }

    /// A new program: handlers are gone, what is ignored stays so. Linux: `flush_signal_handlers`.
    pub(super) fn reset_handlers(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == Action::IGNORE {
                Action::IGNORE
            } else {
                0
            };
            *action = Action {
                handler,
                ..Action::default()
            };
        }
    }

    /// Signals that do nothing.
    fn ignored(&self) -> SignalSet {
        let all = (1..=COUNT).filter_map(|number| Signal::new(u32::from(number)));
        all.filter(|&signal| self.get(signal).disposition() == Disposition::Ignore)
            .fold(SignalSet::default(), |set, signal| set.union(signal.set()))
    }
}

/// A stack for handlers. Linux: `stack_t`.
#[derive(Clone, Copy, Default, Debug)]
pub struct AltStack {
    /// Where it starts.
    pub start: u64,
    /// How large it is; 0 for none.
    pub size_bytes: u64,
}

/// Signals that a task has got, and what it holds off.
#[derive(Debug)]
pub struct Signals {
    pending: AtomicU64,
    blocked: AtomicU64,
    /// Copy of what the actions say, for those who post from interrupts.
    ignored: AtomicU64,
    pub(super) more: Mutex<MoreSignals>,
}

/// The rest, which only the task itself looks at.
#[derive(Clone, Copy, Default, Debug)]
pub struct MoreSignals {
    /// What the exception says whose signal is pending.
    pub fault: Option<SignalInfo>,
    /// What is to be held off again after a call that waited with another mask.
    pub saved_mask: Option<SignalSet>,
    /// Where handlers run that ask for it.
    pub alt_stack: AltStack,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            pending: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            ignored: AtomicU64::new(Actions::default().ignored().bits()),
            more: Mutex::new(MoreSignals::default()),
        }
    }
}

impl Signals {
    /// A child's: nothing pending, the same held off and ignored.
    pub(super) fn fork(&self) -> Self {
        let more = MoreSignals {
            alt_stack: self.more.lock().alt_stack,
            ..MoreSignals::default()
        };
        Self {
            pending: AtomicU64::new(0),
            blocked: AtomicU64::new(self.blocked.load(Ordering::Relaxed)),
            ignored: AtomicU64::new(self.ignored.load(Ordering::Relaxed)),
            more: Mutex::new(more),
        }
    }

    /// What is held off. Linux: `current->blocked`.
    pub fn blocked(&self) -> SignalSet {
        SignalSet(self.blocked.load(Ordering::Relaxed))
    }

    /// Changes what is held off.
    pub fn set_blocked(&self, set: SignalSet) {
        self.blocked
            .store(set.minus(SignalSet::UNSTOPPABLE).bits(), Ordering::Relaxed);
    }

    /// What has been got and not been acted on.
    pub fn pending(&self) -> SignalSet {
        SignalSet(self.pending.load(Ordering::Relaxed))
    }

    /// What does nothing.
    pub fn ignored(&self) -> SignalSet {
        SignalSet(self.ignored.load(Ordering::Relaxed))
    }

    /// Is there one to act on?
    pub fn is_any_deliverable(&self) -> bool {
        self.pending().minus(self.blocked()) != SignalSet::default()
    }

    /// Takes the lowest one to act on.
    pub(super) fn take_deliverable(&self) -> Option<Signal> {
        let signal = Signal::new(self.pending().minus(self.blocked()).bits().trailing_zeros() + 1)?;
        self.pending
            .fetch_and(!signal.set().bits(), Ordering::Relaxed);
        Some(signal)
    }

    /// Waits with `mask` held off until the end of this system call.
    pub fn suspend_with(&self, mask: SignalSet) {
        let blocked = self.blocked();
        self.more.lock().saved_mask.get_or_insert(blocked);
        self.set_blocked(mask);
    }

    /// The stack for handlers.
    pub fn alt_stack(&self) -> AltStack {
        self.more.lock().alt_stack
    }

    /// Changes the stack for handlers.
    pub fn set_alt_stack(&self, alt_stack: AltStack) {
        self.more.lock().alt_stack = alt_stack;
    }

    /// To be called whenever the actions have changed.
    pub fn update_ignored(&self, actions: &Actions) {
        let ignored = actions.ignored();
        self.ignored.store(ignored.bits(), Ordering::Relaxed);
        self.pending.fetch_and(!ignored.bits(), Ordering::Relaxed);
    }
}

/// Gives a signal to a task. From interrupts too.
pub fn post(task: &Task, signal: Signal) {
    mark(task, signal);
    if task.signals.is_any_deliverable() {
        scheduler::wake_task(task);
    }
}

fn mark(task: &Task, signal: Signal) {
    let signals = &task.signals;
    if task.is_kernel_thread() || (signals.ignored().has(signal) && !signals.blocked().has(signal))
    {
        return;
    }
    signals
        .pending
        .fetch_or(signal.set().bits(), Ordering::Relaxed);
}

/// Gives a signal to a process group; whether there was anybody in it. From interrupts too.
pub fn signal_group(group: Pid, signal: Signal) -> bool {
    let mut found = false;
    for_each_task(|task| {
        if task.group() == group && !task.is_kernel_thread() {
            mark(task, signal);
            // The scheduler's lock is held: see `for_each_task`.
            if task.signals.is_any_deliverable() && task.state() == super::State::Blocked {
                task.run.set(super::State::Ready);
            }
            found = true;
        }
    });
    found
}

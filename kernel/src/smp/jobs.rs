//! Functions that one CPU has another one run.
#![expect(
    unsafe_code,
    reason = "lends a function on the sender's stack to another CPU, which says when it is done with it"
)]

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::{bit, each, is_boot_cpu, mailbox, notify, others, poll};
use crate::arch::{interrupts, percpu};
use crate::mm;

/// So many turns a wait on the spot takes before it becomes a wait for an interrupt.
const SPINS: u32 = 2000;

/// What is to be run, and by whom. It lives on the sender's stack until nobody is left.
pub(super) struct Job<'a> {
    function: &'a (dyn Fn(u32) + Sync),
    sender: u32,
    /// The CPUs that have not run it.
    waiting: AtomicU64,
}

impl<'a> Job<'a> {
    fn new(function: &'a (dyn Fn(u32) + Sync), cpus: u64) -> Self {
        Self {
            function,
            sender: percpu::cpu(),
            waiting: AtomicU64::new(cpus),
        }
    }

    /// As what a mailbox takes.
    fn as_letter(&self) -> *mut Job<'static> {
        ptr::from_ref(self).cast::<Job<'static>>().cast_mut()
    }

    /// Waits until all have run it, and answers in the meantime what others want of this CPU. Interrupts are on.
    fn wait(&self) {
        let is_over = || self.waiting.load(Ordering::Acquire) == 0;
        for _ in 0..SPINS {
            if is_over() {
                return;
            }
            core::hint::spin_loop();
            poll();
        }
        // Who is last sends an interrupt. A virtual CPU that waits like this leaves a real one to those that work.
        while !is_over() {
            interrupts::disable();
            if is_over() {
                interrupts::enable();
            } else {
                interrupts::enable_and_wait();
            }
        }
    }
}

/// Runs what is in a mailbox of this CPU, if something is, and `afterwards` before the sender goes on.
fn open(letter: &AtomicPtr<Job<'static>>, afterwards: impl FnOnce()) {
    let me = percpu::cpu();
    let job = letter.load(Ordering::Acquire);
    if job.is_null() {
        return;
    }
    // SAFETY: the sender keeps the job until this CPU's bit is gone from `waiting`.
    let job = unsafe { &*job };
    let (function, sender, waiting) = (job.function, job.sender, &job.waiting);
    function(me);
    afterwards();
    letter.store(ptr::null_mut(), Ordering::Relaxed);
    // The last use: now it may be gone.
    let are_left = waiting.fetch_and(!bit(me), Ordering::Release) & !bit(me);
    if are_left == 0 {
        notify(bit(sender));
    }
}

/// What a CPU that has no tasks does, for ever: work that is sent to it, else nothing. It rests without pages at hand: others may
/// need them.
pub(super) fn idle() -> ! {
    let work = &mailbox(percpu::cpu()).work;
    loop {
        interrupts::disable();
        if work.load(Ordering::Relaxed).is_null() {
            interrupts::enable_and_wait();
        } else {
            interrupts::enable();
            open(work, mm::rest);
            debug_assert_eq!(interrupts::off_depth(), 0, "work left a lock behind");
        }
    }
}

/// Sends work to `cpus`, runs it here too if `also_here`, and waits for the end.
fn send_work(cpus: u64, function: &(dyn Fn(u32) + Sync), also_here: bool) {
    assert!(
        is_boot_cpu() && interrupts::are_enabled(),
        "work is sent by the boot CPU, outside of interrupts and locks"
    );
    let job = Job::new(function, cpus);
    for cpu in each(cpus) {
        let before = mailbox(cpu).work.swap(job.as_letter(), Ordering::AcqRel);
        assert!(before.is_null(), "CPU {cpu} is at work already");
    }
    notify(cpus);
    if also_here {
        function(percpu::cpu());
    }
    job.wait();
}

/// Runs `function` on every CPU that is up, this one included, at the same time, and waits for the end: with interrupts on, each on a stack
/// that it may use. The argument is the number of the CPU. Nothing else runs meanwhile: no program, no kernel thread.
///
/// # Context
/// The boot CPU, in a kernel thread; no lock is held. `function` may allocate, lock and flush, but not sleep, wake or send work.
///
/// # Panics
/// Elsewhere.
pub fn on_each_cpu(function: impl Fn(u32) + Sync) {
    send_work(others(), &function, true);
}

/// As [`on_each_cpu`], on one CPU. `None` if it is not up.
///
/// # Panics
/// As there.
pub fn run_on<R: Send>(cpu: u32, function: impl Fn() -> R + Sync) -> Option<R> {
    let result = crate::sync::IrqSpinLock::new(None);
    let run = |_| {
        let value = function();
        *result.lock() = Some(value);
    };
    if cpu == percpu::cpu() {
        run(cpu);
    } else {
        send_work(bit(cpu) & others(), &run, false);
    }
    result.into_inner()
}

/// Runs `function` on another CPU, in an interrupt, and waits for it. `false` if the CPU is not up. Linux: `smp_call_function_single`.
///
/// # Context
/// Interrupts on, no lock held: the other CPU may be calling this one. `function` runs with interrupts off, and must not wait for what
/// the interrupted code may hold.
///
/// # Panics
/// With interrupts off.
pub fn call_on(cpu: u32, function: impl Fn() + Sync) -> bool {
    assert!(
        interrupts::are_enabled(),
        "a call with interrupts off could wait for a CPU that waits for this one"
    );
    if cpu == percpu::cpu() {
        interrupts::without(&function);
        return true;
    }
    let cpus = bit(cpu) & others();
    if cpus == 0 {
        return false;
    }
    let call = |_| function();
    let job = Job::new(&call, cpus);
    let letter = &mailbox(cpu).call;
    while letter
        .compare_exchange(
            ptr::null_mut(),
            job.as_letter(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        )
        .is_err()
    {
        core::hint::spin_loop();
        poll();
    }
    notify(cpus);
    job.wait();
    true
}

/// Runs what another CPU has called for, if something is, in an interrupt.
pub(super) fn answer_call() {
    let mailbox = mailbox(percpu::cpu());
    let rests = !is_boot_cpu() && mailbox.work.load(Ordering::Relaxed).is_null();
    open(&mailbox.call, || {
        if rests {
            mm::rest();
        }
    });
}

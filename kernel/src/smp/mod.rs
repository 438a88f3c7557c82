//! Many CPUs: how they start, what they do, and how they talk to each other.
//!
//! The boot CPU is CPU 0 and runs all there is: interrupts of devices, the scheduler and with it every program and kernel thread. The
//! others, in the order of the MADT, wait in `hlt` for work that it sends them. Linux: `smp_init`.
//!
//! What one CPU may want of another:
//!
//! - **Work** ([`on_each_cpu`], [`run_on`]): a function that the other CPU runs on its own stack, interrupts on. Only the boot CPU sends
//!   work, outside of interrupts, and it waits for the end by turning on the spot. So programs and work never run at the same time, and
//!   between two pieces of work every other CPU stands still: that is what audits and statistics rely on.
//! - **A call** ([`call_on`]): a function that the other CPU runs in an interrupt. The caller holds no lock and has interrupts on, so two
//!   CPUs that call each other serve each other. Linux: `smp_call_function_single`.
//! - **A flush of its TLB** ([`flush_tlb`]): this one may be asked for under a lock and with interrupts off, so it is answered without
//!   interrupts as well: whoever waits for a lock, for work or for a flush of others looks at what is wanted of him ([`poll`]).
//! - **To stop**, for ever ([`stop_others`]): by NMI, so that nothing keeps it from doing so.
//!
//! All words that CPUs write for each other are in a [`Mailbox`] per CPU; an interrupt with `REQUEST_VECTOR` says that there is something in
//! it. Interrupts may be late or too many: only the words count.

mod bringup;
mod jobs;
mod shootdown;
mod stop;
mod stress;
mod tests;
mod trampoline;

use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use kmm::frame::Pfn;

use crate::arch::apic::Ipi;
use crate::arch::{acpi, apic, irq, percpu};
use crate::{mm, process};

pub use bringup::init;
use jobs::Job;
pub use jobs::{call_on, on_each_cpu, run_on};
use shootdown::Request;
pub use shootdown::{Flush, flush_tlb, note_root, poll};
pub use stop::{stop_if_told, stop_others};
pub use stress::{Extent, stress};
pub use tests::TESTS;

/// CPUs that the kernel can use: a bit each in a word.
pub const MAX_CPUS: usize = 64;

/// What others write for one CPU, and what it writes for others.
#[repr(align(128))]
struct Mailbox {
    /// Has it started? See [`bringup`].
    state: AtomicU32,
    /// Its ticks.
    nr_ticks: AtomicU64,
    /// The CPUs that want it to flush its TLB.
    flushes_wanted: AtomicU64,
    /// How often it has flushed its TLB for another.
    nr_flushes: AtomicU64,
    /// What this CPU wants the others to flush.
    request: Request,
    /// The top table in its CR3.
    root: AtomicU64,
    /// What it is to run on its own stack.
    work: AtomicPtr<Job<'static>>,
    /// What it is to run in an interrupt.
    call: AtomicPtr<Job<'static>>,
}

impl Mailbox {
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            nr_ticks: AtomicU64::new(0),
            flushes_wanted: AtomicU64::new(0),
            nr_flushes: AtomicU64::new(0),
            request: Request::new(),
            root: AtomicU64::new(0),
            work: AtomicPtr::new(core::ptr::null_mut()),
            call: AtomicPtr::new(core::ptr::null_mut()),
        }
    }
}

static MAILBOXES: [Mailbox; MAX_CPUS] = [const { Mailbox::new() }; MAX_CPUS];

/// The CPUs that are up, a bit each.
static ONLINE: AtomicU64 = AtomicU64::new(1);

fn mailbox(cpu: u32) -> &'static Mailbox {
    &MAILBOXES[cpu as usize]
}

/// The CPU as a mask: empty for one that cannot be.
fn bit(cpu: u32) -> u64 {
    1_u64.checked_shl(cpu).unwrap_or(0)
}

/// The CPUs of a mask.
fn each(mut mask: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let cpu = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (cpu < u64::BITS).then_some(cpu)
    })
}

/// How many CPUs there can be: numbers are below it. Linux: `nr_cpu_ids`.
pub fn nr_possible() -> usize {
    acpi::platform().map_or(1, |platform| platform.apic_ids().len())
}

/// How many CPUs are up. Linux: `num_online_cpus`.
pub fn nr_online() -> usize {
    ONLINE.load(Ordering::Relaxed).count_ones() as usize
}

/// The CPUs that are up, this one left out.
fn others() -> u64 {
    ONLINE.load(Ordering::SeqCst) & !bit(percpu::cpu())
}

/// Is this the CPU that runs tasks?
pub fn is_boot_cpu() -> bool {
    percpu::cpu() == 0
}

/// Ticks of a CPU since it started.
fn nr_ticks(cpu: u32) -> u64 {
    mailbox(cpu).nr_ticks.load(Ordering::Relaxed)
}

/// Sends an interrupt to another CPU.
fn send(cpu: u32, ipi: Ipi) {
    let apic_id = acpi::platform().and_then(|platform| platform.apic_ids().get(cpu as usize));
    if let (Some(local), Some(&apic_id)) = (apic::local(), apic_id) {
        local.send(apic_id, ipi);
    }
}

/// Says to these CPUs that there is something in their mailboxes.
fn notify(cpus: u64) {
    each(cpus).for_each(|cpu| send(cpu, Ipi::Vector(irq::REQUEST_VECTOR)));
}

/// The interrupt of [`notify`], interrupts off.
pub fn on_request() {
    poll();
    jobs::answer_call();
}

/// Each CPU passes on its counts of memory once a second. Linux: `sysctl_stat_interval`.
const FOLD_TICKS: u64 = 100;

/// A tick of this CPU, interrupts off.
pub fn on_tick() {
    let ticks = &mailbox(percpu::cpu()).nr_ticks;
    let nr = ticks.load(Ordering::Relaxed) + 1;
    ticks.store(nr, Ordering::Relaxed);
    if nr % FOLD_TICKS == 0 {
        mm::fold_counts();
    }
}

/// A top table, as mailboxes name it.
pub(crate) const fn root_word(root: Pfn) -> u64 {
    root.index() as u64
}

/// What the running CPU does, to print; also when the kernel has panicked.
pub fn current_name() -> impl fmt::Display {
    struct Name;
    impl fmt::Display for Name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if is_boot_cpu() {
                write!(f, "{}", process::current_name())
            } else if mailbox(percpu::cpu())
                .work
                .load(Ordering::Relaxed)
                .is_null()
            {
                f.write_str("none, idle")
            } else {
                f.write_str("none, at work for CPU 0")
            }
        }
    }
    Name
}

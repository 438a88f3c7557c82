//! How the other CPUs start: INIT, STARTUP, STARTUP, one after the other. Linux: `do_boot_cpu`.
//!
//! A CPU begins in the [`Trampoline`], and the first thing that it does in the kernel's text is to load the kernel's own tables. One that
//! does not answer in time gets another INIT, which keeps it from coming late; should it come all the same, it finds no stack, and
//! halts. A CPU of another kind than the boot CPU halts by itself. Both are told and left out.
#![expect(
    unsafe_code,
    reason = "gives memory to a CPU that enters from assembly"
)]

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::fmt;
use core::mem::forget;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::trampoline::Trampoline;
use super::{MAILBOXES, MAX_CPUS, ONLINE, bit, jobs, mailbox, nr_online};
use crate::arch::apic::{self, Ipi};
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{self, acpi, cpu, interrupts, timer};
use crate::boot::BootInfo;
use crate::mm;

// Intel's MultiProcessor Specification, B.4: what to wait between the interrupts.
const AFTER_INIT_NS: u64 = 10_000_000;
const AFTER_STARTUP_NS: u64 = 200_000;
/// A CPU needs microseconds to start; that of a busy virtual machine more.
const PATIENCE_NS: u64 = 2_000_000_000;

/// What a CPU says of itself, in its mailbox.
const SILENT: u32 = 0;
const UP: u32 = 1;
const OTHER_KIND: u32 = 2;
const OTHER_CPU: u32 = 3;

/// The stack for the CPU that is being started; who takes it leaves 0 behind. Known to the assembly.
#[unsafe(no_mangle)]
static ap_stack_top: AtomicU64 = AtomicU64::new(0);
/// The data of its own for the CPU that is being started.
static AP_DATA: AtomicPtr<PerCpu> = AtomicPtr::new(ptr::null_mut());

/// Why a CPU is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StartError {
    /// There is no memory for its stack and its data.
    OutOfMemory,
    /// It does not come.
    NoAnswer,
    /// It came, and was not seen again.
    Lost,
    /// It lacks what the boot CPU has.
    OtherKind,
    /// Its number is not the one that was called.
    OtherCpu,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "there is no memory for its stack",
            Self::NoAnswer => "it does not answer",
            Self::Lost => "it got lost on its way",
            Self::OtherKind => "it is of another kind than the boot CPU",
            Self::OtherCpu => "another CPU came in its place",
        })
    }
}

impl core::error::Error for StartError {}

/// Starts all CPUs that the MADT lists.
///
/// # Context
/// Once, on the boot CPU; clocks, local APIC and memory management are up.
pub fn init(boot: &BootInfo) {
    mailbox(0).state.store(UP, Ordering::Relaxed);
    let apic_ids = acpi::platform().map_or(&[][..], |platform| platform.apic_ids());
    let most = boot.value("maxcpus").and_then(|text| text.parse().ok());
    let most = most.unwrap_or(MAX_CPUS).clamp(1, MAX_CPUS);
    let wanted = apic_ids.len().min(most);
    if wanted > 1 {
        start_all(boot, &apic_ids[..wanted]);
    }
    println!(
        "smp: {} of {} CPUs are up",
        nr_online(),
        apic_ids.len().max(1)
    );
}

fn start_all(boot: &BootInfo, apic_ids: &[u32]) {
    if apic::local().is_none() {
        println!("smp: no local APIC, so no other CPU can be started");
        return;
    }
    let Some(trampoline) = Trampoline::new(boot) else {
        println!("smp: no room below 1 MiB, so no other CPU can be started");
        return;
    };
    for (cpu, &apic_id) in (0..).zip(apic_ids).skip(1) {
        if let Err(why) = trampoline.start(cpu, apic_id) {
            println!("smp: CPU {cpu} (APIC {apic_id:#x}) is left out: {why}");
        }
    }
}

impl Trampoline {
    /// Starts one CPU, and waits until it is up.
    ///
    /// # Errors
    /// [`StartError`]; it is not up then, and will not be.
    pub(super) fn start(&self, cpu: u32, apic_id: u32) -> Result<(), StartError> {
        self.start_within(cpu, apic_id, PATIENCE_NS)
    }

    /// As [`Self::start`], with another idea of how long that may take.
    pub(super) fn start_within(
        &self,
        cpu: u32,
        apic_id: u32,
        patience_ns: u64,
    ) -> Result<(), StartError> {
        let local = apic::local().ok_or(StartError::NoAnswer)?;
        let stack = mm::alloc_kernel_stack().ok_or(StartError::OutOfMemory)?;
        // SAFETY: the type has a size.
        let data = unsafe { alloc(Layout::new::<PerCpu>()) }.cast::<PerCpu>();
        if data.is_null() {
            return Err(StartError::OutOfMemory);
        }
        // SAFETY: the memory was allocated just now, for this.
        unsafe { PerCpu::new_in(data, cpu) };
        let state = &mailbox(cpu).state;
        state.store(SILENT, Ordering::Relaxed);
        AP_DATA.store(data, Ordering::Release);
        ap_stack_top.store(stack.top(), Ordering::SeqCst);

        local.send(apic_id, Ipi::Init);
        timer::spin_ns(AFTER_INIT_NS);
        let has_answered = || state.load(Ordering::Acquire) != SILENT;
        for patience_ns in [AFTER_STARTUP_NS, patience_ns] {
            if ap_stack_top.load(Ordering::SeqCst) != 0 {
                local.send(apic_id, Ipi::Startup(self.page_nr()));
            }
            spin_until(patience_ns, has_answered);
        }
        let outcome = match state.load(Ordering::Acquire) {
            UP => Ok(()),
            OTHER_KIND => Err(StartError::OtherKind),
            OTHER_CPU => Err(StartError::OtherCpu),
            _ => {
                local.send(apic_id, Ipi::Init);
                timer::spin_ns(AFTER_INIT_NS);
                ONLINE.fetch_and(!bit(cpu), Ordering::SeqCst);
                Err(StartError::Lost)
            }
        };
        if ap_stack_top.swap(0, Ordering::SeqCst) != 0 {
            // SAFETY: allocated above with this layout; no CPU has come to use it, and the next will not be given it.
            unsafe { dealloc(data.cast(), Layout::new::<PerCpu>()) };
            return Err(StartError::NoAnswer);
        }
        // A CPU that has come keeps what it was given, whatever became of it.
        forget(stack);
        outcome
    }
}

fn spin_until(most_ns: u64, is_done: impl Fn() -> bool) {
    let start_ns = timer::now_ns();
    while !is_done() && timer::now_ns().saturating_sub(start_ns) < most_ns {
        core::hint::spin_loop();
    }
}

/// The first function of another CPU: on the trampoline's tables, on its own stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn ap_entry(stack_top: u64) -> ! {
    // SAFETY: the kernel's own tables, which are never freed.
    unsafe { cpu::write_cr3(mm::kernel_root().phys().as_u64()) };
    let data = AP_DATA.load(Ordering::Acquire);
    // SAFETY: `start_within` made it for this CPU, which has taken the stack that goes with it, and lets it live.
    unsafe { percpu::init(data) };
    percpu::set_kernel_stack(stack_top);
    let me = percpu::cpu();
    let state = &MAILBOXES[me as usize].state;
    if !arch::init_early_on_ap() {
        state.store(OTHER_KIND, Ordering::Release);
        cpu::halt_forever();
    }
    mm::init_on_ap();
    let wanted = acpi::platform().and_then(|platform| platform.apic_ids().get(me as usize));
    match apic::local() {
        Some(local) => {
            local.enable_here();
            if wanted.is_some_and(|&wanted| wanted != local.id()) {
                state.store(OTHER_CPU, Ordering::Release);
                cpu::halt_forever();
            }
        }
        None => cpu::halt_forever(),
    }
    timer::start_on_ap();
    ONLINE.fetch_or(bit(me), Ordering::SeqCst);
    // What was remembered before others knew whom to tell.
    cpu::flush_all();
    state.store(UP, Ordering::Release);
    interrupts::enable();
    jobs::idle()
}

//! Two CPUs: threads that stay on a CPU of the host each, and know its number as a kernel does, by one load.
#![expect(unsafe_code, reason = "pins threads, and mints pins for them")]

use std::cell::Cell;
use std::sync::OnceLock;

use kmm_host::{CpuId, CpuPin, Cpus};

/// How many CPUs the allocators are built for.
pub const NR_CPUS: usize = 2;
/// The CPU that measures when only one does.
pub const MEASURING: usize = 1;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The number of the CPU that this thread stands for.
#[inline(always)]
#[must_use]
pub fn current() -> usize {
    CURRENT.get()
}

/// Makes this thread stand for CPU `cpu`, and stay on one of the host's.
///
/// # Safety
/// No other thread stands for that CPU and allocates at the same time: per-CPU data of the allocators is its own.
pub unsafe fn stand_for(cpu: usize) {
    CURRENT.set(cpu);
    let allowed = allowed();
    let host_cpu = allowed[cpu % allowed.len()];
    // SAFETY: a set of bits; all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the number came from such a set.
    unsafe { libc::CPU_SET(host_cpu, &mut set) };
    // SAFETY: `set` is valid for reads of its size.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if failed != 0 {
        eprintln!("cannot stay on CPU {host_cpu}: figures with threads are not to be trusted");
    }
}

/// The host's CPUs that this process may use, as they were at the first call.
pub fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        // SAFETY: a set of bits; all zero is the empty one.
        let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
        // SAFETY: `set` is valid for writes of its size.
        let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
        let capacity = libc::CPU_SETSIZE.unsigned_abs() as usize;
        let cpus: Vec<usize> = (0..capacity)
            // SAFETY: below the capacity of a set.
            .filter(|&cpu| failed == 0 && unsafe { libc::CPU_ISSET(cpu, &set) })
            .collect();
        if cpus.is_empty() { vec![0] } else { cpus }
    })
}

/// Lowers the chance to be preempted, where that is allowed.
pub fn raise_priority() {
    const HIGHEST: i32 = -20;
    // SAFETY: touches no memory.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, HIGHEST) };
}

/// The CPUs as kmm sees them.
#[derive(Clone, Copy, Debug)]
pub struct ThreadCpus;

// SAFETY: a thread stands for one CPU, no two for the same at a time (`stand_for`), and does not change while `f` runs.
unsafe impl Cpus for ThreadCpus {
    fn nr_cpus(&self) -> usize {
        NR_CPUS
    }

    #[inline(always)]
    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        let cpu = CpuId::new(current() as u32);
        // SAFETY: see above.
        f(unsafe { CpuPin::new(cpu) })
    }
}

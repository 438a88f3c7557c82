//! The end of all other CPUs: for panics and for the end of the machine.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{ONLINE, bit, others, send};
use crate::arch::apic::Ipi;
use crate::arch::{cpu, percpu, timer};

const NOBODY: u32 = u32::MAX;
/// Who cannot even take an NMI in this time is left alone.
const PATIENCE_NS: u64 = 200_000_000;
/// The same where there is no clock yet.
const MAX_SPINS: u32 = 100_000_000;

/// The CPU that goes on alone.
static LAST: AtomicU32 = AtomicU32::new(NOBODY);
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Stops all other CPUs, for ever. Of CPUs that call it at the same time one goes on. Linux: `smp_send_stop`, `nmi_shootdown_cpus`.
///
/// # Context
/// Any.
pub fn stop_others() {
    let me = percpu::cpu();
    match LAST.compare_exchange(NOBODY, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        // Again: a report that fails itself.
        Err(last) if last == me => return,
        Err(_) => stop(),
    }
    let wanted = others();
    for other in super::each(wanted) {
        send(other, Ipi::Nmi);
    }
    let start_ns = timer::now_ns();
    for _ in 0..MAX_SPINS {
        let have_stopped = STOPPED.load(Ordering::SeqCst) & wanted == wanted;
        if have_stopped || timer::now_ns().saturating_sub(start_ns) > PATIENCE_NS {
            break;
        }
        core::hint::spin_loop();
    }
    ONLINE.fetch_and(!STOPPED.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// An NMI came: does another CPU want this one to stop?
pub fn stop_if_told() {
    let last = LAST.load(Ordering::SeqCst);
    if last != NOBODY && last != percpu::cpu() {
        stop();
    }
}

fn stop() -> ! {
    STOPPED.fetch_or(bit(percpu::cpu()), Ordering::SeqCst);
    cpu::halt_forever()
}

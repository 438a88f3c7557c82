//! The end of the kernel: message, call trace, exit code.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::{backtrace, cpu, exit, interrupts, percpu, serial};
use crate::smp;

static DEPTH: AtomicU32 = AtomicU32::new(0);

/// To be called before a fatal report: stops interrupts and all other CPUs, and takes the serial line from whoever has it. A report that
/// itself fails is cut short, and a third failure ends in silence. Of CPUs that fail at the same time, one reports.
pub fn begin() {
    interrupts::disable();
    smp::stop_others();
    serial::force_unlock();
    match DEPTH.fetch_add(1, Ordering::Relaxed) {
        0 => {}
        1 => {
            println!("kmm: failed again while reporting a failure");
            exit::exit(exit::PANIC);
        }
        _ => cpu::halt_forever(),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    match info.location() {
        Some(location) => println!("kmm: panic at {location}: {}", info.message()),
        None => println!("kmm: panic: {}", info.message()),
    }
    println!("  CPU {}, task {}", percpu::cpu(), smp::current_name());
    backtrace::print_here();
    exit::exit(exit::PANIC)
}

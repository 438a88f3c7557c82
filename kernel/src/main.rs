//! The demo kernel: it takes a machine from its firmware's memory map to unmodified Linux programs, with the kmm crates doing all of the memory management.
//!
//! Reading order: [`boot`] (two doors, one [`boot::BootInfo`]), [`arch`] (what is x86), [`mm`] (glue to the kmm crates), `process`, `fs`, `syscall`,
//! [`smp`] (the other CPUs), then [`shell`] and [`selftest`].
#![no_std]
#![no_main]
#![allow(
    unreachable_pub,
    reason = "a binary exports nothing; `pub` here means `used by another module`"
)]
#![allow(
    missing_debug_implementations,
    reason = "a binary exports nothing; hardware tables have nothing to print"
)]

extern crate alloc;

#[macro_use]
mod console;
mod arch;
mod bench;
mod boot;
mod fallible;
mod fs;
mod heap;
mod kasan;
mod mm;
mod panic;
mod process;
mod selftest;
mod shell;
mod smp;
mod symbols;
mod sync;
mod syscall;

use boot::BootInfo;

/// Where both doors meet: on the boot stack, interrupts off, provisional page tables, this CPU's GS base valid.
fn kernel_main(boot: &'static BootInfo) -> ! {
    println!(
        "kmm {} booting through the {} door",
        env!("CARGO_PKG_VERSION"),
        boot.door
    );
    arch::init_early();
    symbols::init(boot);
    shell::init(boot);
    boot.print();
    if let Err(reason) = boot.check() {
        println!("kmm: cannot boot: {reason}");
        arch::exit::exit(arch::exit::CANNOT_BOOT);
    }
    arch::acpi::init(boot);
    mm::init(boot);
    arch::init_late();
    smp::init(boot);
    fs::init(boot);
    process::init();
    process::spawn_kernel_thread("shell", shell::main);
    process::run_scheduler()
}

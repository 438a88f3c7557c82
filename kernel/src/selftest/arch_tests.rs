//! Traps, user copies, locks, time, symbols.

use super::{Outcome, Test};
use crate::arch::fpu::FpuState;
use crate::arch::usercopy::{self, Fault};
use crate::arch::{USER_END, backtrace, features, interrupts, timer};
use crate::boot::image;
use crate::ensure;
use crate::sync::IrqSpinLock;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "arch::bad_user_addresses_are_refused",
        run: bad_user_addresses_are_refused,
    },
    Test {
        name: "arch::probe_catches_faults",
        run: probe_catches_faults,
    },
    Test {
        name: "arch::locks_keep_interrupts_off",
        run: locks_keep_interrupts_off,
    },
    Test {
        name: "arch::ticks_arrive",
        run: ticks_arrive,
    },
    Test {
        name: "arch::backtrace_finds_its_callers",
        run: backtrace_finds_its_callers,
    },
    Test {
        name: "arch::cpu_protections_are_on",
        run: cpu_protections_are_on,
    },
    Test {
        name: "arch::fpu_state_is_kept",
        run: fpu_state_is_kept,
    },
];

fn bad_user_addresses_are_refused() -> Outcome {
    let mut buffer = [0_u8; 16];
    for address in [
        USER_END - 8,
        USER_END,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        image::text().start,
        u64::MAX - 8,
    ] {
        ensure!(
            usercopy::copy_from_user(&mut buffer, address) == Err(Fault),
            "read of {address:#x}"
        );
        ensure!(
            usercopy::copy_to_user(address, &buffer) == Err(Fault),
            "write of {address:#x}"
        );
        ensure!(
            usercopy::clear_user(address, 16) == Err(Fault),
            "clear of {address:#x}"
        );
        ensure!(
            usercopy::strncpy_from_user(&mut buffer, address) == Err(Fault),
            "string at {address:#x}"
        );
    }
    // The shell's thread has no program, so nothing is mapped here.
    ensure!(usercopy::copy_from_user(&mut buffer, 8) == Err(Fault));
    ensure!(usercopy::copy_to_user(8, &buffer) == Err(Fault));
    ensure!(usercopy::clear_user(8, 9) == Err(Fault));
    ensure!(usercopy::strncpy_from_user(&mut buffer, 8) == Err(Fault));
    ensure!(
        usercopy::get_user::<u64>(8) == Err(Fault) && usercopy::put_user(8, 1_u32) == Err(Fault)
    );
    ensure!(
        usercopy::copy_from_user(&mut [], 8) == Ok(()),
        "nothing can always be copied"
    );
    Ok(())
}

fn probe_catches_faults() -> Outcome {
    let value = 0x1234_5678_9abc_def0_u64;
    ensure!(usercopy::probe((&raw const value).addr() as u64) == Some(value));
    ensure!(usercopy::probe(8).is_none(), "address 8 is mapped");
    ensure!(
        usercopy::probe(0x8000_0000_0000_0000).is_none(),
        "a non-canonical address is readable"
    );
    ensure!(
        usercopy::probe(image::boot_stack_guard().start).is_none(),
        "the boot stack's guard page is mapped"
    );
    Ok(())
}

fn locks_keep_interrupts_off() -> Outcome {
    let (first, second) = (IrqSpinLock::new(1), IrqSpinLock::new(2));
    ensure!(interrupts::are_enabled() && interrupts::off_depth() == 0);
    let guard_1 = first.lock();
    ensure!(!interrupts::are_enabled() && interrupts::off_depth() == 1);
    let guard_2 = second.lock();
    ensure!(
        first.try_lock().is_none() && interrupts::off_depth() == 2,
        "a failed attempt changes nothing"
    );
    drop(guard_1);
    ensure!(
        !interrupts::are_enabled() && *guard_2 == 2,
        "released out of order"
    );
    drop(guard_2);
    ensure!(interrupts::are_enabled() && interrupts::off_depth() == 0);
    interrupts::without(|| drop(first.lock()));
    ensure!(interrupts::are_enabled());
    interrupts::disable();
    drop(first.lock());
    let stayed_off = !interrupts::are_enabled();
    interrupts::enable();
    ensure!(stayed_off, "a lock turned on interrupts that were off");
    Ok(())
}

fn ticks_arrive() -> Outcome {
    let (ticks, start_ns) = (timer::ticks(), timer::now_ns());
    while timer::ticks() < ticks + 2 {
        interrupts::enable_and_wait();
    }
    ensure!(timer::now_ns() > start_ns, "the clock stands still");
    Ok(())
}

#[inline(never)]
fn backtrace_finds_its_callers() -> Outcome {
    let mut addresses = [0; 16];
    let nr = backtrace::capture(&mut addresses);
    ensure!(nr >= 3, "{nr} callers");
    ensure!(
        addresses[..nr]
            .iter()
            .all(|address| image::text().contains(address)),
        "{addresses:x?}"
    );
    let own = backtrace_finds_its_callers as *const () as u64;
    ensure!(
        (own..own + 4096).contains(&addresses[0]),
        "{:#x} is not in the caller at {own:#x}",
        addresses[0]
    );
    Ok(())
}

fn cpu_protections_are_on() -> Outcome {
    use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
    let (cr0, cr4, features) = (Cr0::read(), Cr4::read(), features::get());
    ensure!(cr0.contains(Cr0Flags::WRITE_PROTECT));
    for (has, flag) in [
        (
            features.smep,
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        ),
        (features.smap, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (features.umip, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        (features.pge, Cr4Flags::PAGE_GLOBAL),
        (true, Cr4Flags::OSFXSR),
    ] {
        ensure!(cr4.contains(flag) == has, "{flag:?}: the CPU has it: {has}");
    }
    ensure!(!cr4.intersects(Cr4Flags::OSXSAVE | Cr4Flags::FSGSBASE));
    Ok(())
}

fn fpu_state_is_kept() -> Outcome {
    let mut pattern = *FpuState::init().bytes();
    for (at, byte) in pattern.iter_mut().enumerate().skip(160).take(256) {
        *byte = at.to_le_bytes()[0]; // XMM0-15
    }
    pattern[27] = 0xff; // reserved bits of MXCSR
    let (mut before, mut after) = (FpuState::init(), FpuState::init());
    interrupts::without(|| {
        before.save();
        FpuState::from_bytes(pattern).restore();
        after.save();
        before.restore();
    });
    ensure!(
        after.bytes()[160..416] == pattern[160..416],
        "the XMM registers are not what was loaded"
    );
    Ok(())
}

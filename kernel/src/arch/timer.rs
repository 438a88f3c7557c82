//! Time: a tick 100 times a second, and nanoseconds by the time-stamp counter. Both are measured against the PIT once.
#![expect(unsafe_code, reason = "port I/O")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use super::trap::TrapFrame;
use super::{apic, cpu, irq, percpu, serial};
use crate::{process, smp};

/// Ticks a second. Linux: `HZ`; its user-visible `USER_HZ` is the same.
pub const HZ: u64 = 100;

const PIT_HZ: u64 = 1_193_182;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
const PORT_B: u16 = 0x61;
const PORT_B_GATE_2: u8 = 1;
const PORT_B_SPEAKER: u8 = 2;
const PORT_B_OUT_2: u8 = 1 << 5;
/// Channel 2, both bytes, mode 0 (output rises at the end), binary.
const PIT_CHANNEL_2_ONCE: u8 = 0b1011_0000;
/// Channel 2, keep the count to be read.
const PIT_CHANNEL_2_LATCH: u8 = 0b1000_0000;
/// Channel 0, both bytes, mode 2 (rate generator), binary.
const PIT_CHANNEL_0_RATE: u8 = 0b0011_0100;
/// The clocks are measured over this part of a second: short, so that a busy host does not come in between each time.
const CALIBRATION_HZ: u64 = 1000;
/// So often. Whatever disturbs a measurement makes it longer, so the shortest counts.
const CALIBRATIONS: u32 = 12;
/// A PIT that never ends its count is absent; its polls take about a microsecond each.
const MAX_PIT_POLLS: u32 = 2_000_000;

static TICKS: AtomicU64 = AtomicU64::new(0);
static TSC_AT_START: AtomicU64 = AtomicU64::new(0);
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// What the local APICs' timers count down for one tick; 0 where the tick is the PIT's.
static APIC_COUNT: AtomicU32 = AtomicU32::new(0);

fn write(port: u16, value: u8) {
    // SAFETY: the PIT's ports and port B; they change the timer and the speaker.
    unsafe { Port::<u8>::new(port).write(value) }
}

fn read_port_b() -> u8 {
    // SAFETY: reading has no effect.
    unsafe { Port::<u8>::new(PORT_B).read() }
}

/// Waits for 1/[`CALIBRATION_HZ`] of a second by PIT channel 2. `false` if there is no PIT.
fn wait_for_pit() -> bool {
    let [low, high, ..] = (PIT_HZ / CALIBRATION_HZ).to_le_bytes();
    write(PORT_B, (read_port_b() & !PORT_B_SPEAKER) | PORT_B_GATE_2);
    write(PIT_COMMAND, PIT_CHANNEL_2_ONCE);
    write(PIT_CHANNEL_2, low);
    write(PIT_CHANNEL_2, high);
    (0..MAX_PIT_POLLS).any(|_| read_port_b() & PORT_B_OUT_2 != 0)
}

/// Is there a PIT, and the port that says when its count has ended? Where there is nothing, all bits read as ones: that one too.
fn has_pit() -> bool {
    let [low, high, ..] = (PIT_HZ / CALIBRATION_HZ).to_le_bytes();
    read_port_b() != u8::MAX
        && (0..2).any(|_| {
            write(PIT_COMMAND, PIT_CHANNEL_2_ONCE);
            write(PIT_CHANNEL_2, low);
            write(PIT_CHANNEL_2, high);
            write(PIT_COMMAND, PIT_CHANNEL_2_LATCH);
            let mut channel = Port::<u8>::new(PIT_CHANNEL_2);
            // SAFETY: reads the latched count, its low byte, then its high one.
            let count = [unsafe { channel.read() }, unsafe { channel.read() }];
            count != [u8::MAX; 2]
        })
}

/// Counts a second of the time-stamp counter and of the local APIC's timer; `None` without a PIT.
fn measure() -> Option<(u64, u64)> {
    if !has_pit() {
        return None;
    }
    let mut least: Option<(u64, u64)> = None;
    for _ in 0..CALIBRATIONS {
        if let Some(local) = apic::local() {
            local.start_count_down();
        }
        let tsc_before = cpu::rdtsc();
        if !wait_for_pit() {
            return None;
        }
        let tsc = (cpu::rdtsc() - tsc_before) * CALIBRATION_HZ;
        let apic =
            apic::local().map_or(0, |local| u64::from(local.counted_down())) * CALIBRATION_HZ;
        least = Some(least.map_or((tsc, apic), |least| (least.0.min(tsc), least.1.min(apic))));
    }
    least
}

/// Measures the clocks and starts the tick (which comes once interrupts are on).
pub fn init() {
    let (tsc_hz, apic_hz) = measure().unwrap_or_else(|| {
        println!("timer: there is no PIT to measure clocks with; times are guesses");
        (1_000_000_000, 62_500_000)
    });
    TSC_HZ.store(tsc_hz.max(1), Ordering::Relaxed);
    match apic::local() {
        Some(local) => {
            let count = u32::try_from(apic_hz / HZ).unwrap_or(u32::MAX).max(1);
            APIC_COUNT.store(count, Ordering::Relaxed);
            local.start_periodic(irq::TIMER_VECTOR, count);
            println!(
                "timer: local APIC at {} kHz, TSC at {} kHz, {HZ} ticks a second",
                apic_hz / 1000,
                tsc_hz / 1000
            );
        }
        None => {
            let [low, high, ..] = (PIT_HZ / HZ).to_le_bytes();
            write(PIT_COMMAND, PIT_CHANNEL_0_RATE);
            write(PIT_CHANNEL_0, low);
            write(PIT_CHANNEL_0, high);
            println!(
                "timer: PIT, TSC at {} kHz, {HZ} ticks a second",
                tsc_hz / 1000
            );
        }
    }
}

/// Starts the tick of a CPU that started later, where ticks are the local APICs'.
pub fn start_on_ap() {
    let count = APIC_COUNT.load(Ordering::Relaxed);
    if let Some(local) = apic::local().filter(|_| count != 0) {
        local.start_periodic(irq::TIMER_VECTOR, count);
    }
}

/// Waits without sleeping; in kernel code that has no task, or that must not give the CPU away.
pub fn spin_ns(delay_ns: u64) {
    let start_ns = now_ns();
    while now_ns().saturating_sub(start_ns) < delay_ns {
        core::hint::spin_loop();
    }
}

/// Notes when the kernel started: time zero of [`now_ns`].
pub fn start_clock() {
    TSC_AT_START.store(cpu::rdtsc(), Ordering::Relaxed);
}

/// The tick, interrupts off. Only a user program is preempted by it. The boot CPU keeps the time and serves programs and the serial line for
/// all; others have their tick only so that nothing waits for longer.
pub(super) fn tick(frame: &mut TrapFrame) {
    smp::on_tick();
    if percpu::cpu() != 0 {
        return;
    }
    TICKS.fetch_add(1, Ordering::Relaxed);
    serial::poll();
    process::on_tick(frame);
}

/// Ticks since the timer was started. Linux: `jiffies`.
pub fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Nanoseconds since the kernel was entered; 0 before the clocks are measured.
pub fn now_ns() -> u64 {
    let tsc_hz = TSC_HZ.load(Ordering::Relaxed);
    if tsc_hz == 0 {
        return 0;
    }
    let elapsed = cpu::rdtsc().wrapping_sub(TSC_AT_START.load(Ordering::Relaxed));
    u64::try_from(u128::from(elapsed) * 1_000_000_000 / u128::from(tsc_hz)).unwrap_or(u64::MAX)
}

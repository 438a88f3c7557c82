//! The local APIC and the I/O APICs, by memory-mapped registers; the local one by MSR where the firmware has switched it to x2APIC.
#![expect(unsafe_code, reason = "model-specific registers, device mappings")]

use core::sync::atomic::{Ordering, fence};

use spin::Once;
use x86_64::registers::model_specific::Msr;

use super::acpi::{Override, Platform};
use super::mmio::Registers;
use super::{features, interrupts};
use crate::mm;
use crate::sync::IrqSpinLock;

const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const MSR_X2APIC: u32 = 0x800;
const REGISTERS_LEN: usize = 0x1000;

// Registers of the local APIC: SDM 3A, "Local APIC register address map".
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL_COUNT: u32 = 0x380;
const TIMER_CURRENT_COUNT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;

const SPURIOUS_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const DIVIDE_BY_16: u32 = 0b0011;

// The interrupt command register: SDM 3A, "Issuing interprocessor interrupts".
const COMMAND_NMI: u32 = 0b100 << 8;
const COMMAND_INIT: u32 = 0b101 << 8;
const COMMAND_STARTUP: u32 = 0b110 << 8;
const COMMAND_PENDING: u32 = 1 << 12;
const COMMAND_ASSERT: u32 = 1 << 14;
/// An interrupt is accepted in microseconds; who is not there never takes it.
const MAX_COMMAND_POLLS: u32 = 1_000_000;

/// Vector of interrupts that went away before they were taken.
pub const SPURIOUS_VECTOR: u8 = 0xff;

enum Access {
    Mmio(Registers),
    Msr,
}

/// What one CPU sends to another.
#[derive(Clone, Copy, Debug)]
pub enum Ipi {
    /// An interrupt with this vector.
    Vector(u8),
    /// The interrupt that cannot be put off.
    Nmi,
    /// Back to the state after reset, waiting for [`Ipi::Startup`].
    Init,
    /// Start in real mode at this page of the first megabyte.
    Startup(u8),
}

/// This CPU's interrupt controller: each CPU finds its own one at the same address.
pub struct LocalApic {
    access: Access,
}

static LOCAL: Once<LocalApic> = Once::new();

/// The local APIC, if there is one.
pub fn local() -> Option<&'static LocalApic> {
    LOCAL.get()
}

fn map(phys: u64) -> Option<Registers> {
    let base = mm::ioremap(phys, REGISTERS_LEN)?;
    // SAFETY: the MADT says that an APIC is there; `ioremap` maps it for ever; its registers steer interrupts, not memory.
    Some(unsafe { Registers::new(base, REGISTERS_LEN) })
}

/// Switches the boot CPU's local APIC on. `None` if it has none, or it cannot be mapped.
pub fn init_local(platform: &Platform) -> Option<&'static LocalApic> {
    if !features::get().apic {
        return None;
    }
    // SAFETY: the MSR exists, as CPUID shows a local APIC.
    let value = unsafe { Msr::new(MSR_APIC_BASE).read() };
    let access = if value & APIC_BASE_X2APIC != 0 {
        Access::Msr
    } else {
        Access::Mmio(map(platform.local_apic)?)
    };
    let apic = LOCAL.call_once(|| LocalApic { access });
    apic.enable_here();
    Some(apic)
}

impl LocalApic {
    /// Switches the APIC of the running CPU on, in the mode of the boot CPU's. Its interrupts come at no priority's expense, and but for those
    /// sent to it none does.
    pub fn enable_here(&self) {
        let mut base = Msr::new(MSR_APIC_BASE);
        // SAFETY: the MSR exists wherever there is a local APIC.
        let value = unsafe { base.read() };
        let mode = match self.access {
            Access::Mmio(_) => APIC_BASE_ENABLE,
            Access::Msr => APIC_BASE_ENABLE | APIC_BASE_X2APIC,
        };
        if value & mode != mode {
            // SAFETY: enables the APIC where it is.
            unsafe { base.write(value | mode) };
        }
        self.write(TASK_PRIORITY, 0);
        self.write(LVT_TIMER, LVT_MASKED);
        self.write(LVT_LINT0, LVT_MASKED);
        self.write(LVT_ERROR, LVT_MASKED);
        self.write(SPURIOUS, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
    }

    /// Sends something to the CPU whose APIC has this number. `false` if it was never accepted.
    ///
    /// # Context
    /// Any, interrupts and NMI included: it keeps interrupts off itself.
    pub fn send(&self, apic_id: u32, ipi: Ipi) -> bool {
        let command = match ipi {
            Ipi::Vector(vector) => COMMAND_ASSERT | u32::from(vector),
            Ipi::Nmi => COMMAND_ASSERT | COMMAND_NMI,
            Ipi::Init => COMMAND_ASSERT | COMMAND_INIT,
            Ipi::Startup(page) => COMMAND_ASSERT | COMMAND_STARTUP | u32::from(page),
        };
        interrupts::without(|| match &self.access {
            Access::Mmio(_) => {
                self.wait_until_sent();
                self.write(COMMAND_HIGH, apic_id << 24);
                self.write(COMMAND_LOW, command);
                self.wait_until_sent()
            }
            Access::Msr => {
                let command = u64::from(apic_id) << 32 | u64::from(command);
                // What was written before is seen by who is interrupted: this register does not wait for that by itself.
                fence(Ordering::SeqCst);
                // SAFETY: in x2APIC mode the command is one register; what is sent interrupts or starts a CPU that we know.
                unsafe { Msr::new(MSR_X2APIC + (COMMAND_LOW >> 4)).write(command) };
                true
            }
        })
    }

    fn wait_until_sent(&self) -> bool {
        (0..MAX_COMMAND_POLLS).any(|_| self.read(COMMAND_LOW) & COMMAND_PENDING == 0)
    }

    fn read(&self, register: u32) -> u32 {
        match &self.access {
            Access::Mmio(registers) => registers.read(register as usize),
            Access::Msr => {
                // SAFETY: in x2APIC mode the register has an MSR of its own.
                let value = unsafe { Msr::new(MSR_X2APIC + (register >> 4)).read() };
                u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
            }
        }
    }

    fn write(&self, register: u32, value: u32) {
        match &self.access {
            Access::Mmio(registers) => registers.write(register as usize, value),
            // SAFETY: as above; the registers that are written here steer interrupts, not memory.
            Access::Msr => unsafe {
                Msr::new(MSR_X2APIC + (register >> 4)).write(u64::from(value))
            },
        }
    }

    /// The number by which interrupts are sent here.
    pub fn id(&self) -> u32 {
        let id = self.read(ID);
        match self.access {
            Access::Mmio(_) => id >> 24,
            Access::Msr => id,
        }
    }

    /// The interrupt in service has been handled.
    pub fn end_of_interrupt(&self) {
        self.write(END_OF_INTERRUPT, 0);
    }

    /// Lets the timer count down from its highest value, once, without an interrupt: for calibration.
    pub fn start_count_down(&self) {
        self.write(TIMER_DIVIDE, DIVIDE_BY_16);
        self.write(LVT_TIMER, LVT_MASKED);
        self.write(TIMER_INITIAL_COUNT, u32::MAX);
    }

    /// Counts since [`Self::start_count_down`].
    pub fn counted_down(&self) -> u32 {
        u32::MAX - self.read(TIMER_CURRENT_COUNT)
    }

    /// Interrupts with `vector` every `count` counts, for ever.
    pub fn start_periodic(&self, vector: u8, count: u32) {
        self.write(TIMER_DIVIDE, DIVIDE_BY_16);
        self.write(LVT_TIMER, LVT_PERIODIC | u32::from(vector));
        self.write(TIMER_INITIAL_COUNT, count);
    }
}

// An I/O APIC has an index register and a data register.
const IO_SELECT: usize = 0x00;
const IO_WINDOW: usize = 0x10;
const IO_VERSION: u32 = 0x01;
const IO_REDIRECTION: u32 = 0x10;
const IO_MASKED: u32 = 1 << 16;
const IO_LEVEL: u32 = 1 << 15;
const IO_ACTIVE_LOW: u32 = 1 << 13;
const MPS_POLARITY_LOW: u16 = 0b11;
const MPS_TRIGGER_LEVEL: u16 = 0b11 << 2;

struct IoApicWindow {
    registers: Registers,
}

impl IoApicWindow {
    fn read(&mut self, register: u32) -> u32 {
        self.registers.write(IO_SELECT, register);
        self.registers.read(IO_WINDOW)
    }

    fn write(&mut self, register: u32, value: u32) {
        self.registers.write(IO_SELECT, register);
        self.registers.write(IO_WINDOW, value);
    }

    fn nr_lines(&mut self) -> u32 {
        ((self.read(IO_VERSION) >> 16) & 0xff) + 1
    }
}

/// Index and data must not be torn apart.
static IO_LOCK: IrqSpinLock<()> = IrqSpinLock::new(());

/// Masks every line of every I/O APIC, and sends the ISA line of `wanted` to `vector` on the CPU `apic_id`. `false` if no I/O APIC serves it.
pub fn init_io(platform: &Platform, wanted: Override, vector: u8, apic_id: u32) -> bool {
    let _locked = IO_LOCK.lock();
    let mut is_routed = false;
    for io_apic in platform.io_apics() {
        let Some(registers) = map(io_apic.address) else {
            continue;
        };
        let mut window = IoApicWindow { registers };
        for line in 0..window.nr_lines() {
            let register = IO_REDIRECTION + 2 * line;
            if io_apic.first_gsi + line == wanted.gsi {
                let polarity = if wanted.flags & MPS_POLARITY_LOW == MPS_POLARITY_LOW {
                    IO_ACTIVE_LOW
                } else {
                    0
                };
                let trigger = if wanted.flags & MPS_TRIGGER_LEVEL == MPS_TRIGGER_LEVEL {
                    IO_LEVEL
                } else {
                    0
                };
                window.write(register + 1, apic_id << 24);
                window.write(register, u32::from(vector) | polarity | trigger);
                is_routed = true;
            } else {
                window.write(register, IO_MASKED);
            }
        }
    }
    is_routed
}

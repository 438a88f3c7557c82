//! What the ACPI tables say about CPUs and interrupt controllers (the MADT).
//!
//! They are read once, early, through the provisional direct map, and what is needed is copied out.
#![expect(unsafe_code, reason = "implements AcpiHandler over the direct map")]

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};
use spin::Once;

use super::features;
use crate::boot::{BootInfo, DIRECT_MAP, Door};
use crate::smp::MAX_CPUS;

const MAX_IO_APICS: usize = 8;
const MAX_OVERRIDES: usize = 16;
const CPU_ENABLED: u32 = 1;
/// Means all CPUs.
const BROADCAST_ID: u32 = 0xff;
const ISA_BUS: u8 = 0;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// The first global system interrupt that it serves.
    pub first_gsi: u32,
}

/// Where an ISA interrupt really arrives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Override {
    /// The ISA line.
    pub isa_irq: u8,
    /// The global system interrupt.
    pub gsi: u32,
    /// Polarity and trigger mode, as the MPS has them.
    pub flags: u16,
}

/// The machine as the MADT describes it.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// The boot CPU first, then in the order of the table.
    apic_ids: [u32; MAX_CPUS],
    nr_cpus: usize,
    lists_boot_cpu: bool,
    left_out: LeftOut,
    /// Physical address of the local APIC's registers.
    pub local_apic: u64,
    io_apics: [IoApic; MAX_IO_APICS],
    nr_io_apics: usize,
    overrides: [Override; MAX_OVERRIDES],
    nr_overrides: usize,
}

/// CPUs that the MADT lists and the kernel does not use.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    /// Disabled; those that are "online capable" could be plugged in.
    absent: u32,
    /// Reached by an x2APIC only.
    x2apic: u32,
    /// Listed twice, or with a number that no CPU can have.
    bad: u32,
    /// More than there is room for.
    too_many: u32,
}

impl LeftOut {
    fn print(&self) {
        for (count, why) in [
            (self.absent, "disabled, or not plugged in"),
            (self.x2apic, "to be reached by an x2APIC only"),
            (self.bad, "listed twice or with a number that no CPU has"),
            (self.too_many, "more than this kernel has room for"),
        ] {
            if count > 0 {
                println!("acpi: {count} CPUs left out: {why}");
            }
        }
    }
}

impl Platform {
    /// A machine of one CPU.
    fn new(boot_apic_id: u32, local_apic: u64) -> Self {
        let mut apic_ids = [0; MAX_CPUS];
        apic_ids[0] = boot_apic_id;
        Self {
            apic_ids,
            nr_cpus: 1,
            lists_boot_cpu: false,
            left_out: LeftOut::default(),
            local_apic,
            io_apics: [IoApic::default(); MAX_IO_APICS],
            nr_io_apics: 0,
            overrides: [Override::default(); MAX_OVERRIDES],
            nr_overrides: 0,
        }
    }

    /// The numbers of the local APICs of all CPUs that are there and enabled, by number of the CPU: the boot CPU's first.
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.nr_cpus]
    }

    fn add_cpu(&mut self, apic_id: u32, flags: u32) {
        if flags & CPU_ENABLED == 0 {
            self.left_out.absent += 1;
        } else if apic_id == BROADCAST_ID {
            self.left_out.bad += 1;
        } else if apic_id == self.apic_ids[0] && !self.lists_boot_cpu {
            self.lists_boot_cpu = true;
        } else if self.apic_ids().contains(&apic_id) {
            self.left_out.bad += 1;
        } else if let Some(slot) = self.apic_ids.get_mut(self.nr_cpus) {
            *slot = apic_id;
            self.nr_cpus += 1;
        } else {
            self.left_out.too_many += 1;
        }
    }

    /// The I/O APICs.
    pub fn io_apics(&self) -> &[IoApic] {
        &self.io_apics[..self.nr_io_apics]
    }

    /// Where the ISA line `isa_irq` arrives, with its flags: by default at the interrupt of the same number.
    pub fn isa_interrupt(&self, isa_irq: u8) -> Override {
        let overrides = &self.overrides[..self.nr_overrides];
        overrides
            .iter()
            .copied()
            .find(|found| found.isa_irq == isa_irq)
            .unwrap_or(Override {
                isa_irq,
                gsi: u32::from(isa_irq),
                flags: 0,
            })
    }
}

static PLATFORM: Once<Platform> = Once::new();

/// The machine, if there is a MADT.
pub fn platform() -> Option<&'static Platform> {
    PLATFORM.get()
}

/// Reaches tables through the direct map; what lies outside of it reads as zeros, which no table survives.
#[derive(Clone, Debug)]
pub struct Handler {
    mapped_end: u64,
}

const ZEROS_LEN: usize = 4096;
#[repr(align(4096))]
struct Zeros(#[expect(dead_code, reason = "read through pointers")] [u8; ZEROS_LEN]);
static ZEROS: Zeros = Zeros([0; ZEROS_LEN]);

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let start = physical_address as u64;
        let is_reachable = start != 0
            && start
                .checked_add(size as u64)
                .is_some_and(|end| end <= self.mapped_end);
        let pointer = if is_reachable {
            (DIRECT_MAP + start) as *mut T
        } else {
            (&raw const ZEROS).cast::<T>().cast_mut()
        };
        let length = if is_reachable {
            size
        } else {
            size.min(ZEROS_LEN)
        };
        let pointer = NonNull::new(pointer).unwrap_or(NonNull::<MaybeUninit<T>>::dangling().cast());
        // SAFETY: the range is mapped as long as the direct map is; nothing is undone at `unmap`.
        unsafe { PhysicalMapping::new(physical_address, pointer, length, length, self.clone()) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// The tables, if there are any.
///
/// # Errors
/// What `acpi` finds wrong with the root pointer or the root table.
pub fn tables(boot: &BootInfo) -> Result<AcpiTables<Handler>, AcpiError> {
    let handler = Handler {
        mapped_end: boot.mapped_end,
    };
    match (boot.rsdp, boot.door) {
        // SAFETY: the firmware says that it is there; the crate checks signature and sum.
        (Some(rsdp), _) => unsafe {
            AcpiTables::from_rsdp(handler, usize::try_from(rsdp).unwrap_or(0))
        },
        // SAFETY: this door is used under a BIOS, whose areas lie in the direct map.
        (None, Door::Pvh) => unsafe { AcpiTables::search_for_rsdp_bios(handler) },
        (None, Door::Uefi) => Err(AcpiError::NoValidRsdp),
    }
}

/// Reads the MADT. Without one, there is one CPU and a PIC.
pub fn init(boot: &BootInfo) {
    let madt = tables(boot).and_then(|tables| tables.find_table::<Madt>());
    match madt {
        Ok(madt) => {
            let platform = read(&madt);
            println!(
                "acpi: {} CPUs, {} I/O APICs, local APIC at {:#x}",
                platform.nr_cpus, platform.nr_io_apics, platform.local_apic
            );
            platform.left_out.print();
            PLATFORM.call_once(|| platform);
        }
        Err(error) => println!("acpi: no MADT ({error:?}): one CPU, legacy interrupts"),
    }
}

fn read(madt: &PhysicalMapping<Handler, Madt>) -> Platform {
    let madt = madt.get();
    let mut platform = Platform::new(features::initial_apic_id(), madt.local_apic_address.into());
    for entry in madt.entries() {
        match entry {
            MadtEntry::LocalApic(cpu) => platform.add_cpu(cpu.apic_id.into(), cpu.flags),
            MadtEntry::LocalX2Apic(cpu) if cpu.flags & CPU_ENABLED != 0 => {
                platform.left_out.x2apic += 1;
            }
            MadtEntry::LocalApicAddressOverride(entry) => {
                platform.local_apic = entry.local_apic_address
            }
            MadtEntry::IoApic(entry) => {
                if let Some(slot) = platform.io_apics.get_mut(platform.nr_io_apics) {
                    *slot = IoApic {
                        address: u64::from(entry.io_apic_address),
                        first_gsi: entry.global_system_interrupt_base,
                    };
                    platform.nr_io_apics += 1;
                }
            }
            MadtEntry::InterruptSourceOverride(entry) if entry.bus == ISA_BUS => {
                if let Some(slot) = platform.overrides.get_mut(platform.nr_overrides) {
                    *slot = Override {
                        isa_irq: entry.irq,
                        gsi: entry.global_system_interrupt,
                        flags: entry.flags,
                    };
                    platform.nr_overrides += 1;
                }
            }
            _ => {}
        }
    }
    platform
}

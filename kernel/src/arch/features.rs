//! CPU features: each is switched on where CPUID shows it, and the kernel runs without any of them.
#![expect(
    unsafe_code,
    reason = "writes control registers, patches the kernel's text"
)]

use core::mem::size_of;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use raw_cpuid::CpuId;
use spin::Once;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};

use crate::boot::{DIRECT_MAP, image};

/// What this CPU has of what `mm` cares about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// No-execute pages.
    pub nx: bool,
    /// Global pages.
    pub pge: bool,
    /// 1 GiB pages.
    pub gib_pages: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// User-mode instruction prevention.
    pub umip: bool,
    /// A local APIC.
    pub apic: bool,
    /// Bits of a physical address.
    pub phys_bits: u8,
}

static FEATURES: Once<Features> = Once::new();
/// The boot CPU's control registers.
static BOOT_CR0: AtomicU64 = AtomicU64::new(0);
static BOOT_CR4: AtomicU64 = AtomicU64::new(0);

#[repr(C)]
struct SmapSite {
    address: u64,
    opcode: u64,
}

unsafe extern "C" {
    static __smap_sites_start: SmapSite;
    static __smap_sites_end: SmapSite;
}

fn read() -> Features {
    let cpuid = CpuId::new();
    let basic = cpuid.get_feature_info();
    let basic = basic.as_ref();
    let extended = cpuid.get_extended_feature_info();
    let extended = extended.as_ref();
    let processor = cpuid.get_extended_processor_and_feature_identifiers();
    let processor = processor.as_ref();
    Features {
        nx: processor.is_some_and(|info| info.has_execute_disable()),
        pge: basic.is_some_and(|info| info.has_pge()),
        gib_pages: processor.is_some_and(|info| info.has_1gib_pages()),
        smep: extended.is_some_and(|info| info.has_smep()),
        smap: extended.is_some_and(|info| info.has_smap()),
        umip: extended.is_some_and(|info| info.has_umip()),
        apic: basic.is_some_and(|info| info.has_apic()),
        phys_bits: cpuid
            .get_processor_capacity_feature_info()
            .map_or(36, |info| info.physical_address_bits()),
    }
}

/// What this CPU has.
pub fn get() -> &'static Features {
    FEATURES.call_once(read)
}

/// The number of this CPU's local APIC, as it was at reset.
pub fn initial_apic_id() -> u32 {
    CpuId::new()
        .get_feature_info()
        .map_or(0, |info| info.initial_local_apic_id().into())
}

/// Switches on what there is, on the boot CPU.
pub fn init() {
    let features = get();
    if features.smap {
        patch_smap_sites();
    }
    enable(features);
    BOOT_CR0.store(Cr0::read_raw(), Ordering::Relaxed);
    BOOT_CR4.store(Cr4::read_raw(), Ordering::Relaxed);
    println!(
        "cpu: {}, {} physical address bits{}{}{}{}{}{}",
        CpuId::new()
            .get_processor_brand_string()
            .as_ref()
            .map_or("x86-64", |brand| brand.as_str().trim()),
        features.phys_bits,
        if features.nx { ", NX" } else { "" },
        if features.smep { ", SMEP" } else { "" },
        if features.smap { ", SMAP" } else { "" },
        if features.umip { ", UMIP" } else { "" },
        if features.pge { ", global pages" } else { "" },
        if features.gib_pages {
            ", 1 GiB pages"
        } else {
            ""
        },
    );
}

/// Switches on what the boot CPU has, on another one. `false` if this CPU is of another kind: it must not run the kernel then.
pub fn init_like_boot_cpu() -> bool {
    if read() != *get() {
        return false;
    }
    enable(get());
    // Firmware may have switched on more, on the boot CPU alone.
    // SAFETY: what the boot CPU runs with; the features above are the same.
    unsafe { Cr0::write_raw(BOOT_CR0.load(Ordering::Relaxed)) };
    // SAFETY: as above.
    unsafe { Cr4::write_raw(BOOT_CR4.load(Ordering::Relaxed)) };
    true
}

/// Sets this CPU's control registers.
fn enable(features: &Features) {
    // SAFETY: NX alone changes nothing while no entry has bit 63 set, and from then on is what we want.
    unsafe { Efer::update(|flags| flags.set(EferFlags::NO_EXECUTE_ENABLE, features.nx)) };
    // SAFETY: the kernel never writes through a read-only mapping; FPU instructions do not trap.
    unsafe {
        Cr0::update(|flags| {
            flags.insert(
                Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR | Cr0Flags::MONITOR_COPROCESSOR,
            );
            flags.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
        });
    }
    // SAFETY: the kernel executes no user page; it touches user memory only between the patched `stac` and `clac`. FXSAVE works from here.
    // OSXSAVE stays off, so that programs keep to SSE; FSGSBASE stays off, so that GS in kernel mode is the kernel's.
    unsafe {
        Cr4::update(|flags| {
            flags.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            flags.remove(Cr4Flags::OSXSAVE | Cr4Flags::FSGSBASE | Cr4Flags::TIMESTAMP_DISABLE);
            flags.set(Cr4Flags::PAGE_GLOBAL, features.pge);
            flags.set(
                Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
                features.smep,
            );
            flags.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
            flags.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
        });
    }
}

/// Turns the no-ops of `entry.S` into `clac` and `stac`. The text may be read-only already, so it is written through the direct map.
fn patch_smap_sites() {
    let start = &raw const __smap_sites_start;
    let len = ((&raw const __smap_sites_end).addr() - start.addr()) / size_of::<SmapSite>();
    // SAFETY: the linker script puts the entries there, one after the other.
    let sites = unsafe { slice::from_raw_parts(start, len) };
    for site in sites {
        for (offset, byte) in [0x0f, 0x01, u8::try_from(site.opcode).unwrap_or(0x90)]
            .into_iter()
            .enumerate()
        {
            let Some(frame) = image::frame_of(site.address + offset as u64) else {
                continue;
            };
            // SAFETY: a byte of a three-byte no-op in our text, by its direct-map alias; one CPU runs, and it is not in there.
            unsafe { ((DIRECT_MAP + frame) as *mut u8).write_volatile(byte) };
        }
    }
}

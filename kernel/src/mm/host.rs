//! This machine as a host of kmm: one CPU, one direct map, tables in memory, `invlpg`.
#![expect(unsafe_code, reason = "vouches for the machine")]

use core::ops::Range;

use kmm::frame::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use kmm::host::{CpuId, CpuPin, Cpus, DirectMap, Host, MemPtes, TlbControl, TlbTarget};
use x86_64::registers::control::Cr3;

use crate::arch::cpu;
use crate::boot::DIRECT_MAP;
use crate::sync::RawIrqSpinLock;

/// From this many pages on, flushing everything is cheaper. Linux: `tlb_single_page_flush_ceiling`.
const SINGLE_PAGE_CEILING: u64 = 33;

/// The machine.
#[derive(Debug)]
pub struct KernelHost {
    phys: DirectMap,
    ptes: MemPtes<DirectMap>,
    tlb: KernelTlb,
    cpus: OneCpu,
}

impl KernelHost {
    /// A machine whose RAM ends at `end`.
    ///
    /// # Safety
    /// All RAM below `end` is mapped at [`DIRECT_MAP`] whenever it is used from now on.
    pub const unsafe fn new(end: Pfn) -> Self {
        // SAFETY: the caller's obligation is the same.
        let phys = unsafe { DirectMap::new(VirtAddr::new(DIRECT_MAP), end) };
        Self {
            phys,
            ptes: MemPtes::new(phys),
            tlb: KernelTlb,
            cpus: OneCpu,
        }
    }
}

impl Host for KernelHost {
    type Phys = DirectMap;
    type Ptes = MemPtes<DirectMap>;
    type Tlb = KernelTlb;
    type Cpus = OneCpu;
    type Lock = RawIrqSpinLock;
    type Owners = ();

    fn phys(&self) -> &DirectMap {
        &self.phys
    }

    fn ptes(&self) -> &MemPtes<DirectMap> {
        &self.ptes
    }

    fn tlb(&self) -> &KernelTlb {
        &self.tlb
    }

    fn cpus(&self) -> &OneCpu {
        &self.cpus
    }

    fn owners(&self) -> &() {
        &()
    }
}

/// The one CPU that runs. Kernel code is never preempted by other kernel code, so a pin costs nothing.
#[derive(Debug)]
pub struct OneCpu;

// SAFETY: there is one CPU, and nothing else runs on it during the closure but interrupts.
unsafe impl Cpus for OneCpu {
    fn nr_cpus(&self) -> usize {
        1
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: there is no other CPU.
        f(unsafe { CpuPin::new(CpuId::BOOT) })
    }
}

/// This CPU's TLB. Without PCIDs it knows the loaded address space and the global entries, nothing else.
#[derive(Debug)]
pub struct KernelTlb;

impl TlbControl for KernelTlb {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        if !is_loaded(target) {
            return;
        }
        let nr_pages = (range.end - range.start) / PAGE_SIZE as u64;
        if nr_pages >= SINGLE_PAGE_CEILING {
            return self.flush_all(target);
        }
        for nr in 0..nr_pages {
            cpu::invlpg((range.start + nr * PAGE_SIZE as u64).as_u64());
        }
    }

    fn flush_all(&self, target: TlbTarget) {
        match target {
            TlbTarget::Kernel => cpu::flush_all(),
            TlbTarget::User { .. } if is_loaded(target) => x86_64::instructions::tlb::flush_all(),
            TlbTarget::User { .. } => {}
        }
    }
}

/// Does the CPU remember anything of it? Loading CR3 drops all that is not global.
fn is_loaded(target: TlbTarget) -> bool {
    match target {
        TlbTarget::Kernel => true,
        TlbTarget::User { root } => root == active_root(),
    }
}

/// The top table that the CPU uses.
pub fn active_root() -> Pfn {
    PhysAddr::new(Cr3::read().0.start_address().as_u64()).pfn()
}

/// Makes the CPU use another top table, unless it does so already.
///
/// # Safety
/// `root` is the top table of a live address space, or the kernel's, and stays so while it is loaded.
pub unsafe fn activate(root: Pfn) {
    if root != active_root() {
        // SAFETY: every root shares the kernel half, so the kernel stays mapped; the rest is the caller's promise.
        unsafe { cpu::write_cr3(root.phys().as_u64()) };
    }
}

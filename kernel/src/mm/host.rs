//! This machine as a host of kmm: CPUs by number in GS, one direct map, tables in memory, `invlpg` and interrupts to other CPUs.
#![expect(unsafe_code, reason = "vouches for the machine")]

use core::ops::Range;

use kmm::frame::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use kmm::host::{
    Context, CpuId, CpuPin, Cpus, DirectMap, Host, MemPtes, Sanitizer, TlbControl, TlbTarget,
};
use x86_64::registers::control::Cr3;

use crate::arch::{cpu, interrupts, percpu};
use crate::boot::DIRECT_MAP;
use crate::kasan::{self, PageOwners};
use crate::smp::{self, Flush};
use crate::sync::RawIrqSpinLock;

/// From this many pages on, flushing everything is cheaper. Linux: `tlb_single_page_flush_ceiling`.
const SINGLE_PAGE_CEILING: u64 = 33;

/// The machine.
#[derive(Debug)]
pub struct KernelHost {
    phys: DirectMap,
    ptes: MemPtes<DirectMap>,
    tlb: KernelTlb,
    cpus: GsCpus,
}

impl KernelHost {
    /// A machine whose RAM ends at `end`, with CPUs numbered below `nr_cpus`.
    ///
    /// # Safety
    /// 1. All RAM below `end` is mapped at [`DIRECT_MAP`] whenever it is used from now on.
    /// 2. No CPU with a higher number ever runs.
    pub const unsafe fn new(end: Pfn, nr_cpus: usize) -> Self {
        // SAFETY: the caller's first obligation is the same.
        let phys = unsafe { DirectMap::new(VirtAddr::new(DIRECT_MAP), end) };
        Self {
            phys,
            ptes: MemPtes::new(phys),
            tlb: KernelTlb,
            cpus: GsCpus { nr_cpus },
        }
    }
}

impl Host for KernelHost {
    type Phys = DirectMap;
    type Ptes = MemPtes<DirectMap>;
    type Tlb = KernelTlb;
    type Cpus = GsCpus;
    type Lock = RawIrqSpinLock;
    type Owners = PageOwners;

    fn phys(&self) -> &DirectMap {
        &self.phys
    }

    fn ptes(&self) -> &MemPtes<DirectMap> {
        &self.ptes
    }

    fn tlb(&self) -> &KernelTlb {
        &self.tlb
    }

    fn cpus(&self) -> &GsCpus {
        &self.cpus
    }

    fn owners(&self) -> &PageOwners {
        &kasan::OWNERS
    }

    fn sanitizer(&self) -> &(dyn Sanitizer + Sync) {
        &kasan::SANITIZER
    }

    fn context(&self) -> Context {
        if interrupts::is_in_interrupt() {
            Context::HardIrq
        } else if interrupts::off_depth() > 0 {
            Context::Atomic
        } else {
            Context::Process
        }
    }
}

/// The CPUs, each with its number in GS. Kernel code is never preempted by other kernel code, and never moves to another CPU, so a pin
/// costs one load.
#[derive(Debug)]
pub struct GsCpus {
    nr_cpus: usize,
}

// SAFETY: during the closure nothing else runs on this CPU but interrupts, and it goes on where it began: only user mode is preempted, and
// what works on the other CPUs stays there to its end. The machine has one manager, whose words are those in GS.
unsafe impl Cpus for GsCpus {
    const HAS_LOCAL_WORDS: bool = true;

    fn nr_cpus(&self) -> usize {
        self.nr_cpus
    }

    #[inline(always)]
    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: this is that CPU, for as long as the closure runs; as above.
        f(unsafe { CpuPin::new(CpuId::new(percpu::cpu())) })
    }

    #[inline(always)]
    fn local_word(&self, _pin: CpuPin<'_>, nr: usize) -> *mut () {
        percpu::local_word(nr)
    }

    fn set_local_word(&self, cpu: CpuId, nr: usize, word: *mut ()) {
        percpu::set_local_word(cpu.index(), nr, word);
    }
}

/// The TLBs of all CPUs. Without PCIDs each knows the loaded address space and the global entries, nothing else.
#[derive(Debug)]
pub struct KernelTlb;

impl TlbControl for KernelTlb {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        smp::flush_tlb(target, &Flush::Range(range));
    }

    fn flush_all(&self, target: TlbTarget) {
        smp::flush_tlb(target, &Flush::All);
    }
}

/// Flushes what the running CPU remembers of the target.
pub fn flush_tlb_here(target: TlbTarget, flush: &Flush) {
    if !is_loaded(target) {
        return;
    }
    if let Flush::Range(range) = flush {
        let nr_pages = (range.end - range.start) / PAGE_SIZE as u64;
        if nr_pages < SINGLE_PAGE_CEILING {
            for nr in 0..nr_pages {
                cpu::invlpg((range.start + nr * PAGE_SIZE as u64).as_u64());
            }
            return;
        }
    }
    match target {
        TlbTarget::Kernel => cpu::flush_all(),
        TlbTarget::User { .. } => x86_64::instructions::tlb::flush_all(),
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
        smp::note_root(None);
        // SAFETY: every root shares the kernel half, so the kernel stays mapped; the rest is the caller's promise.
        unsafe { cpu::write_cr3(root.phys().as_u64()) };
        smp::note_root(Some(root));
    }
}

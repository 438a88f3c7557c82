//! The least host: everything that a crate could ask for, without behaviour. Its programs are linked and never run.
#![allow(dead_code, reason = "each program uses a part")]

use core::hint::black_box;

use kmm_frame::{MemMap, Order, Pfn, PfnRange, VirtAddr};
use kmm_host::{
    AllocError, CpuId, CpuPin, Cpus, DirectMap, Host, MemPtes, NoTlb, PageBlock, PageReq,
    PageSource,
};

pub type Lock = spin::Mutex<()>;

/// A number that the compiler cannot know.
pub fn any() -> u64 {
    black_box(1 << 20)
}

pub fn va() -> VirtAddr {
    VirtAddr::new(any())
}

pub fn frames() -> PfnRange {
    PfnRange::with_len(Pfn::new(any() as usize), any() as usize)
}

pub fn map() -> MemMap {
    black_box(MemMap::new(frames(), &[]).unwrap())
}

pub fn phys() -> DirectMap {
    // SAFETY: never run.
    unsafe { DirectMap::new(va(), Pfn::new(any() as usize)) }
}

/// A page source of another kernel: its own cost is not ours.
pub struct Source;

// SAFETY: never run.
unsafe impl PageSource for Source {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        // SAFETY: never run.
        Ok(unsafe { PageBlock::from_raw(Pfn::new(black_box(req.order.nr_pages())), req.order) })
    }

    fn free(&self, block: PageBlock) {
        black_box(block.into_raw());
    }
}

pub fn order() -> Order {
    black_box(Order::PAGEBLOCK)
}

pub struct OneCpu;

// SAFETY: never run.
unsafe impl Cpus for OneCpu {
    fn nr_cpus(&self) -> usize {
        1
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: never run.
        f(unsafe { CpuPin::new(CpuId::BOOT) })
    }
}

pub struct Machine {
    pub phys: DirectMap,
    pub ptes: MemPtes<DirectMap>,
    pub tlb: NoTlb,
    pub cpus: OneCpu,
}

impl Host for Machine {
    type Phys = DirectMap;
    type Ptes = MemPtes<DirectMap>;
    type Tlb = NoTlb;
    type Cpus = OneCpu;
    type Lock = Lock;
    type Owners = ();

    fn phys(&self) -> &DirectMap {
        &self.phys
    }

    fn ptes(&self) -> &MemPtes<DirectMap> {
        &self.ptes
    }

    fn tlb(&self) -> &NoTlb {
        &self.tlb
    }

    fn cpus(&self) -> &OneCpu {
        &self.cpus
    }

    fn owners(&self) -> &() {
        &()
    }
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    crate::run();
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

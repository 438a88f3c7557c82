//! A machine whose kernel tables belong to a vmalloc, over a watched source of pages.
#![allow(
    dead_code,
    unreachable_pub,
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    clippy::cast_possible_truncation,
    reason = "each test file uses its part of this"
)]

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use kmm_frame::{PAGE_SIZE, PageFlags, Pfn, PfnRange, VirtAddr};
use kmm_host::{AllocError, CpuId, PageBlock, PageReq, PageSource, Sanitizer, TlbControl};
use kmm_pagetable_walker::{KernelHalf, Levels, Mapper, TableCounter};
use kmm_sim::{
    Access, Config, FailRandom, Fault, FreeListSource, Machine, Mode, SimLock, SimPtes, SimTlb,
};
use kmm_vmalloc::{Vmalloc, VmallocConfig, VmallocError};

pub type Source = Budget;
pub type AnyVmalloc<A, T> = Vmalloc<'static, SimPtes, A, T, SimLock>;
pub type SimVmalloc = AnyVmalloc<Source, SimTlb>;
pub type Freed = Result<(), VmallocError>;

/// Lets all requests fail after so many.
pub struct Budget {
    pub inner: FailRandom<FreeListSource>,
    pub left: AtomicU64,
}

// SAFETY: blocks come from the inner source.
unsafe impl PageSource for Budget {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let spend = |left: u64| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .map_err(|_| AllocError::OutOfMemory)?;
        self.inner.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.inner.free(block);
    }
}

/// Where Linux has its vmalloc area, but smaller.
pub const START: VirtAddr = VirtAddr::new(0xffff_c900_0000_0000);
pub const RANGE: Range<VirtAddr> = START..VirtAddr::new(0xffff_c900_0400_0000);

pub struct Rig {
    pub machine: &'static Machine,
    pub source: &'static Source,
    pub mapper: Mapper<'static, SimPtes, Source>,
    pub vm: &'static SimVmalloc,
    pub root: Pfn,
    pub kernel: KernelHalf,
    /// Frames of tables that there are without any area.
    pub at_rest: usize,
}

pub fn rig() -> Rig {
    rig_with(Config::with_mib(32).cpus(2), Levels::Four)
}

pub fn rig_with(config: Config, levels: Levels) -> Rig {
    rig_watched(config, levels, &())
}

pub fn rig_watched(
    config: Config,
    levels: Levels,
    sanitizer: &'static (dyn Sanitizer + Sync),
) -> Rig {
    let machine = Machine::new(config);
    let source: &'static Source = Box::leak(Box::new(Budget {
        inner: FailRandom::new(FreeListSource::new(machine), 1, 0),
        left: AtomicU64::new(u64::MAX),
    }));
    let mapper = mapper(machine, source, levels);
    let mut root = mapper.alloc_root().unwrap();
    let kernel = mapper.prealloc_kernel_pgds(&mut root, RANGE).unwrap();
    let pfn = root.pfn();
    let is_ram = Box::leak(Box::new(|frames: PfnRange| {
        machine.ram().iter().any(|ram| ram.overlaps(frames))
    }));
    let config = VmallocConfig {
        range: RANGE,
        is_ram,
    };
    let vm = Vmalloc::new(mapper, source, root, *machine.tlb(), config).with_sanitizer(sanitizer);
    let vm = Box::leak(Box::new(vm));
    Rig {
        machine,
        source,
        mapper,
        vm,
        root: pfn,
        kernel,
        at_rest: source.inner.inner().outstanding(),
    }
}

pub const CPUS: [CpuId; 2] = [CpuId::new(0), CpuId::new(1)];

impl Rig {
    pub fn outstanding(&self) -> usize {
        self.source.inner.inner().outstanding()
    }

    /// No area is left, nor a frame or table of one.
    #[track_caller]
    pub fn assert_at_rest(&self) {
        self.vm.validate().unwrap();
        assert_eq!(self.vm.areas().count(), 0);
        assert_eq!(self.vm.nr_pages(), 0);
        assert_eq!(self.outstanding(), self.at_rest);
        assert_eq!(self.mapper.tables().nr_tables(), self.at_rest);
        let map = self.machine.mem_map();
        let marked = |pfn: &Pfn| map.page(*pfn).test(PageFlags::VMALLOC);
        assert_eq!(map.range().iter().find(marked), None, "a mark is left");
    }

    /// Writes a pattern over memory, as the kernel on the first CPU does.
    #[track_caller]
    pub fn fill(&self, va: VirtAddr, len: usize, id: u64) {
        let bytes: Vec<u8> = (0..len).map(|at| pattern(id, at)).collect();
        let written = self
            .machine
            .write(CPUS[0], self.root, va, Mode::Kernel, &bytes);
        written.unwrap();
    }

    /// Whether the pattern is there still, read on the second CPU.
    #[track_caller]
    pub fn holds(&self, va: VirtAddr, len: usize, id: u64) -> bool {
        let bytes = self.read(va, len);
        (0..len).all(|at| bytes[at] == pattern(id, at))
    }

    #[track_caller]
    pub fn read(&self, va: VirtAddr, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self
            .machine
            .read(CPUS[1], self.root, va, Mode::Kernel, &mut bytes);
        read.unwrap();
        bytes
    }

    /// Whether every CPU faults on every kind of access.
    pub fn faults(&self, va: VirtAddr) -> bool {
        CPUS.into_iter().all(|cpu| {
            [Access::Read, Access::Write, Access::Execute]
                .into_iter()
                .all(|access| self.try_access(cpu, va, access).is_err())
        })
    }

    pub fn try_access(&self, cpu: CpuId, va: VirtAddr, access: Access) -> Result<(), Fault> {
        self.machine
            .access(cpu, self.root, va, access, Mode::Kernel)
            .map(|_| ())
    }
}

fn pattern(id: u64, at: usize) -> u8 {
    (id.wrapping_mul(0x9e37_79b9) >> (8 * (at % 4))) as u8 ^ (at as u8) ^ ((at / PAGE_SIZE) as u8)
}

/// [`Vmalloc::vfree`] and its like, which tests may call with anything: memory of the simulated machine is only reached by
/// its addresses, and the machine refuses those that are not mapped.
pub fn vfree<A: PageSource, T: TlbControl>(vm: &AnyVmalloc<A, T>, addr: VirtAddr) -> Freed {
    // SAFETY: nobody has a reference into an area.
    unsafe { vm.vfree(addr) }
}

pub fn vunmap<A: PageSource, T: TlbControl>(vm: &AnyVmalloc<A, T>, addr: VirtAddr) -> Freed {
    // SAFETY: as above.
    unsafe { vm.vunmap(addr) }
}

pub fn iounmap<A: PageSource, T: TlbControl>(vm: &AnyVmalloc<A, T>, addr: VirtAddr) -> Freed {
    // SAFETY: as above.
    unsafe { vm.iounmap(addr) }
}

pub fn kvfree(vm: &SimVmalloc, addr: VirtAddr, kfree: impl FnOnce(VirtAddr)) -> Freed {
    // SAFETY: as above, and `kfree` of a test frees nothing.
    unsafe { vm.kvfree(addr, kfree) }
}

/// The mapper of a machine's kernel tables.
pub fn mapper<A: PageSource>(
    machine: &'static Machine,
    source: &'static A,
    levels: Levels,
) -> Mapper<'static, SimPtes, A> {
    let tables = Box::leak(Box::new(TableCounter::new()));
    // SAFETY: store and descriptors are those of one machine, whose frames the source hands out.
    unsafe { Mapper::new(machine.ptes(), source, machine.mem_map(), levels, tables) }
}

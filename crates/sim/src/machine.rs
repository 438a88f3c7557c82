//! The machine.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::sync::OnceLock;

use kmm_frame::memblock::FirmwareRegion;
use kmm_frame::{MemMap, PAGE_SIZE, Pfn, PfnRange, PhysAddr, SparseMap, VirtAddr};
use kmm_host::{CpuId, Host};
use lock_api::RawMutex as _;

use crate::mmu::{Access, Fault, Mode, Translation};
use crate::ptes::Tables;
use crate::ram::Ram;
use crate::tlb::Tlbs;
use crate::{Config, SimCpus, SimLock, SimPhys, SimPtes, SimTlb};

/// What the parts of a machine share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) ram: Ram,
    pub(crate) tables: Tables,
    pub(crate) tlbs: Tlbs,
    pub(crate) cpus: Vec<SimLock>,
    pub(crate) nr_levels: u32,
    pub(crate) low_frames: Pfn,
    pub(crate) check_stale_use: bool,
}

/// A machine to test on: RAM with holes, CPUs with TLBs, page tables that are watched. The bundle of all host traits.
///
/// Machines are never given back, as what runs on them has `'static` references; the memory of one that is done with
/// stays untouched.
#[derive(Debug)]
pub struct Machine {
    inner: &'static Inner,
    firmware: Vec<FirmwareRegion>,
    map: OnceLock<MemMap>,
    phys: SimPhys,
    ptes: SimPtes,
    tlb: SimTlb,
    cpus: SimCpus,
}

impl Machine {
    /// Builds a machine.
    ///
    /// # Panics
    /// When the configuration makes no sense: no RAM, ranges that overlap, no CPU, 3 levels.
    #[must_use]
    pub fn new(config: Config) -> &'static Self {
        assert!(!config.ram.is_empty(), "a machine without RAM");
        assert!(config.nr_cpus > 0, "a machine without a CPU");
        assert!(
            matches!(config.nr_levels, 4 | 5),
            "page tables of {} levels",
            config.nr_levels
        );
        let ram = Ram::new(config.ram);
        let inner: &'static Inner = Box::leak(Box::new(Inner {
            tables: Tables::new(ram.end()),
            ram,
            tlbs: Tlbs::new(config.nr_cpus),
            cpus: (0..config.nr_cpus).map(|_| SimLock::INIT).collect(),
            nr_levels: config.nr_levels,
            low_frames: config.low_frames,
            check_stale_use: config.check_stale_use,
        }));
        Box::leak(Box::new(Self {
            inner,
            firmware: config.firmware,
            map: OnceLock::new(),
            phys: SimPhys::new(inner),
            ptes: SimPtes::new(inner),
            tlb: SimTlb::new(inner),
            cpus: SimCpus::new(inner),
        }))
    }

    /// Reaches the bytes of frames.
    #[must_use]
    pub const fn phys(&self) -> &SimPhys {
        &self.phys
    }

    /// Reaches the bytes of frames as a 32-bit kernel does: not all of them at any time.
    #[must_use]
    pub const fn phys_with_highmem(&self) -> SimPhys<true> {
        SimPhys::new(self.inner)
    }

    /// Reaches entries of page tables.
    #[must_use]
    pub const fn ptes(&self) -> &SimPtes {
        &self.ptes
    }

    /// Flushes TLBs.
    #[must_use]
    pub const fn tlb(&self) -> &SimTlb {
        &self.tlb
    }

    /// The CPUs.
    #[must_use]
    pub const fn cpus(&self) -> &SimCpus {
        &self.cpus
    }

    /// What the firmware tells of the memory.
    #[must_use]
    pub fn firmware_map(&self) -> &[FirmwareRegion] {
        &self.firmware
    }

    /// Where there is RAM.
    #[must_use]
    pub fn ram(&self) -> &[PfnRange] {
        self.inner.ram.ranges()
    }

    /// Frame 0 to the end of RAM, holes included.
    #[must_use]
    pub fn spanned(&self) -> PfnRange {
        PfnRange::new(Pfn::ZERO, self.inner.ram.end())
    }

    /// Whether a frame is RAM.
    #[must_use]
    pub fn is_ram(&self, pfn: Pfn) -> bool {
        self.inner.ram.contains(pfn)
    }

    /// Descriptors for every frame, outside the machine's own RAM; for tests that do not boot a whole manager. Those of
    /// holes are reserved; the others take memory only when they are used.
    pub fn mem_map(&self) -> MemMap {
        *self.map.get_or_init(|| {
            let map = lazy_map(self.spanned());
            map.reserve_all_but(self.ram().iter().copied());
            map
        })
    }

    /// Descriptors by section, for tests of memory that comes and goes: room for all RAM of the machine, no section present.
    /// The memory for descriptors is there, and zero until somebody writes them: [`SparseMap::add_zeroed_section`] is
    /// enough the first time. A new table at each call, outside the machine's own RAM.
    #[must_use]
    pub fn sections(&self) -> &'static SparseMap {
        lazy_sections(self.spanned())
    }

    /// What happens when code on `cpu`, running on `root`, touches the byte at `va`: where it lies, or the fault.
    ///
    /// Sets accessed and dirty bits, and remembers the translation as a TLB does.
    ///
    /// # Errors
    /// The fault that the CPU raises. After a fault, what the CPU remembered of the address is gone, so trying again
    /// walks the tables.
    ///
    /// # Panics
    /// When the CPU uses a translation that the tables no longer grant and that was not flushed; when the walk comes to
    /// a frame that is no page table.
    pub fn access(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<PhysAddr, Fault> {
        self.inner.access(cpu, root, va, access, mode)
    }

    /// What the tables below `root` say about `va`, by the MMU's own walk; nothing is remembered or marked.
    #[must_use]
    pub fn translation(&self, root: Pfn, va: VirtAddr) -> Option<Translation> {
        self.inner.walk(root, va, |_| ()).ok()
    }

    /// Copies out of the address space, as a program does.
    ///
    /// # Errors
    /// The first fault; what lies before it was copied.
    pub fn read_user(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: VirtAddr,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        self.read(cpu, root, va, Mode::User, to)
    }

    /// Copies into the address space, as a program does.
    ///
    /// # Errors
    /// The first fault; what lies before it was copied.
    pub fn write_user(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: VirtAddr,
        from: &[u8],
    ) -> Result<(), Fault> {
        self.write(cpu, root, va, Mode::User, from)
    }

    /// Copies out of the address space.
    ///
    /// # Errors
    /// The first fault; what lies before it was copied.
    pub fn read(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: VirtAddr,
        mode: Mode,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        for (offset, piece) in pieces(va, to.len()) {
            let phys = self.access(cpu, root, va + offset as u64, Access::Read, mode)?;
            self.inner.ram.read(phys, &mut to[offset..offset + piece]);
        }
        Ok(())
    }

    /// Copies into the address space.
    ///
    /// # Errors
    /// The first fault; what lies before it was copied.
    pub fn write(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: VirtAddr,
        mode: Mode,
        from: &[u8],
    ) -> Result<(), Fault> {
        for (offset, piece) in pieces(va, from.len()) {
            let phys = self.access(cpu, root, va + offset as u64, Access::Write, mode)?;
            self.inner.ram.write(phys, &from[offset..offset + piece]);
        }
        Ok(())
    }

    /// Copies out of RAM, wherever it may be mapped; within one page.
    ///
    /// # Panics
    /// When the bytes are not in one frame of RAM.
    pub fn read_phys(&self, from: PhysAddr, to: &mut [u8]) {
        self.inner.ram.read(from, to);
    }

    /// Copies into RAM, wherever it may be mapped; within one page.
    ///
    /// # Panics
    /// When the bytes are not in one frame of RAM.
    pub fn write_phys(&self, to: PhysAddr, from: &[u8]) {
        self.inner.ram.write(to, from);
    }

    /// Fills a frame with one byte.
    ///
    /// # Panics
    /// When it is no RAM.
    pub fn fill_frame(&self, pfn: Pfn, byte: u8) {
        self.inner.ram.fill(pfn, byte);
    }
}

/// Fresh descriptors of `range`, whose memory is taken when they are used.
#[expect(unsafe_code, reason = "lays descriptors into zeroed memory")]
fn lazy_map(range: PfnRange) -> MemMap {
    let layout = MemMap::layout(range).unwrap_or_else(|| panic!("{range:?} has no end"));
    // SAFETY: just as large and aligned as asked, zeroed, ours alone, and never freed.
    unsafe { MemMap::new_zeroed_in(range, lazy_memory(layout)) }
}

/// A table of the sections of `span`, whose descriptors take memory when they are used; none is present.
#[expect(unsafe_code, reason = "lays descriptors into zeroed memory")]
fn lazy_sections(span: PfnRange) -> &'static SparseMap {
    let layout = SparseMap::layout(span).unwrap_or_else(|| panic!("{span:?} has no end"));
    let words = (0..SparseMap::table_words(span)).map(|_| AtomicU64::new(0));
    let table = words.collect::<Vec<_>>().leak();
    // SAFETY: just as large and aligned as asked, ours alone, and never freed.
    let map = unsafe { SparseMap::new(span, lazy_memory(layout), table) };
    Box::leak(Box::new(map.unwrap_or_else(|error| panic!("{error}"))))
}

/// Zeroed memory that is never given back, and that takes none of the host's until it is written.
#[expect(unsafe_code, reason = "raw memory")]
fn lazy_memory(layout: Layout) -> NonNull<u8> {
    // Zeroed memory comes untouched only where nobody asks for more alignment than words have.
    let room = Layout::array::<u64>((layout.size() + layout.align()) / size_of::<u64>());
    let room = room.unwrap_or_else(|error| panic!("{layout:?}: {error}"));
    // SAFETY: the room for the alignment is not empty.
    let storage = unsafe { std::alloc::alloc_zeroed(room) };
    let storage = NonNull::new(storage).unwrap_or_else(|| std::alloc::handle_alloc_error(room));
    let skipped = storage.align_offset(layout.align());
    // SAFETY: at most the alignment, which there is room for.
    unsafe { storage.add(skipped) }
}

/// Cuts `len` bytes at `va` where pages end: offsets and lengths.
fn pieces(va: VirtAddr, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    core::iter::from_fn(move || {
        let rest = len - offset;
        let to_page_end = PAGE_SIZE - (va.as_usize() + offset) % PAGE_SIZE;
        let piece = (offset, rest.min(to_page_end));
        offset += piece.1;
        (rest > 0).then_some(piece)
    })
}

impl Host for Machine {
    type Phys = SimPhys;
    type Ptes = SimPtes;
    type Tlb = SimTlb;
    type Cpus = SimCpus;
    type Lock = SimLock;
    type Owners = ();

    fn phys(&self) -> &SimPhys {
        &self.phys
    }

    fn ptes(&self) -> &SimPtes {
        &self.ptes
    }

    fn tlb(&self) -> &SimTlb {
        &self.tlb
    }

    fn cpus(&self) -> &SimCpus {
        &self.cpus
    }

    fn owners(&self) -> &() {
        &()
    }
}

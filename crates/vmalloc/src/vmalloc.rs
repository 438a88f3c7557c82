//! The operations. Linux: mm/vmalloc.c, arch/x86/mm/ioremap.c.
//!
//! An area's life, so that every step can fail and be undone, and nothing waits under the lock:
//!
//! 1. under the lock, take a gap: phase `Building`;
//! 2. without it, ask for the frames, which may sleep;
//! 3. under it again, enter them into the tables, a few hundred at a time;
//! 4. phase `Live`.
//!
//! And back: `Dying`; unmap, a few hundred at a time; without the lock, flush every CPU (which must be able to answer, so
//! none may be spinning for this lock with interrupts off); free the frames; only then give up the addresses.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use core::fmt;
use core::ops::Range;
use core::panic::Location;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm_frame::{Gfp, PAGE_SIZE, Pfn, PfnRange, PhysAddr, VirtAddr, page_align};
use kmm_host::{PageSource, PteStore, Sanitizer, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Level, MapError, Mapper, PteFlags, Root};
use lock_api::{Mutex, RawMutex};

use crate::area::{Areas, GUARD_BYTES, Phase};
use crate::frames::Frames;
use crate::{AreaFlags, CacheMode, VmStruct, VmallocError};

/// How much is mapped or unmapped before the lock is let go once: a leaf table's worth, so large pages stay whole.
const STEP_BYTES: u64 = Level::Pmd.size_bytes();
/// Physical addresses have at most this many bits (SDM 3A, "Paging": MAXPHYADDR).
const MAX_PHYS_BITS: u32 = 52;

/// What the host settles once.
pub struct VmallocConfig<'a> {
    /// Where areas may lie. Linux: `VMALLOC_START..VMALLOC_END`.
    pub range: Range<VirtAddr>,
    /// Whether any of these frames is RAM, which `ioremap` refuses. Linux: `region_intersects(.., IORESOURCE_SYSTEM_RAM)`.
    pub is_ram: &'a (dyn Fn(PfnRange) -> bool + Sync),
}

impl fmt::Debug for VmallocConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmallocConfig")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Virtually contiguous kernel memory, and the kernel's tables, which it owns from then on.
///
/// Any number of CPUs may call it at once. Frees and mappings of frames above the lock are the caller's to order.
pub struct Vmalloc<'a, S, A, T, L> {
    mapper: Mapper<'a, S, A>,
    pages: &'a A,
    tlb: T,
    is_ram: &'a (dyn Fn(PfnRange) -> bool + Sync),
    sanitizer: &'a (dyn Sanitizer + Sync),
    range: Range<VirtAddr>,
    /// Frames in `ALLOC` areas. Linux: `nr_vmalloc_pages`.
    nr_pages: AtomicUsize,
    state: Mutex<L, State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) root: Root,
    pub(crate) areas: Areas,
}

impl<S, A, T, L: RawMutex> fmt::Debug for Vmalloc<'_, S, A, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmalloc")
            .field("range", &self.range)
            .field("nr_pages", &self.nr_pages)
            .finish_non_exhaustive()
    }
}

impl<'a, S: PteStore, A: PageSource, T: TlbControl, L: RawMutex> Vmalloc<'a, S, A, T, L> {
    /// No area yet. `root` is the kernel's, whose top entries for the range are preallocated if other roots share them;
    /// `pages` is what `mapper` takes tables from too. Linux: `vmalloc_init`.
    pub fn new(
        mapper: Mapper<'a, S, A>,
        pages: &'a A,
        root: Root,
        tlb: T,
        config: VmallocConfig<'a>,
    ) -> Self {
        Self {
            // Tables are made under the lock, where nobody may sleep.
            mapper: mapper.with_gfp(Gfp::ATOMIC),
            pages,
            tlb,
            is_ram: config.is_ram,
            sanitizer: &(),
            range: config.range.clone(),
            nr_pages: AtomicUsize::new(0),
            state: Mutex::const_new(
                L::INIT,
                State {
                    root,
                    areas: Areas::new(config.range),
                },
            ),
        }
    }

    /// Tells `sanitizer` of each area, when it is mapped and before it is unmapped.
    #[must_use]
    pub fn with_sanitizer(self, sanitizer: &'a (dyn Sanitizer + Sync)) -> Self {
        Self { sanitizer, ..self }
    }

    /// At least `size_bytes` of memory from single frames, page-aligned, followed by a page that faults. Linux: `vmalloc`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it, without any lock.
    ///
    /// # Errors
    /// [`VmallocError::InvalidSize`], [`VmallocError::NoSpace`], [`VmallocError::OutOfMemory`].
    #[track_caller]
    pub fn vmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<VirtAddr, VmallocError> {
        let caller = Location::caller();
        let nr_pages = page_align(size_bytes).ok_or(VmallocError::InvalidSize)? / PAGE_SIZE;
        // More than all RAM would only be noticed when all RAM is taken.
        if nr_pages > self.mapper.mem_map().range().nr_pages() {
            return Err(VmallocError::InvalidSize);
        }
        let vm = self.claim(
            nr_pages,
            PAGE_SIZE as u64,
            AreaFlags::ALLOC,
            PhysAddr::ZERO,
            caller,
        )?;
        self.populate(&vm, gfp | Gfp::HIGHMEM)
            .or_else(|error| self.undo(&vm, error))?;
        self.nr_pages.fetch_add(nr_pages, Ordering::Relaxed);
        self.sanitizer.vmalloc(vm.addr, size_bytes);
        self.state.lock().areas.finish(vm.addr);
        Ok(vm.addr)
    }

    /// As [`Vmalloc::vmalloc`], filled with zeros. Linux: `vzalloc`.
    ///
    /// # Errors
    /// As [`Vmalloc::vmalloc`].
    #[track_caller]
    pub fn vzalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<VirtAddr, VmallocError> {
        self.vmalloc(size_bytes, gfp | Gfp::ZERO)
    }

    /// Unmaps, flushes and frees. Linux: `vfree`.
    ///
    /// # Errors
    /// [`VmallocError::NoSuchArea`] unless [`Vmalloc::vmalloc`] returned this address and it was not freed yet.
    ///
    /// # Safety
    /// Nobody uses the memory any more.
    pub unsafe fn vfree(&self, addr: VirtAddr) -> Result<(), VmallocError> {
        let vm = self.state.lock().areas.retire(addr, AreaFlags::ALLOC)?;
        self.nr_pages.fetch_sub(vm.nr_pages, Ordering::Relaxed);
        self.release(&vm)
    }

    /// Maps frames of the caller's side by side. Linux: `vmap`.
    ///
    /// `flags` says whether they are writable (`RW`) and executable (no `NX`), and the memory type; the rest is added.
    /// The frames stay the caller's, who keeps them until after [`Vmalloc::vunmap`].
    ///
    /// # Errors
    /// [`VmallocError::InvalidSize`] for no frame; [`VmallocError::InvalidFlags`]; [`VmallocError::Owned`] if the tables are
    /// guarded; [`VmallocError::NoSpace`], [`VmallocError::OutOfMemory`].
    #[track_caller]
    pub fn vmap(&self, frames: &[Pfn], flags: PteFlags) -> Result<VirtAddr, VmallocError> {
        let caller = Location::caller();
        let writable_code = flags.contains(PteFlags::RW) && !flags.contains(PteFlags::NX);
        if writable_code || flags.contains(PteFlags::US) {
            return Err(VmallocError::InvalidFlags);
        }
        let flags = flags | PteFlags::KERNEL_ROX | PteFlags::AD;
        let align = PAGE_SIZE as u64;
        let vm = self.claim(frames.len(), align, AreaFlags::MAP, PhysAddr::ZERO, caller)?;
        let mut mapped = 0;
        self.map_in_steps(&vm, |state, part| {
            let first = mapped;
            self.mapper
                .map_frames(&mut state.root, part.clone(), flags, |nr| {
                    frames[first + nr]
                })?;
            mapped += nr_pages_of(&part);
            Ok(())
        })
        .or_else(|error| self.undo(&vm, error))?;
        self.sanitize(&vm);
        self.state.lock().areas.finish(vm.addr);
        Ok(vm.addr)
    }

    /// Unmaps what [`Vmalloc::vmap`] mapped, and flushes. Linux: `vunmap`.
    ///
    /// # Errors
    /// [`VmallocError::NoSuchArea`].
    ///
    /// # Safety
    /// Nobody uses the mapping any more.
    pub unsafe fn vunmap(&self, addr: VirtAddr) -> Result<(), VmallocError> {
        let vm = self.state.lock().areas.retire(addr, AreaFlags::MAP)?;
        self.release(&vm)
    }

    /// Maps device memory; the address of `phys`, which need not be aligned. Linux: `ioremap` and its kin.
    ///
    /// # Errors
    /// [`VmallocError::InvalidSize`]; [`VmallocError::IsRam`]; [`VmallocError::NoSpace`], [`VmallocError::OutOfMemory`].
    #[track_caller]
    pub fn ioremap(
        &self,
        phys: PhysAddr,
        size_bytes: usize,
        mode: CacheMode,
    ) -> Result<VirtAddr, VmallocError> {
        let caller = Location::caller();
        let end = phys
            .checked_add(size_bytes as u64)
            .filter(|end| size_bytes > 0 && end.as_u64() <= 1 << MAX_PHYS_BITS)
            .ok_or(VmallocError::InvalidSize)?;
        let frames = PfnRange::covering(phys, end);
        if (self.is_ram)(frames) {
            return Err(VmallocError::IsRam);
        }
        let first = frames.start().phys();
        let fits_large = first.is_aligned(STEP_BYTES) && frames.nr_pages() >= Level::Pmd.nr_pages();
        let align = if fits_large {
            STEP_BYTES
        } else {
            PAGE_SIZE as u64
        };
        let flags = PteFlags::KERNEL | mode.flags();
        let vm = self.claim(frames.nr_pages(), align, AreaFlags::IOREMAP, first, caller)?;
        self.map_in_steps(&vm, |state, part| {
            let from = first + (part.start - vm.addr);
            self.mapper
                .map_range(&mut state.root, part, from, flags, Level::Pmd)
        })
        .or_else(|error| self.undo(&vm, error))?;
        self.sanitize(&vm);
        self.state.lock().areas.finish(vm.addr);
        Ok(vm.addr + phys.page_offset())
    }

    /// Unmaps what [`Vmalloc::ioremap`] mapped, and flushes. Linux: `iounmap`.
    ///
    /// # Errors
    /// [`VmallocError::NoSuchArea`].
    ///
    /// # Safety
    /// Nobody uses the mapping any more.
    pub unsafe fn iounmap(&self, addr: VirtAddr) -> Result<(), VmallocError> {
        let start = addr.align_down(PAGE_SIZE as u64);
        let vm = self.state.lock().areas.retire(start, AreaFlags::IOREMAP)?;
        self.release(&vm)
    }

    /// Enters an area that was mapped before vmalloc was up, so that its addresses are taken and it is listed.
    ///
    /// `vm.size_bytes` includes the guard page. Linux: `vm_area_add_early`, `vmalloc_init`.
    ///
    /// # Errors
    /// [`VmallocError::Occupied`], [`VmallocError::InvalidSize`], [`VmallocError::OutOfMemory`].
    pub fn add_early(&self, vm: VmStruct) -> Result<(), VmallocError> {
        let aligned = vm.addr.is_page_aligned() && vm.size_bytes % PAGE_SIZE as u64 == 0;
        if !aligned || vm.size_bytes <= GUARD_BYTES {
            return Err(VmallocError::InvalidSize);
        }
        self.state.lock().areas.insert_at(vm, Phase::Live)?;
        if vm.flags.contains(AreaFlags::ALLOC) {
            self.nr_pages.fetch_add(vm.nr_pages, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether `addr` lies where areas are. Linux: `is_vmalloc_addr`.
    #[must_use]
    pub fn is_vmalloc_addr(&self, addr: VirtAddr) -> bool {
        self.range.contains(&addr)
    }

    /// The area that holds `addr`, its guard page included. Linux: `find_vm_area`.
    pub fn find_vm_area(&self, addr: VirtAddr) -> Option<VmStruct> {
        self.state.lock().areas.find(addr)
    }

    /// Every area, lowest first, each looked up under the lock: the lines of `/proc/vmallocinfo`.
    pub fn areas(&self) -> impl Iterator<Item = VmStruct> + use<'_, 'a, S, A, T, L> {
        let mut from = self.range.start;
        core::iter::from_fn(move || {
            let vm = self.state.lock().areas.at_or_above(from)?;
            from = vm.addr + vm.size_bytes;
            Some(vm)
        })
    }

    /// Frames in areas of their own. Linux: `vmalloc_nr_pages`, `VmallocUsed` of `/proc/meminfo`.
    #[must_use]
    pub fn nr_pages(&self) -> usize {
        self.nr_pages.load(Ordering::Relaxed)
    }

    /// Addresses that areas can have, in bytes. `VmallocTotal` of `/proc/meminfo`.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Addresses that areas and their guard pages have, in bytes. O(areas).
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().areas.used_bytes()
    }

    /// Calls `f` with the kernel's tables, which this owns, and the mapper for them.
    ///
    /// # Context
    /// The lock is held: `f` neither sleeps nor flushes.
    pub fn with_root<R>(&self, f: impl FnOnce(&mut Root, Mapper<'a, S, A>) -> R) -> R {
        f(&mut self.state.lock().root, self.mapper)
    }

    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&State, Mapper<'a, S, A>) -> R) -> R {
        f(&self.state.lock(), self.mapper)
    }

    fn claim(
        &self,
        nr_pages: usize,
        align: u64,
        flags: AreaFlags,
        phys_addr: PhysAddr,
        caller: &'static Location<'static>,
    ) -> Result<VmStruct, VmallocError> {
        if nr_pages == 0 {
            return Err(VmallocError::InvalidSize);
        }
        let vm = VmStruct {
            addr: VirtAddr::ZERO,
            size_bytes: nr_pages as u64 * PAGE_SIZE as u64 + GUARD_BYTES,
            flags,
            nr_pages: if flags.contains(AreaFlags::IOREMAP) {
                0
            } else {
                nr_pages
            },
            phys_addr,
            caller,
        };
        self.state.lock().areas.insert(vm, align)
    }

    /// Fills an area with frames of its own. On failure some are mapped: [`Vmalloc::release`] takes them back.
    fn populate(&self, vm: &VmStruct, gfp: Gfp) -> Result<(), VmallocError> {
        let map = self.mapper.mem_map();
        let mut frames = Frames::alloc(map, self.pages, vm.nr_pages, gfp)?;
        // They came from the page source just now, so nobody owns one of them.
        let mapper = self.mapper.without_guard();
        let mapped = self.map_in_steps(vm, |state, part| {
            let mut next = frames.first();
            mapper.map_frames(&mut state.root, part, PteFlags::KERNEL, |_| {
                let pfn = next.unwrap_or_else(|| unreachable!("as many frames as pages"));
                next = frames.after(pfn);
                pfn
            })?;
            frames.advance_to(next);
            Ok(())
        });
        // None is left, unless mapping failed.
        frames.free(self.pages);
        mapped
    }

    /// All pages of the area may be touched.
    fn sanitize(&self, vm: &VmStruct) {
        let mapped = vm.mapped();
        let nr_pages = nr_pages_of(&mapped);
        self.sanitizer.vmalloc(mapped.start, nr_pages * PAGE_SIZE);
    }

    fn undo(&self, vm: &VmStruct, error: VmallocError) -> Result<(), VmallocError> {
        self.release(vm).and(Err(error))
    }

    fn map_in_steps(
        &self,
        vm: &VmStruct,
        mut map: impl FnMut(&mut State, Range<VirtAddr>) -> Result<(), MapError>,
    ) -> Result<(), VmallocError> {
        for part in steps(vm.mapped()) {
            map(&mut self.state.lock(), part)?;
        }
        Ok(())
    }

    /// Unmaps what there is of an area, flushes, frees its own frames, and gives its addresses up.
    ///
    /// Should the tables not allow it, the addresses stay taken.
    fn release(&self, vm: &VmStruct) -> Result<(), VmallocError> {
        let owns_frames = vm.flags.contains(AreaFlags::ALLOC);
        let mapped = vm.mapped();
        self.sanitizer
            .vfree(mapped.start, nr_pages_of(&mapped) * PAGE_SIZE);
        let mut frames = Frames::new(self.mapper.mem_map());
        let mut gather = self.mapper.gather(TlbTarget::Kernel, &self.tlb);
        let mut unmapped = Ok(());
        for part in steps(vm.mapped()) {
            let root = &mut self.state.lock().root;
            let step = self.mapper.unmap_range(root, part, &mut gather, |leaf, _| {
                if owns_frames {
                    frames.put_back(leaf.pfn());
                }
            });
            unmapped = unmapped.and(step);
        }
        gather.finish();
        frames.free(self.pages);
        unmapped?;
        self.state.lock().areas.remove(vm.addr);
        Ok(())
    }
}

/// A range in pieces that end where a leaf table does.
fn steps(range: Range<VirtAddr>) -> impl Iterator<Item = Range<VirtAddr>> {
    let mut start = range.start;
    core::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let next = start.align_down(STEP_BYTES) + STEP_BYTES;
        let part = start..next.min(range.end);
        start = part.end;
        Some(part)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on every supported target"
)]
fn nr_pages_of(range: &Range<VirtAddr>) -> usize {
    ((range.end - range.start) as usize) / PAGE_SIZE
}

//! Areas of the vmalloc range, and the gaps between them.

use core::ops::Range;
use core::panic::Location;

use bitflags::bitflags;
use kmm_frame::{PAGE_SIZE, PhysAddr, VirtAddr};
use kmm_kcoll::RangeTree;

use crate::VmallocError;

bitflags! {
    /// What an area is for. Linux: `VM_*` of include/linux/vmalloc.h.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct AreaFlags: u32 {
        /// Device memory. Linux: `VM_IOREMAP`.
        const IOREMAP = 0x1;
        /// Frames of its own. Linux: `VM_ALLOC`.
        const ALLOC = 0x2;
        /// Frames that the caller owns. Linux: `VM_MAP`.
        const MAP = 0x4;
    }
}

/// The unmapped page after each area, so that running over the end faults.
pub(crate) const GUARD_BYTES: u64 = PAGE_SIZE as u64;

/// One area. Linux: `struct vm_struct`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmStruct {
    /// Where it starts.
    pub addr: VirtAddr,
    /// How large it is, with its guard page.
    pub size_bytes: u64,
    /// What it is for.
    pub flags: AreaFlags,
    /// Pages of RAM that it maps; 0 for device memory.
    pub nr_pages: usize,
    /// Where the device memory starts; 0 for RAM.
    pub phys_addr: PhysAddr,
    /// Who asked for it.
    pub caller: &'static Location<'static>,
}

impl VmStruct {
    /// The addresses that are mapped: all but the guard page.
    #[must_use]
    pub fn mapped(&self) -> Range<VirtAddr> {
        self.addr..self.addr + (self.size_bytes - GUARD_BYTES)
    }
}

/// How far the life of an area has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Being mapped: only its maker knows the address. Linux: `VM_UNINITIALIZED`.
    Building,
    /// In use.
    Live,
    /// Being unmapped: its addresses cannot be had before all CPUs forgot them (INV-2).
    Dying,
}

#[derive(Debug)]
struct Area {
    vm: VmStruct,
    phase: Phase,
}

/// Every area, by address. Linux: `vmap_area_root`, `free_vmap_area_root`.
#[derive(Debug)]
pub(crate) struct Areas {
    within: Range<VirtAddr>,
    tree: RangeTree<Area>,
}

impl Areas {
    pub(crate) const fn new(within: Range<VirtAddr>) -> Self {
        Self {
            within,
            tree: RangeTree::new(),
        }
    }

    /// Takes the lowest gap that holds the area. O(log n). Linux: `alloc_vmap_area`.
    pub(crate) fn insert(
        &mut self,
        mut vm: VmStruct,
        align: u64,
    ) -> Result<VmStruct, VmallocError> {
        let within = self.within.start.as_u64()..self.within.end.as_u64();
        let addr = self
            .tree
            .lowest_gap(within, vm.size_bytes, align)
            .ok_or(VmallocError::NoSpace)?;
        vm.addr = VirtAddr::new(addr);
        self.insert_at(vm, Phase::Building)?;
        Ok(vm)
    }

    /// Takes the addresses that `vm` says.
    pub(crate) fn insert_at(&mut self, vm: VmStruct, phase: Phase) -> Result<(), VmallocError> {
        let start = vm.addr.as_u64();
        let end = start
            .checked_add(vm.size_bytes)
            .filter(|end| *end <= self.within.end.as_u64())
            .ok_or(VmallocError::Occupied)?;
        if start < self.within.start.as_u64() || !self.tree.is_free(start..end) {
            return Err(VmallocError::Occupied);
        }
        self.tree
            .insert(start..end, Area { vm, phase })
            .map_err(|_| VmallocError::OutOfMemory)
    }

    pub(crate) fn finish(&mut self, addr: VirtAddr) {
        if let Some((_, area)) = self.tree.get_mut(addr.as_u64()) {
            area.phase = Phase::Live;
        }
    }

    /// Begins the end of the live area of that kind that starts at `addr`.
    pub(crate) fn retire(
        &mut self,
        addr: VirtAddr,
        kind: AreaFlags,
    ) -> Result<VmStruct, VmallocError> {
        match self.tree.get_mut(addr.as_u64()) {
            Some((range, area))
                if range.start == addr.as_u64()
                    && area.vm.flags.contains(kind)
                    && area.phase == Phase::Live =>
            {
                area.phase = Phase::Dying;
                Ok(area.vm)
            }
            _ => Err(VmallocError::NoSuchArea),
        }
    }

    pub(crate) fn remove(&mut self, addr: VirtAddr) {
        self.tree.remove(addr.as_u64());
    }

    /// The live area that holds `addr`, or else the next one above.
    pub(crate) fn at_or_above(&self, addr: VirtAddr) -> Option<VmStruct> {
        self.tree
            .iter_from(addr.as_u64())
            .find(|(_, area)| area.phase == Phase::Live)
            .map(|(_, area)| area.vm)
    }

    /// The live area that holds `addr`, guard page included. Linux: `find_vm_area`.
    pub(crate) fn find(&self, addr: VirtAddr) -> Option<VmStruct> {
        let (_, area) = self.tree.get(addr.as_u64())?;
        (area.phase == Phase::Live).then_some(area.vm)
    }

    pub(crate) fn within(&self) -> Range<VirtAddr> {
        self.within.clone()
    }

    /// Bytes that areas and their guard pages take.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.tree
            .iter()
            .map(|(range, _)| range.end - range.start)
            .sum()
    }
}

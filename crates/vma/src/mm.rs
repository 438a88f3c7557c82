//! An address space as a set of areas. Linux: `struct mm_struct`.

use core::ops::Range;

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};
use kmm_kcoll::RangeTree;

use crate::count::nr_pages;
use crate::{VmCounts, VmFlags, Vma, VmaError};

/// Where things may lie in an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmLayout {
    /// No mapping below this. Linux: `vm.mmap_min_addr`.
    pub min_addr: VirtAddr,
    /// No mapping from here on. Linux: `TASK_SIZE`.
    pub task_size: VirtAddr,
    /// `mmap` looks for room downwards from here. Linux: `mm->mmap_base`.
    pub mmap_base: VirtAddr,
    /// Bytes kept free below a stack. Linux: `stack_guard_gap`, 1 MiB.
    pub stack_guard_gap_bytes: u64,
}

impl Default for MmLayout {
    /// Linux's layout without randomisation: 128 TiB less a page, `mmap` from 8 MiB and a gap below its top.
    fn default() -> Self {
        let task_size = (1 << 47) - PAGE_SIZE as u64;
        let stack_bytes = 8 << 20;
        let gap_bytes = 128 << 20;
        Self {
            min_addr: VirtAddr::new(0x1_0000),
            task_size: VirtAddr::new(task_size),
            mmap_base: VirtAddr::new(task_size - stack_bytes - gap_bytes),
            stack_guard_gap_bytes: 256 << PAGE_SHIFT,
        }
    }
}

/// How much an address space may take. Linux: `RLIMIT_*`, `vm.max_map_count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of address space. Linux: `RLIMIT_AS`.
    pub address_space_bytes: u64,
    /// Bytes of heap and data, and of all private writable areas. Linux: `RLIMIT_DATA`.
    pub data_bytes: u64,
    /// Bytes of stack. Linux: `RLIMIT_STACK`.
    pub stack_bytes: u64,
    /// Bytes of locked areas. Linux: `RLIMIT_MEMLOCK`.
    pub locked_bytes: u64,
    /// Areas that may be there for `mmap` and `brk` to add one more, and for others to split one. Linux:
    /// `vm.max_map_count`, which counts as strangely.
    pub map_count: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address_space_bytes: u64::MAX,
            data_bytes: u64::MAX,
            stack_bytes: 8 << 20,
            locked_bytes: u64::MAX,
            map_count: 65_530,
        }
    }
}

/// The areas of one address space. It knows nothing of page tables: edits come back as values that say which
/// translations to drop.
#[derive(Debug)]
pub struct Mm<F> {
    pub(crate) vmas: RangeTree<Vma<F>>,
    pub(crate) layout: MmLayout,
    pub(crate) limits: Limits,
    pub(crate) counts: VmCounts,
    pub(crate) data_segment_bytes: u64,
    pub(crate) start_brk: VirtAddr,
    pub(crate) brk: VirtAddr,
}

impl<F: Clone + PartialEq> Mm<F> {
    /// An empty address space.
    #[must_use]
    pub const fn new(layout: MmLayout, limits: Limits) -> Self {
        Self {
            vmas: RangeTree::new(),
            layout,
            limits,
            counts: VmCounts {
                total_pages: 0,
                data_pages: 0,
                stack_pages: 0,
                exec_pages: 0,
                locked_pages: 0,
            },
            data_segment_bytes: 0,
            start_brk: VirtAddr::ZERO,
            brk: VirtAddr::ZERO,
        }
    }

    /// Where things may lie.
    #[must_use]
    pub const fn layout(&self) -> &MmLayout {
        &self.layout
    }

    /// How much it may take.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes how much it may take; what is there stays. Linux: `setrlimit`.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many areas there are. Linux: `mm->map_count`.
    #[must_use]
    pub fn map_count(&self) -> usize {
        self.vmas.len()
    }

    /// The first area that ends after `addr`. Linux: `find_vma`.
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<(Range<VirtAddr>, &Vma<F>)> {
        self.vmas.find(addr.as_u64()).map(typed)
    }

    /// The area that holds `addr`. Linux: `vma_lookup`.
    #[must_use]
    pub fn lookup(&self, addr: VirtAddr) -> Option<(Range<VirtAddr>, &Vma<F>)> {
        self.vmas.get(addr.as_u64()).map(typed)
    }

    /// The first area that shares an address with `range`. Linux: `find_vma_intersection`.
    #[must_use]
    pub fn find_intersection(&self, range: Range<VirtAddr>) -> Option<(Range<VirtAddr>, &Vma<F>)> {
        self.find(range.start)
            .filter(|(found, _)| found.start < range.end)
    }

    /// Every area, upwards.
    pub fn iter(&self) -> impl Iterator<Item = (Range<VirtAddr>, &Vma<F>)> {
        self.vmas.iter().map(typed)
    }

    /// The areas that share an address with `range`, upwards.
    pub fn range(
        &self,
        range: Range<VirtAddr>,
    ) -> impl Iterator<Item = (Range<VirtAddr>, &Vma<F>)> {
        self.vmas
            .range(range.start.as_u64()..range.end.as_u64())
            .map(typed)
    }

    /// A copy for a child: every area but those with [`VmFlags::DONTCOPY`]; locks are not inherited. Linux: `dup_mmap`.
    ///
    /// # Errors
    /// [`VmaError::NoMemory`] when the tree cannot be had.
    pub fn fork(&self) -> Result<Self, VmaError> {
        let mut child = Self::new(self.layout, self.limits);
        child.data_segment_bytes = self.data_segment_bytes;
        child.start_brk = self.start_brk;
        child.brk = self.brk;
        child.reserve(self.vmas.len())?;
        for (range, vma) in self.vmas.iter() {
            if vma.flags.contains(VmFlags::DONTCOPY) {
                continue;
            }
            let mut copy = vma.clone();
            copy.flags.remove(VmFlags::LOCKED);
            let nr_pages = (range.end - range.start) >> PAGE_SHIFT;
            child.counts.add(VmCounts::of(copy.flags, nr_pages));
            child.insert_reserved(range, copy);
        }
        Ok(child)
    }

    /// Checks every rule of MODEL.md that can be seen from here.
    ///
    /// # Panics
    /// With a message, when a rule is broken.
    pub fn validate(&self) {
        self.vmas.validate();
        let mut counts = VmCounts::default();
        for (range, vma) in self.iter() {
            assert!(
                range.start.is_page_aligned() && range.end.is_page_aligned(),
                "INV-1: unaligned area {range:?}"
            );
            assert!(
                range.end <= self.layout.task_size,
                "INV-1: area {range:?} beyond the task size"
            );
            let may = VmFlags::from_bits_truncate((vma.flags & VmFlags::ACCESS).bits() << 4);
            assert!(
                vma.flags.contains(may),
                "INV-3: area {range:?} has access that it may not have: {:?}",
                vma.flags
            );
            assert!(
                vma.file.is_some() || vma.is_private(),
                "INV-4: shared area {range:?} without a file"
            );
            counts.add(VmCounts::of(vma.flags, nr_pages(&range)));
        }
        assert_eq!(
            counts, self.counts,
            "INV-2: the counts are not the sums over the areas"
        );
        assert!(
            self.start_brk <= self.brk,
            "INV-5: the heap ends before it starts"
        );
    }
}

fn typed<T>((range, value): (Range<u64>, T)) -> (Range<VirtAddr>, T) {
    (VirtAddr::new(range.start)..VirtAddr::new(range.end), value)
}

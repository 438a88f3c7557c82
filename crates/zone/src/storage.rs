//! Memory that the host hands over for what grows with the machine.
#![expect(
    unsafe_code,
    reason = "what zones keep is laid into memory that the host hands over"
)]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_buddy::{FreeBits, Pageblock};

use crate::{Pcp, ZoneLayout};

/// What zones keep outside themselves: fresh pagesets and pageblocks, and bits; as many as [`ZoneLayout::nr_pcps`],
/// [`ZoneLayout::nr_pageblocks`] and [`ZoneLayout::nr_free_bits`] say, or more.
///
/// From statics where the machine is known, else from memory of memblock.
#[derive(Debug)]
pub struct ZoneStorage {
    /// A pageset for each CPU and zone.
    pub pcps: &'static [Pcp],
    /// A byte for each pageblock.
    pub pageblocks: &'static [Pageblock],
    /// What is free: 128 bytes for each pageblock, and some more.
    pub free_bits: &'static mut [FreeBits],
}

impl ZoneStorage {
    /// How much memory the zones of `zones` want with so many CPUs, or `None` when that is more than an address space
    /// holds.
    #[must_use]
    pub fn layout(zones: &ZoneLayout, nr_cpus: usize) -> Option<Layout> {
        let free_bits = Layout::array::<FreeBits>(zones.nr_free_bits()).ok()?;
        let pcps = Layout::array::<Pcp>(zones.nr_pcps(nr_cpus)).ok()?;
        let pageblocks = Layout::array::<Pageblock>(zones.nr_pageblocks()).ok()?;
        let (two, _) = free_bits.extend(pcps).ok()?;
        let (all, _) = two.extend(pageblocks).ok()?;
        Some(all)
    }

    /// Lays fresh pagesets and pageblocks into `storage`, as boot code does with memory from memblock.
    ///
    /// # Safety
    /// 1. `storage` is valid for writes of [`ZoneStorage::layout`]`(zones, nr_cpus)` and aligned to it.
    /// 2. Nobody else uses that memory from now on, ever.
    #[must_use]
    pub unsafe fn new_in(zones: &ZoneLayout, nr_cpus: usize, storage: NonNull<u8>) -> Self {
        let (nr_free_bits, nr_pcps) = (zones.nr_free_bits(), zones.nr_pcps(nr_cpus));
        let first = storage.cast::<FreeBits>();
        // SAFETY: obligation 1: the layout is the bits, then the pagesets, which are aligned alike.
        let second = unsafe { first.add(nr_free_bits) }.cast::<Pcp>();
        // SAFETY: obligation 1: after the pagesets come the pageblocks, whose alignment is 1.
        let third = unsafe { second.add(nr_pcps) }.cast::<Pageblock>();
        Self {
            // SAFETY: obligations 1 and 2, for the first part of the layout.
            free_bits: unsafe { fill(first, nr_free_bits, || FreeBits::EMPTY) },
            // SAFETY: obligations 1 and 2, for the second part.
            pcps: unsafe { fill(second, nr_pcps, Pcp::new) },
            // SAFETY: obligations 1 and 2, for the third part.
            pageblocks: unsafe { fill(third, zones.nr_pageblocks(), Pageblock::new) },
        }
    }
}

const _: () = assert!(align_of::<FreeBits>() == align_of::<Pcp>());
const _: () = assert!(align_of::<Pageblock>() == 1);

/// Writes `count` values one after the other.
///
/// # Safety
/// 1. `first` is valid for writes of `count` values and aligned.
/// 2. Nobody else uses that memory from now on, ever.
unsafe fn fill<T>(first: NonNull<T>, count: usize, value: impl Fn() -> T) -> &'static mut [T] {
    for i in 0..count {
        // SAFETY: obligation 1: `i` is within the array.
        let slot = unsafe { first.add(i) };
        // SAFETY: obligations 1 and 2: the slot is valid, aligned, and ours alone.
        unsafe { slot.write(value()) };
    }
    // SAFETY: every element was written just now; obligation 2 gives the memory away for ever.
    unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) }
}

//! The room: the machine's RAM is a piece of the test's own memory, reached by pointer.
#![expect(unsafe_code, reason = "simulated RAM is reached by pointer")]

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::alloc::{alloc_zeroed, handle_alloc_error};

use kmm_frame::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// RAM from frame 0 to the last one, holes included: the host's kernel commits only what is touched.
#[derive(Debug)]
pub(crate) struct Ram {
    base: NonNull<u8>,
    end: Pfn,
    ranges: Vec<PfnRange>,
}

// SAFETY: `base` is a plain address of memory that lives for ever; every access through it says why it is sound.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// RAM at `ranges`, sorted and apart. It is never given back.
    pub(crate) fn new(ranges: Vec<PfnRange>) -> Self {
        let apart = ranges.windows(2).all(|two| two[0].end() <= two[1].start());
        assert!(apart, "ranges of RAM overlap or are not sorted: {ranges:?}");
        let end = ranges.last().map_or(Pfn::ZERO, |range| range.end());
        // Room to align by hand: an allocation with a large alignment would be zeroed, and thereby committed.
        let layout = Layout::array::<u8>((end.index() + 1) * PAGE_SIZE)
            .unwrap_or_else(|_| panic!("{end} frames are more than an address space holds"));
        // SAFETY: the size is not 0, as there is one page at least.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        // SAFETY: at most a page further, which the layout has to spare.
        let base = unsafe { start.add(start.align_offset(PAGE_SIZE)) };
        Self { base, end, ranges }
    }

    pub(crate) fn base(&self) -> usize {
        self.base.addr().get()
    }

    pub(crate) const fn end(&self) -> Pfn {
        self.end
    }

    pub(crate) fn ranges(&self) -> &[PfnRange] {
        &self.ranges
    }

    pub(crate) fn contains(&self, pfn: Pfn) -> bool {
        let after = self.ranges.partition_point(|range| range.start() <= pfn);
        after > 0 && self.ranges[after - 1].contains(pfn)
    }

    /// The bytes of a frame of RAM.
    pub(crate) fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        // SAFETY: a frame of RAM lies below `end`, and there is memory up to there.
        self.contains(pfn)
            .then(|| unsafe { self.base.add(pfn.index() * PAGE_SIZE) })
    }

    /// The frame that a pointer points into.
    pub(crate) fn pfn(&self, ptr: NonNull<u8>) -> Option<Pfn> {
        let offset = ptr.addr().get().checked_sub(self.base.addr().get())?;
        let pfn = Pfn::new(offset / PAGE_SIZE);
        self.contains(pfn).then_some(pfn)
    }

    /// An entry of a page table.
    pub(crate) fn entry(&self, table: Pfn, index: usize) -> &AtomicU64 {
        assert!(index < 512);
        let frame = self
            .frame(table)
            .unwrap_or_else(|| panic!("page table {table} is no RAM"));
        // SAFETY: a frame has room for 512 words, and the index is below that.
        let entry = unsafe { frame.cast::<AtomicU64>().add(index) };
        // SAFETY: the memory is aligned and lives for ever; while a frame is a table it is reached only as atomics.
        unsafe { entry.as_ref() }
    }

    /// All entries of a page table become 0.
    pub(crate) fn clear_table(&self, table: Pfn) {
        for index in 0..512 {
            self.entry(table, index).store(0, Ordering::Relaxed);
        }
    }

    /// Copies out of RAM, within one frame.
    pub(crate) fn read(&self, from: PhysAddr, to: &mut [u8]) {
        let (source, len) = (self.bytes(from, to.len()), to.len());
        // SAFETY: `bytes` checked that so much lies in the frame; the test's buffer is not part of the RAM.
        unsafe { source.copy_to_nonoverlapping(NonNull::from(to).cast(), len) };
    }

    /// Copies into RAM, within one frame.
    pub(crate) fn write(&self, to: PhysAddr, from: &[u8]) {
        let target = self.bytes(to, from.len());
        // SAFETY: `bytes` checked that so much lies in the frame; the test's buffer is not part of the RAM.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(from).cast(), from.len()) };
    }

    /// Fills a frame.
    pub(crate) fn fill(&self, pfn: Pfn, byte: u8) {
        let target = self.bytes(pfn.phys(), PAGE_SIZE);
        // SAFETY: the frame is a page of memory.
        unsafe { target.write_bytes(byte, PAGE_SIZE) };
    }

    fn bytes(&self, at: PhysAddr, len: usize) -> NonNull<u8> {
        let offset = at.as_usize() % PAGE_SIZE;
        assert!(
            offset + len <= PAGE_SIZE,
            "{len} bytes at {at} cross a page"
        );
        let frame = self
            .frame(at.pfn())
            .unwrap_or_else(|| panic!("physical address {at} is no RAM"));
        // SAFETY: the offset lies within the frame.
        unsafe { frame.add(offset) }
    }
}

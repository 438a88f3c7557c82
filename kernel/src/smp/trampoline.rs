//! The page of code that takes a CPU from real mode to the kernel, and the tables that it does so on. Linux: `trampoline_64.S`,
//! arch/x86/realmode.
//!
//! It lies in the first megabyte, which the boot allocator keeps out of the way for that, for as long as CPUs are being started. Its tables
//! are the kernel's upper half, and in the lower half the one page of the trampoline, to be read and executed; the kernel's own tables never
//! show it. When it goes, everything in the first megabyte is zero again.
#![expect(
    unsafe_code,
    reason = "writes code and tables into memory that no allocator knows"
)]

use core::arch::global_asm;
use core::mem::forget;
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use kmm::frame::PAGE_SIZE;
use x86_64::structures::paging::PageTableFlags;

use crate::boot::image::TABLE_LEN;
use crate::boot::{BootInfo, DIRECT_MAP, RegionKind};
use crate::mm;

global_asm!(include_str!("trampoline.S"), options(att_syntax));

const PAGE: u64 = PAGE_SIZE as u64;
/// A CPU starts in real mode, which sees no more.
const FIRST_MEGABYTE: u64 = 1 << 20;
/// The code, and a table for each level above it.
const NR_PAGES: u64 = 5;
const PRESENT: u64 = PageTableFlags::PRESENT.bits();
const WRITABLE: u64 = PageTableFlags::WRITABLE.bits();

/// Where the trampoline lay; 0 for nowhere.
static LAST_BASE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_gdt_base: u8;
    static trampoline_to_32: u8;
    static trampoline_to_64: u8;
    static trampoline_cr3: u8;
}

/// Pages of the first megabyte, in use while it lives.
pub(super) struct Trampoline {
    base: u64,
}

impl Trampoline {
    /// Lays it out. `None` if the firmware left no room.
    pub(super) fn new(boot: &BootInfo) -> Option<Self> {
        let base = find_room(boot)?;
        LAST_BASE.store(base, Ordering::Relaxed);
        Some(Self::at(base))
    }

    /// The number of its page, as a STARTUP interrupt names it.
    pub(super) fn page_nr(&self) -> u8 {
        u8::try_from(self.base / PAGE).unwrap_or(0)
    }

    /// Once more in the same place. For tests: at one CPU there was none, and there is none now.
    pub(super) fn again() -> Option<Self> {
        let base = LAST_BASE.load(Ordering::Relaxed);
        (base != 0).then(|| Self::at(base))
    }

    fn at(base: u64) -> Self {
        let mut trampoline = Self { base };
        trampoline.clear();
        trampoline.write_tables();
        trampoline.write_code();
        trampoline
    }

    fn words(&self) -> *mut [u64] {
        let start = usize::try_from(DIRECT_MAP + self.base).unwrap_or(0);
        let len = usize::try_from(NR_PAGES * PAGE / 8).unwrap_or(0);
        ptr::slice_from_raw_parts_mut(ptr::with_exposed_provenance_mut(start), len)
    }

    /// All of it, by way of the direct map.
    fn memory(&mut self) -> &mut [u64] {
        // SAFETY: RAM of the first megabyte, which nobody else uses.
        unsafe { &mut *self.words() }
    }

    fn page(&mut self, nr: usize) -> &mut [u64] {
        &mut self.memory()[nr * TABLE_LEN..][..TABLE_LEN]
    }

    fn clear(&mut self) {
        self.memory().fill(0);
        // The compiler must not think that nobody looks.
        core::hint::black_box(self.memory());
    }

    /// Is nothing left of it, wherever it was?
    pub(super) fn is_clear() -> bool {
        let base = LAST_BASE.load(Ordering::Relaxed);
        if base == 0 {
            return true;
        }
        let gone = Self { base };
        // SAFETY: as in `memory`.
        let is_clear = unsafe { &*gone.words() }.iter().all(|&word| word == 0);
        forget(gone);
        is_clear
    }

    /// Page 1 is the top table, 2 to 4 are those below.
    fn write_tables(&mut self) {
        let kernel = DIRECT_MAP + mm::kernel_root().phys().as_u64();
        let kernel = ptr::with_exposed_provenance(usize::try_from(kernel).unwrap_or(0));
        // SAFETY: a table; it never changes once it is loaded.
        let kernel: &[u64] = unsafe { slice::from_raw_parts(kernel, TABLE_LEN) };
        let half = TABLE_LEN / 2;
        self.page(1)[half..].copy_from_slice(&kernel[half..]);
        for (level, below) in [(1, 2), (2, 3), (3, 4)] {
            // The first megabyte is in the first entry of each.
            let below = self.base + below * PAGE;
            self.page(level)[0] = below | PRESENT | WRITABLE;
        }
        // The code, not to be written.
        let base = self.base;
        self.page(4)[usize::try_from(base / PAGE).unwrap_or(0)] = base | PRESENT;
    }

    fn write_code(&mut self) {
        let start = &raw const trampoline_start;
        let len = (&raw const trampoline_end).addr() - start.addr();
        // SAFETY: the code as it was linked.
        let code = unsafe { slice::from_raw_parts(start, len) };
        let mut page = [0; 8 * TABLE_LEN];
        page[..len].copy_from_slice(code);
        let mut patch = |place: *const u8, more: u64| {
            let word = &mut page[place.addr() - start.addr()..][..4];
            let linked = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let value = linked + u32::try_from(more).unwrap_or(0);
            word.copy_from_slice(&value.to_le_bytes());
        };
        patch(&raw const trampoline_gdt_base, self.base);
        patch(&raw const trampoline_to_32, self.base);
        patch(&raw const trampoline_to_64, self.base);
        patch(&raw const trampoline_cr3, self.base + PAGE);
        for (word, bytes) in self.page(0).iter_mut().zip(page.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
    }
}

impl Drop for Trampoline {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The highest room in the first megabyte that is RAM by all accounts, and not page 0.
fn find_room(boot: &BootInfo) -> Option<u64> {
    let regions = boot.memory_map.regions();
    let is_free = |start: u64| {
        let end = start + NR_PAGES * PAGE;
        let within = |kind: RegionKind| kind == RegionKind::Usable;
        regions
            .iter()
            .any(|region| within(region.kind) && region.start <= start && end <= region.end)
            && !regions
                .iter()
                .any(|region| !within(region.kind) && region.start < end && start < region.end)
    };
    (1..=(FIRST_MEGABYTE / PAGE - NR_PAGES))
        .rev()
        .map(|page| page * PAGE)
        .find(|&start| is_free(start))
}

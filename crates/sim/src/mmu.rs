//! What the CPU does with an address: TLB, walk, faults. Written from the manual alone (SDM 3A, "Paging"), so that it can
//! serve as the oracle of `kmm-pagetable-walker`.

use core::fmt;
use core::sync::atomic::Ordering;

use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_host::CpuId;

use crate::machine::Inner;
use crate::tlb::Space;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51 to 12.
const FRAME: u64 = (1 << 52) - (1 << 12);

/// What is done with the byte at an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// With what privilege.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// As a program.
    User,
    /// As the kernel: CR0.WP and SMEP are on; SMAP is off, as between `stac` and `clac`.
    Kernel,
}

/// A page fault, as the CPU tells the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageFault {
    /// The address: CR2.
    pub va: VirtAddr,
    /// The error code, in the CPU's bits.
    pub error_code: u64,
}

impl PageFault {
    /// The entry was present: a right was missing.
    pub const PRESENT: u64 = 1 << 0;
    /// It was a store.
    pub const WRITE: u64 = 1 << 1;
    /// It was user mode.
    pub const USER: u64 = 1 << 2;
    /// A reserved bit was set in an entry.
    pub const RESERVED: u64 = 1 << 3;
    /// It was an instruction fetch.
    pub const EXECUTE: u64 = 1 << 4;

    /// Whether a right was missing, not a page.
    #[must_use]
    pub const fn was_present(&self) -> bool {
        self.error_code & Self::PRESENT != 0
    }
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "page fault at {} with error code {:#x}",
            self.va, self.error_code
        )
    }
}

/// Why an access did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// Exception 14.
    Page(PageFault),
    /// Exception 13: the address is not canonical.
    NonCanonical(VirtAddr),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(fault) => fmt::Display::fmt(fault, f),
            Self::NonCanonical(va) => write!(f, "general protection: {va} is not canonical"),
        }
    }
}

impl core::error::Error for Fault {}

/// What the tables say about an address, or what a TLB remembers of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The start of the page, in the address space.
    pub va: VirtAddr,
    /// The start of the page, on the memory bus.
    pub phys: PhysAddr,
    /// Bits of an address within the page: 12, 21 or 30.
    pub shift: u32,
    /// Every entry on the way is writable.
    pub writable: bool,
    /// Every entry on the way is reachable from user mode.
    pub user: bool,
    /// No entry on the way forbids execution.
    pub executable: bool,
    /// The last entry is global.
    pub global: bool,
    /// The last entry as it was read.
    pub entry: u64,
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |is: bool, letter| if is { letter } else { '-' };
        write!(
            f,
            "{} -> {} of {} KiB r{}{}{}{}, entry {:#x}",
            self.va,
            self.phys,
            1 << (self.shift - 10),
            letter(self.writable, 'w'),
            letter(self.executable, 'x'),
            letter(self.user, 'u'),
            letter(self.global, 'g'),
            self.entry
        )
    }
}

impl Translation {
    fn allows(&self, access: Access, mode: Mode) -> bool {
        let by_mode = match mode {
            Mode::User => self.user,
            Mode::Kernel => access != Access::Execute || !self.user,
        };
        by_mode
            && match access {
                Access::Read => true,
                Access::Write => self.writable,
                Access::Execute => self.executable,
            }
    }

    fn at(&self, va: VirtAddr) -> PhysAddr {
        self.phys + (va - self.va)
    }

    /// Whether a CPU that remembers `self` does nothing that the tables, which say `now`, forbid.
    fn is_covered_by(&self, now: &Self, va: VirtAddr) -> bool {
        self.at(va) == now.at(va)
            && self.writable <= now.writable
            && self.user == now.user
            && self.executable <= now.executable
    }
}

/// Why a walk found no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoPage {
    Absent,
    ReservedBit,
}

impl Inner {
    /// An access by a CPU that runs on `root`.
    pub(crate) fn access(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<PhysAddr, Fault> {
        if !va.is_canonical(12 + 9 * self.nr_levels) {
            return Err(Fault::NonCanonical(va));
        }
        let mut tlb = self.tlbs.of(cpu);
        if let Some(remembered) = tlb.find(root, va) {
            if !remembered.allows(access, mode) {
                // The CPU need not walk again before it faults; a fault drops what is remembered for the address.
                tlb.forget(root, va);
                return Err(fault(va, access, mode, PageFault::PRESENT));
            }
            if access != Access::Write || remembered.entry & DIRTY != 0 {
                if self.check_stale_use {
                    self.check_not_stale(cpu, root, va, &remembered);
                }
                return Ok(remembered.at(va));
            }
            tlb.forget(root, va);
        }
        let mut path = Vec::with_capacity(5);
        let walked = self.walk(root, va, |table| path.push(table));
        tlb.saw_tables(root, va, &path);
        let found = walked.map_err(|why| match why {
            NoPage::Absent => fault(va, access, mode, 0),
            NoPage::ReservedBit => {
                fault(va, access, mode, PageFault::PRESENT | PageFault::RESERVED)
            }
        })?;
        if !found.allows(access, mode) {
            return Err(fault(va, access, mode, PageFault::PRESENT));
        }
        let mut remembered = found;
        remembered.entry |= self.mark_used(root, va, access);
        tlb.remember(Space::of(root, remembered.global), remembered);
        Ok(found.at(va))
    }

    /// What the tables say, changing nothing. `saw` hears of every table on the way.
    pub(crate) fn walk(
        &self,
        root: Pfn,
        va: VirtAddr,
        mut saw: impl FnMut(Pfn),
    ) -> Result<Translation, NoPage> {
        let (mut table, mut shift) = (root, 12 + 9 * (self.nr_levels - 1));
        let (mut writable, mut user, mut executable) = (true, true, true);
        loop {
            assert!(
                self.tables.contains(table),
                "the MMU walks {table} for {va}, which is no page table"
            );
            saw(table);
            let entry = self
                .ram
                .entry(table, index(va, shift))
                .load(Ordering::Acquire);
            if entry & PRESENT == 0 {
                return Err(NoPage::Absent);
            }
            writable &= entry & WRITABLE != 0;
            user &= entry & USER != 0;
            executable &= entry & NO_EXECUTE == 0;
            let is_page = shift == 12 || entry & LARGE != 0;
            if is_page {
                // Bit 12 of a large page is PAT; the others below its size are reserved, as are large pages above 1 GiB.
                let misplaced = entry & FRAME & ((1 << shift) - 1) & !(1 << 12);
                if shift > 30 || (shift > 12 && misplaced != 0) {
                    return Err(NoPage::ReservedBit);
                }
                let global = entry & GLOBAL != 0;
                assert!(
                    !global || va.as_u64() >> 63 == 1,
                    "global page in the user half at {va}"
                );
                return Ok(Translation {
                    va: va.align_down(1 << shift),
                    phys: PhysAddr::new(entry & FRAME).align_down(1 << shift),
                    shift,
                    writable,
                    user,
                    executable,
                    global,
                    entry,
                });
            }
            table = PhysAddr::new(entry & FRAME).pfn();
            shift -= 9;
        }
    }

    /// Sets the accessed and dirty bits of a walk that succeeded; the bits set in the last entry.
    fn mark_used(&self, root: Pfn, va: VirtAddr, access: Access) -> u64 {
        let (mut table, mut shift) = (root, 12 + 9 * (self.nr_levels - 1));
        loop {
            let place = self.ram.entry(table, index(va, shift));
            let entry = place.fetch_or(ACCESSED, Ordering::AcqRel);
            if shift == 12 || entry & LARGE != 0 {
                let dirty = if access == Access::Write { DIRTY } else { 0 };
                return (place.fetch_or(dirty, Ordering::AcqRel) | dirty) & (ACCESSED | DIRTY);
            }
            table = PhysAddr::new(entry & FRAME).pfn();
            shift -= 9;
        }
    }

    fn check_not_stale(&self, cpu: CpuId, root: Pfn, va: VirtAddr, remembered: &Translation) {
        let now = self.walk(root, va, |_| ());
        let covered = now.is_ok_and(|now| remembered.is_covered_by(&now, va));
        let now = now.map_or("no page".into(), |now| now.to_string());
        assert!(
            covered,
            "stale translation: CPU {} uses {va} of root {root} as it remembers it, and no flush came since the tables changed\n  \
             remembered: {remembered}\n  \
             tables now: {now}",
            cpu.index(),
        );
    }
}

fn index(va: VirtAddr, shift: u32) -> usize {
    (va.as_usize() >> shift) & 511
}

fn fault(va: VirtAddr, access: Access, mode: Mode, why: u64) -> Fault {
    let by_access = match access {
        Access::Read => 0,
        Access::Write => PageFault::WRITE,
        Access::Execute => PageFault::EXECUTE,
    };
    let by_mode = match mode {
        Mode::User => PageFault::USER,
        Mode::Kernel => 0,
    };
    Fault::Page(PageFault {
        va,
        error_code: why | by_access | by_mode,
    })
}

//! Pages of the direct map that can be hidden one by one, for KFENCE. Linux: `kfence_init_pool`, `kfence_protect_page`.
#![expect(unsafe_code, reason = "changes entries of the kernel's tables")]

use core::fmt;
use core::ptr::NonNull;

use kmm_frame::{PAGE_SIZE, Pfn, PfnRange, VirtAddr};
use kmm_host::{GuardedPages, Host, PhysMap, PteStore, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Level, Mapper, Pte, PteFlags, Root, TableCounter};
use kmm_slub::{Kfence, KfenceSlot, Sampled};

use crate::early::{BuildError, Early, EarlyPages, KernelSpace};

/// Frames in a row that are mapped by entries of one table, of which `show` and `hide` set and clear the present bit.
///
/// An entry that is not present is in no TLB, so only hiding flushes. Nothing is allocated; what is changed is one word.
struct GuardPages<H: Host> {
    host: &'static H,
    frames: PfnRange,
    /// Where the first frame is mapped.
    va: VirtAddr,
    /// The table of all.
    table: Pfn,
}

impl<H: Host> GuardPages<H> {
    fn set_present(&self, nr: usize, is_present: bool) -> bool {
        if nr >= self.frames.nr_pages() {
            return false;
        }
        let index = Level::Pte.index(self.page(nr));
        let ptes = self.host.ptes();
        // SAFETY: `pool` has found the table, which maps boot memory and so stays for ever.
        let pte = Pte::from_raw(unsafe { ptes.read(self.table, index) });
        let flags = if is_present {
            pte.flags() | PteFlags::P
        } else {
            pte.flags() - PteFlags::P
        };
        let pte = pte.with_flags(flags, Level::Pte);
        // SAFETY: 1: as above; nobody else changes entries of frames that memblock gave for this. 2: the frame is the same, for the
        // kernel alone. Bits that hardware sets meanwhile mean nothing here.
        unsafe { ptes.swap(self.table, index, pte.raw()) };
        true
    }

    fn page(&self, nr: usize) -> VirtAddr {
        self.va + (nr * PAGE_SIZE) as u64
    }
}

// SAFETY: `pool` has seen that the frames lie one behind another in the permanent map; memblock gave them away for this alone, and
// the kernel's tables map them for reading and writing but for the present bit.
unsafe impl<H: Host> GuardedPages for GuardPages<H> {
    fn start(&self) -> NonNull<u8> {
        let start = self.host.phys().direct(self.frames.start());
        start.unwrap_or_else(|| unreachable!("`pool` has asked for it"))
    }

    fn nr_pages(&self) -> usize {
        self.frames.nr_pages()
    }

    fn show(&self, nr: usize) -> bool {
        self.set_present(nr, true)
    }

    fn hide(&self, nr: usize) -> bool {
        let hidden = self.set_present(nr, false);
        if hidden {
            let range = self.page(nr)..self.page(nr + 1);
            self.host.tlb().flush_range(TlbTarget::Kernel, range);
        }
        hidden
    }
}

impl<H: Host> fmt::Debug for GuardPages<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardPages")
            .field("frames", &self.frames)
            .field("va", &self.va)
            .finish_non_exhaustive()
    }
}

/// The pool that [`Early::with_kfence`] wanted, if it was called; `root` is loaded.
pub(crate) fn pool<H: Host>(
    early: &Early<H>,
    root: &Root,
    space: &KernelSpace,
    tables: &TableCounter,
) -> Result<Option<&'static (dyn Sampled + Sync)>, BuildError> {
    let Some((frames, interval)) = early.kfence else {
        return Ok(None);
    };
    let (host, va) = (
        early.host,
        space.direct_map + frames.start().phys().as_u64(),
    );
    let pages = EarlyPages { early };
    // SAFETY: 1: memblock's frames are reachable and described. 2: nothing is entered. 3: `root` was made with these levels.
    let mapper = unsafe { Mapper::new(host.ptes(), &pages, early.map, space.levels, tables) };
    let table = mapper.walk(root, va).table;
    let start = host.phys().direct(frames.start());
    let start = start.ok_or(BuildError::Unreachable)?.addr().get();
    for (pfn, nr) in frames.iter().zip(0..) {
        let walk = mapper.walk(root, va + (nr * PAGE_SIZE) as u64);
        let is_small = walk.level == Level::Pte && walk.table == table && walk.pte.is_present();
        let shown = host.phys().direct(pfn).map(|page| page.addr().get());
        if !is_small || walk.pte.pfn() != pfn || shown != Some(start + nr * PAGE_SIZE) {
            return Err(BuildError::Kfence);
        }
    }
    let slots = early.place_slice(frames.nr_pages() / 2, KfenceSlot::new)?;
    let pages = GuardPages {
        host,
        frames,
        va,
        table,
    };
    let pool = Kfence::<_, H::Lock>::new(pages, slots, interval);
    let pool: &'static Kfence<GuardPages<H>, H::Lock> =
        early.place(pool.map_err(|_| BuildError::Kfence)?)?;
    Ok(Some(pool))
}

//! Who writes to a free page? Linux: mm/page_poison.c.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_frame::{Gfp, PAGE_SIZE, Pfn, PfnRange};
use kmm_host::{PageBlock, PageReq, PhysMap};

use crate::layer::{Freed, Layer, Watch};

/// What free pages are filled with. Linux: `PAGE_POISON`.
pub const POISON: u8 = 0xaa;

/// A free page that somebody wrote to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corruption {
    /// The frame.
    pub pfn: Pfn,
    /// Where in it the first wrong byte is.
    pub offset: usize,
    /// How many bytes from there to the last wrong one, both included.
    pub len: usize,
    /// What is there; the first bytes of it.
    pub bytes: [u8; Self::SHOWN],
    /// How many bits differ in all.
    pub nr_bits: u32,
}

impl Corruption {
    /// So many bytes are kept for the report.
    pub const SHOWN: usize = 16;

    /// Looks for what is not [`POISON`]. Linux: `check_poison_mem`.
    fn find(pfn: Pfn, page: &[u8; PAGE_SIZE]) -> Option<Self> {
        let is_wrong = |byte: &u8| *byte != POISON;
        let offset = page.iter().position(is_wrong)?;
        let last = page.iter().rposition(is_wrong)?;
        let wrong = &page[offset..=last];
        let mut bytes = [POISON; Self::SHOWN];
        for (to, from) in bytes.iter_mut().zip(wrong) {
            *to = *from;
        }
        Some(Self {
            pfn,
            offset,
            len: wrong.len(),
            bytes,
            nr_bits: wrong.iter().map(|byte| (byte ^ POISON).count_ones()).sum(),
        })
    }

    /// Whether only one bit fell over: rather bad memory than bad code. Linux: `single_bit_flip`.
    #[must_use]
    pub const fn is_single_bit(&self) -> bool {
        self.nr_bits == 1
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_single_bit() {
            "single bit error"
        } else {
            "memory corruption"
        };
        let (pfn, offset) = (self.pfn, self.offset);
        write!(
            f,
            "pagealloc: {what}: pfn {pfn} offset {offset:#x} length {}:",
            self.len
        )?;
        let shown = self.len.min(Self::SHOWN);
        self.bytes[..shown]
            .iter()
            .try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// Fills pages with [`POISON`] when they are freed, and looks whether it is still there when they are handed out.
///
/// Which frames it has filled, it notes in bits that are handed in: those that come from the source for the first time
/// are not looked at. The source is not asked for zeros, as they would hide what was written.
pub type Poisoner<S, P, F> = Layer<S, Poison<P, F>>;

/// Who watches in a [`Poisoner`].
pub struct Poison<P, F> {
    phys: P,
    range: PfnRange,
    poisoned: &'static [AtomicU64],
    on_corruption: F,
}

impl<S, P: PhysMap, F: Fn(&Corruption)> Poisoner<S, P, F> {
    /// Watches the frames of `range`, or fewer if `bits` has not [`Poisoner::nr_words`] words.
    pub const fn new(
        inner: S,
        phys: P,
        range: PfnRange,
        bits: &'static [AtomicU64],
        on_corruption: F,
    ) -> Self {
        let poison = Poison {
            phys,
            range,
            poisoned: bits,
            on_corruption,
        };
        Self::around(inner, poison)
    }
}

impl Poisoner<(), (), ()> {
    /// How many words of bits `range` wants.
    #[must_use]
    pub const fn nr_words(range: PfnRange) -> usize {
        range.nr_pages().div_ceil(64)
    }
}

impl<P: PhysMap, F: Fn(&Corruption)> Poison<P, F> {
    fn bit(&self, pfn: Pfn) -> Option<(&AtomicU64, u64)> {
        if !self.range.contains(pfn) {
            return None;
        }
        let index = pfn - self.range.start();
        let word = self.poisoned.get(index / 64)?;
        Some((word, 1 << (index % 64)))
    }

    /// Linux: `__kernel_unpoison_pages`.
    fn check(&self, block: &mut PageBlock) {
        for nr in 0..block.order().nr_pages() {
            let pfn = block.pfn() + nr;
            let Some((word, bit)) = self.bit(pfn) else {
                continue;
            };
            if word.fetch_and(!bit, Relaxed) & bit == 0 {
                continue;
            }
            let found = self
                .phys
                .with_page(block, nr, |page| Corruption::find(pfn, page.bytes()));
            if let Some(corruption) = found {
                (self.on_corruption)(&corruption);
            }
        }
    }

    /// Linux: `__kernel_poison_pages`.
    fn poison(&self, block: &mut PageBlock) {
        for nr in 0..block.order().nr_pages() {
            if let Some((word, bit)) = self.bit(block.pfn() + nr) {
                self.phys
                    .with_page(block, nr, |mut page| page.bytes_mut().fill(POISON));
                word.fetch_or(bit, Relaxed);
            }
        }
    }
}

impl<P: PhysMap, F: Fn(&Corruption)> Watch for Poison<P, F> {
    fn request(&self, req: PageReq) -> PageReq {
        let gfp = req.gfp - Gfp::ZERO;
        PageReq { gfp, ..req }
    }

    fn took(&self, block: &mut PageBlock, req: PageReq) {
        self.check(block);
        if req.gfp.contains(Gfp::ZERO) {
            self.phys.clear(block);
        }
    }

    fn gave(&self, block: &mut PageBlock, _: Freed) -> bool {
        self.poison(block);
        true
    }
}

impl<P, F> fmt::Debug for Poison<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poison")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

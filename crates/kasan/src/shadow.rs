//! Where shadow bytes are: one for eight bytes.
#![expect(unsafe_code, reason = "shadow bytes are found by their address")]

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use kmm_frame::VirtAddr;

use crate::poison::Poison;

/// So many bytes have one shadow byte. Linux: `KASAN_GRANULE_SIZE`.
pub const GRANULE_BYTES: usize = 8;
const GRANULE: u64 = GRANULE_BYTES as u64;

/// Finds shadow bytes, and knows what they mean.
pub trait Shadow {
    /// The shadow of `nr_granules` granules from that of `addr` on, if they all have one.
    fn granules(&self, addr: VirtAddr, nr_granules: usize) -> Option<&[AtomicU8]>;

    /// Whether memory without a shadow may be touched at `addr`.
    fn allows(&self, addr: VirtAddr) -> bool;

    /// The shadow byte of `addr`, if there is one.
    fn byte(&self, addr: VirtAddr) -> Option<&AtomicU8> {
        self.granules(addr, 1)?.first()
    }

    /// Gives all granules of `start..start + size_bytes` the same shadow byte, those too that lie in there in part.
    fn fill(&self, start: VirtAddr, size_bytes: usize, value: u8) {
        if let Some(bytes) = self.granules(start, nr_granules(start, size_bytes)) {
            bytes.iter().for_each(|byte| byte.store(value, Relaxed));
        }
    }

    /// From now on nothing of this may be touched. `start` is a multiple of 8; a last granule in part is poisoned as a whole.
    /// Linux: `kasan_poison`.
    fn poison(&self, start: VirtAddr, size_bytes: usize, why: Poison) {
        self.fill(start, size_bytes, why.byte());
    }

    /// From now on `size_bytes` may be touched, and the rest of the last granule may not. `start` is a multiple of 8.
    /// Linux: `kasan_unpoison`.
    fn unpoison(&self, start: VirtAddr, size_bytes: usize) {
        let part = size_bytes % GRANULE_BYTES;
        self.fill(start, size_bytes - part, 0);
        if part > 0 {
            if let Some(byte) = self.byte(start + (size_bytes - part) as u64) {
                #[expect(clippy::cast_possible_truncation, reason = "it is below 8")]
                byte.store(part as u8, Relaxed);
            }
        }
    }

    /// The first byte that may not be touched, of `size_bytes` from `addr` on. Linux: `kasan_check_range`.
    fn first_bad(&self, addr: VirtAddr, size_bytes: usize) -> Option<VirtAddr> {
        if size_bytes == 0 {
            return None;
        }
        let Some(end) = addr.checked_add(size_bytes as u64) else {
            return Some(addr);
        };
        let mut at = addr;
        while at < end {
            let granule = at.align_down(GRANULE);
            let next = granule.as_u64().saturating_add(GRANULE).min(end.as_u64());
            let usable = match self.byte(at).map(|byte| byte.load(Relaxed)) {
                Some(0) => GRANULE,
                Some(usable @ 1..=7) => u64::from(usable),
                None if self.allows(at) => GRANULE,
                _ => 0,
            };
            if next - granule.as_u64() > usable {
                return Some(at.max(granule + usable));
            }
            at = VirtAddr::new(next);
        }
        None
    }
}

/// How many granules `start..start + size_bytes` touches.
fn nr_granules(start: VirtAddr, size_bytes: usize) -> usize {
    if size_bytes == 0 {
        return 0;
    }
    let before = (start.as_u64() % GRANULE) as usize;
    (before + size_bytes).div_ceil(GRANULE_BYTES)
}

/// The shadow of one stretch of memory, in bytes that were handed in. All other memory is forbidden.
#[derive(Clone, Copy, Debug)]
pub struct SliceShadow<'a> {
    start: VirtAddr,
    bytes: &'a [AtomicU8],
}

/// A shadow in storage that lives for ever.
pub type VecShadow = SliceShadow<'static>;

impl<'a> SliceShadow<'a> {
    /// The shadow of the memory from `start` on, a multiple of 8, as far as `bytes` reaches.
    #[must_use]
    pub const fn new(start: VirtAddr, bytes: &'a [AtomicU8]) -> Self {
        Self { start, bytes }
    }
}

impl Shadow for SliceShadow<'_> {
    fn granules(&self, addr: VirtAddr, nr_granules: usize) -> Option<&[AtomicU8]> {
        let offset = addr.as_u64().checked_sub(self.start.as_u64())? / GRANULE;
        let first = usize::try_from(offset).ok()?;
        self.bytes.get(first..first.checked_add(nr_granules)?)
    }

    fn allows(&self, _addr: VirtAddr) -> bool {
        false
    }
}

/// The shadow of a kernel: `(address >> 3) + offset`, for the windows that have one. Linux: `kasan_mem_to_shadow`.
#[derive(Clone, Debug)]
pub struct LinearShadow<const N: usize> {
    offset: u64,
    windows: [Range<VirtAddr>; N],
    free_from: VirtAddr,
}

impl<const N: usize> LinearShadow<N> {
    /// Where Linux has it on x86-64 with four levels. Linux: `CONFIG_KASAN_SHADOW_OFFSET`.
    pub const X86_64_OFFSET: u64 = 0xdfff_fc00_0000_0000;

    /// The shadow of `windows`. Memory outside of them may be touched from `free_from` on, and not below.
    ///
    /// # Safety
    /// 1. From now on the shadow of each window, as [`LinearShadow::shadow_of`] says it, is mapped, and used for nothing else.
    #[must_use]
    pub const unsafe fn new(
        offset: u64,
        windows: [Range<VirtAddr>; N],
        free_from: VirtAddr,
    ) -> Self {
        Self {
            offset,
            windows,
            free_from,
        }
    }

    /// Where the shadow byte of `addr` is, if it has one.
    #[must_use]
    pub const fn shadow_of(offset: u64, addr: VirtAddr) -> VirtAddr {
        VirtAddr::new((addr.as_u64() >> 3).wrapping_add(offset))
    }
}

impl<const N: usize> Shadow for LinearShadow<N> {
    fn granules(&self, addr: VirtAddr, nr_granules: usize) -> Option<&[AtomicU8]> {
        let last = nr_granules.max(1) as u64 - 1;
        let last = addr.align_down(GRANULE).checked_add(last * GRANULE)?;
        let holds = |window: &Range<VirtAddr>| window.contains(&addr) && window.contains(&last);
        if !self.windows.iter().any(holds) {
            return None;
        }
        let first = Self::shadow_of(self.offset, addr).as_usize();
        let first = core::ptr::with_exposed_provenance(first);
        // SAFETY: the granules lie in a window, so their shadow is mapped (obligation 1 of `new`); all accesses are atomic.
        Some(unsafe { core::slice::from_raw_parts(first, nr_granules) })
    }

    fn allows(&self, addr: VirtAddr) -> bool {
        addr >= self.free_from
    }

    fn fill(&self, start: VirtAddr, size_bytes: usize, value: u8) {
        if let Some(bytes) = self.granules(start, nr_granules(start, size_bytes)) {
            let first = bytes.as_ptr().cast::<u8>().cast_mut();
            // SAFETY: mapped, as in `granules`, and made of atomics, which may be written through a shared reference. Who races
            // with this asks about memory that is being freed: each byte is old or new.
            unsafe { first.write_bytes(value, bytes.len()) };
        }
    }
}

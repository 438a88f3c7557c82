//! How much of a zone is kept back, and for whom. Linux: `__setup_per_zone_wmarks`, `setup_per_zone_lowmem_reserve`.

use kmm_frame::{PAGE_SIZE, ZoneType};

/// By how much the marks lie apart, in 1/10000 of the zone. Linux: `watermark_scale_factor`.
pub const WATERMARK_SCALE_FACTOR: usize = 10;

/// What share of the zones above a zone keeps back from their requests: 1/ratio; 0 for none.
/// Linux: `sysctl_lowmem_reserve_ratio`.
pub const LOWMEM_RESERVE_RATIO: [usize; ZoneType::COUNT] = [256, 256, 32, 0, 0, 0];

/// Numbers of free pages at which something changes. Linux: `zone::_watermark`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watermarks {
    /// Below it only privileged requests succeed.
    pub min: usize,
    /// Below it kswapd is woken.
    pub low: usize,
    /// Here kswapd goes to sleep again.
    pub high: usize,
}

/// One of the [`Watermarks`]. Linux: `enum zone_watermarks`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// [`Watermarks::min`].
    Min,
    /// [`Watermarks::low`].
    Low,
    /// [`Watermarks::high`].
    High,
}

impl Watermarks {
    /// The marks of a zone that `managed` pages were given to, of `lowmem` in all zones that the kernel maps
    /// permanently. However much is asked for, a mark is at most [`Watermarks::MOST`].
    ///
    /// Linux: `__setup_per_zone_wmarks`, mm/page_alloc.c.
    #[must_use]
    pub fn for_zone(
        kind: ZoneType,
        managed: usize,
        lowmem: usize,
        min_free_kbytes: usize,
        scale_factor: usize,
    ) -> Self {
        let pages_min = min_free_kbytes / KBYTES_PER_PAGE;
        let share = mul_div(pages_min, managed, lowmem.max(1));
        // The kernel's own requests do not come from there: a small mark keeps kswapd going.
        let min = if kind == ZoneType::HighMem {
            (managed / 1024).clamp(SWAP_CLUSTER_MAX, HIGHMEM_MIN_MAX)
        } else {
            share
        };
        let gap = (share / 4).max(mul_div(managed, scale_factor, 10_000));
        let mark = |nr_gaps: usize| min.saturating_add(gap.saturating_mul(nr_gaps));
        Self {
            min: mark(0).min(Self::MOST),
            low: mark(1).min(Self::MOST),
            high: mark(2).min(Self::MOST),
        }
    }

    /// No zone has so many frames; so sums with reserves do not wrap.
    pub const MOST: usize = usize::MAX >> 8;

    /// One of them.
    #[must_use]
    pub const fn get(&self, mark: Mark) -> usize {
        match mark {
            Mark::Min => self.min,
            Mark::Low => self.low,
            Mark::High => self.high,
        }
    }
}

/// What Linux keeps free on a machine with so much memory that the kernel maps permanently.
/// Linux: `calculate_min_free_kbytes`.
#[must_use]
pub const fn default_min_free_kbytes(lowmem_pages: usize) -> usize {
    let lowmem_kbytes = lowmem_pages.saturating_mul(KBYTES_PER_PAGE);
    let root = lowmem_kbytes.saturating_mul(16).isqrt();
    if root < 128 {
        128
    } else if root > 262_144 {
        262_144
    } else {
        root
    }
}

/// What each zone keeps back from requests that could be served by a higher one: `[zone][highest zone of the request]`.
/// Linux: `setup_per_zone_lowmem_reserve`; `protection` in /proc/zoneinfo.
#[must_use]
pub fn lowmem_reserve(
    managed: [usize; ZoneType::COUNT],
    ratio: [usize; ZoneType::COUNT],
) -> [[usize; ZoneType::COUNT]; ZoneType::COUNT] {
    let mut reserve = [[0; ZoneType::COUNT]; ZoneType::COUNT];
    for zone in 0..ZoneType::COUNT {
        if managed[zone] == 0 {
            continue;
        }
        let mut above = 0;
        for upper in zone + 1..ZoneType::COUNT {
            above = managed[upper].saturating_add(above);
            reserve[zone][upper] = above.checked_div(ratio[zone]).unwrap_or(0);
        }
    }
    reserve
}

const KBYTES_PER_PAGE: usize = PAGE_SIZE / 1024;
/// Pages that reclaim frees in one go. Linux: `SWAP_CLUSTER_MAX`.
const SWAP_CLUSTER_MAX: usize = 32;
const HIGHMEM_MIN_MAX: usize = 128;

/// `a * b / c` without overflow in between. Linux: `mult_frac`.
fn mul_div(a: usize, b: usize, c: usize) -> usize {
    let result = (a as u128) * (b as u128) / (c as u128);
    usize::try_from(result).unwrap_or(usize::MAX)
}

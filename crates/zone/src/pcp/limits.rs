//! How large pagesets get. Linux: `zone_batchsize`, `zone_highsize`.

use kmm_frame::{Order, PAGE_SIZE};

use super::Pcp;

/// How many pages move at once, and how many may be in stock. Linux: `per_cpu_pages::batch` and `high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcpLimits {
    /// Pages that move between zone and pageset under one lock.
    pub batch: usize,
    /// At so many in stock a batch goes back.
    pub high: usize,
}

/// Which formula gives [`PcpLimits::high`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PcpSizing {
    /// All pagesets together hold as much as the low watermark, as Linux does since 5.14.
    #[default]
    ByLowMark,
    /// Six batches, as Linux did before.
    SixBatches,
}

impl PcpLimits {
    /// Before the zones have their watermarks: nothing is kept. Linux: `BOOT_PAGESET_HIGH`, `BOOT_PAGESET_BATCH`.
    pub(crate) const BOOT: Self = Self { batch: 1, high: 0 };

    /// Limits of a zone with `managed` pages and this low watermark. Linux: `zone_batchsize`, `zone_highsize`.
    #[must_use]
    pub fn by_low_mark(managed: usize, low: usize, nr_cpus: usize) -> Self {
        let batch = batch_size(managed);
        let share = low / nr_cpus.max(1);
        Self::clamped(batch, share.max(4 * batch))
    }

    /// Limits of a zone with `managed` pages. Linux before 5.14: `pageset_set_high_and_batch`.
    #[must_use]
    pub fn six_batches(managed: usize) -> Self {
        let batch = batch_size(managed);
        Self::clamped(batch, 6 * batch)
    }

    /// How many huge pages a CPU may have in stock: all CPUs together 1/16 of the zone, and none where that is less than
    /// two for each. They do not count towards [`PcpLimits::high`], which is smaller than one of them on most machines.
    pub(crate) fn nr_huge(managed: usize, nr_cpus: usize) -> usize {
        const SHARE: usize = 16;
        match managed / Order::PAGEBLOCK.nr_pages() / SHARE / nr_cpus.max(1) {
            0 | 1 => 0,
            nr => nr,
        }
    }

    fn clamped(batch: usize, high: usize) -> Self {
        Self {
            batch,
            high: high.min(Pcp::CAPACITY),
        }
    }
}

/// About a quarter of a thousandth of the zone and at most 256 KiB; one less than a power of two, so that the batches
/// of several CPUs do not all start on the same cache colour. Linux: `zone_batchsize`.
fn batch_size(managed: usize) -> usize {
    const MOST: usize = (1 << 20) / PAGE_SIZE;
    let quarter = ((managed / 1024).min(MOST) / 4).max(1);
    let rounded = 1 << (quarter + quarter / 2).ilog2();
    (rounded - 1).max(1)
}

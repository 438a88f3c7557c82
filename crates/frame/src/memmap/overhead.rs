//! What descriptors cost.

use core::fmt;

use crate::size::PAGE_SIZE;

/// What descriptors cost. `Display` is one line, as for the boot log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overhead {
    /// Bytes of descriptors.
    pub map_bytes: usize,
    /// Frames described: of a flat map holes included, of a sparse one whole sections.
    pub nr_pages: usize,
}

impl Overhead {
    /// The share of the memory, in hundredths of a percent, rounded down: 156 for 64 bytes in 4096.
    #[must_use]
    pub const fn basis_points(&self) -> usize {
        if self.nr_pages == 0 {
            return 0;
        }
        let bytes_per_page = self.map_bytes / self.nr_pages;
        bytes_per_page * 10_000 / PAGE_SIZE
    }
}

impl fmt::Display for Overhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kib, share) = (self.map_bytes / 1024, self.basis_points());
        write!(
            f,
            "{kib} KiB of descriptors for {} frames, {}.{:02} % of them",
            self.nr_pages,
            share / 100,
            share % 100
        )
    }
}

//! What machine to build.

use kmm_frame::memblock::{FirmwareKind, FirmwareRegion};
use kmm_frame::{Pfn, PfnRange, PhysAddr};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A machine to be built by [`crate::Machine::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where there is RAM: sorted, apart from each other.
    pub ram: Vec<PfnRange>,
    /// What the firmware tells; may be as wrong as firmware is.
    pub firmware: Vec<FirmwareRegion>,
    /// How many CPUs there are.
    pub nr_cpus: usize,
    /// How many levels the page tables have: 4 or 5.
    pub nr_levels: u32,
    /// The permanent map of [`crate::Machine::phys_with_highmem`] ends here.
    pub low_frames: Pfn,
    /// Whether a stale translation is reported when it is used. Switch it off where CPUs run at the same time, as the
    /// moment between the change of an entry and the end of its flush is no error; freeing too early is found anyway.
    pub check_stale_use: bool,
}

impl Default for Config {
    /// 64 MiB, one CPU, four levels.
    fn default() -> Self {
        Self::with_mib(64)
    }
}

impl Config {
    /// A PC with `mib` MiB: a hole below 1 MiB, another below 4 GiB where the RAM reaches that far.
    ///
    /// # Panics
    /// When there is not even 1 MiB of RAM above the first.
    #[must_use]
    pub fn with_mib(mib: u64) -> Self {
        assert!(mib >= 2, "a machine of {mib} MiB");
        let below = (mib * MIB).min(3 * GIB);
        let mut ram = vec![(0, 0x9f * 4 * KIB), (MIB, below)];
        if mib * MIB > below {
            ram.push((4 * GIB, GIB + mib * MIB));
        }
        let ram = ram
            .into_iter()
            .map(|(start, end)| PfnRange::inside(PhysAddr::new(start), PhysAddr::new(end)));
        Self::with_ram(ram)
    }

    /// A machine whose RAM is `ram`, in any order, told truly by the firmware.
    #[must_use]
    pub fn with_ram(ram: impl IntoIterator<Item = PfnRange>) -> Self {
        let mut ram: Vec<_> = ram.into_iter().filter(|range| !range.is_empty()).collect();
        ram.sort_by_key(|range| range.start());
        let mut firmware: Vec<_> = ram
            .iter()
            .map(|range| {
                let (start, end) = (range.start().phys(), range.end().phys());
                FirmwareRegion::new(start.as_u64(), end.as_u64(), FirmwareKind::Usable)
            })
            .collect();
        firmware.push(FirmwareRegion::new(
            0xf_0000,
            0x10_0000,
            FirmwareKind::Reserved,
        ));
        Self {
            low_frames: ram.last().map_or(Pfn::ZERO, |range| range.end()),
            ram,
            firmware,
            nr_cpus: 1,
            nr_levels: 4,
            check_stale_use: true,
        }
    }

    /// The same with `nr_cpus` CPUs.
    #[must_use]
    pub fn cpus(self, nr_cpus: usize) -> Self {
        Self { nr_cpus, ..self }
    }

    /// The same with page tables of five levels.
    #[must_use]
    pub fn five_levels(self) -> Self {
        Self {
            nr_levels: 5,
            ..self
        }
    }

    /// The same with another story from the firmware.
    #[must_use]
    pub fn told_by(self, firmware: Vec<FirmwareRegion>) -> Self {
        Self { firmware, ..self }
    }

    /// The same with frames from `low_frames` on outside the permanent map of a 32-bit model.
    #[must_use]
    pub fn highmem_from(self, low_frames: Pfn) -> Self {
        Self { low_frames, ..self }
    }

    /// The same without a report when a stale translation is used.
    #[must_use]
    pub fn without_stale_use_check(self) -> Self {
        Self {
            check_stale_use: false,
            ..self
        }
    }
}

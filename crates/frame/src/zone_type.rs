//! What kinds of memory there are: zones, nodes, migrate types.

use core::fmt;

/// A zone: frames that the same requests may use. Linux: `enum zone_type`.
///
/// Ordered from the scarcest to the most plentiful, as a request falls back downwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ZoneType {
    /// Below 16 MiB on x86: ISA devices.
    Dma = 0,
    /// Below 4 GiB on x86-64: devices with 32-bit addresses.
    Dma32 = 1,
    /// The rest of what the kernel maps permanently.
    Normal = 2,
    /// What the kernel does not map permanently; empty on 64-bit.
    HighMem = 3,
    /// Frames that hold only what can be moved.
    Movable = 4,
    /// Frames of devices, never in the buddy allocator.
    Device = 5,
}

impl ZoneType {
    /// How many types there are.
    pub const COUNT: usize = 6;
    /// Every type, scarcest first.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Dma,
        Self::Dma32,
        Self::Normal,
        Self::HighMem,
        Self::Movable,
        Self::Device,
    ];

    /// The type as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The type with this index.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT {
            Some(Self::ALL[index])
        } else {
            None
        }
    }

    /// The name in /proc/zoneinfo.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma => "DMA",
            Self::Dma32 => "DMA32",
            Self::Normal => "Normal",
            Self::HighMem => "HighMem",
            Self::Movable => "Movable",
            Self::Device => "Device",
        }
    }
}

impl fmt::Display for ZoneType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What may become of a page later, so that alike pages share pageblocks. Linux: `enum migratetype`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MigrateType {
    /// Stays where it is: kernel data.
    Unmovable = 0,
    /// Can be copied elsewhere: user pages.
    Movable = 1,
    /// Can be dropped: caches.
    Reclaimable = 2,
    /// Kept back for urgent requests of higher order.
    HighAtomic = 3,
    /// Lent to movable pages until a device wants it.
    Cma = 4,
    /// Not to be allocated now.
    Isolate = 5,
}

impl MigrateType {
    /// How many types there are.
    pub const COUNT: usize = 6;
    /// Every type, in Linux's order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Unmovable,
        Self::Movable,
        Self::Reclaimable,
        Self::HighAtomic,
        Self::Cma,
        Self::Isolate,
    ];

    /// The type as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in /proc/pagetypeinfo. Linux: `migratetype_names`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unmovable => "Unmovable",
            Self::Movable => "Movable",
            Self::Reclaimable => "Reclaimable",
            Self::HighAtomic => "HighAtomic",
            Self::Cma => "CMA",
            Self::Isolate => "Isolate",
        }
    }

    /// The type with this index.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT {
            Some(Self::ALL[index])
        } else {
            None
        }
    }
}

/// A NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct NodeId(u8);

impl NodeId {
    /// The only node of a machine that tells of none.
    pub const ZERO: Self = Self(0);

    /// The node with this number.
    #[must_use]
    pub const fn new(node: u8) -> Self {
        Self(node)
    }

    /// The node as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#![no_std]
#![doc = include_str!("../README.md")]

mod bad;
mod bulk;
mod check;
mod contig;
mod drain;
mod effort;
mod hotplug;
mod layouts;
mod limits;
mod lru;
mod movable;
mod node;
mod pageblock;
mod pcp;
mod reserve;
mod rmqueue;
mod source;
mod span;
mod stat;
mod storage;
mod vmstat;
mod watermark;
mod zone;
mod zonelist;
mod zones;

pub use bad::{BadPage, BadReason};
pub use check::{FreeAt, ZonesBroken};
pub use contig::{ContigFailed, ContigRange, Migrate, Migrated};
pub use hotplug::{DeviceRange, HotplugError};
pub use kmm_buddy::{FreeBits, FreeError, Pageblock, Pageblocks};
pub use layouts::NodeLayouts;
pub use limits::{LayoutError, X86, X86_64, ZoneLayout, ZoneLimits};
pub use lru::{LruBroken, LruError, LruList, Lruvec};
pub use movable::{Amount, NotAnAmount};
pub use node::Node;
pub use pcp::{Pcp, PcpLimits, PcpSizing};
pub use reserve::Unreserve;
pub use rmqueue::Pressure;
pub use stat::{Accounting, CountPressure, PcpStat, ZoneStat};
pub use storage::{FirstPcps, ZoneStorage};
pub use vmstat::{CpuCounts, NodeCounters, normal_threshold, pressure_threshold};
pub use watermark::{
    LOWMEM_RESERVE_RATIO, Mark, WATERMARK_SCALE_FACTOR, Watermarks, default_min_free_kbytes,
    lowmem_reserve,
};
pub use zone::{Zone, ZoneId};
pub use zonelist::AllowedNodes;
pub use zones::{Zones, ZonesError};

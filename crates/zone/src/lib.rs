#![no_std]
#![doc = include_str!("../README.md")]

mod bad;
mod bulk;
mod check;
mod limits;
mod lru;
mod pageblock;
mod pcp;
mod rmqueue;
mod source;
mod stat;
mod storage;
mod vmstat;
mod watermark;
mod zone;
mod zones;

pub use bad::{BadPage, BadReason};
pub use check::{FreeAt, ZonesBroken};
pub use kmm_buddy::{FreeBits, FreeError, Pageblock, Pageblocks};
pub use limits::{LayoutError, X86, X86_64, ZoneLayout, ZoneLimits};
pub use lru::{LruBroken, LruError, LruList, Lruvec};
pub use pcp::{Pcp, PcpLimits, PcpSizing};
pub use rmqueue::Pressure;
pub use stat::{Accounting, CountPressure, PcpStat, ZoneStat};
pub use storage::ZoneStorage;
pub use vmstat::{CpuCounts, NodeCounters, normal_threshold, pressure_threshold};
pub use watermark::{
    LOWMEM_RESERVE_RATIO, Mark, WATERMARK_SCALE_FACTOR, Watermarks, default_min_free_kbytes,
    lowmem_reserve,
};
pub use zone::Zone;
pub use zones::{Zones, ZonesError};

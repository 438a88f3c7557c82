#![no_std]
#![doc = include_str!("../README.md")]

mod bad;
mod check;
mod limits;
mod pcp;
mod rmqueue;
mod source;
mod stat;
mod storage;
mod watermark;
mod zone;
mod zones;

pub use bad::{BadPage, BadReason};
pub use check::{FreeAt, ZonesBroken};
pub use kmm_buddy::FreeError;
pub use limits::{LayoutError, X86, X86_64, ZoneLayout, ZoneLimits};
pub use pcp::{Pcp, PcpLimits, PcpSizing};
pub use rmqueue::Pressure;
pub use stat::{Accounting, NumaStat, PcpStat, ZoneStat};
pub use storage::{pcps_in, pcps_layout};
pub use watermark::{
    LOWMEM_RESERVE_RATIO, Mark, WATERMARK_SCALE_FACTOR, Watermarks, default_min_free_kbytes,
    lowmem_reserve,
};
pub use zone::Zone;
pub use zones::{Zones, ZonesError};

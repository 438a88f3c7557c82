#![no_std]
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod buddyinfo;
pub mod maps;
pub mod meminfo;
pub mod pagetypeinfo;
pub mod pid;
pub mod slabinfo;
pub mod smaps;
pub mod swaps;
pub mod vmallocinfo;
pub mod vmstat;
pub mod zoneinfo;

pub use kmm_frame::{
    NodeCounts, NodeItem, NumaCounts, NumaItem, VmEvent, VmEventCounts, ZoneCounts, ZoneItem,
};

use kmm_frame::PAGE_SIZE;

/// Pages as KiB, the unit of most of the texts.
#[must_use]
pub const fn pages_to_kb(nr_pages: u64) -> u64 {
    nr_pages * (PAGE_SIZE as u64 / 1024)
}

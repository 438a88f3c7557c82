//! Foreign traits and types, joined to ours through newtypes and functions (the orphan rule forbids more).

#[cfg(feature = "bootloader_api")]
pub mod memory_map;
#[cfg(feature = "x86_64")]
pub mod paging;

//! Foreign traits and types, joined to ours through newtypes and functions (the orphan rule forbids more); and what firmware says.

#[cfg(feature = "bootloader_api")]
pub mod memory_map;
pub mod numa;
#[cfg(feature = "x86_64")]
pub mod paging;

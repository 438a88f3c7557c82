//! The text of /proc/meminfo, buddyinfo, zoneinfo, slabinfo, maps
#![no_std]

//! Zones, watermarks, zonelists and per-CPU pagesets
#![no_std]

//! The buddy allocator of one zone
#![no_std]

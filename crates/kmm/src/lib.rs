//! Linux's memory management for Rust kernels: the whole manager from a memory map
#![no_std]

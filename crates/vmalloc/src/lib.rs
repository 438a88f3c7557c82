//! Virtually contiguous kernel memory, vmap and ioremap
#![no_std]

//! kmap and kmap_local: real below 64 bits, nothing above
#![no_std]

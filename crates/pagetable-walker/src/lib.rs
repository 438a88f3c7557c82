//! Four- and five-level x86-64 page tables: walk, map, unmap, protect
#![no_std]

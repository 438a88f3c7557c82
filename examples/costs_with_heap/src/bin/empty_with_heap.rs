#![no_std]
#![no_main]

#[path = "../heap.rs"]
mod heap;
#[path = "../../../costs/src/host.rs"]
mod host;

extern crate alloc;

use core::hint::black_box;

fn run() {
    black_box((host::map(), host::phys()));
    black_box(alloc::vec::Vec::<u64>::with_capacity(host::any() as usize));
}

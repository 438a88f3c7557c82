#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

fn run() {
    black_box((host::map(), host::phys()));
}

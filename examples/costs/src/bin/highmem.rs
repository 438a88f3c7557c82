#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use host::*;
use kmm_frame::Pfn;
use kmm_highmem::clear_highpage;

fn run() {
    // SAFETY: never run.
    unsafe { clear_highpage(&phys(), Pfn::new(any() as usize)) };
}

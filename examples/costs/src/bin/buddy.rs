#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_buddy::Buddy;

fn run() {
    let mut buddy = Buddy::new(frames(), map(), black_box(&mut [])).unwrap();
    buddy.add_free_range(frames()).unwrap();
    let block = buddy.take(order()).unwrap();
    buddy.put(black_box(block), order()).unwrap();
    black_box(buddy.nr_free_pages());
}

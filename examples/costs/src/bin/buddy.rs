#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_buddy::{Buddy, Pageblocks};
use kmm_frame::MigrateType;

fn run() {
    let mut buddy = Buddy::new(frames(), map(), black_box(&mut []), Pageblocks::EMPTY).unwrap();
    buddy.add_free_range(frames()).unwrap();
    let block = buddy.take(order(), MigrateType::Movable).unwrap();
    buddy.put(black_box(block), order()).unwrap();
    black_box(buddy.nr_free_pages());
}

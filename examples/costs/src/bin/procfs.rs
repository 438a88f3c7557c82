#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::fmt::Write;
use core::hint::black_box;

use kmm_procfs::{buddyinfo::BuddyLine, meminfo::Meminfo};

struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        black_box(text);
        Ok(())
    }
}

fn run() {
    let meminfo = black_box(Meminfo::default());
    write!(Out, "{meminfo}").unwrap();
    let line = black_box(BuddyLine {
        node: 0,
        zone: "DMA",
        nr_free: [0; 11],
    });
    write!(Out, "{line}").unwrap();
}

#![no_std]
#![no_main]

#[path = "../heap.rs"]
mod heap;
#[path = "../../../costs/src/host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_kcoll::RangeTree;

fn run() {
    let mut tree = RangeTree::new();
    tree.insert(any()..any(), any()).unwrap();
    black_box(tree.find(any()));
    black_box(tree.highest_gap(any()..any(), any(), any()));
    black_box(tree.remove(any()));
}

#![no_std]
#![no_main]

#[path = "../heap.rs"]
mod heap;
#[path = "../../../costs/src/host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_vma::{Limits, Mm, MmLayout, MmapReq, Prot};

fn run() {
    let mut mm = Mm::<u64>::new(MmLayout::default(), Limits::default());
    let mapped = mm
        .mmap(MmapReq::anonymous(any(), black_box(Prot::READ)))
        .unwrap();
    black_box(mm.find(va()));
    _ = black_box(mm.mprotect(mapped.range.start, any(), black_box(Prot::WRITE)));
    black_box(mm.brk(va()));
    black_box(mm.munmap(va(), any()).unwrap());
}

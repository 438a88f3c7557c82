#![no_std]
#![no_main]

#[path = "../heap.rs"]
mod heap;
#[path = "../../../costs/src/host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_frame::{Gfp, PhysAddr};
use kmm_host::{MemPtes, NoTlb};
use kmm_pagetable_walker::{Levels, Mapper, TableCounter};
use kmm_vmalloc::{CacheMode, Vmalloc, VmallocConfig};

fn run() {
    let (ptes, tables) = (MemPtes::new(phys()), TableCounter::new());
    // SAFETY: never run.
    let mapper = unsafe { Mapper::new(&ptes, &Source, map(), black_box(Levels::Four), &tables) };
    let root = mapper.alloc_root().unwrap();
    let config = VmallocConfig {
        range: va()..va(),
        is_ram: &|frames| black_box(frames).is_empty(),
    };
    let vm = Vmalloc::<_, _, _, Lock>::new(mapper, &Source, root, NoTlb, config);
    let area = vm.vmalloc(any() as usize, black_box(Gfp::KERNEL)).unwrap();
    let registers = vm
        .ioremap(PhysAddr::new(any()), any() as usize, CacheMode::Uncached)
        .unwrap();
    // SAFETY: never run.
    unsafe { vm.vfree(black_box(area)).unwrap() };
    // SAFETY: never run.
    unsafe { vm.iounmap(black_box(registers)).unwrap() };
}

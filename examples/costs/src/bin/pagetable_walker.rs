#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_frame::PhysAddr;
use kmm_host::{MemPtes, NoTlb, TlbTarget};
use kmm_pagetable_walker::{Level, Levels, Mapper, PteFlags, TableCounter};

fn run() {
    let (ptes, tables) = (MemPtes::new(phys()), TableCounter::new());
    // SAFETY: never run.
    let mapper = unsafe { Mapper::new(&ptes, &Source, map(), black_box(Levels::Four), &tables) };
    let mut root = mapper.alloc_root().unwrap();
    let range = va()..va();
    let flags = black_box(PteFlags::KERNEL);
    mapper
        .map_range(
            &mut root,
            range.clone(),
            PhysAddr::new(any()),
            flags,
            Level::Pud,
        )
        .unwrap();
    black_box(mapper.translate(&root, va()));
    let mut gather = mapper.gather(TlbTarget::Kernel, &NoTlb);
    let narrow = |leaf: kmm_pagetable_walker::Leaf| leaf.pte.with_flags(flags, leaf.level);
    mapper
        .protect_range(&mut root, range.clone(), &mut gather, narrow)
        .unwrap();
    mapper
        .unmap_range(&mut root, range, &mut gather, |leaf, _| _ = black_box(leaf))
        .unwrap();
    gather.finish();
    _ = black_box(root);
}

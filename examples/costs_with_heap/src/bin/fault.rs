#![no_std]
#![no_main]

#[path = "../heap.rs"]
mod heap;
#[path = "../../../costs/src/host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_fault::{FaultCause, FaultEnv, FileError, FilePage, FileSource, Space, Usage, handle};
use kmm_frame::Pfn;
use kmm_host::{MemPtes, NoTlb};
use kmm_pagetable_walker::{Levels, Mapper, TableCounter};
use kmm_vma::{Limits, Mm, MmLayout};

#[derive(Clone, PartialEq)]
struct File(u64);

// SAFETY: never run.
unsafe impl FileSource for File {
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError> {
        Ok(FilePage {
            pfn: Pfn::new(black_box(pgoff) as usize),
            major: false,
        })
    }
}

fn run() {
    let (ptes, tables, phys) = (MemPtes::new(phys()), TableCounter::new(), phys());
    // SAFETY: never run.
    let mapper = unsafe { Mapper::new(&ptes, &Source, map(), black_box(Levels::Four), &tables) };
    let mut root = mapper.alloc_root().unwrap();
    let mut mm = black_box(Mm::<File>::new(MmLayout::default(), Limits::default()));
    let zero_page = Pfn::new(any() as usize);
    let env = FaultEnv {
        mapper,
        pages: &Source,
        phys: &phys,
        tlb: &NoTlb,
        zero_page,
    };
    let mut usage = Usage::default();
    let mut space = Space {
        mm: &mut mm,
        root: &mut root,
        usage: &mut usage,
    };
    let cause = FaultCause::from_error_code(any());
    _ = black_box(handle(&env, &mut space, va(), cause));
    _ = black_box(root);
}

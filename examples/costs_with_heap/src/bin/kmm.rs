#![no_std]
#![no_main]

#[path = "../heap.rs"]
mod heap;
#[path = "../../../costs/src/host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm::frame::PhysAddr;
use kmm::frame::memblock::{FirmwareRegion, FirstMegabyte, Memblock};
use kmm::host::{MemPtes, NoTlb};
use kmm::pagetable_walker::{Level, Levels, TableCounter};
use kmm::{AddressSpace, Early, Hooks, KernelSpace, Manager, fault, vma};

static TABLES: TableCounter = TableCounter::new();

fn run() {
    let mut memblock = Memblock::new();
    let regions: &[FirmwareRegion] = black_box(&[]);
    memblock
        .add_firmware_map(regions.iter().copied(), FirstMegabyte::Skip)
        .unwrap();
    let phys = phys();
    let machine = Machine {
        phys,
        ptes: MemPtes::new(phys),
        tlb: NoTlb,
        cpus: OneCpu,
    };
    // SAFETY: never run.
    let machine: &'static Machine = unsafe { &*black_box(&raw const machine) };
    let space = KernelSpace {
        levels: Levels::Four,
        direct_map: va(),
        largest: Level::Pud,
        vmalloc: va()..va(),
    };
    // SAFETY: never run.
    let early = unsafe { Early::new(machine, memblock, PhysAddr::new(any())) }.unwrap();
    let root = early.kernel_tables(&space, [], &TABLES).unwrap();
    let manager = Manager::build(early, root, &TABLES, &space, Hooks::default()).unwrap();
    let mut program = AddressSpace::<_, fault::NoFile>::new(manager).unwrap();
    let at = program
        .mmap(vma::MmapReq::anonymous(any(), black_box(vma::Prot::READ)))
        .unwrap();
    _ = black_box(program.fault(at, fault::FaultCause::from_error_code(any())));
    let mut child = program.fork().unwrap();
    child
        .mprotect(at, any(), black_box(vma::Prot::WRITE))
        .unwrap();
    child.munmap(at, any()).unwrap();
    black_box(program.brk(va()));
}

//! The software MMU: walks, rights, accessed and dirty bits, and TLBs that notice staleness.
#![allow(missing_docs, unsafe_code, reason = "tests build tables by hand")]

use kmm_frame::{Gfp, Pfn, PfnRange, VirtAddr};
use kmm_host::{CpuId, PageReq, PageSource, PteIndex, PteStore, TlbControl, TlbTarget};
use kmm_sim::{Access, Config, Fault, FreeListSource, Machine, Mode, PageFault};

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const ALL: u64 = P | RW | US;
const KERNEL_VA: u64 = 0xffff_8000_0000_0000;

struct Tables {
    machine: &'static Machine,
    frames: FreeListSource,
    /// From the top to the last level, all for address 0 of either half.
    path: Vec<Pfn>,
}

impl Tables {
    fn new(config: Config) -> Self {
        let nr_levels = config.nr_levels as usize;
        let machine = Machine::new(config);
        let frames = FreeListSource::new(machine);
        let mut tables = Self {
            machine,
            frames,
            path: Vec::new(),
        };
        for _ in 0..nr_levels {
            let table = tables.frame();
            // SAFETY: a fresh frame.
            unsafe { machine.ptes().init_table(table) };
            tables.path.push(table);
        }
        for depth in 1..nr_levels {
            let below = tables.path[depth].phys().as_u64() | ALL;
            tables.set(depth - 1, 0, below);
            if depth == 1 {
                tables.set(0, 256, below);
            }
        }
        tables
    }

    fn frame(&self) -> Pfn {
        self.frames
            .alloc(PageReq::page(Gfp::KERNEL))
            .unwrap()
            .into_raw()
            .0
    }

    fn set(&self, depth: usize, index: u64, entry: u64) {
        // SAFETY: our own tables; the machine checks the rest.
        unsafe {
            self.machine
                .ptes()
                .write(self.path[depth], PteIndex::truncate(index), entry)
        };
    }

    fn get(&self, depth: usize, index: u64) -> u64 {
        // SAFETY: our own tables.
        unsafe {
            self.machine
                .ptes()
                .read(self.path[depth], PteIndex::truncate(index))
        }
    }

    /// Sets the entry of the last level.
    fn map(&self, index: u64, entry: u64) {
        self.set(self.path.len() - 1, index, entry);
    }

    fn access(&self, va: u64, access: Access, mode: Mode) -> Result<u64, Fault> {
        self.access_on(CpuId::BOOT, va, access, mode)
    }

    fn access_on(&self, cpu: CpuId, va: u64, access: Access, mode: Mode) -> Result<u64, Fault> {
        let done = self
            .machine
            .access(cpu, self.path[0], VirtAddr::new(va), access, mode);
        done.map(|phys| phys.as_u64())
    }

    fn user(&self) -> TlbTarget {
        TlbTarget::User { root: self.path[0] }
    }

    fn flush(&self, target: TlbTarget, va: u64) {
        let page = VirtAddr::new(va)..VirtAddr::new(va + 0x1000);
        self.machine.tlb().flush_range(target, page);
    }
}

fn code(result: Result<u64, Fault>) -> u64 {
    match result {
        Err(Fault::Page(fault)) => fault.error_code,
        other => panic!("no page fault: {other:?}"),
    }
}

#[test]
fn rights_of_all_levels_count_and_error_codes_tell_what_was_missing() {
    for config in [Config::default(), Config::default().five_levels()] {
        let last = config.nr_levels as usize - 1;
        for missing in [0, RW, US, NX] {
            for depth in 0..=last {
                let tables = Tables::new(config.clone());
                tables.map(0, 0x12_3000 | ALL);
                tables.set(depth, 0, tables.get(depth, 0) ^ missing);
                let write = tables.access(0x10, Access::Write, Mode::User);
                let execute = tables.access(0x10, Access::Execute, Mode::User);
                let kernel_write = tables.access(0x10, Access::Write, Mode::Kernel);
                let kernel_execute = tables.access(0x10, Access::Execute, Mode::Kernel);
                let denied = PageFault::PRESENT | PageFault::USER;
                match missing {
                    RW => {
                        assert_eq!(code(write), denied | PageFault::WRITE);
                        assert_eq!(code(kernel_write), PageFault::PRESENT | PageFault::WRITE);
                    }
                    US => {
                        assert_eq!(code(write), denied | PageFault::WRITE);
                        assert_eq!(
                            kernel_execute,
                            Ok(0x12_3010),
                            "no user page, so SMEP allows it"
                        );
                    }
                    NX => assert_eq!(code(execute), denied | PageFault::EXECUTE),
                    _ => assert_eq!((write, execute), (Ok(0x12_3010), Ok(0x12_3010))),
                }
                if missing != US {
                    let denied = PageFault::PRESENT | PageFault::EXECUTE;
                    assert_eq!(code(kernel_execute), denied, "SMEP");
                }
            }
        }
    }
}

#[test]
fn holes_and_bad_addresses_and_reserved_bits_fault() {
    let tables = Tables::new(Config::default());
    assert_eq!(
        code(tables.access(0x5000, Access::Read, Mode::User)),
        PageFault::USER
    );
    assert_eq!(
        code(tables.access(1 << 39, Access::Write, Mode::Kernel)),
        PageFault::WRITE
    );
    let bad = VirtAddr::new(1 << 47);
    assert_eq!(
        tables.access(1 << 47, Access::Read, Mode::User),
        Err(Fault::NonCanonical(bad))
    );
    tables.set(2, 1, 0x20_0000 | 1 << 13 | ALL | PS);
    let reserved = PageFault::PRESENT | PageFault::USER | PageFault::RESERVED;
    assert_eq!(
        code(tables.access(0x20_0000, Access::Read, Mode::User)),
        reserved
    );
    tables.set(0, 1, ALL | PS);
    assert_eq!(
        code(tables.access(1 << 39, Access::Read, Mode::User)),
        reserved
    );
    // With five levels the same address is canonical.
    let five = Tables::new(Config::default().five_levels());
    assert_eq!(
        code(five.access(1 << 47, Access::Read, Mode::User)),
        PageFault::USER
    );
}

#[test]
fn pages_of_all_sizes_translate() {
    let tables = Tables::new(Config::default());
    tables.map(3, 0x7000 | ALL);
    tables.set(2, 1, 0x60_0000 | ALL | PS | 1 << 12);
    tables.set(1, 1, 0x8000_0000 | ALL | PS);
    assert_eq!(tables.access(0x3abc, Access::Read, Mode::User), Ok(0x7abc));
    assert_eq!(
        tables.access(0x2a_bcde, Access::Read, Mode::User),
        Ok(0x6a_bcde)
    );
    assert_eq!(
        tables.access(0x5234_5678, Access::Read, Mode::User),
        Ok(0x9234_5678)
    );
}

#[test]
fn hardware_marks_what_it_used() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | ALL);
    let marks = || tables.get(3, 0) & (A | D);
    let _ = tables.machine.translation(tables.path[0], VirtAddr::ZERO);
    assert_eq!(marks(), 0, "looking is not using");
    tables.access(0, Access::Read, Mode::User).unwrap();
    assert_eq!(marks(), A);
    assert_eq!(tables.get(0, 0) & (A | D), A);
    // The first write walks again to mark the page dirty, though the translation is remembered.
    tables.access(0, Access::Write, Mode::User).unwrap();
    assert_eq!(marks(), A | D);
    tables.map(1, 0x8000 | P | US);
    assert!(tables.access(0x1000, Access::Write, Mode::User).is_err());
    assert_eq!(tables.get(3, 1) & (A | D), 0, "a fault marks nothing");
}

#[test]
fn each_cpu_remembers_until_it_is_told_to_forget() {
    let tables = Tables::new(Config::default().cpus(2).without_stale_use_check());
    let both = [0, 1].map(CpuId::new);
    tables.map(0, 0x7000 | ALL);
    for cpu in both {
        assert_eq!(
            tables.access_on(cpu, 0, Access::Read, Mode::User),
            Ok(0x7000)
        );
    }
    tables.map(0, 0x8000 | ALL);
    for cpu in both {
        assert_eq!(
            tables.access_on(cpu, 0, Access::Read, Mode::User),
            Ok(0x7000)
        );
    }
    let seven = PfnRange::with_len(Pfn::new(7), 1);
    assert!(tables.machine.tlb().remembers_frames(seven).is_some());
    // Another page, another root, the kernel half: nothing that concerns it.
    tables.flush(tables.user(), 0x1000);
    tables.flush(TlbTarget::User { root: Pfn::new(3) }, 0);
    tables.machine.tlb().flush_all(TlbTarget::Kernel);
    assert_eq!(
        tables.access_on(both[1], 0, Access::Read, Mode::User),
        Ok(0x7000)
    );
    tables.flush(tables.user(), 0);
    for cpu in both {
        assert_eq!(
            tables.access_on(cpu, 0, Access::Read, Mode::User),
            Ok(0x8000)
        );
    }
    assert!(tables.machine.tlb().remembers_frames(seven).is_none());
    tables.map(0, 0x9000 | ALL);
    tables.machine.tlb().flush_all(tables.user());
    assert_eq!(
        tables.access_on(both[0], 0, Access::Read, Mode::User),
        Ok(0x9000)
    );
    assert_eq!(tables.machine.tlb().nr_flushes(), 5);
}

#[test]
fn a_flush_of_one_byte_of_a_large_page_drops_it_all() {
    let tables = Tables::new(Config::default().without_stale_use_check());
    tables.set(2, 1, 0x60_0000 | ALL | PS);
    assert_eq!(
        tables.access(0x3f_f000, Access::Read, Mode::User),
        Ok(0x7f_f000)
    );
    tables.set(2, 1, 0xa0_0000 | ALL | PS);
    tables.flush(tables.user(), 0x20_0000);
    assert_eq!(
        tables.access(0x3f_f000, Access::Read, Mode::User),
        Ok(0xbf_f000)
    );
    // A long range is flushed another way, to the same effect.
    tables.set(2, 1, 0x60_0000 | ALL | PS);
    let long = VirtAddr::new(0x30_0000)..VirtAddr::new(0x4000_0000);
    tables.machine.tlb().flush_range(tables.user(), long);
    assert_eq!(
        tables.access(0x3f_f000, Access::Read, Mode::User),
        Ok(0x7f_f000)
    );
}

#[test]
fn global_pages_are_remembered_for_all_roots() {
    let tables = Tables::new(Config::default().without_stale_use_check());
    tables.map(0, 0x7000 | P | RW | G);
    assert_eq!(
        tables.access(KERNEL_VA, Access::Read, Mode::Kernel),
        Ok(0x7000)
    );
    tables.map(0, 0x8000 | P | RW | G);
    tables.machine.tlb().flush_all(tables.user());
    let elsewhere = tables.machine.access(
        CpuId::BOOT,
        Pfn::new(0x2222),
        VirtAddr::new(KERNEL_VA),
        Access::Read,
        Mode::Kernel,
    );
    assert_eq!(
        elsewhere.unwrap().as_u64(),
        0x7000,
        "another root, not even walked"
    );
    tables.flush(TlbTarget::Kernel, KERNEL_VA);
    assert_eq!(
        tables.access(KERNEL_VA, Access::Read, Mode::Kernel),
        Ok(0x8000)
    );
}

#[test]
#[should_panic(expected = "stale translation: CPU 0 uses 0x0")]
fn use_of_a_frame_that_was_replaced_is_reported() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | ALL);
    tables.access(0, Access::Read, Mode::User).unwrap();
    tables.map(0, 0x8000 | ALL);
    let _ = tables.access(0, Access::Read, Mode::User);
}

#[test]
#[should_panic(expected = "stale translation")]
fn use_of_a_page_whose_rights_were_narrowed_is_reported() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | ALL);
    tables.access(0, Access::Write, Mode::User).unwrap();
    tables.map(0, 0x7000 | P | US | A | D);
    let _ = tables.access(0, Access::Read, Mode::User);
}

#[test]
fn widened_rights_and_cleared_marks_are_legal_without_a_flush() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | P | US | NX);
    tables.access(0, Access::Read, Mode::User).unwrap();
    tables.map(0, 0x7000 | ALL);
    tables.access(0, Access::Read, Mode::User).unwrap();
    let spurious = PageFault::PRESENT | PageFault::WRITE | PageFault::USER;
    assert_eq!(code(tables.access(0, Access::Write, Mode::User)), spurious);
    assert_eq!(tables.access(0, Access::Write, Mode::User), Ok(0x7000));
    tables.map(0, 0x7000 | ALL);
    assert_eq!(tables.access(0, Access::Write, Mode::User), Ok(0x7000));
}

#[test]
#[should_panic(expected = "which is no page table")]
fn a_walk_into_an_ordinary_frame_is_reported() {
    let tables = Tables::new(Config::default());
    tables.set(2, 1, tables.frame().phys().as_u64() | ALL);
    let _ = tables.access(0x20_0000, Access::Read, Mode::User);
}

#[test]
#[should_panic(expected = "global page in the user half")]
fn a_global_page_of_a_program_is_reported() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | ALL | G);
    let _ = tables.access(0, Access::Read, Mode::User);
}

#[test]
#[should_panic(expected = "is used as a page table but is none")]
fn an_ordinary_frame_is_not_read_as_a_table() {
    let tables = Tables::new(Config::default());
    // SAFETY: wrong on purpose; the machine panics first.
    unsafe {
        tables
            .machine
            .ptes()
            .read(tables.frame(), PteIndex::truncate(0))
    };
}

#[test]
#[should_panic(expected = "was not told to forget it")]
fn a_table_that_a_cpu_may_walk_is_not_retired() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | ALL);
    tables.access(0, Access::Read, Mode::User).unwrap();
    tables.set(2, 0, 0);
    // SAFETY: wrong on purpose; the machine panics first.
    unsafe { tables.machine.ptes().retire_table(tables.path[3]) };
}

#[test]
fn a_table_is_retired_after_any_flush_of_its_root() {
    let tables = Tables::new(Config::default());
    tables.map(0, 0x7000 | ALL);
    tables.access(0, Access::Read, Mode::User).unwrap();
    tables.set(2, 0, 0);
    tables.flush(tables.user(), 0);
    assert_eq!(tables.machine.ptes().nr_tables(), 4);
    // SAFETY: unlinked and forgotten.
    unsafe { tables.machine.ptes().retire_table(tables.path[3]) };
    assert_eq!(tables.machine.ptes().nr_tables(), 3);
    assert!(!tables.machine.ptes().is_table(tables.path[3]));
}

#[test]
fn bytes_are_copied_across_pages_up_to_the_first_fault() {
    let tables = Tables::new(Config::default());
    let (low, high) = (tables.frame(), tables.frame());
    tables.map(0, high.phys().as_u64() | ALL);
    tables.map(1, low.phys().as_u64() | ALL);
    let (root, machine) = (tables.path[0], tables.machine);
    let text: Vec<u8> = (0..=255).collect();
    machine
        .write_user(CpuId::BOOT, root, VirtAddr::new(0xf80), &text)
        .unwrap();
    let mut back = vec![0; 256];
    machine
        .read_user(CpuId::BOOT, root, VirtAddr::new(0xf80), &mut back)
        .unwrap();
    assert_eq!(back, text);
    machine.read_phys(low.phys(), &mut back[..128]);
    assert_eq!(back[..128], text[128..]);
    let fault = machine.write_user(CpuId::BOOT, root, VirtAddr::new(0x1ffe), &[1, 2, 3]);
    let error_code = PageFault::WRITE | PageFault::USER;
    let fault_at = PageFault {
        va: VirtAddr::new(0x2000),
        error_code,
    };
    assert_eq!(fault, Err(Fault::Page(fault_at)));
    machine.read_phys(low.phys() + 0xffe, &mut back[..2]);
    assert_eq!(back[..2], [1, 2]);
}

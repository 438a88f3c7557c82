//! What comes into memory at the first touch, and what it counts.

mod common;

use common::{MINOR, PAGE, Process, RW, World, va};
use kmm_fault::{FaultCause, FaultKind, Usage};
use kmm_pagetable_walker::Levels;
use kmm_sim::{Access, Mode};

fn all_zero(process: &mut Process, page: u64) -> bool {
    (0..PAGE)
        .step_by(8)
        .all(|offset| process.read(va(page) + offset) == Ok(0))
}

#[test]
fn missing_tables_come_during_the_fault() {
    for (levels, wanted) in [(Levels::Four, 4), (Levels::Five, 5)] {
        let world = World::with_levels(levels);
        let mut process = world.process(0);
        process.map(100..104, RW);
        process.map(0x4000_0000..0x4000_0001, RW);
        assert_eq!(process.tables.nr_tables(), 1, "mmap makes no tables");
        assert_eq!(process.touch(100, Access::Read), Ok(MINOR.into()));
        assert_eq!(process.tables.nr_tables(), wanted);
        assert_eq!(process.touch(103, Access::Write), Ok(MINOR.into()));
        assert_eq!(
            process.tables.nr_tables(),
            wanted,
            "the tables are there already"
        );
        assert_eq!(process.touch(0x4000_0000, Access::Write), Ok(MINOR.into()));
        assert!(process.tables.nr_tables() > wanted);
        world.audit(&[&process], &[]);
        process.exit();
        world.audit(&[], &[]);
    }
}

#[test]
fn anonymous_memory_reads_back_zero() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..104, RW);
    // Frames are handed out full of rubbish here, unless zeros are asked for.
    assert!(all_zero(&mut process, 100), "read first");
    assert_eq!(process.write(va(101) + 5, 0), Ok(()));
    assert!(all_zero(&mut process, 101), "written first");
    assert_eq!(process.write(va(100) + 9, 7), Ok(()));
    assert_eq!(process.read(va(100) + 9), Ok(7));
    assert_eq!(process.write(va(100) + 9, 0), Ok(()));
    assert!(all_zero(&mut process, 100), "read, then written");
    world.audit(&[&process], &[]);
}

#[test]
fn reads_share_the_page_of_zeros_until_a_write() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..104, RW);
    for page in 100..104 {
        assert_eq!(process.touch(page, Access::Read), Ok(MINOR.into()));
        assert_eq!(process.frame(page), Some(world.zero_page));
    }
    let expected = Usage {
        min_flt: 4,
        ..Usage::default()
    };
    assert_eq!(
        process.usage, expected,
        "the page of zeros is nobody's memory"
    );
    assert_eq!(
        process.touch(101, Access::Read),
        Ok(vec![]),
        "no second fault"
    );
    assert_eq!(process.touch(101, Access::Write), Ok(MINOR.into()));
    let own = process.frame(101);
    assert!(own.is_some_and(|pfn| pfn != world.zero_page));
    assert_eq!(process.usage.anon_pages, 1);
    assert_eq!(process.touch(101, Access::Write), Ok(vec![]));
    assert_eq!(process.frame(101), own);
    assert_eq!(process.frame(102), Some(world.zero_page));
    world.audit(&[&process], &[]);
}

#[test]
fn the_kernel_faults_pages_in_for_a_program() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..104, RW);
    let write = process.access(va(100) + 3, Access::Write, Mode::Kernel);
    assert_eq!(write.map(|(_, faults)| faults), Ok(MINOR.into()));
    assert_eq!(process.read(va(100) + 3), Ok(0));
    let mut child = process.fork(1);
    let frame = child.frame(100);
    // Write protection holds for the kernel, too (CR0.WP).
    let write = child.access(va(100), Access::Write, Mode::Kernel);
    assert_eq!(write.map(|(_, faults)| faults), Ok(MINOR.into()));
    assert_ne!(child.frame(100), frame);
    world.audit(&[&process, &child], &[]);
}

/// Another CPU remembers less than the tables allow by now.
#[test]
fn a_spurious_fault_returns_and_is_not_counted() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..101, RW);
    assert_eq!(process.write(va(100), 1), Ok(()));
    let before = process.picture();
    let code = u64::from((FaultCause::USER | FaultCause::WRITE | FaultCause::PRESENT).bits());
    assert_eq!(process.fault(va(100), code), Ok(FaultKind::Spurious));
    assert_eq!(process.picture(), before);
}

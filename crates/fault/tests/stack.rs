//! Stacks that grow.

mod common;

use common::{ACCERR, MAPERR, PAGE, RW, World, va};
use kmm_fault::{FaultCause, FaultError, Usage};
use kmm_sim::Access;
use kmm_vma::{Limits, Mm, MmLayout};

#[test]
fn a_stack_grows_with_its_faults_up_to_its_limit() {
    let world = World::new();
    let limits = Limits {
        stack_bytes: 16 * PAGE,
        ..Limits::default()
    };
    let mut process = world.process_with(0, Mm::new(MmLayout::default(), limits));
    process.map_stack(1000..1002);
    assert_eq!(process.write(va(999) + 4000, 1), Ok(()));
    assert_eq!(
        process.write(va(990), 2),
        Ok(()),
        "it may grow by more than a page"
    );
    assert_eq!(process.mm.counts().stack_pages, 12);
    assert_eq!(process.usage.anon_pages, 2, "only what was touched");
    assert_eq!(process.read(va(985)), Err(MAPERR), "RLIMIT_STACK");
    assert_eq!(
        process.touch(988, Access::Execute),
        Err(ACCERR),
        "no code on the stack"
    );
    assert_eq!(
        process.mm.find(va(0)).map(|(area, _)| area.start),
        Some(va(988))
    );
    assert_eq!(process.write(va(986), 3), Ok(()));
    process.mm.set_limits(Limits::default());
    // The guard gap: 256 pages above what can be reached.
    process.map(600..601, RW);
    assert_eq!(process.write(va(856), 1), Err(MAPERR));
    assert_eq!(process.write(va(857), 1), Ok(()));
    assert_eq!(process.read(va(600)), Ok(0));
    world.audit(&[&process], &[]);
}

#[test]
fn a_stack_that_gets_no_page_has_grown_all_the_same() {
    let world = World::new();
    let mut process = world.process(0);
    process.map_stack(1000..1001);
    world.pages.fail_at(0);
    assert_eq!(process.write(va(995), 1), Err(FaultError::OutOfMemory));
    assert_eq!(process.mm.total_vm_pages(), 6);
    assert_eq!(process.usage, Usage::default());
    let corrupt = u64::from(FaultCause::RESERVED.bits());
    assert_eq!(process.fault(va(900), corrupt), Err(FaultError::Corrupt));
    assert_eq!(
        process.mm.total_vm_pages(),
        6,
        "a corrupt table grows no stack"
    );
    assert_eq!(process.write(va(995), 1), Ok(()));
}

//! A driver's resources, from the whole manager.
#![allow(missing_docs, reason = "names of tests say what they prove")]

use kmm::devres::{Device, DevresError};
use kmm::fault::NoFile;
use kmm::frame::{Gfp, Order};
use kmm::{AddressSpace, Objects, PageAlloc};
use kmm_sim::{Config, Machine, SimLock};
use kmm_tests::{Booted, boot};

type Card = Device<&'static Objects<Machine>, &'static PageAlloc<Machine>, SimLock>;

/// Pages for tables of objects and for buffers, and an end of its own.
fn probe(card: &Card) -> Result<(), DevresError> {
    card.kzalloc(100, Gfp::KERNEL)?;
    card.kmalloc_array(100, 48, Gfp::KERNEL)?;
    card.get_free_pages(Order::new(4).unwrap_or(Order::ZERO), Gfp::KERNEL)?;
    card.kmalloc(3 << 20, Gfp::KERNEL)?;
    card.on_release(|| {}, Gfp::KERNEL)?;
    // More than there is in one piece.
    card.kmalloc(5 << 20, Gfp::KERNEL).map(|_| ())
}

fn audit(booted: &Booted) {
    let no_spaces = core::iter::empty::<&AddressSpace<Machine, NoFile>>();
    let report = booted.manager.audit(no_spaces, |_| {});
    report.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_probe_that_fails_leaves_the_machine_as_it_was() {
    let booted = boot(Config::with_mib(64)).unwrap_or_else(|error| panic!("{error}"));
    let manager = booted.manager;
    let mut card = Card::new("card", manager.slub(), manager.page_alloc());
    let objects = || -> usize {
        manager
            .slub()
            .cache_infos()
            .map(|info| info.active_objs)
            .sum()
    };
    // The first one has this CPU's arrays made.
    assert_eq!(card.probe(Gfp::KERNEL, probe), Err(DevresError::TooLarge));
    let before = (objects(), manager.slub().nr_pages().large);
    for _ in 0..100 {
        assert_eq!(card.probe(Gfp::KERNEL, probe), Err(DevresError::TooLarge));
        assert_eq!((objects(), manager.slub().nr_pages().large), before);
    }
    let kept = card.probe(Gfp::KERNEL, |card| card.kmalloc(100, Gfp::KERNEL));
    assert!(kept.is_ok());
    assert_eq!(objects(), before.0 + 1);
    drop(card);
    assert_eq!(objects(), before.0);
    audit(&booted);
}

//! When pages run out, free objects are no longer kept.
#![allow(missing_docs, unsafe_code, reason = "a test, which is alone")]

use kmm::fault::NoFile;
use kmm::frame::Gfp;
use kmm::host::Sleep;
use kmm::{AddressSpace, Manager};
use kmm_sim::{Config, Machine};
use kmm_tests::boot;

/// Has objects of many sizes made and freed: their slabs stay, for whoever wants such objects next.
fn leave_free_objects(manager: &'static Manager<Machine>) -> usize {
    let slub = manager.slub();
    let sizes = [16, 64, 200, 512, 1024, 4096];
    let made: Vec<_> = (0..6000)
        .map(|nr| slub.kmalloc(sizes[nr % sizes.len()], Gfp::KERNEL).unwrap())
        .collect();
    for object in made {
        // SAFETY: made above, freed once.
        unsafe { slub.kfree(object) };
    }
    slub.nr_pages().total()
}

#[test]
fn pages_of_free_objects_are_to_be_had() {
    let booted = boot(Config::with_mib(64)).unwrap_or_else(|error| panic!("{error}"));
    let manager = booted.manager;
    let kept = leave_free_objects(manager);
    assert!(kept > 8, "{kept} pages are kept");
    let pages = manager.page_alloc();
    let next = || pages.alloc_page(&mut Sleep::grant(), Gfp::KERNEL).ok();
    let taken: Vec<_> = core::iter::from_fn(next).collect();
    let left = manager.slub().nr_pages().total();
    assert!(left < kept / 2, "{left} of {kept} pages are still kept");
    taken.into_iter().for_each(|block| pages.free_page(block));
    let no_spaces = core::iter::empty::<&AddressSpace<Machine, NoFile>>();
    let report = manager.audit(no_spaces, |_| {});
    report.unwrap_or_else(|error| panic!("{error}"));
}

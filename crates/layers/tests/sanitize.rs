//! A sanitizer hears of every page that comes and goes.
#![allow(missing_docs, reason = "tests")]

mod common;

use core::cell::RefCell;
use std::collections::BTreeSet;

use common::{Pool, forged, machine, req};
use kmm_frame::{Gfp, PAGE_SIZE, Pfn, VirtAddr};
use kmm_host::{Freed, ObjectSlot, PageSource, PhysMap, Sanitizer};
use kmm_layers::Sanitized;
use kmm_sim::seeded;

/// Remembers which pages are free.
#[derive(Default, Debug)]
struct Pages(RefCell<BTreeSet<u64>>);

impl Sanitizer for Pages {
    fn redzone_bytes(&self, _: usize) -> usize {
        0
    }

    fn pages_taken(&self, start: VirtAddr, size_bytes: usize) {
        assert_eq!(size_bytes, PAGE_SIZE);
        self.0.borrow_mut().remove(&start.as_u64());
    }

    fn pages_given(&self, start: VirtAddr, size_bytes: usize) -> bool {
        assert_eq!(size_bytes, PAGE_SIZE);
        self.0.borrow_mut().insert(start.as_u64())
    }

    fn vmalloc(&self, _: VirtAddr, _: usize) {}

    fn vfree(&self, _: VirtAddr, _: usize) {}

    fn slab_taken(&self, _: VirtAddr, _: usize) {}

    fn object_taken(&self, _: ObjectSlot, _: usize, _: &str) {}

    fn object_given(
        &self,
        _: VirtAddr,
        _: Option<ObjectSlot>,
        _: &mut dyn FnMut(ObjectSlot),
    ) -> Freed {
        Freed::Now
    }

    fn drain(&self, _: &mut dyn FnMut(ObjectSlot)) {}

    fn may_touch(&self, addr: VirtAddr) -> bool {
        let page = addr.align_down(PAGE_SIZE as u64).as_u64();
        !self.0.borrow().contains(&page)
    }
}

#[test]
fn pages_may_be_touched_exactly_while_somebody_has_them() {
    seeded(0x5a, |rng| {
        let machine = machine();
        let source = Pool::new(machine);
        let known = Pages::default();
        let pages = Sanitized::new(&source, *machine.phys(), &known);
        let mut live = Vec::new();
        let mut free = BTreeSet::<Pfn>::new();
        for _ in 0..2000 {
            if rng.one_in(2) {
                let order = rng.below(3).to_le_bytes()[0];
                if let Ok(block) = pages.alloc(req(order, Gfp::KERNEL)) {
                    block.range().iter().for_each(|pfn| {
                        free.remove(&pfn);
                    });
                    live.push(block);
                }
            } else if !live.is_empty() {
                let block: kmm_host::PageBlock = live.swap_remove(rng.index(live.len()));
                free.extend(block.range().iter());
                pages.free(block);
            }
        }
        let address =
            |pfn: Pfn| VirtAddr::new(machine.phys().direct(pfn).unwrap().addr().get() as u64);
        assert!(!free.is_empty() && !live.is_empty());
        assert!(free.iter().all(|&pfn| !known.may_touch(address(pfn))));
        for block in live {
            let mut held = block.range().iter();
            assert!(held.all(|pfn| known.may_touch(address(pfn) + 4095)));
            pages.free(block);
        }
        source.assert_nothing_outstanding();
    });
}

#[test]
fn a_page_that_is_free_already_does_not_go_on() {
    let machine = machine();
    let source = Pool::new(machine);
    let known = Pages::default();
    let pages = Sanitized::new(&source, *machine.phys(), &known);
    let block = pages.alloc(req(0, Gfp::KERNEL)).unwrap();
    let pfn = block.pfn();
    pages.free(block);
    // The source beneath would complain.
    pages.free(forged(pfn, 0));
    source.assert_nothing_outstanding();
}

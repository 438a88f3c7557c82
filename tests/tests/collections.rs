//! `Box` and `Vec` that can fail, in memory of the whole manager.
#![allow(missing_docs, reason = "names of tests say what they prove")]

use allocator_api2::alloc::{Allocator as _, Layout};
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use kmm::fault::NoFile;
use kmm::frame::Gfp;
use kmm::slub::GfpHeap;
use kmm::{AddressSpace, Objects};
use kmm_sim::{Config, Machine};
use kmm_tests::{Booted, boot};

fn booted() -> (Booted, GfpHeap<'static, Objects<Machine>>) {
    let booted = boot(Config::with_mib(64)).unwrap_or_else(|error| panic!("{error}"));
    let heap = GfpHeap::new(booted.manager.slub(), Gfp::KERNEL);
    (booted, heap)
}

fn assert_nothing_left(booted: &Booted) {
    let infos = booted.manager.slub().cache_infos();
    let left: std::vec::Vec<_> = infos
        .filter(|info| info.name.starts_with("kmalloc") && info.active_objs > 0)
        .collect();
    assert_eq!((left, booted.manager.slub().nr_pages().large), (vec![], 0));
    let no_spaces = core::iter::empty::<&AddressSpace<Machine, NoFile>>();
    let report = booted.manager.audit(no_spaces, |_| {});
    report.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_vector_grows_and_shrinks_with_its_contents() {
    let (booted, heap) = booted();
    let mut numbers: Vec<u64, _> = Vec::new_in(heap);
    for nr in 0..100_000 {
        assert!(numbers.try_reserve(1).is_ok());
        numbers.push(nr);
    }
    assert!(numbers.iter().zip(0..).all(|(number, nr)| *number == nr));
    numbers.truncate(100);
    numbers.shrink_to_fit();
    assert_eq!(numbers.capacity(), 100);
    assert!(numbers.iter().zip(0..).all(|(number, nr)| *number == nr));
    drop(numbers);
    assert_nothing_left(&booted);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (booted, heap) = booted();
    let mut bytes: Vec<u8, _> = Vec::new_in(heap);
    assert!(
        bytes.try_reserve(5 << 20).is_err(),
        "more than kmalloc serves"
    );
    assert!(bytes.try_reserve(usize::MAX / 2).is_err());
    assert!(bytes.try_reserve_exact(4 << 20).is_ok());
    let taken: std::vec::Vec<_> = core::iter::from_fn(|| {
        let mut more: Vec<u8, _> = Vec::new_in(heap);
        more.try_reserve_exact(4 << 20).ok().map(|()| more)
    })
    .collect();
    assert!(
        (1..16).contains(&taken.len()),
        "{} of 16 blocks",
        taken.len()
    );
    drop((bytes, taken));
    assert_nothing_left(&booted);
}

#[test]
fn a_box_is_had_or_not() {
    let (booted, heap) = booted();
    let made = Box::try_new_in([7_u8; 300], heap);
    assert_eq!(made.map(|made| made[299]).ok(), Some(7));
    let zeroed = Box::<[u32; 4096], _>::try_new_zeroed_in(heap);
    assert!(zeroed.is_ok());
    drop(zeroed);
    assert_nothing_left(&booted);
}

#[test]
fn growing_in_place_costs_no_copy_and_zeros_the_rest() {
    let (booted, heap) = booted();
    let [small, large] = [65, 80].map(|size| Layout::from_size_align(size, 8).unwrap());
    let first = heap.allocate(small).unwrap().cast::<u8>();
    // SAFETY: `first` has that layout, and `large` is not less.
    #[expect(unsafe_code, reason = "calls the allocator as collections do")]
    let grown = unsafe { heap.grow_zeroed(first, small, large) }.unwrap();
    assert_eq!(
        (grown.cast::<u8>(), grown.len()),
        (first, 80),
        "one class holds both"
    );
    #[expect(unsafe_code, reason = "calls the allocator as collections do")]
    // SAFETY: the block has 80 bytes.
    let tail = unsafe { first.add(65) }.cast::<[u8; 15]>();
    #[expect(unsafe_code, reason = "calls the allocator as collections do")]
    // SAFETY: zeroed by `grow_zeroed`, and nobody else has it.
    let tail = unsafe { tail.read() };
    assert_eq!(tail, [0; 15]);
    #[expect(unsafe_code, reason = "calls the allocator as collections do")]
    // SAFETY: from `grow_zeroed`, and not used again.
    unsafe {
        heap.deallocate(first, large);
    }
    assert_nothing_left(&booted);
}

//! INV-1, INV-4: each kind of resource by itself.
#![allow(missing_docs, unsafe_code, reason = "a test, which is alone")]

mod common;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use common::Rig;
use kmm_devres::{DevresError, Refused};
use kmm_frame::{Gfp, Order, Pfn};

fn bytes(ptr: NonNull<u8>, len: usize) -> Vec<u8> {
    // SAFETY: the tests ask for what they were given, and wrote or had zeroed.
    unsafe { core::slice::from_raw_parts(ptr.as_ptr(), len) }.to_vec()
}

#[test]
fn memory_is_aligned_apart_and_zero_if_asked() {
    let rig = Rig::new();
    let device = rig.device();
    let mut ends = Vec::new();
    for size in [0, 1, 8, 100, 4096, 100_000] {
        let ptr = device.kzalloc(size, Gfp::KERNEL).unwrap();
        assert_eq!(ptr.addr().get() % 16, 0);
        assert!(bytes(ptr, size).iter().all(|byte| *byte == 0));
        // SAFETY: room for so many.
        unsafe { ptr.write_bytes(0xff, size) };
        ends.push((ptr.addr().get(), ptr.addr().get() + size));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|two| two[0].1 <= two[1].0), "{ends:?}");
    let array = device.kcalloc(3, 7, Gfp::KERNEL).unwrap();
    assert_eq!(bytes(array, 21), [0; 21]);
    let copy = device.kmemdup(b"eth0", Gfp::KERNEL).unwrap();
    assert_eq!(bytes(copy, 4), b"eth0");
    drop(device);
    rig.assert_clean();
}

#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::new();
    let device = rig.device();
    let too_large = Err(DevresError::TooLarge);
    assert_eq!(device.kmalloc(usize::MAX, Gfp::KERNEL), too_large);
    assert_eq!(device.kmalloc(isize::MAX as usize, Gfp::KERNEL), too_large);
    assert_eq!(device.kmalloc(5 << 20, Gfp::KERNEL), too_large);
    assert_eq!(device.kmalloc_array(usize::MAX, 8, Gfp::KERNEL), too_large);
    assert_eq!(device.kcalloc(1 << 33, 1 << 33, Gfp::KERNEL), too_large);
    assert_eq!(device.nr_resources(), 0);
    rig.assert_clean();
}

#[test]
fn memory_is_given_back_early_once() {
    let rig = Rig::new();
    let device = rig.device();
    let ptrs: Vec<_> = (0..3)
        .map(|_| device.kmalloc(32, Gfp::KERNEL).unwrap())
        .collect();
    let kfree = |ptr| {
        // SAFETY: the tests use no memory.
        unsafe { device.kfree(ptr) }
    };
    assert_eq!(kfree(ptrs[1]), Ok(()));
    assert_eq!(kfree(ptrs[1]), Err(DevresError::NotManaged));
    assert_eq!(kfree(NonNull::dangling()), Err(DevresError::NotManaged));
    // SAFETY: within the object.
    let middle = unsafe { ptrs[0].add(8) };
    assert_eq!(kfree(middle), Err(DevresError::NotManaged));
    assert_eq!((device.nr_resources(), rig.heap.nr_live()), (2, 2));
    assert_eq!(kfree(ptrs[2]), Ok(()), "the top");
    assert_eq!(kfree(ptrs[0]), Ok(()), "the bottom");
    rig.assert_clean();
}

#[test]
fn a_value_is_not_memory_to_be_freed() {
    let rig = Rig::new();
    let device = rig.device();
    let value = device.add(7_u64, Gfp::KERNEL).unwrap();
    let ptr = NonNull::from(value).cast();
    // SAFETY: refused.
    assert_eq!(unsafe { device.kfree(ptr) }, Err(DevresError::NotManaged));
    assert_eq!(*value, 7);
}

#[test]
fn pages_come_and_go() {
    let rig = Rig::new();
    let device = rig.device();
    let order = Order::new(2).unwrap();
    let first = device.get_free_pages(order, Gfp::KERNEL).unwrap();
    let other = device
        .get_free_pages(Order::ZERO, Gfp::KERNEL | Gfp::ZERO)
        .unwrap();
    assert_eq!(first.index() % 4, 0);
    let free = |pfn: Pfn| {
        // SAFETY: the tests use no page.
        unsafe { device.free_pages(pfn) }
    };
    assert_eq!(free(first + 1), Err(DevresError::NotManaged));
    assert_eq!(free(first), Ok(()));
    assert_eq!(free(first), Err(DevresError::NotManaged));
    assert_eq!((device.nr_resources(), rig.pages.outstanding()), (1, 1));
    assert_ne!(first, other);
    drop(device);
    rig.assert_clean();
}

#[test]
fn without_pages_there_is_no_note() {
    let rig = Rig::new();
    let device = rig.device();
    let mut got = 0;
    while device.get_free_pages(Order::ZERO, Gfp::KERNEL).is_ok() {
        got += 1;
    }
    assert!(got > 0);
    assert_eq!((device.nr_resources(), rig.heap.nr_live()), (got, got));
    drop(device);
    rig.assert_clean();
}

#[test]
fn values_are_found_by_type_the_last_first() {
    let rig = Rig::new();
    let device = rig.device();
    assert_eq!(device.find::<u32>(), None);
    device.add(1_u32, Gfp::KERNEL).unwrap();
    device.add("text", Gfp::KERNEL).unwrap();
    device.add(2_u32, Gfp::KERNEL).unwrap();
    assert_eq!(device.find::<u32>(), Some(&2));
    assert_eq!(device.find::<&str>(), Some(&"text"));
    assert_eq!(device.find::<u8>(), None);
    #[derive(Debug)]
    #[repr(align(128))]
    struct Aligned(u8);
    let aligned = device.add(Aligned(3), Gfp::KERNEL).unwrap();
    assert_eq!(
        (core::ptr::from_ref(aligned).addr() % 128, aligned.0),
        (0, 3)
    );
}

#[test]
fn without_memory_a_value_comes_back_and_an_action_has_run() {
    let rig = Rig::new();
    let device = rig.device();
    rig.heap.left.set(Some(0));
    let refused = device.add(String::from("kept"), Gfp::KERNEL).unwrap_err();
    let Refused { error, value } = refused;
    assert_eq!((error, value.as_str()), (DevresError::OutOfMemory, "kept"));
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let action = move || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let noted = device.on_release(action, Gfp::KERNEL);
    assert_eq!(
        (noted, runs.load(Ordering::Relaxed)),
        (Err(DevresError::OutOfMemory), 1)
    );
    rig.heap.left.set(None);
    drop(device);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    rig.assert_clean();
}

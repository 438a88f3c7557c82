//! Random calls against a list of what the device should have.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "a test, which is alone, with small numbers"
)]

mod common;

use core::ptr::NonNull;

use common::Rig;
use kmm_devres::{DevresError, Group};
use kmm_frame::{Gfp, Order, Pfn};
use kmm_sim::{Rng, seeded};

/// What the oracle knows of one resource.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Has {
    Memory(NonNull<u8>, usize, u8),
    Pages(Pfn, usize),
    Value(u64),
    Group(Group),
}

fn check(has: &Has) {
    if let Has::Memory(ptr, len, byte) = *has {
        // SAFETY: the device has it still, and the test wrote it.
        let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), len) };
        assert!(bytes.iter().all(|seen| *seen == byte));
    }
}

#[test]
fn a_device_has_what_it_was_given() {
    seeded(0xdef5, run);
}

fn run(rng: &mut Rng) {
    let rig = Rig::new();
    let mut device = rig.device();
    let mut oracle: Vec<Has> = Vec::new();
    for step in 0..20_000_u64 {
        let fails = rng.below(8) == 0;
        rig.heap.left.set(fails.then_some(0));
        let byte = step.to_le_bytes()[0];
        match rng.below(8) {
            0..=1 => {
                let len = rng.below(300) as usize;
                let got = device.kmalloc(len, Gfp::KERNEL);
                assert_eq!(got.is_err(), fails);
                if let Ok(ptr) = got {
                    // SAFETY: room for so many.
                    unsafe { ptr.write_bytes(byte, len) };
                    oracle.push(Has::Memory(ptr, len, byte));
                }
            }
            2 => {
                let order = Order::new(rng.below(3) as u8).unwrap();
                if let Ok(pfn) = device.get_free_pages(order, Gfp::KERNEL) {
                    assert!(!fails);
                    oracle.push(Has::Pages(pfn, order.nr_pages()));
                }
            }
            3 => match device.add(step, Gfp::KERNEL) {
                Ok(value) => oracle.push(Has::Value(*value)),
                Err(refused) => assert_eq!((refused.value, fails), (step, true)),
            },
            4 => match device.open_group(Gfp::KERNEL) {
                Ok(group) => oracle.push(Has::Group(group)),
                Err(error) => assert_eq!((error, fails), (DevresError::OutOfMemory, true)),
            },
            5 if !oracle.is_empty() => {
                let nr = rng.below(oracle.len() as u64) as usize;
                let given_back = match oracle[nr] {
                    // SAFETY: the oracle forgets it.
                    Has::Memory(ptr, ..) => unsafe { device.kfree(ptr) },
                    // SAFETY: nobody uses the pages.
                    Has::Pages(pfn, _) => unsafe { device.free_pages(pfn) },
                    Has::Group(group) => device.remove_group(group),
                    Has::Value(_) => continue,
                };
                assert_eq!(given_back, Ok(()));
                oracle.remove(nr);
            }
            6 if rng.below(4) == 0 => {
                let groups = oracle.iter().enumerate().filter_map(|(nr, has)| match has {
                    Has::Group(group) => Some((nr, *group)),
                    _ => None,
                });
                let groups: Vec<_> = groups.collect();
                if let Some(&(nr, group)) = groups.get(groups.len() / 2) {
                    let released = oracle.split_off(nr);
                    let real = released.iter().filter(|has| !matches!(has, Has::Group(_)));
                    assert_eq!(device.release_group(group), Ok(real.count()));
                }
            }
            _ => {
                let last = oracle.iter().rev().find_map(|has| match has {
                    Has::Value(value) => Some(value),
                    _ => None,
                });
                assert_eq!(device.find::<u64>(), last);
            }
        }
        let is_one = |has: &&Has| !matches!(has, Has::Group(_));
        assert_eq!(device.nr_resources(), oracle.iter().filter(is_one).count());
        assert_eq!(rig.heap.nr_live(), oracle.len());
        if step % 64 == 0 {
            oracle.iter().for_each(check);
        }
        if oracle.len() > 200 {
            oracle.iter().for_each(check);
            device.release_all();
            oracle.clear();
            rig.assert_clean();
        }
    }
    drop(device);
    rig.assert_clean();
}

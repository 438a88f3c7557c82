//! INV-2: what came last goes first, when a device goes, a probe fails, a group ends.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unsafe_code,
    reason = "a test, of one thread"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Rig, TestDevice};
use kmm_devres::{DevresError, Group};
use kmm_frame::{Gfp, Order};

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Says its name as it goes.
struct Named(&'static str, Log);

impl Drop for Named {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(self.0);
    }
}

fn add(device: &TestDevice<'_>, name: &'static str, log: &Log) {
    let added = device.add(Named(name, log.clone()), Gfp::KERNEL);
    assert!(added.is_ok());
}

fn told(log: &Log) -> Vec<&'static str> {
    core::mem::take(&mut log.lock().unwrap())
}

#[test]
fn a_device_that_goes_gives_back_in_reverse_order() {
    let rig = Rig::new();
    let log = Log::default();
    let device = rig.device();
    add(&device, "first", &log);
    device.kmalloc(100, Gfp::KERNEL).unwrap();
    let said = log.clone();
    let action = move || said.lock().unwrap().push("action");
    device.on_release(action, Gfp::KERNEL).unwrap();
    device
        .get_free_pages(Order::new(3).unwrap(), Gfp::KERNEL)
        .unwrap();
    add(&device, "last", &log);
    assert_eq!(device.nr_resources(), 5);
    assert_eq!(told(&log), Vec::<&str>::new(), "nothing goes before");
    drop(device);
    assert_eq!(told(&log), ["last", "action", "first"]);
    rig.assert_clean();
}

/// Notes how much memory there is as it goes.
struct Counts(&'static Rig, Arc<Mutex<Vec<usize>>>);

// SAFETY: the test is one thread.
unsafe impl Send for Counts {}
// SAFETY: as above.
unsafe impl Sync for Counts {}

impl Drop for Counts {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(self.0.heap.nr_live());
    }
}

#[test]
fn memory_goes_in_its_turn() {
    let rig: &'static Rig = Box::leak(Box::new(Rig::new()));
    let counts = Arc::default();
    let device = rig.device();
    let look = || {
        assert!(
            device
                .add(Counts(rig, Arc::clone(&counts)), Gfp::KERNEL)
                .is_ok()
        )
    };
    look();
    device.kmalloc(1, Gfp::KERNEL).unwrap();
    device.kmalloc(2, Gfp::KERNEL).unwrap();
    look();
    drop(device);
    // As the upper one looks, all four notes are there; as the lower one does, its own.
    assert_eq!(*counts.lock().unwrap(), [4, 1]);
    rig.assert_clean();
}

#[test]
fn a_probe_that_fails_gives_back_what_it_took() {
    let rig = Rig::new();
    let log = Log::default();
    let mut device = rig.device();
    add(&device, "before", &log);
    let failed = device.probe(Gfp::KERNEL, |device| {
        add(device, "one", &log);
        device.kzalloc(64, Gfp::KERNEL)?;
        add(device, "two", &log);
        device.kmalloc_array(usize::MAX, 2, Gfp::KERNEL)
    });
    assert_eq!(failed.unwrap_err(), DevresError::TooLarge);
    assert_eq!(told(&log), ["two", "one"]);
    assert_eq!(device.nr_resources(), 1);
    drop(device);
    assert_eq!(told(&log), ["before"]);
    rig.assert_clean();
}

#[test]
fn a_probe_that_goes_well_keeps_what_it_took() {
    let rig = Rig::new();
    let log = Log::default();
    let mut device = rig.device();
    let probed = device.probe(Gfp::KERNEL, |device| {
        add(device, "kept", &log);
        device.kmalloc(64, Gfp::KERNEL)
    });
    assert!(probed.is_ok());
    assert_eq!((told(&log).len(), device.nr_resources()), (0, 2));
    assert_eq!(device.release_all(), 2);
    assert_eq!(told(&log), ["kept"]);
    rig.assert_clean();
}

#[test]
fn wherever_a_probe_runs_out_of_memory_nothing_is_left() {
    let rig = Rig::new();
    let mut failures = 0;
    for left in 0.. {
        let mut device = rig.device();
        rig.heap.left.set(Some(left));
        let probed = device.probe(Gfp::KERNEL, |device| {
            device.kmalloc(8, Gfp::KERNEL)?;
            device.get_free_pages(Order::ZERO, Gfp::KERNEL)?;
            device.on_release(|| {}, Gfp::KERNEL)?;
            device.kmemdup(b"name", Gfp::KERNEL)
        });
        rig.heap.left.set(None);
        if probed.is_ok() {
            break;
        }
        failures += 1;
        assert_eq!(device.nr_resources(), 0);
        rig.assert_clean();
    }
    assert_eq!(failures, 5, "the mark and four notes");
    rig.assert_clean();
}

#[test]
fn groups_nest() {
    let rig = Rig::new();
    let log = Log::default();
    let mut device = rig.device();
    let open = |device: &TestDevice<'_>| device.open_group(Gfp::KERNEL).unwrap();
    let outer: Group = open(&device);
    add(&device, "a", &log);
    let inner = open(&device);
    add(&device, "b", &log);
    let forgotten = open(&device);
    add(&device, "c", &log);
    device.remove_group(forgotten).unwrap();
    assert_eq!(
        device.release_group(forgotten),
        Err(DevresError::NotManaged)
    );
    assert_eq!(told(&log), Vec::<&str>::new());
    assert_eq!(device.release_group(inner), Ok(2));
    assert_eq!(told(&log), ["c", "b"]);
    assert_eq!(device.release_group(inner), Err(DevresError::NotManaged));
    assert_eq!(device.release_group(outer), Ok(1));
    assert_eq!(told(&log), ["a"]);
    drop(device);
    rig.assert_clean();
}

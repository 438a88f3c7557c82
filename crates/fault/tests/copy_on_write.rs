//! What fork shares, who copies it, and who is left with it.
#![allow(unsafe_code, reason = "a reference that the test took is given back")]

mod common;

use core::cell::Cell;
use core::ops::Range;

use common::{File, MINOR, Process, RW, World, va};
use kmm_fault::{FaultCause, FaultKind, PteState, put_page, state_of};
use kmm_frame::VirtAddr;
use kmm_host::{CpuId, TlbControl, TlbTarget};
use kmm_sim::{Access, Mode};
use kmm_vma::Prot;

#[test]
fn the_last_owner_keeps_the_page() {
    let world = World::new();
    let mut parent = world.process(0);
    parent.map(100..102, RW);
    assert_eq!(parent.write(va(100), 1), Ok(()));
    assert_eq!(parent.write(va(101), 2), Ok(()));
    let frames = [parent.frame(100), parent.frame(101)];
    let mut child = parent.fork(1);
    assert_eq!([child.frame(100), child.frame(101)], frames, "shared");
    // The child copies one page, and the parent is the last owner of that.
    assert_eq!(child.write(va(100), 10), Ok(()));
    assert_ne!(child.frame(100), frames[0]);
    assert_eq!(parent.touch(100, Access::Write), Ok(MINOR.into()));
    assert_eq!(parent.frame(100), frames[0]);
    assert_eq!(parent.read(va(100)), Ok(1));
    // The child exits, and the parent is the last owner of the other.
    child.exit();
    assert_eq!(parent.touch(101, Access::Write), Ok(MINOR.into()));
    assert_eq!(parent.frame(101), frames[1]);
    assert_eq!(parent.touch(101, Access::Write), Ok(vec![]));
    world.audit(&[&parent], &[]);
}

#[test]
fn a_page_that_somebody_else_holds_is_copied() {
    let world = World::new();
    let file = File::new(world, 10, 2);
    let map = world.machine.mem_map();
    let mut process = world.process(0);
    process.map(100..101, RW);
    process.map_file(200..201, RW, file, false);
    assert_eq!(process.write(va(100), 1), Ok(()));
    process.protect(100..101, Prot::READ);
    process.protect(100..101, RW);
    // A device reads from the page: it holds a reference, and no entry.
    let held = process.frame(100).expect("mapped");
    map.page(held).get();
    assert_eq!(process.write(va(100), 2), Ok(()));
    assert_ne!(process.frame(100), Some(held));
    assert_eq!(
        world.byte(held.phys()),
        1,
        "the device still reads what was there"
    );
    // SAFETY: the device's reference.
    unsafe { put_page(&map, &world.pages, held) };
    // The page of a file is never taken over, even when the file has forgotten it.
    assert_eq!(process.read(va(200)), Ok(10));
    let cached = process.frame(200);
    file.close();
    assert_eq!(process.write(va(200), 3), Ok(()));
    assert_ne!(process.frame(200), cached);
    assert_eq!((process.usage.anon_pages, process.usage.file_pages), (2, 0));
    world.audit(&[&process], &[]);
}

/// nanvix issue 2512: a forks b, b forks c; b's pages, which b had not written, lost their mark.
#[test]
fn chained_forks_keep_their_writes_apart() {
    let world = World::new();
    let mut a = world.process(0);
    a.map(100..103, RW);
    for (page, byte) in (100..103).zip(1..) {
        assert_eq!(a.write(va(page), byte), Ok(()));
    }
    let mut b = a.fork(1);
    assert_eq!(b.write(va(101), 20), Ok(()));
    let mut c = b.fork(2);
    let mut d = c.fork(3);
    world.audit(&[&a, &b, &c, &d], &[]);
    // In an order in which each is now writer, now last owner.
    for (process, byte) in [(&mut b, 50), (&mut d, 70), (&mut a, 40), (&mut c, 60)] {
        for page in 100..103 {
            assert!(process.read(va(page)).is_ok());
            assert_eq!(process.write(va(page) + 1, byte), Ok(()));
        }
    }
    for (process, byte, old) in [
        (&mut a, 40, 2),
        (&mut b, 50, 20),
        (&mut c, 60, 20),
        (&mut d, 70, 20),
    ] {
        for page in 100..103 {
            assert_eq!(process.read(va(page) + 1), Ok(byte));
        }
        assert_eq!(process.read(va(101)), Ok(old));
        assert_eq!(process.read(va(102)), Ok(3));
    }
    let mut frames: Vec<_> = [&a, &b, &c, &d].iter().map(|p| p.frame(100)).collect();
    frames.sort_unstable();
    frames.dedup();
    assert_eq!(frames.len(), 4, "each has its own page by now");
    world.audit(&[&a, &b, &c, &d], &[]);
    for process in [a, b, c, d] {
        process.exit();
    }
    world.audit(&[], &[]);
}

#[test]
fn fork_shares_what_is_shared() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let mut parent = world.process(0);
    parent.map_file(200..204, RW, file, true);
    assert_eq!(parent.write(va(200), 1), Ok(()));
    let mut child = parent.fork(1);
    assert_eq!(
        child.touch(200, Access::Write),
        Ok(vec![]),
        "no fault: it is not copied"
    );
    assert_eq!(child.write(va(200), 2), Ok(()));
    assert_eq!(parent.read(va(200)), Ok(2));
    assert_eq!(
        child.write(va(203), 3),
        Ok(()),
        "also what nobody had touched"
    );
    assert_eq!(parent.read(va(203)), Ok(3));
    world.audit(&[&parent, &child], &[file]);
}

/// Rights that come back must not let a page be written that is shared by now.
#[test]
fn what_was_out_of_reach_during_a_fork_is_copied_afterwards() {
    let world = World::new();
    let mut parent = world.process(0);
    parent.map(100..102, RW);
    assert_eq!(parent.write(va(100), 1), Ok(()));
    assert_eq!(parent.read(va(101)), Ok(0));
    parent.protect(100..102, Prot::empty());
    let mut child = parent.fork(1);
    world.audit(&[&parent, &child], &[]);
    for process in [&mut parent, &mut child] {
        process.protect(100..102, RW);
        let pte = |p: &Process| {
            let mut state = PteState::None;
            p.for_each(|page, pte| {
                if page == 100 {
                    state = state_of(pte);
                }
            });
            state
        };
        let kept = PteState::Present {
            reachable: false,
            writable: false,
            executable: false,
        };
        assert_eq!(pte(process), kept);
    }
    assert_eq!(child.write(va(100), 2), Ok(()));
    assert_eq!(child.write(va(101), 3), Ok(()));
    assert_eq!(parent.read(va(100)), Ok(1));
    assert_eq!(parent.read(va(101)), Ok(0));
    assert_eq!(parent.write(va(100), 4), Ok(()));
    assert_eq!(child.read(va(100)), Ok(2));
    world.audit(&[&parent, &child], &[]);
}

#[test]
fn a_second_thread_sees_the_copy_and_never_the_old_page() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..101, RW);
    assert_eq!(process.write(va(100), 1), Ok(()));
    let child = process.fork(3);
    let root = process.root_pfn();
    let on_cpu_1 = |access| {
        world
            .machine
            .access(CpuId::new(1), root, va(100), access, Mode::User)
    };
    let shared = on_cpu_1(Access::Read).expect("mapped");
    assert_eq!(process.write(va(100), 2), Ok(()), "copied, on CPU 0");
    // The machine panics when CPU 1 uses what it remembers of the old page.
    let copy = on_cpu_1(Access::Read).expect("mapped");
    assert_ne!(copy, shared);
    assert_eq!(world.byte(copy), 2);
    assert!(on_cpu_1(Access::Write).is_ok());
    drop(child);
    world.audit(&[&process], &[]);
}

/// Flushes, and looks whether the page that is flushed is still mapped.
struct Watch {
    world: &'static World,
    still_mapped: Cell<u32>,
    gone: Cell<u32>,
}

impl TlbControl for Watch {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        let TlbTarget::User { root } = target else {
            panic!("the kernel's translations are none of this");
        };
        let counter = match self.world.machine.translation(root, range.start) {
            Some(_) => &self.still_mapped,
            None => &self.gone,
        };
        counter.set(counter.get() + 1);
        self.world.machine.tlb().flush_range(target, range);
    }

    fn flush_all(&self, target: TlbTarget) {
        self.world.machine.tlb().flush_all(target);
    }
}

/// INV-5: no CPU may write the new page while another still reads the old one.
#[test]
fn the_old_page_is_gone_everywhere_before_the_new_one_comes() {
    let world = World::new();
    let mut process = world.process(0);
    process.map(100..102, RW);
    assert_eq!(process.write(va(100), 1), Ok(()));
    assert_eq!(process.read(va(101)), Ok(0));
    let child = process.fork(1);
    let watch = Watch {
        world,
        still_mapped: Cell::new(0),
        gone: Cell::new(0),
    };
    let write = FaultCause::USER | FaultCause::WRITE | FaultCause::PRESENT;
    for page in [100, 101] {
        let served = process.fault_with(&watch, va(page), u64::from(write.bits()));
        assert_eq!(served, Ok(FaultKind::Minor));
    }
    assert_eq!((watch.gone.get(), watch.still_mapped.get()), (2, 0));
    world.audit(&[&process, &child], &[]);
}

//! Two CPUs at once.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use std::sync::mpsc;
use std::thread;

use common::{SimSlub, bugs, fast_config, fill, holds, kfree, smp_rig};
use kmm_frame::Gfp;
use kmm_host::CpuId;
use kmm_sim::{Rng, seeded};

struct Sent {
    ptr: NonNull<u8>,
    size: usize,
    id: u64,
}

// SAFETY: memory belongs to who has the message.
unsafe impl Send for Sent {}

/// Allocates, keeps some, frees some, and sends a third of it to the other thread to be freed there.
fn hammer(slub: &SimSlub, mut rng: Rng, to: &mpsc::Sender<Sent>, from: &mpsc::Receiver<Sent>) {
    let mut kept: Vec<Sent> = Vec::new();
    let check_and_free = |sent: Sent| {
        assert!(holds(sent.ptr, sent.size, sent.id));
        kfree(slub, sent.ptr);
    };
    for _ in 0..30_000 {
        let size = match rng.below(50) {
            0 => rng.range(8193..40_000) as usize,
            _ => rng.range(1..600) as usize,
        };
        let id = rng.next_u64();
        let ptr = slub.kmalloc(size, Gfp::KERNEL).unwrap();
        fill(ptr, size, id);
        let sent = Sent { ptr, size, id };
        match rng.below(3) {
            0 => to.send(sent).unwrap(),
            _ => kept.push(sent),
        }
        from.try_iter().for_each(check_and_free);
        while kept.len() > 100 {
            let at = rng.index(kept.len());
            check_and_free(kept.swap_remove(at));
        }
        if rng.one_in(2000) {
            slub.shrink_all();
        }
    }
    kept.into_iter().for_each(check_and_free);
    assert_eq!(bugs(), []);
}

#[test]
fn two_threads_allocate_and_free_each_others_objects() {
    seeded(0x2c9a, |rng| {
        let rig = smp_rig(2, fast_config());
        let cpus = rig.machine.cpus();
        let (to_b, from_a) = mpsc::channel();
        let (to_a, from_b) = mpsc::channel();
        let (seed_a, seed_b) = (rng.next_u64(), rng.next_u64());
        let slub = rig.slub;
        let on_cpu = |nr, work: Box<dyn FnOnce() + Send>| {
            thread::spawn(move || cpus.run_on(CpuId::new(nr), work))
        };
        let a = move || {
            hammer(slub, Rng::new(seed_a), &to_b, &from_b);
            drop(to_b);
            from_b.iter().for_each(|sent: Sent| kfree(slub, sent.ptr));
        };
        let b = move || {
            hammer(slub, Rng::new(seed_b), &to_a, &from_a);
            drop(to_a);
            from_a.iter().for_each(|sent: Sent| kfree(slub, sent.ptr));
        };
        let (a, b) = (on_cpu(0, Box::new(a)), on_cpu(1, Box::new(b)));
        a.join().unwrap();
        b.join().unwrap();
        rig.assert_clean();
    });
}

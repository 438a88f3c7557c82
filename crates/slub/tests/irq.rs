//! Interrupts that allocate and free: they come whenever a lock is about to be taken, in the middle of slow steps.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use common::{bugs, fast_config, fill, holds};
use kmm_frame::Gfp;
use kmm_sim::{Config, FreeListSource, Machine, Rng, SimCpus, SimLock, SimPhys, seeded};
use kmm_slub::{CacheSlot, CpuSlot, NR_KMALLOC_CACHES, Slub, SlubStorage};
use lock_api::{GuardNoSend, RawMutex};

/// Before it is taken, an interrupt may come; not while one is held, for it keeps them off.
struct IrqLock(SimLock);

// SAFETY: as the lock within.
unsafe impl RawMutex for IrqLock {
    const INIT: Self = Self(SimLock::INIT);
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        if NR_HELD.get() == 0 {
            interrupt();
        }
        self.0.lock();
        NR_HELD.set(NR_HELD.get() + 1);
    }

    fn try_lock(&self) -> bool {
        let is_ours = self.0.try_lock();
        NR_HELD.set(NR_HELD.get() + usize::from(is_ours));
        is_ours
    }

    unsafe fn unlock(&self) {
        NR_HELD.set(NR_HELD.get() - 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock() };
    }
}

type IrqSlub = Slub<&'static FreeListSource, SimPhys, IrqLock, SimCpus>;

struct Irqs {
    slub: &'static IrqSlub,
    rng: Rng,
    live: Vec<(NonNull<u8>, usize, u64)>,
    nr: u64,
}

thread_local! {
    static IRQS: RefCell<Option<Irqs>> = const { RefCell::new(None) };
    static IS_IN_IRQ: Cell<bool> = const { Cell::new(false) };
    static NR_HELD: Cell<usize> = const { Cell::new(0) };
}

/// One of four times, and never within another.
fn interrupt() {
    if IS_IN_IRQ.get() {
        return;
    }
    IS_IN_IRQ.set(true);
    IRQS.with_borrow_mut(|irqs| {
        if let Some(irqs) = irqs
            .as_mut()
            .filter(|irqs| !irqs.live.is_empty() || irqs.nr == 0)
        {
            if irqs.rng.one_in(4) {
                irqs.handle();
            }
        }
    });
    IS_IN_IRQ.set(false);
}

impl Irqs {
    fn handle(&mut self) {
        for _ in 0..self.rng.range(1..6) {
            self.nr += 1;
            if self.rng.below(400) as usize > self.live.len() {
                let size = 1 + self.rng.below(200) as usize;
                let ptr = self.slub.kmalloc(size, Gfp::ATOMIC).unwrap();
                fill(ptr, size, self.nr);
                self.live.push((ptr, size, self.nr));
            } else {
                self.free();
            }
        }
    }

    fn free(&mut self) {
        let at = self.rng.index(self.live.len());
        let (ptr, size, id) = self.live.swap_remove(at);
        assert!(holds(ptr, size, id), "the interrupt's object has changed");
        // SAFETY: live, and out of the list.
        unsafe { self.slub.kfree(ptr) };
    }
}

#[test]
fn interrupts_in_the_middle_get_objects_of_their_own() {
    seeded(0x149, |rng| {
        let machine = Machine::new(Config::with_mib(64));
        let source: &'static _ = Box::leak(Box::new(FreeListSource::new(machine)));
        let caches: Vec<_> = (0..NR_KMALLOC_CACHES).map(|_| CacheSlot::new()).collect();
        let storage = SlubStorage {
            caches: caches.leak(),
            cpus: Box::leak(Box::new([CpuSlot::new()])),
        };
        let (phys, map) = (*machine.phys(), machine.mem_map());
        let slub = Slub::new(source, phys, map, *machine.cpus(), storage, fast_config());
        let slub: &'static IrqSlub = Box::leak(Box::new(slub.unwrap()));
        let irqs = Irqs {
            slub,
            rng: Rng::new(rng.next_u64()),
            live: Vec::new(),
            nr: 0,
        };
        IRQS.set(Some(irqs));
        let mut live = Vec::new();
        for id in 0..60_000 {
            // Waves, so that arrays run full and empty.
            let is_rising = id / 700 % 2 == 0;
            if rng.below(10) < if is_rising { 8 } else { 2 } || live.is_empty() {
                let size = 1 + rng.below(200) as usize;
                let ptr = slub.kmalloc(size, Gfp::KERNEL).unwrap();
                fill(ptr, size, id);
                live.push((ptr, size, id));
            } else {
                let (ptr, size, id) = live.swap_remove(rng.index(live.len()));
                assert!(holds(ptr, size, id), "an object has changed");
                // SAFETY: live, and out of the list.
                unsafe { slub.kfree(ptr) };
            }
            if rng.one_in(5000) {
                slub.shrink_all();
            }
        }
        let mut irqs = IRQS.take().unwrap();
        assert!(irqs.nr > 1000, "{} operations in interrupts", irqs.nr);
        let infos = slub.cache_infos();
        let users = infos.filter(|info| !info.name.starts_with("kmem_cache"));
        let active: usize = users.map(|info| info.active_objs).sum();
        assert_eq!(active, live.len() + irqs.live.len());
        slub.validate().unwrap();
        while !irqs.live.is_empty() {
            irqs.free();
        }
        // SAFETY: live objects of this test.
        live.into_iter()
            .for_each(|(ptr, ..)| unsafe { slub.kfree(ptr) });
        // SAFETY: the test is alone.
        unsafe { slub.drain_all() };
        slub.validate().unwrap();
        source.assert_nothing_outstanding();
        assert_eq!(bugs(), []);
    });
}

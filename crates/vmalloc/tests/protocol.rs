//! What is done without the lock, and what two CPUs at once see.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

mod common;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::thread;

use common::{AnyVmalloc, RANGE, Rig, START, mapper, rig_with, vfree};
use kmm_frame::{Gfp, PAGE_SIZE, PfnRange, VirtAddr};
use kmm_host::{AllocError, CpuId, PageBlock, PageReq, PageSource, TlbControl, TlbTarget};
use kmm_pagetable_walker::Levels;
use kmm_sim::{Config, FreeListSource, Machine, Mode, Rng, SimTlb, seeded};
use kmm_vmalloc::{Vmalloc, VmallocConfig, VmallocError};

type Watched = AnyVmalloc<Reclaiming, Answering>;

static VM: OnceLock<&'static Watched> = OnceLock::new();
static NR_ASKED: AtomicUsize = AtomicUsize::new(0);
static NR_FLUSHED: AtomicUsize = AtomicUsize::new(0);
/// What is being freed, and what was allocated meanwhile.
static DYING: AtomicU64 = AtomicU64::new(0);
static MEANWHILE: AtomicU64 = AtomicU64::new(0);

/// Looks an area up, which takes the lock; `SimLock` panics when this thread has it.
fn take_the_lock() {
    if let Some(vm) = VM.get() {
        assert!(vm.find_vm_area(RANGE.end - 1).is_none());
    }
}

/// What other CPUs may do before they have answered.
fn meanwhile() {
    let (Some(vm), dying) = (VM.get(), VirtAddr::new(DYING.swap(0, Ordering::Relaxed))) else {
        return;
    };
    if dying != VirtAddr::ZERO {
        assert_eq!(vfree(vm, dying), Err(VmallocError::NoSuchArea));
        assert_eq!(vm.find_vm_area(dying), None);
        let addr = vm.vmalloc(PAGE_SIZE, Gfp::KERNEL).unwrap();
        MEANWHILE.store(addr.as_u64(), Ordering::Relaxed);
    }
}

/// A source whose reclaim wants vmalloc's lock.
struct Reclaiming(FreeListSource);

// SAFETY: blocks come from the inner source.
unsafe impl PageSource for Reclaiming {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        if req.gfp.may_block() {
            NR_ASKED.fetch_add(1, Ordering::Relaxed);
            take_the_lock();
        }
        self.0.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        take_the_lock();
        self.0.free(block);
    }
}

/// A flush that another CPU only answers when it does not wait for vmalloc's lock.
struct Answering(SimTlb);

impl TlbControl for Answering {
    fn flush_range(&self, target: TlbTarget, range: Range<VirtAddr>) {
        NR_FLUSHED.fetch_add(1, Ordering::Relaxed);
        take_the_lock();
        meanwhile();
        self.0.flush_range(target, range);
    }

    fn flush_all(&self, target: TlbTarget) {
        take_the_lock();
        self.0.flush_all(target);
    }
}

#[test]
fn no_lock_is_held_while_pages_are_asked_for_flushed_or_freed() {
    let machine = Machine::new(Config::with_mib(16));
    let source: &'static _ = Box::leak(Box::new(Reclaiming(FreeListSource::new(machine))));
    let mapper = mapper(machine, source, Levels::Four);
    let root = mapper.alloc_root().unwrap();
    let config = VmallocConfig {
        range: RANGE,
        is_ram: &|_: PfnRange| false,
    };
    let vm = Vmalloc::new(mapper, source, root, Answering(*machine.tlb()), config);
    let vm: &'static Watched = Box::leak(Box::new(vm));
    assert!(VM.set(vm).is_ok());
    let asked = NR_ASKED.load(Ordering::Relaxed);
    let addr = vm.vmalloc(1500 * PAGE_SIZE, Gfp::KERNEL).unwrap();
    assert_eq!(
        NR_ASKED.load(Ordering::Relaxed) - asked,
        1500,
        "tables do not wait"
    );
    DYING.store(addr.as_u64(), Ordering::Relaxed);
    vfree(vm, addr).unwrap();
    assert_eq!(NR_FLUSHED.load(Ordering::Relaxed), 1);
    let meanwhile = VirtAddr::new(MEANWHILE.load(Ordering::Relaxed));
    let past = addr + 1501 * PAGE_SIZE as u64;
    assert_eq!(
        meanwhile, past,
        "the addresses are taken until the flush is over"
    );
    assert_eq!(
        vm.vmalloc(PAGE_SIZE, Gfp::KERNEL),
        Ok(addr),
        "then they are not"
    );
    vfree(vm, addr).unwrap();
    vfree(vm, meanwhile).unwrap();
    vm.validate().unwrap();
}

/// Allocates, writes, checks and frees, on one CPU. The source panics when a frame is freed that a CPU remembers.
fn hammer(rig: &Rig, cpu: CpuId, mut rng: Rng) {
    let mut live: Vec<(VirtAddr, u64)> = Vec::new();
    let access = |va: VirtAddr, id: u64, write: bool| {
        let mut bytes = id.to_le_bytes();
        let done = if write {
            rig.machine.write(cpu, rig.root, va, Mode::Kernel, &bytes)
        } else {
            rig.machine
                .read(cpu, rig.root, va, Mode::Kernel, &mut bytes)
        };
        done.unwrap();
        assert_eq!(bytes, id.to_le_bytes(), "somebody else wrote to {va}");
    };
    for _ in 0..3000 {
        if live.len() > 20 || (!live.is_empty() && rng.one_in(3)) {
            let at = rng.index(live.len());
            let (va, id) = live.swap_remove(at);
            access(va, id, false);
            vfree(rig.vm, va).unwrap();
        } else {
            let pages = rng.range(1..50) as usize;
            let va = rig.vm.vmalloc(pages * PAGE_SIZE, Gfp::KERNEL).unwrap();
            let last = va + (pages as u64 - 1) * PAGE_SIZE as u64;
            let id = rng.next_u64();
            access(last, id, true);
            live.push((last, id));
            let at = live.len() - 1;
            access(va, id, true);
            live[at].0 = va;
        }
    }
    for (va, id) in live {
        access(va, id, false);
        vfree(rig.vm, va).unwrap();
    }
}

#[test]
fn two_cpus_never_share_an_area() {
    seeded(0x2c9a, |rng| {
        let config = Config::with_mib(32).cpus(2).without_stale_use_check();
        let rig = rig_with(config, Levels::Four);
        let seeds = [rng.next_u64(), rng.next_u64()];
        thread::scope(|scope| {
            for (cpu, seed) in (0..).zip(seeds) {
                let rig = &rig;
                scope.spawn(move || hammer(rig, CpuId::new(cpu), Rng::new(seed)));
            }
        });
        assert!(rig.vm.find_vm_area(START).is_none());
        rig.assert_at_rest();
    });
}

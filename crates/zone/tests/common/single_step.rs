//! Interrupts between any two instructions, by the trap flag: after each one the CPU raises SIGTRAP, whose handler is the
//! interrupt.
#![allow(
    unsafe_code,
    dead_code,
    reason = "sets the trap flag; each test uses its part"
)]

use core::cell::Cell;
use core::sync::atomic::{Ordering::SeqCst, compiler_fence};

const SIGTRAP: i32 = 5;

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
}

thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static STRIKE_AT: Cell<usize> = const { Cell::new(0) };
    static INTERRUPT: Cell<Option<&'static dyn Fn()>> = const { Cell::new(None) };
    static MASKS: Cell<usize> = const { Cell::new(0) };
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Instructions up to the interrupt, or all.
    pub(crate) nr_steps: usize,
    /// After which instruction the interrupt came; `None` if there were not so many.
    pub(crate) struck_at: Option<usize>,
}

/// The word of `ucontext_t` that has the flags (asm/ucontext.h, asm/sigcontext.h), and the trap flag in it.
const FLAGS: usize = 22;
const TRAP: u64 = 1 << 8;

extern "C" fn on_trap(_number: i32, _info: *const u64, context: *mut u64) {
    let step = STEPS.get();
    STEPS.set(step + 1);
    if step >= STRIKE_AT.get() && MASKS.get() == 0 {
        if let Some(interrupt) = INTERRUPT.take() {
            STRIKE_AT.set(step);
            interrupt();
            // Signals are slow, and no more are needed.
            let flags = context.wrapping_add(FLAGS);
            // SAFETY: the kernel has put the context there, and goes on with what it says then.
            unsafe { *flags &= !TRAP };
        }
    }
}

/// Runs `f` with one interrupt after its instruction number `strike_at`, or as soon afterwards as it is not masked.
///
/// The interrupt allocates no memory of the heap: `f` may be in the middle of that.
pub(crate) fn interrupted(f: impl FnOnce(), interrupt: &'static dyn Fn(), strike_at: usize) -> Run {
    // SAFETY: the handler touches thread-locals without destructors, and what the interrupt does.
    unsafe {
        signal(
            SIGTRAP,
            on_trap as extern "C" fn(i32, *const u64, *mut u64) as usize,
        )
    };
    STEPS.set(0);
    STRIKE_AT.set(strike_at);
    INTERRUPT.set(Some(interrupt));
    compiler_fence(SeqCst);
    // SAFETY: sets the trap flag, which changes nothing but that SIGTRAP comes, and that has a handler.
    unsafe { core::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    f();
    // SAFETY: clears it.
    unsafe { core::arch::asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq") };
    compiler_fence(SeqCst);
    let nr_steps = STEPS.get();
    assert!(nr_steps > 0, "SIGTRAP does not come");
    let struck = INTERRUPT.take().is_none();
    Run {
        nr_steps,
        struck_at: struck.then(|| STRIKE_AT.get()),
    }
}

/// Runs `f` again and again, with the interrupt after each `stride`-th of its instructions, then once without; `check` after each
/// gets whether it was struck. How many interrupts there were.
pub(crate) fn at_any_instruction(
    mut f: impl FnMut(),
    interrupt: &'static dyn Fn(),
    stride: usize,
    mut check: impl FnMut(Run),
) -> usize {
    let (mut strike_at, mut count) = (0, 0);
    loop {
        let run = interrupted(&mut f, interrupt, strike_at);
        check(run);
        let Some(struck_at) = run.struck_at else {
            return count;
        };
        count += 1;
        strike_at = struck_at + stride;
    }
}

/// A lock that keeps interrupts away while it is held, as one must that interrupts take too.
#[derive(Debug)]
pub(crate) struct MaskingLock(spin::Mutex<()>);

fn mask(masks: impl FnOnce(usize) -> usize) {
    MASKS.set(masks(MASKS.get()));
}

// SAFETY: every call goes to a lock.
unsafe impl lock_api::RawMutex for MaskingLock {
    const INIT: Self = Self(spin::Mutex::new(()));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        mask(|masks| masks + 1);
        lock_api::RawMutex::lock(&self.0);
    }

    fn try_lock(&self) -> bool {
        mask(|masks| masks + 1);
        let locked = lock_api::RawMutex::try_lock(&self.0);
        if !locked {
            mask(|masks| masks - 1);
        }
        locked
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        unsafe { lock_api::RawMutex::unlock(&self.0) };
        mask(|masks| masks - 1);
    }
}

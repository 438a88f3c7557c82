//! CPUs, played by threads.
#![expect(unsafe_code, reason = "mints pins")]

use core::cell::RefCell;
use core::fmt;

use kmm_host::{CpuId, CpuPin, Cpus};
use lock_api::RawMutex as _;

use crate::lock::SimLock;
use crate::machine::Inner;

thread_local! {
    /// The CPUs that this thread plays and pins, innermost last.
    static PLAYED: RefCell<Vec<Part>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Part {
    machine: usize,
    cpu: CpuId,
    is_pin: bool,
}

/// The machine's CPUs.
///
/// A thread plays the CPU that [`SimCpus::run_on`] says, or the boot CPU. A pin holds that CPU alone: another thread
/// that wants the same CPU waits, as two threads of one CPU do.
#[derive(Clone, Copy)]
pub struct SimCpus {
    machine: &'static Inner,
}

impl fmt::Debug for SimCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimCpus")
            .field("nr_cpus", &self.nr_cpus())
            .finish()
    }
}

impl SimCpus {
    pub(crate) const fn new(machine: &'static Inner) -> Self {
        Self { machine }
    }

    /// The CPU that this thread plays.
    #[must_use]
    pub fn current(&self) -> CpuId {
        let machine = self.id();
        let part =
            PLAYED.with_borrow(|parts| parts.iter().rfind(|part| part.machine == machine).copied());
        part.map_or(CpuId::BOOT, |part| part.cpu)
    }

    /// Plays `cpu` while `f` runs, whichever CPU this thread played before.
    ///
    /// # Panics
    /// When there is no such CPU.
    pub fn run_on<R>(&self, cpu: CpuId, f: impl FnOnce() -> R) -> R {
        assert!(
            cpu.index() < self.nr_cpus(),
            "there is no CPU {}",
            cpu.index()
        );
        let _part = self.play(cpu, false);
        f()
    }

    fn id(&self) -> usize {
        core::ptr::from_ref(self.machine).addr()
    }

    fn play(&self, cpu: CpuId, is_pin: bool) -> Playing {
        let part = Part {
            machine: self.id(),
            cpu,
            is_pin,
        };
        PLAYED.with_borrow_mut(|parts| parts.push(part));
        Playing
    }

    fn holds_pin(&self, cpu: CpuId) -> bool {
        let pin = Part {
            machine: self.id(),
            cpu,
            is_pin: true,
        };
        PLAYED.with_borrow(|parts| parts.contains(&pin))
    }
}

/// Takes the last part away, also when the closure panics.
struct Playing;

impl Drop for Playing {
    fn drop(&mut self) {
        PLAYED.with_borrow_mut(Vec::pop);
    }
}

/// A CPU that a thread holds for itself.
struct Held<'a>(&'a SimLock);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: whoever made this value locked it, in this thread.
        unsafe { self.0.unlock() };
    }
}

// SAFETY: while a pin lives, its CPU's lock is held by this thread, or by a caller further out in this thread.
unsafe impl Cpus for SimCpus {
    fn nr_cpus(&self) -> usize {
        self.machine.cpus.len()
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        let cpu = self.current();
        let _held = (!self.holds_pin(cpu)).then(|| {
            let lock = &self.machine.cpus[cpu.index()];
            lock.lock();
            Held(lock)
        });
        let _part = self.play(cpu, true);
        // SAFETY: this thread alone has the CPU, as said above.
        f(unsafe { CpuPin::new(cpu) })
    }
}

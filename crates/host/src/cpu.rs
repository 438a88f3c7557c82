//! CPUs, the proof that code stays on one, and data that each has for itself.
//!
//! A slot of [`PerCpu`] is reached through a pin and carries an in-use mark. Code that finds the mark set (an interrupt
//! that came in the middle of a fast path, or re-entry) gets [`InUse`] and takes its locked slow path instead. So the
//! fast path neither disables interrupts nor executes a locked instruction.
#![expect(
    unsafe_code,
    reason = "slots are shared between CPUs, each used by its own"
)]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use crate::Sleep;

/// A CPU, numbered from 0 without holes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct CpuId(u32);

impl CpuId {
    /// The CPU that booted.
    pub const BOOT: Self = Self(0);

    /// The CPU with this number.
    #[must_use]
    pub const fn new(cpu: u32) -> Self {
        Self(cpu)
    }

    /// The number as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The proof that this code stays on one CPU while it lives.
///
/// Neither `Send` nor `Copy` into another CPU's hands; minted by a manager from its own [`Cpus`].
#[derive(Clone, Copy, Debug)]
pub struct CpuPin<'a> {
    cpu: CpuId,
    life: PhantomData<(&'a (), *mut ())>,
}

impl CpuPin<'_> {
    /// Claims that this code stays on `cpu`.
    ///
    /// # Safety
    /// While the pin lives, this code runs on `cpu` and no code that runs elsewhere holds a pin of `cpu`.
    #[must_use]
    pub const unsafe fn new(cpu: CpuId) -> Self {
        Self {
            cpu,
            life: PhantomData,
        }
    }

    /// The CPU.
    #[must_use]
    pub const fn cpu(self) -> CpuId {
        self.cpu
    }
}

/// The CPUs of the machine. Linux: `nr_cpu_ids`, `smp_processor_id`, `get_cpu`.
///
/// # Safety
/// Implementors guarantee that CPUs are numbered below `nr_cpus`, which never changes; that `with_pin` runs its closure
/// wholly on the CPU that the pin names, without another thread of the same CPU in between that holds a pin too (interrupts
/// may come: they find the in-use mark). Where [`Cpus::HAS_LOCAL_WORDS`], `local_word` gives what `set_local_word` has last
/// stored for the CPU of the pin and that number, and the value belongs to one manager only.
pub unsafe trait Cpus {
    /// Whether each CPU has [`LOCAL_WORDS`] words for its manager near at hand. It keeps the way to its fast paths there.
    const HAS_LOCAL_WORDS: bool = false;

    /// How many CPUs there can be: ids are below it.
    fn nr_cpus(&self) -> usize;

    /// Runs `f` without leaving this CPU. Linux: `get_cpu` and `put_cpu`.
    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R;

    /// As [`Cpus::with_pin`], from code that may sleep: it cannot while `f` runs.
    fn with_pin_from<R>(&self, sleep: &mut Sleep, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        let _ = sleep;
        self.with_pin(f)
    }

    /// A word of this CPU; null before it was set. Linux: `this_cpu_read`.
    ///
    /// One instruction where the words are at a fixed place of GS or FS, and the number is known when it is compiled.
    #[inline(always)]
    fn local_word(&self, pin: CpuPin<'_>, nr: usize) -> *mut () {
        let _ = (pin, nr);
        ptr::null_mut()
    }

    /// Sets a word of any CPU, be it one that never runs. Linux: `per_cpu`.
    fn set_local_word(&self, cpu: CpuId, nr: usize, word: *mut ()) {
        let _ = (cpu, nr, word);
    }
}

/// How many words each CPU has for its manager: two for each kind of zone, some more, and from [`LOCAL_WORD_OBJECTS`] on the
/// object allocator's.
pub const LOCAL_WORDS: usize = 16;
/// The first word of the object allocator: the way to this CPU's stock of objects by cache.
pub const LOCAL_WORD_OBJECTS: usize = 14;

// SAFETY: every call goes to the CPUs behind the reference.
unsafe impl<C: Cpus + ?Sized> Cpus for &C {
    const HAS_LOCAL_WORDS: bool = C::HAS_LOCAL_WORDS;

    fn nr_cpus(&self) -> usize {
        (**self).nr_cpus()
    }

    #[inline(always)]
    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        (**self).with_pin(f)
    }

    #[inline(always)]
    fn with_pin_from<R>(&self, sleep: &mut Sleep, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        (**self).with_pin_from(sleep, f)
    }

    #[inline(always)]
    fn local_word(&self, pin: CpuPin<'_>, nr: usize) -> *mut () {
        (**self).local_word(pin, nr)
    }

    fn set_local_word(&self, cpu: CpuId, nr: usize, word: *mut ()) {
        (**self).set_local_word(cpu, nr, word);
    }
}

/// The slot of this CPU is being used by the code that was interrupted, or by a caller further out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse;

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("per-CPU slot is in use")
    }
}

impl core::error::Error for InUse {}

/// The in-use mark by itself, for the share of one CPU that is made of atomics: readers elsewhere may look at it any
/// time, and the mark keeps the code of its own CPU apart.
///
/// It is not a lock: it orders nothing between CPUs, and two CPUs could both get in. Whoever relies on it reaches each
/// mark through the [`CpuPin`] of one CPU only.
#[derive(Debug, Default)]
pub struct UseMark(AtomicBool);

impl UseMark {
    /// A mark that nobody holds.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Runs `f` under the mark. No locked instruction.
    ///
    /// # Errors
    /// [`InUse`] when the code that was interrupted, or a caller further out, holds the mark; `f` did not run.
    pub fn hold<R>(&self, f: impl FnOnce() -> R) -> Result<R, InUse> {
        if self.0.load(Ordering::Relaxed) {
            return Err(InUse);
        }
        self.0.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let mark = Mark(&self.0);
        let result = f();
        drop(mark);
        Ok(result)
    }
}

/// One CPU's share of a [`PerCpu`], alone on its pair of cache lines.
#[repr(align(128))]
pub struct Slot<T> {
    in_use: UseMark,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only under the in-use mark, by one CPU at a time.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// A slot that holds `value`.
    pub const fn new(value: T) -> Self {
        Self {
            in_use: UseMark::new(),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("in_use", &self.in_use)
            .finish_non_exhaustive()
    }
}

/// A value for each CPU. Linux: `DEFINE_PER_CPU`, `this_cpu_ptr`.
///
/// The slots are handed in, so that no allocator is needed.
#[derive(Debug)]
pub struct PerCpu<T: 'static> {
    slots: &'static [Slot<T>],
}

impl<T> PerCpu<T> {
    /// One slot for each CPU.
    #[must_use]
    pub const fn new(slots: &'static [Slot<T>]) -> Self {
        Self { slots }
    }

    /// How many CPUs have a slot.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no CPU has a slot.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Uses the slot of the pinned CPU. No locked instruction.
    ///
    /// # Errors
    /// [`InUse`] when the code that was interrupted, or a caller further out, is using it.
    ///
    /// # Panics
    /// When the CPU has no slot.
    pub fn with<R>(&self, pin: CpuPin<'_>, f: impl FnOnce(&mut T) -> R) -> Result<R, InUse> {
        let slot = &self.slots[pin.cpu().index()];
        // SAFETY: only this CPU's code reaches the slot (the pin), and of that only this call (the mark).
        slot.in_use.hold(|| f(unsafe { &mut *slot.value.get() }))
    }

    /// Every value, when there is only one user of them all.
    ///
    /// # Safety
    /// No CPU is within [`PerCpu::with`] of this value, nor enters it while `f` runs.
    pub unsafe fn for_each_quiescent(&self, mut f: impl FnMut(CpuId, &mut T)) {
        for (cpu, slot) in (0..).map(CpuId::new).zip(self.slots) {
            // SAFETY: nobody else uses any slot, by the caller.
            f(cpu, unsafe { &mut *slot.value.get() });
        }
    }
}

/// Takes the mark away also when the closure panics.
struct Mark<'a>(&'a AtomicBool);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(false, Ordering::Relaxed);
    }
}

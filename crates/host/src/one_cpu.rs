//! A machine with one CPU.
#![expect(unsafe_code, reason = "mints pins")]

use crate::{CpuId, CpuPin, Cpus};

/// The only CPU of a machine that runs kernel code.
///
/// # Examples
/// ```
/// use kmm_host::{Cpus, OneCpu};
///
/// // SAFETY: no other thread.
/// let cpus = unsafe { OneCpu::new() };
/// assert_eq!(cpus.with_pin(|pin| pin.cpu().index()), 0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct OneCpu(());

impl OneCpu {
    /// Claims that there is no other.
    ///
    /// # Safety
    /// 1. No other CPU runs code that reaches this value.
    /// 2. Of the threads on this one, none takes over from another in the middle of a call to [`Cpus::with_pin`]; interrupts
    ///    may, and return before the call goes on.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

// SAFETY: there is one CPU, and its threads do not mix: the obligations of `new`.
unsafe impl Cpus for OneCpu {
    fn nr_cpus(&self) -> usize {
        1
    }

    #[inline(always)]
    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: as above.
        f(unsafe { CpuPin::new(CpuId::BOOT) })
    }
}

//! Leave to sleep, as a type.

use core::marker::PhantomData;

/// The right of this code to sleep: lent to system calls and kernel threads, never to interrupts.
///
/// Whoever pins the CPU borrows it ([`crate::Cpus::with_pin_from`]), so sleeping under a pin does not compile:
///
/// ```compile_fail,E0501
/// use kmm_host::{Cpus, Sleep};
///
/// fn wait_for_memory(_: &mut Sleep) {}
///
/// fn handle<C: Cpus>(cpus: &C, sleep: &mut Sleep) {
///     cpus.with_pin_from(sleep, |_pin| wait_for_memory(sleep));
/// }
/// ```
///
/// Once the pin is gone, it does:
///
/// ```
/// use kmm_host::{Cpus, Sleep};
///
/// fn wait_for_memory(_: &mut Sleep) {}
///
/// fn handle<C: Cpus>(cpus: &C, sleep: &mut Sleep) {
///     cpus.with_pin_from(sleep, |_pin| ());
///     wait_for_memory(sleep);
/// }
/// ```
///
/// Nor can the right be given to another thread, or a pin be kept longer than its closure runs:
///
/// ```compile_fail,E0277
/// let sleep = kmm_host::Sleep::grant();
/// std::thread::spawn(move || drop(sleep));
/// ```
///
/// ```compile_fail
/// use kmm_host::{CpuPin, Cpus};
///
/// fn keep<C: Cpus>(cpus: &C) -> CpuPin<'static> {
///     cpus.with_pin(|pin| pin)
/// }
/// ```
#[derive(Debug)]
pub struct Sleep {
    not_send: PhantomData<*mut ()>,
}

impl Sleep {
    /// Grants the right. For the code that starts a thread or a system call.
    ///
    /// Granting it where sleeping is forbidden is a logic error: the machine may hang, memory stays safe.
    #[must_use]
    pub const fn grant() -> Self {
        Self {
            not_send: PhantomData,
        }
    }
}

//! Leave to sleep, as a type.

use core::marker::PhantomData;

/// The right of this code to sleep: lent to system calls and kernel threads, never to interrupts.
///
/// Whoever pins the CPU borrows it ([`crate::Cpus::pin`]), so sleeping under a pin does not compile.
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

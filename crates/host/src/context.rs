//! What kind of code runs, for the checks that types cannot make.

use core::fmt;

/// What kind of code runs on this CPU. Linux: `in_task`, `in_serving_softirq`, `in_hardirq`, include/linux/preempt.h.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Context {
    /// A system call or a kernel thread, with no spin lock held: it may sleep.
    #[default]
    Process,
    /// A system call or a kernel thread that holds a spin lock or a pin.
    Atomic,
    /// A softirq or a tasklet.
    SoftIrq,
    /// An interrupt handler.
    HardIrq,
    /// An interrupt that cannot be masked.
    Nmi,
}

impl Context {
    /// Whether code of this kind may sleep. Linux: `might_sleep`.
    #[must_use]
    pub const fn may_sleep(self) -> bool {
        matches!(self, Self::Process)
    }

    /// Whether it runs on behalf of no task. Linux: `in_interrupt`, with softirqs that are merely off left out.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self, Self::SoftIrq | Self::HardIrq | Self::Nmi)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Atomic => "atomic section",
            Self::SoftIrq => "softirq",
            Self::HardIrq => "interrupt",
            Self::Nmi => "NMI",
        })
    }
}

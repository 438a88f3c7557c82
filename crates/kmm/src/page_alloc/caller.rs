//! On whose behalf a request is made: whether it may wait, as a type.

use kmm_frame::{Gfp, NodeMask};
use kmm_host::{CpuPin, Sleep};

mod sealed {
    pub trait Sealed {}
    impl Sealed for kmm_host::Sleep {}
    impl Sealed for super::NoWait {}
    impl Sealed for kmm_host::CpuPin<'_> {}
}

/// Who asks for pages. [`Sleep`] lets a request wait, if its flags do; [`NoWait`] and [`CpuPin`] do not, whatever its flags
/// say. A pin borrows the right to sleep, so waiting under one does not compile:
///
/// ```compile_fail,E0501
/// use kmm::{PageAlloc, frame::Gfp, host::{Cpus, Host, Sleep}};
///
/// fn wait_under_a_pin<H: Host>(pages: &PageAlloc<H>, cpus: &H::Cpus, sleep: &mut Sleep) {
///     cpus.with_pin_from(sleep, |_pin| drop(pages.alloc_page(sleep, Gfp::KERNEL)));
/// }
/// ```
///
/// Asking without waiting does, and so does waiting once the pin is gone:
///
/// ```
/// use kmm::{NoWait, PageAlloc, frame::Gfp, host::{Cpus, Host, Sleep}};
///
/// fn ask<H: Host>(pages: &PageAlloc<H>, cpus: &H::Cpus, sleep: &mut Sleep) {
///     cpus.with_pin_from(sleep, |mut pin| drop(pages.alloc_page(&mut pin, Gfp::ATOMIC)));
///     drop(pages.alloc_page(&mut NoWait, Gfp::ATOMIC));
///     drop(pages.alloc_page(sleep, Gfp::KERNEL));
/// }
/// ```
pub trait Caller: sealed::Sealed {
    /// The right to wait, if there is one.
    fn sleep(&mut self) -> Option<&mut Sleep>;

    /// The flags of a request, less what this caller may not do.
    fn limit(&self, gfp: Gfp) -> Gfp;

    /// The nodes that it may take memory from.
    fn allowed(&self) -> NodeMask {
        NodeMask::ALL
    }
}

impl Caller for Sleep {
    #[inline]
    fn sleep(&mut self) -> Option<&mut Sleep> {
        Some(self)
    }

    #[inline]
    fn limit(&self, gfp: Gfp) -> Gfp {
        self.scope().limit(gfp)
    }

    #[inline]
    fn allowed(&self) -> NodeMask {
        Self::allowed(self)
    }
}

/// Code that must not wait: an interrupt, or one that holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoWait;

impl Caller for NoWait {
    #[inline]
    fn sleep(&mut self) -> Option<&mut Sleep> {
        None
    }

    #[inline]
    fn limit(&self, gfp: Gfp) -> Gfp {
        gfp.difference(Gfp::DIRECT_RECLAIM)
    }
}

impl Caller for CpuPin<'_> {
    #[inline]
    fn sleep(&mut self) -> Option<&mut Sleep> {
        None
    }

    #[inline]
    fn limit(&self, gfp: Gfp) -> Gfp {
        gfp.difference(Gfp::DIRECT_RECLAIM)
    }
}

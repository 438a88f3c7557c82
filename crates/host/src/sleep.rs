//! Leave to sleep, as a type, and what the task that has it said about itself.

use core::marker::PhantomData;

use bitflags::bitflags;
use kmm_frame::{Gfp, NodeMask};

bitflags! {
    /// What a task has said about every request that it makes for a while. Linux: `PF_MEMALLOC` and its like in
    /// `current->flags`, include/linux/sched/mm.h.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Scope: u8 {
        /// It frees memory: its requests may use every reserve, and none of them reclaims. Linux: `PF_MEMALLOC`.
        const MEMALLOC = 1 << 0;
        /// Its requests start no input or output. Linux: `PF_MEMALLOC_NOIO`.
        const NOIO = 1 << 1;
        /// Its requests call no file system. Linux: `PF_MEMALLOC_NOFS`.
        const NOFS = 1 << 2;
        /// What it gets will be pinned for long, so none of it comes from where pages have to be movable.
        /// Linux: `PF_MEMALLOC_PIN`.
        const PIN = 1 << 3;
    }
}

impl Scope {
    /// The flags of a request, less what the scope forbids. Linux: `current_gfp_context`.
    #[must_use]
    #[inline]
    pub const fn limit(self, gfp: Gfp) -> Gfp {
        let mut forbidden = Gfp::empty();
        if self.contains(Self::NOIO) {
            forbidden = forbidden.union(Gfp::IO).union(Gfp::FS);
        }
        if self.contains(Self::NOFS) {
            forbidden = forbidden.union(Gfp::FS);
        }
        if self.contains(Self::PIN) {
            forbidden = forbidden.union(Gfp::MOVABLE_PAGE);
        }
        gfp.difference(forbidden)
    }
}

/// The right of this code to sleep: lent to system calls and kernel threads, never to interrupts. With it goes what the
/// task said about itself: its [`Scope`], and the nodes that it may take memory from.
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
/// Nor can the right be given to another thread, or a pin be kept longer than its closure runs, or be sent elsewhere:
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
///
/// ```compile_fail,E0277
/// use kmm_host::Cpus;
///
/// fn elsewhere<C: Cpus>(cpus: &C) {
///     cpus.with_pin(|pin| std::thread::scope(|threads| { threads.spawn(move || pin.cpu()); }));
/// }
/// ```
///
/// A scope ends with its closure, and scopes add up:
///
/// ```
/// use kmm_host::{Scope, Sleep};
///
/// let mut sleep = Sleep::grant();
/// sleep.nofs(|sleep| {
///     sleep.memalloc(|sleep| assert_eq!(sleep.scope(), Scope::NOFS | Scope::MEMALLOC));
///     assert_eq!(sleep.scope(), Scope::NOFS);
/// });
/// assert_eq!(sleep.scope(), Scope::empty());
/// ```
#[derive(Debug)]
pub struct Sleep {
    scope: Scope,
    allowed: NodeMask,
    not_send: PhantomData<*mut ()>,
}

impl Sleep {
    /// Grants the right, with no scope and every node. For the code that starts a thread or a system call.
    ///
    /// Granting it where sleeping is forbidden is a logic error: the machine may hang, memory stays safe.
    #[must_use]
    pub const fn grant() -> Self {
        Self::grant_with(Scope::empty(), NodeMask::ALL)
    }

    /// Grants the right to a task that said something about itself before.
    #[must_use]
    pub const fn grant_with(scope: Scope, allowed: NodeMask) -> Self {
        Self {
            scope,
            allowed,
            not_send: PhantomData,
        }
    }

    /// What the task said about its requests.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// The nodes that the task may take memory from. Linux: `cpuset_current_mems_allowed`.
    #[must_use]
    pub const fn allowed(&self) -> NodeMask {
        self.allowed
    }

    /// No request of `f` starts input or output. Linux: `memalloc_noio_save`, `memalloc_noio_restore`.
    pub fn noio<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        self.with(Scope::NOIO, f)
    }

    /// No request of `f` calls a file system. Linux: `memalloc_nofs_save`, `memalloc_nofs_restore`.
    pub fn nofs<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        self.with(Scope::NOFS, f)
    }

    /// `f` frees memory: its requests may use every reserve, and none of them reclaims. Linux: `memalloc_noreclaim_save`,
    /// `memalloc_noreclaim_restore`.
    pub fn memalloc<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        self.with(Scope::MEMALLOC, f)
    }

    /// What `f` gets will be pinned for long. Linux: `memalloc_pin_save`, `memalloc_pin_restore`.
    pub fn pinning<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        self.with(Scope::PIN, f)
    }

    /// The requests of `f` are served from these nodes, of those that the task was allowed before. Linux: cpusets.
    pub fn within<R>(&mut self, nodes: NodeMask, f: impl FnOnce(&mut Self) -> R) -> R {
        f(&mut Self::grant_with(
            self.scope,
            self.allowed.intersect(nodes),
        ))
    }

    fn with<R>(&mut self, scope: Scope, f: impl FnOnce(&mut Self) -> R) -> R {
        f(&mut Self::grant_with(self.scope | scope, self.allowed))
    }
}

#![no_std]
#![doc = include_str!("../README.md")]

mod block;
mod boot;
mod context;
mod cpu;
mod drain;
mod error;
mod guard;
mod object;
mod one_cpu;
mod owner;
mod page_wait;
mod phys;
mod pte;
mod sanitizer;
mod shrinker;
mod slab_hook;
mod sleep;
mod source;
mod tlb;

use core::sync::atomic;

use lock_api::RawMutex;

pub use block::PageBlock;
pub use boot::MemblockSource;
pub use context::Context;
pub use cpu::{CpuId, CpuPin, Cpus, InUse, LOCAL_WORD_OBJECTS, LOCAL_WORDS, PerCpu, Slot, UseMark};
pub use drain::{DrainRequest, DrainTicket};
pub use error::AllocError;
pub use guard::GuardedPages;
pub use object::ObjectSource;
pub use one_cpu::OneCpu;
pub use owner::{Backtrace, Misuse, Owners};
pub use page_wait::{PageWaits, WaitQueue};
pub use phys::{DirectMap, PagePtr, PhysMap};
pub use pte::{MemPtes, PteIndex, PteStore};
pub use sanitizer::{Freed, ObjectSlot, Sanitizer};
pub use shrinker::{ShrinkControl, Shrinker};
pub use slab_hook::SlabHook;
pub use sleep::{Scope, Sleep};
pub use source::{PageReq, PageSource};
pub use tlb::{NoTlb, TlbControl, TlbTarget};

/// Everything that the whole manager asks of its surroundings, as one bundle, so that a type has one parameter.
///
/// A crate that needs one of these traits takes that one; only the facade takes the bundle.
pub trait Host: Sync + 'static {
    /// Reaches the bytes of frames.
    type Phys: PhysMap + Sync;
    /// Reaches entries of page tables.
    type Ptes: PteStore + Sync;
    /// Flushes translations.
    type Tlb: TlbControl + Sync;
    /// Says on which CPU this code runs.
    type Cpus: Cpus + Sync;
    /// The lock, safe against interrupts on this CPU.
    type Lock: RawMutex + Send + Sync + 'static;
    /// Keeps a record of who has which page; `()` for none, at no cost.
    type Owners: Owners + Sync;

    /// Reaches the bytes of frames.
    fn phys(&self) -> &Self::Phys;
    /// Reaches entries of page tables.
    fn ptes(&self) -> &Self::Ptes;
    /// Flushes translations.
    fn tlb(&self) -> &Self::Tlb;
    /// The CPUs.
    fn cpus(&self) -> &Self::Cpus;
    /// Who has which page.
    fn owners(&self) -> &Self::Owners;

    /// Who is told which memory may be touched, where that is not on the way of every request; nobody, unless the host says so.
    fn sanitizer(&self) -> &(dyn Sanitizer + Sync) {
        &()
    }

    /// What kind of code runs on this CPU: for checks, where types cannot tell.
    fn context(&self) -> Context {
        Context::Process
    }

    /// What the running task said about itself, for requests that come without a [`Sleep`], as through a [`PageSource`].
    fn scope(&self) -> Scope {
        Scope::empty()
    }

    /// From now on, [`Host::scope`] of the running task is `scope`; what it was. Who reclaims says so by this, and puts
    /// back what it was. A host that remembers nothing must not let its reclaim call allocators that reclaim.
    fn swap_scope(&self, scope: Scope) -> Scope {
        let _ = scope;
        Scope::empty()
    }
}

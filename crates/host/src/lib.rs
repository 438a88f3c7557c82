#![no_std]
#![doc = include_str!("../README.md")]

mod block;
mod boot;
mod cpu;
mod error;
mod phys;
mod pte;
mod sleep;
mod source;
mod tlb;

use lock_api::RawMutex;

pub use block::PageBlock;
pub use boot::MemblockSource;
pub use cpu::{CpuId, CpuPin, Cpus, InUse, PerCpu, Slot, UseMark};
pub use error::AllocError;
pub use phys::{DirectMap, PagePtr, PhysMap};
pub use pte::{MemPtes, PteIndex, PteStore};
pub use sleep::Sleep;
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

    /// Reaches the bytes of frames.
    fn phys(&self) -> &Self::Phys;
    /// Reaches entries of page tables.
    fn ptes(&self) -> &Self::Ptes;
    /// Flushes translations.
    fn tlb(&self) -> &Self::Tlb;
    /// The CPUs.
    fn cpus(&self) -> &Self::Cpus;
}

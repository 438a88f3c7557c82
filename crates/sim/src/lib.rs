#![doc = include_str!("../README.md")]

mod config;
mod cpus;
mod guard;
mod heap;
mod lock;
mod machine;
mod mmu;
mod phys;
mod ptes;
mod ram;
mod rng;
mod source;
mod tlb;
mod wait;
mod words;

pub use config::Config;
pub use cpus::SimCpus;
pub use guard::SimGuard;
pub use heap::FailingHeap;
pub use lock::SimLock;
pub use machine::Machine;
pub use mmu::{Access, Fault, Mode, PageFault, Translation};
pub use phys::SimPhys;
pub use ptes::SimPtes;
pub use rng::{Rng, seeded};
pub use source::{BumpSource, FreeListSource};
pub use tlb::SimTlb;
pub use wait::SimWaitQueue;
pub use words::{frames, order};

pub use kmm_layers::{FailNth, FailRandom};

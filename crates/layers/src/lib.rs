#![no_std]
#![doc = include_str!("../README.md")]

mod fail;
mod owner;
mod poison;
mod quarantine;
mod tracer;

pub use fail::{FailAttr, FailNth, FailRandom};
pub use owner::{BadFree, OwnerRecord, OwnerSlot, OwnerTable, PageOwner, Stack};
pub use poison::{Corruption, POISON, Poisoner};
pub use quarantine::Quarantine;
pub use tracer::{PageEvent, TraceRing, Tracer};

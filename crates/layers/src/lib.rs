#![no_std]
#![doc = include_str!("../README.md")]

mod layer;

mod fail;
mod owner;
mod poison;
mod quarantine;
mod sanitize;
mod tracer;

pub use fail::{Chance, Fail, FailAttr, FailNth, FailRandom, Nth, Plan};
pub use layer::{Freed, Layer, Watch};
pub use owner::{BadFree, OwnerRecord, OwnerSlot, OwnerTable, PageOwner, Recorder, Stack};
pub use poison::{Corruption, POISON, Poison, Poisoner};
pub use quarantine::Quarantine;
pub use sanitize::{Sanitize, Sanitized};
pub use tracer::{PageEvent, Trace, TraceRing, Tracer};

//! KFENCE: some objects, taken at random from all that are allocated, lie alone on a page between two that nobody may touch.
//!
//! So whoever reads or writes behind or before such an object, or after it was freed, raises a page fault at once, in a kernel that
//! runs at full speed. What the page fault handler asks is [`ObjectCaches::kfence_fault`](crate::ObjectCaches::kfence_fault). Linux:
//! mm/kfence, Documentation/dev-tools/kfence.rst.
//!
//! | page | is |
//! |---|---|
//! | 0, 2, 4 .. | never shown, but after a fault, until the object is freed |
//! | 1, 3, 5 .. | of one object each: shown while it is in use |
//!
//! Objects lie at the end of their page and at its start in turns. The rest of the page holds a pattern that depends on the address,
//! which is checked when the object is freed. Of pages whose objects were freed, that which waits longest is used again first.

mod pool;
mod slot;

pub(crate) use pool::{Fault, Wanted, Wrong};
pub use pool::{Kfence, Sampled};
pub use slot::KfenceSlot;

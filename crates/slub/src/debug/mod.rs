//! Finding out who wrote where he should not: red zones, poison, and who had an object.
//!
//! Each of it is chosen for a cache when it is created. Such a cache is [`CHECKED`](crate::CacheFlags::CHECKED): no CPU keeps a
//! stock of it, so all its objects pass `front/debugged.rs`, and those of other caches never do.
//!
//! | from the start of an object's stride | bytes |
//! |---|---|
//! | left red zone | 64, or the alignment if that is more |
//! | object | its size |
//! | right red zone | 72, and up to a multiple of 8 |
//! | word of the free list | 8 |
//! | who allocated it, who freed it | 304 |
//! | how much of it was asked for, and whether it is in use, waits or is free | 8 |
//! | padding | up to the alignment |
//!
//! Of memory by size the red zone begins where what was asked for ends (Linux: `orig_size`).
//!
//! The left red zone comes about by giving every slab a colour, so that nobody else needs to know of it.

mod config;
mod guarded;
mod kind;
mod mark;
mod object;
mod quarantine;
mod report;
mod track;

pub(crate) use config::flags_of;
pub use config::{Callers, DebugFlags};
pub use guarded::GuardedObject;
pub(crate) use kind::title;
pub(crate) use mark::{Holder, Mark};
pub(crate) use object::{
    Layout, Use, Violation, check, fill_fresh, fill_given, fill_taken, read_mark, restore,
    set_requested, write_mark, write_track,
};
pub(crate) use quarantine::Quarantine;
pub(crate) use report::Facts;
pub use report::{ObjectReport, WrongBytes};
pub use track::Track;

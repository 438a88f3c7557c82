#![no_std]
#![doc = include_str!("../README.md")]

mod cause;
mod decide;
mod error;
mod file;

pub use cause::{Access, FaultCause};
pub use decide::{Area, Decision, PteState, decide};
pub use error::{FaultError, FaultKind, SegvCode};
pub use file::{FileError, FilePage, FileSource, NoFile};

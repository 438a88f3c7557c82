#![no_std]
#![doc = include_str!("../README.md")]

mod cause;
mod decide;
mod entry;
mod error;
mod file;
mod handle;
mod refs;
mod share;
mod usage;

pub use cause::{Access, FaultCause};
pub use decide::{Area, Decision, PteState, decide};
pub use entry::{frame_of, read_only_flags, restrict, state_of};
pub use error::{FaultError, FaultKind, SegvCode};
pub use file::{FileError, FilePage, FileSource, NoFile};
pub use handle::{FaultEnv, Space, handle};
pub use refs::put_page;
pub use share::{Sharing, forget, share};
pub use usage::Usage;

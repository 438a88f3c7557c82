#![no_std]
#![doc = include_str!("../README.md")]

mod cause;
mod decide;
mod error;
mod file;
mod handle;
mod refs;
mod usage;

pub use cause::{Access, FaultCause};
pub use decide::{Area, Decision, PteState, decide};
pub use error::{FaultError, FaultKind, SegvCode};
pub use file::{FileError, FilePage, FileSource, NoFile};
pub use handle::{FaultEnv, Space, handle, read_only_flags};
pub use refs::put_page;
pub use usage::Usage;

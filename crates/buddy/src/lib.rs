#![no_std]
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod areas;
mod bits;
mod buddy;
mod check;
mod error;
mod pageblock;
mod summary;

pub use bits::FreeBits;
pub use buddy::{Buddy, FreeBlock};
pub use check::Broken;
pub use error::FreeError;
pub use pageblock::{Pageblock, Pageblocks};

#![no_std]
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod areas;
mod bits;
mod buddy;
mod check;
mod contig;
mod error;
mod pageblock;
mod request;
mod reserve;
mod state;
mod summary;
mod take;

pub use bits::FreeBits;
pub use buddy::{Buddy, FreeBlock};
pub use check::Broken;
pub use contig::Contig;
pub use error::{ContigError, FreeError};
pub use pageblock::{Pageblock, Pageblocks};
pub use request::Request;

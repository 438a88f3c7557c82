#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
mod arena;
mod error;

pub mod bitmap;
#[cfg(feature = "alloc")]
pub mod idr;
#[cfg(feature = "alloc")]
pub mod range_tree;
pub mod sync;

pub use bitmap::{Bitmap, SummaryBitmap};
pub use error::AllocError;
#[cfg(feature = "alloc")]
pub use idr::Idr;
#[cfg(feature = "alloc")]
pub use range_tree::RangeTree;

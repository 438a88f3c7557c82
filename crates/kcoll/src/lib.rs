#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod arena;
mod error;

pub mod bitmap;
pub mod idr;
pub mod range_tree;
pub mod sync;

pub use bitmap::{Bitmap, SummaryBitmap};
pub use error::AllocError;
pub use idr::Idr;
pub use range_tree::RangeTree;

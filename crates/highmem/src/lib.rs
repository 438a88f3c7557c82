#![no_std]
#![doc = include_str!("../README.md")]

mod fixmap;
mod kmap;
mod page;
mod pkmap;
mod window;

pub use fixmap::Fixmap;
pub use kmap::Kmap;
pub use page::{clear_highpage, copy_highpage};
pub use pkmap::{Pkmap, PkmapError, PkmapTable};
pub use window::{WindowDepth, WindowMap, Windows};

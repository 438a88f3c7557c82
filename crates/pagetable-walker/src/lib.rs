#![no_std]
#![doc = include_str!("../README.md")]

pub mod layout;

mod change;
mod copy;
mod counter;
mod error;
mod flags;
mod gather;
mod guard;
mod level;
mod map;
mod mapper;
mod pte;
mod read;
mod root;
mod roots;
mod slot;
mod split;
mod table;
mod visit;
mod walk;

pub use counter::TableCounter;
pub use error::MapError;
pub use flags::PteFlags;
pub use gather::MmuGather;
pub use guard::{FrameOwner, MapGuard};
pub use level::{Level, Levels};
pub use mapper::Mapper;
pub use pte::{Leaf, Pte};
pub use root::{KernelHalf, Root};
pub use slot::PteSlot;
pub use walk::{Span, Walk};

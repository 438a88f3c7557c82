#![no_std]
#![doc = include_str!("../README.md")]

mod device;
mod error;
mod group;
mod memory;
mod node;
mod value;

pub use device::Device;
pub use error::{DevresError, Refused};
pub use group::Group;

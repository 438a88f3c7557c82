//! What the cross-crate tests share: the whole manager on a simulated machine, and files in memory.

mod boot;
mod file;

pub use boot::{
    Booted, KERNEL_IMAGE, boot, boot_as, boot_with_hooks, boot_with_nodes, image_parts,
};
pub use file::MemFile;

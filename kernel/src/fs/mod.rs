//! Files: a tree in memory that starts as the initramfs, with devices, pipes, the terminal and /proc.
//!
//! Reading order: [`Inode`] (files without names), `content` (their pages), [`Place`] (names), [`OpenFile`], the rest.

mod content;
pub mod cpio;
mod device;
mod frame;
mod inode;
mod open_file;
mod path;
pub mod pipe;
mod proc;
mod stat;
mod tests;
pub mod tty;
mod unpack;

use alloc::sync::Arc;

use spin::Once;

use crate::boot::BootInfo;
use crate::syscall::Errno;

pub use content::Content;
pub use device::Device;
pub use frame::nr_frames;
pub use inode::{Inode, Node};
pub use open_file::{Object, OpenFile, Seek, flags, open, open_console};
pub use path::{LastLink, PATH_BYTES_MAX, Place, target};
pub use stat::{stat_bytes, stat_of};
pub use tests::TESTS;

static ROOT: Once<Arc<Inode>> = Once::new();
static BOOT: Once<&'static BootInfo> = Once::new();

/// Makes the tree out of the initramfs. What cannot be read of it is told and left out.
///
/// # Panics
/// When there is no memory for it.
pub fn init(boot: &'static BootInfo) {
    let archive = boot.initrd_bytes();
    let unpacked = unpack::unpack(archive).and_then(|unpacked| {
        unpack::add_standard_files(&unpacked.root)?;
        Ok(unpacked)
    });
    let unpacked = unpacked.unwrap_or_else(|error| panic!("no file system: {error}"));
    match unpacked.fault {
        Some((offset_bytes, fault)) => {
            println!(
                "fs: initramfs is corrupt at byte {offset_bytes} of {}: {fault}; {} files before it",
                archive.len(),
                unpacked.nr_files
            );
        }
        None => println!(
            "fs: initramfs has {} files in {} KiB",
            unpacked.nr_files,
            archive.len() >> 10
        ),
    }
    BOOT.call_once(|| boot);
    ROOT.call_once(|| unpacked.root);
}

/// The root directory.
fn root() -> Arc<Inode> {
    match ROOT.get() {
        Some(root) => Arc::clone(root),
        None => unreachable!("files are used after `init`"),
    }
}

/// The kernel's command line.
fn cmdline() -> &'static str {
    BOOT.get().map_or("", |boot| boot.cmdline())
}

/// An error of the tree as the unpacker tells it.
type Result<T> = core::result::Result<T, Errno>;

//! `struct stat`. Linux: arch/x86/include/uapi/asm/stat.h.

use super::inode::{Inode, Node, mode};
use super::open_file::{Object, OpenFile};

/// Bytes of the structure.
pub const STAT_BYTES: usize = 144;
const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
const DEVICE_ROOT: u64 = 1;
const DEVICE_PROC: u64 = 4;
const DEVICE_PIPE: u64 = 8;
const PIPE_PERMISSIONS: u32 = 0o600;

/// The structure of a file.
pub fn stat_bytes(inode: &Inode) -> [u8; STAT_BYTES] {
    let meta = *inode.meta.lock();
    let (device, rdev) = match &inode.node {
        Node::Device(device) => (DEVICE_ROOT, device.number()),
        Node::Proc(_) => (DEVICE_PROC, 0),
        _ => (DEVICE_ROOT, 0),
    };
    build(&Stat {
        device,
        inode: inode.number,
        nr_links: u64::from(meta.nr_links) + u64::from(inode.is_dir()),
        mode: inode.mode(),
        rdev,
        size_bytes: inode.size_bytes(),
        mtime_s: meta.mtime_s,
    })
}

/// The structure of an open file, pipes included.
pub fn stat_of(file: &OpenFile) -> [u8; STAT_BYTES] {
    match &file.object {
        Object::Inode(inode) => stat_bytes(inode),
        Object::PipeReader(_) | Object::PipeWriter(_) => build(&Stat {
            device: DEVICE_PIPE,
            inode: core::ptr::from_ref(file).addr() as u64,
            nr_links: 1,
            mode: mode::PIPE | PIPE_PERMISSIONS,
            rdev: 0,
            size_bytes: 0,
            mtime_s: 0,
        }),
    }
}

struct Stat {
    device: u64,
    inode: u64,
    nr_links: u64,
    mode: u32,
    rdev: u64,
    size_bytes: u64,
    mtime_s: u64,
}

fn build(stat: &Stat) -> [u8; STAT_BYTES] {
    let words = [
        stat.device,
        stat.inode,
        stat.nr_links,
        u64::from(stat.mode), // and the owner, 0
        0,                    // group, padding
        stat.rdev,
        stat.size_bytes,
        BLOCK_BYTES,
        stat.size_bytes.div_ceil(BLOCK_BYTES) * (BLOCK_BYTES / SECTOR_BYTES),
        stat.mtime_s,
        0,
        stat.mtime_s,
        0,
        stat.mtime_s,
        0,
    ];
    let mut bytes = [0; STAT_BYTES];
    for (to, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

//! From a cpio archive to a tree. Linux: init/initramfs.c.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use spin::Mutex;

use super::content::Content;
use super::cpio::{CpioError, Entries, Entry};
use super::device::Device;
use super::inode::{Inode, Node, mode};
use super::proc::ProcNode;
use super::{Result, path};
use crate::fallible;
use crate::syscall::Errno;

const DIR_PERMISSIONS: u32 = 0o755;
const DEVICE_PERMISSIONS: u32 = 0o666;

/// What became of an archive.
pub struct Unpacked {
    /// The tree.
    pub root: Arc<Inode>,
    /// Entries that are in it.
    pub nr_files: usize,
    /// Where and why reading it ended early.
    pub fault: Option<(usize, CpioError)>,
}

/// Makes a tree of `archive`, whose bytes stay the contents of its files.
///
/// An entry that is no file, or whose name leads outside, is left out.
///
/// # Errors
/// [`Errno::NOMEM`]. A corrupt archive is no error: what comes before is kept.
pub fn unpack(archive: &'static [u8]) -> Result<Unpacked> {
    let root = Inode::new_dir(DIR_PERMISSIONS, 0)?;
    let mut hard_links = BTreeMap::new();
    let mut entries = Entries::new(archive);
    let (mut nr_files, mut fault) = (0, None);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => match add(&root, &entry, &mut hard_links) {
                Ok(()) => nr_files += 1,
                Err(Errno::NOMEM) => return Err(Errno::NOMEM),
                Err(_) => {}
            },
            Err(error) => fault = Some((entries.offset_bytes(), error)),
        }
    }
    if archive.is_empty() {
        fault = None;
    }
    Ok(Unpacked {
        root,
        nr_files,
        fault,
    })
}

fn add(
    root: &Arc<Inode>,
    entry: &Entry<'static>,
    hard_links: &mut BTreeMap<u32, Arc<Inode>>,
) -> Result<()> {
    let mut names = entry
        .name
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let Some(last) = names.next_back() else {
        return Ok(());
    };
    let mut dir = Arc::clone(root);
    for name in names {
        dir = subdir(&dir, name)?;
    }
    if last == b".." {
        return Err(Errno::INVAL);
    }
    let mtime_s = u64::from(entry.mtime_s);
    let node = match entry.mode & mode::TYPE {
        mode::DIR => {
            let dir = subdir(&dir, last)?;
            dir.meta.lock().permissions = entry.mode & mode::PERMISSIONS;
            return Ok(());
        }
        mode::FILE => {
            let linked = hard_links.get(&entry.inode).filter(|_| entry.nr_links > 1);
            if let Some(inode) = linked {
                // The contents come with the last of the names.
                if let (Node::File(content), false) = (&inode.node, entry.contents.is_empty()) {
                    *content.lock() = Content::backed(entry.contents);
                }
                inode.meta.lock().nr_links += 1;
                return dir.link(last, Arc::clone(inode));
            }
            Node::File(Mutex::new(Content::backed(entry.contents)))
        }
        mode::LINK if entry.contents.len() < path::PATH_BYTES_MAX => {
            Node::Link(fallible::copied(entry.contents)?)
        }
        _ => return Err(Errno::INVAL),
    };
    let inode = Inode::new(node, entry.mode, mtime_s)?;
    dir.link(last, Arc::clone(&inode))?;
    if entry.nr_links > 1 {
        fallible::into_map(|| hard_links.insert(entry.inode, inode))?;
    }
    Ok(())
}

/// The directory of that name, made if there is none.
fn subdir(dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
    if name == b".." {
        return Err(Errno::INVAL);
    }
    match dir.lookup(name) {
        Ok(found) if found.is_dir() => Ok(found),
        Ok(_) => Err(Errno::NOTDIR),
        Err(Errno::NOENT) => {
            let made = Inode::new_dir(DIR_PERMISSIONS, 0)?;
            dir.link(name, Arc::clone(&made))?;
            Ok(made)
        }
        Err(error) => Err(error),
    }
}

/// Adds what every tree has: /dev with its devices, /proc, /tmp.
///
/// # Errors
/// [`Errno::NOMEM`].
pub fn add_standard_files(root: &Arc<Inode>) -> Result<()> {
    subdir(root, b"tmp")?;
    let dev = subdir(root, b"dev")?;
    for (name, device) in Device::ALL {
        // An archive may hold something of that name; the device comes in its place.
        dev.names()?.lock().remove(name);
        dev.link(
            name,
            Inode::new(Node::Device(device), DEVICE_PERMISSIONS, 0)?,
        )?;
    }
    root.names()?.lock().remove(b"proc".as_slice());
    root.link(b"proc", ProcNode::Root.inode()?)
}

//! Files of the in-memory tree, without their names.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::content::Content;
use super::device::Device;
use super::proc::ProcNode;
use crate::process::room;
use crate::syscall::Errno;

/// The type part of `st_mode`.
pub mod mode {
    /// Mask of the type.
    pub const TYPE: u32 = 0o17_0000;
    /// FIFO.
    pub const PIPE: u32 = 0o01_0000;
    /// Character device.
    pub const CHAR: u32 = 0o02_0000;
    /// Directory.
    pub const DIR: u32 = 0o04_0000;
    /// Regular file.
    pub const FILE: u32 = 0o10_0000;
    /// Symbolic link.
    pub const LINK: u32 = 0o12_0000;
    /// Mask of the permissions.
    pub const PERMISSIONS: u32 = 0o7777;
}

/// Longest name of a file. Linux: `NAME_MAX`.
const NAME_BYTES_MAX: usize = 255;
/// What an insertion into a directory's tree may allocate at once: a leaf and its new neighbours.
const BTREE_NODES_BYTES: usize = 2048;

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// What changes without changing the file.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Permissions, without the type.
    pub permissions: u32,
    /// When the contents were changed, in seconds since 1970.
    pub mtime_s: u64,
    /// How many names it has.
    pub nr_links: u32,
}

/// A file.
#[derive(Debug)]
pub struct Inode {
    /// Its number. Linux: `st_ino`.
    pub number: u64,
    /// Permissions and times.
    pub meta: Mutex<Meta>,
    /// What it is.
    pub node: Node,
}

/// The names in a directory.
pub type Names = BTreeMap<Vec<u8>, Arc<Inode>>;

/// What a file is.
#[derive(Debug)]
pub enum Node {
    /// A directory.
    Dir(Mutex<Names>),
    /// A regular file.
    File(Mutex<Content>),
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// A character device.
    Device(Device),
    /// A file of /proc.
    Proc(ProcNode),
}

impl Inode {
    /// A file with no name yet.
    pub fn new(node: Node, permissions: u32, mtime_s: u64) -> Result<Arc<Self>, Errno> {
        room(size_of::<Self>())?;
        let meta = Meta {
            permissions: permissions & mode::PERMISSIONS,
            mtime_s,
            nr_links: 1,
        };
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self {
            number,
            meta: Mutex::new(meta),
            node,
        }))
    }

    /// An empty directory.
    pub fn new_dir(permissions: u32, mtime_s: u64) -> Result<Arc<Self>, Errno> {
        Self::new(Node::Dir(Mutex::new(BTreeMap::new())), permissions, mtime_s)
    }

    /// Type and permissions. Linux: `st_mode`.
    pub fn mode(&self) -> u32 {
        let kind = match &self.node {
            Node::Dir(_) => mode::DIR,
            Node::File(_) => mode::FILE,
            Node::Link(_) => mode::LINK,
            Node::Device(_) => mode::CHAR,
            Node::Proc(node) => node.mode(),
        };
        kind | self.meta.lock().permissions
    }

    /// Is it a directory, one of /proc included?
    pub fn is_dir(&self) -> bool {
        self.mode() & mode::TYPE == mode::DIR
    }

    /// Its length. Linux: `st_size`.
    pub fn size_bytes(&self) -> u64 {
        match &self.node {
            Node::File(content) => content.lock().size_bytes(),
            Node::Link(to) => to.len() as u64,
            _ => 0,
        }
    }

    /// The file of that name in this directory. `.` and `..` are the caller's business.
    pub fn lookup(&self, name: &[u8]) -> Result<Arc<Inode>, Errno> {
        match &self.node {
            Node::Dir(names) => names.lock().get(name).cloned().ok_or(Errno::NOENT),
            Node::Proc(node) => node.lookup(name),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Names of a directory whose names may be changed.
    pub fn names(&self) -> Result<&Mutex<Names>, Errno> {
        match &self.node {
            Node::Dir(names) => Ok(names),
            Node::Proc(node) if node.mode() == mode::DIR => Err(Errno::PERM),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Gives `inode` a name in this directory.
    pub fn link(&self, name: &[u8], inode: Arc<Inode>) -> Result<(), Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut key = Vec::new();
        key.try_reserve_exact(name.len())?;
        key.extend_from_slice(name);
        room(BTREE_NODES_BYTES)?;
        let mut names = self.names()?.lock();
        if names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        names.insert(key, inode);
        Ok(())
    }
}

//! Files of the in-memory tree, without their names.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kmm::frame::PAGE_SIZE;
use spin::Mutex;

use super::content::Content;
use super::device::Device;
use super::proc::ProcNode;
use crate::fallible;
use crate::syscall::{Errno, realtime_s};
use crate::{mm, process};

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
pub const NAME_BYTES_MAX: usize = 255;

/// So many pages of memory allow one file. A file can take more than one page even if it is empty: the target of a symbolic link.
/// Linux: tmpfs allows one in two pages.
const PAGES_PER_INODE: u64 = 4;

static NR_INODES: AtomicU64 = AtomicU64::new(0);
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
    /// Of a directory: the one that it is in.
    pub(super) above: Mutex<Weak<Inode>>,
    /// Its share of what the tree may hold; /proc takes none.
    pub(super) _slot: Option<Slot>,
}

/// One file of those that may be there at a time.
#[derive(Debug)]
pub struct Slot;

impl Slot {
    fn take() -> Result<Self, Errno> {
        let (total_bytes, _) = mm::total_and_free_bytes();
        let most = total_bytes / PAGE_SIZE as u64 / PAGES_PER_INODE;
        if NR_INODES.load(Ordering::Relaxed) >= most {
            return Err(Errno::NOSPC);
        }
        NR_INODES.fetch_add(1, Ordering::Relaxed);
        Ok(Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        NR_INODES.fetch_sub(1, Ordering::Relaxed);
    }
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
        let meta = Meta {
            permissions: permissions & mode::PERMISSIONS,
            mtime_s,
            nr_links: 1,
        };
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        fallible::arc(Self {
            number,
            meta: Mutex::new(meta),
            node,
            above: Mutex::default(),
            _slot: Some(Slot::take()?),
        })
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

    /// Changes the length of a regular file. What lies behind the end goes from the programs that have mapped it, too. Linux:
    /// `truncate_setsize`.
    pub fn truncate(self: &Arc<Self>, size_bytes: u64) -> Result<(), Errno> {
        let Node::File(content) = &self.node else {
            return Err(Errno::INVAL);
        };
        let before = {
            let mut content = content.lock();
            let before = content.size_bytes();
            content.truncate(size_bytes)?;
            before
        };
        if size_bytes < before {
            process::unmap_file(self, size_bytes.div_ceil(PAGE_SIZE as u64));
        }
        self.meta.lock().mtime_s = realtime_s();
        Ok(())
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

    /// Is it a directory that has been removed, but is still in use?
    fn is_removed_dir(&self) -> bool {
        self.is_dir() && self.meta.lock().nr_links == 0
    }

    /// Is `self` in the directory `top`, however deep, or `top` itself?
    pub fn is_below(self: &Arc<Self>, top: &Arc<Self>) -> bool {
        let mut at = Some(Arc::clone(self));
        while let Some(dir) = at {
            if Arc::ptr_eq(&dir, top) {
                return true;
            }
            at = dir.above.lock().upgrade();
        }
        false
    }

    /// Puts `inode` under a name that is there in this directory; what had the name before.
    pub fn replace(self: &Arc<Self>, name: &[u8], inode: Arc<Self>) -> Result<Arc<Self>, Errno> {
        let mut names = self.names()?.lock();
        let place = names.get_mut(name).ok_or(Errno::NOENT)?;
        *inode.above.lock() = Arc::downgrade(self);
        Ok(core::mem::replace(place, inode))
    }

    /// It has one name less.
    pub fn unlinked(&self) {
        let mut meta = self.meta.lock();
        meta.nr_links = meta.nr_links.saturating_sub(1);
    }

    /// Gives `inode` a name in this directory.
    pub fn link(self: &Arc<Self>, name: &[u8], inode: Arc<Self>) -> Result<(), Errno> {
        // Else a tree could hang below it that nothing leads to.
        if self.is_removed_dir() {
            return Err(Errno::NOENT);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let key = fallible::copied(name)?;
        let mut names = self.names()?.lock();
        if names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let above = Arc::downgrade(self);
        let named = Arc::clone(&inode);
        fallible::into_map(|| names.insert(key, inode))?;
        *named.above.lock() = above;
        Ok(())
    }
}

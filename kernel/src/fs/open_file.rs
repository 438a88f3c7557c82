//! Files as they are open: with a position and flags, shared by all who inherited them. Linux: `struct file`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Mutex;

use super::inode::{Inode, NAME_BYTES_MAX, Node, mode};
use super::path::{LastLink, Place};
use super::pipe::{self, Readiness};
use super::{Content, Result, device::Device, tty};
use crate::fallible;
use crate::process;
use crate::syscall::{Errno, realtime_s};

/// Flags of `open`.
pub mod flags {
    /// Mask of the access mode.
    pub const ACCESS: u32 = 0o3;
    /// For writing only.
    pub const WRITE_ONLY: u32 = 0o1;
    /// For reading and writing.
    pub const READ_WRITE: u32 = 0o2;
    /// Make it if it is not there.
    pub const CREATE: u32 = 0o100;
    /// Fail if it is.
    pub const EXCLUSIVE: u32 = 0o200;
    /// Cut it to nothing.
    pub const TRUNCATE: u32 = 0o1000;
    /// Write at the end.
    pub const APPEND: u32 = 0o2000;
    /// Do not wait.
    pub const NONBLOCK: u32 = 0o4000;
    /// Fail if it is no directory.
    pub const DIRECTORY: u32 = 0o20_0000;
    /// Fail if it is a symbolic link.
    pub const NOFOLLOW: u32 = 0o40_0000;
    /// A new program does not get it.
    pub const CLOSE_ON_EXEC: u32 = 0o200_0000;
    /// The place only, not the contents.
    pub const PATH: u32 = 0o1000_0000;
    /// What `fcntl` may change later.
    pub const CHANGEABLE: u32 = APPEND | NONBLOCK;
}

/// Bytes of a directory entry besides its name. Linux: `struct linux_dirent64`.
const DIRENT_BYTES: usize = 19;

/// What is open.
#[derive(Debug)]
pub enum Object {
    /// A file of the tree.
    Inode(Arc<Inode>),
    /// The end of a pipe to read from.
    PipeReader(pipe::Reader),
    /// The end of a pipe to write to.
    PipeWriter(pipe::Writer),
}

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    /// What it is.
    pub object: Object,
    /// Where it was found; `None` for pipes.
    pub place: Option<Place>,
    flags: AtomicU32,
    cursor: Mutex<Cursor>,
}

/// Where reading goes on.
#[derive(Debug, Default)]
struct Cursor {
    position: u64,
    /// Of a file of /proc: what it said when it was read from the start.
    text: Vec<u8>,
    /// Of a directory: the name that was told last.
    last_name: Vec<u8>,
}

/// Where a position counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// The start.
    Set(i64),
    /// Where it is.
    Current(i64),
    /// The end.
    End(i64),
}

/// Opens `path` from the directory `cwd`; `permissions` are for a file that is made. Linux: `openat`.
pub fn open(cwd: &Place, path: &[u8], flags: u32, permissions: u32) -> Result<Arc<OpenFile>> {
    let last = if flags & (flags::NOFOLLOW | flags::EXCLUSIVE) != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    };
    let place = match cwd.resolve(path, last) {
        Err(Errno::NOENT) if flags & flags::CREATE != 0 && !path.ends_with(b"/") => {
            return create(cwd, path, flags, permissions);
        }
        Ok(_) if flags & (flags::CREATE | flags::EXCLUSIVE) == flags::CREATE | flags::EXCLUSIVE => {
            return Err(Errno::EXIST);
        }
        found => found?,
    };
    let inode = place.inode();
    let kind = inode.mode() & mode::TYPE;
    if kind == mode::LINK && flags & flags::PATH == 0 {
        return Err(Errno::LOOP);
    }
    if flags & flags::DIRECTORY != 0 && kind != mode::DIR {
        return Err(Errno::NOTDIR);
    }
    let for_writing = flags & flags::ACCESS != 0;
    if kind == mode::DIR && (for_writing || flags & flags::CREATE != 0) {
        return Err(Errno::ISDIR);
    }
    if matches!(inode.node, Node::Proc(_)) && for_writing {
        return Err(Errno::ACCES);
    }
    if for_writing && process::is_running(&inode) {
        return Err(Errno::TXTBSY);
    }
    if matches!(inode.node, Node::File(_)) && flags & flags::TRUNCATE != 0 && for_writing {
        inode.truncate(0)?;
    }
    OpenFile::new(Object::Inode(inode), Some(place), flags)
}

/// The terminal, for the standard files of a program.
pub fn open_console() -> Result<Arc<OpenFile>> {
    open(&Place::root(), b"/dev/console", flags::READ_WRITE, 0)
}

/// Makes a file and opens it, or neither.
fn create(cwd: &Place, path: &[u8], flags: u32, permissions: u32) -> Result<Arc<OpenFile>> {
    if flags & flags::DIRECTORY != 0 {
        return Err(Errno::NOTDIR);
    }
    // A symbolic link to nothing is followed to where the file is to be.
    if let Ok(link) = cwd.resolve(path, LastLink::Keep) {
        let (dir, _) = cwd.resolve_parent(path)?;
        let to = super::path::target(&link.inode())?.ok_or(Errno::NOENT)?;
        let (dir, name) = dir.resolve_parent(&to)?;
        return create_in(&dir, name, flags, permissions);
    }
    let (dir, name) = cwd.resolve_parent(path)?;
    create_in(&dir, name, flags, permissions)
}

fn create_in(dir: &Place, name: &[u8], flags: u32, permissions: u32) -> Result<Arc<OpenFile>> {
    let inode = Inode::new(
        Node::File(Mutex::new(Content::default())),
        permissions,
        realtime_s(),
    )?;
    let place = dir.child(name, Arc::clone(&inode))?;
    let file = OpenFile::new(Object::Inode(Arc::clone(&inode)), Some(place), flags)?;
    // Nothing can fail after that.
    dir.inode().link(name, inode)?;
    Ok(file)
}

/// The contents were changed now.
pub(super) fn touch(inode: &Inode) {
    inode.meta.lock().mtime_s = realtime_s();
}

impl OpenFile {
    /// Opens an object that is there.
    pub fn new(object: Object, place: Option<Place>, flags: u32) -> Result<Arc<Self>> {
        let kept = flags & (flags::ACCESS | flags::CHANGEABLE | flags::PATH | flags::DIRECTORY);
        fallible::arc(Self {
            object,
            place,
            flags: AtomicU32::new(kept),
            cursor: Mutex::default(),
        })
    }

    /// The flags it has now.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes those flags that may be changed.
    pub fn set_flags(&self, flags: u32) {
        let kept = self.flags() & !flags::CHANGEABLE;
        self.flags
            .store(kept | (flags & flags::CHANGEABLE), Ordering::Relaxed);
    }

    /// Was it opened for reading?
    pub fn can_read(&self) -> bool {
        self.flags() & flags::PATH == 0 && self.flags() & flags::ACCESS != flags::WRITE_ONLY
    }

    /// Was it opened for writing?
    pub fn can_write(&self) -> bool {
        self.flags() & flags::PATH == 0
            && matches!(
                self.flags() & flags::ACCESS,
                flags::WRITE_ONLY | flags::READ_WRITE
            )
    }

    /// The file of the tree; `None` for pipes.
    pub fn inode(&self) -> Option<&Arc<Inode>> {
        match &self.object {
            Object::Inode(inode) => Some(inode),
            Object::PipeReader(_) | Object::PipeWriter(_) => None,
        }
    }

    /// Is it the terminal?
    pub fn is_tty(&self) -> bool {
        self.inode()
            .is_some_and(|inode| matches!(inode.node, Node::Device(Device::Tty)))
    }

    /// Has it a position?
    pub fn is_seekable(&self) -> bool {
        self.inode().is_some() && !self.is_tty()
    }

    fn nonblocking(&self) -> bool {
        self.flags() & flags::NONBLOCK != 0
    }

    /// Reads from where it is, and moves on.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let position = self.cursor.lock().position;
        let len = self.read_at(position, buf)?;
        self.cursor.lock().position = position + len as u64;
        Ok(len)
    }

    /// Reads from `position`.
    pub fn read_at(&self, position: u64, buf: &mut [u8]) -> Result<usize> {
        if !self.can_read() {
            return Err(Errno::BADF);
        }
        match &self.object {
            Object::PipeReader(reader) => reader.read(buf, self.nonblocking()),
            Object::PipeWriter(_) => Err(Errno::BADF),
            Object::Inode(inode) => match &inode.node {
                Node::File(content) => Ok(content.lock().read(position, buf)),
                Node::Device(device) => device.read(buf, self.nonblocking()),
                Node::Dir(_) => Err(Errno::ISDIR),
                Node::Link(_) => Err(Errno::INVAL),
                Node::Proc(node) => {
                    let mut cursor = self.cursor.lock();
                    if position == 0 {
                        cursor.text = node.text()?;
                    }
                    let from = usize::try_from(position).unwrap_or(usize::MAX);
                    let rest = cursor.text.get(from..).unwrap_or_default();
                    let len = rest.len().min(buf.len());
                    buf[..len].copy_from_slice(&rest[..len]);
                    Ok(len)
                }
            },
        }
    }

    /// Writes where it is, or at the end with [`flags::APPEND`], and moves on.
    pub fn write(&self, buf: &[u8]) -> Result<usize> {
        let end = match self.inode() {
            Some(inode) if self.flags() & flags::APPEND != 0 => Some(inode.size_bytes()),
            _ => None,
        };
        let position = end.unwrap_or_else(|| self.cursor.lock().position);
        let len = self.write_at(position, buf)?;
        self.cursor.lock().position = position + len as u64;
        Ok(len)
    }

    /// Writes at `position`.
    pub fn write_at(&self, position: u64, buf: &[u8]) -> Result<usize> {
        if !self.can_write() {
            return Err(Errno::BADF);
        }
        match &self.object {
            Object::PipeWriter(writer) => writer.write(buf, self.nonblocking()),
            Object::PipeReader(_) => Err(Errno::BADF),
            Object::Inode(inode) => match &inode.node {
                Node::File(content) => {
                    let len = content.lock().write(position, buf)?;
                    touch(inode);
                    Ok(len)
                }
                Node::Device(device) => device.write(buf),
                Node::Dir(_) => Err(Errno::ISDIR),
                Node::Link(_) | Node::Proc(_) => Err(Errno::INVAL),
            },
        }
    }

    /// Moves the position; where it is then.
    pub fn seek(&self, seek: Seek) -> Result<u64> {
        if !self.is_seekable() {
            return Err(Errno::SPIPE);
        }
        let mut cursor = self.cursor.lock();
        let (base, offset) = match seek {
            Seek::Set(offset) => (0, offset),
            Seek::Current(offset) => (cursor.position, offset),
            Seek::End(offset) => (self.inode().map_or(0, |inode| inode.size_bytes()), offset),
        };
        let position = base
            .checked_add_signed(offset)
            .filter(|&position| i64::try_from(position).is_ok());
        cursor.position = position.ok_or(Errno::INVAL)?;
        if cursor.position == 0 {
            cursor.last_name.clear();
        }
        Ok(cursor.position)
    }

    /// Changes the length. Linux: `ftruncate`.
    pub fn truncate(&self, size_bytes: u64) -> Result<()> {
        match self.inode() {
            Some(inode) if self.can_write() => inode.truncate(size_bytes),
            _ => Err(Errno::INVAL),
        }
    }

    /// What can be done without waiting.
    pub fn readiness(&self) -> Readiness {
        match &self.object {
            Object::PipeReader(reader) => reader.readiness(),
            Object::PipeWriter(writer) => writer.readiness(),
            Object::Inode(_) => Readiness {
                can_read: !self.is_tty() || tty::is_readable(),
                can_write: true,
                hung_up: false,
            },
        }
    }

    /// Fills `buf` with entries of the directory, going on where the last call ended; 0 at the end. Linux: `getdents64`.
    pub fn read_dir(&self, buf: &mut [u8]) -> Result<usize> {
        let inode = self
            .inode()
            .filter(|inode| inode.is_dir())
            .ok_or(Errno::NOTDIR)?;
        let mut cursor = self.cursor.lock();
        let mut out = Dirents { buf, len: 0 };
        let mut fits = true;
        // The position counts entries; names are found again by the last one, as others may come and go in between.
        if cursor.position == 0 && fits {
            fits = out.push(&mut cursor, inode.number, mode::DIR, b".");
        }
        if cursor.position == 1 && fits {
            fits = out.push(&mut cursor, inode.number, mode::DIR, b"..");
        }
        match &inode.node {
            Node::Dir(names) if fits => {
                let names = names.lock();
                let after = if cursor.last_name.is_empty() {
                    Bound::Unbounded
                } else {
                    Bound::Excluded(fallible::copied(&cursor.last_name)?)
                };
                // Whatever name comes to be the last one, there is room for it.
                let missing = NAME_BYTES_MAX.saturating_sub(cursor.last_name.len());
                cursor.last_name.try_reserve(missing)?;
                for (name, child) in names.range((after, Bound::Unbounded)) {
                    if !out.push(&mut cursor, child.number, child.mode(), name) {
                        fits = false;
                        break;
                    }
                    cursor.last_name.clone_from(name);
                }
            }
            Node::Proc(node) if fits => {
                let from = usize::try_from(cursor.position - 2).unwrap_or(usize::MAX);
                for (name, child) in node.list()?.iter().skip(from) {
                    if !out.push(&mut cursor, child.number(), child.mode(), name) {
                        fits = false;
                        break;
                    }
                }
            }
            _ => {}
        }
        if out.len == 0 && !fits {
            return Err(Errno::INVAL);
        }
        Ok(out.len)
    }
}

/// Entries of a directory being written.
struct Dirents<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl Dirents<'_> {
    /// Adds an entry, if there is room for it.
    fn push(&mut self, cursor: &mut Cursor, inode: u64, mode: u32, name: &[u8]) -> bool {
        let size = (DIRENT_BYTES + name.len() + 1).next_multiple_of(size_of::<u64>());
        let Some(entry) = self.buf.get_mut(self.len..self.len + size) else {
            return false;
        };
        let Ok(size_field) = u16::try_from(size) else {
            return false;
        };
        cursor.position += 1;
        let [_, kind, ..] = (mode >> 4).to_le_bytes();
        entry.fill(0);
        entry[..8].copy_from_slice(&inode.to_le_bytes());
        entry[8..16].copy_from_slice(&cursor.position.to_le_bytes());
        entry[16..18].copy_from_slice(&size_field.to_le_bytes());
        entry[18] = kind;
        entry[DIRENT_BYTES..DIRENT_BYTES + name.len()].copy_from_slice(name);
        self.len += size;
        true
    }
}

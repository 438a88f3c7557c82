//! From a path to a file.
//!
//! A place in the tree is the files from the root down to it, with their names. `..` then needs no links upwards, and the
//! working directory has a name to tell.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::inode::{Inode, Node};
use super::root;
use crate::fallible;
use crate::syscall::Errno;

/// Longest path, with its end. Linux: `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;
/// Most symbolic links on the way. Linux: `MAXSYMLINKS`.
const LINKS_MAX: u32 = 40;

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// Go where it leads.
    Follow,
    /// Take the link itself.
    Keep,
}

/// A place in the tree. Places share what they have in common, so a copy takes no memory.
#[derive(Clone)]
pub struct Place {
    /// `None` at the root.
    last: Option<Arc<Step>>,
}

/// A name on the way down, and the file that had it.
struct Step {
    name: Vec<u8>,
    inode: Arc<Inode>,
    above: Option<Arc<Step>>,
}

impl Place {
    /// The root of the tree.
    pub const fn root() -> Self {
        Self { last: None }
    }

    /// The file that is there.
    pub fn inode(&self) -> Arc<Inode> {
        self.last
            .as_ref()
            .map_or_else(root, |step| Arc::clone(&step.inode))
    }

    /// The steps to here, from the last one up.
    fn steps(&self) -> impl Iterator<Item = &Step> {
        core::iter::successors(self.last.as_deref(), |step| step.above.as_deref())
    }

    /// Its absolute path.
    pub fn path(&self) -> Result<Vec<u8>, Errno> {
        let len = self.steps().map(|step| step.name.len() + 1).sum::<usize>();
        let mut path = Vec::new();
        path.try_reserve_exact(len.max(1))?;
        path.resize(len.max(1), b'/');
        let mut end = len;
        for step in self.steps() {
            let start = end - step.name.len();
            path[start..end].copy_from_slice(&step.name);
            end = start - 1;
        }
        Ok(path)
    }

    /// The place that `path` leads to from here.
    pub fn resolve(&self, path: &[u8], last: LastLink) -> Result<Self, Errno> {
        let mut walk = Walk {
            at: self.clone(),
            nr_links: 0,
        };
        walk.go(path, last)?;
        Ok(walk.at)
    }

    /// The directory that `path` names something in, and the name: for what is about to be made or removed.
    ///
    /// The name is never empty, `.` or `..`.
    pub fn resolve_parent<'p>(&self, path: &'p [u8]) -> Result<(Self, &'p [u8]), Errno> {
        let trimmed = match path.iter().rposition(|&byte| byte != b'/') {
            Some(last) => &path[..=last],
            None if path.is_empty() => return Err(Errno::NOENT),
            None => return Err(Errno::EXIST),
        };
        let start = trimmed
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        let name = &trimmed[start..];
        if name == b"." || name == b".." {
            return Err(Errno::INVAL);
        }
        let parent = if start == 0 {
            self.clone()
        } else {
            self.resolve(&trimmed[..start], LastLink::Follow)?
        };
        if !parent.inode().is_dir() {
            return Err(Errno::NOTDIR);
        }
        Ok((parent, name))
    }

    /// The place of `inode`, which has this `name` here.
    pub fn child(&self, name: &[u8], inode: Arc<Inode>) -> Result<Self, Errno> {
        let step = fallible::arc(Step {
            name: fallible::copied(name)?,
            inode,
            above: self.last.clone(),
        })?;
        Ok(Self { last: Some(step) })
    }

    /// The place above; the root is above itself.
    fn parent(&self) -> Self {
        Self {
            last: self.last.as_ref().and_then(|step| step.above.clone()),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .last
            .as_ref()
            .map_or(b"/".as_slice(), |step| &step.name);
        f.debug_tuple("Place").field(&name.escape_ascii()).finish()
    }
}

/// One after the other: however deep a place is, the stack is not.
impl Drop for Step {
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some(step) = above {
            above = Arc::into_inner(step).and_then(|mut step| step.above.take());
        }
    }
}

struct Walk {
    at: Place,
    nr_links: u32,
}

impl Walk {
    fn go(&mut self, path: &[u8], last: LastLink) -> Result<(), Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() >= PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if path[0] == b'/' {
            self.at = Place::root();
        }
        let must_be_dir = path.ends_with(b"/") || path.ends_with(b"/.");
        let mut names = path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        while let Some(name) = names.next() {
            let here = self.at.inode();
            if !here.is_dir() {
                return Err(Errno::NOTDIR);
            }
            match name {
                b"." => {}
                b".." => self.at = self.at.parent(),
                name => {
                    let inode = here.lookup(name)?;
                    let is_last = names.peek().is_none();
                    let follow = !is_last || last == LastLink::Follow || must_be_dir;
                    let to = if follow { target(&inode)? } else { None };
                    match to {
                        Some(to) => self.follow(&to)?,
                        None => self.at = self.at.child(name, inode)?,
                    }
                }
            }
        }
        if must_be_dir && !self.at.inode().is_dir() {
            return Err(Errno::NOTDIR);
        }
        Ok(())
    }

    fn follow(&mut self, to: &[u8]) -> Result<(), Errno> {
        self.nr_links += 1;
        if self.nr_links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        self.go(to, LastLink::Follow)
    }
}

/// Where a symbolic link leads; `None` for any other file.
pub fn target(inode: &Inode) -> Result<Option<Vec<u8>>, Errno> {
    match &inode.node {
        Node::Link(to) => fallible::copied(to).map(Some),
        Node::Proc(node) => node.target(),
        _ => Ok(None),
    }
}

//! From a path to a file.
//!
//! A place in the tree is the files from the root down to it, with their names. `..` then needs no links upwards, and the
//! working directory has a name to tell.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::inode::{Inode, Node};
use super::root;
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

/// A place in the tree.
#[derive(Clone, Debug)]
pub struct Place {
    /// Names and files below the root, downwards.
    steps: Vec<(Vec<u8>, Arc<Inode>)>,
}

impl Place {
    /// The root of the tree.
    pub const fn root() -> Self {
        Self { steps: Vec::new() }
    }

    /// The file that is there.
    pub fn inode(&self) -> Arc<Inode> {
        self.steps
            .last()
            .map_or_else(root, |(_, inode)| Arc::clone(inode))
    }

    /// Its absolute path.
    pub fn path(&self) -> Vec<u8> {
        if self.steps.is_empty() {
            return b"/".to_vec();
        }
        self.steps
            .iter()
            .flat_map(|(name, _)| [b"/", name.as_slice()].concat())
            .collect()
    }

    /// Is `other` this place, or below it?
    pub fn contains(&self, other: &Self) -> bool {
        let same = |(a, b): (&(_, Arc<Inode>), &(_, Arc<Inode>))| Arc::ptr_eq(&a.1, &b.1);
        other.steps.len() >= self.steps.len() && self.steps.iter().zip(&other.steps).all(same)
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
        let mut steps = Vec::new();
        steps.try_reserve_exact(self.steps.len() + 1)?;
        steps.extend(self.steps.iter().cloned());
        steps.push((name.to_vec(), inode));
        Ok(Self { steps })
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
            self.at.steps.clear();
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
                b".." => drop(self.at.steps.pop()),
                name => {
                    let inode = here.lookup(name)?;
                    let is_last = names.peek().is_none();
                    let follow = !is_last || last == LastLink::Follow || must_be_dir;
                    match target(&inode) {
                        Some(to) if follow => self.follow(&to)?,
                        _ => {
                            self.at.steps.try_reserve(1)?;
                            self.at.steps.push((name.to_vec(), inode));
                        }
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
pub fn target(inode: &Inode) -> Option<Vec<u8>> {
    match &inode.node {
        Node::Link(to) => Some(to.clone()),
        Node::Proc(node) => node.target(),
        _ => None,
    }
}

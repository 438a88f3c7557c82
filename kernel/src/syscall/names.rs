//! Calls about files by their names.

use alloc::sync::Arc;

use super::user;
use super::{Call, Errno, Outcome, realtime_s};
use crate::fallible;
use crate::fs::{self, Inode, LastLink, Node, Place, flags, target};
use crate::process::{self, Fd};

/// In the place of a directory's number: the working directory.
pub(super) const AT_FDCWD: u64 = -100_i64 as u64;
/// Take a symbolic link itself.
pub(super) const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// Remove a directory.
pub(super) const AT_REMOVEDIR: u64 = 0x200;
/// The empty path is the file that the number names.
const AT_EMPTY_PATH: u64 = 0x1000;
const RENAME_NOREPLACE: u64 = 1;
const PERMISSIONS: u64 = 0o7777;
const X_OK: u64 = 1;
const ANY_EXECUTE: u32 = 0o111;
/// In the place of nanoseconds.
const UTIME_NOW: u64 = 0x3fff_ffff;
const UTIME_OMIT: u64 = 0x3fff_fffe;

fn is_cwd(dir: u64) -> bool {
    user::fd(dir) == user::fd(AT_FDCWD)
}

/// Where a path starts.
fn base(call: &Call<'_>, dir: u64, path: &[u8]) -> Result<Place, Errno> {
    if is_cwd(dir) || path.starts_with(b"/") {
        return Ok(call.task.fs.lock().cwd.clone());
    }
    let file = user::file(&call.task.files, dir)?;
    match &file.place {
        Some(place) if place.inode().is_dir() => Ok(place.clone()),
        _ => Err(Errno::NOTDIR),
    }
}

fn resolve(call: &Call<'_>, dir: u64, path: &[u8], last: LastLink) -> Result<Place, Errno> {
    base(call, dir, path)?.resolve(path, last)
}

/// The file that a call names; `at_flags` may ask for a link itself, or allow the empty path.
pub(super) fn find(
    call: &Call<'_>,
    dir: u64,
    path: u64,
    at_flags: u64,
) -> Result<Arc<Inode>, Errno> {
    let path = user::path(path)?;
    if path.is_empty() && at_flags & AT_EMPTY_PATH != 0 {
        if is_cwd(dir) {
            return Ok(call.task.fs.lock().cwd.inode());
        }
        return user::file(&call.task.files, dir)?
            .inode()
            .cloned()
            .ok_or(Errno::BADF);
    }
    let last = if at_flags & AT_SYMLINK_NOFOLLOW != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    };
    resolve(call, dir, &path, last).map(|place| place.inode())
}

fn masked(call: &Call<'_>, mode: u64) -> u32 {
    user::low(mode & PERMISSIONS) & !call.task.fs.lock().umask
}

pub(super) fn openat(call: &Call<'_>, dir: u64, path: u64, flags: u64, mode: u64) -> Outcome {
    let path = user::path(path)?;
    let flags = user::low(flags);
    let file = fs::open(&base(call, dir, &path)?, &path, flags, masked(call, mode))?;
    let close_on_exec = flags & flags::CLOSE_ON_EXEC != 0;
    call.task.files.lock().insert(
        0,
        Fd {
            file,
            close_on_exec,
        },
    )
}

pub(super) fn creat(call: &Call<'_>, path: u64, mode: u64) -> Outcome {
    openat(
        call,
        AT_FDCWD,
        path,
        u64::from(flags::CREATE | flags::WRITE_ONLY | flags::TRUNCATE),
        mode,
    )
}

pub(super) fn fstatat(call: &Call<'_>, dir: u64, path: u64, addr: u64, at_flags: u64) -> Outcome {
    if at_flags & AT_EMPTY_PATH != 0 && !is_cwd(dir) && user::path(path)?.is_empty() {
        return super::files::fstat(call, dir, addr);
    }
    let inode = find(call, dir, path, at_flags)?;
    user::put_bytes(addr, &fs::stat_bytes(&inode))?;
    Ok(0)
}

pub(super) fn faccessat(call: &Call<'_>, dir: u64, path: u64, mode: u64) -> Outcome {
    const ALL: u64 = 7;
    if mode & !ALL != 0 {
        return Err(Errno::INVAL);
    }
    let inode = find(call, dir, path, 0)?;
    // The one user may read and write everything, and run what anybody may run.
    if mode & X_OK != 0 && inode.mode() & ANY_EXECUTE == 0 {
        return Err(Errno::ACCES);
    }
    Ok(0)
}

pub(super) fn readlinkat(call: &Call<'_>, dir: u64, path: u64, addr: u64, len: u64) -> Outcome {
    let len = usize::try_from(len)
        .ok()
        .filter(|&len| len != 0)
        .ok_or(Errno::INVAL)?;
    let inode = find(call, dir, path, AT_SYMLINK_NOFOLLOW)?;
    let to = target(&inode)?.ok_or(Errno::INVAL)?;
    let told = &to[..to.len().min(len)];
    user::put_bytes(addr, told)?;
    Ok(told.len() as u64)
}

pub(super) fn getcwd(call: &Call<'_>, addr: u64, len: u64) -> Outcome {
    let cwd = call.task.fs.lock().cwd.clone();
    let mut path = cwd.path()?;
    fallible::push(&mut path, 0)?;
    if len < path.len() as u64 {
        return Err(Errno::RANGE);
    }
    user::put_bytes(addr, &path)?;
    Ok(path.len() as u64)
}

pub(super) fn chdir(call: &Call<'_>, path: u64) -> Outcome {
    let path = user::path(path)?;
    change_to(call, resolve(call, AT_FDCWD, &path, LastLink::Follow)?)
}

pub(super) fn fchdir(call: &Call<'_>, fd: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    change_to(call, file.place.clone().ok_or(Errno::NOTDIR)?)
}

fn change_to(call: &Call<'_>, place: Place) -> Outcome {
    if !place.inode().is_dir() {
        return Err(Errno::NOTDIR);
    }
    let old = core::mem::replace(&mut call.task.fs.lock().cwd, place);
    drop(old);
    Ok(0)
}

/// The directory in which `path` names something, and the name.
fn parent_of<'p>(call: &Call<'_>, dir: u64, path: &'p [u8]) -> Result<(Place, &'p [u8]), Errno> {
    base(call, dir, path)?.resolve_parent(path)
}

pub(super) fn mkdirat(call: &Call<'_>, dir: u64, path: u64, mode: u64) -> Outcome {
    let path = user::path(path)?;
    if resolve(call, dir, &path, LastLink::Keep).is_ok() {
        return Err(Errno::EXIST);
    }
    let (parent, name) = parent_of(call, dir, &path)?;
    parent
        .inode()
        .link(name, Inode::new_dir(masked(call, mode), realtime_s())?)?;
    Ok(0)
}

pub(super) fn symlinkat(call: &Call<'_>, to: u64, dir: u64, path: u64) -> Outcome {
    let (to, path) = (user::path(to)?, user::path(path)?);
    if to.is_empty() {
        return Err(Errno::NOENT);
    }
    let (parent, name) = parent_of(call, dir, &path)?;
    parent
        .inode()
        .link(name, Inode::new(Node::Link(to), 0o777, realtime_s())?)?;
    Ok(0)
}

pub(super) fn linkat(call: &Call<'_>, old_dir: u64, old: u64, new_dir: u64, new: u64) -> Outcome {
    let inode = find(call, old_dir, old, AT_SYMLINK_NOFOLLOW)?;
    let new = user::path(new)?;
    if inode.is_dir() || matches!(inode.node, Node::Proc(_)) {
        return Err(Errno::PERM);
    }
    let (parent, name) = parent_of(call, new_dir, &new)?;
    parent.inode().link(name, Arc::clone(&inode))?;
    inode.meta.lock().nr_links += 1;
    Ok(0)
}

fn is_empty_dir(inode: &Inode) -> bool {
    matches!(&inode.node, Node::Dir(names) if names.lock().is_empty())
}

pub(super) fn unlinkat(call: &Call<'_>, dir: u64, path: u64, at_flags: u64) -> Outcome {
    let path = user::path(path)?;
    let (parent, name) = parent_of(call, dir, &path)?;
    let parent = parent.inode();
    let inode = parent.lookup(name)?;
    let wants_dir = at_flags & AT_REMOVEDIR != 0;
    match (inode.is_dir(), wants_dir) {
        (true, false) => return Err(Errno::ISDIR),
        (false, true) => return Err(Errno::NOTDIR),
        (true, true) if matches!(inode.node, Node::Proc(_)) => return Err(Errno::BUSY),
        (true, true) if !is_empty_dir(&inode) => return Err(Errno::NOTEMPTY),
        _ => {}
    }
    let removed = parent.names()?.lock().remove(name);
    inode.unlinked();
    drop(removed);
    Ok(0)
}

pub(super) fn renameat(
    call: &Call<'_>,
    old_dir: u64,
    old: u64,
    new_dir: u64,
    new: u64,
    rename_flags: u64,
) -> Outcome {
    if rename_flags & !RENAME_NOREPLACE != 0 {
        return Err(Errno::INVAL);
    }
    let (old, new) = (user::path(old)?, user::path(new)?);
    let (old_parent, old_name) = parent_of(call, old_dir, &old)?;
    let (new_parent, new_name) = parent_of(call, new_dir, &new)?;
    let inode = old_parent.inode().lookup(old_name)?;
    let (from, to) = (old_parent.inode(), new_parent.inode());
    from.names()?;
    to.names()?;
    if to.is_below(&inode) {
        return Err(Errno::INVAL);
    }
    let replaced = match to.lookup(new_name) {
        Ok(there) if Arc::ptr_eq(&there, &inode) => return Ok(0),
        Ok(_) if rename_flags & RENAME_NOREPLACE != 0 => return Err(Errno::EXIST),
        Ok(there) => match (inode.is_dir(), there.is_dir()) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if !is_empty_dir(&there) => return Err(Errno::NOTEMPTY),
            _ => Some(to.replace(new_name, inode)?),
        },
        Err(Errno::NOENT) => {
            to.link(new_name, inode)?;
            None
        }
        Err(error) => return Err(error),
    };
    let moved = from.names()?.lock().remove(old_name);
    if let Some(replaced) = &replaced {
        replaced.unlinked();
    }
    drop((moved, replaced));
    Ok(0)
}

pub(super) fn fchmodat(call: &Call<'_>, dir: u64, path: u64, mode: u64) -> Outcome {
    let inode = find(call, dir, path, 0)?;
    set_permissions(&inode, mode)
}

pub(super) fn fchmod(call: &Call<'_>, fd: u64, mode: u64) -> Outcome {
    match user::file(&call.task.files, fd)?.inode() {
        Some(inode) => set_permissions(inode, mode),
        None => Ok(0),
    }
}

fn set_permissions(inode: &Inode, mode: u64) -> Outcome {
    if matches!(inode.node, Node::Proc(_)) {
        return Err(Errno::PERM);
    }
    inode.meta.lock().permissions = user::low(mode & PERMISSIONS);
    Ok(0)
}

pub(super) fn truncate(call: &Call<'_>, path: u64, size_bytes: u64) -> Outcome {
    if i64::try_from(size_bytes).is_err() {
        return Err(Errno::INVAL);
    }
    let inode = find(call, AT_FDCWD, path, 0)?;
    match &inode.node {
        Node::File(_) if process::is_running(&inode) => return Err(Errno::TXTBSY),
        _ if inode.is_dir() => return Err(Errno::ISDIR),
        _ => inode.truncate(size_bytes)?,
    }
    Ok(0)
}

pub(super) fn utimensat(
    call: &Call<'_>,
    dir: u64,
    path: u64,
    times: u64,
    at_flags: u64,
) -> Outcome {
    let mtime_s = match times {
        0 => Some(realtime_s()),
        times => {
            let [_, _, seconds, nanoseconds]: [u64; 4] = user::get(times)?;
            match nanoseconds {
                UTIME_NOW => Some(realtime_s()),
                UTIME_OMIT => None,
                0..1_000_000_000 => Some(seconds),
                _ => return Err(Errno::INVAL),
            }
        }
    };
    let inode = match path {
        0 => user::file(&call.task.files, dir)?
            .inode()
            .cloned()
            .ok_or(Errno::INVAL)?,
        path => find(call, dir, path, at_flags)?,
    };
    if let Some(mtime_s) = mtime_s {
        inode.meta.lock().mtime_s = mtime_s;
    }
    Ok(0)
}

pub(super) fn umask(call: &Call<'_>, mask: u64) -> Outcome {
    let mut fs = call.task.fs.lock();
    Ok(u64::from(core::mem::replace(
        &mut fs.umask,
        user::low(mask & 0o777),
    )))
}

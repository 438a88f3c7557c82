//! Calls about open files.

use alloc::sync::Arc;

use super::user::{self, CHUNK_BYTES};
use super::{Call, Errno, Outcome};
use crate::fallible;
use crate::fs::{self, Inode, Node, Object, OpenFile, Place, Seek, flags, pipe};
use crate::process::{self, Fd, Signal, post_signal};

/// Most parts of a `readv`. Linux: `UIO_MAXIOV`.
const PARTS_MAX: u64 = 1024;
/// Longest name of a memfd. Linux: `MFD_NAME_MAX_LEN`.
const MEMFD_NAME_BYTES: usize = 249;
const MEMFD_CLOEXEC: u64 = 1;
const MEMFD_ALLOW_SEALING: u64 = 2;

/// Most bytes of one call. Linux: `MAX_RW_COUNT`.
const BYTES_MAX: u64 = 0x7fff_f000;

const F_DUPFD: u64 = 0;
const F_GETFD: u64 = 1;
const F_SETFD: u64 = 2;
const F_GETFL: u64 = 3;
const F_SETFL: u64 = 4;
const F_DUPFD_CLOEXEC: u64 = 1030;
const FD_CLOEXEC: u64 = 1;

fn closes_on_exec(flags: u64) -> bool {
    user::low(flags) & flags::CLOSE_ON_EXEC != 0
}

pub(super) fn read(call: &Call<'_>, fd: u64, addr: u64, len: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    read_into(&file, addr, len, |buf, _| file.read(buf))
}

pub(super) fn pread(call: &Call<'_>, fd: u64, addr: u64, len: u64, position: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    check_position(&file, position)?;
    read_into(&file, addr, len, |buf, done| {
        file.read_at(position + done, buf)
    })
}

pub(super) fn write(call: &Call<'_>, fd: u64, addr: u64, len: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    write_from(call, &file, addr, len, |buf, _| file.write(buf))
}

pub(super) fn pwrite(call: &Call<'_>, fd: u64, addr: u64, len: u64, position: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    check_position(&file, position)?;
    write_from(call, &file, addr, len, |buf, done| {
        file.write_at(position + done, buf)
    })
}

fn check_position(file: &OpenFile, position: u64) -> Result<(), Errno> {
    match i64::try_from(position) {
        Err(_) => Err(Errno::INVAL),
        Ok(_) if !file.is_seekable() => Err(Errno::SPIPE),
        Ok(_) => Ok(()),
    }
}

pub(super) fn readv(call: &Call<'_>, fd: u64, parts: u64, count: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    for_each_part(parts, count, |addr, len| {
        read_into(&file, addr, len, |buf, _| file.read(buf))
    })
}

pub(super) fn writev(call: &Call<'_>, fd: u64, parts: u64, count: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    for_each_part(parts, count, |addr, len| {
        write_from(call, &file, addr, len, |buf, _| file.write(buf))
    })
}

/// Goes through the parts of a `readv` until one comes up short; an error counts only if nothing was done before.
fn for_each_part(parts: u64, count: u64, mut f: impl FnMut(u64, u64) -> Outcome) -> Outcome {
    const PART_BYTES: u64 = 16;
    if count > PARTS_MAX {
        return Err(Errno::INVAL);
    }
    let mut total = 0;
    for part in 0..count {
        let at = parts.checked_add(part * PART_BYTES).ok_or(Errno::FAULT)?;
        let [addr, len]: [u64; 2] = user::get(at)?;
        if len == 0 {
            continue;
        }
        match f(addr, len) {
            Ok(done) => {
                total += done;
                if done < len {
                    break;
                }
            }
            Err(_) if total != 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Reads by chunks through the kernel. A chunk that comes up short ends it, and so does any chunk of what does not seek.
fn read_into(
    file: &OpenFile,
    addr: u64,
    len: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
) -> Outcome {
    if !file.can_read() {
        return Err(Errno::BADF);
    }
    if i64::try_from(len).is_err() {
        return Err(Errno::INVAL);
    }
    let len = len.min(BYTES_MAX);
    let mut buf = user::buffer(chunk_len(len))?;
    let mut done = 0;
    loop {
        let want = chunk_len(len - done);
        if !file.is_seekable() && want != 0 {
            user::make_writable(addr, want)?;
        }
        let step = read(&mut buf[..want], done)
            .and_then(|step| user::put_bytes(addr.wrapping_add(done), &buf[..step]).map(|()| step));
        match step {
            Ok(step) => done += step as u64,
            Err(_) if done != 0 => return Ok(done),
            Err(error) => return Err(error),
        }
        if step != Ok(want) || done == len || !file.is_seekable() || !process::may_go_on() {
            return Ok(done);
        }
    }
}

fn write_from(
    call: &Call<'_>,
    file: &OpenFile,
    addr: u64,
    len: u64,
    mut write: impl FnMut(&[u8], u64) -> Result<usize, Errno>,
) -> Outcome {
    if !file.can_write() {
        return Err(Errno::BADF);
    }
    if i64::try_from(len).is_err() {
        return Err(Errno::INVAL);
    }
    let len = len.min(BYTES_MAX);
    let mut done = 0;
    loop {
        let want = chunk_len(len - done);
        let step = user::bytes(addr.wrapping_add(done), want).and_then(|buf| write(&buf, done));
        match step {
            Ok(step) => done += step as u64,
            Err(_) if done != 0 => return Ok(done),
            Err(error) => {
                if error == Errno::PIPE {
                    post_signal(&call.task, Signal::PIPE);
                }
                return Err(error);
            }
        }
        if step != Ok(want) || done == len || !process::may_go_on() {
            return Ok(done);
        }
    }
}

fn chunk_len(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(CHUNK_BYTES)
}

pub(super) fn close(call: &Call<'_>, fd: u64) -> Outcome {
    let closed = call.task.files.lock().remove(user::fd(fd))?;
    drop(closed);
    Ok(0)
}

pub(super) fn lseek(call: &Call<'_>, fd: u64, offset: u64, whence: u64) -> Outcome {
    let offset = offset as i64;
    let seek = match whence {
        0 => Seek::Set(offset),
        1 => Seek::Current(offset),
        2 => Seek::End(offset),
        _ => return Err(Errno::INVAL),
    };
    user::file(&call.task.files, fd)?.seek(seek)
}

pub(super) fn fstat(call: &Call<'_>, fd: u64, addr: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    user::put_bytes(addr, &fs::stat_of(&file))?;
    Ok(0)
}

pub(super) fn ftruncate(call: &Call<'_>, fd: u64, size_bytes: u64) -> Outcome {
    if i64::try_from(size_bytes).is_err() {
        return Err(Errno::INVAL);
    }
    user::file(&call.task.files, fd)?.truncate(size_bytes)?;
    Ok(0)
}

pub(super) fn getdents64(call: &Call<'_>, fd: u64, addr: u64, len: u64) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    let len = chunk_len(len & u64::from(u32::MAX));
    // What was told once is not told again, so the program must be able to take it.
    user::make_writable(addr, len)?;
    let mut buf = user::buffer(len)?;
    let done = file.read_dir(&mut buf)?;
    user::put_bytes(addr, &buf[..done])?;
    Ok(done as u64)
}

pub(super) fn dup(call: &Call<'_>, fd: u64) -> Outcome {
    dup_from(call, fd, 0, false)
}

fn dup_from(call: &Call<'_>, fd: u64, least: u64, close_on_exec: bool) -> Outcome {
    let file = user::file(&call.task.files, fd)?;
    let least = usize::try_from(least)
        .ok()
        .filter(|&least| least < crate::process::FILES_MAX)
        .ok_or(Errno::INVAL)?;
    call.task.files.lock().insert(
        least,
        Fd {
            file,
            close_on_exec,
        },
    )
}

pub(super) fn dup2(call: &Call<'_>, old: u64, new: u64) -> Outcome {
    if user::fd(old) == user::fd(new) {
        return user::file(&call.task.files, old).map(|_| user::fd(new));
    }
    dup3(call, old, new, 0)
}

pub(super) fn dup3(call: &Call<'_>, old: u64, new: u64, flags: u64) -> Outcome {
    if user::fd(old) == user::fd(new) || user::low(flags) & !flags::CLOSE_ON_EXEC != 0 {
        return Err(Errno::INVAL);
    }
    let file = user::file(&call.task.files, old)?;
    let fd = Fd {
        file,
        close_on_exec: closes_on_exec(flags),
    };
    let replaced = call.task.files.lock().replace(user::fd(new), fd)?;
    drop(replaced);
    Ok(user::fd(new))
}

pub(super) fn fcntl(call: &Call<'_>, fd: u64, command: u64, argument: u64) -> Outcome {
    let number = user::fd(fd);
    match command {
        F_DUPFD => dup_from(call, fd, argument, false),
        F_DUPFD_CLOEXEC => dup_from(call, fd, argument, true),
        F_GETFD => Ok(u64::from(call.task.files.lock().get(number)?.close_on_exec)),
        F_SETFD => {
            call.task.files.lock().get_mut(number)?.close_on_exec = argument & FD_CLOEXEC != 0;
            Ok(0)
        }
        F_GETFL => Ok(u64::from(user::file(&call.task.files, fd)?.flags())),
        F_SETFL => {
            user::file(&call.task.files, fd)?.set_flags(user::low(argument));
            Ok(0)
        }
        _ => user::file(&call.task.files, fd).and(Err(Errno::INVAL)),
    }
}

pub(super) fn pipe2(call: &Call<'_>, addr: u64, flags: u64) -> Outcome {
    let bits = user::low(flags);
    if bits & !(flags::CLOSE_ON_EXEC | flags::NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    let (reader, writer) = pipe::new()?;
    let reader = OpenFile::new(Object::PipeReader(reader), None, bits & flags::NONBLOCK)?;
    let writer = OpenFile::new(
        Object::PipeWriter(writer),
        None,
        flags::WRITE_ONLY | bits & flags::NONBLOCK,
    )?;
    let close_on_exec = closes_on_exec(flags);
    let first = call.task.files.lock().insert(
        0,
        Fd {
            file: reader,
            close_on_exec,
        },
    )?;
    let second = call.task.files.lock().insert(
        0,
        Fd {
            file: writer,
            close_on_exec,
        },
    );
    let told = second.and_then(|second| user::put(addr, [user::low(first), user::low(second)]));
    if told.is_err() {
        // All or nothing.
        for number in [Ok(first), second].into_iter().flatten() {
            let closed = call.task.files.lock().remove(number);
            drop(closed);
        }
    }
    told.map(|()| 0)
}

pub(super) fn memfd_create(call: &Call<'_>, name: u64, flags: u64) -> Outcome {
    if flags & !(MEMFD_CLOEXEC | MEMFD_ALLOW_SEALING) != 0 {
        return Err(Errno::INVAL);
    }
    let name = user::string(name, MEMFD_NAME_BYTES + 1, Errno::INVAL)?;
    let inode = Inode::new(
        Node::File(spin::Mutex::default()),
        0o777,
        super::realtime_s(),
    )?;
    let place = Place::root().child(&fallible::concat(&[b"memfd:", &name])?, Arc::clone(&inode))?;
    let file = OpenFile::new(Object::Inode(inode), Some(place), flags::READ_WRITE)?;
    call.task.files.lock().insert(
        0,
        Fd {
            file,
            close_on_exec: flags & MEMFD_CLOEXEC != 0,
        },
    )
}

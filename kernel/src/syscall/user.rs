//! What system calls copy from and to the program. A bad address is always [`Errno::FAULT`].

use alloc::vec::Vec;

use crate::arch::usercopy::{self, Fault, Plain};
use crate::fallible;
use crate::fs::PATH_BYTES_MAX;
use crate::process::FdTable;
use crate::syscall::Errno;

/// Most bytes that one copy to or from a program takes through the kernel.
pub const CHUNK_BYTES: usize = 64 << 10;
const PAGE_BYTES: u64 = 4096;

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Self::FAULT
    }
}

/// Reads a value.
pub fn get<T: Plain>(addr: u64) -> Result<T, Errno> {
    Ok(usercopy::get_user(addr)?)
}

/// Writes a value.
pub fn put<T: Plain>(addr: u64, value: T) -> Result<(), Errno> {
    Ok(usercopy::put_user(addr, value)?)
}

/// Writes a value if the program gave an address for it.
pub fn put_if<T: Plain>(addr: u64, value: T) -> Result<(), Errno> {
    if addr == 0 { Ok(()) } else { put(addr, value) }
}

/// Writes words one after the other.
pub fn put_words(addr: u64, words: &[u64]) -> Result<(), Errno> {
    for (at, &word) in (0..).step_by(size_of::<u64>()).zip(words) {
        put(addr.checked_add(at).ok_or(Errno::FAULT)?, word)?;
    }
    Ok(())
}

/// A buffer of zeros.
pub fn buffer(size_bytes: usize) -> Result<Vec<u8>, Errno> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(size_bytes)?;
    buf.resize(size_bytes, 0);
    Ok(buf)
}

/// Reads bytes.
pub fn bytes(addr: u64, size_bytes: usize) -> Result<Vec<u8>, Errno> {
    let mut buf = buffer(size_bytes)?;
    usercopy::copy_from_user(&mut buf, addr)?;
    Ok(buf)
}

/// Writes bytes.
pub fn put_bytes(addr: u64, bytes: &[u8]) -> Result<(), Errno> {
    Ok(usercopy::copy_to_user(addr, bytes)?)
}

/// Reads a string of less than `max_bytes`; longer ones are `too_long`.
pub fn string(addr: u64, max_bytes: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
    const FIRST_BYTES: usize = 256;
    let mut buf = Vec::new();
    loop {
        let start = buf.len();
        // As much again as there is, so that short strings take little and long ones few steps.
        let step = start.max(FIRST_BYTES).min(max_bytes - start);
        if step == 0 {
            return Err(too_long);
        }
        buf.try_reserve_exact(step)?;
        buf.resize(start + step, 0);
        let at = addr.checked_add(start as u64).ok_or(Errno::FAULT)?;
        let len = usercopy::strncpy_from_user(&mut buf[start..], at)?;
        if len < step {
            buf.truncate(start + len);
            // A path keeps no page for itself.
            buf.shrink_to_fit();
            return Ok(buf);
        }
    }
}

/// Reads a path.
pub fn path(addr: u64) -> Result<Vec<u8>, Errno> {
    string(addr, PATH_BYTES_MAX, Errno::NAMETOOLONG)
}

/// Reads a list of strings that a zero pointer ends, as execve has them. Together they take at most `max_bytes`.
pub fn strings(addr: u64, max_bytes: usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = Vec::new();
    let mut left = max_bytes;
    if addr == 0 {
        // Linux takes no list for an empty one.
        return Ok(list);
    }
    let mut at = addr;
    loop {
        let pointer: u64 = get(at)?;
        if pointer == 0 {
            return Ok(list);
        }
        at = at
            .checked_add(size_of::<u64>() as u64)
            .ok_or(Errno::FAULT)?;
        let word = string(pointer, left.max(1), Errno::TOOBIG)?;
        left = left
            .checked_sub(word.len() + 1 + size_of::<u64>())
            .ok_or(Errno::TOOBIG)?;
        fallible::push(&mut list, word)?;
    }
}

/// Can all of this be written? Asked before something is taken that could not be put back. Linux: `fault_in_writeable`.
pub fn make_writable(addr: u64, size_bytes: usize) -> Result<(), Errno> {
    let end = addr.checked_add(size_bytes as u64).ok_or(Errno::FAULT)?;
    let mut at = addr;
    while at < end {
        let byte: u8 = get(at)?;
        put(at, byte)?;
        at = (at & !(PAGE_BYTES - 1)) + PAGE_BYTES;
    }
    Ok(())
}

/// An argument that Linux takes as 32 bits: the low half of the register.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the high half is not looked at"
)]
pub const fn low(argument: u64) -> u32 {
    argument as u32
}

/// An argument that Linux takes as an `int`.
pub const fn int(argument: u64) -> i32 {
    low(argument) as i32
}

/// The number of an open file.
pub fn fd(argument: u64) -> u64 {
    u64::from(low(argument))
}

/// The open file with this number.
pub fn file(
    files: &spin::Mutex<FdTable>,
    argument: u64,
) -> Result<alloc::sync::Arc<crate::fs::OpenFile>, Errno> {
    files
        .lock()
        .get(fd(argument))
        .map(|fd| alloc::sync::Arc::clone(&fd.file))
}

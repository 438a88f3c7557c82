//! Pipes: a ring of bytes between an end to write to and an end to read from.
//!
//! Linux: fs/pipe.c. A write of up to [`ATOMIC_BYTES`] goes in as a whole; a write with no reader left is SIGPIPE and EPIPE.

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use crate::fallible;
use crate::process::{self, Channel};
use crate::syscall::Errno;

/// Bytes that fit. Linux: `PIPE_DEF_BUFFERS` pages.
pub const CAPACITY_BYTES: usize = 64 << 10;
/// Linux: `PIPE_BUF`.
const ATOMIC_BYTES: usize = 4096;

#[derive(Debug)]
struct Pipe {
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    has_reader: bool,
    has_writer: bool,
}

/// What can be done with an end of a pipe right now.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Reading would not block.
    pub can_read: bool,
    /// Writing would not block.
    pub can_write: bool,
    /// The other end is gone.
    pub hung_up: bool,
}

/// The end to read from. Dropping it ends the pipe for writers.
#[derive(Debug)]
pub struct Reader(Arc<Pipe>);

/// The end to write to. Dropping it ends the pipe for readers, once it is empty.
#[derive(Debug)]
pub struct Writer(Arc<Pipe>);

/// A new pipe.
pub fn new() -> Result<(Reader, Writer), Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(CAPACITY_BYTES)?;
    bytes.resize(CAPACITY_BYTES, 0);
    let ring = Ring {
        bytes,
        start: 0,
        len: 0,
        has_reader: true,
        has_writer: true,
    };
    let pipe = fallible::arc(Pipe {
        ring: Mutex::new(ring),
    })?;
    Ok((Reader(Arc::clone(&pipe)), Writer(pipe)))
}

impl Reader {
    /// Reads what is there, waiting for something to be; 0 when it is empty and nobody writes any more.
    pub fn read(&self, buf: &mut [u8], nonblocking: bool) -> Result<usize, Errno> {
        if buf.is_empty() {
            return Ok(0);
        }
        let try_read = |buf: &mut [u8]| {
            let mut ring = self.0.ring.lock();
            (ring.len != 0 || !ring.has_writer).then(|| ring.take(buf))
        };
        let len = match try_read(buf) {
            Some(len) => len,
            None if nonblocking => return Err(Errno::AGAIN),
            None => process::wait_until(self.0.channel(), || try_read(buf))?,
        };
        process::wake(self.0.channel());
        Ok(len)
    }

    /// What can be done with it.
    pub fn readiness(&self) -> Readiness {
        let ring = self.0.ring.lock();
        Readiness {
            can_read: ring.len != 0,
            can_write: false,
            hung_up: !ring.has_writer,
        }
    }
}

impl Writer {
    /// Writes all of it, waiting for room; how much was written before an error, if anything.
    pub fn write(&self, buf: &[u8], nonblocking: bool) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() {
            let rest = &buf[done..];
            let least = if buf.len() <= ATOMIC_BYTES {
                buf.len()
            } else {
                1
            };
            let try_write = || {
                let mut ring = self.0.ring.lock();
                if !ring.has_reader {
                    return Some(Err(Errno::PIPE));
                }
                (ring.room() >= least).then(|| Ok(ring.put(rest)))
            };
            let step = match try_write() {
                Some(step) => step,
                None if nonblocking => Err(Errno::AGAIN),
                None => process::wait_until(self.0.channel(), try_write).and_then(|step| step),
            };
            match step {
                Ok(step) => done += step,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
            process::wake(self.0.channel());
        }
        Ok(done)
    }

    /// What can be done with it.
    pub fn readiness(&self) -> Readiness {
        let ring = self.0.ring.lock();
        Readiness {
            can_read: false,
            can_write: ring.room() >= ATOMIC_BYTES || !ring.has_reader,
            hung_up: !ring.has_reader,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.ring.lock().has_reader = false;
        process::wake(self.0.channel());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.ring.lock().has_writer = false;
        process::wake(self.0.channel());
    }
}

impl Pipe {
    fn channel(&self) -> Channel {
        Channel::of(self)
    }
}

impl Ring {
    fn room(&self) -> usize {
        CAPACITY_BYTES - self.len
    }

    fn take(&mut self, buf: &mut [u8]) -> usize {
        let len = buf.len().min(self.len);
        let first = len.min(CAPACITY_BYTES - self.start);
        buf[..first].copy_from_slice(&self.bytes[self.start..self.start + first]);
        buf[first..len].copy_from_slice(&self.bytes[..len - first]);
        self.start = (self.start + len) % CAPACITY_BYTES;
        self.len -= len;
        len
    }

    fn put(&mut self, buf: &[u8]) -> usize {
        let len = buf.len().min(self.room());
        let end = (self.start + self.len) % CAPACITY_BYTES;
        let first = len.min(CAPACITY_BYTES - end);
        self.bytes[end..end + first].copy_from_slice(&buf[..first]);
        self.bytes[..len - first].copy_from_slice(&buf[first..len]);
        self.len += len;
        len
    }
}

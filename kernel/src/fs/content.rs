//! The contents of a regular file, page by page.
//!
//! A file of the initramfs has a *backing*: its bytes in the archive. A page of it is copied to a frame of its own when it
//! is first mapped or written; until then reading goes to the archive. A page that is neither backed nor written is a hole.

use alloc::vec::Vec;

use kmm::frame::{PAGE_SIZE, Pfn};

use super::frame::Frame;
use crate::syscall::Errno;

/// Largest file.
const SIZE_MAX_BYTES: u64 = 1 << 30;

/// Bytes of a file.
#[derive(Debug, Default)]
pub struct Content {
    backing: &'static [u8],
    pages: Vec<Option<Frame>>,
    size_bytes: u64,
}

impl Content {
    /// A file that reads as `backing`.
    pub fn backed(backing: &'static [u8]) -> Self {
        Self {
            backing,
            pages: Vec::new(),
            size_bytes: backing.len() as u64,
        }
    }

    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Copies from the file; how much, less than asked for at its end.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> usize {
        let left = self.size_bytes.saturating_sub(at);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < len {
            let (index, offset) = split(at + done as u64);
            let step = (PAGE_SIZE - offset).min(len - done);
            let to = &mut buf[done..done + step];
            match self.pages.get(index) {
                Some(Some(frame)) => frame.read(offset, to),
                _ => copy_padded(self.backing, index * PAGE_SIZE + offset, to),
            }
            done += step;
        }
        len
    }

    /// Copies to the file, which grows; how much. A file that cannot grow any further takes less than it is given.
    pub fn write(&mut self, at: u64, buf: &[u8]) -> Result<usize, Errno> {
        let room = SIZE_MAX_BYTES.checked_sub(at).ok_or(Errno::FBIG)?;
        let len = buf.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if len == 0 && !buf.is_empty() {
            return Err(Errno::FBIG);
        }
        let mut done = 0;
        while done < len {
            let (index, offset) = split(at + done as u64);
            let step = (PAGE_SIZE - offset).min(len - done);
            match self.frame(index) {
                Ok(frame) => frame.write(offset, &buf[done..done + step]),
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
            done += step;
            self.size_bytes = self.size_bytes.max(at + done as u64);
        }
        Ok(done)
    }

    /// Cuts the file, or lets it grow by a hole.
    pub fn truncate(&mut self, size_bytes: u64) -> Result<(), Errno> {
        if size_bytes > SIZE_MAX_BYTES {
            return Err(Errno::FBIG);
        }
        if size_bytes < self.size_bytes {
            let (index, offset) = split(size_bytes);
            self.pages
                .truncate(if offset == 0 { index } else { index + 1 });
            if let (true, Some(Some(last))) = (offset != 0, self.pages.get(index)) {
                last.clear_from(offset);
            }
            let kept = usize::try_from(size_bytes)
                .unwrap_or(usize::MAX)
                .min(self.backing.len());
            self.backing = &self.backing[..kept];
        }
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// The frame of a page, with one more reference taken on it; `None` beyond the end of the file.
    pub fn page(&mut self, index: u64) -> Result<Option<Pfn>, Errno> {
        if index >= self.size_bytes.div_ceil(PAGE_SIZE as u64) {
            return Ok(None);
        }
        let index = usize::try_from(index).map_err(|_| Errno::FBIG)?;
        self.frame(index).map(|frame| Some(frame.share()))
    }

    fn frame(&mut self, index: usize) -> Result<&Frame, Errno> {
        if index >= self.pages.len() {
            let more = index + 1 - self.pages.len();
            self.pages.try_reserve(more)?;
            self.pages.resize_with(index + 1, || None);
        }
        let slot = &mut self.pages[index];
        if let Some(frame) = slot {
            return Ok(frame);
        }
        let backed = self.backing.get(index * PAGE_SIZE..).unwrap_or_default();
        let frame = if backed.is_empty() {
            Frame::new_for_data()?
        } else {
            Frame::new_zeroed()?
        };
        frame.write(0, &backed[..backed.len().min(PAGE_SIZE)]);
        Ok(slot.insert(frame))
    }
}

/// Page and place within it. Positions are below [`SIZE_MAX_BYTES`] here.
fn split(at: u64) -> (usize, usize) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    (at / PAGE_SIZE, at % PAGE_SIZE)
}

fn copy_padded(from: &[u8], at: usize, to: &mut [u8]) {
    let from = from.get(at..).unwrap_or_default();
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
    to[len..].fill(0);
}

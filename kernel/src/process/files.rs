//! What a process has open. Linux: fs/file.c.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::fs::OpenFile;
use crate::syscall::Errno;

/// Most open files. Linux: `RLIMIT_NOFILE`.
pub const FILES_MAX: usize = 1024;

/// An open file under a number.
#[derive(Clone, Debug)]
pub struct Fd {
    /// The file.
    pub file: Arc<OpenFile>,
    /// A new program does not get it.
    pub close_on_exec: bool,
}

/// The open files by number.
#[derive(Debug, Default)]
pub struct FdTable {
    slots: Vec<Option<Fd>>,
}

impl FdTable {
    /// The file with this number.
    pub fn get(&self, number: u64) -> Result<&Fd, Errno> {
        let slot = usize::try_from(number)
            .ok()
            .and_then(|number| self.slots.get(number));
        slot.and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    /// The file with this number, to change.
    pub fn get_mut(&mut self, number: u64) -> Result<&mut Fd, Errno> {
        let slot = usize::try_from(number)
            .ok()
            .and_then(|number| self.slots.get_mut(number));
        slot.and_then(Option::as_mut).ok_or(Errno::BADF)
    }

    /// Gives a file the lowest free number from `least` on.
    pub fn insert(&mut self, least: usize, fd: Fd) -> Result<u64, Errno> {
        let used = self
            .slots
            .iter()
            .skip(least)
            .take_while(|slot| slot.is_some())
            .count();
        let number = least.max(least + used);
        if number >= FILES_MAX {
            return Err(Errno::MFILE);
        }
        self.grow_to(number + 1)?;
        self.slots[number] = Some(fd);
        Ok(number as u64)
    }

    /// Gives a file this number; what had it before.
    pub fn replace(&mut self, number: u64, fd: Fd) -> Result<Option<Fd>, Errno> {
        let number = usize::try_from(number)
            .ok()
            .filter(|&number| number < FILES_MAX)
            .ok_or(Errno::BADF)?;
        self.grow_to(number + 1)?;
        Ok(self.slots[number].replace(fd))
    }

    /// Takes the number away. Drop what is returned without a lock: the last owner closes the file.
    pub fn remove(&mut self, number: u64) -> Result<Fd, Errno> {
        let slot = usize::try_from(number)
            .ok()
            .and_then(|number| self.slots.get_mut(number));
        slot.and_then(Option::take).ok_or(Errno::BADF)
    }

    /// The same files under the same numbers, for a child.
    pub fn fork(&self) -> Result<Self, Errno> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(self.slots.len())?;
        slots.extend(self.slots.iter().cloned());
        Ok(Self { slots })
    }

    /// Takes those away that a new program does not get, one by one.
    pub fn take_close_on_exec(&mut self) -> Option<Fd> {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.as_ref().is_some_and(|fd| fd.close_on_exec))?;
        slot.take()
    }

    fn grow_to(&mut self, len: usize) -> Result<(), Errno> {
        if len > self.slots.len() {
            self.slots.try_reserve(len - self.slots.len())?;
            self.slots.resize(len, None);
        }
        Ok(())
    }
}

//! Device registers in memory, 32 bits wide.
#![expect(unsafe_code, reason = "device registers")]

use core::ptr::NonNull;

use volatile::Volatile;

/// A block of registers.
#[derive(Debug)]
pub struct Registers {
    base: NonNull<u32>,
    len_bytes: usize,
}

// SAFETY: a register is reached by single volatile reads and writes, from any CPU.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// 1. `base` is the start of `len_bytes` of device registers, mapped uncached for as long as the value lives, 4-byte aligned.
    /// 2. No read or write of them endangers memory.
    pub unsafe fn new(base: NonNull<u8>, len_bytes: usize) -> Self {
        Self {
            base: base.cast(),
            len_bytes,
        }
    }

    fn cell(&self, offset: usize) -> *mut u32 {
        assert!(
            offset % 4 == 0 && offset < self.len_bytes,
            "no register at {offset:#x}"
        );
        self.base.as_ptr().wrapping_byte_add(offset)
    }

    /// Reads the register at `offset`.
    ///
    /// # Panics
    /// If there is none.
    pub fn read(&self, offset: usize) -> u32 {
        // SAFETY: inside the block, aligned; the reference lives for one volatile read.
        Volatile::new_read_only(unsafe { &*self.cell(offset) }).read()
    }

    /// Writes the register at `offset`.
    ///
    /// # Panics
    /// If there is none.
    pub fn write(&self, offset: usize, value: u32) {
        // SAFETY: inside the block, aligned; the reference lives for one volatile write.
        Volatile::new(unsafe { &mut *self.cell(offset) }).write(value);
    }
}

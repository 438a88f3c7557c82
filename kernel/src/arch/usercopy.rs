//! Copies between kernel and user memory, which may fault, and a table that says where to go on then.
//!
//! A fault at a listed instruction first goes to `mm`, which may bring the page in; if it cannot, the copy ends early. SMAP, where the CPU
//! has it, is open only inside these routines.
#![expect(unsafe_code, reason = "calls assembly")]

use core::fmt;
use core::mem::{MaybeUninit, size_of};
use core::slice;

use super::USER_END;

/// A user address that cannot be reached. Linux: `EFAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad address")
    }
}

impl core::error::Error for Fault {}

#[repr(C)]
struct Entry {
    instruction: u64,
    fixup: u64,
}

unsafe extern "C" {
    static __ex_table_start: Entry;
    static __ex_table_end: Entry;

    fn user_copy(dst: u64, src: u64, len_bytes: usize) -> usize;
    fn user_clear(dst: u64, len_bytes: usize) -> usize;
    fn user_string(dst: *mut u8, src: u64, max_bytes: usize) -> usize;
    fn probe_read(address: u64, out: &mut u64) -> u32;
}

/// Where to go on after a fault at `rip`, if that is an instruction that may fault.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const __ex_table_start;
    let len = ((&raw const __ex_table_end).addr() - start.addr()) / size_of::<Entry>();
    // SAFETY: the linker script puts the entries there, one after the other.
    let table = unsafe { slice::from_raw_parts(start, len) };
    table
        .iter()
        .find(|entry| entry.instruction == rip)
        .map(|entry| entry.fixup)
}

/// Does the whole range belong to user mode? Linux: `access_ok`.
pub fn is_user_range(start: u64, len_bytes: usize) -> bool {
    start
        .checked_add(len_bytes as u64)
        .is_some_and(|end| end <= USER_END)
}

/// Fills `dst` from user memory at `src`.
///
/// # Context
/// May sleep: the page may have to be brought in.
///
/// # Errors
/// [`Fault`] if some of it cannot be read; the start of `dst` may have been written then.
pub fn copy_from_user(dst: &mut [u8], src: u64) -> Result<(), Fault> {
    if !is_user_range(src, dst.len()) {
        return Err(Fault);
    }
    // SAFETY: `dst` is ours, for its length; reads of user memory may fault, and that is caught.
    if unsafe { user_copy(dst.as_mut_ptr().addr() as u64, src, dst.len()) } == 0 {
        Ok(())
    } else {
        Err(Fault)
    }
}

/// Writes `src` to user memory at `dst`.
///
/// # Context
/// May sleep.
///
/// # Errors
/// [`Fault`] if some of it cannot be written; the start may have been written then.
pub fn copy_to_user(dst: u64, src: &[u8]) -> Result<(), Fault> {
    if !is_user_range(dst, src.len()) {
        return Err(Fault);
    }
    // SAFETY: only user memory is written, through the running program's own mappings; faults are caught.
    if unsafe { user_copy(dst, src.as_ptr().addr() as u64, src.len()) } == 0 {
        Ok(())
    } else {
        Err(Fault)
    }
}

/// Zeroes user memory.
///
/// # Context
/// May sleep.
///
/// # Errors
/// [`Fault`] as for [`copy_to_user`].
pub fn clear_user(dst: u64, len_bytes: usize) -> Result<(), Fault> {
    if !is_user_range(dst, len_bytes) {
        return Err(Fault);
    }
    // SAFETY: as in `copy_to_user`.
    if unsafe { user_clear(dst, len_bytes) } == 0 {
        Ok(())
    } else {
        Err(Fault)
    }
}

/// Copies a string from user memory, NUL included if it fits, and returns its length without the NUL: `dst.len()` if there was none in time.
///
/// # Context
/// May sleep.
///
/// # Errors
/// [`Fault`] if a byte before the NUL cannot be read.
pub fn strncpy_from_user(dst: &mut [u8], src: u64) -> Result<usize, Fault> {
    if src >= USER_END {
        return Err(Fault);
    }
    let reach = usize::try_from(USER_END - src).unwrap_or(usize::MAX);
    let max_bytes = dst.len().min(reach);
    // SAFETY: `dst` is ours for `max_bytes`; faults of the source are caught.
    match unsafe { user_string(dst.as_mut_ptr(), src, max_bytes) } {
        usize::MAX => Err(Fault),
        len if len == max_bytes && max_bytes < dst.len() => Err(Fault),
        len => Ok(len),
    }
}

/// Types of which every pattern of bytes is a value, and which have no padding.
///
/// # Safety
/// Just that.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($ty:ty),*) => {
        $(
            // SAFETY: an integer.
            unsafe impl Plain for $ty {}
        )*
    };
}
plain!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

// SAFETY: an array has no padding of its own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Reads a value from user memory. Linux: `get_user`.
///
/// # Context
/// May sleep.
///
/// # Errors
/// [`Fault`] if it cannot be read.
pub fn get_user<T: Plain>(src: u64) -> Result<T, Fault> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the value's own bytes, all initialised.
    let bytes =
        unsafe { slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    copy_from_user(bytes, src)?;
    // SAFETY: any bytes are a `T`.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value to user memory. Linux: `put_user`.
///
/// # Context
/// May sleep.
///
/// # Errors
/// [`Fault`] if it cannot be written.
pub fn put_user<T: Plain>(dst: u64, value: T) -> Result<(), Fault> {
    // SAFETY: the value's own bytes; it has no padding.
    let bytes = unsafe { slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
    copy_to_user(dst, bytes)
}

/// Reads a word of kernel memory that may not be mapped. Linux: `get_kernel_nofault`.
pub fn probe(address: u64) -> Option<u64> {
    let mut value = 0;
    // SAFETY: a fault of the read is caught, and nothing but `value` is written.
    (unsafe { probe_read(address, &mut value) } == 0).then_some(value)
}

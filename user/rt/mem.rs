//! The memory functions that the compiler calls: the host's `core` expects a C library to have them, and these programs have none.
#![no_std]

use core::arch::asm;

/// C's `memcpy`.
///
/// # Safety
/// As C says: `n` bytes readable at `src`, writable at `dest`, and no overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear, as the ABI says.
    unsafe {
        asm!("rep movsb", inout("rdi") dest => _, inout("rsi") src => _, inout("rcx") n => _, options(nostack, preserves_flags))
    };
    dest
}

/// C's `memmove`.
///
/// # Safety
/// As C says: `n` bytes readable at `src` and writable at `dest`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    if (dest as usize).wrapping_sub(src as usize) >= n {
        // SAFETY: copying upwards reads each byte before it is written, since `dest` does not start inside the source.
        return unsafe { memcpy(dest, src, n) };
    }
    // SAFETY: the caller's promise; downwards from the last bytes (n > 0 here), and the flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") dest.add(n - 1) => _, inout("rsi") src.add(n - 1) => _, inout("rcx") n => _,
            options(nostack));
    };
    dest
}

/// C's `memset`.
///
/// # Safety
/// As C says: `n` bytes writable at `dest`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(dest: *mut u8, value: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear, as the ABI says.
    unsafe {
        asm!("rep stosb", inout("rdi") dest => _, in("al") value as u8, inout("rcx") n => _, options(nostack, preserves_flags))
    };
    dest
}

/// C's `memcmp`.
///
/// # Safety
/// As C says: `n` bytes readable at both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    let mut at = 0;
    while at < n {
        // SAFETY: at < n, and the caller's promise.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

/// C's `bcmp`, which the compiler prefers where only equality counts.
///
/// # Safety
/// As C says: `n` bytes readable at both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, n) }
}

/// C's `strlen`, which the compiler sees in loops that look for a zero.
///
/// # Safety
/// As C says: a zero byte follows somewhere, and everything up to it is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: no byte before this one was zero, so the caller's promise covers it; volatile, or the loop would become a call of itself.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

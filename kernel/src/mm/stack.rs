//! Kernel stacks, with a page below each that is never mapped.
#![expect(unsafe_code, reason = "frees what it allocated")]

use core::sync::atomic::{AtomicUsize, Ordering};

use kmm::frame::{Gfp, VirtAddr};

use super::manager;

/// Bytes of a kernel stack.
pub const STACK_BYTES: usize = crate::arch::KERNEL_STACK_BYTES;

static NR_STACKS: AtomicUsize = AtomicUsize::new(0);

/// How many there are.
pub fn nr_stacks() -> usize {
    NR_STACKS.load(Ordering::Relaxed)
}

/// A stack of a kernel thread or of a process in the kernel.
///
/// vmalloc leaves a page free after each area, and nothing lies before its first one, so the page below the stack faults.
#[derive(Debug)]
pub struct KernelStack {
    base: VirtAddr,
}

impl KernelStack {
    /// The end: where an empty stack points.
    pub fn top(&self) -> u64 {
        self.base.as_u64() + STACK_BYTES as u64
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        NR_STACKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the stack is dropped by another thread than the one that ran on it.
        let freed = unsafe { manager().vmalloc().vfree(self.base) };
        debug_assert!(
            freed.is_ok(),
            "a kernel stack is no vmalloc area: {freed:?}"
        );
    }
}

/// A new stack, if there is memory.
pub fn alloc_kernel_stack() -> Option<KernelStack> {
    let base = manager().vmalloc().vmalloc(STACK_BYTES, Gfp::KERNEL).ok()?;
    NR_STACKS.fetch_add(1, Ordering::Relaxed);
    Some(KernelStack { base })
}

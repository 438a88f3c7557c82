//! Kernel stacks, with a page below each that is never mapped.
#![expect(unsafe_code, reason = "fills, reads and frees what it allocated")]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kmm::frame::{Gfp, NodeItem, PAGE_SIZE, VirtAddr};

use super::manager;

/// Bytes of a kernel stack.
pub const STACK_BYTES: usize = crate::arch::KERNEL_STACK_BYTES;

/// Stacks are counted in KiB.
const KIB_PER_PAGE: isize = 4;
const _: () = assert!(KIB_PER_PAGE as usize * 1024 == PAGE_SIZE);

/// What an unused word of a measured stack holds.
const UNUSED: u64 = 0x5acf_5acf_5acf_5acf;

static IS_MEASURED: AtomicBool = AtomicBool::new(false);
static DEEPEST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// From now on, new stacks are filled with a pattern and looked at when they are given back. How much of one was used at most, of
/// those given back until now. Linux: `CONFIG_DEBUG_STACK_USAGE`.
pub fn measure_stacks() -> usize {
    IS_MEASURED.store(true, Ordering::Relaxed);
    DEEPEST_BYTES.load(Ordering::Relaxed)
}

/// A stack of a kernel thread or of a process in the kernel.
///
/// vmalloc leaves a page free after each area, and nothing lies before its first one, so the page below the stack faults.
#[derive(Debug)]
pub struct KernelStack {
    base: VirtAddr,
    is_measured: bool,
}

impl KernelStack {
    /// The end: where an empty stack points.
    pub fn top(&self) -> u64 {
        self.base.as_u64() + STACK_BYTES as u64
    }

    fn words(&self) -> *mut [u64] {
        let first = core::ptr::with_exposed_provenance_mut(self.base.as_usize());
        core::ptr::slice_from_raw_parts_mut(first, STACK_BYTES / size_of::<u64>())
    }

    /// Writes the pattern.
    fn fill(&mut self) {
        // SAFETY: the stack is mapped and writable, and nobody runs on it yet.
        unsafe { &mut *self.words() }.fill(UNUSED);
        self.is_measured = true;
    }

    /// How much of it was used at most.
    fn used_bytes(&self) -> usize {
        // SAFETY: the stack is mapped, all of it was written by `fill`, and nobody runs on it any more.
        let words = unsafe { &*self.words() };
        let unused = words.iter().take_while(|&&word| word == UNUSED).count();
        STACK_BYTES - unused * size_of::<u64>()
    }
}

/// Counts the pages of a stack by their nodes. Linux: `account_kernel_stack`.
fn count(base: VirtAddr, kib: isize) {
    let manager = manager();
    manager.vmalloc().with_root(|root, mapper| {
        for at in (0..STACK_BYTES as u64).step_by(PAGE_SIZE) {
            if let Some(leaf) = mapper.walk(root, base + at).leaf() {
                let pages = manager.pages();
                pages.mod_node_count(leaf.pte.pfn(), NodeItem::KernelStack, kib);
            }
        }
    });
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        count(self.base, -KIB_PER_PAGE);
        if self.is_measured {
            DEEPEST_BYTES.fetch_max(self.used_bytes(), Ordering::Relaxed);
        }
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
    count(base, KIB_PER_PAGE);
    let mut stack = KernelStack {
        base,
        is_measured: false,
    };
    if IS_MEASURED.load(Ordering::Relaxed) {
        stack.fill();
    }
    Some(stack)
}

//! What each CPU has of its own, found through GS.
//!
//! In kernel mode GS points to this CPU's [`PerCpu`]; `swapgs` on entry from user mode makes it so. It is set before anything locks or
//! prints. The assembly of `entry.S` knows the first fields by offset. Nobody but its own CPU touches it: what CPUs want of each other
//! goes through [`crate::smp`].
#![expect(unsafe_code, reason = "GS-relative data")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{FS, GS, Segment};
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::registers::segmentation::SegmentSelector;

use kmm::host::LOCAL_WORDS;

use super::gdt::Descriptors;
use crate::smp::MAX_CPUS;

/// One CPU's data.
#[repr(C, align(64))]
pub struct PerCpu {
    this: *const PerCpu,
    /// Where the kernel stack of the running task begins; loaded by system-call entry.
    kernel_stack_top: u64,
    /// The user's RSP between `syscall` and the first push.
    user_rsp: u64,
    /// How many IRQ-off locks are held.
    pub(super) irq_off_depth: u32,
    /// Were interrupts on when the first of them was taken?
    pub(super) irqs_were_on: bool,
    /// Number of this CPU; 0 booted.
    cpu: u32,
    /// How many interrupts are being handled.
    pub(super) nr_interrupts: u32,
    /// What the memory manager keeps near at hand.
    local_words: [AtomicPtr<()>; LOCAL_WORDS],
    pub(super) descriptors: Descriptors,
}

const _: () = assert!(
    offset_of!(PerCpu, this) == 0
        && offset_of!(PerCpu, kernel_stack_top) == 8
        && offset_of!(PerCpu, user_rsp) == 16
);

impl PerCpu {
    /// The data of a CPU that has not started.
    pub const fn new(cpu: u32) -> Self {
        Self {
            this: ptr::null(),
            kernel_stack_top: 0,
            user_rsp: 0,
            irq_off_depth: 0,
            irqs_were_on: false,
            cpu,
            nr_interrupts: 0,
            local_words: no_words(),
            descriptors: Descriptors::new(),
        }
    }

    /// As [`Self::new`], written to where it will be: it is too large for a stack.
    ///
    /// # Safety
    /// `this` is valid for writes of a [`PerCpu`], and aligned.
    pub unsafe fn new_in(this: *mut Self, cpu: u32) {
        // SAFETY: the caller's promise.
        unsafe { this.write_bytes(0, 1) };
        // SAFETY: as above; zeros are values of every field.
        let this = unsafe { &mut *this };
        this.cpu = cpu;
        this.descriptors.finish_zeros();
    }
}

const fn no_words() -> [AtomicPtr<()>; LOCAL_WORDS] {
    [const { AtomicPtr::new(ptr::null_mut()) }; LOCAL_WORDS]
}

/// The words of every CPU, those that have not started too.
static LOCAL_WORDS_OF: [[AtomicPtr<()>; LOCAL_WORDS]; MAX_CPUS] = [const { no_words() }; MAX_CPUS];

/// Where the data of the CPUs that have started lies.
static STARTED: [AtomicPtr<PerCpu>; MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

struct BootCpu(UnsafeCell<PerCpu>);

// SAFETY: reached through GS alone, by CPU 0.
unsafe impl Sync for BootCpu {}

static BOOT_CPU: BootCpu = BootCpu(UnsafeCell::new(PerCpu::new(0)));

/// Points GS at the boot CPU's data.
pub fn init_boot_cpu() {
    // SAFETY: a static; nobody else runs yet.
    unsafe { init(BOOT_CPU.0.get()) };
}

/// Points GS at `this`, the data of the CPU that calls.
///
/// # Safety
/// `this` is a [`PerCpu`] that lives for ever, and that no other CPU uses.
pub unsafe fn init(this: *mut PerCpu) {
    // SAFETY: the caller's promise.
    unsafe { (*this).this = this };
    // SAFETY: null selectors are always valid for data; whatever the bootloader had there goes with its GDT.
    unsafe { FS::set_reg(SegmentSelector::NULL) };
    // SAFETY: as above; the base comes next.
    unsafe { GS::set_reg(SegmentSelector::NULL) };
    GsBase::write(VirtAddr::from_ptr(this));
    KernelGsBase::write(VirtAddr::zero());
    let cpu = cpu() as usize;
    // First known, then copied: a word that changes meanwhile is set by one of both.
    STARTED[cpu].store(this, Ordering::SeqCst);
    for (nr, word) in LOCAL_WORDS_OF[cpu].iter().enumerate() {
        set_word(this, nr, word.load(Ordering::SeqCst));
    }
}

/// Sets a word of a CPU that [`local_word`] reads there.
pub fn set_local_word(cpu: usize, nr: usize, word: *mut ()) {
    LOCAL_WORDS_OF[cpu][nr].store(word, Ordering::SeqCst);
    let started = STARTED[cpu].load(Ordering::SeqCst);
    if !started.is_null() {
        set_word(started, nr, word);
    }
}

fn set_word(this: *mut PerCpu, nr: usize, word: *mut ()) {
    // SAFETY: one that was started, and so lives for ever.
    let words = unsafe { &raw const (*this).local_words };
    // SAFETY: as above; the words are atomics, never written otherwise.
    let words = unsafe { &*words };
    words[nr].store(word, Ordering::SeqCst);
}

/// A word of this CPU: one instruction if the number is a constant where this is inlined, and one that most ask for.
#[inline(always)]
pub fn local_word(nr: usize) -> *mut () {
    match nr {
        2 => word_at::<2>(),
        4 => word_at::<4>(),
        10 => word_at::<10>(),
        12 => word_at::<12>(),
        14 => word_at::<14>(),
        15 => word_at::<15>(),
        _ => word(nr % LOCAL_WORDS),
    }
}

#[inline(always)]
fn word(nr: usize) -> *mut () {
    let word: *mut ();
    // SAFETY: GS points to a `PerCpu`, and this is a word of it.
    unsafe {
        asm!("mov {}, gs:[{}*8 + {}]", out(reg) word, in(reg) nr, const offset_of!(PerCpu, local_words),
             options(nostack, preserves_flags, readonly, pure))
    }
    word
}

#[inline(always)]
fn word_at<const NR: usize>() -> *mut () {
    let word: *mut ();
    // SAFETY: GS points to a `PerCpu`, and this is a word of it.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) word, const offset_of!(PerCpu, local_words) + 8 * NR,
             options(nostack, preserves_flags, readonly, pure))
    }
    word
}

/// This CPU's data. The pointer stays valid; the caller keeps interrupts off while it uses it.
pub(super) fn this_cpu() -> *mut PerCpu {
    let this: *mut PerCpu;
    // SAFETY: GS points to a `PerCpu` whose first field is its own address, since `init`.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly, pure))
    }
    this
}

/// Where this CPU's data lies.
pub fn this() -> usize {
    this_cpu().addr()
}

/// The number of the running CPU; 0 booted.
#[inline]
pub fn cpu() -> u32 {
    let cpu: u32;
    // SAFETY: GS points to a `PerCpu`, and its number never changes.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) cpu, const offset_of!(PerCpu, cpu), options(nostack, preserves_flags, readonly, pure))
    }
    cpu
}

/// The stack for the next entry from user mode: traps (TSS.RSP0) and system calls. The scheduler calls it before each switch.
///
/// # Context
/// Interrupts off.
pub fn set_kernel_stack(top: u64) {
    let this = this_cpu();
    // SAFETY: interrupts are off, and only this CPU touches its data.
    unsafe { (*this).kernel_stack_top = top };
    // SAFETY: as above.
    unsafe { (*this).descriptors.set_kernel_stack(top) };
}

/// What [`set_kernel_stack`] was told last; 0 before the first call.
pub fn kernel_stack_top() -> u64 {
    // SAFETY: read by the CPU that writes it.
    unsafe { (*this_cpu()).kernel_stack_top }
}

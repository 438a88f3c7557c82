//! What the CPU must remember of a task that does not run: a kernel stack pointer, and for user tasks the segment bases and the FPU.
//!
//! [`switch`] runs with interrupts off. It returns when somebody switches back; a new task starts in `start_kernel_thread` or
//! `start_user_thread` of `entry.S`, which first call `process::finish_first_switch` (where the scheduler's lock is released).
#![expect(unsafe_code, reason = "switches stacks")]

use core::mem::size_of;

use super::fpu::FpuState;
use super::trap::TrapFrame;
use super::{fs_base, set_fs_base, set_user_gs_base, user_gs_base};
use crate::process;

unsafe extern "C" {
    fn switch_stacks(prev_rsp: *mut u64, next_rsp: u64);
    fn start_kernel_thread();
    fn start_user_thread();
}

/// A task's saved state.
#[derive(Clone, Debug)]
pub struct Context {
    rsp: u64,
    fs_base: u64,
    gs_base: u64,
    is_user: bool,
    fpu: FpuState,
}

/// What [`switch_stacks`] pops: R15, R14, R13, R12, RBX, RBP, return address.
#[repr(C)]
struct FirstFrame {
    r15: u64,
    r14: u64,
    argument: u64,
    function: u64,
    rbx: u64,
    rbp: u64,
    start: u64,
}

impl Context {
    /// For the task that is running now: filled at its first switch.
    pub const fn running() -> Self {
        Self {
            rsp: 0,
            fs_base: 0,
            gs_base: 0,
            is_user: false,
            fpu: FpuState::init(),
        }
    }

    /// A thread that runs `function(argument)` in kernel mode, interrupts on, and never returns from it.
    ///
    /// # Safety
    /// `stack_top` is the end of a stack, mapped in every address space, that nobody else uses and that outlives the thread.
    pub unsafe fn new_kernel_thread(
        stack_top: u64,
        function: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> Self {
        let first = FirstFrame {
            r15: 0,
            r14: 0,
            argument: argument as u64,
            function: function as *const () as u64,
            rbx: 0,
            rbp: 0,
            start: start_kernel_thread as *const () as u64,
        };
        // SAFETY: the caller's promise.
        let rsp = unsafe { push(stack_top & !15, first) };
        Self {
            rsp,
            ..Self::running()
        }
    }

    /// A thread that enters user mode with `frame`, a fresh FPU and no segment bases.
    ///
    /// # Safety
    /// As for [`Self::new_kernel_thread`].
    pub unsafe fn new_user_thread(stack_top: u64, frame: &TrapFrame) -> Self {
        // SAFETY: the caller's promise.
        let frame_at = unsafe { push(stack_top & !15, *frame) };
        let first = FirstFrame {
            r15: 0,
            r14: 0,
            argument: 0,
            function: 0,
            rbx: 0,
            rbp: 0,
            start: start_user_thread as *const () as u64,
        };
        // SAFETY: the same stack, below the frame.
        let rsp = unsafe { push(frame_at, first) };
        Self {
            rsp,
            is_user: true,
            ..Self::running()
        }
    }

    /// Like [`Self::new_user_thread`], with the FPU and the segment bases of the running task: the child's side of fork.
    ///
    /// # Safety
    /// As for [`Self::new_kernel_thread`].
    pub unsafe fn fork_user_thread(stack_top: u64, frame: &TrapFrame) -> Self {
        // SAFETY: the caller's promise.
        let mut context = unsafe { Self::new_user_thread(stack_top, frame) };
        context.fpu.save();
        context.fs_base = fs_base();
        context.gs_base = user_gs_base();
        context
    }

    /// The FS base that the task will have when it runs. For `clone` with `CLONE_SETTLS`. It must be below the end of user addresses.
    pub fn set_fs_base(&mut self, base: u64) {
        self.fs_base = base;
    }
}

/// Gives the running task what a new program starts with: FPU reset, segment bases zero. For execve.
pub fn reset_user_state() {
    FpuState::init().restore();
    set_fs_base(0);
    set_user_gs_base(0);
}

/// # Safety
/// `size_of::<T>()` bytes below `top` are unused stack.
unsafe fn push<T>(top: u64, value: T) -> u64 {
    let place = top - size_of::<T>() as u64;
    // SAFETY: the caller's promise; both types have a size that keeps 8-byte alignment, and frames 16-byte alignment.
    unsafe { (place as *mut T).write(value) };
    place
}

/// Stops the running task, whose state goes to `prev`, and continues `next`. Linux: `switch_to`.
///
/// # Context
/// Interrupts off. [`super::set_kernel_stack`] has been told the stack of `next`, and CR3 has its address space.
///
/// # Safety
/// 1. `prev` and `next` are valid for writes and reads, and stay so until each is switched to again.
/// 2. `prev` belongs to the running task; `next` to a task that is not running anywhere.
pub unsafe fn switch(prev: *mut Context, next: *const Context) {
    // SAFETY: obligation 1; the task does not run elsewhere, so nobody else reads or writes its state now.
    let saved = unsafe { &mut *prev };
    if saved.is_user {
        saved.fpu.save();
        saved.fs_base = fs_base();
        saved.gs_base = user_gs_base();
    }
    // SAFETY: as above.
    let loaded = unsafe { &*next };
    if loaded.is_user {
        loaded.fpu.restore();
        set_fs_base(loaded.fs_base);
        set_user_gs_base(loaded.gs_base);
    }
    // SAFETY: both stacks are in the state that `switch_stacks` or the constructors above left them in.
    unsafe { switch_stacks(&raw mut saved.rsp, loaded.rsp) };
}

#[unsafe(no_mangle)]
extern "C" fn finish_first_switch() {
    process::finish_first_switch();
}

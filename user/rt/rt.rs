//! What a program of ours needs: a start, system calls, text, and checks that are told one by one.
//!
//! Included by each program: `#[path = "rt/rt.rs"] mod rt;`. No libc and no heap: the same file runs on Linux and on kmm.
#![allow(dead_code, reason = "no program uses all of it")]

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "Rust" {
    fn main(args: &Args) -> i32;
}

extern "C" fn start(stack: *const usize) -> ! {
    let args = Args { stack };
    // SAFETY: each program defines `main` with this signature.
    let code = unsafe { main(&args) };
    exit(code)
}

/// What the kernel left on the stack.
pub struct Args {
    stack: *const usize,
}

impl Args {
    fn word(&self, at: usize) -> usize {
        // SAFETY: the lists that end in a zero are followed no further than that.
        unsafe { self.stack.add(at).read() }
    }

    /// How many arguments.
    pub fn count(&self) -> usize {
        self.word(0)
    }

    /// An argument; the first is the program's name.
    pub fn get(&self, at: usize) -> Option<&str> {
        (at < self.count()).then(|| string(self.word(1 + at)))
    }

    /// The pointers to the arguments, as execve wants them.
    pub fn env(&self) -> *const usize {
        // SAFETY: behind the arguments and their zero.
        unsafe { self.stack.add(self.count() + 2) }
    }

    /// A value of the auxiliary vector.
    pub fn aux(&self, key: usize) -> Option<usize> {
        let mut at = self.count() + 2;
        while self.word(at) != 0 {
            at += 1;
        }
        at += 1;
        while self.word(at) != 0 {
            if self.word(at) == key {
                return Some(self.word(at + 1));
            }
            at += 2;
        }
        None
    }
}

/// A string of the kernel's making.
pub fn string(addr: usize) -> &'static str {
    let bytes = addr as *const u8;
    let mut len = 0;
    // SAFETY: the kernel ends strings with a zero. Volatile, or the compiler makes it a call of `strlen`, which is not there.
    while unsafe { bytes.add(len).read_volatile() } != 0 {
        len += 1;
    }
    // SAFETY: just looked at, and never changed.
    let bytes = unsafe { core::slice::from_raw_parts(bytes, len) };
    core::str::from_utf8(bytes).unwrap_or("?")
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Out, "panic: {info}");
    exit(101)
}

/// A system call, as it is: a negative number is an error.
///
/// # Safety
/// What the call says.
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
            in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _)
    };
    result
}

/// A system call with up to six arguments.
#[macro_export]
macro_rules! sys {
    ($number:expr $(, $arg:expr)* $(,)?) => {{
        let args = [$($arg as usize),*];
        let mut all = [0_usize; 6];
        all[..args.len()].copy_from_slice(&args);
        // SAFETY: a test program of one thread, which means what it says.
        unsafe { $crate::rt::syscall($number, all) }
    }};
}

pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const STAT: usize = 4;
    pub const FSTAT: usize = 5;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const MPROTECT: usize = 10;
    pub const MUNMAP: usize = 11;
    pub const BRK: usize = 12;
    pub const SIGACTION: usize = 13;
    pub const SIGPROCMASK: usize = 14;
    pub const PREAD: usize = 17;
    pub const READV: usize = 19;
    pub const ACCESS: usize = 21;
    pub const PIPE: usize = 22;
    pub const YIELD: usize = 24;
    pub const MREMAP: usize = 25;
    pub const MINCORE: usize = 27;
    pub const MADVISE: usize = 28;
    pub const DUP: usize = 32;
    pub const DUP2: usize = 33;
    pub const NANOSLEEP: usize = 35;
    pub const GETPID: usize = 39;
    pub const CLONE: usize = 56;
    pub const FORK: usize = 57;
    pub const VFORK: usize = 58;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const UNAME: usize = 63;
    pub const FCNTL: usize = 72;
    pub const TRUNCATE: usize = 76;
    pub const FTRUNCATE: usize = 77;
    pub const GETCWD: usize = 79;
    pub const CHDIR: usize = 80;
    pub const RENAME: usize = 82;
    pub const MKDIR: usize = 83;
    pub const RMDIR: usize = 84;
    pub const UNLINK: usize = 87;
    pub const SYMLINK: usize = 88;
    pub const READLINK: usize = 89;
    pub const SYSINFO: usize = 99;
    pub const GETPPID: usize = 110;
    pub const SIGSUSPEND: usize = 130;
    pub const ARCH_PRCTL: usize = 158;
    pub const GETDENTS64: usize = 217;
    pub const CLOCK_GETTIME: usize = 228;
    pub const PIPE2: usize = 293;
    pub const MEMFD_CREATE: usize = 319;
}

pub mod errno {
    pub const NOENT: isize = -2;
    pub const INTR: isize = -4;
    pub const TOOBIG: isize = -7;
    pub const NOEXEC: isize = -8;
    pub const BADF: isize = -9;
    pub const CHILD: isize = -10;
    pub const AGAIN: isize = -11;
    pub const NOMEM: isize = -12;
    pub const ACCES: isize = -13;
    pub const FAULT: isize = -14;
    pub const EXIST: isize = -17;
    pub const NOTDIR: isize = -20;
    pub const ISDIR: isize = -21;
    pub const INVAL: isize = -22;
    pub const PIPE: isize = -32;
    pub const NOTEMPTY: isize = -39;
    pub const LOOP: isize = -40;
}

pub const PAGE: usize = 4096;
pub const READ: usize = 1;
pub const WRITE: usize = 2;
pub const EXEC: usize = 4;
pub const SHARED: usize = 1;
pub const PRIVATE: usize = 2;
pub const FIXED: usize = 0x10;
pub const ANONYMOUS: usize = 0x20;
pub const NORESERVE: usize = 0x4000;

pub const SIGKILL: usize = 9;
pub const SIGUSR1: usize = 10;
pub const SIGSEGV: usize = 11;
pub const SIGUSR2: usize = 12;
pub const SIGPIPE: usize = 13;
pub const SIGBUS: usize = 7;
pub const SIGCHLD: usize = 17;

/// Ends the program.
pub fn exit(code: i32) -> ! {
    sys!(nr::EXIT, code as u32);
    loop {}
}

/// Standard output.
pub struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        sys!(nr::WRITE, 1, text.as_ptr(), text.len());
        Ok(())
    }
}

#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::rt::Out, $($arg)*);
    }};
}

static FAILED: AtomicU32 = AtomicU32::new(0);

/// Tells whether something holds.
pub fn check(holds: bool, what: &str) {
    say!("{}: {what}", if holds { "ok" } else { "FAILED" });
    if !holds {
        FAILED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells whether a call returned what it should.
pub fn check_is(found: isize, expected: isize, what: &str) {
    check(found == expected, what);
    if found != expected {
        say!("  returned {found}, expected {expected}");
    }
}

/// The program's exit code: 0 if everything held.
pub fn verdict() -> i32 {
    i32::from(FAILED.load(Ordering::Relaxed) != 0)
}

/// Maps anonymous private memory; `None` on failure.
pub fn map(len: usize, prot: usize) -> Option<*mut u8> {
    let at = sys!(nr::MMAP, 0, len, prot, PRIVATE | ANONYMOUS, -1_isize, 0);
    (at > 0).then_some(at as *mut u8)
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Exit(i32),
    Signal(usize),
}

/// Runs `f` in a child, and tells how it ended.
pub fn in_child(f: impl FnOnce() -> i32) -> End {
    let pid = sys!(nr::FORK);
    if pid == 0 {
        exit(f());
    }
    wait(pid)
}

/// Waits for a child.
pub fn wait(pid: isize) -> End {
    let mut status = 0_i32;
    loop {
        let ended = sys!(nr::WAIT4, pid, &raw mut status, 0, 0);
        if ended == pid {
            return if status & 0x7f == 0 {
                End::Exit(status >> 8 & 0xff)
            } else {
                End::Signal((status & 0x7f) as usize)
            };
        }
        if ended != errno::INTR {
            say!("FAILED: wait4 returned {ended}");
            exit(1);
        }
    }
}

/// Tells whether a child ended as it should.
pub fn check_end(found: End, expected: End, what: &str) {
    check(found == expected, what);
    if found != expected {
        say!("  ended by {found:?}, expected {expected:?}");
    }
}

#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

const SA_SIGINFO: usize = 4;
pub const SA_RESTORER: usize = 0x0400_0000;
pub const SA_RESTART: usize = 0x1000_0000;
pub const SA_NODEFER: usize = 0x4000_0000;

global_asm!(
    ".globl rt_restorer",
    "rt_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2"
);

unsafe extern "C" {
    fn rt_restorer();
}

/// Registers that a handler may change, in `struct ucontext`, from the fifth word on.
#[repr(transparent)]
pub struct Context(*mut u64);

impl Context {
    const REGISTERS: usize = 5;
    const RIP: usize = 16;

    /// Where the program goes on.
    pub fn set_rip(&mut self, rip: usize) {
        // SAFETY: the kernel gave the handler a whole `struct ucontext`.
        unsafe { self.0.add(Self::REGISTERS + Self::RIP).write(rip as u64) }
    }
}

/// What a handler is told: `siginfo_t`.
#[repr(C)]
pub struct Info {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pad: i32,
    pub addr: usize,
}

/// Calls `handler` on a signal.
pub fn on_signal(
    signal: usize,
    handler: extern "C" fn(i32, &Info, Context),
    flags: usize,
) -> isize {
    let action = KernelAction {
        handler: handler as *const () as usize,
        flags: SA_SIGINFO | SA_RESTORER | flags,
        restorer: rt_restorer as *const () as usize,
        mask: 0,
    };
    sys!(nr::SIGACTION, signal, &raw const action, 0, 8)
}

/// Back to what is usual (0), or nothing (1).
pub fn set_signal(signal: usize, what: usize) -> isize {
    let action = KernelAction {
        handler: what,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    sys!(nr::SIGACTION, signal, &raw const action, 0, 8)
}

/// Is this kernel ours?
pub fn is_kmm() -> bool {
    let mut names = [0_u8; 6 * 65];
    sys!(nr::UNAME, names.as_mut_ptr());
    names[2 * 65..].windows(3).any(|text| text == b"kmm")
}

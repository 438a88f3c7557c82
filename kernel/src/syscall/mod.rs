//! System calls: Linux's numbers and meanings, as far as static programs and memory tests need them. The others are ENOSYS.
//!
//! [`dispatch`] names every call that there is, in the order of the modules that serve them. Arguments are registers: each
//! module takes the bits that Linux takes. User memory is touched only through `user`.

mod errno;
mod files;
mod memory;
mod names;
pub mod nr;
mod poll;
mod signals;
mod system;
mod tasks;
mod terminal;
mod tests;
mod time;
mod user;

use alloc::sync::Arc;

use crate::arch::TrapFrame;
use crate::process::{self, Task};

pub use errno::Errno;
pub use system::VERSION;
pub use tests::TESTS;
pub use time::realtime_s;

/// What a call returns.
type Outcome = Result<u64, Errno>;

/// A call: who makes it, and with what.
struct Call<'a> {
    task: Arc<Task>,
    frame: &'a mut TrapFrame,
    args: [u64; 6],
}

/// Serves the system call of `frame`, and leaves its result there.
pub fn dispatch(frame: &mut TrapFrame) {
    let mut call = Call {
        task: process::current(),
        args: frame.syscall_args(),
        frame,
    };
    let outcome = call.serve();
    call.frame.rax = outcome.unwrap_or_else(Errno::as_return_value);
}

/// Does this call start again when a signal ended it early? Those with a timeout do not.
pub fn is_restartable(number: u64) -> bool {
    matches!(
        number,
        nr::READ
            | nr::WRITE
            | nr::READV
            | nr::WRITEV
            | nr::WAIT4
            | nr::OPEN
            | nr::OPENAT
            | nr::IOCTL
    )
}

impl Call<'_> {
    fn serve(&mut self) -> Outcome {
        let [a, b, c, d, e, f] = self.args;
        match self.frame.syscall_nr() {
            nr::READ => files::read(self, a, b, c),
            nr::WRITE => files::write(self, a, b, c),
            nr::READV => files::readv(self, a, b, c),
            nr::WRITEV => files::writev(self, a, b, c),
            nr::PREAD64 => files::pread(self, a, b, c, d),
            nr::PWRITE64 => files::pwrite(self, a, b, c, d),
            nr::CLOSE => files::close(self, a),
            nr::LSEEK => files::lseek(self, a, b, c),
            nr::FSTAT => files::fstat(self, a, b),
            nr::FTRUNCATE => files::ftruncate(self, a, b),
            nr::FSYNC | nr::FDATASYNC => user::file(&self.task.files, a).map(|_| 0),
            nr::SYNC => Ok(0),
            nr::GETDENTS64 => files::getdents64(self, a, b, c),
            nr::DUP => files::dup(self, a),
            nr::DUP2 => files::dup2(self, a, b),
            nr::DUP3 => files::dup3(self, a, b, c),
            nr::FCNTL => files::fcntl(self, a, b, c),
            nr::PIPE => files::pipe2(self, a, 0),
            nr::PIPE2 => files::pipe2(self, a, b),
            nr::MEMFD_CREATE => files::memfd_create(self, a, b),
            nr::IOCTL => terminal::ioctl(self, a, b, c),

            nr::OPEN => names::openat(self, names::AT_FDCWD, a, b, c),
            nr::CREAT => names::creat(self, a, b),
            nr::OPENAT => names::openat(self, a, b, c, d),
            nr::STAT => names::fstatat(self, names::AT_FDCWD, a, b, 0),
            nr::LSTAT => names::fstatat(self, names::AT_FDCWD, a, b, names::AT_SYMLINK_NOFOLLOW),
            nr::NEWFSTATAT => names::fstatat(self, a, b, c, d),
            nr::ACCESS => names::faccessat(self, names::AT_FDCWD, a, b),
            nr::FACCESSAT | nr::FACCESSAT2 => names::faccessat(self, a, b, c),
            nr::READLINK => names::readlinkat(self, names::AT_FDCWD, a, b, c),
            nr::READLINKAT => names::readlinkat(self, a, b, c, d),
            nr::GETCWD => names::getcwd(self, a, b),
            nr::CHDIR => names::chdir(self, a),
            nr::FCHDIR => names::fchdir(self, a),
            nr::MKDIR => names::mkdirat(self, names::AT_FDCWD, a, b),
            nr::MKDIRAT => names::mkdirat(self, a, b, c),
            nr::RMDIR => names::unlinkat(self, names::AT_FDCWD, a, names::AT_REMOVEDIR),
            nr::UNLINK => names::unlinkat(self, names::AT_FDCWD, a, 0),
            nr::UNLINKAT => names::unlinkat(self, a, b, c),
            nr::RENAME => names::renameat(self, names::AT_FDCWD, a, names::AT_FDCWD, b, 0),
            nr::RENAMEAT => names::renameat(self, a, b, c, d, 0),
            nr::RENAMEAT2 => names::renameat(self, a, b, c, d, e),
            nr::LINK => names::linkat(self, names::AT_FDCWD, a, names::AT_FDCWD, b),
            nr::LINKAT => names::linkat(self, a, b, c, d),
            nr::SYMLINK => names::symlinkat(self, a, names::AT_FDCWD, b),
            nr::SYMLINKAT => names::symlinkat(self, a, b, c),
            nr::CHMOD => names::fchmodat(self, names::AT_FDCWD, a, b),
            nr::FCHMODAT => names::fchmodat(self, a, b, c),
            nr::FCHMOD => names::fchmod(self, a, b),
            // There is one user, who owns everything.
            nr::CHOWN | nr::LCHOWN => names::find(self, names::AT_FDCWD, a, 0).map(|_| 0),
            nr::FCHOWNAT => names::find(self, a, b, e).map(|_| 0),
            nr::FCHOWN => user::file(&self.task.files, a).map(|_| 0),
            nr::TRUNCATE => names::truncate(self, a, b),
            nr::UTIMENSAT => names::utimensat(self, a, b, c, d),
            nr::UMASK => names::umask(self, a),

            nr::MMAP => memory::mmap(self, [a, b, c, d, e, f]),
            nr::MUNMAP => memory::munmap(self, a, b),
            nr::MPROTECT => memory::mprotect(self, a, b, c),
            nr::MREMAP => memory::mremap(self, a, b, c, d, e),
            nr::MADVISE => memory::madvise(self, a, b, c),
            nr::MINCORE => memory::mincore(self, a, b, c),
            nr::MSYNC => memory::msync(self, a, b, c),
            nr::BRK => memory::brk(self, a),

            nr::CLONE => tasks::clone(self, a, b, c, d, e),
            nr::FORK => tasks::fork(self),
            nr::VFORK => tasks::vfork(self),
            nr::EXECVE => tasks::execve(self, a, b, c),
            nr::EXIT | nr::EXIT_GROUP => tasks::exit(self, a),
            nr::WAIT4 => tasks::wait4(self, a, b, c, d),
            nr::GETPID | nr::GETTID | nr::SET_TID_ADDRESS => Ok(u64::from(self.task.pid.get())),
            nr::GETPPID => Ok(u64::from(self.task.parent().get())),
            nr::GETPGRP => Ok(u64::from(self.task.group().get())),
            nr::GETPGID => tasks::getpgid(self, a),
            nr::SETPGID => tasks::setpgid(self, a, b),
            nr::GETSID => tasks::getsid(self, a),
            nr::SETSID => tasks::setsid(self),
            nr::GETUID | nr::GETEUID | nr::GETGID | nr::GETEGID | nr::GETGROUPS => Ok(0),
            nr::SETUID | nr::SETGID if a == 0 => Ok(0),
            nr::SETUID | nr::SETGID | nr::SETGROUPS => Err(Errno::PERM),
            nr::SCHED_YIELD => {
                process::yield_now();
                Ok(0)
            }
            nr::ARCH_PRCTL => tasks::arch_prctl(self, a, b),
            nr::PRCTL => tasks::prctl(self, a, b),
            nr::GETRUSAGE => tasks::getrusage(self, a, b),
            nr::TIMES => tasks::times(self, a),
            nr::GETRLIMIT => tasks::prlimit(self, 0, a, 0, b),
            nr::PRLIMIT64 => tasks::prlimit(self, a, b, c, d),

            nr::RT_SIGACTION => signals::sigaction(self, a, b, c, d),
            nr::RT_SIGPROCMASK => signals::sigprocmask(self, a, b, c, d),
            nr::RT_SIGPENDING => signals::sigpending(self, a, b),
            nr::RT_SIGSUSPEND => signals::sigsuspend(self, a, b),
            nr::RT_SIGRETURN => signals::sigreturn(self),
            nr::SIGALTSTACK => signals::sigaltstack(self, a, b),
            nr::PAUSE => signals::pause(),
            nr::KILL => signals::kill(self, a, b),
            nr::TKILL => signals::kill(self, a, b),
            nr::TGKILL => signals::kill(self, b, c),

            nr::POLL => poll::poll(self, a, b, c),
            nr::PPOLL => poll::ppoll(self, a, b, c, d),
            nr::SELECT => poll::select(self, [a, b, c, d, e]),
            nr::PSELECT6 => poll::pselect6(self, [a, b, c, d, e, f]),

            nr::CLOCK_GETTIME => time::clock_gettime(a, b),
            nr::CLOCK_GETRES => time::clock_getres(b),
            nr::GETTIMEOFDAY => time::gettimeofday(a),
            nr::TIME => time::time(a),
            nr::NANOSLEEP => time::nanosleep(a, b),
            nr::CLOCK_NANOSLEEP => time::clock_nanosleep(b, c, d),

            nr::UNAME => system::uname(a),
            nr::SYSINFO => system::sysinfo(a),
            nr::GETRANDOM => system::getrandom(a, b),
            _ => Err(Errno::NOSYS),
        }
    }
}

//! execve: arguments, environment, what a new program keeps, and files that are no programs.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{
    Args, End, PAGE, PRIVATE, READ, SIGKILL, SIGUSR1, SIGUSR2, WRITE, check, check_end, check_is,
    errno, in_child, map, nr, on_signal, set_signal, verdict, wait,
};

const AT_EXECFN: usize = 31;
const WRONLY_CREATE_TRUNCATE: usize = 0o1101;
const CLOSE_ON_EXEC: usize = 0o200_0000;
const F_GETFD: usize = 1;
const IGNORE: usize = 1;
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SEED: u64 = 0x0dd_ba11;
const ROUNDS: u32 = 100;
/// Most programs end at once: the parent lets them run before it sleeps.
const YIELDS: u32 = 100;
const PATIENCE_MS: u32 = 30;
const FILE: &core::ffi::CStr = c"/tmp/exec-test";

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    match args.get(1) {
        Some("echo") => echo(args),
        Some("inherit") => inherit(args),
        Some("exit") => 42,
        _ => tests(args),
    }
}

/// The new program: are these the arguments that `arguments` gives?
fn echo(args: &Args) -> i32 {
    let count = (1..args.count())
        .filter(|&at| {
            args.get(at)
                .is_some_and(|text| text == if at == 1 { "echo" } else { "x y" })
        })
        .count();
    // SAFETY: the list of the environment ends in a zero.
    let variable = unsafe { args.env().read() };
    i32::from(args.count() != 5 || count != 4 || variable == 0 || rt::string(variable) != "A=1")
}

/// The new program: 3 was to be closed, 4 kept; one signal ignored, the handler of the other gone.
fn inherit(args: &Args) -> i32 {
    let _ = args;
    let closed = sys!(nr::FCNTL, 3, F_GETFD) == errno::BADF && sys!(nr::FCNTL, 4, F_GETFD) == 0;
    sys!(nr::KILL, sys!(nr::GETPID), SIGUSR1);
    if !closed {
        return 1;
    }
    sys!(nr::KILL, sys!(nr::GETPID), SIGUSR2);
    2
}

extern "C" fn handler(_signo: i32, _info: &rt::Info, _context: rt::Context) {}

fn exec(path: usize, args: &[usize]) -> isize {
    let env = [c"A=1".as_ptr() as usize, 0];
    sys!(nr::EXECVE, path, args.as_ptr(), env.as_ptr())
}

fn tests(args: &Args) -> i32 {
    let me = args.aux(AT_EXECFN).unwrap_or(0);
    let name = c"exec".as_ptr() as usize;
    let word = |text: &'static core::ffi::CStr| text.as_ptr() as usize;
    let end = in_child(|| {
        exec(
            me,
            &[
                name,
                word(c"echo"),
                word(c"x y"),
                word(c"x y"),
                word(c"x y"),
                0,
            ],
        );
        99
    });
    check_end(end, End::Exit(0), "arguments and environment arrive");
    let end = in_child(|| {
        (3..8).for_each(|fd| _ = sys!(nr::CLOSE, fd));
        let three = sys!(nr::OPEN, c"/dev/null".as_ptr(), CLOSE_ON_EXEC, 0);
        let four = sys!(nr::DUP, three);
        set_signal(SIGUSR1, IGNORE);
        on_signal(SIGUSR2, handler, 0);
        if (three, four) != (3, 4) {
            return 98;
        }
        exec(me, &[name, word(c"inherit"), 0]);
        99
    });
    check_end(
        end,
        End::Signal(SIGUSR2),
        "files and ignored signals are kept, handlers are not",
    );
    too_much(me);
    not_there();
    scripts(me);
    corpus(me);
    sys!(nr::UNLINK, FILE.as_ptr());
    verdict()
}

fn too_much(me: usize) {
    const BYTES: usize = 4 << 20;
    let Some(long) = map(BYTES, READ | WRITE) else {
        return check(false, "mmap");
    };
    // SAFETY: just mapped; the last byte stays zero.
    unsafe { core::ptr::write_bytes(long, b'a', BYTES - 1) };
    check_is(
        exec(me, &[long as usize, 0]),
        errno::TOOBIG,
        "an argument of 4 MiB is too big",
    );
    let Some(list) = map(8 * BYTES, READ | WRITE) else {
        return check(false, "mmap");
    };
    for at in 0..8 * BYTES / 8 - 1 {
        // SAFETY: just mapped; the last word stays zero.
        unsafe {
            list.cast::<usize>()
                .add(at)
                .write(c"abcdefg".as_ptr() as usize)
        };
    }
    let env = 0_usize;
    check_is(
        sys!(nr::EXECVE, me, list, &raw const env),
        errno::TOOBIG,
        "so are four million of them",
    );
    sys!(nr::MUNMAP, long, BYTES);
    sys!(nr::MUNMAP, list, 8 * BYTES);
}

fn not_there() {
    check_is(
        exec(c"/tmp/not-there".as_ptr() as usize, &[0]),
        errno::NOENT,
        "a file that is not there",
    );
    check_is(
        exec(c"/tmp".as_ptr() as usize, &[0]),
        errno::ACCES,
        "a directory",
    );
    check_is(
        exec(c"/dev/null/x".as_ptr() as usize, &[0]),
        errno::NOTDIR,
        "a name below a file",
    );
}

/// Writes the file that is to be executed.
fn put(parts: &[&[u8]]) {
    let fd = sys!(nr::OPEN, FILE.as_ptr(), WRONLY_CREATE_TRUNCATE, 0o755);
    for part in parts {
        sys!(nr::WRITE, fd, part.as_ptr(), part.len());
    }
    sys!(nr::CLOSE, fd);
}

fn try_file() -> isize {
    exec(
        FILE.as_ptr() as usize,
        &[c"exec".as_ptr() as usize, c"exit".as_ptr() as usize, 0],
    )
}

fn scripts(me: usize) {
    put(&[b"#!", rt::string(me).as_bytes(), b" exit\nno matter what\n"]);
    let end = in_child(|| {
        try_file();
        99
    });
    check_end(end, End::Exit(42), "a script runs by its interpreter");
    put(&[b"#! /tmp/not-there\n"]);
    check_is(
        try_file(),
        errno::NOENT,
        "one without its interpreter does not",
    );
    put(&[b"#!\n"]);
    check_is(try_file(), errno::NOEXEC, "nor one that names none");
    put(&[b"#!", FILE.to_bytes(), b"\n"]);
    check_is(try_file(), errno::LOOP, "nor one that names itself");
}

/// Files that look like programs.
fn corpus(me: usize) {
    put(&[]);
    check_is(try_file(), errno::NOEXEC, "an empty file");
    put(&[b"echo this is a script without its first line\n"]);
    check_is(try_file(), errno::NOEXEC, "a text");
    let fd = sys!(nr::OPEN, me, 0, 0);
    let mut status = [0_u64; 18];
    sys!(nr::FSTAT, fd, status.as_mut_ptr());
    let size = status[6] as usize;
    let at = sys!(nr::MMAP, 0, size, READ, PRIVATE, fd, 0);
    sys!(nr::CLOSE, fd);
    if at < 0 {
        return check(false, "mmap of the program");
    }
    // SAFETY: mapped for its size, and nobody writes the file.
    let image = unsafe { core::slice::from_raw_parts(at as *const u8, size) };
    put(&[image]);
    let end = in_child(|| {
        try_file();
        99
    });
    check_end(end, End::Exit(42), "a copy of a program runs");
    for len in [
        1,
        4,
        16,
        ELF_HEADER - 1,
        ELF_HEADER,
        ELF_HEADER + PROGRAM_HEADER - 1,
    ] {
        put(&[&image[..len]]);
        check(try_file() < 0, "a program cut within its headers does not");
    }
    let mut seed = SEED;
    let (mut refused, mut ended, mut stopped) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let mut head = [0_u8; ELF_HEADER + 8 * PROGRAM_HEADER];
        let len = head.len();
        head.copy_from_slice(&image[..len]);
        for _ in 0..1 + next(&mut seed) % 3 {
            let bit = next(&mut seed) as usize % (len * 8);
            head[bit / 8] ^= 1 << (bit % 8);
        }
        put(&[&head, &image[len..]]);
        match run_bounded() {
            Some(End::Exit(77)) => refused += 1,
            Some(_) => ended += 1,
            None => stopped += 1,
        }
    }
    say!(
        "of {ROUNDS} programs with flipped bits {refused} were refused, {ended} ran until they ended, {stopped} had to be stopped (seed {SEED:#x})"
    );
    check(
        refused > 0 && ended > 0,
        "the kernel lives through all of them",
    );
    sys!(nr::MUNMAP, at, size.next_multiple_of(PAGE));
}

/// Runs the file in a child; `None` if it had to be stopped, as a program that has lost its way may run for ever.
fn run_bounded() -> Option<End> {
    const NOHANG: usize = 1;
    const MILLISECOND: [u64; 2] = [0, 1_000_000];
    let pid = sys!(nr::FORK);
    if pid == 0 {
        try_file();
        rt::exit(77);
    }
    for turn in 0..YIELDS + PATIENCE_MS {
        let mut status = 0_i32;
        if sys!(nr::WAIT4, pid, &raw mut status, NOHANG, 0) == pid {
            return Some(if status & 0x7f == 0 {
                End::Exit(status >> 8 & 0xff)
            } else {
                End::Signal((status & 0x7f) as usize)
            });
        }
        if turn < YIELDS {
            sys!(nr::YIELD);
        } else {
            sys!(nr::NANOSLEEP, MILLISECOND.as_ptr(), 0);
        }
    }
    sys!(nr::KILL, pid, SIGKILL);
    wait(pid);
    None
}

/// xorshift64 (Marsaglia 2003).
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

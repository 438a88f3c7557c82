//! Signals: handlers, masks, waiting, system calls that start again.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rt::{
    Args, Context, End, Info, SA_NODEFER, SA_RESTART, SIGCHLD, SIGKILL, SIGUSR1, SIGUSR2, check,
    check_end, check_is, errno, in_child, nr, on_signal, set_signal, verdict, wait,
};

const SIGTERM: usize = 15;
const SIGINT: usize = 2;
const BLOCK: usize = 0;
const SETMASK: usize = 2;
const DEFAULT: usize = 0;
const IGNORE: usize = 1;
const NS_PER_MS: u64 = 1_000_000;

static CALLS: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);
static DEPTH: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(signo: i32, info: &Info, _context: Context) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    LAST.store(
        if info.signo == signo { signo } else { -1 },
        Ordering::Relaxed,
    );
}

/// Raises its own signal once more.
extern "C" fn nested(_signo: i32, _info: &Info, _context: Context) {
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed);
    if depth == 0 {
        raise(SIGUSR2);
        // Held off, unless SA_NODEFER says otherwise.
        CALLS.store(DEPTH.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn raise(signal: usize) -> isize {
    sys!(nr::KILL, sys!(nr::GETPID), signal)
}

fn calls() -> u32 {
    CALLS.load(Ordering::Relaxed)
}

fn sleep_ms(ms: u64) -> isize {
    let time = [ms / 1000, ms % 1000 * NS_PER_MS];
    sys!(nr::NANOSLEEP, time.as_ptr(), 0)
}

fn set_mask(how: usize, signals: &[usize]) -> u64 {
    let set = signals
        .iter()
        .fold(0_u64, |set, signal| set | 1 << (signal - 1));
    let mut old = 0_u64;
    sys!(nr::SIGPROCMASK, how, &raw const set, &raw mut old, 8);
    old
}

#[unsafe(no_mangle)]
fn main(_args: &Args) -> i32 {
    endings();
    handlers();
    masks();
    waiting();
    restarting();
    verdict()
}

fn endings() {
    for signal in [1, SIGINT, 3, 6, SIGUSR1, SIGTERM, 14] {
        let end = in_child(|| {
            // Whoever started us may have had it ignored, as `nohup` does.
            set_signal(signal, DEFAULT);
            raise(signal);
            0
        });
        check(end == End::Signal(signal), "a signal ends a program");
    }
    let end = in_child(|| {
        raise(SIGCHLD);
        raise(28);
        0
    });
    check_end(end, End::Exit(0), "some signals do nothing");
    let end = in_child(|| {
        set_signal(SIGTERM, IGNORE);
        raise(SIGTERM);
        0
    });
    check_end(end, End::Exit(0), "a signal can be ignored");
    check_is(set_signal(SIGKILL, IGNORE), errno::INVAL, "but not SIGKILL");
    check_is(
        sys!(nr::KILL, 4_000_000, SIGTERM),
        -3,
        "nobody has that number",
    );
    check_is(sys!(nr::KILL, sys!(nr::GETPID), 0), 0, "signal 0 only asks");
    check_is(
        sys!(nr::KILL, sys!(nr::GETPID), 65),
        errno::INVAL,
        "there is no signal 65",
    );
}

fn handlers() {
    on_signal(SIGUSR1, count, 0);
    check_is(raise(SIGUSR1), 0, "kill returns");
    check(
        calls() == 1 && LAST.load(Ordering::Relaxed) == SIGUSR1 as i32,
        "after the handler has run",
    );
    let kept = (0..100_u32).fold(0_u32, |sum, i| {
        raise(SIGUSR1);
        sum + i
    });
    check(calls() == 101 && kept == 4950, "a hundred times");
    let end = in_child(|| {
        raise(SIGUSR1);
        i32::from(calls() != 102)
    });
    check_end(end, End::Exit(0), "a child inherits handlers");
    on_signal(SIGUSR2, nested, 0);
    raise(SIGUSR2);
    check(
        calls() == 1 && DEPTH.load(Ordering::Relaxed) == 2,
        "a handler is not interrupted by its own signal, which comes after",
    );
    DEPTH.store(0, Ordering::Relaxed);
    on_signal(SIGUSR2, nested, SA_NODEFER);
    raise(SIGUSR2);
    check(calls() == 2, "unless it wants to be");
}

fn masks() {
    CALLS.store(0, Ordering::Relaxed);
    on_signal(SIGUSR1, count, 0);
    set_mask(BLOCK, &[SIGUSR1]);
    raise(SIGUSR1);
    raise(SIGUSR1);
    check(calls() == 0, "a signal that is held off does not come");
    let old = set_mask(SETMASK, &[]);
    check(old == 1 << (SIGUSR1 - 1), "the mask is told");
    check(calls() == 1, "it comes when it is let through, once");
    let end = in_child(|| {
        set_mask(BLOCK, &[SIGKILL]);
        raise(SIGKILL);
        0
    });
    check_end(end, End::Signal(SIGKILL), "SIGKILL cannot be held off");
}

fn waiting() {
    CALLS.store(0, Ordering::Relaxed);
    on_signal(SIGUSR1, count, 0);
    set_mask(BLOCK, &[SIGUSR1]);
    let parent = sys!(nr::GETPID);
    let pid = sys!(nr::FORK);
    if pid == 0 {
        sleep_ms(30);
        rt::exit(i32::from(sys!(nr::KILL, parent, SIGUSR1) != 0));
    }
    let none = 0_u64;
    check_is(
        sys!(nr::SIGSUSPEND, &raw const none, 8),
        errno::INTR,
        "sigsuspend ends by a signal",
    );
    check(calls() == 1, "whose handler has run");
    raise(SIGUSR1);
    check(calls() == 1, "and the mask is as before");
    set_mask(SETMASK, &[]);
    check(calls() == 2, "until it is changed");
    check_end(wait(pid), End::Exit(0), "the child could signal its parent");
    let pid = sys!(nr::FORK);
    if pid == 0 {
        sleep_ms(30);
        rt::exit(i32::from(sys!(nr::KILL, parent, SIGUSR1) != 0));
    }
    check_is(sleep_ms(60_000), errno::INTR, "a signal ends a sleep");
    wait(pid);
    check_is(sleep_ms(20), 0, "a sleep ends by itself");
}

/// `read` of an empty pipe, interrupted by a child that then writes.
fn restarting() {
    for (flags, expected, what) in [
        (
            SA_RESTART,
            1,
            "with SA_RESTART a read goes on after a handler",
        ),
        (0, errno::INTR, "without it ends"),
    ] {
        CALLS.store(0, Ordering::Relaxed);
        on_signal(SIGUSR1, count, flags);
        let mut ends = [0_u32; 2];
        sys!(nr::PIPE, ends.as_mut_ptr());
        let parent = sys!(nr::GETPID);
        let pid = sys!(nr::FORK);
        if pid == 0 {
            sleep_ms(30);
            sys!(nr::KILL, parent, SIGUSR1);
            sleep_ms(30);
            rt::exit(i32::from(sys!(nr::WRITE, ends[1], c"x".as_ptr(), 1) != 1));
        }
        let mut byte = 0_u8;
        check_is(sys!(nr::READ, ends[0], &raw mut byte, 1), expected, what);
        check(calls() == 1, "the handler has run");
        check_end(wait(pid), End::Exit(0), "the child is done");
        sys!(nr::CLOSE, ends[0]);
        sys!(nr::CLOSE, ends[1]);
    }
}

//! Everything that can run out, run out: memory by every door, areas, tasks, files, and calls that could take for ever. Each is tried by a
//! child, which gets an error or is ended; its parent lives, and in the end the memory is back. `exhaust DOOR` tries one.
#![no_std]
#![no_main]

#[path = "exhaust/files.rs"]
mod files;
#[path = "rt/rt.rs"]
mod rt;

use files::{files, fork_pipes, links, memfd, names, open_pipes, pipes};
use rt::{
    ANONYMOUS, Args, End, FIXED, NORESERVE, PAGE, PRIVATE, READ, SHARED, SIGKILL, WRITE, check,
    check_is, errno, exit, is_kmm, map, nr, verdict,
};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const MAYMOVE: usize = 1;
const POPULATE: usize = 0x8000;
const SETPGID: usize = 109;
const PAUSE: usize = 34;
const ALARM_MS: u64 = 60_000;
/// A machine with more takes too long to fill.
const SMALL_BYTES: u64 = 128 << 20;

/// Some free pages wait in each CPU's own list, some in slabs.
const MOST_LOST_KIB: u64 = 4096;

/// What a door does in the child: nothing is checked but that it comes to an end.
type Door = fn() -> i32;

/// Name, whether all memory is taken (which on a large machine takes too long), and the door.
const DOORS: &[(&str, bool, Door)] = &[
    ("areas", false, areas),
    ("areas-fork", false, areas_and_fork),
    ("tables", true, tables),
    ("tables-read", true, tables_by_reading),
    ("brk", true, brk),
    ("populate", true, populate),
    ("shared", true, shared),
    ("memfd", true, memfd),
    ("files", true, files),
    ("names", true, names),
    ("links", true, links),
    ("pipes", true, pipes),
    ("fork-bomb", true, fork_bomb),
    ("fork-large", true, fork_large),
    ("fork-pipes", true, fork_pipes),
    ("argv", false, argv),
    ("deep", false, deep),
    ("deep-links", false, deep_links),
    ("remap", false, remap),
    ("mincore", false, mincore),
    ("long-write", false, long_write),
    ("long-read", false, long_read),
    ("vectors", false, vectors),
];

/// Children that hold everything for some seconds and are left behind: what can the others do meanwhile?
fn hold() -> i32 {
    for _ in 0..30 {
        if sys!(nr::FORK) == 0 {
            sleep_ms(100);
            open_pipes();
            many_areas();
            sleep_ms(4000);
            exit(0);
        }
    }
    0
}

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    if args.get(1) == Some("hold") {
        return hold();
    }
    if !is_kmm() {
        say!("ok: left out where the kernel is not ours");
        return 0;
    }
    let is_small = free_bytes() < SMALL_BYTES;
    for &(name, takes_all, door) in DOORS {
        match args.get(1) {
            Some(only) if only != name => continue,
            None if takes_all && !is_small => continue,
            _ => {}
        }
        try_door(name, door);
    }
    verdict()
}

fn try_door(name: &str, door: Door) {
    let before = free_bytes();
    let start = now_ms();
    let pid = sys!(nr::FORK);
    if pid == 0 {
        sys!(SETPGID, 0, 0);
        exit(door());
    }
    let mut end = None;
    while now_ms() - start < ALARM_MS {
        let mut status = 0_i32;
        let ended = sys!(nr::WAIT4, pid, &raw mut status, 1, 0);
        if ended == pid {
            end = Some(if status & 0x7f == 0 {
                End::Exit(status >> 8 & 0xff)
            } else {
                End::Signal((status & 0x7f) as usize)
            });
            break;
        }
        sleep_ms(5);
    }
    sys!(nr::KILL, -pid, SIGKILL);
    if end.is_none() {
        sys!(nr::WAIT4, pid, 0, 0, 0);
    }
    // What it forked ends by itself now.
    let lost_kib = || before.saturating_sub(free_bytes()) >> 10;
    let mut patience = 400;
    while lost_kib() >= MOST_LOST_KIB && patience > 0 {
        sleep_ms(5);
        patience -= 1;
    }
    let lost = lost_kib();
    say!(
        "{name}: {end:?} after {} ms, {lost} KiB fewer are free",
        now_ms() - start
    );
    check(
        matches!(end, Some(End::Exit(0) | End::Signal(SIGKILL | rt::SIGBUS))),
        name,
    );
    check(lost < MOST_LOST_KIB, "its memory is back");
    let again = map(MIB, READ | WRITE);
    check(
        again.is_some_and(|at| touch(at as usize, MIB, PAGE)),
        "its parent can have memory",
    );
    if let Some(at) = again {
        sys!(nr::MUNMAP, at, MIB);
    }
}

fn free_bytes() -> u64 {
    let mut info = [0_u64; 14];
    sys!(nr::SYSINFO, info.as_mut_ptr());
    info[5]
}

fn now_ms() -> u64 {
    let mut time = [0_u64; 2];
    sys!(nr::CLOCK_GETTIME, 1, time.as_mut_ptr());
    time[0] * 1000 + time[1] / 1_000_000
}

fn sleep_ms(ms: u64) {
    let time = [0, ms * 1_000_000];
    sys!(nr::NANOSLEEP, time.as_ptr(), 0);
}

fn reserve(len: usize, flags: usize) -> isize {
    sys!(
        nr::MMAP,
        0,
        len,
        READ | WRITE,
        flags | ANONYMOUS | NORESERVE,
        -1_isize,
        0
    )
}

/// Writes a word every `step` bytes.
fn touch(at: usize, len: usize, step: usize) -> bool {
    for offset in (0..len).step_by(step) {
        // SAFETY: within a mapping of the caller's.
        unsafe { ((at + offset) as *mut usize).write_volatile(offset) };
    }
    true
}

/// Alternating rights, so that areas do not join.
fn many_areas() -> usize {
    let mut count = 0;
    let Ok(ground) = usize::try_from(reserve(GIB, PRIVATE)) else {
        return 0;
    };
    while count < 70_000 {
        let mapped = sys!(
            nr::MMAP,
            ground + count * 2 * PAGE,
            PAGE,
            READ,
            PRIVATE | ANONYMOUS | FIXED,
            -1_isize,
            0
        );
        if mapped < 0 {
            check(mapped == errno::NOMEM, "too many areas are ENOMEM");
            break;
        }
        count += 1;
    }
    count * 2
}

fn areas() -> i32 {
    let count = many_areas();
    say!("  {count} areas");
    i32::from(count < 1000)
}

fn areas_and_fork() -> i32 {
    many_areas();
    for _ in 0..4 {
        let pid = sys!(nr::FORK);
        if pid == 0 {
            sys!(PAUSE);
        }
        say!("  fork: {pid}");
    }
    0
}

fn tables() -> i32 {
    let Ok(at) = usize::try_from(reserve(64 << 40, PRIVATE)) else {
        return 1;
    };
    touch(at, 64 << 40, 2 * MIB);
    1
}

fn tables_by_reading() -> i32 {
    let Ok(at) = usize::try_from(reserve(64 << 40, PRIVATE)) else {
        return 1;
    };
    for offset in (0..64_usize << 40).step_by(2 * MIB) {
        // SAFETY: within the mapping.
        unsafe { ((at + offset) as *const u8).read_volatile() };
    }
    1
}

fn brk() -> i32 {
    let start = sys!(nr::BRK, 0) as usize;
    let mut end = start;
    loop {
        let grown = sys!(nr::BRK, end + MIB) as usize;
        if grown == end {
            return 0;
        }
        touch(end, MIB, PAGE);
        end = grown;
    }
}

fn populate() -> i32 {
    for _ in 0..64 {
        let at = sys!(
            nr::MMAP,
            0,
            GIB,
            READ | WRITE,
            PRIVATE | ANONYMOUS | POPULATE,
            -1_isize,
            0
        );
        if at < 0 {
            return i32::from(at != errno::NOMEM);
        }
    }
    0
}

fn shared() -> i32 {
    loop {
        let Ok(at) = usize::try_from(reserve(64 * MIB, SHARED)) else {
            return 0;
        };
        touch(at, 64 * MIB, PAGE);
    }
}

fn fork_bomb() -> i32 {
    let mut count = 0;
    loop {
        let pid = sys!(nr::FORK);
        if pid == 0 {
            if count % 2 == 0 {
                sys!(PAUSE);
            }
            count = 0;
            continue;
        }
        if pid < 0 {
            break;
        }
        count += 1;
    }
    sleep_ms(200);
    0
}

fn fork_large() -> i32 {
    let len = (free_bytes() as usize / 10 * 6) & !(PAGE - 1);
    let Ok(at) = usize::try_from(reserve(len, PRIVATE)) else {
        return 1;
    };
    touch(at, len, PAGE);
    for _ in 0..3 {
        let pid = sys!(nr::FORK);
        if pid == 0 {
            touch(at, len, PAGE);
            sys!(PAUSE);
        }
    }
    sleep_ms(500);
    0
}

fn argv() -> i32 {
    static mut WORDS: [usize; 70_000] = [0; 70_000];
    let word = c"x".as_ptr() as usize;
    let words = &raw mut WORDS;
    for (count, expected) in [(9_000, 0), (20_000, errno::TOOBIG), (69_999, errno::TOOBIG)] {
        // SAFETY: one thread.
        unsafe { (*words).fill(0) };
        // SAFETY: as above.
        unsafe { (&mut (*words))[..count].fill(word) };
        let pid = sys!(nr::FORK);
        if pid == 0 {
            let refused = sys!(nr::EXECVE, c"/bin/true".as_ptr(), words, 0);
            exit(i32::from(refused != expected));
        }
        let end = rt::wait(pid);
        say!("  {count} words: {end:?}");
    }
    // Each of these asks for a buffer, and they are all the same string.
    let long = reserve(PAGE * 33, PRIVATE) as usize;
    touch(long, PAGE * 33, 8);
    // SAFETY: just mapped.
    unsafe { (long as *mut u8).write_bytes(b'y', 130_000) };
    // SAFETY: one thread.
    unsafe { (*words).fill(long) };
    let refused = sys!(nr::EXECVE, c"/bin/true".as_ptr(), words, words);
    i32::from(refused != errno::TOOBIG)
}

/// Directories within each other, far deeper than a path is long, and a tree of them that nothing leads to any more.
fn deep() -> i32 {
    sys!(nr::CHDIR, c"/tmp".as_ptr());
    let mut depth = 0;
    while depth < 3000 {
        if sys!(nr::MKDIR, c"d".as_ptr(), 0o755) < 0 || sys!(nr::CHDIR, c"d".as_ptr()) < 0 {
            break;
        }
        depth += 1;
    }
    say!("  {depth} deep");
    let mut buf = [0_u8; 64];
    check(
        sys!(nr::GETCWD, buf.as_mut_ptr(), buf.len()) == -34,
        "its path is too long for the buffer",
    );
    let copy = sys!(nr::OPEN, c".".as_ptr(), 0, 0);
    check(copy > 0, "the deepest can be opened");
    while depth > 0 && sys!(nr::CHDIR, c"..".as_ptr()) == 0 && sys!(nr::RMDIR, c"d".as_ptr()) == 0 {
        depth -= 1;
    }
    check(depth == 0, "and all be removed");
    sys!(nr::MKDIR, c"/tmp/gone".as_ptr(), 0o755);
    sys!(nr::CHDIR, c"/tmp/gone".as_ptr());
    sys!(nr::RMDIR, c"/tmp/gone".as_ptr());
    check(
        sys!(nr::MKDIR, c"d".as_ptr(), 0o755) == errno::NOENT,
        "nothing is made in a removed directory",
    );
    verdict()
}

/// Symbolic links through each other as far as it is allowed: the kernel's stack must do.
fn deep_links() -> i32 {
    sys!(nr::CHDIR, c"/tmp".as_ptr());
    let name = |number: usize| {
        [
            b'l',
            b'0' + (number / 10) as u8,
            b'0' + (number % 10) as u8,
            0,
        ]
    };
    let first = name(0);
    sys!(
        nr::SYMLINK,
        c"/proc/self/../self/../self/cwd/../tmp".as_ptr(),
        first.as_ptr()
    );
    for number in 1..60 {
        let (to, from) = (name(number - 1), name(number));
        sys!(nr::SYMLINK, to.as_ptr(), from.as_ptr());
    }
    let mut last = 0;
    for number in 0..60 {
        let path = name(number);
        let found = sys!(nr::ACCESS, path.as_ptr(), 0);
        if found < 0 {
            last = number;
            check_is(found, errno::LOOP, "too many links are ELOOP");
            break;
        }
    }
    say!("  {last} links");
    for number in 0..60 {
        let path = name(number);
        sys!(nr::UNLINK, path.as_ptr());
    }
    verdict()
}

/// Large holes are moved as such.
fn remap() -> i32 {
    let size = 16_usize << 40;
    let Ok(at) = usize::try_from(reserve(size, PRIVATE)) else {
        return 1;
    };
    for offset in [0, size / 2, size - PAGE] {
        touch(at + offset, PAGE, PAGE);
    }
    let Ok(at) = usize::try_from(sys!(nr::MREMAP, at, size, size + 4096 * MIB, MAYMOVE, 0)) else {
        return 1;
    };
    // SAFETY: just mapped.
    let words = [0, size / 2, size - PAGE]
        .map(|offset| unsafe { ((at + offset) as *const usize).read_volatile() });
    check(words == [0; 3], "its pages came along");
    check(
        sys!(nr::MPROTECT, at, size, READ) == 0,
        "its rights can be changed",
    );
    check(
        sys!(nr::MADVISE, at, size, 4) == 0,
        "its pages can be dropped",
    );
    check(
        sys!(nr::MUNMAP, at, size + 4096 * MIB) == 0,
        "it can be unmapped",
    );
    verdict()
}

fn mincore() -> i32 {
    let size = 16_usize << 40;
    let Ok(at) = usize::try_from(reserve(size, PRIVATE)) else {
        return 1;
    };
    let Ok(out) = usize::try_from(reserve(GIB, PRIVATE)) else {
        return 1;
    };
    in_time(move || {
        sys!(nr::MINCORE, at, size, out);
    })
}

/// Runs `f` in a child that is killed soon: the kernel has to notice while it is at it.
fn in_time(f: impl FnOnce()) -> i32 {
    let pid = sys!(nr::FORK);
    if pid == 0 {
        f();
        exit(0);
    }
    sleep_ms(50);
    let start = now_ms();
    sys!(nr::KILL, pid, SIGKILL);
    let end = rt::wait(pid);
    let ms = now_ms() - start;
    say!("  {end:?} after {ms} ms more");
    i32::from(ms > 1000)
}

fn long_write() -> i32 {
    let Ok(at) = usize::try_from(reserve(64 * GIB, PRIVATE)) else {
        return 1;
    };
    let null = sys!(nr::OPEN, c"/dev/null".as_ptr(), 1, 0);
    in_time(move || while sys!(nr::WRITE, null, at, 64 * GIB) > 0 {})
}

fn long_read() -> i32 {
    let fd = sys!(nr::MEMFD_CREATE, c"hole".as_ptr(), 0);
    sys!(nr::FTRUNCATE, fd, GIB);
    let Ok(at) = usize::try_from(reserve(MIB, PRIVATE)) else {
        return 1;
    };
    in_time(move || {
        loop {
            sys!(nr::PREAD, fd, at, MIB, 0);
            let zero = sys!(nr::OPEN, c"/dev/zero".as_ptr(), 0, 0);
            sys!(nr::READ, zero, at, MIB);
            sys!(nr::CLOSE, zero);
        }
    })
}

fn vectors() -> i32 {
    let Ok(at) = usize::try_from(reserve(16 * GIB, PRIVATE)) else {
        return 1;
    };
    static mut PARTS: [[usize; 2]; 1024] = [[0; 2]; 1024];
    let parts = &raw mut PARTS;
    // SAFETY: one thread.
    unsafe { (*parts).fill([at, 16 * GIB]) };
    let null = sys!(nr::OPEN, c"/dev/null".as_ptr(), 1, 0);
    in_time(move || while sys!(20_usize, null, parts, 1024) > 0 {})
}

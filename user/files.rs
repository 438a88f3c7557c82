//! Files and directories: what programs do in /tmp.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use core::ffi::CStr;

use rt::{Args, PAGE, check, check_is, errno, nr, verdict};

const RDWR: usize = 2;
const CREATE: usize = 0o100;
const EXCLUSIVE: usize = 0o200;
const TRUNCATE: usize = 0o1000;
const APPEND: usize = 0o2000;
const DIRECTORY: usize = 0o20_0000;
const NAMES: usize = 300;

fn open(path: &CStr, flags: usize) -> isize {
    sys!(nr::OPEN, path.as_ptr(), flags, 0o644)
}

fn call(number: usize, path: &CStr) -> isize {
    sys!(number, path.as_ptr(), 0o755)
}

fn read<const N: usize>(fd: isize, at: usize) -> ([u8; N], isize) {
    let mut buf = [0; N];
    let len = sys!(nr::PREAD, fd, buf.as_mut_ptr(), N, at);
    (buf, len)
}

fn size(path: &CStr) -> isize {
    let mut status = [0_u64; 18];
    match sys!(nr::STAT, path.as_ptr(), status.as_mut_ptr()) {
        0 => status[6] as isize,
        error => error,
    }
}

#[unsafe(no_mangle)]
fn main(_args: &Args) -> i32 {
    call(nr::MKDIR, c"/tmp/files-test");
    check_is(
        call(nr::CHDIR, c"/tmp/files-test"),
        0,
        "a working directory",
    );
    contents();
    names();
    links();
    many();
    gone();
    loops();
    running();
    cut();
    devices();
    call(nr::CHDIR, c"/");
    check_is(
        call(nr::RMDIR, c"/tmp/files-test"),
        0,
        "nothing is left behind",
    );
    verdict()
}

/// A directory that is removed while somebody is in it.
fn gone() {
    call(nr::MKDIR, c"gone");
    call(nr::CHDIR, c"gone");
    check_is(
        call(nr::RMDIR, c"../gone"),
        0,
        "a working directory can be removed",
    );
    check_is(
        call(nr::MKDIR, c"in"),
        errno::NOENT,
        "nothing can be made in it",
    );
    check_is(open(c"in", RDWR | CREATE), errno::NOENT, "no file either");
    call(nr::CHDIR, c"/tmp/files-test");
}

fn rename(from: &core::ffi::CStr, to: &core::ffi::CStr) -> isize {
    sys!(nr::RENAME, from.as_ptr(), to.as_ptr())
}

/// No directory gets into itself, by whatever way one asks.
fn loops() {
    [c"b", c"b/c"]
        .into_iter()
        .for_each(|name| _ = call(nr::MKDIR, name));
    check_is(
        rename(c"b", c"b/c/d"),
        errno::INVAL,
        "a directory does not move below itself",
    );
    call(nr::MKDIR, c"a");
    call(nr::CHDIR, c"b/c");
    check_is(
        rename(c"/tmp/files-test/b", c"/tmp/files-test/a/b"),
        0,
        "a directory moves with one who is in it",
    );
    check_is(
        rename(c"/tmp/files-test/a", c"./a"),
        errno::INVAL,
        "what is above it now does not move into it",
    );
    call(nr::CHDIR, c"/tmp/files-test");
    let removed = [c"a/b/c", c"a/b", c"a"].map(|name| call(nr::RMDIR, name));
    check(removed == [0; 3], "and all can be removed");
}

/// A file cannot be written while it runs.
fn running() {
    const TEXT_BUSY: isize = -26;
    let me = c"/proc/self/exe";
    check_is(
        open(me, RDWR),
        TEXT_BUSY,
        "a program that runs cannot be opened for writing",
    );
    check_is(sys!(nr::TRUNCATE, me.as_ptr(), 0), TEXT_BUSY, "nor be cut");
    check(open(me, 0) > 0, "it can be read");
}

/// A file that gets shorter under those who have mapped it.
fn cut() {
    let fd = open(c"cut", RDWR | CREATE);
    sys!(nr::FTRUNCATE, fd, 3 * PAGE);
    let map =
        |flags: usize| sys!(nr::MMAP, 0, 3 * PAGE, rt::READ | rt::WRITE, flags, fd, 0) as usize;
    let (shared, private) = (map(rt::SHARED), map(rt::PRIVATE));
    let put = |at: usize, value: u8| {
        // SAFETY: one of the mappings; where the file has no page any more, the child that does it ends.
        unsafe { (at as *mut u8).write_volatile(value) }
    };
    // SAFETY: as above.
    let get = |at: usize| unsafe { (at as *const u8).read_volatile() };
    put(shared + 2 * PAGE, 1);
    put(private + 2 * PAGE, 2);
    put(private + PAGE, 3);
    sys!(nr::FTRUNCATE, fd, PAGE);
    for at in [shared + 2 * PAGE, private + 2 * PAGE] {
        let end = rt::in_child(|| {
            put(at, 4);
            0
        });
        rt::check_end(
            end,
            rt::End::Signal(rt::SIGBUS),
            "a page behind the end is SIGBUS",
        );
    }
    sys!(nr::FTRUNCATE, fd, 3 * PAGE);
    check(
        get(shared + 2 * PAGE) == 0,
        "when the file grows again, it is zero there",
    );
    sys!(nr::MUNMAP, shared, 3 * PAGE);
    sys!(nr::MUNMAP, private, 3 * PAGE);
    sys!(nr::CLOSE, fd);
    call(nr::UNLINK, c"cut");
}

fn contents() {
    check_is(
        open(c"a", RDWR),
        errno::NOENT,
        "what is not there cannot be opened",
    );
    let fd = open(c"a", RDWR | CREATE | EXCLUSIVE);
    check(fd >= 0, "it can be made");
    check_is(open(c"a", RDWR | CREATE | EXCLUSIVE), errno::EXIST, "once");
    check_is(sys!(nr::WRITE, fd, c"hello".as_ptr(), 5), 5, "written");
    check(read::<8>(fd, 0) == (*b"hello\0\0\0", 5), "and read");
    check_is(
        sys!(nr::LSEEK, fd, 10_000, 0),
        10_000,
        "a position may be behind the end",
    );
    check_is(sys!(nr::WRITE, fd, c"x".as_ptr(), 1), 1, "where writing");
    check_is(size(c"a"), 10_001, "makes the file longer");
    check(
        read::<2>(fd, 9_999) == (*b"\0x", 2) && read::<2>(fd, 5_000).0 == [0, 0],
        "with a hole between",
    );
    check_is(sys!(nr::FTRUNCATE, fd, 3), 0, "it can be cut");
    check_is(sys!(nr::FTRUNCATE, fd, 6), 0, "and made longer");
    check(read::<6>(fd, 0) == (*b"hel\0\0\0", 6), "by zeros");
    let again = open(c"a", RDWR | APPEND);
    check_is(sys!(nr::WRITE, again, c"end".as_ptr(), 3), 3, "appending");
    check(read::<9>(fd, 0) == (*b"hel\0\0\0end", 9), "goes to the end");
    check_is(
        sys!(nr::LSEEK, fd, -1_isize, 0),
        errno::INVAL,
        "no position is negative",
    );
    let cut = open(c"a", RDWR | TRUNCATE);
    check_is(size(c"a"), 0, "O_TRUNC");
    sys!(nr::UNLINK, c"a".as_ptr());
    check_is(size(c"a"), errno::NOENT, "a name can be taken away");
    check_is(
        sys!(nr::WRITE, cut, c"!".as_ptr(), 1),
        1,
        "and the open file lives on",
    );
    [fd, again, cut]
        .into_iter()
        .for_each(|fd| _ = sys!(nr::CLOSE, fd));
    check_is(sys!(nr::CLOSE, fd), errno::BADF, "a file is closed once");
}

fn names() {
    check_is(call(nr::MKDIR, c"d"), 0, "a directory");
    check_is(call(nr::MKDIR, c"d"), errno::EXIST, "once");
    check_is(open(c"d", RDWR), errno::ISDIR, "is not for writing");
    sys!(nr::CLOSE, open(c"d/f", CREATE));
    check_is(
        call(nr::RMDIR, c"d"),
        errno::NOTEMPTY,
        "is not removed with something in it",
    );
    check_is(
        open(c"d/f", DIRECTORY),
        errno::NOTDIR,
        "a file is no directory",
    );
    check_is(open(c"d/f/g", 0), errno::NOTDIR, "and has nothing in it");
    check_is(size(c"./d/../d//f"), 0, "dots and slashes");
    check_is(
        sys!(nr::RENAME, c"d/f".as_ptr(), c"g".as_ptr()),
        0,
        "a file moves",
    );
    check_is(size(c"d/f"), errno::NOENT, "away from here");
    check_is(size(c"g"), 0, "to there");
    check_is(
        sys!(nr::RENAME, c"d".as_ptr(), c"d/e".as_ptr()),
        errno::INVAL,
        "a directory does not move into itself",
    );
    check_is(call(nr::CHDIR, c"d"), 0, "chdir");
    let mut buf = [0_u8; 64];
    let len = sys!(nr::GETCWD, buf.as_mut_ptr(), 64);
    check(len == 18 && &buf[..18] == b"/tmp/files-test/d\0", "getcwd");
    check_is(call(nr::CHDIR, c".."), 0, "chdir ..");
    check_is(call(nr::RMDIR, c"d"), 0, "an empty one is removed");
    check_is(call(nr::UNLINK, c"g"), 0, "so is a file");
    check_is(call(nr::UNLINK, c"g"), errno::NOENT, "once");
}

fn links() {
    check_is(
        sys!(nr::SYMLINK, c"to".as_ptr(), c"from".as_ptr()),
        0,
        "a symbolic link",
    );
    check_is(size(c"from"), errno::NOENT, "may lead to nothing");
    let fd = open(c"from", RDWR | CREATE);
    check_is(
        sys!(nr::WRITE, fd, c"1".as_ptr(), 1),
        1,
        "and a file be made through it",
    );
    check_is(size(c"to"), 1, "where it leads");
    let mut buf = [0_u8; 8];
    check_is(
        sys!(nr::READLINK, c"from".as_ptr(), buf.as_mut_ptr(), 8),
        2,
        "readlink",
    );
    check(&buf[..2] == b"to", "tells where");
    check_is(
        sys!(nr::SYMLINK, c"b".as_ptr(), c"a".as_ptr()),
        0,
        "two links",
    );
    check_is(
        sys!(nr::SYMLINK, c"a".as_ptr(), c"b".as_ptr()),
        0,
        "may lead to each other",
    );
    check_is(size(c"a"), errno::LOOP, "which nobody follows for ever");
    [c"a", c"b", c"from", c"to"]
        .into_iter()
        .for_each(|name| check_is(call(nr::UNLINK, name), 0, "unlink"));
    sys!(nr::CLOSE, fd);
    let mut buf = [0_u8; 64];
    let len = sys!(
        nr::READLINK,
        c"/proc/self/exe".as_ptr(),
        buf.as_mut_ptr(),
        64
    );
    check(
        len > 5 && buf[..len as usize].ends_with(b"files"),
        "/proc/self/exe leads here",
    );
}

/// A directory that needs several calls to read.
fn many() {
    let mut name = *b"n000\0";
    let path = |name: &mut [u8; 5], i: usize| {
        for (digit, power) in [(1, 100), (2, 10), (3, 1)] {
            name[digit] = b'0' + (i / power % 10) as u8;
        }
        name.as_ptr()
    };
    let made =
        (0..NAMES).all(|i| sys!(nr::CLOSE, sys!(nr::OPEN, path(&mut name, i), CREATE, 0o600)) == 0);
    check(made, "300 files are made");
    let dir = open(c".", DIRECTORY);
    let mut seen = [0_u8; NAMES];
    let (mut calls, mut others) = (0, 0);
    let mut buf = [0_u8; 1024];
    loop {
        let len = sys!(nr::GETDENTS64, dir, buf.as_mut_ptr(), buf.len());
        if len <= 0 {
            check_is(len, 0, "getdents64 comes to an end");
            break;
        }
        calls += 1;
        let mut at = 0;
        while at < len as usize {
            let record = usize::from(u16::from_le_bytes([buf[at + 16], buf[at + 17]]));
            let name = &buf[at + 19..at + record];
            match name {
                [b'n', a, b, c, 0, ..] => {
                    seen[[a, b, c]
                        .iter()
                        .fold(0, |n, digit| n * 10 + usize::from(*digit - b'0'))] += 1
                }
                _ => others += 1,
            }
            // Removing what was told must not hide what was not.
            if name[0] == b'n' {
                sys!(nr::UNLINK, name.as_ptr());
            }
            at += record;
        }
    }
    check(calls > 5, "after several calls");
    check(
        seen.iter().all(|&count| count == 1),
        "each name is told once, though they are removed meanwhile",
    );
    check(others == 2, "besides . and ..");
    check_is(
        sys!(nr::GETDENTS64, dir, buf.as_mut_ptr(), 8),
        0,
        "at the end any buffer is large enough",
    );
    sys!(nr::LSEEK, dir, 0, 0);
    check_is(
        sys!(nr::GETDENTS64, dir, buf.as_mut_ptr(), 8),
        errno::INVAL,
        "at the start it is not",
    );
    sys!(nr::CLOSE, dir);
}

fn devices() {
    let null = open(c"/dev/null", RDWR);
    check_is(
        sys!(nr::WRITE, null, c"x".as_ptr(), 1),
        1,
        "/dev/null takes everything",
    );
    check(read::<1>(null, 0).1 == 0, "and has nothing");
    let zero = open(c"/dev/zero", RDWR);
    check(read::<4>(zero, 0) == ([0; 4], 4), "/dev/zero has zeros");
    let at = sys!(
        nr::MMAP,
        0,
        4096,
        rt::READ | rt::WRITE,
        rt::PRIVATE,
        zero,
        0
    );
    check(at > 0, "and can be mapped");
    let full = open(c"/dev/full", RDWR);
    check_is(
        sys!(nr::WRITE, full, c"x".as_ptr(), 1),
        -28,
        "/dev/full is full",
    );
    [null, zero, full]
        .into_iter()
        .for_each(|fd| _ = sys!(nr::CLOSE, fd));
    let memfd = sys!(nr::MEMFD_CREATE, c"m".as_ptr(), 0);
    check_is(
        sys!(nr::WRITE, memfd, c"memory".as_ptr(), 6),
        6,
        "a file without a name",
    );
    check(
        read::<6>(memfd, 0) == (*b"memory", 6),
        "can be written and read",
    );
    sys!(nr::CLOSE, memfd);
}

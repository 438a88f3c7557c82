//! Doors to memory that go through a file descriptor.

use crate::rt::{check, errno, nr, verdict};
use crate::{PAUSE, say, sleep_ms, sys};

const CREATE: usize = 0o102;
const NOSPC: isize = -28;
const MFILE: isize = -24;

/// Writes to a file until it takes no more.
fn fill(fd: isize) -> isize {
    static BLOCK: [u8; 1 << 16] = [0x5a; 1 << 16];
    loop {
        let written = sys!(nr::WRITE, fd, BLOCK.as_ptr(), BLOCK.len());
        if written < BLOCK.len() as isize {
            return written;
        }
    }
}

pub(crate) fn memfd() -> i32 {
    for _ in 0..4 {
        let fd = sys!(nr::MEMFD_CREATE, c"exhaust".as_ptr(), 0);
        if fd < 0 {
            break;
        }
        let end = fill(fd);
        say!("  written until {end}");
    }
    0
}

/// The path of a numbered file.
fn numbered(number: usize) -> [u8; 24] {
    let mut path = *b"/tmp/exhaust/00000000\0\0\0";
    let mut rest = number;
    for digit in path[13..21].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    path
}

fn remove_numbered(count: usize) {
    for number in 0..count {
        let path = numbered(number);
        sys!(nr::UNLINK, path.as_ptr());
    }
    check(
        sys!(nr::RMDIR, c"/tmp/exhaust".as_ptr()) == 0,
        "everything made could be removed",
    );
}

pub(crate) fn files() -> i32 {
    sys!(nr::MKDIR, c"/tmp/exhaust".as_ptr(), 0o755);
    let mut count = 0;
    while count < 4 {
        let path = numbered(count);
        let fd = sys!(nr::OPEN, path.as_ptr(), CREATE, 0o600);
        if fd < 0 {
            break;
        }
        count += 1;
        let end = fill(fd);
        say!("  written until {end}");
        sys!(nr::CLOSE, fd);
    }
    remove_numbered(count);
    verdict()
}

pub(crate) fn names() -> i32 {
    sys!(nr::MKDIR, c"/tmp/exhaust".as_ptr(), 0o755);
    let mut count = 0;
    let refused = loop {
        let path = numbered(count);
        let fd = sys!(nr::OPEN, path.as_ptr(), CREATE, 0o600);
        if fd < 0 {
            break fd;
        }
        count += 1;
        sys!(nr::CLOSE, fd);
    };
    say!("  {count} files, then {refused}");
    check(
        matches!(refused, NOSPC | errno::NOMEM),
        "too many files are an error",
    );
    remove_numbered(count);
    verdict()
}

pub(crate) fn links() -> i32 {
    static mut TARGET: [u8; 4096] = [b'x'; 4096];
    let target = &raw mut TARGET;
    // SAFETY: one thread.
    unsafe { (*target)[4095] = 0 };
    sys!(nr::MKDIR, c"/tmp/exhaust".as_ptr(), 0o755);
    let mut count = 0;
    let refused = loop {
        let path = numbered(count);
        let made = sys!(nr::SYMLINK, target, path.as_ptr());
        if made < 0 {
            break made;
        }
        count += 1;
    };
    say!("  {count} links, then {refused}");
    remove_numbered(count);
    verdict()
}

/// Opens pipes, full of data, until there are no more.
pub(crate) fn open_pipes() -> isize {
    loop {
        let mut ends = [0_u32; 2];
        let made = sys!(nr::PIPE2, ends.as_mut_ptr(), 0o4000);
        if made < 0 {
            return made;
        }
        fill(ends[1] as isize);
    }
}

pub(crate) fn pipes() -> i32 {
    let refused = open_pipes();
    say!("  refused by {refused}");
    i32::from(!matches!(refused, MFILE | errno::NOMEM))
}

pub(crate) fn fork_pipes() -> i32 {
    for _ in 0..8 {
        let pid = sys!(nr::FORK);
        if pid == 0 {
            for fd in 3..1024 {
                sys!(nr::CLOSE, fd);
            }
            open_pipes();
            sys!(PAUSE);
        }
        sleep_ms(20);
    }
    0
}

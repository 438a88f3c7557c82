//! Bad pointers in system calls: always EFAULT, and nothing is lost by it.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{Args, PAGE, READ, WRITE, check, check_is, errno, map, nr, verdict};

const RDWR_CREATE: usize = 0o102;
const TRUNCATE: usize = 0o1000;

#[unsafe(no_mangle)]
fn main(_args: &Args) -> i32 {
    let Some(memory) = map(3 * PAGE, READ | WRITE) else {
        return 1;
    };
    let read_only = map(PAGE, READ).map_or(0, |page| page as usize);
    let hole = memory as usize + PAGE;
    sys!(nr::MUNMAP, hole, PAGE);
    let unreadable = [
        0,
        8,
        hole,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        0xffff_8880_0000_0000,
        0xffff_ffff_8010_0000,
        usize::MAX - 7,
    ];

    let mut ends = [0_u32; 2];
    sys!(nr::PIPE, ends.as_mut_ptr());
    let fd = sys!(
        nr::OPEN,
        c"/tmp/badptr".as_ptr(),
        RDWR_CREATE | TRUNCATE,
        0o600
    );
    sys!(nr::WRITE, fd, c"12345678".as_ptr(), 8);

    for addr in unreadable {
        say!("{addr:#x}:");
        check_is(
            sys!(nr::WRITE, ends[1], addr, 8),
            errno::FAULT,
            "write from it",
        );
        check_is(sys!(nr::OPEN, addr, 0, 0), errno::FAULT, "open");
        check_is(sys!(nr::EXECVE, addr, 0, 0), errno::FAULT, "execve");
        check_is(sys!(nr::NANOSLEEP, addr, 0), errno::FAULT, "nanosleep");
        check_is(sys!(nr::READV, fd, addr, 1), errno::FAULT, "readv");
    }
    let unwritable = unreadable
        .into_iter()
        .chain([read_only, main as *const () as usize]);
    for addr in unwritable {
        say!("{addr:#x}:");
        check_is(sys!(nr::PREAD, fd, addr, 8, 0), errno::FAULT, "read to it");
        check_is(sys!(nr::FSTAT, fd, addr), errno::FAULT, "fstat");
        check_is(sys!(nr::UNAME, addr), errno::FAULT, "uname");
        check_is(sys!(nr::PIPE, addr), errno::FAULT, "pipe");
        check_is(
            sys!(nr::CLOCK_GETTIME, 1, addr),
            errno::FAULT,
            "clock_gettime",
        );
        check_is(sys!(nr::GETCWD, addr, PAGE), errno::FAULT, "getcwd");
        check_is(sys!(nr::SYSINFO, addr), errno::FAULT, "sysinfo");
    }
    let next = sys!(nr::DUP, 0);
    check_is(next, fd + 1, "no file stayed open");

    sys!(nr::WRITE, ends[1], c"kept".as_ptr(), 4);
    check_is(
        sys!(nr::READ, ends[0], hole, 4),
        errno::FAULT,
        "read of a pipe to a hole",
    );
    let mut text = [0_u8; 4];
    check_is(
        sys!(nr::READ, ends[0], text.as_mut_ptr(), 4),
        4,
        "its bytes can still be read",
    );
    check(&text == b"kept", "and are the same");

    let edge = hole - 4;
    check_is(
        sys!(nr::PREAD, fd, hole - 8, 8, 0),
        8,
        "a buffer may end where a hole begins",
    );
    let across = sys!(nr::PREAD, fd, edge, 8, 0);
    check(
        across == errno::FAULT || across == 4,
        "one that reaches into it is an error, or short",
    );
    // SAFETY: the page before the hole.
    unsafe { (edge as *mut [u8; 4]).write(*b"/tmp") };
    check_is(
        sys!(nr::OPEN, edge, 0, 0),
        errno::FAULT,
        "a path that reaches into a hole",
    );
    // SAFETY: as above.
    unsafe { ((hole - 5) as *mut [u8; 5]).write(*b"/tmp\0") };
    check(
        sys!(nr::ACCESS, hole - 5, 0) == 0,
        "one that ends before it",
    );
    let args = [c"/bin/true".as_ptr() as usize, hole, 0];
    check_is(
        sys!(nr::EXECVE, c"/tmp/badptr".as_ptr(), args.as_ptr(), 0),
        errno::ACCES,
        "a file that may not be run",
    );
    sys!(nr::UNLINK, c"/tmp/badptr".as_ptr());
    verdict()
}

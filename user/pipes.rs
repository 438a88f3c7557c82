//! Pipes: order, blocking, their ends, and SIGPIPE.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{
    Args, End, PAGE, READ, SIGPIPE, WRITE, check, check_end, check_is, errno, in_child, map, nr,
    set_signal, verdict, wait,
};

const BYTES: usize = 1 << 20;
const NONBLOCK: usize = 0o4000;
const IGNORE: usize = 1;

fn pipe(flags: usize) -> [u32; 2] {
    let mut ends = [0_u32; 2];
    check_is(
        sys!(nr::PIPE2, ends.as_mut_ptr(), flags),
        0,
        "a pipe can be made",
    );
    ends
}

fn close(ends: [u32; 2]) {
    sys!(nr::CLOSE, ends[0]);
    sys!(nr::CLOSE, ends[1]);
}

#[unsafe(no_mangle)]
fn main(_args: &Args) -> i32 {
    transfer();
    nonblocking();
    signals();
    verdict()
}

/// A megabyte goes through, in order, though neither side has it all at once.
fn transfer() {
    let ends = pipe(0);
    let pid = sys!(nr::FORK);
    if pid == 0 {
        sys!(nr::CLOSE, ends[0]);
        let mut sent = 0;
        let mut block = [0_u8; 3000];
        while sent < BYTES {
            let len = block.len().min(BYTES - sent);
            (0..len).for_each(|i| block[i] = pattern(sent + i));
            if sys!(nr::WRITE, ends[1], block.as_ptr(), len) != len as isize {
                rt::exit(1);
            }
            sent += len;
        }
        rt::exit(0);
    }
    sys!(nr::CLOSE, ends[1]);
    let Some(buffer) = map(16 * PAGE, READ | WRITE) else {
        return check(false, "mmap");
    };
    let (mut got, mut intact) = (0, true);
    loop {
        let len = sys!(nr::READ, ends[0], buffer, 16 * PAGE);
        if len <= 0 {
            check_is(
                len,
                0,
                "the end of a pipe reads as 0 once all writers are gone",
            );
            break;
        }
        // SAFETY: just read.
        intact &= (0..len as usize).all(|i| unsafe { buffer.add(i).read() } == pattern(got + i));
        got += len as usize;
    }
    check(got == BYTES && intact, "a megabyte arrives in order");
    check_end(wait(pid), End::Exit(0), "and the writer could write it all");
    sys!(nr::CLOSE, ends[0]);
}

fn pattern(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

fn nonblocking() {
    let ends = pipe(NONBLOCK);
    let mut block = [7_u8; PAGE];
    check_is(
        sys!(nr::READ, ends[0], block.as_mut_ptr(), 1),
        errno::AGAIN,
        "an empty pipe does not keep a reader that will not wait",
    );
    let mut room = 0;
    while sys!(nr::WRITE, ends[1], block.as_ptr(), PAGE) == PAGE as isize {
        room += PAGE;
    }
    check_is(room as isize, 64 << 10, "64 KiB fit");
    check_is(
        sys!(nr::WRITE, ends[1], block.as_ptr(), 1),
        errno::AGAIN,
        "a full one does not keep a writer either",
    );
    check_is(
        sys!(nr::READ, ends[0], block.as_mut_ptr(), PAGE),
        PAGE as isize,
        "a page is taken",
    );
    check_is(
        sys!(nr::WRITE, ends[1], block.as_ptr(), PAGE),
        PAGE as isize,
        "and another fits",
    );
    check_is(
        sys!(nr::WRITE, ends[0], block.as_ptr(), 1),
        errno::BADF,
        "one end is for reading",
    );
    check_is(
        sys!(nr::READ, ends[1], block.as_mut_ptr(), 1),
        errno::BADF,
        "the other for writing",
    );
    close(ends);
}

fn signals() {
    let ends = pipe(0);
    sys!(nr::CLOSE, ends[0]);
    let end = in_child(|| {
        sys!(nr::WRITE, ends[1], c"x".as_ptr(), 1);
        0
    });
    check_end(
        end,
        End::Signal(SIGPIPE),
        "SIGPIPE ends who writes for nobody",
    );
    let end = in_child(|| {
        set_signal(SIGPIPE, IGNORE);
        i32::from(sys!(nr::WRITE, ends[1], c"x".as_ptr(), 1) != errno::PIPE)
    });
    check_end(end, End::Exit(0), "who ignores it is told EPIPE");
    let end = in_child(|| {
        set_signal(SIGPIPE, IGNORE);
        i32::from(sys!(nr::WRITE, ends[1], c"x".as_ptr(), 0) != 0)
    });
    check_end(end, End::Exit(0), "writing nothing is no error");
    sys!(nr::CLOSE, ends[1]);
}

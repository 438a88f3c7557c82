//! mmap, munmap, mprotect, mremap, madvise, mincore: what programs rely on.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{
    ANONYMOUS, Args, End, FIXED, PAGE, PRIVATE, READ, SHARED, SIGBUS, SIGSEGV, WRITE, check,
    check_end, check_is, errno, in_child, map, nr, verdict,
};

const DONTNEED: usize = 4;
const MAYMOVE: usize = 1;
const NOREPLACE: usize = 0x10_0000;
const RDWR_CREATE: usize = 0o102;

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    anonymous();
    refused();
    protection();
    moving();
    files(args);
    many();
    verdict()
}

fn byte(at: *mut u8, offset: usize) -> u8 {
    // SAFETY: callers look at what they have mapped.
    unsafe { at.add(offset).read_volatile() }
}

fn set(at: *mut u8, offset: usize, value: u8) {
    // SAFETY: callers write what they have mapped.
    unsafe { at.add(offset).write_volatile(value) }
}

fn faults(what: impl FnOnce()) -> bool {
    in_child(|| {
        what();
        0
    }) == End::Signal(SIGSEGV)
}

fn is_resident(at: *mut u8) -> bool {
    let mut vec = [0_u8; 1];
    sys!(nr::MINCORE, at, PAGE, vec.as_mut_ptr()) == 0 && vec[0] & 1 == 1
}

fn anonymous() {
    let Some(at) = map(16 * PAGE, READ | WRITE) else {
        return check(false, "mmap of 16 pages");
    };
    check(
        (0..16).all(|page| byte(at, page * PAGE) == 0),
        "fresh memory reads as zeros",
    );
    (0..16).for_each(|page| set(at, page * PAGE, page as u8 + 1));
    check(
        (0..16).all(|page| byte(at, page * PAGE) == page as u8 + 1),
        "and keeps what is written",
    );
    check_is(
        sys!(nr::MUNMAP, at as usize + 4 * PAGE, 4 * PAGE),
        0,
        "a hole can be made",
    );
    check(faults(|| set(at, 5 * PAGE, 1)), "the hole faults");
    check(
        byte(at, 3 * PAGE) == 4 && byte(at, 8 * PAGE) == 9,
        "both sides of it live",
    );
    let again = sys!(
        nr::MMAP,
        at as usize + 4 * PAGE,
        2 * PAGE,
        READ | WRITE,
        PRIVATE | ANONYMOUS | FIXED,
        -1_isize,
        0
    );
    check_is(
        again,
        at as isize + 4 * PAGE as isize,
        "a fixed mapping goes where it is told",
    );
    check(byte(at, 4 * PAGE) == 0, "and is fresh");
    let over = sys!(
        nr::MMAP,
        at,
        PAGE,
        READ | WRITE,
        PRIVATE | ANONYMOUS | FIXED,
        -1_isize,
        0
    );
    check(
        over == at as isize && byte(at, 0) == 0,
        "a fixed mapping replaces what was there",
    );
    check_is(
        sys!(nr::MADVISE, at as usize + 2 * PAGE, PAGE, DONTNEED),
        0,
        "madvise(DONTNEED)",
    );
    check(
        byte(at, 2 * PAGE) == 0 && byte(at, 3 * PAGE) == 4,
        "gives zeros for that page, and no other",
    );
    check_is(sys!(nr::MUNMAP, at, 16 * PAGE), 0, "munmap may span holes");
    check(faults(|| set(at, 0, 1)), "and leaves nothing");
    check_is(
        sys!(nr::MUNMAP, at, 16 * PAGE),
        0,
        "unmapping nothing is no error",
    );
}

fn refused() {
    let anonymous = PRIVATE | ANONYMOUS;
    check_is(
        sys!(nr::MMAP, 0, 0, READ, anonymous, -1_isize, 0),
        errno::INVAL,
        "a length of 0 is refused",
    );
    check_is(
        sys!(nr::MMAP, 0, PAGE, READ, ANONYMOUS, -1_isize, 0),
        errno::INVAL,
        "neither private nor shared is refused",
    );
    check_is(
        sys!(nr::MMAP, 0, PAGE, READ, PRIVATE, 77, 0),
        errno::BADF,
        "a file that is not open is refused",
    );
    check_is(
        sys!(nr::MMAP, 1, PAGE, READ, anonymous | FIXED, -1_isize, 0),
        errno::INVAL,
        "an unaligned fixed address is refused",
    );
    check_is(
        sys!(nr::MMAP, 0, usize::MAX - PAGE, READ, anonymous, -1_isize, 0),
        errno::NOMEM,
        "a length that fits nowhere is refused",
    );
    check_is(
        sys!(nr::MMAP, 0, 1_usize << 47, READ, anonymous, -1_isize, 0),
        errno::NOMEM,
        "so is all of the address space",
    );
    check_is(
        sys!(
            nr::MMAP,
            0xffff_8000_0000_0000_usize,
            PAGE,
            READ,
            anonymous | FIXED,
            -1_isize,
            0
        ),
        errno::NOMEM,
        "so is the kernel's half",
    );
    check_is(
        sys!(nr::MUNMAP, 1, PAGE),
        errno::INVAL,
        "munmap wants an aligned address",
    );
    check_is(sys!(nr::MUNMAP, PAGE * 16, 0), errno::INVAL, "and a length");
    check_is(
        sys!(nr::MPROTECT, 0x10_0000, PAGE, READ),
        errno::NOMEM,
        "mprotect wants a mapping",
    );
    check_is(
        sys!(nr::MADVISE, 0x10_0000, PAGE, DONTNEED),
        errno::NOMEM,
        "so does madvise",
    );
    let Some(at) = map(PAGE, READ | WRITE) else {
        return;
    };
    let there = sys!(nr::MMAP, at, PAGE, READ, anonymous | NOREPLACE, -1_isize, 0);
    check_is(there, errno::EXIST, "MAP_FIXED_NOREPLACE replaces nothing");
    let hint = sys!(nr::MMAP, at, PAGE, READ, anonymous, -1_isize, 0);
    check(
        hint > 0 && hint != at as isize,
        "a hint that is taken leads elsewhere",
    );
}

fn protection() {
    let Some(at) = map(4 * PAGE, READ | WRITE) else {
        return check(false, "mmap of 4 pages");
    };
    (0..4).for_each(|page| set(at, page * PAGE, 1));
    check_is(
        sys!(nr::MPROTECT, at as usize + PAGE, PAGE, READ),
        0,
        "mprotect(READ)",
    );
    check(faults(|| set(at, PAGE, 2)), "writing faults then");
    check(byte(at, PAGE) == 1, "reading does not");
    set(at, 0, 3);
    set(at, 2 * PAGE, 3);
    check_is(
        sys!(nr::MPROTECT, at as usize + PAGE, PAGE, READ | WRITE),
        0,
        "mprotect(READ | WRITE)",
    );
    set(at, PAGE, 4);
    check(byte(at, PAGE) == 4, "and it can be written again");
    check_is(sys!(nr::MPROTECT, at, 4 * PAGE, 0), 0, "mprotect(NONE)");
    check(faults(|| _ = byte(at, 0)), "reading faults then");
    check_is(sys!(nr::MPROTECT, at, 4 * PAGE, READ), 0, "mprotect(READ)");
    check(
        byte(at, 0) == 3 && byte(at, 2 * PAGE) == 3,
        "the contents are still there",
    );
    let zero = map(PAGE, READ).unwrap_or(at);
    check(byte(zero, 0) == 0, "a page that was only read");
    check_is(
        sys!(nr::MPROTECT, zero, PAGE, READ | WRITE),
        0,
        "can be made writable",
    );
    set(zero, 0, 9);
    let other = map(PAGE, READ).unwrap_or(at);
    check(
        byte(zero, 0) == 9 && byte(other, 0) == 0,
        "without the page of zeros being written",
    );
}

fn moving() {
    let Some(at) = map(4 * PAGE, READ | WRITE) else {
        return check(false, "mmap of 4 pages");
    };
    (0..4).for_each(|page| set(at, page * PAGE, 10 + page as u8));
    let grown = sys!(nr::MREMAP, at, 4 * PAGE, 300 * PAGE, MAYMOVE, 0);
    check(grown > 0, "mremap grows");
    if grown > 0 {
        let grown = grown as *mut u8;
        check(
            (0..4).all(|page| byte(grown, page * PAGE) == 10 + page as u8),
            "and the contents go along",
        );
        check(byte(grown, 299 * PAGE) == 0, "what is new reads as zeros");
        check_is(
            sys!(nr::MREMAP, grown, 300 * PAGE, 2 * PAGE, 0, 0),
            grown as isize,
            "mremap shrinks in place",
        );
        check(faults(|| _ = byte(grown, 2 * PAGE)), "and the rest is gone");
        check(byte(grown, PAGE) == 11, "the start is not");
    }
    check_is(
        sys!(nr::MREMAP, 0x10_0000, PAGE, 2 * PAGE, MAYMOVE, 0),
        errno::FAULT,
        "mremap wants a mapping",
    );
}

fn files(args: &Args) {
    let path = c"/tmp/mmap-test";
    let fd = sys!(nr::OPEN, path.as_ptr(), RDWR_CREATE, 0o600);
    check(fd >= 0, "a file can be made");
    let text = [b'x'; PAGE + 10];
    check_is(
        sys!(nr::WRITE, fd, text.as_ptr(), text.len()),
        text.len() as isize,
        "and written",
    );
    let private = sys!(nr::MMAP, 0, 3 * PAGE, READ | WRITE, PRIVATE, fd, 0) as *mut u8;
    let shared = sys!(nr::MMAP, 0, 3 * PAGE, READ | WRITE, SHARED, fd, 0) as *mut u8;
    check(
        byte(private, 0) == b'x' && byte(shared, PAGE + 9) == b'x',
        "both kinds of mapping show it",
    );
    check(byte(shared, PAGE + 10) == 0, "zeros follow its end");
    check(
        !is_resident(private.wrapping_add(2 * PAGE)),
        "there is no page behind it",
    );
    set(private, 0, b'p');
    check(byte(shared, 0) == b'x', "a private write is not seen");
    set(shared, 1, b's');
    let mut start = [0_u8; 2];
    check_is(
        sys!(nr::PREAD, fd, start.as_mut_ptr(), 2, 0),
        2,
        "the file can be read",
    );
    check(start == *b"xs", "and has the shared write only");
    check(byte(private, 1) == b'x', "a private copy stays as it was");
    check_end(
        in_child(|| byte(private, 2 * PAGE).into()),
        End::Signal(SIGBUS),
        "behind the end is SIGBUS",
    );
    check_end(
        in_child(|| {
            set(shared, 2, b'c');
            0
        }),
        End::Exit(0),
        "a child writes shared",
    );
    check(byte(shared, 2) == b'c', "and it is seen here");
    check_is(
        sys!(nr::MMAP, 0, PAGE, READ, PRIVATE, fd, 1),
        errno::INVAL,
        "an unaligned offset is refused",
    );
    sys!(nr::CLOSE, fd);
    let read_only = sys!(nr::OPEN, path.as_ptr(), 0, 0);
    let denied = sys!(nr::MMAP, 0, PAGE, READ | WRITE, SHARED, read_only, 0);
    check_is(
        denied,
        errno::ACCES,
        "a file that is open for reading is not mapped shared and writable",
    );
    sys!(nr::CLOSE, read_only);
    sys!(nr::UNLINK, path.as_ptr());
    check(byte(shared, 1) == b's', "mappings outlive the name");
    own_image(args);
}

/// This program itself is mapped from a file.
fn own_image(args: &Args) {
    const AT_EXECFN: usize = 31;
    let path = args.aux(AT_EXECFN).unwrap_or(0);
    let fd = sys!(nr::OPEN, path, 0, 0);
    let at = sys!(nr::MMAP, 0, PAGE, READ | WRITE, PRIVATE, fd, 0) as *mut u8;
    check(
        (0..4).all(|i| byte(at, i) == b"\x7fELF"[i]),
        "a program can map its own file",
    );
    set(at, 0, 0);
    let again = sys!(nr::MMAP, 0, PAGE, READ, PRIVATE, fd, 0) as *mut u8;
    check(byte(again, 0) == 0x7f, "and changes only its copy");
    sys!(nr::CLOSE, fd);
}

/// Many areas, so that trees have several levels.
fn many() {
    const AREAS: usize = 600;
    let Some(at) = map(AREAS * 2 * PAGE, READ | WRITE) else {
        return check(false, "mmap of many pages");
    };
    let made = (0..AREAS).all(|i| sys!(nr::MUNMAP, at as usize + i * 2 * PAGE, PAGE) == 0);
    (0..AREAS).for_each(|i| set(at, (i * 2 + 1) * PAGE, i as u8));
    check(
        made && (0..AREAS).all(|i| byte(at, (i * 2 + 1) * PAGE) == i as u8),
        "600 areas with holes between",
    );
    check_is(sys!(nr::MUNMAP, at, AREAS * 2 * PAGE), 0, "go away at once");
    check(faults(|| _ = byte(at, PAGE)), "all of them");
}

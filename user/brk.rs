//! brk: the heap grows, shrinks, and is zero where it is new.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{Args, End, PAGE, SIGSEGV, check, check_end, check_is, in_child, nr, verdict};

fn brk(end: usize) -> usize {
    sys!(nr::BRK, end) as usize
}

fn byte(at: usize) -> u8 {
    // SAFETY: callers look at the heap.
    unsafe { (at as *const u8).read_volatile() }
}

fn set(at: usize, value: u8) {
    // SAFETY: callers write the heap.
    unsafe { (at as *mut u8).write_volatile(value) }
}

#[unsafe(no_mangle)]
fn main(_args: &Args) -> i32 {
    let start = brk(0);
    check(start != 0, "brk(0) tells the end");
    check_is(
        brk(start + 10 * PAGE) as isize,
        (start + 10 * PAGE) as isize,
        "the heap grows",
    );
    check(
        (0..10).all(|page| byte(start + page * PAGE) == 0),
        "with zeros",
    );
    (0..10).for_each(|page| set(start + page * PAGE, 1 + page as u8));
    check_is(
        brk(start + 5 * PAGE) as isize,
        (start + 5 * PAGE) as isize,
        "it shrinks",
    );
    check(
        byte(start + 4 * PAGE) == 5,
        "what is left keeps its contents",
    );
    let beyond = in_child(|| {
        set(start.next_multiple_of(PAGE) + 5 * PAGE, 1);
        0
    });
    check_end(beyond, End::Signal(SIGSEGV), "what was cut off faults");
    brk(start + 10 * PAGE);
    check(
        byte(start.next_multiple_of(PAGE) + 6 * PAGE) == 0,
        "and is new when it comes back",
    );
    check_is(
        brk(start + 1) as isize,
        (start + 1) as isize,
        "an end need not be aligned",
    );
    check_is(
        brk(start.wrapping_sub(16 * PAGE)) as isize,
        (start + 1) as isize,
        "below the start is refused",
    );
    let mapping = rt::map(PAGE, rt::READ).map_or(0, |page| page as usize);
    check_is(
        brk(mapping + PAGE) as isize,
        (start + 1) as isize,
        "as is what meets a mapping",
    );
    check_is(
        brk(usize::MAX) as isize,
        (start + 1) as isize,
        "and the kernel's half",
    );
    check_is(brk(start) as isize, start as isize, "and back to nothing");
    verdict()
}

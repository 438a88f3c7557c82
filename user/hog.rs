//! Takes memory until there is none. `hog MIB` takes that much and ends well; `hog all` takes all there is and is ended; without
//! arguments a child does the latter, and its parent sees that the rest lives.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{
    ANONYMOUS, Args, End, NORESERVE, PAGE, PRIVATE, READ, SIGKILL, WRITE, check, check_end,
    in_child, is_kmm, map, nr, verdict,
};

const MIB: usize = 1 << 20;
/// More than any machine has.
const ALL: usize = 1 << 44;
/// Where the kernel is not ours, and would take its time.
const MODEST: usize = 64;
/// A machine with no more than this is filled several times.
const SMALL_BYTES: u64 = 128 << 20;
/// An emulated CPU takes some seconds for this much.
const PATIENCE_BYTES: u64 = 1 << 30;

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    match args.get(1) {
        Some("all") => take(ALL),
        Some(text) => match text.parse::<usize>() {
            Ok(mib) => take(mib * MIB),
            Err(_) => 2,
        },
        None if !is_kmm() => take(MODEST * MIB),
        None => parent(),
    }
}

fn take(bytes: usize) -> i32 {
    say!("hog: takes {} MiB", bytes / MIB);
    let at = sys!(
        nr::MMAP,
        0,
        bytes,
        READ | WRITE,
        PRIVATE | ANONYMOUS | NORESERVE,
        -1_isize,
        0
    );
    if at < 0 {
        say!("hog: mmap returned {at}");
        return 1;
    }
    for page in 0..bytes / PAGE {
        // SAFETY: within the mapping.
        unsafe {
            (at as *mut usize)
                .byte_add(page * PAGE)
                .write_volatile(page)
        };
    }
    say!("hog: has it all");
    0
}

fn free_bytes() -> u64 {
    let mut info = [0_u64; 14];
    sys!(nr::SYSINFO, info.as_mut_ptr());
    info[5]
}

fn parent() -> i32 {
    let before = free_bytes();
    if before > PATIENCE_BYTES {
        say!("hog: too much memory to take it all; a part must do");
        return take(MODEST * MIB);
    }
    let rounds = if before > SMALL_BYTES { 1 } else { 3 };
    for round in 1..=rounds {
        say!("round {round}");
        check_end(
            in_child(|| take(ALL)),
            End::Signal(SIGKILL),
            "the child is ended",
        );
        let Some(at) = map(MIB, READ | WRITE) else {
            return 1;
        };
        // SAFETY: just mapped.
        (0..MIB / PAGE).for_each(|page| unsafe { at.add(page * PAGE).write_volatile(1) });
        sys!(nr::MUNMAP, at, MIB);
        check(true, "its parent can have memory again");
    }
    let lost = before.saturating_sub(free_bytes());
    say!("{} KiB fewer are free than before", lost >> 10);
    // Some free pages wait in each CPU's own list.
    check(lost < before / 16, "what the children had is back");
    verdict()
}

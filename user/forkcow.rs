//! fork: memory is copied when one of the two writes, and not seen by the other.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use core::arch::asm;

use rt::{
    ANONYMOUS, Args, End, PAGE, READ, SHARED, SIGKILL, WRITE, check, check_end, check_is, errno,
    in_child, map, nr, verdict, wait,
};

const PAGES: usize = 64;
const CHILDREN: usize = 8;

static mut COUNTER: usize = 7;

#[unsafe(no_mangle)]
fn main(_args: &Args) -> i32 {
    let Some(memory) = map(PAGES * PAGE, READ | WRITE) else {
        return 1;
    };
    let words = Words(memory.cast());
    (0..PAGES).for_each(|page| words.set(page, page));

    let child = in_child(|| {
        let intact = (0..PAGES).all(|page| words.get(page) == page);
        (0..PAGES).for_each(|page| words.set(page, 1000 + page));
        i32::from(!intact || (0..PAGES).any(|page| words.get(page) != 1000 + page))
    });
    check_end(
        child,
        End::Exit(0),
        "a child sees its parent's memory, and may change it",
    );
    check(
        (0..PAGES).all(|page| words.get(page) == page),
        "the parent does not see what the child wrote",
    );

    let mut pids = [0; CHILDREN];
    for (number, pid) in pids.iter_mut().enumerate() {
        *pid = sys!(nr::FORK);
        if *pid == 0 {
            (0..PAGES).for_each(|page| words.set(page, page * 2 + number));
            sys!(nr::YIELD);
            rt::exit(i32::from(
                (0..PAGES).any(|page| words.get(page) != page * 2 + number),
            ));
        }
    }
    (0..PAGES).for_each(|page| words.set(page, page * 3));
    let all = pids.iter().all(|&pid| wait(pid) == End::Exit(0));
    check(
        all,
        "eight children and their parent write the same pages, each for itself",
    );
    check(
        (0..PAGES).all(|page| words.get(page) == page * 3),
        "the parent's words are its own",
    );

    check_end(
        in_child(grandchild),
        End::Exit(0),
        "a grandchild copies what its parents share",
    );
    check(counter() == 7, "a static is copied too");
    shared();
    untouched();
    registers();
    vfork();
    check_is(
        sys!(nr::WAIT4, -1_isize, 0, 0, 0),
        errno::CHILD,
        "nobody is left to wait for",
    );
    let pid = sys!(nr::FORK);
    if pid == 0 {
        loop {
            sys!(nr::YIELD);
        }
    }
    check_is(sys!(nr::KILL, pid, SIGKILL), 0, "a child can be killed");
    check_end(wait(pid), End::Signal(SIGKILL), "its parent is told so");
    verdict()
}

/// The first word of each page.
#[derive(Clone, Copy)]
struct Words(*mut usize);

impl Words {
    fn get(self, page: usize) -> usize {
        // SAFETY: within the mapping.
        unsafe { self.0.byte_add(page * PAGE).read_volatile() }
    }

    fn set(self, page: usize, value: usize) {
        // SAFETY: within the mapping.
        unsafe { self.0.byte_add(page * PAGE).write_volatile(value) }
    }
}

fn counter() -> usize {
    // SAFETY: one thread.
    unsafe { (&raw const COUNTER).read_volatile() }
}

fn set_counter(value: usize) {
    // SAFETY: one thread.
    unsafe { (&raw mut COUNTER).write_volatile(value) }
}

fn grandchild() -> i32 {
    set_counter(8);
    let end = in_child(|| {
        let inherited = counter() == 8;
        set_counter(9);
        i32::from(!inherited || counter() != 9)
    });
    i32::from(end != End::Exit(0) || counter() != 8)
}

fn shared() {
    let at = sys!(
        nr::MMAP,
        0,
        2 * PAGE,
        READ | WRITE,
        SHARED | ANONYMOUS,
        -1_isize,
        0
    );
    let words = Words(at as *mut usize);
    words.set(0, 1);
    check_end(
        in_child(|| {
            words.set(0, 2);
            words.set(1, 3); // a page that the parent has never touched
            0
        }),
        End::Exit(0),
        "shared memory can be written by a child",
    );
    check(
        (words.get(0), words.get(1)) == (2, 3),
        "and its parent sees that",
    );
}

fn untouched() {
    let Some(memory) = map(2 * PAGE, READ | WRITE) else {
        return check(false, "mmap");
    };
    let words = Words(memory.cast());
    let zero = words.get(0); // the shared page of zeros
    let end = in_child(|| {
        let zero = words.get(0) == 0 && words.get(1) == 0;
        words.set(0, 5);
        i32::from(!zero || words.get(0) != 5)
    });
    check_end(
        end,
        End::Exit(0),
        "a page of zeros is shared until somebody writes",
    );
    words.set(0, 6);
    check(
        zero == 0 && words.get(0) == 6 && words.get(1) == 0,
        "by the parent too",
    );
}

/// SSE registers belong to a process.
fn registers() {
    let end = in_child(|| {
        let mut value = 0x1234_5678_9abc_def0_u64;
        // SAFETY: one register, read after others have run.
        unsafe {
            asm!("movq xmm7, {0}", "mov eax, 24", "syscall", "movq {0}, xmm7", inout(reg) value, out("rax") _, out("rcx") _, out("r11") _, out("xmm7") _)
        };
        i32::from(value != 0x1234_5678_9abc_def0)
    });
    let mut value = 0x0fed_cba9_8765_4321_u64;
    let pid: isize;
    // SAFETY: a fork between writing and reading the register; the child leaves at once.
    unsafe {
        asm!("movq xmm7, {0}", "mov eax, 57", "syscall", "movq {0}, xmm7", inout(reg) value, out("rax") pid, out("rcx") _, out("r11") _, out("xmm7") _)
    };
    let kept = value == 0x0fed_cba9_8765_4321;
    if pid == 0 {
        rt::exit(i32::from(!kept));
    }
    check(kept, "fork keeps the parent's SSE registers");
    check_end(wait(pid), End::Exit(0), "and gives them to the child");
    check_end(end, End::Exit(0), "they outlive a switch");
}

fn vfork() {
    set_counter(7);
    let pid: isize;
    // SAFETY: the child only stores and leaves, without returning from this function.
    unsafe {
        asm!(
            "mov eax, 58", "syscall", "test rax, rax", "jnz 2f",
            "mov qword ptr [{counter}], 70", "mov eax, 60", "mov edi, 5", "syscall",
            "2:",
            counter = in(reg) &raw mut COUNTER, out("rax") pid, out("rdi") _, out("rcx") _, out("r11") _,
        )
    };
    check(
        counter() == 70,
        "a vfork child writes its parent's memory, before the parent goes on",
    );
    check_end(wait(pid), End::Exit(5), "and ends like any other");
    set_counter(7);
}

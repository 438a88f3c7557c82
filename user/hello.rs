//! Says hello, and checks what it finds on its stack.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{Args, PAGE, check, verdict};

const AT_PHDR: usize = 3;
const AT_PHENT: usize = 4;
const AT_PHNUM: usize = 5;
const AT_PAGESZ: usize = 6;
const AT_ENTRY: usize = 9;
const AT_RANDOM: usize = 25;
const AT_EXECFN: usize = 31;
const PT_LOAD: u32 = 1;

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    say!("hello from {}", args.get(0).unwrap_or("nobody"));
    for at in 1..args.count() {
        say!("argument {at}: {}", args.get(at).unwrap_or("?"));
    }
    check(
        args.aux(AT_PAGESZ) == Some(PAGE),
        "AT_PAGESZ is the size of a page",
    );
    check(
        args.aux(AT_ENTRY).is_some_and(|entry| entry != 0),
        "AT_ENTRY is there",
    );
    check(
        args.aux(AT_EXECFN)
            .is_some_and(|name| rt::string(name).ends_with("hello")),
        "AT_EXECFN is the path",
    );
    check(
        args.aux(AT_RANDOM).is_some_and(has_noise),
        "AT_RANDOM has 16 bytes that are not all alike",
    );
    check(
        program_headers(args),
        "AT_PHDR, AT_PHENT and AT_PHNUM lead to a PT_LOAD",
    );
    let stack = &raw const args as usize;
    check(stack % 8 == 0, "the stack is aligned");
    verdict()
}

fn has_noise(addr: usize) -> bool {
    // SAFETY: the kernel says that 16 bytes are there.
    let noise = unsafe { (addr as *const [u8; 16]).read() };
    noise.iter().any(|&byte| byte != noise[0])
}

fn program_headers(args: &Args) -> bool {
    let (Some(at), Some(size), Some(count)) =
        (args.aux(AT_PHDR), args.aux(AT_PHENT), args.aux(AT_PHNUM))
    else {
        return false;
    };
    // SAFETY: the kernel says that the headers are there; the type is the first word of each.
    (0..count).any(|header| unsafe { ((at + header * size) as *const u32).read() } == PT_LOAD)
}

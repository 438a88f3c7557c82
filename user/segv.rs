//! Does what a program may not do. With a name it does just that, and is ended; without one it tries all of them in children, and
//! checks signal, code and address.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use core::arch::asm;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use rt::{
    Args, Context, End, Info, PAGE, READ, SIGSEGV, check, check_end, in_child, map, on_signal,
    verdict,
};

const MAPERR: i32 = 1;
const ACCERR: i32 = 2;
/// The CPU raises #GP here, which has no address.
const KERNEL: i32 = 0x80;

const KERNEL_ADDR: usize = 0xffff_8880_0000_0000;
const NONCANONICAL: usize = 0x8000_0000_0000_0000;

struct Crime {
    name: &'static str,
    what: &'static str,
    code: i32,
    commit: fn() -> usize,
}

const CRIMES: &[Crime] = &[
    Crime {
        name: "null",
        what: "reads at 0",
        code: MAPERR,
        commit: || read(0),
    },
    Crime {
        name: "null-write",
        what: "writes at 8",
        code: MAPERR,
        commit: || write(8),
    },
    Crime {
        name: "kernel",
        what: "reads the kernel's direct map",
        code: MAPERR,
        commit: || read(KERNEL_ADDR),
    },
    Crime {
        name: "kernel-write",
        what: "writes the kernel's direct map",
        code: MAPERR,
        commit: || write(KERNEL_ADDR),
    },
    Crime {
        name: "noncanonical",
        what: "reads a non-canonical address",
        code: KERNEL,
        commit: || read(NONCANONICAL),
    },
    Crime {
        name: "readonly",
        what: "writes a read-only page",
        code: ACCERR,
        commit: || write(page(READ)),
    },
    Crime {
        name: "text",
        what: "writes its own code",
        code: ACCERR,
        commit: || write(verdict as *const () as usize),
    },
    Crime {
        name: "none",
        what: "reads a page without access",
        code: ACCERR,
        commit: || read(page(0)),
    },
    Crime {
        name: "nx",
        what: "executes data",
        code: ACCERR,
        commit: || jump(page(READ)),
    },
    Crime {
        name: "jump",
        what: "jumps to 0x1000",
        code: MAPERR,
        commit: || jump(0x1000),
    },
    Crime {
        name: "hole",
        what: "reads a page that it has unmapped",
        code: MAPERR,
        commit: || read(hole()),
    },
    Crime {
        name: "stack",
        what: "recurses without end",
        code: MAPERR,
        commit: || recurse(1),
    },
    Crime {
        name: "privileged",
        what: "halts the CPU",
        code: KERNEL,
        commit: halt,
    },
];

static CODE: AtomicI32 = AtomicI32::new(0);
static ADDR: AtomicUsize = AtomicUsize::new(1);

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    if let Some(name) = args.get(1) {
        let Some(crime) = CRIMES.iter().find(|crime| crime.name == name) else {
            say!("segv: no such crime: {name}");
            return 2;
        };
        say!("segv {name}: {}", crime.what);
        (crime.commit)();
        say!("segv {name}: nothing happened");
        return 1;
    }
    for crime in CRIMES {
        say!("{}: {}", crime.name, crime.what);
        check_end(
            in_child(|| {
                (crime.commit)();
                0
            }),
            End::Signal(SIGSEGV),
            "it ends the program",
        );
        if crime.name != "stack" {
            check_end(
                in_child(|| caught(crime)),
                End::Exit(0),
                "a handler is told code and address",
            );
        }
    }
    verdict()
}

/// Lets a handler see the crime, and compares what it was told.
fn caught(crime: &Crime) -> i32 {
    EXPECTED.store(crime.code, Ordering::Relaxed);
    on_signal(SIGSEGV, note, 0);
    (crime.commit)();
    2
}

extern "C" fn note(signo: i32, info: &Info, mut context: Context) {
    CODE.store(info.code, Ordering::Relaxed);
    ADDR.store(info.addr, Ordering::Relaxed);
    check(signo == SIGSEGV as i32 && info.signo == signo, "SIGSEGV");
    context.set_rip(told as *const () as usize);
}

/// Where the program goes on after the handler.
extern "C" fn told() -> ! {
    // SAFETY: the interrupted function may have left the stack at any word, and is never returned to.
    unsafe { asm!("and rsp, -16", "call {judge}", "ud2", judge = sym judge, options(noreturn)) }
}

extern "C" fn judge() -> ! {
    let (code, addr) = (CODE.load(Ordering::Relaxed), ADDR.load(Ordering::Relaxed));
    say!(
        "  si_code {code}, si_addr {}",
        if addr == 0 { "0" } else { "not 0" }
    );
    let expected = EXPECTED.load(Ordering::Relaxed);
    rt::exit(i32::from(code != expected))
}

static EXPECTED: AtomicI32 = AtomicI32::new(0);

fn read(addr: usize) -> usize {
    // SAFETY: none: that is the point. In assembly, so that the compiler draws no conclusions.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) addr => _, options(nostack)) };
    0
}

fn write(addr: usize) -> usize {
    // SAFETY: as above.
    unsafe { asm!("mov dword ptr [{0}], 1", in(reg) addr, options(nostack)) };
    0
}

fn jump(addr: usize) -> usize {
    // SAFETY: as above.
    unsafe { asm!("jmp {0}", in(reg) addr, options(noreturn)) }
}

fn halt() -> usize {
    // SAFETY: as above.
    unsafe { asm!("hlt", options(nostack)) };
    0
}

fn page(prot: usize) -> usize {
    map(PAGE, prot).map_or(0, |page| page as usize)
}

fn hole() -> usize {
    let page = page(READ);
    sys!(rt::nr::MUNMAP, page, PAGE);
    page
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: usize) -> usize {
    let mut frame = [0_usize; 64];
    frame[depth % 64] = depth;
    core::hint::black_box(&mut frame);
    recurse(depth + 1) + frame[0]
}

//! What a program may try on the CPU itself: privileged instructions, flags, segments, frames of signals made up, and registers that
//! must survive preemption. Each attempt is a child's; none of them may harm the kernel.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use core::arch::{asm, global_asm};

use rt::{Args, End, check, check_end, in_child, is_kmm, nr, verdict, wait};

const SIGILL: usize = 4;
const SIGTRAP: usize = 5;
const SIGSEGV: usize = rt::SIGSEGV;
const SIGFPE: usize = 8;
const SYS_SIGRETURN: usize = 15;

/// Runs an instruction in a child, which must end by `signal`.
macro_rules! ends_by {
    ($signal:expr, $what:literal, $($asm:tt)*) => {
        check_end(
            in_child(|| {
                // SAFETY: it is meant to fault, and the child ends there.
                unsafe { asm!($($asm)*) };
                0
            }),
            End::Signal($signal),
            $what,
        )
    };
}

/// Runs an instruction in a child that must live.
macro_rules! is_harmless {
    ($what:literal, $($asm:tt)*) => {
        check_end(
            in_child(|| {
                // SAFETY: it changes nothing that the child needs.
                unsafe { asm!($($asm)*) };
                0
            }),
            End::Exit(0),
            $what,
        )
    };
}

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    let wants = |part| args.get(1).is_none_or(|only| only == part);
    let parts: [(&str, bool, fn()); 7] = [
        ("privileged", true, privileged),
        ("flags", true, flags),
        ("interrupts", is_kmm(), interrupts),
        ("segments", is_kmm(), segments),
        ("compat", is_kmm(), compatibility_mode),
        ("frames", is_kmm(), frames),
        ("preempted", true, preempted),
    ];
    for (name, _, run) in parts
        .into_iter()
        .filter(|&(name, here, _)| here && wants(name))
    {
        say!("{name}:");
        run();
    }
    verdict()
}

fn privileged() {
    ends_by!(SIGSEGV, "hlt", "hlt");
    ends_by!(SIGSEGV, "cli", "cli");
    ends_by!(SIGSEGV, "sti", "sti");
    ends_by!(SIGSEGV, "in", "in al, dx", in("dx") 0x3f8_u16, out("al") _);
    ends_by!(SIGSEGV, "out", "out dx, al", in("dx") 0xf4_u16, in("al") 0_u8);
    ends_by!(SIGSEGV, "rep outsb", "rep outsb", in("dx") 0xf4_u16, in("rsi") 0, in("rcx") 1);
    ends_by!(SIGSEGV, "rdmsr", "rdmsr", in("ecx") 0xc000_0080_u32, out("eax") _, out("edx") _);
    ends_by!(SIGSEGV, "wrmsr", "wrmsr", in("ecx") 0xc000_0080_u32, in("eax") 0, in("edx") 0);
    ends_by!(SIGSEGV, "mov from cr0", "mov rax, cr0", out("rax") _);
    ends_by!(SIGSEGV, "mov to cr3", "mov cr3, rax", in("rax") 0_u64);
    ends_by!(SIGSEGV, "mov to dr7", "mov dr7, rax", in("rax") 0x400_u64);
    ends_by!(SIGSEGV, "lgdt", "lgdt [rsp]");
    ends_by!(SIGSEGV, "lidt", "lidt [rsp]");
    ends_by!(SIGSEGV, "ltr", "ltr ax", in("ax") 0x30_u16);
    ends_by!(SIGSEGV, "lldt", "lldt ax", in("ax") 0_u16);
    ends_by!(SIGSEGV, "invlpg", "invlpg [rsp]");
    ends_by!(SIGSEGV, "wbinvd", "wbinvd");
    ends_by!(SIGSEGV, "clts", "clts");
    ends_by!(SIGSEGV, "swapgs", "swapgs");
    ends_by!(SIGSEGV, "sysretq", "sysretq", in("rcx") 0);
    ends_by!(SIGILL, "ud2", "ud2");
    ends_by!(SIGTRAP, "int3", "int3");
    ends_by!(SIGFPE, "division by zero", "div {}", in(reg) 0_u64, inout("rax") 1_u64 => _, inout("rdx") 0_u64 => _);
}

fn flags() {
    is_harmless!(
        "IOPL cannot be raised",
        "pushfq",
        "or qword ptr [rsp], 0x3000",
        "popfq"
    );
    ends_by!(
        SIGSEGV,
        "cli after popf of IOPL 3",
        "pushfq",
        "or qword ptr [rsp], 0x3000",
        "popfq",
        "cli"
    );
    is_harmless!("popf cannot turn interrupts off", "pushfq", "and qword ptr [rsp], -0x201", "popfq",
        "2:", "pushfq", "pop rax", "test eax, 0x200", "jz 2b", out("rax") _);
    ends_by!(
        SIGTRAP,
        "a single step",
        "pushfq",
        "or qword ptr [rsp], 0x100",
        "popfq",
        "nop",
        "nop"
    );
    ends_by!(SIGTRAP, "a single step over a system call", "pushfq", "or qword ptr [rsp], 0x100", "mov eax, 39", "popfq", "syscall", "nop", "nop",
        out("rax") _, out("rcx") _, out("r11") _);
    is_harmless!("NT across a system call and some ticks", "pushfq", "or qword ptr [rsp], 0x4000", "popfq", "mov eax, 39", "syscall",
        "mov ecx, 30000000", "2:", "dec ecx", "jnz 2b", "pushfq", "and qword ptr [rsp], -0x4001", "popfq",
        out("rax") _, out("rcx") _, out("r11") _);
    is_harmless!("AC and DF across a system call and some ticks", "pushfq", "or qword ptr [rsp], 0x40400", "popfq", "mov eax, 39", "syscall",
        "mov ecx, 30000000", "2:", "dec ecx", "jnz 2b", "pushfq", "and qword ptr [rsp], -0x40401", "popfq",
        out("rax") _, out("rcx") _, out("r11") _);
    let end = in_child(|| {
        // SAFETY: it faults, and the child ends there.
        unsafe { asm!("mov rsp, {}", "push rax", "ud2", in(reg) 1_u64 << 63, options(noreturn)) }
    });
    let is_caught = matches!(end, End::Signal(SIGSEGV | rt::SIGBUS));
    check(is_caught, "a stack pointer that is no address");
}

fn interrupts() {
    ends_by!(SIGSEGV, "int 0x80", "int 0x80");
    ends_by!(SIGSEGV, "int of the timer's vector", "int 0x40");
    ends_by!(SIGSEGV, "int of the double fault", "int 8");
    ends_by!(SIGSEGV, "int of the NMI", "int 2");
    ends_by!(SIGSEGV, "int of the page fault", "int 14");
    ends_by!(SIGSEGV, "iretq to ring 0", "mov rax, rsp", "push 0x10", "push rax", "pushfq", "push 8", "lea rax, [rip + 2f]", "push rax", "iretq",
        "2:", out("rax") _);
    ends_by!(SIGSEGV, "far return to ring 0", "push 8", "lea rax, [rip + 2f]", "push rax", ".byte 0x48, 0xcb", "2:", out("rax") _);
    let end = in_child(|| {
        // SAFETY: it is meant to fault, as CPUs do in two ways.
        unsafe { asm!("sysenter", options(noreturn)) }
    });
    check(matches!(end, End::Signal(SIGSEGV | SIGILL)), "sysenter");
}

fn segments() {
    let mut survived = 0;
    for selector in 0..0x48_u16 {
        for which in 0..5 {
            let end = in_child(|| {
                // SAFETY: segment bases and limits mean nothing to this program's own code, except for SS, whose fault ends the child.
                unsafe {
                    match which {
                        0 => asm!("mov ds, {0:x}", in(reg) selector),
                        1 => asm!("mov es, {0:x}", in(reg) selector),
                        2 => asm!("mov fs, {0:x}", in(reg) selector),
                        3 => asm!("mov gs, {0:x}", in(reg) selector),
                        _ => {
                            asm!("mov ss, {0:x}", "mov eax, 39", "syscall", in(reg) selector, out("rax") _, out("rcx") _, out("r11") _)
                        }
                    }
                }
                // A system call, and a wait that switches tasks.
                sys!(nr::GETPID);
                sys!(nr::YIELD);
                0
            });
            survived += i32::from(end == End::Exit(0));
            let ok = matches!(end, End::Exit(0) | End::Signal(SIGSEGV) | End::Signal(7));
            if !ok {
                check_end(end, End::Exit(0), "a segment register");
            }
        }
    }
    check(
        survived > 0,
        "segment registers were loaded with every selector",
    );
}

global_asm!(
    ".code32",
    ".globl compat_code",
    "compat_code:",
    "mov eax, 39",
    ".byte 0x0f, 0x05", // syscall
    "mov eax, 39",
    ".byte 0xcd, 0x80", // int 0x80
    "ud2",
    ".code64",
);

unsafe extern "C" {
    fn compat_code();
}

fn compatibility_mode() {
    let code = compat_code as *const () as usize;
    for selector in (3..0x48_usize).step_by(8) {
        let end = in_child(|| {
            // SAFETY: a far return to code in the low 4 GiB; whatever happens there ends the child.
            unsafe {
                asm!("push {0}", "push {1}", ".byte 0x48, 0xcb", in(reg) selector, in(reg) code, options(noreturn))
            }
        });
        let refused = matches!(end, End::Signal(SIGSEGV | SIGILL | 7));
        check(refused, "no way into code of 32 bits");
        if !refused {
            say!("  selector {selector:#x}: {end:?}");
        }
    }
}

/// Words of a frame as `rt_sigreturn` takes it: offset 0 is `struct ucontext`.
const FRAME_WORDS: usize = 40;
const REGISTERS_AT: usize = 5;
const RSP: usize = REGISTERS_AT + 15;
const RIP: usize = REGISTERS_AT + 16;
const RFLAGS: usize = REGISTERS_AT + 17;
const SEGMENTS: usize = REGISTERS_AT + 18;
const FPU: usize = REGISTERS_AT + 23;

extern "C" fn lands_here() -> ! {
    // SAFETY: reads flags, and leaves the stack as it is.
    let flags: u64;
    unsafe { asm!("and rsp, -16", "pushfq", "pop {}", out(reg) flags) };
    rt::exit(if flags & 0x7000 == 0 && flags & 0x200 != 0 {
        0
    } else {
        1
    })
}

/// Makes up a frame, and returns through it.
fn sigreturn_with(change: impl FnOnce(&mut [u64; FRAME_WORDS])) -> End {
    in_child(|| {
        let stack = [0_u64; 512];
        let mut frame = [0_u64; FRAME_WORDS];
        frame[RSP] = (stack.as_ptr() as u64 + 2048) & !63;
        frame[RIP] = lands_here as *const () as u64;
        frame[RFLAGS] = 0x202;
        change(&mut frame);
        // SAFETY: the kernel takes the frame from the stack pointer; nothing after this runs.
        unsafe {
            asm!("mov rsp, {0}", "syscall", in(reg) frame.as_ptr(), in("rax") SYS_SIGRETURN, options(noreturn))
        }
    })
}

fn frames() {
    check_end(sigreturn_with(|_| {}), End::Exit(0), "a frame made up");
    for rip in [
        0,
        0x7fff_ffff_efff,
        0x7fff_ffff_f000,
        0x7fff_ffff_ffff,
        0x8000_0000_0000,
        1 << 63,
        0xffff_8000_0000_0000,
        0xffff_ffff_8010_0000,
        u64::MAX,
    ] {
        check_end(
            sigreturn_with(|frame| frame[RIP] = rip),
            End::Signal(SIGSEGV),
            "a frame with an impossible rip",
        );
    }
    check_end(
        sigreturn_with(|frame| frame[RFLAGS] = !0x100),
        End::Exit(0),
        "a frame with all flags but TF",
    );
    check_end(
        sigreturn_with(|frame| frame[RFLAGS] = u64::MAX),
        End::Signal(SIGTRAP),
        "a frame with all flags",
    );
    check_end(
        sigreturn_with(|frame| frame[RFLAGS] = 0),
        End::Exit(0),
        "a frame with no flags",
    );
    for segments in [0x0010_0000_0000_0008, 0, u64::MAX, 0x0023_0000_0000_001b] {
        check_end(
            sigreturn_with(|frame| frame[SEGMENTS] = segments),
            End::Exit(0),
            "a frame with odd segments",
        );
    }
    let area = [u64::MAX; 64];
    check_end(
        sigreturn_with(|frame| frame[FPU] = area.as_ptr() as u64),
        End::Exit(0),
        "a frame with an FPU state of all ones",
    );
    for fpu in [8, 1 << 63, 0xffff_ffff_8010_0000, u64::MAX] {
        check_end(
            sigreturn_with(|frame| frame[FPU] = fpu),
            End::Signal(SIGSEGV),
            "a frame with an FPU state nowhere",
        );
    }
    for rsp in [0, 1 << 63, u64::MAX, 0x8000_0000_0000] {
        let end = in_child(|| {
            // SAFETY: the kernel refuses, and the child ends.
            unsafe {
                asm!("mov rsp, {0}", "syscall", in(reg) rsp, in("rax") SYS_SIGRETURN, options(noreturn))
            }
        });
        check_end(end, End::Signal(SIGSEGV), "no frame at all");
    }
    for handler in [3_usize, 0x8000_0000_0000, usize::MAX, 0xffff_ffff_8010_0000] {
        let end = in_child(|| {
            let action = [handler, 0x0400_0000 | rt::SA_NODEFER, handler, 0];
            sys!(nr::SIGACTION, rt::SIGUSR1, action.as_ptr(), 0, 8);
            sys!(nr::SIGACTION, rt::SIGSEGV, action.as_ptr(), 0, 8);
            sys!(nr::KILL, sys!(nr::GETPID), rt::SIGUSR1);
            0
        });
        check_end(end, End::Signal(SIGSEGV), "a handler that is nowhere");
    }
    for base in [
        0x7fff_ffff_f000_usize,
        0x8000_0000_0000,
        1 << 63,
        usize::MAX,
    ] {
        for code in [0x1001, 0x1002] {
            check(
                sys!(nr::ARCH_PRCTL, code, base) == -1,
                "a segment base outside is refused",
            );
        }
    }
}

/// Computes with SSE and x87 for some ticks; every lane must come out as it should.
fn compute(salt: u64) -> i32 {
    for round in 0..60_u64 {
        let start = [salt ^ round, salt.rotate_left(17) ^ round];
        let (mut low, mut high) = (0_u64, 0_u64);
        let mut mxcsr = 0_u32;
        let control = 0x1f80_u32 | (salt as u32 & 3) << 13;
        let mut integer = 0_i64;
        // SAFETY: registers only, and the buffers named.
        unsafe {
            asm!(
                "ldmxcsr [{control}]",
                "fninit",
                "fild qword ptr [{start}]",
                "movdqu xmm7, [{start}]",
                "movdqa xmm15, xmm7",
                "2:",
                "paddq xmm15, xmm7",
                "dec {count}",
                "jnz 2b",
                "movq {low}, xmm15",
                "psrldq xmm15, 8",
                "movq {high}, xmm15",
                "fistp qword ptr [{integer}]",
                "stmxcsr [{mxcsr}]",
                start = in(reg) start.as_ptr(),
                control = in(reg) &raw const control,
                mxcsr = in(reg) &raw mut mxcsr,
                integer = in(reg) &raw mut integer,
                count = inout(reg) 200_000_u64 => _,
                low = out(reg) low,
                high = out(reg) high,
                out("xmm7") _,
                out("xmm15") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        let expected = start.map(|lane| lane.wrapping_mul(200_001));
        if [low, high] != expected
            || mxcsr & 0x6000 != control & 0x6000
            || integer != start[0] as i64
        {
            say!(
                "  round {round}: {low:x} {high:x}, not {expected:x?}; mxcsr {mxcsr:x}, {integer:x}"
            );
            return 1;
        }
    }
    0
}

fn preempted() {
    let children = [
        0x1234_5678_9abc_def1_u64,
        0x0fed_cba9_8765_4322,
        0x5555_aaaa_3333_cccf,
    ]
    .map(|salt| {
        let pid = sys!(nr::FORK);
        if pid == 0 {
            rt::exit(compute(salt));
        }
        pid
    });
    for pid in children {
        check_end(
            wait(pid),
            End::Exit(0),
            "vector registers survive preemption",
        );
    }
}

//! System calls with random arguments: `fuzz [SEED [CHILDREN [CALLS]]]`. Whatever comes of them is the children's own trouble; the
//! kernel must live, and have everything back in the end.
#![no_std]
#![no_main]

#[path = "rt/rt.rs"]
mod rt;

use rt::{ANONYMOUS, Args, PAGE, PRIVATE, READ, SIGKILL, WRITE, check, is_kmm, map, nr, verdict};

const CHILDREN: u64 = 12;
const CALLS: u64 = 250;
/// A child that waits for something that never comes is ended after this.
const PATIENCE_MS: u64 = 400;
/// And it has its handler after this.
const READY_MS: u64 = 30;
const WNOHANG: usize = 1;
const AREA_PAGES: usize = 16;

/// Number of a call, and what its arguments are: `f` file, `p` path, `x` path of a program, `m` path of a file that may go, `b` buffer, `l` length, `a` address of a mapping, `n` length of
/// one, `i` number, `s` signal, `v` list of strings, `w` one of the first few numbers, `.` anything.
const CALLS_AND_ARGUMENTS: &[(usize, &[u8])] = &[
    (0, b"fbl"),
    (1, b"fbl"),
    (2, b"pii"),
    (3, b"f"),
    (4, b"xb"),
    (5, b"fb"),
    (6, b"pb"),
    (7, b"bwi"),
    (8, b"fiw"),
    (9, b"anwifi"),
    (10, b"anw"),
    (11, b"an"),
    (12, b"a"),
    (13, b"sbbi"),
    (14, b"wbbi"),
    (15, b""),
    (16, b"fib"),
    (17, b"fbli"),
    (18, b"fbli"),
    (19, b"fbw"),
    (20, b"fbw"),
    (21, b"xw"),
    (22, b"b"),
    (23, b"ibbbb"),
    (24, b""),
    (25, b"annwa"),
    (26, b"anw"),
    (27, b"anb"),
    (28, b"anw"),
    (32, b"f"),
    (33, b"ff"),
    (35, b"bb"),
    (39, b""),
    (56, b"ibbbb"),
    (57, b""),
    (58, b""),
    (59, b"xvv"),
    (61, b"ibib"),
    (63, b"b"),
    (72, b"fwi"),
    (74, b"f"),
    (76, b"pi"),
    (77, b"fi"),
    (79, b"bl"),
    (80, b"p"),
    (81, b"f"),
    (82, b"mm"),
    (83, b"pi"),
    (84, b"m"),
    (85, b"pi"),
    (86, b"pm"),
    (87, b"m"),
    (88, b"pp"),
    (89, b"pbl"),
    (90, b"pi"),
    (91, b"fi"),
    (92, b"pii"),
    (95, b"i"),
    (96, b"bb"),
    (97, b"wb"),
    (98, b"ib"),
    (99, b"b"),
    (100, b"b"),
    (105, b"i"),
    (110, b""),
    (121, b"i"),
    (124, b"i"),
    (127, b"bi"),
    (130, b"bi"),
    (131, b"bb"),
    (157, b"ib"),
    (158, b"ia"),
    (201, b"b"),
    (217, b"fbl"),
    (228, b"wb"),
    (229, b"wb"),
    (230, b"wwbb"),
    (257, b"fpii"),
    (258, b"fpi"),
    (260, b"fpiii"),
    (262, b"fpbi"),
    (263, b"fmi"),
    (264, b"fmfm"),
    (265, b"fpfmi"),
    (266, b"pfp"),
    (267, b"fpbl"),
    (268, b"fpi"),
    (269, b"fpw"),
    (270, b"ibbbbb"),
    (271, b"bwbbi"),
    (280, b"fpbi"),
    (292, b"ffi"),
    (293, b"bi"),
    (302, b"iwbb"),
    (316, b"fmfmw"),
    (318, b"bli"),
    (319, b"pi"),
    (439, b"fpw"),
];
const KILL: usize = 62;
const TKILL: usize = 200;
const TGKILL: usize = 234;
const SETPGID: usize = 109;
const SETSID: usize = 112;
const GETSID: usize = 124;
const EXIT_GROUP: usize = 231;
/// Calls that would end the child early, let it escape, or hit its parent: asked for with chosen arguments, or not at all.
const CHOSEN: &[usize] = &[nr::EXIT, EXIT_GROUP, KILL, TKILL, TGKILL, SETPGID, SETSID];

/// Calls that mostly end the child, if they succeed: `rt_sigreturn` and `execve`. Seldom, or there is little else.
const ENDING: &[usize] = &[15, nr::EXECVE];

const PATHS: &[&[u8]] = &[
    b"/\0",
    b".\0",
    b"..\0",
    b"\0",
    b"/tmp\0",
    b"/tmp/f1\0",
    b"/tmp/f2\0",
    b"/tmp/d\0",
    b"/tmp/d/e\0",
    b"/tmp/d/../f1\0",
    b"d\0",
    b"d/e/../../l\0",
    b"/tmp/l\0",
    b"l/\0",
    b"/proc\0",
    b"/proc/self\0",
    b"/proc/self/maps\0",
    b"/proc/self/exe\0",
    b"/proc/self/cwd/x\0",
    b"/proc/self/stat\0",
    b"/proc/1/cmdline\0",
    b"/proc/meminfo\0",
    b"/proc/slabinfo\0",
    b"/proc/vmallocinfo\0",
    b"/proc/99999\0",
    b"/nowhere\0",
    b"/tmp/f1/x\0",
];

/// Files that may be moved and removed.
const OWN_FILES: &[&[u8]] = &[
    b"/tmp/f1\0",
    b"/tmp/f2\0",
    b"/tmp/d\0",
    b"/tmp/d/e\0",
    b"/tmp/d/../f1\0",
    b"/tmp/l\0",
    b"/tmp/l/\0",
    b"d\0",
    b"d/e\0",
    b"/tmp/f1/x\0",
];

/// Files that are not to be removed or written.
const PROGRAMS: &[&[u8]] = &[
    b"/bin/hello\0",
    b"/bin/true\0",
    b"/bin/nothing\0",
    b"/proc/self/exe\0",
];

const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    63,
    64,
    255,
    256,
    511,
    512,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    8192,
    65_535,
    65_536,
    65_537,
    1 << 20,
    (1 << 20) + 1,
    1 << 30,
    (1 << 30) - 1,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    0x7fff_ffff_efff,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_8880_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_f000,
    u64::MAX,
    u64::MAX - 1,
    u64::MAX - 7,
    u64::MAX - 99,
];

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Where a child's arguments point to.
struct Area {
    /// Writable, then a page that may only be read, then a hole.
    start: usize,
    /// Where it maps and unmaps.
    ground: usize,
}

struct Child {
    random: Random,
    area: Area,
    is_nested: bool,
}

impl Child {
    fn argument(&mut self, kind: u8) -> usize {
        let random = &mut self.random;
        if random.chance(12) {
            return self.anything();
        }
        match kind {
            b'f' => match random.below(10) {
                0 => random.of(&[usize::MAX, 99, 1023, 1024, -100_isize as usize]),
                _ => random.below(16),
            },
            b'p' => {
                let at = self.near_an_end(300);
                let path = random_path(&mut self.random);
                // SAFETY: within the writable pages.
                unsafe { (at as *mut u8).copy_from_nonoverlapping(path.as_ptr(), path.len()) };
                at
            }
            b'x' | b'm' => {
                let at = self.argument(b'p');
                let list = if kind == b'x' { PROGRAMS } else { OWN_FILES };
                let program = self.random.of(list);
                let always = kind == b'm';
                if (always || self.random.chance(50))
                    && at >= self.area.start
                    && at < self.area.start + (AREA_PAGES - 2) * PAGE
                {
                    // SAFETY: within the writable pages.
                    unsafe {
                        (at as *mut u8).copy_from_nonoverlapping(program.as_ptr(), program.len())
                    };
                }
                at
            }
            b'b' => self.buffer(),
            b'v' => {
                let list = self.near_an_end(64);
                for at in 0..4 {
                    let word = if at < 3 && self.random.chance(70) {
                        self.argument(b'p')
                    } else {
                        0
                    };
                    // SAFETY: within the writable pages.
                    unsafe { (list as *mut usize).add(at).write_unaligned(word) };
                }
                list
            }
            b'l' => match random.below(4) {
                0 => random.of(NUMBERS) as usize,
                1 => random.below(2 * PAGE),
                _ => random.below(AREA_PAGES * PAGE),
            },
            b'a' => match random.below(6) {
                0 => 0,
                1 => self.area.start + PAGE * random.below(AREA_PAGES),
                _ => self.area.ground + PAGE * random.below(64),
            },
            b'n' => match random.below(6) {
                0 => random.of(NUMBERS) as usize,
                _ => PAGE * (1 + random.below(32)),
            },
            b's' => random.below(68),
            b'w' => random.below(9),
            b'i' if random.chance(40) => random.of(NUMBERS) as usize,
            b'i' if random.chance(50) => 1 << random.below(32) | 1 << random.below(24),
            b'i' => random.below(128),
            _ => self.anything(),
        }
    }

    fn anything(&mut self) -> usize {
        match self.random.below(5) {
            0 => self.random.next() as usize,
            1 => self
                .area
                .start
                .wrapping_add(self.random.below((AREA_PAGES + 2) * PAGE)),
            2 => main as *const () as usize,
            _ => self.random.of(NUMBERS) as usize,
        }
    }

    /// A place in the writable pages with `room` bytes, often just before a page ends.
    fn near_an_end(&mut self, room: usize) -> usize {
        let page = self.random.below(AREA_PAGES - 2);
        let at = if self.random.chance(40) {
            PAGE - 1 - self.random.below(room)
        } else {
            self.random.below(PAGE)
        };
        self.area.start + page * PAGE + at
    }

    fn buffer(&mut self) -> usize {
        match self.random.below(10) {
            // The end of what may be written, of what may be read.
            0 => self.area.start + (AREA_PAGES - 1) * PAGE - self.random.below(40),
            1 => self.area.start + AREA_PAGES * PAGE - self.random.below(40),
            2 => self.area.ground + self.random.below(64 * PAGE),
            _ => {
                let at = self.near_an_end(160) & if self.random.chance(80) { !7 } else { !0 };
                for word in 0..self.random.below(8) {
                    let value = match self.random.below(4) {
                        0 => self.random.of(NUMBERS),
                        1 => self.near_an_end(64) as u64,
                        _ => self.random.below(6) as u64,
                    };
                    // SAFETY: within the writable pages.
                    unsafe { (at as *mut u64).add(word).write_unaligned(value) };
                }
                at
            }
        }
    }

    fn call(&mut self) {
        let (number, kinds) = if self.random.chance(4) {
            let number = if self.random.chance(50) {
                self.random.below(460)
            } else {
                self.random.next() as usize
            };
            (number, b"......".as_slice())
        } else {
            self.random.of(CALLS_AND_ARGUMENTS)
        };
        if CHOSEN.contains(&number) {
            let pid =
                self.random
                    .of(&[0, sys!(nr::GETPID) as usize, 99_999, -99_999_isize as usize]);
            let signal = self.random.of(&[0, 10, 17, 18, 65, usize::MAX]);
            sys!(KILL, pid, signal);
            return;
        }
        if ENDING.contains(&number) && self.random.chance(95) {
            return;
        }
        let is_fork = matches!(number, nr::FORK | nr::VFORK | nr::CLONE);
        let mut args = [0; 6];
        for (arg, &kind) in args.iter_mut().zip(kinds) {
            *arg = self.argument(kind);
        }
        if is_fork {
            return self.fork(number, args);
        }
        // SAFETY: this is a child, and what it does to itself is meant.
        unsafe { rt::syscall(number, args) };
    }

    fn fork(&mut self, number: usize, mut args: [usize; 6]) {
        if self.is_nested {
            return;
        }
        if number == nr::CLONE {
            // On its own stack the child of a clone is this program again.
            args[1] = 0;
        }
        // SAFETY: a copy of this child, or one that borrows its memory and ends.
        let pid = unsafe { rt::syscall(number, args) };
        if pid == 0 {
            self.is_nested = true;
            if number == nr::FORK {
                (0..20).for_each(|_| self.call());
            }
            rt::exit(0);
        }
        if pid > 0 && self.random.chance(80) {
            sys!(nr::WAIT4, pid, 0, 0, 0);
        }
    }
}

fn random_path(random: &mut Random) -> &'static [u8] {
    PATHS[random.below(PATHS.len())]
}

/// What a child has open, and the memory that its arguments lie in.
fn furnish() -> Option<Area> {
    const RDWR_CREATE: usize = 0o102;
    let mut ends = [0_u32; 2];
    for path in [c"/tmp/f1", c"/tmp/f2"] {
        sys!(nr::OPEN, path.as_ptr(), RDWR_CREATE, 0o755);
    }
    for path in [
        c"/tmp",
        c"/proc/self",
        c"/proc/meminfo",
        c"/dev/zero",
        c"/dev/tty",
        c"/dev/full",
        c"/dev/null",
        c"/bin/hello",
    ] {
        sys!(nr::OPEN, path.as_ptr(), 0, 0);
    }
    sys!(nr::PIPE, ends.as_mut_ptr());
    sys!(nr::MEMFD_CREATE, c"fuzz".as_ptr(), 0);
    sys!(nr::WRITE, ends[1], c"some bytes".as_ptr(), 10);
    sys!(nr::MKDIR, c"/tmp/d".as_ptr(), 0o755);
    sys!(nr::SYMLINK, c"d".as_ptr(), c"/tmp/l".as_ptr());
    let start = map((AREA_PAGES + 1) * PAGE, READ | WRITE)? as usize;
    sys!(nr::MPROTECT, start + (AREA_PAGES - 1) * PAGE, PAGE, READ);
    sys!(nr::MUNMAP, start + AREA_PAGES * PAGE, PAGE);
    let ground = sys!(
        nr::MMAP,
        0x2000_0000,
        64 * PAGE,
        READ | WRITE,
        PRIVATE | ANONYMOUS,
        -1_isize,
        0
    );
    Some(Area {
        start,
        ground: usize::try_from(ground).ok()?,
    })
}

extern "C" fn wake_up(_: i32, _: &rt::Info, _: rt::Context) {}

fn child(seed: u64, calls: u64) -> i32 {
    rt::on_signal(rt::SIGUSR1, wake_up, rt::SA_NODEFER);
    rt::set_signal(rt::SIGPIPE, 1);
    sys!(SETPGID, 0, 0);
    // What it writes to the terminal is noise.
    let null = sys!(nr::OPEN, c"/dev/null".as_ptr(), 2, 0);
    for fd in 0..3 {
        sys!(nr::DUP2, null, fd);
    }
    let Some(area) = furnish() else { return 1 };
    let mut child = Child {
        random: Random(seed),
        area,
        is_nested: false,
    };
    (0..calls).for_each(|_| child.call());
    0
}

fn now_ms() -> u64 {
    let mut time = [0_u64; 2];
    sys!(nr::CLOCK_GETTIME, 1, time.as_mut_ptr());
    time[0] * 1000 + time[1] / 1_000_000
}

/// Waits for a child, ends it if that takes too long, and then whatever it left in its group. Whether it got through all its calls.
fn wait_or_kill(pid: isize) -> bool {
    let start = now_ms();
    let mut status = -1;
    loop {
        let ended = sys!(nr::WAIT4, pid, &raw mut status, WNOHANG, 0);
        if ended != 0 && ended != rt::errno::INTR {
            break;
        }
        let waited = now_ms() - start;
        // Whatever it waits for ends by a signal, unless it holds that off.
        if waited > PATIENCE_MS {
            sys!(nr::KILL, pid, SIGKILL);
        } else if waited > READY_MS {
            sys!(nr::KILL, pid, rt::SIGUSR1);
        }
        let pause = [0_u64, 10_000_000];
        sys!(nr::NANOSLEEP, pause.as_ptr(), 0);
    }
    sys!(nr::KILL, -pid, SIGKILL);
    status == 0
}

/// The next seed, so that rounds differ.
fn step(seed: u64) -> u64 {
    Random(seed | 1).next() | 1
}

#[unsafe(no_mangle)]
fn main(args: &Args) -> i32 {
    if !is_kmm() {
        say!("ok: left out where the kernel is not ours");
        return 0;
    }
    if args.count() < 2 && sys!(GETSID, 0) != sys!(nr::GETPID) {
        // A child has executed it, and would have children that nobody ends.
        return 2;
    }
    let number = |at, usual| {
        args.get(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(usual)
    };
    // The same calls each time, unless a seed is given; 0 asks for one that nobody has tried.
    let mut seed = match number(1, 1) {
        0 => now_ms() << 20 | sys!(nr::GETPID) as u64,
        seed => seed,
    };
    let (children, calls) = (number(2, CHILDREN), number(3, CALLS));
    say!("seed {seed}; again: fuzz {seed} {children} {calls}");
    let mut nr_through = 0;
    for _ in 0..children {
        seed = step(seed);
        let pid = sys!(nr::FORK);
        match pid {
            0 => rt::exit(child(seed, calls)),
            1.. => nr_through += u64::from(wait_or_kill(pid)),
            _ => {}
        }
    }
    say!("{nr_through} of {children} children got through");
    for path in [c"/tmp/f1", c"/tmp/f2", c"/tmp/l"] {
        sys!(nr::UNLINK, path.as_ptr());
    }
    check(true, "the kernel lives");
    verdict()
}

//! What a program finds on its stack: argc, argv, envp, the auxiliary vector, and the strings they point to.
//!
//! Pure: the image is built as bytes and copied to the user in one go.
//!
//! Linux: `create_elf_tables`, fs/binfmt_elf.c; System V ABI, AMD64 supplement, section 3.4.1.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// Most bytes of arguments and environment with their pointers. Linux: `ARG_MAX`.
pub const ARGS_BYTES_MAX: usize = 128 * 1024;

const WORD_BYTES: usize = 8;
/// The stack pointer's alignment at the entry.
const STACK_ALIGN: u64 = 16;

/// Keys of the auxiliary vector.
pub mod at {
    /// Ends the vector.
    pub const NULL: u64 = 0;
    /// Where the program headers are.
    pub const PHDR: u64 = 3;
    /// The size of one.
    pub const PHENT: u64 = 4;
    /// How many there are.
    pub const PHNUM: u64 = 5;
    /// The size of a page.
    pub const PAGESZ: u64 = 6;
    /// Where the interpreter is; 0 for none.
    pub const BASE: u64 = 7;
    /// Flags, 0.
    pub const FLAGS: u64 = 8;
    /// Where the program starts.
    pub const ENTRY: u64 = 9;
    /// Who runs it.
    pub const UID: u64 = 11;
    /// Effective user.
    pub const EUID: u64 = 12;
    /// Group.
    pub const GID: u64 = 13;
    /// Effective group.
    pub const EGID: u64 = 14;
    /// Name of the machine, a string.
    pub const PLATFORM: u64 = 15;
    /// What the CPU can do: CPUID 1, EDX.
    pub const HWCAP: u64 = 16;
    /// Clock ticks in a second, as `times` counts them.
    pub const CLKTCK: u64 = 17;
    /// Whether the program runs with more rights than its caller.
    pub const SECURE: u64 = 23;
    /// 16 random bytes.
    pub const RANDOM: u64 = 25;
    /// Path of the program, a string.
    pub const EXECFN: u64 = 31;
}

/// What goes on the stack.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The arguments, without their zero bytes.
    pub args: &'a [Vec<u8>],
    /// The environment, likewise.
    pub env: &'a [Vec<u8>],
    /// Path of the program.
    pub exec_path: &'a [u8],
    /// For stack protectors and the like.
    pub random: [u8; 16],
    /// Further pairs of the auxiliary vector; those that need an address are added.
    pub auxv: &'a [(u64, u64)],
}

/// The image, and where it goes.
#[derive(Debug)]
pub struct StackImage {
    /// The bytes, from the stack pointer upwards.
    pub bytes: Vec<u8>,
    /// The stack pointer at entry.
    pub pointer: u64,
    /// Where the argument strings are: for `/proc/PID/cmdline`.
    pub args: core::ops::Range<u64>,
}

impl StackImage {
    /// Lays `contents` out below `top`, which is page-aligned.
    ///
    /// # Errors
    /// When the kernel has no memory for the bytes.
    pub fn new(top: u64, contents: &Contents<'_>) -> Result<Self, TryReserveError> {
        const PLATFORM: &[u8] = b"x86_64";
        let Contents {
            args,
            env,
            exec_path,
            random,
            auxv,
        } = contents;
        let string_bytes = |list: &[Vec<u8>]| list.iter().map(|s| s.len() + 1).sum::<usize>();
        let strings_bytes = string_bytes(args)
            + string_bytes(env)
            + exec_path.len()
            + 1
            + PLATFORM.len()
            + 1
            + random.len();
        let nr_words = 1 + args.len() + 1 + env.len() + 1 + 2 * (auxv.len() + 4);
        // From the top: one zero word, the strings, padding, the words.
        let strings_at = top - (WORD_BYTES + strings_bytes) as u64;
        let pointer = (strings_at - (nr_words * WORD_BYTES) as u64) & !(STACK_ALIGN - 1);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(top - pointer).unwrap_or(usize::MAX))?;

        let mut at = strings_at;
        let mut place = |size_bytes: usize| {
            let here = at;
            at += size_bytes as u64;
            here
        };
        let mut word = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
        word(args.len() as u64);
        args.iter().for_each(|arg| word(place(arg.len() + 1)));
        word(0);
        let args_end = place(0);
        env.iter().for_each(|var| word(place(var.len() + 1)));
        word(0);
        let made = [
            (at::EXECFN, place(exec_path.len() + 1)),
            (at::PLATFORM, place(PLATFORM.len() + 1)),
            (at::RANDOM, place(random.len())),
            (at::NULL, 0),
        ];
        for &(key, value) in auxv.iter().chain(&made) {
            word(key);
            word(value);
        }
        bytes.resize(usize::try_from(strings_at - pointer).unwrap_or_default(), 0);
        for string in args
            .iter()
            .chain(env.iter())
            .map(Vec::as_slice)
            .chain([*exec_path, PLATFORM])
        {
            bytes.extend_from_slice(string);
            bytes.push(0);
        }
        bytes.extend_from_slice(random);
        bytes.extend_from_slice(&[0; WORD_BYTES]);
        Ok(Self {
            bytes,
            pointer,
            args: strings_at..args_end,
        })
    }
}

//! Becomes the crate `kmm-mutant` of the woven tree (`weave.rs`): which mutant runs, and which functions with mutants were reached.
//!
//! `KMM_MUTANT=17` runs mutant 17; `KMM_REACHED=file` writes, when the process ends, the processor time that it took, in hundredths of
//! a second, and the functions that were called. With a mutant the first panic of any thread ends the process.
#![feature(core_intrinsics, const_eval_select)]
#![allow(internal_features, reason = "constants are evaluated too")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// No mutant; functions are noted.
const NOTE: u32 = u32::MAX;
/// More than there are mutants.
const MOST: usize = 1 << 14;
static ACTIVE: AtomicU32 = AtomicU32::new(0);
static REACHED: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// The mutant that runs if it is one of the `nr` from `base`, else 0. What is evaluated when it is compiled is the original.
#[inline(always)]
pub const fn which(base: u32, nr: u32) -> u32 {
    core::intrinsics::const_eval_select((base, nr), original, active)
}

const fn original(_: u32, _: u32) -> u32 {
    0
}

#[inline(always)]
fn active(base: u32, nr: u32) -> u32 {
    let active = ACTIVE.load(Relaxed);
    if active.wrapping_sub(base) < nr {
        return active;
    }
    if active == NOTE {
        note(base);
    }
    0
}

#[cold]
fn note(base: u32) {
    REACHED[base as usize].store(true, Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    if let Ok(id) = std::env::var("KMM_MUTANT") {
        ACTIVE.store(id.parse().unwrap(), Relaxed);
        std::panic::set_hook(Box::new(|_| std::process::exit(101)));
    } else if std::env::var_os("KMM_REACHED").is_some() {
        ACTIVE.store(NOTE, Relaxed);
        // SAFETY: takes nothing, and touches only what lives for ever.
        unsafe { atexit(finish) };
    }
}

unsafe extern "C" {
    fn atexit(f: extern "C" fn()) -> i32;
}

extern "C" fn finish() {
    let Some(path) = std::env::var_os("KMM_REACHED") else {
        return;
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    let time: u64 = fields.skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    let mut text = format!("{time}\n");
    for (id, _) in REACHED.iter().enumerate().filter(|(_, it)| it.load(Relaxed)) {
        text += &format!("{id}\n");
    }
    std::fs::write(path, text).unwrap();
}

/// One of two iterators.
#[derive(Clone, Debug)]
pub enum Either<A, B> {
    Left(A),
    Right(B),
}

impl<A: Iterator, B: Iterator<Item = A::Item>> Iterator for Either<A, B> {
    type Item = A::Item;

    fn next(&mut self) -> Option<A::Item> {
        match self {
            Self::Left(a) => a.next(),
            Self::Right(b) => b.next(),
        }
    }
}

//! The kernel's own tests: `selftest` on the command line, or in the shell.
//!
//! Each module offers a table of [`Test`]s; [`GROUPS`] names the tables in the order in which they run.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};

use crate::arch::timer;
use crate::process;

mod arch_tests;
mod boot_tests;
mod random;

pub use random::Random;

/// Why a test failed.
#[derive(Clone, Debug)]
pub struct Failure(Cow<'static, str>);

impl From<&'static str> for Failure {
    fn from(why: &'static str) -> Self {
        Self(Cow::Borrowed(why))
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self(Cow::Owned(why))
    }
}

impl Failure {
    /// What did not work, as its error says it.
    pub fn of(error: impl ToString) -> Self {
        Self::from(error.to_string())
    }
}

/// What a test says.
pub type Outcome = Result<(), Failure>;

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// What it proves, in `snake_case`, with the module first: `arch::copy_of_a_bad_address_is_refused`.
    pub name: &'static str,
    /// Runs it, in the shell's thread, interrupts on.
    pub run: fn() -> Outcome,
}

/// All tables.
const GROUPS: &[&[Test]] = &[
    boot_tests::TESTS,
    arch_tests::TESTS,
    crate::mm::TESTS,
    crate::smp::TESTS,
    crate::process::TESTS,
    crate::fs::TESTS,
    crate::syscall::TESTS,
    crate::kasan::TESTS,
];

/// Fails the test, with a formatted reason, unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr) => {
        if !$condition {
            return Err($crate::selftest::Failure::from(concat!("not true: ", stringify!($condition))));
        }
    };
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err($crate::selftest::Failure::from(::alloc::format!($($arg)+)));
        }
    };
}

/// Runs every test whose name contains `filter`, prints a line for each and a summary. Returns how many failed.
pub fn run(filter: &str) -> usize {
    let started_ns = timer::now_ns();
    let (mut nr_passed, mut nr_failed) = (0, 0);
    for test in GROUPS
        .iter()
        .copied()
        .flatten()
        .filter(|test| test.name.contains(filter))
    {
        match (test.run)() {
            Ok(()) => {
                nr_passed += 1;
                println!("selftest {} ... ok", test.name);
            }
            Err(why) => {
                nr_failed += 1;
                println!("selftest {} ... FAILED: {}", test.name, why.0);
            }
        }
        process::reap_all();
    }
    let now_ns = timer::now_ns();
    println!(
        "selftest: {nr_passed} passed, {nr_failed} failed in {} ms",
        (now_ns - started_ns) / 1_000_000
    );
    println!("boot to summary: {} ms", now_ns / 1_000_000);
    nr_failed
}
